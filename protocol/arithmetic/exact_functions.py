"""Correctly rounded exp, log, tanh, sigmoid, erf, sin, cos, rsqrt and sqrt, on Python integers alone.

Each function is enclosed between two integers times a power of two; when both round to the same binary32 that is the
answer, else the precision doubles (Ziv). This ends, because except at the arguments treated first (0, infinities,
log 1) every value is transcendental: exp, log, tanh, sigmoid, sin, cos by Lindemann and Weierstrass, erf by Siegel
and Shidlovsky; so none lies on a tie. Square roots are decided exactly. Sources: Ziv, "Fast evaluation of elementary
mathematical functions with correctly rounded last bit", 1991; Muller, "Elementary Functions", 3rd ed.

Fixed point: an integer v at precision p stands for v 2^-p. Floor divisions lose less than one unit each; the bounds
`_SLACK` charge far more units than there are divisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

from cupel.protocol.arithmetic.binary32 import (
    INFINITY,
    NAN,
    ONE,
    SIGN,
    decode,
    is_infinite,
    is_nan,
    is_zero,
    reciprocal_square_root,
    round_dyadic,
    square_root,
)
from cupel.protocol.arithmetic.operations import Opcode

_START_BITS = 256
"""First precision: results reach down to 2^-150, so this leaves 100 bits to decide by."""
_GUARD = 32
_SLACK = 1 << 16
"""Units of the guarded precision granted for all floor divisions of a series of at most a few hundred terms."""
_HALF = 0x3F000000


@dataclass(frozen=True, slots=True)
class _Enclosure:
    """low 2^exponent <= value <= high 2^exponent."""

    low: int
    high: int
    exponent: int


@lru_cache(maxsize=1 << 16)
def exact(opcode: Opcode, bits: int) -> int:
    """The correctly rounded function of one binary32 bit pattern, as a bit pattern."""
    if is_nan(bits):
        return NAN
    if opcode == Opcode.SQRT:
        return square_root(bits)
    if opcode == Opcode.RSQRT:
        return reciprocal_square_root(bits)
    known = _exact_value(opcode, bits)
    if known is not None:
        return known
    m, q = decode(bits)
    enclose = _ENCLOSURES[opcode]
    precision = _START_BITS
    while True:
        between = enclose(m, q, precision)
        low = round_dyadic(between.low < 0, abs(between.low), between.exponent)
        high = round_dyadic(between.high < 0, abs(between.high), between.exponent)
        if low == high:
            return low
        precision *= 2


def _exact_value(opcode: Opcode, bits: int) -> int | None:
    """Values at zeros and infinities, outside the domain, and where the result is known without a series."""
    sign = bits & SIGN
    negative, infinite, zero = sign != 0, is_infinite(bits), is_zero(bits)
    # Magnitudes compare as their bit patterns do.
    above = bits & ~SIGN
    if opcode == Opcode.EXP:
        if zero:
            return ONE
        if above >= 0x42D00000:  # |x| >= 104: e^104 > 2^150
            return 0 if negative else INFINITY
    elif opcode == Opcode.LOG:
        if zero:
            return SIGN | INFINITY
        if negative:
            return NAN
        if infinite or bits == ONE:
            return INFINITY if infinite else 0
    elif opcode == Opcode.TANH:
        if zero:
            return bits
        if above >= 0x41800000:  # |x| >= 16: 1 - tanh < 2^-45
            return sign | ONE
    elif opcode == Opcode.SIGMOID:
        if zero:
            return _HALF
        if above >= 0x42D00000:  # |x| >= 104
            return 0 if negative else ONE
    elif opcode == Opcode.ERF:
        if zero:
            return bits
        if above >= 0x40C00000:  # |x| >= 6: 1 - erf < 2^-55
            return sign | ONE
    elif opcode == Opcode.SIN:
        if zero:
            return bits
        if infinite:
            return NAN
    elif opcode == Opcode.COS:
        if zero:
            return ONE
        if infinite:
            return NAN
    else:
        raise AssertionError(f"{opcode.name} is not a function of one number")
    return None


def _fixed(m: int, q: int, precision: int) -> int:
    """floor(m 2^q) at `precision`."""
    shift = q + precision
    return m << shift if shift >= 0 else m >> -shift


@lru_cache(maxsize=16)
def _pi(precision: int) -> int:
    """pi, less than one unit off. Machin: pi = 16 arctan(1/5) - 4 arctan(1/239)."""
    work = precision + _GUARD
    return 16 * _arc_tangent_of_inverse(5, work, -1) - 4 * _arc_tangent_of_inverse(239, work, -1) >> _GUARD


@lru_cache(maxsize=16)
def _ln2(precision: int) -> int:
    """log 2, less than one unit off: 2 artanh(1/3)."""
    return 2 * _arc_tangent_of_inverse(3, precision + _GUARD, 1) >> _GUARD


def _arc_tangent_of_inverse(n: int, precision: int, sign: int) -> int:
    """arctan(1/n) for sign -1, artanh(1/n) for sign 1, within `precision` units."""
    power = (1 << precision) // n
    total, k = power, 1
    while power:
        power //= n * n
        k += 2
        total += (sign if k & 2 else 1) * (power // k)
    return total


def _enclose_exp(m: int, q: int, precision: int) -> _Enclosure:
    """e^x, x = m 2^q of magnitude below 2^9: e^x = 2^k e^r with |r| <= 0.35."""
    work = precision + _GUARD
    x, ln2 = _fixed(m, q, work), _ln2(work)
    k = (2 * x + ln2) // (2 * ln2)
    r = x - k * ln2  # off by |k| + 1 < 2^10 units
    term = total = 1 << work
    n = 0
    while term not in (0, -1):
        n += 1
        term = (term * r >> work) // n
        total += term
    return _Enclosure(total - _SLACK, total + _SLACK, k - work)


def _enclose_log(m: int, q: int, precision: int) -> _Enclosure:
    """log x = k log 2 + 2 artanh u, u = (z - 1)/(z + 1), x = z 2^k, z in [3/4, 3/2)."""
    work = precision + _GUARD
    k = m.bit_length() + q
    numerator, denominator = m, 1 << m.bit_length()  # z in [1/2, 1)
    if 4 * numerator < 3 * denominator:
        numerator, k = 2 * numerator, k - 1
    u = (numerator - denominator << work) // (numerator + denominator)
    square = u * u >> work
    power, total, n = u, u, 1
    while power not in (0, -1):
        power = power * square >> work
        n += 2
        total += power // n
    total = 2 * total + k * _ln2(work)
    return _Enclosure(total - _SLACK, total + _SLACK, -work)


def _enclose_tanh(m: int, q: int, precision: int) -> _Enclosure:
    """tanh x = (1 - t)/(1 + t), t = e^-2x, for x > 0; odd. |x| < 16."""
    work = precision + _GUARD
    t_low, t_high = _bounds(_enclose_exp(-abs(m), q + 1, precision), work)
    one = 1 << work
    low = (one - t_high << work) // (one + t_high)
    high = -(-(one - t_low << work) // (one + t_low))
    return _Enclosure(low, high, -work) if m > 0 else _Enclosure(-high, -low, -work)


def _enclose_sigmoid(m: int, q: int, precision: int) -> _Enclosure:
    """1/(1 + t), t = e^-x. |x| < 104."""
    work = precision + _GUARD
    t_low, t_high = _bounds(_enclose_exp(-m, q, precision), work)
    one = 1 << work
    return _Enclosure((one << work) // (one + t_high), -(-(one << work) // (one + t_low)), -work)


def _bounds(between: _Enclosure, precision: int) -> tuple[int, int]:
    """The enclosure in fixed point, rounded outwards."""
    shift = between.exponent + precision
    if shift >= 0:
        return between.low << shift, between.high << shift
    return between.low >> -shift, -(-between.high >> -shift)


def _enclose_erf(m: int, q: int, precision: int) -> _Enclosure:
    """erf x = 2/sqrt(pi) e^(-x^2) S, S = sum of t_n, t_0 = x, t_n+1 = t_n 2x^2/(2n + 3), all positive. |x| < 6.

    At 384 bits or more x and 2x^2 are exact. A unit lost at one term grows with the following ones by at most
    S/x <= e^36 < 2^52; with fewer than 2^11 terms all losses and the tail stay below 2^64 units.
    """
    work = precision + 128
    x, twice_square = _fixed(abs(m), q, work), _fixed(m * m, 2 * q + 1, work)
    term = total = x
    n = 0
    while term:
        term = term * twice_square // (2 * n + 3) >> work
        total += term
        n += 1
    between = _enclose_exp(-m * m, 2 * q, precision)
    root = isqrt((4 << 3 * work) // _pi(work))  # 2/sqrt(pi), off by less than 2 units
    low = total * (root - 2) * between.low
    high = (total + (1 << 64)) * (root + 2) * between.high
    exponent = between.exponent - 2 * work
    return _Enclosure(low, high, exponent) if m > 0 else _Enclosure(-high, -low, exponent)


def _reduce_angle(m: int, q: int, precision: int) -> tuple[int, int]:
    """(r, n mod 4) with x = r + n pi/2, |r| <= pi/4; r at `precision`, within 2 units."""
    extra = max(0, abs(m).bit_length() + q) + 8  # n has no more bits than that
    work = precision + extra
    x, quarter = _fixed(m, q, work), _pi(work + 1) >> 2  # pi/2
    n = (2 * x + quarter) // (2 * quarter)
    return x - n * quarter >> extra, n & 3


def _sine_and_cosine(r: int, precision: int) -> tuple[int, int]:
    """Taylor series at |r| <= 0.8."""
    sums = [0, 0]
    term, n = 1 << precision, 0
    while term not in (0, -1):
        sums[n & 1] += -term if n & 2 else term
        n += 1
        term = (term * r >> precision) // n
    return sums[1], sums[0]


def _enclose_sin(m: int, q: int, precision: int) -> _Enclosure:
    return _enclose_shifted_sine(m, q, precision, 0)


def _enclose_cos(m: int, q: int, precision: int) -> _Enclosure:
    return _enclose_shifted_sine(m, q, precision, 1)


def _enclose_shifted_sine(m: int, q: int, precision: int, quarters: int) -> _Enclosure:
    """sin(x + quarters pi/2)."""
    work = precision + _GUARD
    r, n = _reduce_angle(m, q, work)
    sine, cosine = _sine_and_cosine(r, work)
    value = (sine, cosine, -sine, -cosine)[(n + quarters) % 4]
    return _Enclosure(value - _SLACK, value + _SLACK, -work)


_ENCLOSURES: dict[Opcode, Callable[[int, int, int], _Enclosure]] = {
    Opcode.EXP: _enclose_exp,
    Opcode.LOG: _enclose_log,
    Opcode.TANH: _enclose_tanh,
    Opcode.SIGMOID: _enclose_sigmoid,
    Opcode.ERF: _enclose_erf,
    Opcode.SIN: _enclose_sin,
    Opcode.COS: _enclose_cos,
}
