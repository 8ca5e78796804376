"""From one graph to what each of several workers does, so that the results are the graph's, to the last bit.

Order-free arithmetic is what allows it: the definition of a sum or a product names exponents, which are maxima, and
sums of integers, and neither depends on who takes part in which order (docs/design/parallel.md). A rule for each
operation says how its result is cut when operands are; what has no rule for a cut gets its operand whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from cupel.protocol.arithmetic.operations import (
    ELEMENTWISE,
    DType,
    Graph,
    Opcode,
    Operation,
    TensorType,
)
from cupel.protocol.errors import UsageError
from cupel.protocol.parallel.nodes import Exchange, Meeting, Nodes, Value
from cupel.protocol.parallel.sharding import Sharding, evenly, reshaped

SCATTER_FROM = 256
"""Elements from which a product's or index-add's result is left cut along its first dimension: a small one is cheaper
to have everywhere than to collect."""
_REBUILT = frozenset(
    {
        Opcode.EXPONENT,
        Opcode.QUANTIZE,
        Opcode.EXPONENT_SCALED,
        Opcode.QUANTIZE_SCALED,
        Opcode.PAD,
        Opcode.RESHAPE,
        Opcode.PERMUTE,
        Opcode.EXPAND,
    }
)
"""Where their result is wanted whole, their operand is fetched and they are done again: engines then still see a
product of floats, and views cost nothing."""


def is_scattered(type_: TensorType, workers: int) -> bool:
    """Whether a result of this type is left cut along its first dimension."""
    return type_.elements >= SCATTER_FROM and type_.shape[0] >= workers


class Partitioner:
    """One worker's part of one graph; `run` is the only entry."""

    def __init__(self, graph: Graph, inputs: Mapping[int, Sharding], *, rank: int, size: int) -> None:
        """`inputs` says which inputs arrive in pieces."""
        self.graph, self.rank, self.size = graph, rank, size
        self.first = len(graph.inputs) + len(graph.constants)
        self.nodes = Nodes(rank, size)
        # One worker has everything, and nobody to meet.
        self._shardings = dict(inputs) if size > 1 else {}
        self._values: list[Value] = []
        self._whole: dict[int, Value] = {}
        self._made_by: dict[int, int] = {}
        """Value of the graph by the node that holds it."""
        for index, sharding in inputs.items():
            _check(graph.inputs[index], sharding, size)

    def run(self, outputs: Mapping[int, Sharding]) -> list[Value]:
        """The outputs, each whole unless `outputs` says how it is wanted cut."""
        graph = self.graph
        for index, type_ in enumerate(graph.inputs):
            self._record(self.nodes.input(index, type_, self._shardings.get(index)))
        for tensor in graph.constants:
            self._record(self.nodes.constant(tensor))
        for operation in graph.operations:
            self._record(self._place(operation))
        results = []
        for position, value in enumerate(graph.outputs):
            wanted = outputs.get(position)
            if wanted is not None:
                _check(graph.type_of(value), wanted, self.size)
            results.append(self._to(self._values[value], wanted if self.size > 1 else None))
        return results

    def _record(self, value: Value) -> None:
        self._made_by.setdefault(value.node, len(self._values))
        self._values.append(value)

    # Bringing values into form

    def _to(self, value: Value, sharding: Sharding | None) -> Value:
        if value.sharding == sharding:
            return value
        whole = self._full(value)
        return whole if sharding is None else self.nodes.sliced(whole, sharding)

    def _full(self, value: Value) -> Value:
        """The whole of it on every worker."""
        if value.sharding is None:
            return value
        at = self._made_by.get(value.node)
        return self.nodes.gather(value) if at is None else self._whole_of(at)

    def _whole_of(self, at: int) -> Value:
        """A value of the graph, whole."""
        if at in self._whole:
            return self._whole[at]
        value, operation = self._values[at], self._producer(at)
        again = operation is not None and operation.opcode in _REBUILT and value.type.elements > 0
        if again and operation is not None and (value.sharding is not None or self._is_met(operation)):
            operands = [self._whole_of(operand) for operand in operation.operands]
            whole = self.nodes.local(operation.opcode, operands, operation.result, None, operation.attributes)
        else:
            whole = self.nodes.gather(value)
        self._whole[at] = whole
        return whole

    def _is_met(self, operation: Operation) -> bool:
        """Whether this exponent came out of an exchange, where no engine can see it as its operand's."""
        source = self._values[operation.operands[0]]
        return (
            operation.opcode == Opcode.EXPONENT
            and source.sharding is not None
            and source.sharding.dim == len(source.shape) - 1
        )

    def _producer(self, at: int) -> Operation | None:
        return self.graph.operations[at - self.first] if at >= self.first else None

    def _chosen(self, xs: Sequence[Value]) -> Sharding | None:
        """The cut that leaves the least to the slowest worker, of those the operands have."""
        found = [x.sharding for x in xs if x.sharding is not None]
        return min(found, key=lambda s: s.largest / s.period) if found else None

    # Rules

    def _place(self, op: Operation) -> Value:
        xs = [self._values[operand] for operand in op.operands]
        if op.result.elements == 0:
            return self.nodes.empty(op.result)
        if all(x.sharding is None for x in xs):
            return self.nodes.local(op.opcode, xs, op.result, None, op.attributes)
        if op.opcode in ELEMENTWISE:
            sharding = self._chosen(xs)
            return self._apply(op, [self._to(x, sharding) for x in xs], sharding)
        rule = _RULES.get(op.opcode)
        placed = rule(self, op, xs) if rule is not None else None
        if placed is not None:
            return placed
        return self._apply(op, [self._whole_of(operand) for operand in op.operands], None)

    def _apply(
        self, op: Operation, xs: Sequence[Value], sharding: Sharding | None, here: Sequence[int] | None = None
    ) -> Value:
        return self.nodes.local(op.opcode, xs, op.result, sharding, op.attributes, here=here)

    # Shapes

    def _reshape(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        x = xs[0]
        assert x.sharding is not None
        after = reshaped(x.sharding, x.shape, op.result.shape)
        return None if after is None else self._apply(op, xs, after)

    def _permute(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        sharding = xs[0].sharding
        assert sharding is not None
        return self._apply(op, xs, sharding.with_dim(op.attributes.index(sharding.dim)))

    def _expand(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        sharding = xs[0].sharding
        assert sharding is not None
        kept = xs[0].shape[sharding.dim] == op.result.shape[sharding.dim]
        return self._apply(op, xs, sharding) if kept else None

    def _slice(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        sharding = xs[0].sharding
        assert sharding is not None
        dim, start, step = op.attributes
        if dim != sharding.dim:
            return self._apply(op, xs, sharding)
        size, period = op.result.shape[dim], sharding.period
        if step == 1 and start % period == 0 and size % period == 0:
            first = start // period * sharding.piece(self.rank)[1]
            return self._apply(op, xs, sharding, (dim, first, 1))
        if sharding.periods(xs[0].shape) != 1:
            return None
        cuts = tuple(min(max(-(-(cut - start) // step), 0), size) for cut in sharding.cuts)
        after = Sharding(dim, cuts)
        first, count = after.piece(self.rank)
        here = start + first * step - sharding.cuts[self.rank] if count else 0
        return self._apply(op, xs, after, (dim, here, step))

    def _pad(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        sharding = xs[0].sharding
        assert sharding is not None
        dim, (fill, *low) = sharding.dim, op.attributes
        before, after = xs[0].shape[dim], op.result.shape[dim]
        if before == after:
            return self._apply(op, xs, sharding)
        if sharding.periods(xs[0].shape) != 1:
            return None
        # What is filled in lies with the first and the last worker.
        wider = Sharding(dim, (0, *(cut + low[dim] for cut in sharding.cuts[1:-1]), after))
        low[dim] += sharding.cuts[self.rank] - wider.cuts[self.rank]
        return self._apply(op, xs, wider, (fill, *low))

    def _concat(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        sharding = self._chosen(xs)
        assert sharding is not None
        if op.attributes[0] == sharding.dim and any(x.shape[sharding.dim] % sharding.period for x in xs):
            return None
        return self._apply(op, [self._to(x, sharding) for x in xs], sharding)

    # Rows

    def _row_wise(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        """What looks at one row at a time, and at all of it."""
        sharding = xs[0].sharding
        assert sharding is not None
        return self._apply(op, xs, sharding) if sharding.dim < len(xs[0].shape) - 1 else None

    def _extreme(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        placed = self._row_wise(op, xs)
        if placed is not None:
            return placed
        kind = Exchange.LARGEST if op.opcode == Opcode.MAX else Exchange.SMALLEST
        here = self._extreme_here(op.opcode, xs[0])
        return self.nodes.meet(Meeting(kind, (here.node,), op.result), [(op.result, None)])[0]

    def _extreme_here(self, opcode: Opcode, x: Value) -> Value:
        """The rows' extremes among this worker's terms."""
        return self.nodes.local(opcode, [x], TensorType(x.type.dtype, x.shape[:-1]), None)

    def _exponent(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        placed = self._row_wise(op, xs)
        if placed is not None:
            return placed
        # ZERO_ROW < every exponent < NOT_FINITE: the largest is the whole row's.
        here = self.nodes.local(Opcode.EXPONENT, xs, op.result, None)
        return self.nodes.meet(Meeting(Exchange.LARGEST, (here.node,), op.result), [(op.result, None)])[0]

    def _sum(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        placed = self._row_wise(op, xs)
        if placed is not None:
            return placed
        nodes, x = self.nodes, xs[0]
        total = TensorType(DType.INT64, op.result.shape)
        if x.type.dtype != DType.FLOAT32:
            here = nodes.local(Opcode.SUM, [x], total, None)
            return nodes.meet(Meeting(Exchange.INTEGER_SUM, (here.node,), total), [(total, None)])[0]
        ends = [self._extreme_here(code, x).node for code in (Opcode.MAX, Opcode.MIN)]
        exponent = TensorType(DType.INT32, op.result.shape)
        results = [(op.result, None), (op.result, None), (exponent, None), (op.result, None)]
        first, second, e, special = nodes.meet(Meeting(Exchange.SUM_SCALES, tuple(ends), op.result), results)
        scaled = x
        for factor in (first, second):
            column = nodes.local(Opcode.RESHAPE, [factor], TensorType(DType.FLOAT32, (*factor.shape, 1)), None)
            wide = nodes.local(Opcode.EXPAND, [column], x.type, x.sharding)
            scaled = nodes.local(Opcode.MUL, [scaled, wide], x.type, x.sharding)
        integers = nodes.local(Opcode.CAST, [scaled], TensorType(DType.INT64, x.shape), x.sharding, (0,))
        here = nodes.local(Opcode.SUM, [integers], total, None)
        meeting = Meeting(Exchange.FINISH_SUM, (here.node, e.node, special.node), op.result)
        return nodes.meet(meeting, [(op.result, None)])[0]

    # Indexing

    def _gather(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        x, index = xs
        dim, rank = op.attributes[0], len(x.shape)
        alike = [d for d in range(rank) if d != dim and x.shape[d] == index.shape[d]]
        for sharding in (x.sharding, index.sharding):
            if sharding is not None and sharding.dim in alike:
                return self._apply(op, [self._to(x, sharding), self._to(index, sharding)], sharding)
        if x.sharding is None and index.sharding is not None and index.sharding.dim == dim:
            return self._apply(op, xs, index.sharding)
        return None

    def _take(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        x, index = xs
        if index.sharding is not None:
            return self._apply(op, [self._full(x), index], index.sharding)
        assert x.sharding is not None
        if x.sharding.dim == 0:
            return None
        return self._apply(op, xs, x.sharding.with_dim(len(index.shape) + x.sharding.dim - 1))

    def _scatter(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        shapes = {x.shape for x in xs}
        sharding = self._chosen(xs)
        assert sharding is not None
        if len(shapes) > 1 or sharding.dim == op.attributes[0]:
            return None
        return self._apply(op, [self._to(x, sharding) for x in xs], sharding)

    def _index_add(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        x, index, source = xs
        for sharding in (x.sharding, source.sharding):
            if sharding is not None and sharding.dim == 1:
                return self._apply(op, [self._to(x, sharding), self._full(index), self._to(source, sharding)], sharding)
        # Each worker adds up some of the rows: where a row is not this one's, its index is out of range.
        rows = x.sharding
        if rows is not None and rows.periods(x.shape) != 1:
            return None
        if rows is None:
            if not is_scattered(op.result, self.size):
                return None
            rows = evenly(0, x.shape, self.size)
        nodes, index, source = self.nodes, self._full(index), self._full(source)
        first = nodes.constant(torch.tensor(rows.piece(self.rank)[0], dtype=torch.int64))
        one = nodes.local(Opcode.RESHAPE, [first], TensorType(DType.INT64, (1,)), None)
        wide = nodes.local(Opcode.EXPAND, [one], index.type, None)
        here = nodes.local(Opcode.SUB, [index, wide], index.type, None)
        return self._apply(op, [self._to(x, rows), here, source], rows)

    # Products

    def _quantize(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        x, e = xs
        sharding = self._chosen([x]) or self._chosen([e])
        assert sharding is not None
        along = sharding.dim == len(x.shape) - 1
        return self._apply(op, [self._to(x, sharding), self._to(e, None if along else sharding)], sharding)

    def _scaled(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        """EXPONENT_SCALED and QUANTIZE_SCALED: x[..., M, K], g[..., K], and e[..., M]."""
        x, g, *e = xs
        rows, terms = len(x.shape) - 2, len(x.shape) - 1
        sharding = x.sharding
        if sharding is None:
            sharding = next((v.sharding for v in xs if v.sharding is not None and v.sharding.dim < rows), None)
        if sharding is None or (sharding.dim == terms and not e):
            # A scaled exponent may lie below ZERO_ROW, so the largest says nothing about rows without terms.
            return None
        if sharding.dim == terms:
            cut = [self._to(x, sharding), self._to(g, sharding.with_dim(rows)), *map(self._full, e)]
        elif sharding.dim == rows:
            cut = [self._to(x, sharding), self._full(g), *(self._to(v, sharding) for v in e)]
        else:
            cut = [self._to(v, sharding) for v in xs]
        return self._apply(op, cut, sharding)

    def _dot(self, op: Operation, xs: Sequence[Value]) -> Value | None:
        by_rows = op.opcode == Opcode.DOT_ROWS
        exponents = 1 if by_rows else 2
        rank = len(op.result.shape)
        rows, terms = rank - 2, rank - 1
        sides = (op.operands[exponents::2], op.operands[exponents + 1 :: 2])
        heads = [(self._values[side[0]], side) for side in sides]
        cut = [head for head, _ in heads if head.sharding is not None]
        if not cut:
            return None  # only exponents are cut: they are small
        kept = [head for head in cut if head.sharding is not None and head.sharding.dim < rows]
        leading = kept[0] if kept else max(cut, key=lambda head: head.type.elements)
        sharding = leading.sharding
        assert sharding is not None
        if sharding.dim == terms:
            return self._product_of_pieces(op, sides)
        if sharding.dim < rows:
            return self._apply(op, [self._to(x, sharding) for x in xs], sharding)
        side = 0 if leading is heads[0][0] else 1
        pieces = []
        for position, operand in enumerate(op.operands):
            of_side = position if position < exponents else (position - exponents) % 2
            piece = self._to(self._values[operand], sharding) if of_side == side else self._whole_of(operand)
            pieces.append(piece)
        return self._apply(op, pieces, sharding if side == 0 else sharding.with_dim(terms))

    def _product_of_pieces(self, op: Operation, sides: Sequence[Sequence[int]]) -> Value | None:
        """Each worker multiplies over its own terms; integer sums are added, and rounded once."""
        digits = op.attributes[0]
        if not self._are_quantised(op, sides):
            # A Program may feed a product anything: exponents far apart, terms that are not finite beside a finite
            # exponent, planes whose sums need more than 64 bits. Engines know what to do then, of the whole.
            return None
        bare = [[self._unpadded(v) for v in side] for side in sides]
        if len({self._values[v].shape[-1] for side in bare for v in side}) == 1:
            sides = bare
        terms = len(op.result.shape) - 1
        values = [self._values[v] for side in sides for v in side]
        sharding = self._chosen([v for v in values if v.sharding is not None and v.sharding.dim == terms])
        assert sharding is not None
        after = evenly(0, op.result.shape, self.size) if is_scattered(op.result, self.size) else None
        meeting = self._matmul_of_pieces(op, sides, sharding, after)
        if meeting is not None:
            return self.nodes.meet(meeting, [(op.result, after)])[0]
        planes = [self._to(self._values[v], sharding) for pair in zip(*sides, strict=True) for v in pair]
        by_rows = op.opcode == Opcode.DOT_ROWS
        exponents = [self._full(self._values[v]) for v in op.operands[: 1 if by_rows else 2]]
        operands = tuple(v.node for v in (*exponents, *planes))
        meeting = Meeting(Exchange.PRODUCT, operands, op.result, after, digits, by_rows)
        return self.nodes.meet(meeting, [(op.result, after)])[0]

    def _matmul_of_pieces(
        self, op: Operation, sides: Sequence[Sequence[int]], sharding: Sharding, after: Sharding | None
    ) -> Meeting | None:
        """The same from the floats behind the planes: engines quantise and multiply at once."""
        digits = op.attributes[0]
        if op.opcode != Opcode.DOT or len(op.result.shape) != 2:
            return None
        floats, turned = [], []
        for side in sides:
            made = self._producer(side[0])
            if made is None or made.opcode != Opcode.QUANTIZE:
                return None  # padded by more than zeros behind its terms
            value = self._to(self._values[made.operands[0]], sharding)
            node = self.nodes.nodes[value.node]
            is_turned = isinstance(node, Operation) and node.opcode == Opcode.PERMUTE and node.attributes == (1, 0)
            floats.append(node.operands[0] if isinstance(node, Operation) and is_turned else value.node)
            turned.append(is_turned)
        exponents = [self._full(self._values[v]).node for v in op.operands[:2]]
        operands = (*exponents, *floats)
        return Meeting(Exchange.MATMUL, operands, op.result, after, digits, turned=(turned[0], turned[1]))

    def _unpadded(self, at: int) -> int:
        """Through a PAD of zeros behind the last dimension, which adds nothing to a sum."""
        op = self._producer(at)
        if op is None or op.opcode != Opcode.PAD or any(op.attributes):
            return at
        source = op.operands[0]
        return source if op.result.shape[:-1] == self.graph.type_of(source).shape[:-1] else at

    def _are_quantised(self, op: Operation, sides: Sequence[Sequence[int]]) -> bool:
        """Whether planes are quantisations of floats, and each exponent the EXPONENT of the floats it belongs to.

        Then q is within 2^w, exponents are float32's (or a row's of zeros, or not finite), and a row that is not
        finite says so. The right side of DOT_ROWS has no exponent in the product, so any will do there.
        """
        digits = op.attributes[0]
        if op.opcode == Opcode.DOT:
            return all(
                self._is_own(side, e, Opcode.EXPONENT, Opcode.QUANTIZE, digits)
                for side, e in zip(sides, op.operands, strict=False)
            )
        return self._is_own(sides[0], op.operands[0], Opcode.EXPONENT_SCALED, Opcode.QUANTIZE_SCALED, digits) and all(
            self._is_plane(v, digits, i) for i, v in enumerate(sides[1])
        )

    def _is_own(self, side: Sequence[int], e: int, exponent: Opcode, quantise: Opcode, digits: int) -> bool:
        """Whether `e` is `exponent` of some operands, and the planes are these quantised by it."""
        scale = self._producer(e)
        if scale is None or scale.opcode != exponent:
            return False
        for plane, at in enumerate(side):
            q = self._producer(self._unpadded(at))
            wanted = (quantise, (*scale.operands, e), (digits, plane))
            if q is None or (q.opcode, q.operands, q.attributes) != wanted:
                return False
        return True

    def _is_plane(self, at: int, digits: int, plane: int) -> bool:
        """Whether a value is this plane of floats quantised by some exponent, however turned."""
        op = self._producer(at)
        while op is not None and op.opcode in (Opcode.PAD, Opcode.PERMUTE, Opcode.RESHAPE):
            if op.opcode == Opcode.PAD and op.attributes[0]:
                return False
            op = self._producer(op.operands[0])
        quantised = op is not None and op.opcode in (Opcode.QUANTIZE, Opcode.QUANTIZE_SCALED)
        return quantised and op is not None and op.attributes == (digits, plane)


def _check(type_: TensorType, sharding: Sharding, size: int) -> None:
    """Raise UsageError unless a tensor of this type can lie so on so many workers."""
    shape = type_.shape
    fits = 0 <= sharding.dim < len(shape) and type_.elements > 0
    fits = fits and len(sharding.cuts) == size + 1 and sharding.cuts[0] == 0 and sharding.period > 0
    fits = fits and list(sharding.cuts) == sorted(sharding.cuts) and shape[sharding.dim] % sharding.period == 0
    if not fits:
        raise UsageError(f"{type_} cannot be cut along dimension {sharding.dim} at {sharding.cuts} for {size} workers")


_Rule = Callable[[Partitioner, Operation, Sequence[Value]], Value | None]
_RULES: dict[Opcode, _Rule] = {
    Opcode.RESHAPE: Partitioner._reshape,
    Opcode.PERMUTE: Partitioner._permute,
    Opcode.EXPAND: Partitioner._expand,
    Opcode.SLICE: Partitioner._slice,
    Opcode.PAD: Partitioner._pad,
    Opcode.CONCAT: Partitioner._concat,
    Opcode.SUM: Partitioner._sum,
    Opcode.MAX: Partitioner._extreme,
    Opcode.MIN: Partitioner._extreme,
    Opcode.EXPONENT: Partitioner._exponent,
    Opcode.ARGMAX: Partitioner._row_wise,
    Opcode.ARGMIN: Partitioner._row_wise,
    Opcode.TOPK: Partitioner._row_wise,
    Opcode.SORT: Partitioner._row_wise,
    Opcode.CUMSUM: Partitioner._row_wise,
    Opcode.GATHER: Partitioner._gather,
    Opcode.TAKE: Partitioner._take,
    Opcode.INDEX_ADD: Partitioner._index_add,
    Opcode.SCATTER: Partitioner._scatter,
    Opcode.QUANTIZE: Partitioner._quantize,
    Opcode.EXPONENT_SCALED: Partitioner._scaled,
    Opcode.QUANTIZE_SCALED: Partitioner._scaled,
    Opcode.DOT: Partitioner._dot,
    Opcode.DOT_ROWS: Partitioner._dot,
}
