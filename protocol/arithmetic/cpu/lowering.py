"""From a Graph to work items: views resolved, constants folded, products recognised, everything else named.

An item is either a map or a row reduction, which grouping.py fuses into row kernels, or a call of a kernel of its
own (products, column sums, index-add...), or a step back into Python for the few operations without native code.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.panels import Form, scale_bytes
from cupel.protocol.arithmetic.cpu.views import Buffer, Dim, View
from cupel.protocol.arithmetic.operations import (
    ELEMENTWISE,
    ZERO_ROW,
    DType,
    Graph,
    Opcode,
    Operation,
    TensorType,
)


@dataclass(eq=False, slots=True)
class Map:
    """One elementwise result: `name` applied where the views of `args` and `out` walk together."""

    name: str
    args: tuple[View, ...]
    out: View
    attributes: tuple[int, ...] = ()
    after: tuple[Buffer, ...] = ()
    """Buffers whose earlier writers must have finished."""
    is_row: bool = False
    """Set by grouping: computed once a row."""


@dataclass(eq=False, slots=True)
class Reduce:
    """One number per row of `args[0]`: "sum", "max", "min" or "exponent" over its last dimension."""

    name: str
    args: tuple[View, ...]
    out: View
    attributes: tuple[int, ...] = ()
    after: tuple[Buffer, ...] = ()
    is_row: bool = True


@dataclass(eq=False, slots=True)
class Call:
    """A kernel of its own. plan.py knows how to emit each name."""

    name: str
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    numbers: tuple[int, ...] = ()
    scratch_bytes: int = 0
    """Memory each thread needs while it runs."""
    detail: object = None


@dataclass(eq=False, slots=True)
class Python:
    """An operation evaluated by the plain PyTorch backend between two native calls."""

    operation: Operation
    reads: tuple[View, ...]
    writes: tuple[View, ...]


Item = Map | Reduce | Call | Python


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised operand in panels: int16 planes; scales and notes (panels.py)."""

    planes: View
    scales: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """How a product's operand lies: `rows` and `terms` with one stride each, one of them 1; batches by offset."""

    view: View
    rows: int
    terms: int
    unit_terms: bool
    """Terms are contiguous; else rows are."""
    stride: int
    """Of the other dimension."""


@dataclass(slots=True)
class Lowered:
    """What the later stages work on."""

    items: list[Item] = field(default_factory=list)
    constants: list[torch.Tensor] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)


def evaluate(operation: Operation, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """One operation on plain PyTorch."""
    from cupel.protocol.arithmetic import torch_backend

    return torch_backend.evaluate(operation, list(operands))


class Lowering:
    """Lowers one graph; `run` is the only entry."""

    def __init__(self, graph: Graph, isa: InstructionSet) -> None:
        self.graph, self.isa = graph, isa
        self.first = len(graph.inputs) + len(graph.constants)
        self.at = self.first
        """The value being lowered."""
        self.result = Lowered()
        self.values: dict[int, View] = {}
        self.shared: dict[object, View] = {}
        self.packs: dict[object, Packed] = {}
        self.users: dict[int, list[int]] = {}
        self.recognised: dict[int, tuple[int, ...]] = {}
        """Products that never materialise their quantised operands, with their float sources."""

    # Building blocks

    def buffer(self, elements: int, dtype: DType, size_bytes: int = 0) -> Buffer:
        buffer = Buffer(elements, dtype, size_bytes=size_bytes)
        self.result.buffers.append(buffer)
        return buffer

    def fresh(self, shape: Sequence[int], dtype: DType, dims: tuple[Dim, ...] | None = None) -> View:
        return View(dims or views.contiguous(shape), dtype, self.buffer(prod(shape), dtype))

    def constant(self, tensor: torch.Tensor) -> View:
        """A view of constant memory; one number if all elements have one bit pattern."""
        dtype = DType.of(tensor.dtype)
        flat = tensor.contiguous().reshape(-1)
        if flat.numel():
            bits = flat.view(torch.int32) if dtype == DType.FLOAT32 else flat
            if bool((bits == bits[0]).all()):
                return views.repeated(tensor.shape, flat[0].item(), dtype)
        else:
            return views.repeated(tensor.shape, 0, dtype)
        buffer = Buffer(flat.numel(), dtype, ("constant", len(self.result.constants)))
        self.result.constants.append(flat)
        return View(views.contiguous(tensor.shape), dtype, buffer)

    @staticmethod
    def is_constant(view: View) -> bool:
        return view.buffer is None or view.buffer.place[0] == "constant"

    def constant_tensor(self, view: View) -> torch.Tensor:
        """What a constant view sees."""
        if view.buffer is None:
            assert view.number is not None
            return torch.full(view.shape, view.number, dtype=view.dtype.torch)
        memory = self.result.constants[view.buffer.place[1]]
        factors = [f for dim in view.dims for f in dim]
        strided = torch.as_strided(memory, [n for n, _ in factors], [s for _, s in factors], view.offset)
        return strided.reshape(view.shape).clone()

    def materialised(self, view: View, shape: Sequence[int] | None = None) -> View:
        """A contiguous copy of the view (or the view itself), in another shape if asked."""
        shape = view.shape if shape is None else tuple(shape)
        if not (view.is_contiguous()):
            key = ("copy", view.key())
            if key not in self.shared:
                if self.is_constant(view) and view.buffer is not None:
                    self.shared[key] = self.constant(self.constant_tensor(view))
                else:
                    self.shared[key] = self.copy_to(view, self.fresh(view.shape, view.dtype))
            view = self.shared[key]
        result = views.reshape(view, shape)
        assert result is not None
        return result

    def copy_to(self, view: View, out: View, after: tuple[Buffer, ...] = ()) -> View:
        self.result.items.append(Map("copy", (view,), out, after=after))
        return out

    def map(self, name: str, args: Sequence[View], type_: TensorType, attributes: tuple[int, ...] = ()) -> View:
        """An elementwise result, computed only as large as its operands really are, once for equal operands."""
        shape = type_.shape
        small = self.without_repeats(args, shape)
        if small != shape:
            narrowed = [narrow(a, small) for a in args]
            return views.expand(self.map(name, narrowed, TensorType(type_.dtype, small), attributes), shape)
        key = (name, attributes, type_, tuple(a.key() for a in args))
        if key in self.shared:
            return self.shared[key]
        dims: tuple[Dim, ...] | None = None
        for a in args if name != "lookup" else ():
            if a.buffer is not None and all(stride for dim in a.dims for n, stride in dim if n > 1):
                dims = views.packed_like(a)
                break
        out = self.fresh(shape, type_.dtype, dims)
        if not walk_together(out, args):
            out = View(views.contiguous(shape), out.dtype, out.buffer)
            if not walk_together(out, args):
                args = [a if a.buffer is None else self.materialised(a) for a in args]
                assert walk_together(out, args)
        self.result.items.append(Map(name, tuple(args), out, attributes))
        self.shared[key] = out
        return out

    @staticmethod
    def without_repeats(args: Sequence[View], shape: Sequence[int]) -> tuple[int, ...]:
        """The result's shape with size 1 where every operand repeats itself."""

        def repeats(dim: Dim) -> bool:
            return all(stride == 0 or n == 1 for n, stride in dim)

        return tuple(1 if all(repeats(a.dims[d]) for a in args) else n for d, n in enumerate(shape))

    # The walk

    def run(self) -> Lowered:
        for at, op in enumerate(self.graph.operations):
            for value in op.operands:
                self.users.setdefault(value, []).append(at)
        needed = self._find_needed()
        for i, type_ in enumerate(self.graph.inputs):
            buffer = Buffer(type_.elements, type_.dtype, ("input", i))
            empty = type_.elements == 0
            self.values[i] = (
                views.repeated(type_.shape, 0, type_.dtype)
                if empty
                else View(views.contiguous(type_.shape), type_.dtype, buffer)
            )
        for i, tensor in enumerate(self.graph.constants):
            self.values[len(self.graph.inputs) + i] = self.constant(tensor.detach().cpu())
        for at, op in enumerate(self.graph.operations):
            value = self.at = self.first + at
            if value in needed:
                if op.result.elements == 0:
                    self.values[value] = views.repeated(op.result.shape, 0, op.result.dtype)
                else:
                    self.values[value] = self._lower(value, op)
                assert self.values[value].shape == op.result.shape, (op, self.values[value].shape)
        self._bind_outputs()
        return self.result

    def _producer(self, value: int) -> Operation | None:
        return self.graph.operations[value - self.first] if value >= self.first else None

    def _find_needed(self) -> set[int]:
        """Values that must exist; a recognised product needs only its float sources."""
        needed = set(self.graph.outputs)
        for at in range(len(self.graph.operations) - 1, -1, -1):
            value, op = self.first + at, self.graph.operations[at]
            if value not in needed or op.result.elements == 0:  # what has no elements needs nothing
                continue
            sources: tuple[int, ...] | None = None
            if op.opcode == Opcode.DOT:
                sources = self._sources_of_dot(op)
            elif op.opcode == Opcode.DOT_ROWS:
                sources = self._sources_of_dot_rows(op)
            if sources is not None:
                self.recognised[value] = sources
            needed.update(op.operands if sources is None else sources)
        return needed

    def _unpadded(self, value: int) -> int:
        """Through a PAD of zeros after the last dimension."""
        op = self._producer(value)
        if op is None or op.opcode != Opcode.PAD or any(op.attributes):
            return value
        source = op.operands[0]
        return source if op.result.shape[:-1] == self.graph.type_of(source).shape[:-1] else value

    def _source(self, values: Sequence[int], exponent: int, digits: int, opcode: Opcode) -> tuple[int, ...] | None:
        """Operands before the exponent, if these planes are exactly their quantisation under EXPONENT's own result."""
        e = self._producer(exponent)
        expected = Opcode.EXPONENT if opcode == Opcode.QUANTIZE else Opcode.EXPONENT_SCALED
        if e is None or e.opcode != expected:
            return None
        for plane, value in enumerate(values):
            q = self._producer(value)
            if q is None or q.opcode != opcode or q.attributes != (digits, plane):
                return None
            if q.operands != (*e.operands, exponent):
                return None
        return e.operands

    def _sources_of_dot(self, op: Operation) -> tuple[int, ...] | None:
        digits = op.attributes[0]
        sources = []
        for side in (0, 1):
            quantised = [self._unpadded(v) for v in op.operands[2 + side :: 2]]
            source = self._source(quantised, op.operands[side], digits, Opcode.QUANTIZE)
            if source is None:
                return None
            sources.append(source[0])
        return tuple(sources)

    def _sources_of_dot_rows(self, op: Operation) -> tuple[int, ...] | None:
        digits = op.attributes[0]
        quantised = [self._unpadded(v) for v in op.operands[1::2]]
        left = self._source(quantised, op.operands[0], digits, Opcode.QUANTIZE_SCALED)
        if left is None:
            return None
        rank = len(op.result.shape)
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        right = []
        for value in op.operands[2::2]:
            p = self._producer(self._unpadded(value))
            if p is None or p.opcode != Opcode.PERMUTE or p.attributes != swapped:
                return None
            right.append(p.operands[0])
        source = self._source(right, left[1], digits, Opcode.QUANTIZE)
        return None if source is None else (left[0], source[0])

    def _bind_outputs(self) -> None:
        for i, value in enumerate(self.graph.outputs):
            view = self.values[value]
            if view.covers_buffer() and view.buffer is not None and view.buffer.place == ("arena", -1):
                view.buffer.place = ("output", i)
                self.result.outputs.append(view.buffer)
                continue
            type_ = self.graph.type_of(value)
            buffer = self.buffer(type_.elements, type_.dtype)
            buffer.place = ("output", i)
            self.result.outputs.append(buffer)
            if type_.elements:
                self.copy_to(view, View(views.contiguous(type_.shape), type_.dtype, buffer))

    # One operation

    def _lower(self, value: int, op: Operation) -> View:
        code = op.opcode
        if value in self.recognised:
            return self._product(value, op, [self.values[v] for v in self.recognised[value]])
        args = [self.values[v] for v in op.operands]
        if code in _SHAPES:
            return _SHAPES[code](self, op, args)
        if code == Opcode.IOTA:
            return self._iota(op)
        if args and all(self.is_constant(a) for a in args) and code != Opcode.PHILOX:
            return self._folded(op, args)
        if code in ELEMENTWISE:
            if code == Opcode.CAST and args[0].dtype == op.result.dtype:
                return args[0]
            return self.map(code.name.lower(), args, op.result, op.attributes)
        if code in _REST:
            return _REST[code](self, op, args)
        return self._python(op, args)

    def _folded(self, op: Operation, args: Sequence[View]) -> View:
        """Computed now, only as large as the operands really are."""
        shape = op.result.shape
        if op.opcode in ELEMENTWISE:
            small = self.without_repeats(args, shape)
            tensors = [self.constant_tensor(narrow(a, small)) for a in args]
            result = evaluate(
                Operation(op.opcode, op.operands, TensorType(op.result.dtype, small), op.attributes), tensors
            )
            return views.expand(self.constant(result), shape)
        return self.constant(evaluate(op, [self.constant_tensor(a) for a in args]))

    def _python(self, op: Operation, args: Sequence[View]) -> View:
        out = self.fresh(op.result.shape, op.result.dtype)
        reads = tuple(
            self.copy_to(a, self.fresh(a.shape, a.dtype))
            if a.buffer is None and a.elements
            else (a if a.elements == 0 else self.materialised(a))
            for a in args
        )
        self.result.items.append(Python(op, reads, (out,)))
        return out

    # Shapes

    def _reshape(self, op: Operation, args: Sequence[View]) -> View:
        return views.reshape(args[0], op.result.shape) or self.materialised(args[0], op.result.shape)

    def _permute(self, op: Operation, args: Sequence[View]) -> View:
        return views.permute(args[0], op.attributes)

    def _expand(self, op: Operation, args: Sequence[View]) -> View:
        return views.expand(args[0], op.result.shape)

    def _slice(self, op: Operation, args: Sequence[View]) -> View:
        dim, start, step = op.attributes
        view = args[0]
        result = views.slice_dim(view, dim, start, op.result.shape[dim], step)
        if result is None:
            result = views.slice_dim(self.materialised(view), dim, start, op.result.shape[dim], step)
            assert result is not None
        return result

    def _iota(self, op: Operation) -> View:
        shape = op.result.shape
        dim = op.attributes[0]
        counted = self.constant(torch.arange(shape[dim], dtype=torch.int64))
        flat = views.reshape(counted, [n if d == dim else 1 for d, n in enumerate(shape)])
        assert flat is not None
        return views.expand(flat, shape)

    def _pad(self, op: Operation, args: Sequence[View]) -> View:
        fill, *low = op.attributes
        dtype = op.result.dtype
        number: int | float = fill
        if dtype == DType.FLOAT32:
            number = struct.unpack("<f", struct.pack("<I", fill))[0]
        filled = views.repeated(op.result.shape, number, dtype)
        if args[0].elements == 0:
            return filled
        out = self.fresh(op.result.shape, dtype)
        assert out.buffer is not None
        if args[0].elements < op.result.elements:
            self.copy_to(filled, out)
        inner: View | None = out
        for dim, start in enumerate(low):
            assert inner is not None
            inner = views.slice_dim(inner, dim, start, args[0].shape[dim], 1)
        assert inner is not None
        self._copy_refined(args[0], inner, (out.buffer,))
        return out

    def _concat(self, op: Operation, args: Sequence[View]) -> View:
        shape, dtype = op.result.shape, op.result.dtype
        out, pieces = self._cut(self.fresh(shape, dtype, self._wanted_layout(self.at, shape)), op, args)
        last = views.single(out.dims[-1])
        if pieces is None or last is None or last[1] > 1:
            # The order its user wants cannot be cut into pieces, or has nothing side by side.
            out, pieces = self._cut(self.fresh(shape, dtype), op, args)
        assert pieces is not None
        for a, piece in zip(args, pieces, strict=True):
            if a.elements:
                self._copy_refined(a, piece, ())
        return out

    @staticmethod
    def _cut(out: View, op: Operation, args: Sequence[View]) -> tuple[View, list[View] | None]:
        """`out`, and the part of it that each operand fills."""
        dim, start = op.attributes[0], 0
        pieces = []
        for a in args:
            piece = views.slice_dim(out, dim, start, a.shape[dim], 1) if a.shape[dim] else out
            if piece is None:
                return out, None
            pieces.append(piece)
            start += a.shape[dim]
        return out, pieces

    def _copy_refined(self, view: View, out: View, after: tuple[Buffer, ...]) -> None:
        if view.buffer is not None and views.refine([view.factors(), out.factors()]) is None:
            view = self.materialised(view)
            assert views.refine([view.factors(), out.factors()]) is not None
        self.copy_to(view, out, after)

    # Reductions and indexing

    def _reduction(self, op: Operation, args: Sequence[View]) -> View:
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
        if key in self.shared:
            return self.shared[key]
        column = self._column_sum(op, x) if op.opcode == Opcode.SUM and x.dtype == DType.FLOAT32 else None
        if column is not None:
            self.shared[key] = column
            return column
        if x.buffer is None:
            x = self.copy_to(x, self.fresh(x.shape, x.dtype))
        if views.single(x.dims[-1]) is None:
            x = self.materialised(x)
        out = self.fresh(shape, op.result.dtype)
        if views.refine([views.merged(f for dim in x.dims[:-1] for f in dim), out.factors()]) is None:
            x = self.materialised(x)
        self.result.items.append(Reduce(name, (x,), out))
        self.shared[key] = out
        return out

    def _column_sum(self, op: Operation, x: View) -> View | None:
        """A sum down columns that lie side by side in memory."""
        last = views.single(x.dims[-1])
        outer = views.merged(f for dim in x.dims[:-1] for f in dim)
        if x.buffer is None or last is None or last[1] <= 1 or len(outer) != 1 or outer[0][1] != 1:
            return None
        out = self.fresh(op.result.shape, op.result.dtype)
        self.result.items.append(Call("column_sum", (x,), (out,), (last[0], outer[0][0], last[1])))
        return out

    def _row_scan(self, op: Operation, args: Sequence[View]) -> View:
        """ARGMAX, ARGMIN, CUMSUM: one sequential pass a row."""
        x = self.materialised(args[0])
        if x.buffer is None:
            x = self.copy_to(x, self.fresh(x.shape, x.dtype))
        length = x.shape[-1]
        out = self.fresh(op.result.shape, op.result.dtype)
        self.result.items.append(Call(op.opcode.name.lower(), (x,), (out,), (x.elements // length, length)))
        return out

    def _row_order(self, op: Operation, args: Sequence[View]) -> View:
        """TOPK, SORT: the positions of a row's first elements."""
        x = self.materialised(args[0])
        if x.buffer is None:
            x = self.copy_to(x, self.fresh(x.shape, x.dtype))
        length = x.shape[-1]
        out = self.fresh(op.result.shape, op.result.dtype)
        descending = 1 if op.opcode == Opcode.TOPK else op.attributes[0]
        numbers = (x.elements // length, length, op.result.shape[-1], descending)
        self.result.items.append(Call("order", (x,), (out,), numbers))
        return out

    def _quantize(self, op: Operation, args: Sequence[View]) -> View:
        x, e = args
        spread = views.expand(e.with_dims((*e.dims, ((1, 0),))), x.shape)
        return self.map("quantize", [x, spread], op.result, op.attributes)

    def _take(self, op: Operation, args: Sequence[View]) -> View:
        x, index = args
        if x.elements == 0:
            return views.repeated(op.result.shape, 0, op.result.dtype)
        return self._lookup(op, x, index, 0, rows=True)

    def _gather(self, op: Operation, args: Sequence[View]) -> View:
        x, index = args
        if x.elements == 0:
            return views.repeated(op.result.shape, 0, op.result.dtype)
        return self._lookup(op, x, index, op.attributes[0], rows=False)

    def _lookup(self, op: Operation, x: View, index: View, dim: int, *, rows: bool) -> View:
        """A map whose first operand is read at an index: its view stands still in the looked-up dimension."""
        if x.buffer is None:
            x = self.copy_to(x, self.fresh(x.shape, x.dtype))
        along = views.single(x.dims[dim])
        if along is None:
            x = self.materialised(x)
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
                        return self._lookup(op, self.materialised(x), index, dim, rows=rows)
                    sliced = cut
            base = sliced.with_dims(((index.shape[d], 0),) if d == dim else f for d, f in enumerate(sliced.dims))
            spread = index
        flat = View(views.contiguous(op.result.shape), op.result.dtype, Buffer(op.result.elements, op.result.dtype))
        if not walk_together(flat, (base, spread)):
            # Contiguous operands always walk together with a contiguous result.
            return self._lookup(op, self.in_order(x), self.in_order(index), dim, rows=rows)
        return self.map("lookup", [base, spread], op.result, (limit, along[1]))

    def _index_add(self, op: Operation, args: Sequence[View]) -> View:
        x, index, source = (self._in_memory(a) for a in args)
        (height, width), count = op.result.shape, index.elements
        out = self.fresh(op.result.shape, op.result.dtype)
        cells = self.buffer(height * width, DType.INT64, height * width * 16)
        scratch = View(((((height * width), 1),),), DType.INT64, cells)
        reads = (x, index, source) if count else (x, x, x)
        self.result.items.append(Call("index_add", reads, (out, scratch), (count, height, width)))
        return out

    def _scatter(self, op: Operation, args: Sequence[View]) -> View:
        x, index, source = args
        out = self.fresh(op.result.shape, op.result.dtype)
        self._copy_refined(x, out, ())
        if index.elements:
            dim = op.attributes[0]
            target = views.contiguous(op.result.shape)
            base = tuple(((n, 0),) if d == dim else ((n, target[d][0][1]),) for d, n in enumerate(index.shape))
            self.result.items.append(
                Call(
                    "scatter",
                    (self._in_memory(index), self._in_memory(source), out),
                    (out,),
                    (op.result.shape[dim], target[dim][0][1]),
                    detail=tuple((n, f[0][1]) for n, f in zip(index.shape, base, strict=True)),
                )
            )
        return out

    def in_order(self, view: View) -> View:
        return view if view.buffer is None else self.materialised(view)

    def _in_memory(self, view: View) -> View:
        if view.elements == 0:
            return view
        if view.buffer is None:
            return self.copy_to(view, self.fresh(view.shape, view.dtype))
        return self.materialised(view)

    def _philox(self, op: Operation, args: Sequence[View]) -> View:
        out = self.fresh(op.result.shape, op.result.dtype)
        self.result.items.append(
            Call("philox", tuple(self._in_memory(a) for a in args), (out,), (op.result.elements, op.attributes[0]))
        )
        return out

    # Products

    def _product(self, value: int, op: Operation, sources: Sequence[View]) -> View:
        """A recognised DOT or DOT_ROWS from the float operands a[..., M, K] and b[..., N, K] (b[..., K, N] by rows)."""
        a, b = sources
        by_rows = op.opcode == Opcode.DOT_ROWS
        turned = False
        if by_rows:
            b = views.permute(b, (*range(len(b.dims) - 2), len(b.dims) - 1, len(b.dims) - 2))
        shape = op.result.shape
        if a.shape[-1] == 0:
            return views.repeated(shape, 0.0, DType.FLOAT32)
        batch = prod(shape[:-2])
        dims = self._wanted_layout(value, shape)
        rows, columns = views.single(dims[-2]), views.single(dims[-1])
        if rows is None or columns is None or columns[1] not in (0, 1):
            if rows is not None and columns is not None and rows[1] == 1 and not by_rows:
                # Users want columns side by side: the transposed product, whose sums are the same.
                a, b, turned = b, a, True
            else:
                dims = views.contiguous(shape)
        out = self.fresh(shape, DType.FLOAT32, dims)
        written = views.permute(out, (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)) if turned else out
        left = self._matrix(a, unit="terms" if by_rows else "any")
        right = self._matrix(b, unit="rows" if by_rows else "any")
        digits = op.attributes[0]
        item: Call
        if batch == 1 and not by_rows:
            forms = [Form.of(self.isa, digits, left.terms, left=is_left) for is_left in (True, False)]
            pa, pb = (self._packed(m, form) for m, form in zip((left, right), forms, strict=True))
            detail = (left.rows, right.rows, left.terms, digits)
            item = Call("product", (pa.planes, pa.scales, pb.planes, pb.scales), (written,), detail=detail)
        else:
            item = Call("products", (left.view, right.view), (written,), detail=(left, right, batch, digits, by_rows))
        self.result.items.append(item)
        return out

    def _matrix(self, x: View, *, unit: str = "any") -> Matrix:
        """The operand as a matrix a kernel can read; copied only if the dimension wanted contiguous is not.

        unit  "terms", "rows" or "any" of the two
        """
        found = self._as_matrix(x, unit)
        if found is None:
            swapped = (*range(len(x.dims) - 2), len(x.dims) - 1, len(x.dims) - 2)
            # A copy keeps side by side what is so already; as matrix and as its transpose it is made once.
            if unit == "rows" or (unit == "any" and any(stride == 1 for n, stride in x.dims[-2] if n > 1)):
                copy = views.permute(self._in_memory(views.permute(x, swapped)), swapped)
            else:
                copy = self._in_memory(x)
            found = self._as_matrix(copy, unit)
            assert found is not None
        return found

    @staticmethod
    def _as_matrix(x: View, unit: str) -> Matrix | None:
        rows, terms = x.shape[-2:]
        if x.buffer is None:
            return None
        r, t = views.single(x.dims[-2]), views.single(x.dims[-1])
        if r is None or t is None:
            return None
        if (t[1] == 1 or terms == 1) and unit != "rows":
            return Matrix(view=x, rows=rows, terms=terms, unit_terms=True, stride=r[1])
        if (r[1] == 1 or rows == 1) and unit != "terms":
            return Matrix(view=x, rows=rows, terms=terms, unit_terms=False, stride=t[1])
        return None

    def _packed(self, matrix: Matrix, form: Form) -> Packed:
        key = ("pack", matrix.view.key(), matrix.unit_terms, form)
        if key not in self.packs:
            panel = self.isa.columns
            words = scale_bytes(matrix.rows, panel) // 8
            size = form.plane_bytes(matrix.rows, matrix.terms, panel) * form.planes
            quantised = View((((size // 2, 1),),), DType.INT16, self.buffer(size // 2, DType.INT16))
            scales = View((((words, 1),),), DType.INT64, self.buffer(words, DType.INT64))
            self.result.items.append(Call("pack", (matrix.view,), (quantised, scales), detail=(matrix, form)))
            self.packs[key] = Packed(quantised, scales)
        return self.packs[key]

    def _wanted_layout(self, value: int, shape: tuple[int, ...]) -> tuple[Dim, ...]:
        """Dimensions in the memory order of what the value becomes while it has one user: the copy a user would need
        is then already made. Follows RESHAPE, PERMUTE and elementwise operations of the same shape."""
        best = View(views.contiguous(shape), DType.FLOAT32, Buffer(prod(shape), DType.FLOAT32))
        while len(self.users.get(value, ())) == 1:
            user = self.graph.operations[self.users[value][0]]
            if user.opcode == Opcode.PERMUTE:
                best = views.permute(best, user.attributes)
            elif user.opcode == Opcode.RESHAPE:
                reshaped = views.reshape(best, user.result.shape)
                if reshaped is None:
                    break
                best = reshaped
            elif user.opcode not in ELEMENTWISE or user.result.shape != self.graph.type_of(value).shape:
                break
            value = self.first + self.users[value][0]
        # Strides of `best` name places in row-major order of the value; give each the stride it has in best's order.
        stride = 1
        places: list[tuple[int, int, int]] = []
        for size, old in reversed([f for dim in best.dims for f in dim if f[0] > 1]):
            places.append((old, size, stride))
            stride *= size
        dims = views.regrouped([(size, new) for _, size, new in sorted(places, reverse=True)], shape)
        return views.contiguous(shape) if dims is None else dims


def walk_together(out: View, args: Sequence[View]) -> bool:
    """Whether one nest of loops walks the result and all operands."""
    return views.refine([out.factors(), *(a.factors() for a in args if a.buffer is not None)]) is not None


def narrow(view: View, shape: Sequence[int]) -> View:
    """The view with size 1 where `shape` has it and the view only repeats itself."""
    if view.buffer is None:
        assert view.number is not None
        return views.repeated(shape, view.number, view.dtype)
    return view.with_dims(((1, 0),) if size == 1 else dim for dim, size in zip(view.dims, shape, strict=True))


_Rule = Callable[[Lowering, Operation, Sequence[View]], View]
_SHAPES: dict[Opcode, _Rule] = {
    Opcode.RESHAPE: Lowering._reshape,
    Opcode.PERMUTE: Lowering._permute,
    Opcode.EXPAND: Lowering._expand,
    Opcode.SLICE: Lowering._slice,
    Opcode.PAD: Lowering._pad,
    Opcode.CONCAT: Lowering._concat,
}
_REST: dict[Opcode, _Rule] = {
    Opcode.SUM: Lowering._reduction,
    Opcode.MAX: Lowering._reduction,
    Opcode.MIN: Lowering._reduction,
    Opcode.EXPONENT: Lowering._reduction,
    Opcode.ARGMAX: Lowering._row_scan,
    Opcode.ARGMIN: Lowering._row_scan,
    Opcode.CUMSUM: Lowering._row_scan,
    Opcode.TOPK: Lowering._row_order,
    Opcode.SORT: Lowering._row_order,
    Opcode.GATHER: Lowering._gather,
    Opcode.TAKE: Lowering._take,
    Opcode.INDEX_ADD: Lowering._index_add,
    Opcode.SCATTER: Lowering._scatter,
    Opcode.PHILOX: Lowering._philox,
    Opcode.QUANTIZE: Lowering._quantize,
}
