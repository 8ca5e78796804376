"""Lowering of products, softmaxes, norms, and of this package's own operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program import products, random, seeded_dropout
from cupel.protocol.program.lowering import Lowering, Number, lowers

aten = torch.ops.aten

# Importing these modules is what defines the operations below.
_DEFINED_BY = (products, random, seeded_dropout)


def _float32(lowering: Lowering, name: str) -> None:
    if lowering.dtype != DType.FLOAT32:
        raise UnsupportedOperation(f"{name} of {lowering.dtype.name.lower()} has no exact semantics; cast to float32")


@lowers(aten.mm.default, aten.bmm.default)
def product(lowering: Lowering, a: Value, b: Value) -> Value:
    _float32(lowering, "a matrix product")
    return lowering.matmul(a, b)


@lowers(aten.mv.default)
def matrix_vector(lowering: Lowering, a: Value, v: Value) -> Value:
    column = lowering.builder.reshape(v, (*v.shape, 1))
    return lowering.builder.reshape(product(lowering, a, column), lowering.shape)


@lowers(aten.addmm.default)
def addmm(lowering: Lowering, bias: Value, a: Value, b: Value, *, beta: Number = 1, alpha: Number = 1) -> Value:
    return lowering.add(lowering.mul(bias, beta), lowering.mul(product(lowering, a, b), alpha))


@lowers(aten._softmax.default)
def softmax(lowering: Lowering, x: Value, dim: int, half_to_float: bool) -> Value:
    e = _exponentials(lowering, x, dim)[1]
    return lowering.mark_softmax(lowering.div(e, lowering.builder.sum(e, [dim], keepdim=True)), dim)


def _exponentials(lowering: Lowering, x: Value, dim: int) -> tuple[Value, Value]:
    """x minus its largest along dim, and exp of that."""
    away = lowering.sub(x, lowering.builder.max(x, [dim], keepdim=True))
    return away, lowering.builder.unary(Opcode.EXP, away)


@lowers(aten._safe_softmax.default)
def safe_softmax(lowering: Lowering, x: Value, dim: int, dtype: Any = None) -> Value:
    """As softmax, and 0 where a whole row is -inf: there the largest is read as 0 and the sum as 1."""
    builder = lowering.builder
    x = lowering.as_dtype(x, lowering.dtype)
    largest = builder.max(x, [dim], keepdim=True)
    masked = lowering.binary(Opcode.EQ, largest, -math.inf)
    e = builder.unary(Opcode.EXP, lowering.sub(x, builder.select(masked, lowering.number(0, x.dtype), largest)))
    total = builder.select(masked, lowering.number(1, x.dtype), builder.sum(e, [dim], keepdim=True))
    return lowering.mark_softmax(lowering.div(e, total), dim)


@lowers(aten._log_softmax.default)
def log_softmax(lowering: Lowering, x: Value, dim: int, half_to_float: bool) -> Value:
    away, e = _exponentials(lowering, x, dim)
    return lowering.sub(away, lowering.builder.unary(Opcode.LOG, lowering.builder.sum(e, [dim], keepdim=True)))


@lowers(aten.native_layer_norm.default)
def layer_norm(
    lowering: Lowering, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, epsilon: float
) -> tuple[Value, Value, Value]:
    """(normalised, mean, rsqrt(variance + epsilon)): means are order-free sums over RN(count)."""
    dims = list(range(len(x.shape) - len(shape), len(x.shape)))
    normalised, mean, scale = _normalised(lowering, x, dims, epsilon)
    if weight is not None:
        normalised = lowering.mul(normalised, weight)
    if bias is not None:
        normalised = lowering.add(normalised, bias)
    return lowering.broadcast_to(normalised, x.shape), mean, scale


def _normalised(lowering: Lowering, x: Value, dims: Sequence[int], epsilon: float) -> tuple[Value, Value, Value]:
    builder = lowering.builder
    count = float(math.prod(x.shape[d] for d in dims))
    mean = lowering.div(builder.sum(x, dims, keepdim=True), count)
    away = lowering.sub(x, mean)
    variance = lowering.div(builder.sum(lowering.mul(away, away), dims, keepdim=True), count)
    scale = builder.unary(Opcode.RSQRT, lowering.add(variance, epsilon))
    return lowering.mul(away, scale), mean, scale


@lowers(aten.native_group_norm.default)
def group_norm(
    lowering: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: int,
    channels: int,
    inner: int,
    groups: int,
    epsilon: float,
) -> tuple[Value, Value, Value]:
    builder = lowering.builder
    grouped = builder.reshape(x, (batch, groups, channels // groups * inner))
    normalised, mean, scale = _normalised(lowering, grouped, [2], epsilon)
    normalised = builder.reshape(normalised, x.shape)
    channel = (1, channels, *(1 for _ in x.shape[2:]))
    if weight is not None:
        normalised = lowering.mul(normalised, builder.reshape(weight, channel))
    if bias is not None:
        normalised = lowering.add(normalised, builder.reshape(bias, channel))
    return normalised, builder.reshape(mean, (batch, groups)), builder.reshape(scale, (batch, groups))


# This package's own operations


@lowers(torch.ops.cupel.matmul.default)
def chosen_product(lowering: Lowering, a: Value, b: Value, digits: int, scale: str) -> Value:
    return lowering.builder.matmul(a, b, digits, scale)


@lowers(torch.ops.cupel.random_bits.default)
def random_bits(lowering: Lowering, key: Value, step: Value, shape: Sequence[int], stream: int) -> Value:
    return lowering.builder.apply(Opcode.PHILOX, [key, step], TensorType(DType.INT64, tuple(shape)), (stream,))


@lowers(torch.ops.cupel.multiply_high.default)
def multiply_high(lowering: Lowering, x: Value, y: Value) -> Value:
    return lowering.builder.binary(Opcode.MULHI, x, y)


@lowers(torch.ops.cupel.dropout.default)
def dropped(lowering: Lowering, x: Value, key: Value, step: Value, probability: float, stream: int) -> Value:
    """A softmax with elements dropped is still contracted by rows: no bit may depend on later tokens."""
    result = seeded_dropout.build_dropout(lowering.builder, x, key, step, probability, stream)
    return lowering.follow(x, result, lambda dim: dim)
