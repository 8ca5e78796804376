#!/usr/bin/env python3
"""Compile the contracts into chain/artifacts/, or check that what is committed is what the sources give.

    python contracts/compile.py            write those chain/artifacts/*.json whose sources have changed
    python contracts/compile.py --check    compile everything; exit 1 and say which artifact differs

Needs Node.js and `npm install` in contracts/. Running the network needs neither: the artifacts are committed.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
ARTIFACTS = ROOT.parent / "chain" / "artifacts"
COMPILER = ROOT / "solc.cjs"
CONTRACTS = (
    "Run",
    "RunRules",
    "RunLens",
    "Token",
    "PrevrandaoBeacon",
    "ScriptedBeacon",
    "Evaluator",
    "FunctionEvaluator",
    "TermsEvaluator",
    "Court",
    "Clerk",
)
MAX_CODE_BYTES = 24_576
MAX_CREATION_BYTES = 49_152
SETTINGS: dict[str, Any] = {
    "viaIR": True,
    # One run: the smallest code. What these contracts spend is storage, not arithmetic.
    "optimizer": {"enabled": True, "runs": 1},
    "evmVersion": "cancun",
    # No hash of sources or paths in the code: the same sources give the same bytes anywhere.
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
}
OUTPUTS = [
    "abi",
    "evm.bytecode.object",
    "evm.deployedBytecode.object",
    "evm.deployedBytecode.immutableReferences",
]
ANSWERED_WARNINGS = {
    # Transient storage breaks what calls a contract several times in one transaction and leaves it set. A reentrancy
    # guard, cleared at the end of every call, is the use the warning itself calls safe; nothing else here stores so.
    "2394",
}
_IMPORT = re.compile(r'^import\s+(?:[^"]*?from\s+)?"([^"]+)";', re.MULTILINE)


class CompileError(Exception):
    """The compiler, or what it needs, refused; the message says what to do."""


def read_sources(entries: tuple[str, ...], *, packages: bool = True) -> dict[str, str]:
    """Sources by the name they are imported under, the entries and everything they import.

    entries   names of contracts in contracts/, or paths from here that end with .sol
    packages  with what comes from node_modules
    """
    sources: dict[str, str] = {}
    waiting = [name if name.endswith(".sol") else f"contracts/{name}.sol" for name in entries]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = ROOT / "node_modules" / name if name.startswith("@") else ROOT / name
        if not path.is_file():
            raise CompileError(f"{path} is missing: run `npm install` in {ROOT}")
        sources[name] = path.read_text()
        for target in _IMPORT.findall(sources[name]):
            if packages or target.startswith("."):
                waiting.append(_resolve(name, target))
    return dict(sorted(sources.items()))


def _resolve(importer: str, target: str) -> str:
    if not target.startswith("."):
        return target
    parts = importer.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


@functools.cache
def compile_contract(name: str) -> dict[str, Any]:
    """The compiler's output for one contract, alone with what it imports: what else is compiled with it can change its
    bytes, because the compiler names and orders functions by numbers it gives to everything it reads.
    """
    unit = f"contracts/{name}.sol"
    answer = compile_sources(read_sources((name,)), OUTPUTS, {unit: name})
    output: dict[str, Any] = answer["contracts"][unit][name]
    return output


def compile_sources(sources: dict[str, str], outputs: list[str], of: dict[str, str] | None = None) -> dict[str, Any]:
    """The compiler's standard JSON output, of all contracts or these by source. Errors and warnings: CompileError."""
    wanted = {"*": "*"} if of is None else of
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": {**SETTINGS, "outputSelection": {unit: {name: outputs} for unit, name in wanted.items()}},
    }
    return ask(request)


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """The compiler's answer to a request in standard JSON. Errors and warnings: CompileError."""
    if shutil.which("node") is None:
        raise CompileError("Node.js is missing: install it (version 20 or newer), then run `npm install` in contracts/")
    command = ["node", str(COMPILER)]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(
            f"the compiler did not run (is `npm install` done in contracts/?): {done.stderr.strip()[-800:]}"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    problems = [
        problem["formattedMessage"]
        for problem in answer.get("errors", [])
        if problem["severity"] != "info" and problem.get("errorCode") not in ANSWERED_WARNINGS
    ]
    if problems:
        raise CompileError("\n".join(problems))
    return answer


@functools.cache
def compiler_version() -> str:
    done = subprocess.run(["node", str(COMPILER), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().rsplit("Version: ", 1)[1]


def source_hash(name: str) -> str:
    """Of the sources a contract is made from, the settings, and the pinned compiler and libraries: computed without any
    of them installed. What the contract does not import leaves its artifact as it is.
    """
    # A run's interface is that of its rules too.
    sources = read_sources(("Run", "RunRules") if name == "Run" else (name,), packages=False)
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    pins = {name: packages[f"node_modules/{name}"]["integrity"] for name in ("@openzeppelin/contracts", "solc")}
    return hashlib.sha256(json.dumps([sources, pins, SETTINGS], sort_keys=True).encode()).hexdigest()


def join_abis(run: list[dict[str, Any]], rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run answers for its rules too: what its fallback passes on, and every error and event of either."""
    entries = [entry for entry in run if entry["type"] != "fallback"]
    own = {json.dumps(entry, sort_keys=True) for entry in entries}
    others = [entry for entry in rules if entry["type"] != "constructor" and entry.get("name") != "parametersHash"]
    return entries + [entry for entry in others if json.dumps(entry, sort_keys=True) not in own]


def build(name: str) -> str:
    """The text of a contract's artifact."""
    output = compile_contract(name)
    code, creation = output["evm"]["deployedBytecode"], output["evm"]["bytecode"]["object"]
    for what, size, limit in (
        ("code", len(code["object"]) // 2, MAX_CODE_BYTES),
        ("creation code", len(creation) // 2, MAX_CREATION_BYTES),
    ):
        if size > limit:
            raise CompileError(f"{name}: {what} of {size} bytes, the limit is {limit}")
    artifact = {
        "contractName": name,
        "abi": output["abi"],
        "bytecode": f"0x{creation}",
        "deployedBytecode": f"0x{code['object']}",
        "immutableReferences": code["immutableReferences"],
        "compiler": {"version": compiler_version(), "settings": SETTINGS},
        "sourceHash": source_hash(name),
    }
    if name == "Run":
        artifact["abi"] = join_abis(output["abi"], compile_contract("RunRules")["abi"])
    return json.dumps(artifact, indent=1, sort_keys=True) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    for name in CONTRACTS:
        path = ARTIFACTS / f"{name}.json"
        text = path.read_text() if path.is_file() else ""
        try:
            if check or not text or json.loads(text).get("sourceHash") != source_hash(name):
                text = build(name)
        except CompileError as error:
            print(error, file=sys.stderr)
            return 1
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
        code, creation = (len(json.loads(text)[key]) // 2 - 1 for key in ("deployedBytecode", "bytecode"))
        print(f"{name:18} {code:6} bytes of {MAX_CODE_BYTES}, creation {creation:6} of {MAX_CREATION_BYTES}")
    if stale and check:
        print(f"differ from the sources: {', '.join(stale)}; run contracts/compile.py and commit", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
