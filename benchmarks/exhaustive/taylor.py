"""Taylor expansions of the functions about any point, by MPFR at 256 bits, and how far a cut one can be off.

f(c + t) = a_0 + a_1 t + ... + a_n t^n + R. `coefficients` gives the a, `remainder` a bound on |R| for |t| <= h.

**The remainders.** exp, sin, cos, log, sqrt, rsqrt: Lagrange's form, with the largest derivative of order n + 1 on
[c - h, c + h]. For log it is n! / (c - h)^(n+1). For sqrt and rsqrt, binomial coefficients of 1/2 and -1/2 are at most
1/2 in magnitude, and the power of the argument is largest at c - h.

tanh, sigmoid and erf': Cauchy's estimate |a_k| <= M / r^k, M the largest modulus on the circle of radius r = 1 about c,
so |R| <= M h^(n+1) / (1 - h).
  tanh(x + iy): |tanh|^2 = (sinh^2 x + sin^2 y) / (sinh^2 x + cos^2 y) <= tan^2 1 for |y| <= 1. M = 1.56.
  sigmoid(z) = w / (1 + w), w = e^z: for |y| <= 1 the real part of w is positive, so |1 + w| is at least 1 and at least
  |w|. M = min(1, e^(c + 1)).
  erf' = 2 / sqrt(pi) e^(-z^2), |e^(-z^2)| = e^(y^2 - x^2) <= e on the circle: M = 3.07, and integrating makes the
  coefficients no larger.

**The coefficients' own error.** exp, log, sqrt, rsqrt, sin, cos: at most 50 roundings to 256 bits, one after the other,
so 2^-250 of each. The recurrences of erf (three terms, |c| <= 6), tanh and sigmoid (convolutions of at most 16 terms
below 2) can amplify an error by less than 2^6 a step, so 2^-256 stays below 2^-150 after 16 steps; sigmoid's at c < 0
is proportional to e^c throughout. What is left is far below the 2^-53 of rounding to double, which `oracle` charges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gmpy2

from cupel.protocol.arithmetic.operations import Opcode

BITS = 256


def coefficients(opcode: Opcode, centre: float, degree: int) -> list[Any]:
    """a_0 ... a_degree about `centre`, which is a double and exact."""
    with gmpy2.context(precision=BITS):
        return _SERIES[opcode](gmpy2.mpfr(centre), degree)


def _exp(c: Any, n: int) -> list[Any]:
    a = [gmpy2.exp(c)]
    for k in range(1, n + 1):
        a.append(a[-1] / k)
    return a


def _log(c: Any, n: int) -> list[Any]:
    a, inverse = [gmpy2.log(c)], 1 / c
    power = inverse
    for k in range(1, n + 1):
        a.append(power / k if k & 1 else -power / k)
        power *= inverse
    return a


def _rsqrt(c: Any, n: int) -> list[Any]:
    a, inverse = [gmpy2.rec_sqrt(c)], 1 / c
    for k in range(1, n + 1):
        a.append(a[-1] * (1 - 2 * k) / (2 * k) * inverse)
    return a


def _sqrt(c: Any, n: int) -> list[Any]:
    a, inverse = [gmpy2.sqrt(c)], 1 / c
    for k in range(1, n + 1):
        a.append(a[-1] * (3 - 2 * k) / (2 * k) * inverse)
    return a


def _circular(c: Any, n: int, quarter: int) -> list[Any]:
    sine, cosine = gmpy2.sin_cos(c)
    cycle = (sine, cosine, -sine, -cosine)
    return [cycle[(k + quarter) % 4] / math.factorial(k) for k in range(n + 1)]


def _tanh(c: Any, n: int) -> list[Any]:
    """y' = 1 - y^2."""
    a = [gmpy2.tanh(c)]
    for k in range(n):
        a.append(((k == 0) - _square_term(a, k)) / (k + 1))
    return a


def _sigmoid(c: Any, n: int) -> list[Any]:
    """y' = y - y^2."""
    a = [1 / (1 + gmpy2.exp(-c))]
    for k in range(n):
        a.append((a[k] - _square_term(a, k)) / (k + 1))
    return a


def _square_term(a: list[Any], k: int) -> Any:
    """Coefficient k of the square of the series a."""
    total = sum(a[i] * a[k - i] for i in range((k + 1) // 2)) * 2
    return total if k & 1 else total + a[k // 2] * a[k // 2]


def _erf(c: Any, n: int) -> list[Any]:
    """The integral of g = 2 / sqrt(pi) e^(-z^2), where g' = -2 z g."""
    a = [gmpy2.erf(c)]
    g, before = 2 / gmpy2.sqrt(gmpy2.const_pi()) * gmpy2.exp(-c * c), gmpy2.mpfr(0)
    for k in range(n):
        a.append(g / (k + 1))
        g, before = -2 * (c * g + before) / (k + 1), g
    return a


_SERIES: dict[Opcode, Callable[[Any, int], list[Any]]] = {
    Opcode.EXP: _exp,
    Opcode.LOG: _log,
    Opcode.RSQRT: _rsqrt,
    Opcode.SQRT: _sqrt,
    Opcode.SIN: lambda c, n: _circular(c, n, 0),
    Opcode.COS: lambda c, n: _circular(c, n, 1),
    Opcode.TANH: _tanh,
    Opcode.SIGMOID: _sigmoid,
    Opcode.ERF: _erf,
}


def remainder(opcode: Opcode, centre: float, half_width: float, degree: int) -> float:
    """At least |f(c + t) - sum a_k t^k| for every |t| <= half_width; infinite where nothing is known."""
    c, h, n = centre, half_width, degree + 1
    if opcode in (Opcode.LOG, Opcode.RSQRT, Opcode.SQRT):
        nearest = c - h
        if nearest <= 0:
            return math.inf
        ratio = (h / nearest) ** n
        factor = {Opcode.LOG: 1.0 / n, Opcode.RSQRT: 1 / math.sqrt(nearest), Opcode.SQRT: math.sqrt(nearest)}[opcode]
        return ratio * factor
    if opcode in (Opcode.SIN, Opcode.COS):
        return h**n / math.factorial(n)
    if opcode == Opcode.EXP:
        return math.exp(c + h) * h**n / math.factorial(n)
    if h >= 1:
        return math.inf
    largest = {Opcode.TANH: 1.56, Opcode.SIGMOID: min(1.0, math.exp(min(c, 0.0) + 1)), Opcode.ERF: 3.07}[opcode]
    return largest * h**n / (1 - h)
