"""Lowering of elementwise operations."""

from __future__ import annotations

import math
from typing import Any

import torch

from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.operations import DType, Opcode, Rounding
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program.lowering import REASONS, Lowering, Number, lowers

aten = torch.ops.aten


def _operands(lowering: Lowering, a: Value | Number, b: Value | Number) -> tuple[Value, Value]:
    """Both in the result's element type: for arithmetic that is the type PyTorch promotes to."""
    return lowering.as_dtype(a, lowering.dtype), lowering.as_dtype(b, lowering.dtype)


# Arithmetic


@lowers(aten.add.Tensor, aten.add.Scalar)
def add(lowering: Lowering, a: Value, b: Value | Number, alpha: Number = 1) -> Value:
    x, y = _operands(lowering, a, b)
    if lowering.dtype == DType.BOOL:
        return lowering.binary(Opcode.OR, x, y)
    return lowering.add(x, lowering.mul(y, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def sub(lowering: Lowering, a: Value | Number, b: Value | Number, alpha: Number = 1) -> Value:
    x, y = _operands(lowering, a, b)
    return lowering.sub(x, lowering.mul(y, alpha))


@lowers(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(lowering: Lowering, a: Value, b: Value | Number, alpha: Number = 1) -> Value:
    return sub(lowering, b, a, alpha)


@lowers(aten.mul.Tensor, aten.mul.Scalar)
def mul(lowering: Lowering, a: Value, b: Value | Number) -> Value:
    x, y = _operands(lowering, a, b)
    if lowering.dtype == DType.BOOL:
        return lowering.binary(Opcode.AND, x, y)
    return lowering.mul(x, y)


@lowers(aten.div.Tensor, aten.div.Scalar)
def div(lowering: Lowering, a: Value | Number, b: Value | Number) -> Value:
    return lowering.div(*_operands(lowering, a, b))


@lowers(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(lowering: Lowering, a: Value, b: Value | Number, rounding_mode: str | None = None) -> Value:
    x, y = _operands(lowering, a, b)
    if lowering.dtype == DType.FLOAT32:
        quotient = lowering.div(x, y)
        if rounding_mode is None:
            return quotient
        return lowering.builder.round(quotient, Rounding.DOWN if rounding_mode == "floor" else Rounding.TOWARD_ZERO)
    return lowering.div(x, y) if rounding_mode == "floor" else _truncating_quotient(lowering, x, y)


def _truncating_quotient(lowering: Lowering, x: Value, y: Value) -> Value:
    """Integer x / y toward zero: the floor, plus one where signs differ and it does not divide; x / 0 = 0."""
    builder = lowering.builder
    zero = lowering.number(0, x.dtype)
    inexact = builder.binary(Opcode.NE, builder.binary(Opcode.REM, x, y), zero)
    negative = builder.binary(Opcode.XOR, *(builder.binary(Opcode.LT, v, zero) for v in builder.broadcast(x, y)))
    divides = builder.binary(Opcode.NE, builder.broadcast(y, x)[0], zero)
    up = builder.binary(Opcode.AND, builder.binary(Opcode.AND, inexact, negative), divides)
    return lowering.add(lowering.div(x, y), builder.cast(up, x.dtype))


@lowers(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder(lowering: Lowering, a: Value | Number, b: Value | Number) -> Value:
    if lowering.dtype == DType.FLOAT32:
        raise UnsupportedOperation("aten.remainder of floats has no exact semantics; integers have")
    return lowering.binary(Opcode.REM, *_operands(lowering, a, b))


@lowers(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(lowering: Lowering, a: Value, b: Value | Number) -> Value:
    if lowering.dtype == DType.FLOAT32:
        raise UnsupportedOperation("aten.fmod of floats has no exact semantics; integers have")
    x, y = _operands(lowering, a, b)
    return lowering.sub(x, lowering.mul(_truncating_quotient(lowering, x, y), y))


# Comparisons and logic


def _comparison(opcode: Opcode) -> Any:
    def rule(lowering: Lowering, a: Value, b: Value | Number) -> Value:
        return lowering.binary(opcode, *lowering.promoted(a, b))

    return rule


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _packet = getattr(aten, _name)
    lowers(_packet.Tensor, _packet.Scalar)(_comparison(Opcode[_name.upper()]))


def _bitwise(opcode: Opcode) -> Any:
    def rule(lowering: Lowering, a: Value | Number, b: Value | Number) -> Value:
        return lowering.binary(opcode, *_operands(lowering, a, b))

    return rule


def _logical(opcode: Opcode) -> Any:
    def rule(lowering: Lowering, a: Value, b: Value) -> Value:
        return lowering.binary(opcode, *(lowering.as_dtype(x, DType.BOOL) for x in (a, b)))

    return rule


for _name, _opcode in (("and", Opcode.AND), ("or", Opcode.OR), ("xor", Opcode.XOR)):
    _packet = getattr(aten, f"bitwise_{_name}")
    lowers(_packet.Tensor, _packet.Scalar, _packet.Scalar_Tensor)(_bitwise(_opcode))
    lowers(getattr(aten, f"logical_{_name}").default)(_logical(_opcode))

for _packet, _opcode in (
    (aten.bitwise_left_shift, Opcode.SHL),
    (aten.bitwise_right_shift, Opcode.SHR),
):
    lowers(_packet.Tensor, _packet.Tensor_Scalar, _packet.Scalar_Tensor)(_bitwise(_opcode))
lowers(aten.__lshift__.Tensor, aten.__lshift__.Scalar)(_bitwise(Opcode.SHL))
lowers(aten.__rshift__.Tensor, aten.__rshift__.Scalar)(_bitwise(Opcode.SHR))


@lowers(aten.bitwise_not.default)
def bitwise_not(lowering: Lowering, x: Value) -> Value:
    return lowering.unary(Opcode.NOT, x)


@lowers(aten.logical_not.default)
def logical_not(lowering: Lowering, x: Value) -> Value:
    return lowering.unary(Opcode.NOT, lowering.as_dtype(x, DType.BOOL))


@lowers(aten.where.self)
def where(lowering: Lowering, condition: Value, x: Value, y: Value) -> Value:
    return lowering.builder.select(lowering.as_dtype(condition, DType.BOOL), *_operands(lowering, x, y))


@lowers(aten.isnan.default)
def isnan(lowering: Lowering, x: Value) -> Value:
    return lowering.binary(Opcode.NE, x, x)


@lowers(aten.isinf.default)
def isinf(lowering: Lowering, x: Value) -> Value:
    magnitude = lowering.unary(Opcode.ABS, lowering.as_dtype(x, DType.FLOAT32))
    return lowering.binary(Opcode.EQ, magnitude, math.inf)


@lowers(aten.isfinite.default)
def isfinite(lowering: Lowering, x: Value) -> Value:
    magnitude = lowering.unary(Opcode.ABS, lowering.as_dtype(x, DType.FLOAT32))
    return lowering.binary(Opcode.LT, magnitude, math.inf)


# Extremes: a NaN operand gives NaN


@lowers(aten.maximum.default)
def maximum(lowering: Lowering, a: Value, b: Value) -> Value:
    return lowering.binary(Opcode.MAXIMUM, *_operands(lowering, a, b))


@lowers(aten.minimum.default)
def minimum(lowering: Lowering, a: Value, b: Value) -> Value:
    return lowering.binary(Opcode.MINIMUM, *_operands(lowering, a, b))


@lowers(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def clamp(
    lowering: Lowering, x: Value, low: Value | Number | None = None, high: Value | Number | None = None, **bounds: Any
) -> Value:
    low, high = bounds.get("min", low), bounds.get("max", high)
    result = lowering.as_dtype(x, lowering.dtype)
    if low is not None:
        result = lowering.binary(Opcode.MAXIMUM, *_operands(lowering, result, low))
    if high is not None:
        result = lowering.binary(Opcode.MINIMUM, *_operands(lowering, result, high))
    return result


@lowers(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(lowering: Lowering, x: Value, low: Value | Number) -> Value:
    return clamp(lowering, x, low)


@lowers(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(lowering: Lowering, x: Value, high: Value | Number) -> Value:
    return clamp(lowering, x, None, high)


@lowers(aten.relu.default)
def relu(lowering: Lowering, x: Value) -> Value:
    return lowering.binary(Opcode.MAXIMUM, x, 0)


# Functions of one operand


def _unary(opcode: Opcode) -> Any:
    def rule(lowering: Lowering, x: Value) -> Value:
        return lowering.unary(opcode, lowering.as_dtype(x, lowering.dtype))

    return rule


for _name in ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "sqrt", "rsqrt", "neg", "abs"):
    lowers(getattr(aten, _name).default)(_unary(Opcode[_name.upper()]))


@lowers(aten.reciprocal.default)
def reciprocal(lowering: Lowering, x: Value) -> Value:
    return lowering.div(1, lowering.as_dtype(x, lowering.dtype))


@lowers(aten.sign.default, aten.sgn.default)
def sign(lowering: Lowering, x: Value) -> Value:
    """(x > 0) - (x < 0): 0 for both zeros and for NaN."""
    if x.dtype == DType.BOOL:
        return x
    above, below = lowering.binary(Opcode.GT, x, 0), lowering.binary(Opcode.LT, x, 0)
    return lowering.sub(lowering.builder.cast(above, x.dtype), lowering.builder.cast(below, x.dtype))


def _rounding(rounding: Rounding) -> Any:
    def rule(lowering: Lowering, x: Value) -> Value:
        return lowering.builder.round(x, rounding) if x.dtype == DType.FLOAT32 else x

    return rule


lowers(aten.floor.default)(_rounding(Rounding.DOWN))
lowers(aten.ceil.default)(_rounding(Rounding.UP))
lowers(aten.trunc.default)(_rounding(Rounding.TOWARD_ZERO))
lowers(aten.round.default)(_rounding(Rounding.NEAREST_EVEN))


@lowers(aten.silu.default)
def silu(lowering: Lowering, x: Value) -> Value:
    return lowering.mul(x, lowering.unary(Opcode.SIGMOID, x))


@lowers(aten.leaky_relu.default)
def leaky_relu(lowering: Lowering, x: Value, slope: Number = 0.01) -> Value:
    return lowering.builder.select(lowering.binary(Opcode.GT, x, 0), x, lowering.mul(x, slope))


@lowers(aten.gelu.default)
def gelu(lowering: Lowering, x: Value, approximate: str = "none") -> Value:
    """(x / 2) (1 + erf(x sqrt(1/2))), or with tanh: (x / 2) (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    half = lowering.mul(x, 0.5)
    if approximate == "none":
        inner = lowering.unary(Opcode.ERF, lowering.mul(x, math.sqrt(0.5)))
    else:
        cube = lowering.mul(lowering.mul(x, x), x)
        argument = lowering.mul(lowering.add(x, lowering.mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        inner = lowering.unary(Opcode.TANH, argument)
    return lowering.mul(half, lowering.add(inner, 1.0))


REASONS.update(
    {
        "erfc": "Write 1 - torch.erf(x).",
        **dict.fromkeys(
            ("rand", "randn", "rand_like", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "normal",
             "normal_functional", "uniform", "multinomial", "native_dropout", "exponential", "rand_like_generator"),
            "Random numbers must be replayable: use cupel.protocol.program.uniform, normal or randint with a key; for "
            "dropout give make_step a dropout_seed, use SeededDropout, or call the module's eval().",
        ),
        "as_strided": "Use views that name dimensions (view, permute, slice).",
        "nonzero": "Its shape depends on values; use torch.where with a mask.",
        "masked_select": "Its shape depends on values; use torch.where with a mask.",
        "unique": "Its shape depends on values.",
        "convolution": "Write it as a matmul over unfolded windows.",
        "prod": "A floating product has no order-free meaning; sum logarithms.",
        "cumprod": "A floating product has no order-free meaning.",
        "_local_scalar_dense": "A Program cannot branch on a tensor's value: keep it a tensor, without .item().",
    }
)  # fmt: skip
