"""Lowering of reductions, orders and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.operations import DType, Opcode, Rounding, TensorType
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program.lowering import Lowering, Number, lowers

aten = torch.ops.aten

Dims = Sequence[int] | int | None


def _dims(x: Value, dims: Dims) -> list[int]:
    """Reduced dimensions, from the front; None and [] mean all."""
    if isinstance(dims, int):
        dims = [dims]
    return sorted({d % len(x.shape) for d in dims}) if dims and x.shape else list(range(len(x.shape)))


def _count(x: Value, dims: Sequence[int]) -> int:
    return math.prod(x.shape[d] for d in dims)


@lowers(aten.sum.dim_IntList, aten.sum.default)
def sum_(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    """Floats order-free; integers and bools in int64."""
    dtype = lowering.dtype
    exact = lowering.as_dtype(x, DType.FLOAT32 if dtype == DType.FLOAT32 else DType.INT64)
    return lowering.as_dtype(lowering.builder.sum(exact, _dims(x, dims), keepdim), dtype)


@lowers(aten.mean.dim, aten.mean.default)
def mean(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False, **_: Any) -> Value:
    return _mean(lowering, lowering.as_dtype(x, lowering.dtype), _dims(x, dims), keepdim)


def _mean(lowering: Lowering, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """The order-free sum divided by the count, itself rounded to binary32."""
    return lowering.div(lowering.builder.sum(x, dims, keepdim), float(_count(x, dims)))


@lowers(aten.var.correction)
def variance(
    lowering: Lowering, x: Value, dims: Dims = None, correction: Number | None = None, keepdim: bool = False
) -> Value:
    return var_mean(lowering, x, dims, correction, keepdim)[0]


@lowers(aten.var_mean.correction)
def var_mean(
    lowering: Lowering, x: Value, dims: Dims = None, correction: Number | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    """Sum of squared differences from the rounded mean over max(count - correction, 0)."""
    reduced = _dims(x, dims)
    center = _mean(lowering, x, reduced, keepdim=True)
    away = lowering.sub(x, center)
    squares = lowering.builder.sum(lowering.mul(away, away), reduced, keepdim)
    count = max(float(_count(x, reduced)) - (1 if correction is None else correction), 0.0)
    return lowering.div(squares, count), center if keepdim else _mean(lowering, x, reduced, keepdim=False)


@lowers(aten.linalg_vector_norm.default)
def vector_norm(
    lowering: Lowering, x: Value, order: Number = 2, dims: Dims = None, keepdim: bool = False, **_: Any
) -> Value:
    builder = lowering.builder
    x = lowering.as_dtype(x, lowering.dtype)
    reduced = _dims(x, dims)
    if order == 2:
        return builder.unary(Opcode.SQRT, builder.sum(lowering.mul(x, x), reduced, keepdim))
    magnitude = builder.unary(Opcode.ABS, x)
    if order == 1:
        return builder.sum(magnitude, reduced, keepdim)
    if order in (math.inf, -math.inf):
        return builder.reduce(Opcode.MAX if order > 0 else Opcode.MIN, magnitude, reduced, keepdim)
    raise UnsupportedOperation(f"aten.linalg_vector_norm of order {order}: 1, 2, inf and -inf have exact semantics")


@lowers(aten.amax.default, aten.max.default)
def amax(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
    return _extreme(lowering, Opcode.MAX, x, _dims(x, dims), keepdim)


@lowers(aten.amin.default, aten.min.default)
def amin(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
    return _extreme(lowering, Opcode.MIN, x, _dims(x, dims), keepdim)


def _extreme(lowering: Lowering, opcode: Opcode, x: Value, dims: Dims, keepdim: bool) -> Value:
    """MAX, MIN, ARGMAX or ARGMIN; bools are compared as 0 and 1."""
    dims = dims if dims is None else _dims(x, dims)
    if x.dtype != DType.BOOL:
        return lowering.builder.reduce(opcode, x, dims, keepdim)
    result = lowering.builder.reduce(opcode, lowering.builder.cast(x, DType.UINT8), dims, keepdim)
    return result if opcode in (Opcode.ARGMAX, Opcode.ARGMIN) else lowering.as_dtype(result, DType.BOOL)


@lowers(aten.max.dim)
def max_dim(lowering: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    values = _extreme(lowering, Opcode.MAX, x, [dim], keepdim)
    return values, _extreme(lowering, Opcode.ARGMAX, x, [dim], keepdim)


@lowers(aten.min.dim)
def min_dim(lowering: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    values = _extreme(lowering, Opcode.MIN, x, [dim], keepdim)
    return values, _extreme(lowering, Opcode.ARGMIN, x, [dim], keepdim)


@lowers(aten.argmax.default)
def argmax(lowering: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _extreme(lowering, Opcode.ARGMAX, x, dim if dim is None else [dim], keepdim)


@lowers(aten.argmin.default)
def argmin(lowering: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _extreme(lowering, Opcode.ARGMIN, x, dim if dim is None else [dim], keepdim)


@lowers(aten.any.default, aten.any.dim, aten.any.dims)
def any_(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
    counted = lowering.builder.cast(lowering.as_dtype(x, DType.BOOL), DType.INT64)
    return lowering.as_dtype(lowering.builder.sum(counted, _dims(x, dims), keepdim), lowering.dtype)


@lowers(aten.all.default, aten.all.dim, aten.all.dims)
def all_(lowering: Lowering, x: Value, dims: Dims = None, keepdim: bool = False) -> Value:
    false = lowering.builder.unary(Opcode.NOT, lowering.as_dtype(x, DType.BOOL))
    misses = lowering.builder.sum(lowering.builder.cast(false, DType.INT64), _dims(x, dims), keepdim)
    return lowering.as_dtype(lowering.binary(Opcode.EQ, misses, 0), lowering.dtype)


@lowers(aten.histc.default)
def histc(lowering: Lowering, x: Value, bins: int = 100, low: Number = 0, high: Number = 0) -> Value:
    """Counts by whole part, as mixtures of experts count their tokens; `high` itself belongs to the last bin."""
    if bins != high - low or low != int(low):
        raise UnsupportedOperation(
            f"aten.histc with {bins} bins from {low} to {high}: bins of width 1 from a whole number have exact meaning"
        )
    builder = lowering.builder
    column = builder.reshape(x, (math.prod(x.shape), 1))
    whole = builder.round(column, Rounding.DOWN) if x.dtype == DType.FLOAT32 else column
    whole = builder.select(lowering.binary(Opcode.EQ, column, high), lowering.number(high - 1, x.dtype), whole)
    places = builder.cast(lowering.add(builder.iota((bins,), 0), int(low)), x.dtype)
    hits = builder.cast(builder.binary(Opcode.EQ, whole, places), DType.INT64)
    return builder.cast(builder.sum(hits, [0]), lowering.dtype)


@lowers(aten.cumsum.default)
def cumsum(lowering: Lowering, x: Value, dim: int, **_: Any) -> Value:
    if lowering.dtype == DType.FLOAT32 and not _counts(lowering, x, dim):
        raise UnsupportedOperation(
            "aten.cumsum of floats: a floating running sum has no order-free meaning; integers have one"
        )
    last = _move_last(lowering, lowering.as_dtype(x, DType.INT64), dim)
    running = lowering.builder.apply(Opcode.CUMSUM, [last], last.type)
    return lowering.as_dtype(_move_last(lowering, running, dim, back=True), lowering.dtype)


def _counts(lowering: Lowering, x: Value, dim: int) -> bool:
    """Whether x is one known whole number everywhere, so small that every running sum is a float: a mask of ones."""
    small = lowering.builder.constant_value(lowering.before_broadcast(x))
    if small is None or small.numel() != 1 or not float(small).is_integer():
        return False
    return abs(int(small)) * (x.shape[dim] if x.shape else 1) <= 1 << 24


def _move_last(lowering: Lowering, x: Value, dim: int, back: bool = False) -> Value:
    """Dimension `dim` last, or the last one back at `dim`."""
    return x if not x.shape else lowering.builder.transpose(x, dim, -1)


@lowers(aten.topk.default)
def topk(
    lowering: Lowering, x: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    """Ties to the lowest index; always in order, which `sorted=False` leaves open."""
    builder = lowering.builder
    last = _move_last(lowering, x, dim)
    shape = (*last.shape[:-1], k)
    if largest:
        index = builder.apply(Opcode.TOPK, [last], TensorType(DType.INT64, shape), (k,))
    else:
        index = builder.slice(_order(lowering, last, descending=False), -1, 0, k)
    values = builder.apply(Opcode.GATHER, [last, index], TensorType(x.dtype, shape), (len(shape) - 1,))
    return _move_last(lowering, values, dim), _move_last(lowering, index, dim)


def _order(lowering: Lowering, last: Value, descending: bool) -> Value:
    return lowering.builder.apply(Opcode.SORT, [last], TensorType(DType.INT64, last.shape), (int(descending),))


@lowers(aten.sort.default)
def sort(lowering: Lowering, x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    last = _move_last(lowering, x, dim)
    index = _order(lowering, last, descending)
    values = lowering.builder.apply(Opcode.GATHER, [last, index], last.type, (len(last.shape) - 1,))
    return _move_last(lowering, values, dim), _move_last(lowering, index, dim)


@lowers(aten.sort.stable)
def sort_stable(
    lowering: Lowering, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    return sort(lowering, x, dim, descending)
