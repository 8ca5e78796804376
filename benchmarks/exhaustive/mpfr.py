"""Single values: MPFR encloses the function between two numbers; when both round to one binary32, that is the answer.

MPFR rounds each of its functions correctly in the direction asked for, so the enclosure is rigorous. Rounding to
binary32 is done here on integers, with gradual underflow, and shares nothing with the definition it judges.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Any

import gmpy2

from cupel.protocol.arithmetic.operations import Opcode

NAN, INFINITY, SIGN, ONE, HALF = 0x7FC00000, 0x7F800000, 1 << 31, 0x3F800000, 0x3F000000
FIRST_BITS, MOST_BITS = 128, 1 << 14

SPECIAL: dict[Opcode, tuple[int, int, int, int]] = {
    #               +0, -0, +inf, -inf, as section 2 of the design has them
    Opcode.EXP: (ONE, ONE, INFINITY, 0),
    Opcode.LOG: (SIGN | INFINITY, SIGN | INFINITY, INFINITY, NAN),
    Opcode.TANH: (0, SIGN, ONE, SIGN | ONE),
    Opcode.SIGMOID: (HALF, HALF, ONE, 0),
    Opcode.ERF: (0, SIGN, ONE, SIGN | ONE),
    Opcode.SIN: (0, SIGN, NAN, NAN),
    Opcode.COS: (ONE, ONE, NAN, NAN),
    Opcode.RSQRT: (INFINITY, SIGN | INFINITY, 0, NAN),
    Opcode.SQRT: (0, SIGN, INFINITY, NAN),
}
NO_NEGATIVES = frozenset({Opcode.LOG, Opcode.RSQRT, Opcode.SQRT})

Context = Any
"""gmpy2's contexts; it ships no types for their methods."""


@functools.cache
def _contexts(bits: int) -> tuple[Context, Context]:
    down, up = gmpy2.RoundDown, gmpy2.RoundUp
    return gmpy2.context(precision=bits, round=down), gmpy2.context(precision=bits, round=up)


_DIRECT: dict[Opcode, Callable[[Context, Any], Any]] = {
    Opcode.EXP: lambda c, x: c.exp(x),
    Opcode.LOG: lambda c, x: c.log(x),
    Opcode.TANH: lambda c, x: c.tanh(x),
    Opcode.ERF: lambda c, x: c.erf(x),
    Opcode.SIN: lambda c, x: c.sin(x),
    Opcode.COS: lambda c, x: c.cos(x),
    Opcode.RSQRT: lambda c, x: c.rec_sqrt(x),
    Opcode.SQRT: lambda c, x: c.sqrt(x),
}


def enclose(opcode: Opcode, x: float, bits: int) -> tuple[Any, Any]:
    """(low, high) with low <= f(x) <= high, `bits` significant bits each; x finite, not 0, in the domain."""
    down, up = _contexts(bits)
    if opcode == Opcode.SIGMOID:
        # 1 / (1 + e^-x) falls as e^-x grows: every step is rounded the other way for the other end.
        minus, one = gmpy2.mpfr(-x, 53), gmpy2.mpfr(1, 53)
        return (
            down.div(one, up.add(one, up.exp(minus))),
            up.div(one, down.add(one, down.exp(minus))),
        )
    exact = gmpy2.mpfr(x, 53)
    return _DIRECT[opcode](down, exact), _DIRECT[opcode](up, exact)


def decide(opcode: Opcode, pattern: int) -> int:
    """The bits of the correctly rounded function of the binary32 with these bits."""
    magnitude = pattern & ~SIGN
    if magnitude > INFINITY:
        return NAN
    if magnitude in (0, INFINITY):
        return SPECIAL[opcode][(2 if magnitude else 0) + (pattern >> 31)]
    if pattern & SIGN and opcode in NO_NEGATIVES:
        return NAN
    x = value_of(pattern)
    bits = FIRST_BITS
    while bits <= MOST_BITS:
        low, high = (nearest(v) for v in enclose(opcode, x, bits))
        if low == high:
            return low
        bits *= 2
    raise AssertionError(f"{opcode.name} of {pattern:#010x}: not decided by {MOST_BITS} bits")


def nearest(value: Any) -> int:
    """The bits of the binary32 nearest to a number of MPFR, ties to even."""
    if gmpy2.is_zero(value):
        return SIGN if gmpy2.is_signed(value) else 0
    if gmpy2.is_infinite(value):
        return INFINITY | (SIGN if gmpy2.is_signed(value) else 0)
    mantissa, exponent = (int(part) for part in value.as_mantissa_exp())
    sign, m = (SIGN, -mantissa) if mantissa < 0 else (0, mantissa)
    top = m.bit_length() + exponent  # 2^(top - 1) <= m 2^exponent < 2^top
    if top > 128:
        return sign | INFINITY
    if top < -150:
        return sign
    quantum = max(top - 24, -149)
    shift = quantum - exponent
    if shift <= 0:
        n = m << -shift
    else:
        n, rest = divmod(m, 1 << shift)
        half = 1 << shift - 1
        n += rest > half or (rest == half and n & 1)
    # A leading bit of n in place 23 adds one to the exponent's field; so does a carry beyond it.
    return sign | min(n + (quantum + 149 << 23), INFINITY)


def value_of(pattern: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", pattern))[0])


def is_between(low: int, pattern: int, high: int) -> bool:
    """Whether low <= pattern <= high as numbers; NaN only equals itself."""
    a, x, b = (value_of(p) for p in (low, pattern, high))
    return low == pattern == high if math.isnan(x) else a <= x <= b
