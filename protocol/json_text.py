"""JSON from strangers.

Python's decoder recurses once for each level of nesting, up to a limit that any library of the process may have raised
(py-evm does): a few kilobytes of brackets then overflow the C stack and end the process. Nothing of ours nests deeply,
so depth is counted before anything is decoded.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def parse_json(data: bytes | bytearray | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """As `json.loads`, for bytes in UTF-8. Raises ValueError, also for what nests deeper than `max_depth`."""
    encoded = data.encode() if isinstance(data, str) else bytes(data)
    depth = 0
    # Few opening brackets cannot nest deeply: most documents need no closer look.
    if encoded.count(b"[") + encoded.count(b"{") > max_depth:
        for mark in _MARK.finditer(encoded):
            first = encoded[mark.start()]
            if first in b"[{":
                depth += 1
                if depth > max_depth:
                    raise ValueError(f"nested deeper than {max_depth} levels")
            elif first in b"]}":
                depth -= 1
    return json.loads(encoded.decode("utf-8"))
