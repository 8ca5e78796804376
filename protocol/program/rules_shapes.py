"""Lowering of views, copies, constructors and joins."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program.lowering import Lowering, Number, lowers

aten = torch.ops.aten


@lowers(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.lift.default,
)
def identity(_: Lowering, x: Value, **__: Any) -> Value:
    return x


@lowers(aten._to_copy.default)
def to_copy(lowering: Lowering, x: Value, **_: Any) -> Value:
    return lowering.as_dtype(x, lowering.dtype)


@lowers(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def reshape(lowering: Lowering, x: Value, *_: Any) -> Value:
    result = lowering.builder.reshape(x, lowering.shape)
    return lowering.follow(x, result, lambda dim: _dimension_after(x.shape, result.shape, dim))


def _dimension_after(before: Sequence[int], after: Sequence[int], dim: int) -> int | None:
    """The dimension of a reshaped tensor that runs as `dim` did: same size, same element counts on either side."""
    wanted = (prod(before[:dim]), before[dim], prod(before[dim + 1 :]))
    same = [j for j in range(len(after)) if (prod(after[:j]), after[j], prod(after[j + 1 :])) == wanted]
    return same[-1] if same else None


@lowers(aten.permute.default)
def permute(lowering: Lowering, x: Value, dims: Sequence[int]) -> Value:
    order = [d % len(x.shape) for d in dims]
    return lowering.follow(x, lowering.builder.permute(x, order), order.index)


@lowers(aten.expand.default)
def expand(lowering: Lowering, x: Value, _: Sequence[int], **__: Any) -> Value:
    result = lowering.broadcast_to(x, lowering.shape)
    missing = len(result.shape) - len(x.shape)
    return lowering.follow(x, result, lambda d: d + missing if x.shape[d] == result.shape[d + missing] else None)


@lowers(aten.slice.Tensor)
def slice_(
    lowering: Lowering, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    dim %= len(x.shape)
    first = _position(start, x.shape[dim], 0)
    result = lowering.builder.slice(x, dim, first, lowering.shape[dim], step)
    return lowering.follow(x, result, lambda d: d if d != dim else None)


def _position(index: int | None, size: int, default: int) -> int:
    """A slice bound as PyTorch reads it: negative from the end, then clamped."""
    if index is None:
        return default
    return min(max(index + size if index < 0 else index, 0), size)


@lowers(aten.select.int)
def select(lowering: Lowering, x: Value, dim: int, index: int) -> Value:
    dim %= len(x.shape)
    row = lowering.builder.slice(x, dim, index % x.shape[dim], 1)
    result = lowering.builder.reshape(row, lowering.shape)
    return lowering.follow(x, result, lambda d: None if d == dim else d - (d > dim))


@lowers(aten.split_with_sizes.default)
def split_with_sizes(lowering: Lowering, x: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [lowering.builder.slice(x, dim, start, size) for start, size in zip(starts, sizes, strict=True)]


@lowers(aten.cat.default)
def cat(lowering: Lowering, tensors: Sequence[Value], dim: int = 0) -> Value:
    # PyTorch lets an empty vector stand among tensors of any rank.
    kept = [x for x in tensors if x.shape != (0,)] or list(tensors[:1])
    return lowering.builder.concat([lowering.as_dtype(x, lowering.dtype) for x in kept], dim)


@lowers(aten.repeat.default)
def repeat(lowering: Lowering, x: Value, repeats: Sequence[int]) -> Value:
    builder = lowering.builder
    shape = (1,) * (len(repeats) - len(x.shape)) + x.shape
    apart = builder.reshape(x, [size for n in shape for size in (1, n)])
    grown = builder.expand(apart, [size for r, n in zip(repeats, shape, strict=True) for size in (r, n)])
    return builder.reshape(grown, lowering.shape)


@lowers(aten.flip.default)
def flip(lowering: Lowering, x: Value, dims: Sequence[int]) -> Value:
    builder = lowering.builder
    for dim in dims:
        size = x.shape[dim]
        backwards = lowering.sub(lowering.number(size - 1, DType.INT64), builder.iota((size,), 0))
        x = take_along(lowering, x, dim % len(x.shape), backwards)
    return x


def take_along(lowering: Lowering, x: Value, dim: int, index: Value) -> Value:
    """x's slices of `dim` at `index`[I...]; the index's dimensions stand where `dim` stood."""
    builder = lowering.builder
    rest = [d for d in range(len(x.shape)) if d != dim]
    front = builder.permute(x, [dim, *rest])
    shape = (*index.shape, *front.shape[1:])
    taken = builder.apply(Opcode.TAKE, [front, index], TensorType(x.dtype, shape))
    n = len(index.shape)
    return builder.permute(taken, [*range(n, n + dim), *range(n), *range(n + dim, len(shape))])


@lowers(aten.diagonal.default)
def diagonal(lowering: Lowering, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """Every (columns + 1)th element of the last two dimensions laid flat."""
    builder = lowering.builder
    rank = len(x.shape)
    pair = [dim1 % rank, dim2 % rank]
    last = builder.permute(x, [*(d for d in range(rank) if d not in pair), *pair])
    rows, columns = last.shape[-2:]
    flat = builder.reshape(last, (*last.shape[:-2], rows * columns))
    start = offset if offset >= 0 else -offset * columns
    size = lowering.shape[-1]
    return builder.slice(flat, -1, start if size else 0, size, columns + 1)


@lowers(aten.unfold.default)
def unfold(lowering: Lowering, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows along dim: their contents become the last dimension."""
    builder = lowering.builder
    dim %= len(x.shape)
    windows = (lowering.shape[dim], size)
    first = lowering.mul(builder.iota(windows, 0), step)
    taken = take_along(lowering, x, dim, lowering.add(first, builder.iota(windows, 1)))
    order = [d for d in range(len(taken.shape)) if d != dim + 1]
    return builder.permute(taken, [*order, dim + 1])


@lowers(aten.constant_pad_nd.default)
def constant_pad(lowering: Lowering, x: Value, pad: Sequence[int], value: Number = 0) -> Value:
    builder = lowering.builder
    rank = len(x.shape)
    low, high = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        low[rank - 1 - i], high[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    for dim in range(rank):  # negative padding cuts
        cut_low, cut_high = max(-low[dim], 0), max(-high[dim], 0)
        x = builder.slice(x, dim, cut_low, x.shape[dim] - cut_low - cut_high)
    low, high = [max(n, 0) for n in low], [max(n, 0) for n in high]
    fill = merkle.tensor_bytes(torch.tensor(value, dtype=x.dtype.torch))
    bits = int.from_bytes(fill, "little")
    if bits < 1 << 63:
        return builder.pad(x, low, high, bits)
    for dim in range(rank):  # a negative int64 does not fit PAD's attribute
        sides = [(*x.shape[:dim], n, *x.shape[dim + 1 :]) for n in (low[dim], high[dim])]
        before, after = (lowering.full(value, x.dtype, shape) for shape in sides)
        x = builder.concat([part for part in (before, x, after) if part.shape[dim]] or [x], dim)
    return x


@lowers(aten.full.default, aten.full_like.default)
def full(lowering: Lowering, _: Any, fill_value: Number, **__: Any) -> Value:
    return lowering.full(fill_value, lowering.dtype, lowering.shape)


@lowers(aten.new_full.default)
def new_full(lowering: Lowering, _: Value, __: Sequence[int], fill_value: Number, **___: Any) -> Value:
    return lowering.full(fill_value, lowering.dtype, lowering.shape)


@lowers(aten.scalar_tensor.default)
def scalar_tensor(lowering: Lowering, value: Number, **_: Any) -> Value:
    return lowering.number(value, lowering.dtype)


@lowers(
    aten.empty.memory_format,
    aten.empty_permuted.default,
    aten.empty_strided.default,
    aten.new_empty_strided.default,
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
)
def zeros(lowering: Lowering, *_: Any, **__: Any) -> Value:
    """Uninitialised memory reads as zero, as good a value as any and the same everywhere."""
    return lowering.full(0, lowering.dtype, lowering.shape)


@lowers(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(lowering: Lowering, *_: Any, **__: Any) -> Value:
    return lowering.full(1, lowering.dtype, lowering.shape)


@lowers(aten.arange.start_step)
def arange(lowering: Lowering, start: Number, _: Number, step: Number = 1, **__: Any) -> Value:
    if int(start) != start or int(step) != step:
        raise UnsupportedOperation(
            f"aten.arange from {start} by {step} has no exact semantics: make an arange of integers and multiply it"
        )
    positions = lowering.builder.iota(lowering.shape, 0)
    counted = lowering.mul(positions, int(step))
    if int(start) != 0:
        counted = lowering.add(counted, int(start))
    return lowering.as_dtype(counted, lowering.dtype)


@lowers(aten.copy.default)
def copy(lowering: Lowering, x: Value, source: Value, *_: Any) -> Value:
    return lowering.broadcast_to(lowering.as_dtype(source, x.dtype), x.shape)


@lowers(aten.slice_scatter.default)
def slice_scatter(
    lowering: Lowering,
    x: Value,
    source: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    builder = lowering.builder
    dim %= len(x.shape)
    size = x.shape[dim]
    first = _position(start, size, 0)
    source = lowering.as_dtype(source, x.dtype)
    if step == 1:
        last = max(_position(end, size, size), first)
        parts = [builder.slice(x, dim, 0, first), source, builder.slice(x, dim, last, size - last)]
        return builder.concat([part for part in parts if part.shape[dim]] or [x], dim)
    positions = lowering.add(lowering.mul(builder.iota(source.shape, dim), step), first)
    return builder.apply(Opcode.SCATTER, [x, positions, source], x.type, (dim,))


@lowers(aten.select_scatter.default)
def select_scatter(lowering: Lowering, x: Value, source: Value, dim: int, index: int) -> Value:
    dim %= len(x.shape)
    row = lowering.builder.reshape(source, (*x.shape[:dim], 1, *x.shape[dim + 1 :]))
    first = index % x.shape[dim]
    return slice_scatter(lowering, x, row, dim, first, first + 1)
