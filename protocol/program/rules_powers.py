"""Lowering of powers, and of the logarithms and exponentials that are composed (docs/design/programs.md, "Lowering").

EXP and LOG are correctly rounded; what is composed of them here is rounded at every step, which is its meaning.
"""

from __future__ import annotations

import math
import struct

import torch

from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.exact_functions import exact
from cupel.protocol.arithmetic.operations import DType, Opcode
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program.lowering import Lowering, Number, lowers

aten = torch.ops.aten

MAX_POWER = 64
"""Integer powers are chains of products, x^n = x^(n-1) x; longer ones are better written as exp and log."""


def _binary32(number: Number) -> float:
    """The binary32 nearest to a Python number."""
    return float(torch.tensor(float(number), dtype=torch.float32))


def _natural_logarithm(positive: float) -> float:
    """RN(ln positive) of a binary32, on integers alone: no machine's libm has a say in a root."""
    (bits,) = struct.unpack("<I", struct.pack("<f", positive))
    value: float = struct.unpack("<f", struct.pack("<I", exact(Opcode.LOG, bits)))[0]
    return value


def _logarithm(lowering: Lowering, x: Value) -> Value:
    return lowering.unary(Opcode.LOG, x)


def _exponential(lowering: Lowering, x: Value) -> Value:
    return lowering.unary(Opcode.EXP, x)


# Powers


@lowers(aten.pow.Tensor_Scalar)
def power_by_number(lowering: Lowering, x: Value, exponent: Number) -> Value:
    """Whole powers as products, 0.5 as sqrt, -0.5 as rsqrt, any other y as EXP(MUL(LOG(x), y))."""
    x = lowering.as_dtype(x, lowering.dtype)
    if exponent in (0.5, -0.5):
        return lowering.unary(Opcode.SQRT if exponent == 0.5 else Opcode.RSQRT, x)
    if not math.isfinite(_binary32(exponent)):
        raise UnsupportedOperation(f"aten.pow with exponent {exponent} has no exact semantics: finite binary32 ones do")
    if _binary32(exponent) == 0:
        return lowering.full(1, x.dtype, x.shape)
    if exponent != int(exponent):
        return _exponential(lowering, lowering.mul(_logarithm(lowering, x), exponent))
    if abs(exponent) > MAX_POWER or (exponent < 0 and x.dtype.is_integer):
        raise UnsupportedOperation(
            f"aten.pow of {x.dtype.name.lower()} with exponent {exponent} has no exact semantics: whole exponents up "
            f"to {MAX_POWER} do, negative ones of float32 only; for a positive base write "
            "torch.exp(exponent * torch.log(base))"
        )
    result = x
    for _ in range(abs(int(exponent)) - 1):
        result = lowering.mul(result, x)
    return result if exponent > 0 else lowering.div(1, result)


@lowers(aten.pow.Tensor_Tensor)
def power(lowering: Lowering, x: Value, y: Value) -> Value:
    """EXP(MUL(y, LOG(x))), and 1 where y is 0.

    LOG gives -inf at both zeros and NaN below them, so 0 ** y is 0 for y > 0 and +inf for y < 0, and x < 0 gives NaN
    without a further SELECT.
    """
    if lowering.dtype != DType.FLOAT32:
        raise UnsupportedOperation(
            f"aten.pow of {lowering.dtype.name.lower()} by a tensor has no exact semantics; make base or exponent "
            "float32, or the exponent a Python integer"
        )
    x, y = (lowering.as_dtype(v, DType.FLOAT32) for v in (x, y))
    result = _exponential(lowering, lowering.mul(y, _logarithm(lowering, x)))
    return lowering.builder.select(lowering.binary(Opcode.EQ, y, 0), lowering.number(1, DType.FLOAT32), result)


@lowers(aten.pow.Scalar)
def number_to_power(lowering: Lowering, base: Number, x: Value) -> Value:
    """EXP(MUL(x, RN(ln base))) for a base above 0, 1 for base 1; 0, inf and NaN as a tensor would be."""
    if lowering.dtype != DType.FLOAT32:
        raise UnsupportedOperation(
            f"aten.pow of the number {base} by {x.dtype.name.lower()} has no exact semantics; write {float(base)} ** x "
            "for float32, or shift (1 << x) for powers of two"
        )
    rounded = _binary32(base)
    if rounded < 0:
        raise UnsupportedOperation(
            f"aten.pow of the negative number {base} has no exact semantics; for signs write 1 - 2 * (x & 1)"
        )
    if rounded == 1:
        return lowering.full(1, DType.FLOAT32, lowering.shape)
    if rounded == 0 or not math.isfinite(rounded):
        return power(lowering, lowering.number(rounded, DType.FLOAT32), x)
    return _exponential(lowering, lowering.mul(lowering.as_dtype(x, DType.FLOAT32), _natural_logarithm(rounded)))


@lowers(aten.exp2.default)
def exp2(lowering: Lowering, x: Value) -> Value:
    """2 ** x."""
    return number_to_power(lowering, 2, x)


# Composed logarithms and exponentials


@lowers(aten.log1p.default)
def log1p(lowering: Lowering, x: Value) -> Value:
    """LOG(1 + x); what an x far below 1 loses in the sum is lost."""
    return _logarithm(lowering, lowering.add(lowering.as_dtype(x, lowering.dtype), 1))


@lowers(aten.expm1.default)
def expm1(lowering: Lowering, x: Value) -> Value:
    """EXP(x) - 1; what cancels is lost."""
    return lowering.sub(_exponential(lowering, lowering.as_dtype(x, lowering.dtype)), 1)


@lowers(aten.log2.default)
def log2(lowering: Lowering, x: Value) -> Value:
    return lowering.div(_logarithm(lowering, lowering.as_dtype(x, lowering.dtype)), _natural_logarithm(2.0))


@lowers(aten.log10.default)
def log10(lowering: Lowering, x: Value) -> Value:
    return lowering.div(_logarithm(lowering, lowering.as_dtype(x, lowering.dtype)), _natural_logarithm(10.0))


@lowers(aten.elu.default)
def elu(lowering: Lowering, x: Value, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Value:
    """scale x above 0, else (EXP(input_scale x) - 1) (alpha scale)."""
    below = lowering.mul(expm1(lowering, lowering.mul(x, input_scale)), alpha * scale)
    return lowering.builder.select(lowering.binary(Opcode.GT, x, 0), lowering.mul(x, scale), below)
