#!/usr/bin/env python3
"""Compile contracts/tests/Docket.sol into docket.json, or with --check compare: the court's tests need no compiler."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(__file__).with_name("docket.json")


def build() -> str:
    spec = importlib.util.spec_from_file_location("compile_contracts", ROOT / "contracts" / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = "tests/Docket.sol"
    sources = {name: (ROOT / "contracts" / name).read_text()}
    interface = "interfaces/IDisputable.sol"
    sources[interface] = (ROOT / "contracts" / interface).read_text()
    output = module.compile_sources(sources, ["abi", "evm.bytecode.object"])["contracts"][name]["Docket"]
    docket = {"abi": output["abi"], "bytecode": f"0x{output['evm']['bytecode']['object']}"}
    return json.dumps(docket, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit("docket.json is stale: run tests/vectors/generate_docket.py" if TARGET.read_text() != build() else 0)
    TARGET.write_text(build())
