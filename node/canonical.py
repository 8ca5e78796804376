"""Small JSON files that have one spelling, so that they have one CID."""

from __future__ import annotations

import json
from typing import Any

from cupel.protocol.errors import MalformedInput
from cupel.protocol.json_text import parse_json

MAX_DEPTH = 8
"""Brackets within brackets; our files have three."""


def write_canonical(table: object) -> bytes:
    """Sorted keys, no spaces, ASCII."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def read_json(data: bytes, what: str, *, max_bytes: int) -> Any:
    """The value of a stranger's JSON. Raises MalformedInput, also for what nests deeply."""
    if len(data) > max_bytes:
        raise MalformedInput(f"{what}: {len(data):,} bytes; at most {max_bytes:,} are read")
    try:
        return parse_json(data, max_depth=MAX_DEPTH)
    except ValueError as wrong:
        raise MalformedInput(f"{what}: not JSON ({wrong})") from None
