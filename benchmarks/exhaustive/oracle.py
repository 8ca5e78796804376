"""Blocks of values: 2^14 neighbouring binary32 arguments at a time, in double precision, with a proven bound.

Arguments whose bit patterns agree but for the last 14 bits are equally spaced: x = c + t h, c the middle one, h half
the block's width, t = (j - 2^13) / 2^13 for j = 0 ... 2^14 - 1, exactly. So on a block every function is a short sum

    f(x) = A_0 + A_1 t + ... + A_n t^n + R,   A_k = a_k h^k        (`taylor`: a_k by MPFR, |R| bounded)

and, for sin and cos of |x| >= 1, where a block may be wider than a period, the addition theorem, without remainder:

    sin(c + l) = sin c cos l + cos c sin l,   cos(c + l) = cos c cos l - sin c sin l,   l = t h

(a table of cos l and sin l for each exponent, sin c and cos c for each block, all by MPFR). Either is a product of a
matrix of coefficients with a matrix of 2^14 columns that all blocks of one exponent share.

**Bound.** u = 2^-53. Each A_k and each tabulated t^k, cos l, sin l is the exact number rounded once (h^k is a power of
two, t^k is computed on integers), each at most 1 + u in magnitude for the latter; a sum of n + 1 products in any order,
fused or not, adds at most (n + 1) u / (1 - (n + 1) u) of the sum of magnitudes (Higham, "Accuracy and stability of
numerical algorithms", 2nd ed., section 3.1). So the computed y differs from f(x) by at most

    E = |R| + (n + 5) u (|A_0| + ... + |A_n|) + 2^-1000

the last for coefficients that underflow. SAFETY times E, at least, is granted: the bound's own arithmetic is rounded.
Where y - margin and y + margin round to one binary32 it is the answer, rounding being monotonic; else MPFR decides.

**Constant blocks.** exp, log, tanh, sigmoid, erf, rsqrt and sqrt are monotonic, and so is rounding: where the first and
the last argument of a block have one answer by MPFR, so has every argument between.

Beside all that, MPFR is asked for one argument of each block that is not constant: an answer outside its bounds is an
error of this oracle, and ends the check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import gmpy2
import numpy as np
from numpy.typing import NDArray

from cupel.protocol.arithmetic.operations import Opcode, Rounding
from exhaustive import mpfr, taylor
from exhaustive.mpfr import INFINITY, NAN, SIGN

Bits = NDArray[np.uint32]
Doubles = NDArray[np.float64]

BLOCK = 1 << 14
_MIDDLE = BLOCK >> 1
_MOST_TERMS = 16
_ENOUGH = 62
"""Bits that a remainder should lie below the function."""
SAFETY = 4.0
_UNIT = 2.0**-53
_UNDERFLOW = 2.0**-1000
_MONOTONIC = frozenset({Opcode.EXP, Opcode.LOG, Opcode.TANH, Opcode.SIGMOID, Opcode.ERF, Opcode.RSQRT, Opcode.SQRT})
_ABOUT_ONE = 127
"""Exponent field of 1: from here on sin and cos take the addition theorem."""


class OracleBroken(AssertionError):
    """MPFR contradicts the bound: the proof above, or its code, is wrong."""


class FunctionOracle:
    """Bounds on one correctly rounded function."""

    def __init__(self, opcode: Opcode) -> None:
        self.opcode = opcode
        self.asked = 0
        """How often MPFR was asked beside the blocks' ends."""

    def bound(self, first: int, low: Bits, high: Bits) -> None:
        """Fill low and high: the answer for bit pattern first + i lies between low[i] and high[i].

        first, len(low)   multiples of BLOCK; all patterns have one sign and exponent
        Raises            OracleBroken
        """
        blocks = len(low) // BLOCK
        field = first >> 23 & 0xFF
        terms = self._terms(field)
        coefficients, margins = np.zeros((blocks, terms)), np.zeros(blocks)
        fixed: dict[int, int] = {}
        for i in range(blocks):
            start = first + i * BLOCK
            constant = self.constant(start)
            if constant is not None:
                fixed[i] = constant
            else:
                coefficients[i], margins[i] = self._expand(start, field, terms)
        low_rows, high_rows = low.reshape(blocks, BLOCK), high.reshape(blocks, BLOCK)
        if len(fixed) < blocks:
            wide = coefficients @ _basis(self._basis_key(field), terms)
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                np.subtract(wide, margins[:, None], out=low_rows.view(np.float32), casting="same_kind")
                np.add(wide, margins[:, None], out=high_rows.view(np.float32), casting="same_kind")
        for i, bits in fixed.items():
            low_rows[i] = high_rows[i] = bits
        if first & ~SIGN in (0, INFINITY):
            low[0] = high[0] = mpfr.decide(self.opcode, first)
        for i in set(range(blocks)) - fixed.keys():
            self._ask(first, i, low_rows[i], high_rows[i])

    def constant(self, start: int) -> int | None:
        """The one answer of all of the block (but for 0 or infinity at its start), if that is known beforehand."""
        if start & ~SIGN >= INFINITY or (start & SIGN and self.opcode in mpfr.NO_NEGATIVES):
            return NAN
        if self.opcode not in _MONOTONIC:
            return None
        answer = mpfr.decide(self.opcode, start)
        return answer if answer == mpfr.decide(self.opcode, start + BLOCK - 1) else None

    def _is_turned(self, field: int) -> bool:
        return self.opcode in (Opcode.SIN, Opcode.COS) and field >= _ABOUT_ONE

    def _basis_key(self, field: int) -> int:
        """0 for powers; the exponent field, where sin and cos are turned by tabulated angles."""
        return field if self._is_turned(field) else 0

    def _terms(self, field: int) -> int:
        if self._is_turned(field):
            return 2
        # From the block's half width to where the series ends: 1, or the argument's own size.
        if self.opcode in (Opcode.LOG, Opcode.RSQRT, Opcode.SQRT):
            bits = 10 if field else 1
        else:
            bits = -_half_width_exponent(field)
        return min(max(-(-_ENOUGH // max(bits, 1)), 2) + 1, _MOST_TERMS)

    def _expand(self, start: int, field: int, terms: int) -> tuple[list[float], float]:
        """(A_0 ..., margin)."""
        exponent = _half_width_exponent(field)
        magnitude = mpfr.value_of((start & ~SIGN) + _MIDDLE)
        sign = -1 if start & SIGN else 1
        rest = 0.0
        if self._is_turned(field):
            # sin(sign (c + l)) = sign (sin c cos l + cos c sin l); cos ignores the sign.
            with gmpy2.context(precision=53):
                sine, cosine = (float(v) for v in gmpy2.sin_cos(gmpy2.mpfr(magnitude)))
            doubles = [sine * sign, cosine * sign] if self.opcode == Opcode.SIN else [cosine, -sine]
        else:
            a = taylor.coefficients(self.opcode, sign * magnitude, terms - 1)
            # t counts upwards in magnitude, so that odd powers change sign with the argument.
            doubles = [float(gmpy2.mul_2exp(a_k, k * exponent)) * sign**k for k, a_k in enumerate(a)]
            rest = taylor.remainder(self.opcode, sign * magnitude, 2.0**exponent, terms - 1)
        rounding = (terms + 4) * _UNIT * sum(abs(a_k) for a_k in doubles)
        return doubles, SAFETY * (rest + rounding + _UNDERFLOW)

    def _ask(self, first: int, block: int, low: Bits, high: Bits) -> None:
        """Compare with MPFR at one argument of the block."""
        start = first + block * BLOCK
        at = (start >> 14) * 0x9E3779B1 >> 7 & BLOCK - 1
        answer = mpfr.decide(self.opcode, start + at)
        self.asked += 1
        if not mpfr.is_between(int(low[at]), answer, int(high[at])):
            bounds = f"{low[at]:#010x} ... {high[at]:#010x}"
            raise OracleBroken(f"{self.opcode.name} of {start + at:#010x} is {answer:#010x}, not in {bounds}")


def _half_width_exponent(field: int) -> int:
    """e of the half width 2^e of a block of this exponent field."""
    return max(field, 1) - 127 - 23 + 13


@functools.lru_cache(maxsize=40)
def _basis(key: int, terms: int) -> Doubles:
    """[terms, BLOCK]: powers of t, or cos l and sin l for the blocks of one exponent."""
    if key == 0:
        steps = range(-_MIDDLE, _MIDDLE)
        return np.array([[float(j**k) * 2.0 ** (-13 * k) for j in steps] for k in range(terms)])
    table = np.empty((2, BLOCK))
    exponent = _half_width_exponent(key) - 13
    with gmpy2.context(precision=53):
        for j in range(_MIDDLE + 1):
            sine, cosine = gmpy2.sin_cos(gmpy2.mul_2exp(gmpy2.mpfr(j), exponent))
            for at, sign in ((_MIDDLE - j, -1), (_MIDDLE + j, 1)):
                if at < BLOCK:
                    table[:, at] = float(cosine), sign * float(sine)
    return table


class SimpleOracle:
    """Operations that IEEE-754 fixes to the last bit: NumPy in double precision, where each of them is exact."""

    def __init__(self, function: Callable[[Doubles], Doubles]) -> None:
        self.function, self.asked = function, 0

    def bound(self, first: int, low: Bits, high: Bits) -> None:
        x = np.arange(first, first + len(low), dtype=np.uint32)
        with np.errstate(invalid="ignore"):
            # A double holds every result, so that the way back rounds nothing.
            narrow = self.function(x.view(np.float32).astype(np.float64)).astype(np.float32)
        low[:] = np.where(np.isnan(narrow), np.uint32(NAN), narrow.view(np.uint32))
        high[:] = low


Oracle = FunctionOracle | SimpleOracle

SIMPLE: dict[tuple[Opcode, tuple[int, ...]], Callable[[Doubles], Doubles]] = {
    (Opcode.NEG, ()): np.negative,
    (Opcode.ABS, ()): np.abs,
    (Opcode.ROUND, (Rounding.NEAREST_EVEN,)): np.rint,
    (Opcode.ROUND, (Rounding.TOWARD_ZERO,)): np.trunc,
    (Opcode.ROUND, (Rounding.DOWN,)): np.floor,
    (Opcode.ROUND, (Rounding.UP,)): np.ceil,
}


def oracle_for(opcode: Opcode, attributes: tuple[int, ...] = ()) -> Oracle:
    if (opcode, attributes) in SIMPLE:
        return SimpleOracle(SIMPLE[opcode, attributes])
    if opcode not in mpfr.SPECIAL:
        raise ValueError(f"{opcode.name} is no function that this oracle knows")
    return FunctionOracle(opcode)
