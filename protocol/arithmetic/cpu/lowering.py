"""From a Graph to work items: views resolved, constants folded, products recognised, everything else named.

An item is either a map or a row reduction, which grouping.py fuses into row kernels, or a call of a kernel of its
own (products, column sums, index-add...), or a step back into Python for the few operations without native code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from cupel.protocol.arithmetic.cpu import indexing, operands, shapes, views
from cupel.protocol.arithmetic.cpu.building import Building, evaluate, narrow
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.items import Lowered, Map, Python, Reduce
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import ELEMENTWISE, Graph, Opcode, Operation, TensorType
from cupel.protocol.arithmetic.phases import phases_of

_FOLDED_IN_PHASES = 1 << 14
"""Elements of the largest constant that a phase of its own may fold."""


class Lowering(Building):
    """Lowers one graph; `run` is the only entry."""

    def __init__(self, graph: Graph, isa: InstructionSet) -> None:
        super().__init__(graph, isa)
        self.phases = phases_of(graph)
        self.recognised: dict[int, tuple[int, ...]] = {}
        """Products that never materialise their quantised operands, with their float sources."""

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
                self.enter_phase(self.phases[at])
                done = len(self.result.items)
                if op.result.elements == 0:
                    self.values[value] = views.repeated(op.result.shape, 0, op.result.dtype)
                else:
                    self.values[value] = self._lower(value, op)
                assert self.values[value].shape == op.result.shape, (op, self.values[value].shape)
                for item in self.result.items[done:]:
                    if isinstance(item, Map | Reduce):
                        item.phase = self.phase
        self._bind_outputs()
        return self.result

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
        op = self.producer(value)
        if op is None or op.opcode != Opcode.PAD or any(op.attributes):
            return value
        source = op.operands[0]
        return source if op.result.shape[:-1] == self.graph.type_of(source).shape[:-1] else value

    def _source(self, values: Sequence[int], exponent: int, digits: int, opcode: Opcode) -> tuple[int, ...] | None:
        """Operands before the exponent, if these planes are exactly their quantisation under EXPONENT's own result."""
        e = self.producer(exponent)
        expected = Opcode.EXPONENT if opcode == Opcode.QUANTIZE else Opcode.EXPONENT_SCALED
        if e is None or e.opcode != expected:
            return None
        for plane, value in enumerate(values):
            q = self.producer(value)
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
            p = self.producer(self._unpadded(value))
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

    def _lower(self, value: int, op: Operation) -> View:
        code = op.opcode
        if value in self.recognised:
            return operands.product(self, value, op, [self.values[v] for v in self.recognised[value]])
        args = [self.values[v] for v in op.operands]
        if code in _SHAPES:
            return _SHAPES[code](self, op, args)
        if code == Opcode.IOTA:
            return shapes.iota(self, op)
        constant = bool(args) and all(self.is_constant(a) for a in args) and code != Opcode.PHILOX
        # Whatever is computed again in another phase shall not lie in memory, not as a constant either.
        if constant and (not self.phase or code not in ELEMENTWISE or self._is_small(op, args)):
            return self._folded(op, args)
        if code in ELEMENTWISE:
            if code == Opcode.CAST and args[0].dtype == op.result.dtype:
                return args[0]
            return self.map(code.name.lower(), args, op.result, op.attributes)
        if code in _REST:
            return _REST[code](self, op, args)
        return self._python(op, args)

    def _is_small(self, op: Operation, args: Sequence[View]) -> bool:
        return prod(self.without_repeats(args, op.result.shape)) <= _FOLDED_IN_PHASES

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


_Rule = Callable[[Building, Operation, Sequence[View]], View]
_SHAPES: dict[Opcode, _Rule] = {
    Opcode.RESHAPE: shapes.reshape,
    Opcode.PERMUTE: shapes.permute,
    Opcode.EXPAND: shapes.expand,
    Opcode.SLICE: shapes.sliced,
    Opcode.PAD: shapes.pad,
    Opcode.CONCAT: shapes.concat,
}
_REST: dict[Opcode, _Rule] = {
    Opcode.SUM: indexing.reduction,
    Opcode.MAX: indexing.reduction,
    Opcode.MIN: indexing.reduction,
    Opcode.EXPONENT: indexing.reduction,
    Opcode.ARGMAX: indexing.row_scan,
    Opcode.ARGMIN: indexing.row_scan,
    Opcode.CUMSUM: indexing.row_scan,
    Opcode.TOPK: indexing.row_order,
    Opcode.SORT: indexing.row_order,
    Opcode.GATHER: indexing.gather,
    Opcode.TAKE: indexing.take,
    Opcode.INDEX_ADD: indexing.index_add,
    Opcode.SCATTER: indexing.scatter,
    Opcode.PHILOX: indexing.philox,
    Opcode.QUANTIZE: indexing.quantize,
}
