#!/usr/bin/env python3
"""Slither over the contracts: exits 1 and prints every finding that nobody has answered.

    python contracts/analyse.py

A finding is answered beside the code, by `// slither-disable-next-line DETECTOR` below a comment that says why it is
none. Needs slither-analyzer (the `dev` extra), Node.js and `npm install` in contracts/.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import compile as compiler

ROOT = Path(__file__).resolve().parent
BUILD = ROOT.parent / "build" / "slither"
PACKAGES = "node_modules"
# Detectors of taste, or that list what there is instead of finding anything.
LEFT_OUT = {
    "naming-convention": "immutables are in capitals here, and what would shadow a function ends with an underscore",
    "assembly": "lists every block of assembly; each says above it why it is there",
    "low-level-calls": "lists every plain call; each one's answer is checked, and it comes after every effect",
    "incorrect-equality": "for balances, which nothing here compares; heights and stored words are meant exactly",
    "too-many-digits": "float constants are bit patterns, longest where they are read most often",
}


def write_build() -> None:
    """What Forge would write after a compilation, without the code: that would take most of the time."""
    sources = {
        f"{PACKAGES}/{name}" if name.startswith("@") else name: {"content": text}
        for name, text in compiler.read_sources(compiler.CONTRACTS).items()
    }
    request = {
        "language": "Solidity",
        "sources": sources,
        "settings": {
            **compiler.SETTINGS,
            "remappings": [f"@openzeppelin/={PACKAGES}/@openzeppelin/"],
            "outputSelection": {"*": {"": ["ast"], "*": ["abi"]}},
        },
    }
    answer = compiler.ask(request)
    nothing = {"object": "", "sourceMap": ""}
    for contracts in answer["contracts"].values():
        for contract in contracts.values():
            contract["evm"] = {"bytecode": nothing, "deployedBytecode": nothing}
    folder = BUILD / "build-info"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    version = compiler.compiler_version().partition("+")[0]
    (folder / "contracts.json").write_text(json.dumps({"solcVersion": version, "input": request, "output": answer}))


def analyse() -> int:
    """Slither's exit status: 0 where nothing is unanswered."""
    # It asks Forge for the project's folders, and runs it for nothing else.
    environment = {**os.environ, "PATH": os.pathsep.join([str(ROOT / PACKAGES / ".bin"), os.environ["PATH"]])}
    command = [sys.executable, "-m", "slither", ".", "--ignore-compile", "--foundry-out-directory", str(BUILD)]
    command += ["--compile-force-framework", "foundry", "--exclude-dependencies", "--filter-paths", PACKAGES]
    command += ["--exclude", ",".join(LEFT_OUT), "--fail-pedantic"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    try:
        write_build()
    except compiler.CompileError as error:
        print(error, file=sys.stderr)
        return 1
    return analyse()


if __name__ == "__main__":
    sys.exit(main())
