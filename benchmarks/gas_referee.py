#!/usr/bin/env python3
"""Gas of the referee's arithmetic, function by function, on py-evm.

    python benchmarks/gas_referee.py             print the table
    python benchmarks/gas_referee.py --write     and write contracts/gas-referee.json

Of functions of numbers: the largest over the stored vectors' arguments, hard ones among them, with the dispatch of the
harness (some hundred gas). Of rows: one call of the harness from within, so with the call, its copy of the calldata
and the decoding, but without the transaction that brings the bytes in (40 gas each at least, by EIP-7623).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from referee_harness import harness
from referee_kernels import (
    COUNT_BEFORE,
    DOT,
    DOT_OF_PLANES,
    EXPONENT,
    EXPONENT_SCALED,
    FIRST,
    INTEGER_SUM,
    SUM,
    Row,
    Scalars,
    all_groups,
)

from cupel.protocol.arithmetic.cases import Words
from cupel.protocol.arithmetic.operations import DType

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "contracts" / "gas-referee.json"
NUMBERS = (
    *("add", "mul", "div", "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "erf", "sin", "cos"),
    *("round scaled", "quantize 3 digits plane 1", "quantize scaled 3 digits plane 1", "round dot", "term", "word64"),
)
LENGTHS = (1024, 16384)
CASES = 24
"""Of each function: its first, spread evenly, so that every kind of argument is met."""


def measure(lengths: Sequence[int] = LENGTHS) -> dict[str, int]:
    """Gas by function, and by length of rows."""
    result = {}
    for group in all_groups(1, 4):
        if isinstance(group, Scalars) and group.name in NUMBERS:
            spread = group.arguments[:: max(len(group.arguments) // CASES, 1)]
            few = Scalars(
                library=group.library, name=group.name, code=group.code, arguments=spread, expected=(0,) * len(spread)
            )
            result[group.name] = max(harness().gas_of(few))
    words = Words(5)
    for length in lengths:
        floats = b"".join(v.to_bytes(4, "little") for v in words.ordinary(length))
        shorts = [b"".join(words.below(1 << 16).to_bytes(2, "little") for _ in range(length)) for _ in range(4)]
        scales = b"".join((words.below(20) + 1).to_bytes(4, "little") for _ in range(length))
        rows: tuple[tuple[str, int, tuple[bytes, ...], tuple[int, ...]], ...] = (
            ("exponent", EXPONENT, (floats,), ()),
            ("exponent scaled", EXPONENT_SCALED, (floats, scales), ()),
            ("dot", DOT, tuple(shorts[:2]), ()),
            ("dot of planes", DOT_OF_PLANES, tuple(shorts), ()),
            ("sum", SUM, (floats,), ()),
            ("sum of int64", INTEGER_SUM, (floats * 2,), (DType.INT64,)),
            ("first float", FIRST, (floats,), (DType.FLOAT32, 1)),
            ("count of floats before", COUNT_BEFORE, (floats,), (0, 0x3F800000, 0, DType.FLOAT32, 1)),
        )
        for name, code, held, numbers in rows:
            row = Row(library="", name=name, code=code, rows=held, count=length, numbers=numbers, expected=(0, 0))
            result[f"{name}, {length:,}"] = harness().gas_of(row)[0]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the snapshot")
    write = parser.parse_args().write
    table = measure()
    for name, gas in table.items():
        print(f"{name:36} {gas:12,}")
    if write:
        SNAPSHOT.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
