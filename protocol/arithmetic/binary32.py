"""IEEE-754 binary32 as Python integers: a number is its bit pattern, rounding works on exact integers.

Every rounding of the definition goes through `round_dyadic`.
"""

from __future__ import annotations

from math import isqrt

NAN = 0x7FC00000
"""The only NaN there is."""
INFINITY = 0x7F800000
SIGN = 0x80000000
MAGNITUDE = 0x7FFFFFFF
ONE = 0x3F800000

LOWEST_EXPONENT = -149
"""The smallest positive number is 2^-149."""
PRECISION = 24


def is_nan(bits: int) -> bool:
    return bits & MAGNITUDE > INFINITY


def is_infinite(bits: int) -> bool:
    return bits & MAGNITUDE == INFINITY


def is_finite(bits: int) -> bool:
    return bits & MAGNITUDE < INFINITY


def is_zero(bits: int) -> bool:
    return bits & MAGNITUDE == 0


def decode(bits: int) -> tuple[int, int]:
    """A finite number as (m, q), value m 2^q; m carries the sign, and -0 is lost."""
    exponent, m = bits >> 23 & 0xFF, bits & 0x7FFFFF
    if exponent:
        m |= 1 << 23
    return (-m if bits & SIGN else m), max(exponent, 1) - 150


def frexp_exponent(bits: int) -> int:
    """e with 2^(e - 1) <= |x| < 2^e, for x finite and not zero."""
    m, q = decode(bits)
    return abs(m).bit_length() + q


def round_dyadic(negative: bool, m: int, q: int, inexact: bool = False) -> int:
    """The binary32 nearest to the real of magnitude m 2^q, ties to even, overflow to infinity, zeros signed.

    m        >= 0
    inexact  the real's magnitude lies strictly between m 2^q and (m + 1) 2^q; m then has 26 bits or more, or reaches
             below half of the smallest number, so that its last bit decides no more than a sticky bit does
    """
    if inexact:
        m, q = m << 1 | 1, q - 1
    sign = SIGN if negative else 0
    top = m.bit_length() + q
    if m == 0 or top < LOWEST_EXPONENT - 1:
        return sign
    if top > 128:
        return sign | INFINITY
    unit = max(top - PRECISION, LOWEST_EXPONENT)
    n = round_half_even(m, q - unit)
    # n fills 24 bits (or is subnormal): its leading bit adds one to the exponent field, a carry one more.
    return sign | min(n + (unit - LOWEST_EXPONENT << 23), INFINITY)


def round_half_even(m: int, shift: int) -> int:
    """m 2^shift to the nearest integer, ties to the even one; any sign, any shift."""
    if shift >= 0:
        return m << shift
    if -shift > abs(m).bit_length() + 1:
        return 0
    down, rest, half = m >> -shift, m & (1 << -shift) - 1, 1 << -shift - 1
    return down + (rest > half or (rest == half and down & 1))


def from_integer(n: int) -> int:
    return round_dyadic(n < 0, abs(n), 0)


def add(a: int, b: int) -> int:
    if is_nan(a) or is_nan(b) or (is_infinite(a) and b == a ^ SIGN):
        return NAN
    if is_infinite(a) or is_infinite(b):
        return a if is_infinite(a) else b
    (ma, qa), (mb, qb) = decode(a), decode(b)
    q = min(qa, qb)
    total = (ma << qa - q) + (mb << qb - q)
    if total == 0:
        return a & b & SIGN  # -0 only from two negative zeros: x + (-x) is +0
    return round_dyadic(total < 0, abs(total), q)


def subtract(a: int, b: int) -> int:
    return add(a, b ^ SIGN)


def multiply(a: int, b: int) -> int:
    sign = (a ^ b) & SIGN
    if is_nan(a) or is_nan(b) or (is_infinite(a) and is_zero(b)) or (is_zero(a) and is_infinite(b)):
        return NAN
    if is_infinite(a) or is_infinite(b):
        return sign | INFINITY
    (ma, qa), (mb, qb) = decode(a), decode(b)
    return round_dyadic(sign != 0, abs(ma * mb), qa + qb)


def divide(a: int, b: int) -> int:
    sign = (a ^ b) & SIGN
    if is_nan(a) or is_nan(b) or (is_infinite(a) and is_infinite(b)) or (is_zero(a) and is_zero(b)):
        return NAN
    if is_infinite(a) or is_zero(b):
        return sign | INFINITY
    if is_infinite(b) or is_zero(a):
        return sign
    (ma, qa), (mb, qb) = decode(a), decode(b)
    quotient, rest = divmod(abs(ma) << 64, abs(mb))
    return round_dyadic(sign != 0, quotient, qa - qb - 64, inexact=rest != 0)


def square_root(a: int) -> int:
    if is_zero(a) or a == INFINITY:
        return a
    if is_nan(a) or a & SIGN:
        return NAN
    m, q = decode(a)
    m, q = (m << 65, q - 65) if q & 1 else (m << 64, q - 64)
    root = isqrt(m)
    return round_dyadic(False, root, q // 2, inexact=root * root != m)


def reciprocal_square_root(a: int) -> int:
    if is_zero(a):
        return a & SIGN | INFINITY
    if is_nan(a) or a & SIGN:
        return NAN
    if is_infinite(a):
        return 0
    m, q = decode(a)
    if q & 1:
        m, q = m << 1, q - 1
    scaled = 1 << 128
    root = isqrt(scaled // m)  # floor(sqrt(2^128 / m))
    return round_dyadic(False, root, -64 - q // 2, inexact=root * root * m != scaled)


def order_key(bits: int, *, nan_key: int) -> int:
    """Sorts as -inf < ... < -0 < +0 < ... < inf; NaN goes where the caller puts it."""
    if is_nan(bits):
        return nan_key
    return ~(bits & MAGNITUDE) if bits & SIGN else bits


def compare_key(bits: int) -> int:
    """Sorts numbers by value, -0 equal to +0; not for NaN."""
    return -(bits & MAGNITUDE) if bits & SIGN else bits


def round_to_integral(bits: int, rounding: int) -> int:
    """The integer value (exact, unbounded) that a finite number rounds to: 0 nearest even, 1 to zero, 2 down, 3 up."""
    m, q = decode(bits)
    if rounding == 0 or q >= 0:
        return round_half_even(m, q)
    q = max(q, -32)  # |m| < 2^24, so that any further shift changes nothing
    down = m >> -q
    up = down if down << -q == m else down + 1
    return {1: up if m < 0 else down, 2: down, 3: up}[rounding]
