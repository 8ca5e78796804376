"""How close any function of any binary32 argument comes to where rounding changes: `python -m exhaustive.closest`.

An evaluation whose relative error is below that distance rounds as the true value does, for every argument. The
referee's kernels (docs/design/referee-arithmetic.md) rest on it: they have one precision and no loop of Ziv's.

The oracle's double-precision bound decides an argument only where the value lies more than 3 E off every tie, E being
at least 6 u of the value (oracle.py), so at least 18 * 2^-53 > 2^-49 of it. The distance of every other argument is
measured here with MPFR at 512 bits. Of a block with one answer it is measured at both ends: the function is monotonic
there. Exact values (f(0), log 1, infinities and the square root's) are not counted: they are special cases everywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import gmpy2
import numpy as np

from cupel.protocol.arithmetic.operations import Opcode
from exhaustive import mpfr
from exhaustive.checking import SHARDS, chunk_starts
from exhaustive.engines import CHUNK
from exhaustive.mpfr import INFINITY, SIGN
from exhaustive.oracle import BLOCK, FunctionOracle

NAMES = ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos")
BITS = 512
DECIDED = -49.0
"""log2 of the relative distance of which the bound alone is proof."""


@dataclass(frozen=True, slots=True, order=True)
class Closest:
    """One argument and how far its value lies from the nearest tie."""

    log2_distance: float
    """log2 of |f(x) - tie| / |f(x)|."""
    pattern: int


def distance(opcode: Opcode, pattern: int) -> Closest | None:
    """Of one argument; None where the value is exact, infinite or no number."""
    magnitude = pattern & ~SIGN
    exact = magnitude in (0, INFINITY) or (opcode == Opcode.LOG and pattern == mpfr.ONE)
    if exact or magnitude > INFINITY or (pattern & SIGN and opcode in mpfr.NO_NEGATIVES):
        return None
    value = mpfr.enclose(opcode, mpfr.value_of(pattern), BITS)[0]
    # Beyond every tie: the last is at 2^128 - 2^103, the first at 2^-150.
    if not 2.0**-152 < abs(float(value)) < 2.0**128:
        return None
    # Not abs(value): it would round to the 53 bits of the context.
    signed, exponent = (int(part) for part in value.as_mantissa_exp())
    mantissa = abs(signed)
    top = mantissa.bit_length() + exponent
    # In units of half the last place: ties are the odd numbers.
    halves = exponent - max(top - 24, -149) + 1
    scaled = gmpy2.mpq(mantissa) * (gmpy2.mpq(2) ** halves)
    odd = 2 * int(scaled // 2) + 1
    off = abs(scaled - odd)
    return Closest(float(gmpy2.log2(gmpy2.mpfr(off, 64) / gmpy2.mpfr(scaled, 64))), pattern)


def search(name: str, shard: int) -> tuple[list[Closest], int]:
    """The closest few of a shard of 2^24 arguments, and how many were measured."""
    opcode = Opcode[name.upper()]
    oracle = FunctionOracle(opcode)
    low, high = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    found: list[Closest] = []
    measured = 0
    for first in chunk_starts(shard):
        oracle.bound(first, low, high)
        places = set(np.flatnonzero(low != high).tolist())
        for start in range(0, CHUNK, BLOCK):
            if oracle.constant(first + start) is not None:
                places |= {start, start + 1, start + BLOCK - 1}
        for place in places:
            one = distance(opcode, first + place)
            measured += one is not None
            if one is not None and one.log2_distance < DECIDED:
                found.append(one)
    return sorted(found)[:8], measured


def render(name: str, found: list[Closest], measured: int) -> str:
    hardest = ", ".join(f"{one.pattern:#010x} 2^{one.log2_distance:.1f}" for one in found[:3])
    return f"{name:8} {measured:10,} {hardest or 'none closer than 2^-49'}"


@click.command()
@click.option("--function", "functions", multiple=True, type=click.Choice(NAMES), help="Default: every one.")
@click.option("--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write the table there too.")
def closest(functions: tuple[str, ...], processes: int, output: Path | None) -> None:
    """The arguments whose function values lie closest to a tie, over all 2^32."""
    lines = [
        "Closest to a tie between two binary32, over all 2^32 arguments, relative to the value (MPFR, 512 bits).",
        "",
    ]
    lines.append("function   measured closest")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for name in functions or NAMES:
            parts = list(pool.map(search, [name] * SHARDS, range(SHARDS)))
            found = sorted(one for part, _ in parts for one in part)
            lines.append(render(name, found, sum(measured for _, measured in parts)))
            print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if output is not None:
        output.write_text(text)


if __name__ == "__main__":
    closest()
