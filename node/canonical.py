"""Small JSON files that have one spelling, so that they have one CID."""

from __future__ import annotations

import json
import re
from typing import Any

from cupel.protocol.errors import MalformedInput

MAX_DEPTH = 8
"""Brackets within brackets; our files have three."""
_BRACKETS = re.compile(rb"[\[\]{}]")


def write_canonical(table: object) -> bytes:
    """Sorted keys, no spaces, ASCII."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_json(data: bytes, what: str, *, max_bytes: int) -> Any:
    """The value of a stranger's JSON.

    Raises MalformedInput, also for what nests deeply: the reader recurses on the C stack, and how deep it may go is a
    setting of the whole process, which libraries raise until the stack overflows
    """
    if len(data) > max_bytes:
        raise MalformedInput(f"{what}: {len(data):,} bytes; at most {max_bytes:,} are read")
    depth = 0
    for bracket in _BRACKETS.finditer(data):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > MAX_DEPTH:
            raise MalformedInput(f"{what}: nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(data)
    except ValueError as wrong:
        raise MalformedInput(f"{what}: not JSON ({wrong})") from None
