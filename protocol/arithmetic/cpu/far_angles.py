"""Angles of 2^20 and more, reduced by Payne and Hanek's method.

x = m 2^q with |m| < 2^24, -3 <= q <= 104. Of 2/pi 2^q only its value modulo 4 matters, because m is an integer; it is
tabulated for each q as p1 + p2 + p3: multiples of 2^-26 and of 2^-54, at most 28 bits each, and a double below 2^-54.
So m p1 and m p2 are exact, as are the two roundings to an integer and what they leave (or off by 2^-55 where a quarter
or more is left). No binary32 lies closer than 2^-29.2 to a multiple of pi/2 (Muller, "Elementary Functions", 3rd ed.,
table 11.1), so of the fraction at least 2^-30 is left, against which an error of 2^-82 in m p3 leaves r the relative
precision 2^-50 that the margin of sin and cos asks for. `make exhaustive` finds it so for every argument.
"""

from __future__ import annotations

import functools
import math
from decimal import Decimal

from cupel.protocol.arithmetic.cpu.ir import Function, Value, vector

FIRST = 20
"""Log2 of the smallest magnitude in the table."""
_ROWS = 128 - FIRST
_MANTISSA = 23
_SCALE = 283
"""Binary places of 2/pi that the table is cut from: 104 + 2 of them go to multiples of 4, 107 to p1, p2, p3."""
_MAGIC = 1.5 * 2.0**52


@functools.cache
def _table(two_over_pi: Decimal) -> tuple[float, ...]:
    """Rows of 2^-q, p1, p2, p3. `two_over_pi` has 90 digits."""
    # Not by Decimal's own arithmetic, which would round to the context's 28 digits.
    numerator, denominator = two_over_pi.as_integer_ratio()
    fraction = (numerator << _SCALE) // denominator
    rows: list[float] = []
    for row in range(_ROWS):
        q = row + FIRST - _MANTISSA
        shifted = fraction << q if q >= 0 else fraction >> -q
        rest = shifted % (4 << _SCALE)
        rows.append(math.ldexp(1.0, -q))
        for places in (26, 54):
            part = rest >> _SCALE - places
            rest -= part << _SCALE - places
            rows.append(math.ldexp(float(part), -places))
        rows.append(math.ldexp(float(rest), -_SCALE))
    return tuple(rows)


def reduce_far(f: Function, lanes: int, x: Value, two_over_pi: Decimal) -> tuple[Value, Value]:
    """(r, quadrant in the lowest two bits): x = quadrant pi/2 + r, |r| <= pi/4 + 2^-20, for binary32 numbers, held as
    doubles, of magnitude 2^20 and more; r is NaN for infinities. Other lanes hold anything."""
    double, integer = vector(lanes, "double"), vector(lanes, "i64")
    table = f.module.table(f, "two_over_pi", _table(two_over_pi))
    row = (x.as_bits().lshr(52) & 0x7FF) - (1023 + FIRST)
    row = f.intrinsic("smin", f.intrinsic("smax", row, f.const(integer, 0)), f.const(integer, _ROWS - 1))
    rows = [table.offset("double", row.extract(lane) * 4) for lane in range(lanes)]

    def column(number: int) -> Value:
        value = f.poison(double)
        for lane, start in enumerate(rows):
            value = value.insert(f.load("double", start.offset("double", number), align=8), lane)
        return value

    m = x * column(0)
    product = m * column(1)
    t = product + _MAGIC
    left = (product - (t - _MAGIC)) + m * column(2)
    again = left + _MAGIC
    left = (left - (again - _MAGIC)) + m * column(3)
    return left * (math.pi / 2), t.as_bits() + again.as_bits()
