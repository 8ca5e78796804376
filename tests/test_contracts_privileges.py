"""Nobody has a key to anything: what the shipped code can do, read from its instructions and its interface.

A contract that could be changed, stopped or emptied by somebody would need an instruction that runs other code on its
storage or removes it, or a function that only somebody may call. Both are visible in the artifacts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ARTIFACTS = sorted((Path(__file__).resolve().parent.parent / "chain" / "artifacts").glob("*.json"))
CALLCODE, DELEGATECALL, SELFDESTRUCT = 0xF2, 0xF4, 0xFF
JUMPDEST = 0x5B
ENDS = {0x00, 0x56, 0xF3, 0xFD, 0xFE, SELFDESTRUCT}  # STOP, JUMP, RETURN, REVERT, INVALID
# What owners, administrators and proxies are given everywhere.
PRIVILEGED = re.compile(
    r"^_?(set|add|remove|change|update|grant|revoke|renounce|transferOwnership|accept(Owner|Admin|Ownership)|owner|admin"
    r"|governor|guardian|operator|pause|unpause|freeze|unfreeze|blacklist|whitelist|kill|destroy|destruct|upgrade|init"
    r"|initialize|implementation|proxy|rescue|recover|sweep|skim|emergency|migrate|mint|burnFrom|seize|confiscate"
    r"|setUp|execute|multicall|permit)([A-Z_]|$)"
)
# What one address alone may call: a token's run, which deployed it. What a run's court may do, the run's tests check.
BOUND = {("Token", "mint")}


def load(path: Path) -> dict[str, Any]:
    artifact: dict[str, Any] = json.loads(path.read_text())
    return artifact


def instructions(code: bytes) -> list[int]:
    """The opcodes that can be reached: from the first byte, or a JUMPDEST, to what ends a block. What is pushed, and
    what lies behind the code (tables, messages), is none, unless it looks like a block.
    """
    found, at, reached = [], 0, True
    while at < len(code):
        opcode = code[at]
        reached = reached or opcode == JUMPDEST
        if reached:
            found.append(opcode)
        reached = reached and opcode not in ENDS
        at += 1 + (opcode - 0x5F if 0x60 <= opcode <= 0x7F else 0)
    return found


@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.stem)
def test_no_function_is_one_that_owners_have(path: Path) -> None:
    functions = {entry["name"] for entry in load(path)["abi"] if entry["type"] == "function"}
    privileged = {name for name in functions if PRIVILEGED.match(name)}
    assert {(path.stem, name) for name in privileged} <= BOUND


@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.stem)
def test_no_code_runs_other_code_on_its_storage_or_removes_itself(path: Path) -> None:
    code = instructions(bytes.fromhex(load(path)["deployedBytecode"].removeprefix("0x")))
    counts = {opcode: code.count(opcode) for opcode in (CALLCODE, DELEGATECALL, SELFDESTRUCT)}
    # A run's two halves: one call for what it has not itself, one for the phases that are due. Both to an immutable.
    assert counts == {CALLCODE: 0, DELEGATECALL: 2 if path.stem == "Run" else 0, SELFDESTRUCT: 0}


def test_both_checks_see_what_they_are_for() -> None:
    for name in ("owner", "transferOwnership", "setFee", "pause", "upgradeTo", "initialize", "mint", "rescueFunds"):
        assert PRIVILEGED.match(name), name
    for name in ("settled", "address", "advance", "ownerless", "mintable", "openSegment"):
        assert not PRIVILEGED.match(name), name
    # PUSH2 0xFFF4, DELEGATECALL, STOP, and data: what is pushed is no instruction, nor what follows a STOP.
    assert instructions(bytes.fromhex("61fff4f400ff")) == [0x61, DELEGATECALL, 0x00]
    assert instructions(bytes.fromhex("005bff")) == [0x00, JUMPDEST, SELFDESTRUCT]
