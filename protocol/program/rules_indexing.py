"""Lowering of gathers, scatters and indexing by tensors. An index out of range reads 0 and writes nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from cupel.protocol.arithmetic.builder import Value
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.errors import UnsupportedOperation
from cupel.protocol.program.lowering import Lowering, Number, lowers
from cupel.protocol.program.rules_shapes import take_along

aten = torch.ops.aten


def _index(lowering: Lowering, index: Value) -> Value:
    return lowering.as_dtype(index, DType.INT64)


def _from_front(lowering: Lowering, index: Value, size: int) -> Value:
    """Negative positions count from the end, as in Python indexing."""
    index = _index(lowering, index)
    known = lowering.builder.constant_value(index)
    if known is not None and bool((known >= 0).all()):
        return index
    below = lowering.binary(Opcode.LT, index, 0)
    return lowering.builder.select(below, lowering.add(index, size), index)


@lowers(aten.gather.default)
def gather(lowering: Lowering, x: Value, dim: int, index: Value, **_: Any) -> Value:
    builder = lowering.builder
    if not x.shape:
        x, index = builder.reshape(x, (1,)), builder.reshape(index, (1,) if not index.shape else index.shape)
    shape = index.shape
    taken = builder.apply(Opcode.GATHER, [x, _index(lowering, index)], TensorType(x.dtype, shape), (dim % len(shape),))
    return builder.reshape(taken, lowering.shape)


@lowers(aten.index_select.default)
def index_select(lowering: Lowering, x: Value, dim: int, index: Value) -> Value:
    return lowering.builder.reshape(
        take_along(lowering, x, dim % len(x.shape), _index(lowering, index)), lowering.shape
    )


@lowers(aten.scatter.value)
def scatter_value(lowering: Lowering, x: Value, dim: int, index: Value, value: Number) -> Value:
    """One place a row is a one-hot choice, which fuses; more are a SCATTER."""
    builder = lowering.builder
    dim %= len(x.shape)
    index = _index(lowering, index)
    if index.shape == (*x.shape[:dim], 1, *x.shape[dim + 1 :]):
        here = builder.binary(Opcode.EQ, builder.iota(x.shape, dim), index)
        return builder.select(here, lowering.number(value, x.dtype), x)
    source = lowering.full(value, x.dtype, index.shape)
    return builder.apply(Opcode.SCATTER, [x, index, source], x.type, (dim,))


@lowers(aten.scatter.src)
def scatter(lowering: Lowering, x: Value, dim: int, index: Value, source: Value) -> Value:
    index = _index(lowering, index)
    for d, size in enumerate(index.shape):
        source = lowering.builder.slice(source, d, 0, size)
    return lowering.builder.apply(Opcode.SCATTER, [x, index, source], x.type, (dim % len(x.shape),))


@lowers(aten.scatter_add.default)
def scatter_add(lowering: Lowering, x: Value, dim: int, index: Value, source: Value) -> Value:
    """Order-free per cell, the old value included: INDEX_ADD on flattened positions."""
    builder = lowering.builder
    dim %= len(x.shape)
    index = _index(lowering, index)
    for d, size in enumerate(index.shape):
        source = builder.slice(source, d, 0, size)
    coordinates = [index if d == dim else builder.iota(index.shape, d) for d in range(len(x.shape))]
    flat = _flat_positions(lowering, coordinates, x.shape, checked=[dim])
    cells = prod(x.shape)
    added = _index_add(lowering, builder.reshape(x, (cells, 1)), flat, builder.reshape(source, (prod(index.shape), 1)))
    return builder.reshape(added, x.shape)


@lowers(aten.index_add.default)
def index_add(lowering: Lowering, x: Value, dim: int, index: Value, source: Value, alpha: Number = 1) -> Value:
    builder = lowering.builder
    dim %= len(x.shape)
    order = [dim, *(d for d in range(len(x.shape)) if d != dim)]
    front, incoming = builder.permute(x, order), builder.permute(lowering.mul(source, alpha), order)
    n = prod(index.shape)
    rows = prod(front.shape[1:])
    added = _index_add(
        lowering,
        builder.reshape(front, (front.shape[0], rows)),
        builder.reshape(_index(lowering, index), (n,)),
        builder.reshape(incoming, (n, rows)),
    )
    return builder.permute(builder.reshape(added, front.shape), _inverse(order))


def _index_add(lowering: Lowering, x: Value, index: Value, source: Value) -> Value:
    if x.dtype != DType.FLOAT32:
        raise UnsupportedOperation("adding to indexed places has exact semantics for float32 only")
    n = source.shape[0]
    return lowering.builder.apply(
        Opcode.INDEX_ADD, [x, lowering.builder.reshape(index, (n,)), source], TensorType(x.dtype, x.shape)
    )


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(d) for d in range(len(order))]


def _flat_positions(
    lowering: Lowering, coordinates: Sequence[Value], sizes: Sequence[int], checked: Sequence[int]
) -> Value:
    """Row-major positions; -1, which is out of range, where a `checked` coordinate is out of its own range."""
    builder = lowering.builder
    flat = coordinates[0]
    for coordinate, size in zip(coordinates[1:], sizes[1:], strict=True):
        flat = lowering.add(lowering.mul(flat, size), coordinate)
    if len(coordinates) == 1:
        return flat
    for d in checked:
        inside = builder.binary(
            Opcode.AND,
            lowering.binary(Opcode.GE, coordinates[d], 0),
            lowering.binary(Opcode.LT, coordinates[d], sizes[d]),
        )
        flat = builder.select(inside, flat, lowering.number(-1, DType.INT64))
    return flat


class _Places:
    """x[index...] with tensors at some dimensions: those brought to the front, and their positions as one index."""

    def __init__(self, lowering: Lowering, x: Value, indices: Sequence[Value | None]) -> None:
        builder = lowering.builder
        used = [d for d, index in enumerate(indices) if index is not None]
        tensors = [index for index in indices if index is not None]
        if any(index.dtype in (DType.BOOL, DType.UINT8) for index in tensors):
            raise UnsupportedOperation(
                "aten.index with a mask: the shape would depend on values; use torch.where with the mask"
            )
        self.order = [*used, *(d for d in range(len(x.shape)) if d not in used)]
        self.sizes = tuple(x.shape[d] for d in used)
        tensors = builder.broadcast(*(_from_front(lowering, i, n) for i, n in zip(tensors, self.sizes, strict=True)))
        self.shape = tensors[0].shape
        self.flat = _flat_positions(lowering, tensors, self.sizes, checked=range(len(tensors)))
        front = builder.permute(x, self.order)
        self.rest = front.shape[len(used) :]
        self.rows = builder.reshape(front, (prod(self.sizes), *self.rest))
        # NumPy's rule: neighbouring indices leave their dimensions in place, others move to the front.
        self.at = used[0] if used == list(range(used[0], used[0] + len(used))) else 0

    def result_order(self) -> list[int]:
        """Permutation from [I..., rest...] to the dimensions of x[index...]."""
        n = len(self.shape)
        return [*range(n, n + self.at), *range(n), *range(n + self.at, n + len(self.rest))]


@lowers(aten.index.Tensor)
def index_tensor(lowering: Lowering, x: Value, indices: Sequence[Value | None]) -> Value:
    builder = lowering.builder
    places = _Places(lowering, x, indices)
    taken = builder.apply(Opcode.TAKE, [places.rows, places.flat], TensorType(x.dtype, (*places.shape, *places.rest)))
    return builder.permute(taken, places.result_order())


@lowers(aten.index_put.default)
def index_put(
    lowering: Lowering, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    """Accumulating: order-free per cell, the old value included. Otherwise the last source position wins."""
    builder = lowering.builder
    places = _Places(lowering, x, indices)
    order = places.result_order()
    placed = (*places.shape, *places.rest)
    source = lowering.broadcast_to(lowering.as_dtype(values, x.dtype), [placed[d] for d in order])
    n, width = prod(places.shape), prod(places.rest)
    source = builder.reshape(builder.permute(source, _inverse(order)), (n, width))
    rows = builder.reshape(places.rows, (places.rows.shape[0], width))
    flat = builder.reshape(places.flat, (n,))
    if accumulate:
        written = _index_add(lowering, rows, flat, source)
    else:
        index = lowering.broadcast_to(builder.reshape(flat, (n, 1)), (n, width))
        written = builder.apply(Opcode.SCATTER, [rows, index, source], rows.type, (0,))
    front = builder.reshape(written, (*places.sizes, *places.rest))
    return builder.permute(front, _inverse(places.order))


@lowers(aten.embedding.default)
def embedding(lowering: Lowering, weight: Value, index: Value, *_: Any) -> Value:
    return take_along(lowering, weight, 0, _index(lowering, index))


@lowers(aten.embedding_dense_backward.default)
def embedding_backward(
    lowering: Lowering, gradient: Value, index: Value, rows: int, padding: int, scale_by_frequency: bool
) -> Value:
    """Order-free sum per row of the table; what belongs to the padding row is dropped."""
    if scale_by_frequency:
        raise UnsupportedOperation("aten.embedding_dense_backward with scale_grad_by_freq has no exact semantics")
    builder = lowering.builder
    n, width = prod(index.shape), gradient.shape[-1]
    flat = builder.reshape(_index(lowering, index), (n,))
    if padding >= 0:
        at_padding = lowering.binary(Opcode.EQ, flat, padding)
        flat = builder.select(at_padding, lowering.number(-1, DType.INT64), flat)
    table = lowering.full(0, DType.FLOAT32, (rows, width))
    return _index_add(lowering, table, flat, builder.reshape(gradient, (n, width)))
