"""Reductions, scans, orders, look-ups, scatters and random words as items."""

from __future__ import annotations

from collections.abc import Sequence

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.building import Building, walk_together
from cupel.protocol.arithmetic.cpu.items import Call, Reduce
from cupel.protocol.arithmetic.cpu.shapes import copy_refined
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import ZERO_ROW, DType, Opcode, Operation


def reduction(low: Building, op: Operation, args: Sequence[View]) -> View:
    x = args[0]
    shape = op.result.shape
    name = op.opcode.name.lower()
    if x.shape[-1] == 0:
        return views.repeated(shape, ZERO_ROW if op.opcode == Opcode.EXPONENT else 0, op.result.dtype)
    last = x.dims[-1]
    if x.buffer is not None:
        # The answer does not depend on the order of the terms, so the memory's order is as good as any.
        last = views.merged(sorted(last, key=lambda f: -f[1])) or ((1, 0),)
        x = x.with_dims((*x.dims[:-1], last))
    key = (name, x.key())
    if key in low.shared:
        return low.shared[key]
    is_float_sum = op.opcode == Opcode.SUM and x.dtype == DType.FLOAT32
    column = _column_sum(low, op, x) if is_float_sum and low.sums_columns else None
    if column is not None:
        low.shared[key] = column
        return column
    if x.buffer is None:
        x = low.copy_to(x, low.fresh(x.shape, x.dtype))
    if views.single(x.dims[-1]) is None:
        x = low.materialised(x)
    out = low.fresh(shape, op.result.dtype)
    if views.refine([views.merged(f for dim in x.dims[:-1] for f in dim), out.factors()]) is None:
        x = low.materialised(x)
    low.result.items.append(Reduce(name, (x,), out))
    low.shared[key] = out
    return out


def _column_sum(low: Building, op: Operation, x: View) -> View | None:
    """A sum down columns that lie side by side in memory."""
    last = views.single(x.dims[-1])
    outer = views.merged(f for dim in x.dims[:-1] for f in dim)
    if x.buffer is None or last is None or last[1] <= 1 or len(outer) != 1 or outer[0][1] != 1:
        return None
    out = low.fresh(op.result.shape, op.result.dtype)
    low.result.items.append(Call("column_sum", (x,), (out,), (last[0], outer[0][0], last[1])))
    return out


def row_scan(low: Building, op: Operation, args: Sequence[View]) -> View:
    """ARGMAX, ARGMIN, CUMSUM: one sequential pass a row."""
    x = low.materialised(args[0])
    if x.buffer is None:
        x = low.copy_to(x, low.fresh(x.shape, x.dtype))
    length = x.shape[-1]
    out = low.fresh(op.result.shape, op.result.dtype)
    low.result.items.append(Call(op.opcode.name.lower(), (x,), (out,), (x.elements // length, length)))
    return out


def row_order(low: Building, op: Operation, args: Sequence[View]) -> View:
    """TOPK, SORT: the positions of a row's first elements."""
    x = low.materialised(args[0])
    if x.buffer is None:
        x = low.copy_to(x, low.fresh(x.shape, x.dtype))
    length = x.shape[-1]
    out = low.fresh(op.result.shape, op.result.dtype)
    descending = 1 if op.opcode == Opcode.TOPK else op.attributes[0]
    numbers = (x.elements // length, length, op.result.shape[-1], descending)
    low.result.items.append(Call("order", (x,), (out,), numbers))
    return out


def quantize(low: Building, op: Operation, args: Sequence[View]) -> View:
    x, e = args
    spread = views.expand(e.with_dims((*e.dims, ((1, 0),))), x.shape)
    return low.map("quantize", [x, spread], op.result, op.attributes)


def take(low: Building, op: Operation, args: Sequence[View]) -> View:
    x, index = args
    if x.elements == 0:
        return views.repeated(op.result.shape, 0, op.result.dtype)
    return _lookup(low, op, x, index, 0, rows=True)


def gather(low: Building, op: Operation, args: Sequence[View]) -> View:
    x, index = args
    if x.elements == 0:
        return views.repeated(op.result.shape, 0, op.result.dtype)
    return _lookup(low, op, x, index, op.attributes[0], rows=False)


def _lookup(low: Building, op: Operation, x: View, index: View, dim: int, *, rows: bool) -> View:
    """A map whose first operand is read at an index: its view stands still in the looked-up dimension."""
    if x.buffer is None:
        x = low.copy_to(x, low.fresh(x.shape, x.dtype))
    along = views.single(x.dims[dim])
    if along is None:
        x = low.materialised(x)
        along = views.single(x.dims[dim])
        assert along is not None
    limit = x.shape[dim]
    if rows:
        base = x.with_dims((*(((n, 0),) for n in index.shape), *x.dims[1:]))
        spread = index.with_dims((*index.dims, *(((n, 0),) for n in x.shape[1:])))
    else:
        sliced: View = x.with_dims(((1, 0),) if d == dim else f for d, f in enumerate(x.dims))
        for d, n in enumerate(index.shape):
            if d != dim and n != sliced.shape[d]:
                cut = views.slice_dim(sliced, d, 0, n, 1)
                if cut is None:
                    return _lookup(low, op, low.materialised(x), index, dim, rows=rows)
                sliced = cut
        base = sliced.with_dims(((index.shape[d], 0),) if d == dim else f for d, f in enumerate(sliced.dims))
        spread = index
    flat = View(views.contiguous(op.result.shape), op.result.dtype, Buffer(op.result.elements, op.result.dtype))
    if not walk_together(flat, (base, spread)):
        # Contiguous operands always walk together with a contiguous result.
        return _lookup(low, op, low.in_order(x), low.in_order(index), dim, rows=rows)
    return low.map("lookup", [base, spread], op.result, (limit, along[1]))


def index_add(low: Building, op: Operation, args: Sequence[View]) -> View:
    x, index, source = (low.in_memory(a) for a in args)
    (height, width), count = op.result.shape, index.elements
    out = low.fresh(op.result.shape, op.result.dtype)
    cells = low.buffer(height * width, DType.INT64, height * width * 16)
    scratch = View(((((height * width), 1),),), DType.INT64, cells)
    reads = (x, index, source) if count else (x, x, x)
    low.result.items.append(Call("index_add", reads, (out, scratch), (count, height, width)))
    return out


def scatter(low: Building, op: Operation, args: Sequence[View]) -> View:
    x, index, source = args
    out = low.fresh(op.result.shape, op.result.dtype)
    copy_refined(low, x, out, ())
    if index.elements:
        dim = op.attributes[0]
        target = views.contiguous(op.result.shape)
        base = tuple(((n, 0),) if d == dim else ((n, target[d][0][1]),) for d, n in enumerate(index.shape))
        low.result.items.append(
            Call(
                "scatter",
                (low.in_memory(index), low.in_memory(source), out),
                (out,),
                (op.result.shape[dim], target[dim][0][1]),
                detail=tuple((n, f[0][1]) for n, f in zip(index.shape, base, strict=True)),
            )
        )
    return out


def philox(low: Building, op: Operation, args: Sequence[View]) -> View:
    out = low.fresh(op.result.shape, op.result.dtype)
    low.result.items.append(
        Call("philox", tuple(low.in_memory(a) for a in args), (out,), (op.result.elements, op.attributes[0]))
    )
    return out
