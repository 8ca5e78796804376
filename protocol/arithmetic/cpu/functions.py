"""Correctly rounded exp, log, tanh, sigmoid, erf, sin, cos and rsqrt of binary32 vectors.

Each is evaluated in binary64 with a relative error below 2^-50, then rounded twice: y (1 - d) and y (1 + d) with d far
above that error. Where both give one binary32 number, the true value lies between them and rounding, being
monotonic, gives that number too. Otherwise (about one input in a million) the lane goes to `cupel_exact`, the
definition itself. So no bit depends on the quality of a polynomial, only speed does, and NaN, overflow, underflow
and gradual underflow follow from the conversion.
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Callable
from decimal import Decimal

from cupel.protocol.arithmetic.cpu.far_angles import FIRST, reduce_far
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.operations import Opcode

EXACT_SYMBOL = "cupel_exact"
"""i32 (i32 opcode, i32 bits): the definition's answer, reached through Python."""
_MAGIC = 1.5 * 2.0**52
"""Adding it rounds a double below 2^51 to an integer, ties to even, held in the low bits."""
_NAN_BITS = 0x7FC00000
_INFINITY = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211707")
_DIGITS = decimal.Context(prec=90)
_TWO_OVER_PI = _DIGITS.divide(Decimal(2), _PI)


def _split(value: Decimal, *bits: int) -> list[float]:
    """`value` as a sum of doubles, each but the last cut to that many significant bits."""
    parts = []
    for count in bits:
        exponent = math.frexp(float(value))[1] - count
        cut = float((_DIGITS.multiply(value, Decimal(2) ** -exponent)).to_integral_value(decimal.ROUND_FLOOR))
        parts.append(math.ldexp(cut, exponent))
        value = _DIGITS.subtract(value, Decimal(parts[-1]))
    return [*parts, float(value)]


_LN2 = Decimal(2).ln(_DIGITS)
_LN2_HIGH, _LN2_LOW = _split(_LN2, 40)
"""40 bits: a multiple by |k| < 2^13 is exact."""
_HALF_PI_1, _HALF_PI_2, _HALF_PI_3 = _split(_DIGITS.divide(_PI, Decimal(2)), 33, 33)
"""33 bits each: a multiple by |k| <= 2^20 is exact."""


_EXP_ZERO = -104.0
"""exp(-104) < 2^-150 rounds to zero."""
_ROOTS = 16
"""Powers of two that exp's table divides an octave into."""


@functools.cache
def _exp_table() -> tuple[float, ...]:
    """2^(j / 16), rounded."""
    powers = (_DIGITS.divide(_DIGITS.multiply(_LN2, Decimal(j)), Decimal(_ROOTS)) for j in range(_ROOTS))
    return tuple(float(power.exp(_DIGITS)) for power in powers)


class _Kernel:
    """Helpers shared by the bodies below; every vector has the set's width."""

    def __init__(self, f: Function, isa: InstructionSet) -> None:
        self.f, self.isa = f, isa
        self.double = vector(isa.width, "double")

    def c(self, value: float) -> Value:
        return self.f.const(self.double, value)

    def fma(self, a: Value, b: Value | float, c: Value | float) -> Value:
        """a b + c with one rounding where the processor has it, two elsewhere: the bounds hold for both."""
        b = b if isinstance(b, Value) else self.c(b)
        c = c if isinstance(c, Value) else self.c(c)
        return self.f.intrinsic("fma", a, b, c) if self.isa.fma else a * b + c

    def horner(self, x: Value, coefficients: list[float]) -> Value:
        """c0 + c1 x + c2 x^2 ..."""
        total = self.c(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self.fma(total, x, coefficient)
        return total

    def clamp(self, x: Value, low: float, high: float) -> Value:
        """NaN stays NaN."""
        x = x.compare("olt", low).select(low, x)
        return x.compare("ogt", high).select(high, x)

    def expm1_parts(self, x: Value) -> tuple[Value, Value]:
        """(p, t) with exp(x) = (1 + p) 2^k, k in the low bits of t's pattern; |x| < 2000.

        |r| <= ln2 / 2 + 2^-40; the Taylor remainder of degree 13 is below 2^-57 r, the reduction's below 2^-54.
        """
        t = self.fma(x, 1.0 / math.log(2.0), _MAGIC)
        k = t - _MAGIC
        r = self.fma(k, -_LN2_LOW, self.fma(k, -_LN2_HIGH, x))
        q = self.horner(r, [1.0 / math.factorial(n) for n in range(2, 14)])
        return self.fma(r * r, q, r), t

    def exp(self, x: Value) -> Value:
        """exp(x), relative error below 2^-51, for |x| < 128."""
        if self.isa.masks:
            return self._exp_by_table(x)
        p, t = self.expm1_parts(x)
        # 1.5 2^52 has no low bits set, so the shift leaves k alone in the exponent's place.
        return ((p + 1.0).as_bits() + (t.as_bits() << 52)).bitcast(self.double)

    def _exp_by_table(self, x: Value) -> Value:
        """2^(k / 16) exp(r): two registers hold 2^(j / 16), so that half the polynomial is enough.

        |r| <= ln2 / 32 + 2^-44; the Taylor remainder of degree 7 is below 2^-59; k has 12 bits, so the product with the
        40 bits of ln2 is exact; the table's rounding and the last one are 2^-53 each.
        """
        f = self.f
        t = self.fma(x, _ROOTS / math.log(2.0), _MAGIC)
        k = t - _MAGIC
        r = self.fma(k, -_LN2_LOW / _ROOTS, self.fma(k, -_LN2_HIGH / _ROOTS, x))
        p = self.fma(r * r, self.horner(r, [1.0 / math.factorial(n) for n in range(2, 8)]), r)
        table = f.module.table(f, "exp_table", _exp_table())
        half = vector(8, "double")
        low, high = (f.load(half, table.offset("double", at), align=8) for at in (0, 8))
        bits = t.as_bits()
        parts = []
        for start in range(0, self.isa.width, 8):
            index = bits.shuffle(bits, range(start, start + 8))
            # Only the index's lowest four bits count.
            parts.append(f.call(half, "llvm.x86.avx512.vpermi2var.pd.512", [low, index, high]))
        root = parts[0].shuffle(parts[1], range(self.isa.width))
        power = (root.as_bits() + (bits.lshr(_ROOTS.bit_length() - 1) << 52)).bitcast(self.double)
        return self.fma(power, p, power)

    def copysign(self, magnitude: Value, sign: Value) -> Value:
        return self.f.intrinsic("copysign", magnitude, sign)


def _exp(k: _Kernel, x: Value) -> tuple[Value, float]:
    # exp(89) overflows binary32.
    return k.exp(k.clamp(x, _EXP_ZERO, 89.0)), 2.0**-49


def _sigmoid(k: _Kernel, x: Value) -> tuple[Value, float]:
    # 1 / (1 + exp(-x)): three roundings and exp's error stay below 2^-50.
    e = k.exp(-k.clamp(x, -104.0, 104.0))
    return k.c(1.0) / (e + 1.0), 2.0**-48


def _tanh(k: _Kernel, x: Value) -> tuple[Value, float]:
    # -m / (m + 2) with m = expm1(-2|x|); m keeps its relative precision because k = 0 where it is small.
    a = k.f.intrinsic("fabs", x)
    p, t = k.expm1_parts(k.clamp(a * -2.0, -40.0, 0.0))
    e = (k.c(1.0).as_bits() + (t.as_bits() << 52)).bitcast(k.double)
    m = k.fma(e, p, e - 1.0)
    return k.copysign(-m / (m + 2.0), x), 2.0**-48


def _log(k: _Kernel, x: Value) -> tuple[Value, float]:
    """k ln2 + 2 atanh(s), s = f / (2 + f), x = 2^k (1 + f) with 1 + f in [0.707, 1.415).

    |s| < 0.1716, so twelve terms leave 2^-60; f is exact; k ln2 cancels nothing, as |2 atanh(s)| < ln2 / 2.
    """
    bits = x.as_bits()
    shifted = bits - 0x3FE6A09E00000000
    exponent = shifted >> 52
    m = (bits - (exponent << 52)).bitcast(k.double)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = k.horner(z, [2.0 / (2 * n + 1) for n in range(12)])
    n = exponent.cast("sitofp", "double")
    y = k.fma(n, _LN2_HIGH, k.fma(n, _LN2_LOW, s * series))
    y = x.compare("oeq", 0.0).select(-math.inf, y)
    y = x.compare("oeq", math.inf).select(math.inf, y)
    return x.compare("olt", 0.0).select(math.nan, y), 2.0**-48


def _rsqrt(k: _Kernel, x: Value) -> tuple[Value, float]:
    # Two correctly rounded operations; 1 / sqrt(-0) is -inf as it should be.
    return k.c(1.0) / k.f.intrinsic("sqrt", x), 2.0**-50


def _half_pi_steps(k: _Kernel, x: Value) -> tuple[Value, Value]:
    """(r, quadrant bits): x = quadrant pi/2 + r, |r| <= pi/4 + 2^-20.

    The first two products and differences are exact for |x| < 2^20, so cancellation leaves r its relative precision.
    """
    large = k.f.intrinsic("fabs", x).compare("oge", 2.0**FIRST)
    near = large.select(0.0, x)
    t = k.fma(near, 2.0 / math.pi, _MAGIC)
    n = t - _MAGIC
    r = near - n * _HALF_PI_1
    r = r - n * _HALF_PI_2
    r = r - n * _HALF_PI_3
    angle, steps = k.f.variable(k.double, r), k.f.variable(vector(k.isa.width, "i64"), t.as_bits())
    with k.f.when(large.bitcast(f"i{k.isa.width}").compare("ne", 0)):
        far, far_steps = reduce_far(k.f, k.isa.width, x, _TWO_OVER_PI)
        angle.set(large.select(far, r))
        steps.set(large.select(far_steps, t.as_bits()))
    return angle.get(), steps.get()


def _sin_cos(k: _Kernel, r: Value) -> tuple[Value, Value]:
    z = r * r
    sine = k.horner(z, [(-1) ** n / math.factorial(2 * n + 1) for n in range(1, 10)])
    cosine = k.horner(z, [(-1) ** n / math.factorial(2 * n) for n in range(1, 11)])
    return k.fma(r * z, sine, r), k.fma(z, cosine, 1.0)


def _circular(k: _Kernel, x: Value, quarter: int) -> tuple[Value, float]:
    r, steps = _half_pi_steps(k, x)
    sine, cosine = _sin_cos(k, r)
    steps = steps + quarter
    y = (steps & 1).compare("ne", 0).select(cosine, sine)
    y = ((steps & 2).compare("ne", 0)).select(-y, y)
    if quarter == 0:
        y = x.compare("oeq", 0.0).select(x, y)
    return y, 2.0**-48


def _sin(k: _Kernel, x: Value) -> tuple[Value, float]:
    return _circular(k, x, 0)


def _cos(k: _Kernel, x: Value) -> tuple[Value, float]:
    return _circular(k, x, 1)


_ERF_CELLS = 32
_ERF_DEGREE = 11


@functools.cache
def _erf_table() -> tuple[float, ...]:
    """Taylor coefficients of erf at (j + 1/2) / 8 for j in 0..31, `_ERF_DEGREE` + 1 each."""
    with decimal.localcontext(_DIGITS):
        two_over_root_pi = Decimal(2) / _PI.sqrt()
        table = []
        for j in range(_ERF_CELLS):
            c = (Decimal(j) + Decimal("0.5")) / 8
            term, series, n = c, c, 0
            while abs(term) > Decimal("1e-60"):
                n += 1
                term = term * -(c * c) / n
                series += term / (2 * n + 1)
            table.append(float(two_over_root_pi * series))
            hermite = [Decimal(1), 2 * c]
            while len(hermite) < _ERF_DEGREE:
                hermite.append(2 * c * hermite[-1] - 2 * (len(hermite) - 1) * hermite[-2])
            peak = two_over_root_pi * (-c * c).exp()
            for degree in range(1, _ERF_DEGREE + 1):
                sign = -1 if degree % 2 == 0 else 1
                table.append(float(sign * peak * hermite[degree - 1] / math.factorial(degree)))
    return tuple(table)


def _erf(k: _Kernel, x: Value) -> tuple[Value, float]:
    """Below 1/4 the odd series of ten terms (remainder 2^-58); to 4 the Taylor polynomial of degree 11 about the middle
    of a cell of width 1/8 (remainder 2^-56); from 4 on erf rounds to 1."""
    f, lanes = k.f, k.isa.width
    a = k.clamp(f.intrinsic("fabs", x), 0.0, 4.0)
    a = a.compare("uno", 0.0).select(0.0, a)
    cell = f.intrinsic("smin", (a * 8.0).cast("fptosi", "i64"), f.const(vector(lanes, "i64"), _ERF_CELLS - 1))
    t = a - (cell.cast("sitofp", "double") + 0.5) * 0.125
    table = f.module.table(f, "erf_table", _erf_table())
    rows = [table.offset("double", cell.extract(i) * (_ERF_DEGREE + 1)) for i in range(lanes)]

    def coefficient(degree: int) -> Value:
        value = f.poison(k.double)
        for i, row in enumerate(rows):
            value = value.insert(f.load("double", row.offset("double", degree), align=8), i)
        return value

    total = coefficient(_ERF_DEGREE)
    for degree in range(_ERF_DEGREE - 1, -1, -1):
        total = k.fma(total, t, coefficient(degree))
    total = a.compare("oge", 4.0).select(1.0, total)
    scale = 2.0 / math.sqrt(math.pi)
    odd = a * k.horner(a * a, [scale * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(10)])
    y = a.compare("olt", 0.25).select(odd, total)
    return k.copysign(y, x), 2.0**-47


_BODIES: dict[Opcode, Callable[[_Kernel, Value], tuple[Value, float]]] = {
    Opcode.EXP: _exp,
    Opcode.LOG: _log,
    Opcode.TANH: _tanh,
    Opcode.SIGMOID: _sigmoid,
    Opcode.ERF: _erf,
    Opcode.SIN: _sin,
    Opcode.COS: _cos,
    Opcode.RSQRT: _rsqrt,
}
"""Each body gives y and the margin d."""


_NAN_MAKING = frozenset({Opcode.LOG, Opcode.RSQRT, Opcode.SIN, Opcode.COS})
"""Their own arithmetic gives NaN for some numbers."""


def _settle(module: Module, isa: InstructionSet) -> str:
    """The function that sends undecided lanes to the definition."""
    name = "settle"
    if name in module.functions:
        return name
    floats = vector(isa.width, "float")
    f = module.function(
        name,
        [("i32", "opcode"), (floats, "x"), (floats, "y"), (vector(isa.width, "i1"), "undecided")],
        result=floats,
    )
    opcode, x, y, undecided = f.arguments
    bits = x.as_bits()
    result = f.variable(floats, y)
    for lane in range(isa.width):
        with f.when(undecided.extract(lane)):
            exact = f.call("i32", EXACT_SYMBOL, [opcode, bits.extract(lane)]).bitcast("float")
            result.set(result.get().insert(exact, lane))
    f.finish(result.get())
    return name


def function_for(module: Module, isa: InstructionSet, opcode: Opcode) -> str:
    """Name of `<width x float> f(<width x float>)` computing `opcode`; NaN results are 0x7fc00000."""
    name = f"rounded_{opcode.name.lower()}"
    if name in module.functions:
        return name
    floats = vector(isa.width, "float")
    settle = _settle(module, isa)
    f = module.function(name, [(floats, "x")], result=floats)
    x = f.arguments[0]
    if opcode == Opcode.EXP:
        # What a mask hides is exp(-inf): registers full of it are zero without a look.
        with f.when(x.compare("olt", _EXP_ZERO).bitcast(f"i{isa.width}").compare("eq", -1)):
            f.leave(f.const(floats, 0.0))
    y, margin = _BODIES[opcode](_Kernel(f, isa), x.cast("fpext", "double"))
    low = (y * (1.0 - margin)).cast("fptrunc", "float")
    high = (y * (1.0 + margin)).cast("fptrunc", "float")
    undecided = low.compare("one", high)
    invalid = (x.as_bits() & _MAGNITUDE).compare("sgt", _INFINITY)
    undecided = undecided & (invalid ^ 1)
    result = f.variable(floats, high)
    any_lane = undecided.bitcast(f"i{isa.width}").compare("ne", 0)
    with f.when(any_lane):
        result.set(f.call(floats, settle, [f.const("i32", opcode), x, high, undecided]))
    # Tested on bits: LLVM takes one NaN for as good as another.
    bits = result.get().as_bits()
    if opcode in _NAN_MAKING:
        invalid = invalid | (bits & _MAGNITUDE).compare("sgt", _INFINITY)
    f.finish(invalid.select(_NAN_BITS, bits).bitcast(floats))
    return name
