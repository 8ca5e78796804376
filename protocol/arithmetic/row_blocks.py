"""Attention without its matrix of T x T scores: a graph rewritten to compute what reads them a block at a time.

Nothing is approximated and no sum is cut. The rows of scores, mask and softmax do not know each other, nor do the rows
of a product: a block of queries gives its rows of the result, and a reduction over keys is whole in each. Gradients of
keys and values sum over all queries, so they are made in blocks of keys, for which scores, weights and their gradients
are computed once more: an element of a product depends on one row and one column, and what a softmax knows of whole
rows (maximum, sum) is then at hand. So memory grows with T instead of T squared, and every result is the same
operation on the same numbers.

Found by shape alone: products whose result is far larger than their operands (`_is_score`), and whatever is computed
from them element by element or along rows. What fits no rule stays as it was, with the same bits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod

from cupel.protocol.arithmetic.operations import ELEMENTWISE, DType, Graph, Opcode, Operation, TensorType
from cupel.protocol.arithmetic.phases import WHOLE, Rewriter, operand_dims, same_dim

LEAST_LENGTH = 1024
"""Of both sides of matrices of scores that are cut without being asked to."""
LEAST_BYTES = 64 << 20
"""Of one product's scores that are cut without being asked to: where memory counts more than time."""
BLOCK_BYTES = 4 << 20
"""What one block of scores may take, as long as it has `_LEAST_ROWS` rows (benchmarks/recomputation.py)."""
_LEAST_ROWS = 64
_PANEL_ROWS = 32
"""Blocks are multiples of the widest panels, but for the last."""
_SCORES_TO_OPERANDS = 4
"""A matrix of scores has both sides at least this many times its number of terms."""

_QUANTISING = (Opcode.EXPONENT, Opcode.QUANTIZE, Opcode.EXPONENT_SCALED, Opcode.QUANTIZE_SCALED)
_SHAPES = (Opcode.RESHAPE, Opcode.PERMUTE, Opcode.EXPAND, Opcode.SLICE, Opcode.PAD, Opcode.IOTA)
_ALONG_ROWS = (Opcode.SUM, Opcode.MAX, Opcode.MIN, Opcode.ARGMAX, Opcode.ARGMIN, Opcode.EXPONENT)
_EXPONENTS = (Opcode.EXPONENT_SCALED, *_ALONG_ROWS)
"""What drops the last dimension."""
_PRODUCTS = (Opcode.DOT, Opcode.DOT_ROWS)


def cut_scores(
    graph: Graph,
    *,
    least_length: int = LEAST_LENGTH,
    least_bytes: int = LEAST_BYTES,
    block_bytes: int = BLOCK_BYTES,
) -> Graph:
    """A graph with the same inputs, outputs and bits, its matrices of scores in blocks; `graph` itself if it has none.

    least_length  of both sides of a matrix of scores that is cut
    least_bytes   of all the scores that one product gives (batch and heads)
    block_bytes   of one block of scores
    """
    worth = partial(_is_score, graph, least_length=least_length, least_bytes=least_bytes)
    if not any(worth(op) for op in graph.operations):
        return graph
    refused: set[int] = set()
    while True:
        region = _Region(graph, worth, refused)
        try:
            region.check()
            return _Cutting(region, block_bytes).run() if region.scores else graph
        except _Refused as refusal:
            refused |= refusal.scores


def _is_score(graph: Graph, op: Operation, *, least_length: int, least_bytes: int) -> bool:
    """A batch of products far larger than their operands."""
    if op.opcode != Opcode.DOT or len(op.result.shape) < 3:
        return False
    least = min(op.result.shape[-2:])
    terms = graph.type_of(op.operands[2]).shape[-1]
    is_long = least >= max(least_length, 2) and least >= _SCORES_TO_OPERANDS * terms
    return is_long and op.result.size_bytes >= least_bytes


class _Refused(Exception):
    """Some scores are needed whole; carries the products they come from."""

    def __init__(self, scores: set[int]) -> None:
        super().__init__(scores)
        self.scores = scores


@dataclass(frozen=True, slots=True)
class _Exit:
    """A value that is small and computed from scores: a maximum, a sum, rows of a product."""

    side: int
    """0 if it is known for some queries when their rows of scores are, 1 for keys and columns."""
    dim: int
    """Where queries (keys) are among its dimensions."""


class _Region:
    """What is computed from matrices of scores, and which of their dimensions are queries and keys."""

    def __init__(self, graph: Graph, worth: Callable[[Operation], bool], refused: set[int]) -> None:
        self.graph = graph
        self.first = len(graph.inputs) + len(graph.constants)
        self.large: dict[int, tuple[int, int]] = {}
        """Values as large as scores: their dimension of queries and of keys."""
        self.exits: dict[int, _Exit] = {}
        self.scores: set[int] = set()
        self.area = 0
        """Elements of the smallest matrix of scores."""
        self.local: dict[int, int] = {}
        """Small values computed from exits alone, row by row: bits of those exits, in order of `exits`."""
        self._parent: dict[int, int] = {}
        self._masks: dict[int, bool] = {}
        self._strange: list[int] = []
        """Scores, or what was computed from them, that something needs whole."""
        for at, op in enumerate(graph.operations):
            value = self.first + at
            if not self._enter(value, op):
                self._strange += [v for v in op.operands if v in self.large]
            elif not any(v in self.large for v in op.operands) and value not in refused and worth(op):
                rank = len(op.result.shape)
                self.large[value] = (rank - 2, rank - 1)
                self._parent[value] = value
                self.scores.add(value)
        self._strange += [v for v in graph.outputs if v in self.large]
        self.area = min((prod(self.type_of(v).shape[-2:]) for v in self.scores), default=0)
        self._find_local()

    def check(self) -> None:
        """Raises _Refused for scores that something needs whole."""
        if self._strange:
            raise self.refusal(self._strange)

    def refusal(self, values: Sequence[int]) -> _Refused:
        components = {self.component(v) for v in values}
        return _Refused({v for v in self.scores if self.component(v) in components})

    def type_of(self, value: int) -> TensorType:
        return self.graph.type_of(value)

    def operation(self, value: int) -> Operation | None:
        return self.graph.operations[value - self.first] if value >= self.first else None

    def component(self, value: int) -> int:
        while self._parent[value] != value:
            self._parent[value] = value = self._parent[self._parent[value]]
        return value

    def _enter(self, value: int, op: Operation) -> bool:
        """Note the result if it is computed from scores. False if no rule tells how."""
        places = [n for n, v in enumerate(op.operands) if v in self.large]
        if not places:
            return True
        for n in places[1:]:
            self._parent[self.component(op.operands[n])] = self.component(op.operands[places[0]])
        component = self.component(op.operands[places[0]])
        sides = self.large[op.operands[places[0]]]
        shape = self.type_of(op.operands[places[0]]).shape
        found: tuple[int | None, int | None] = sides
        code = op.opcode
        if code in _PRODUCTS:
            return self._leave_by_product(value, op, places, component)
        if any(self.large[op.operands[n]] != sides for n in places):
            return False
        if code in _EXPONENTS:
            if places != [0] or len(shape) - 1 not in sides:
                return False
            side = 1 - sides.index(len(shape) - 1)
            return self._leave(value, _Exit(side, sides[side]), component)
        if code == Opcode.RESHAPE:
            found = (same_dim(shape, sides[0], op.result.shape), same_dim(shape, sides[1], op.result.shape))
        elif code == Opcode.PERMUTE:
            found = (op.attributes.index(sides[0]), op.attributes.index(sides[1]))
        elif code in (Opcode.QUANTIZE, Opcode.QUANTIZE_SCALED):
            if places != [0]:
                return False
        elif code not in ELEMENTWISE and code not in (Opcode.EXPAND, Opcode.PAD):
            return False
        if found[0] is None or found[1] is None:
            return False
        self.large[value] = (found[0], found[1])
        self._parent[value] = component
        return True

    def _leave_by_product(self, value: int, op: Operation, places: Sequence[int], component: int) -> bool:
        """A product that sums over queries or keys: one operand, all its planes, is large, and no exponent is."""
        exponents = 2 if op.opcode == Opcode.DOT else 1
        of_side = [n for n in range(exponents, len(op.operands)) if n % 2 == places[0] % 2]
        if list(places) != of_side:
            return False
        rank = len(op.result.shape)
        sides = {self.large[op.operands[n]] for n in places}
        if len(sides) != 1:
            return False
        (found,) = sides
        if set(found) != {rank - 2, rank - 1}:
            return False
        is_left = (places[0] - exponents) % 2 == 0
        return self._leave(value, _Exit(found.index(rank - 2), rank - 2 if is_left else rank - 1), component)

    def _leave(self, value: int, exit_: _Exit, component: int) -> bool:
        self.exits[value] = exit_
        self._parent[value] = component
        return True

    def _find_local(self) -> None:
        bits = {value: 1 << n for n, value in enumerate(self.exits)}
        self.local.update(bits)
        for at, op in enumerate(self.graph.operations):
            value = self.first + at
            if value in bits or value in self.large or not (op.opcode in ELEMENTWISE or op.opcode in _SHAPES):
                continue
            found = 0
            for v in op.operands:
                found |= self.local.get(v, 0)
            if found:
                self.local[value] = found

    def is_mask(self, value: int) -> bool:
        """As large as scores, and computed element by element from what is small, given or constant."""
        op = self.operation(value)
        if op is None or op.result.elements < self.area:
            return True
        if value not in self._masks:
            self._masks[value] = (op.opcode in ELEMENTWISE or op.opcode in _SHAPES) and all(
                self.is_mask(v) for v in op.operands
            )
        return self._masks[value]


@dataclass(slots=True)
class _Pass:
    """Exits that one walk over blocks of queries (or keys) computes."""

    component: int
    side: int
    exits: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """Those of `exits` that anything outside the pass reads."""
    bits: int = 0
    """Of `exits`, as in `_Region.local`."""
    after: int = 0
    """Bits of the passes that must be over before."""
    whole: dict[int, set[int]] = field(default_factory=dict)
    """For each exit, the values it reads that are computed before the pass."""


class _Cutting:
    """Shares out the exits among passes, puts passes and all other operations in order, and writes them down."""

    def __init__(self, region: _Region, block_bytes: int) -> None:
        self.region, self.block_bytes = region, block_bytes
        self.graph, self.first = region.graph, region.first
        self.passes: list[_Pass] = []
        self.pass_of: dict[int, int] = {}
        self.parts: dict[int, list[int]] = {}
        self.rewriter = Rewriter(self.graph)
        self.phase = 0
        self.new: dict[int, int] = {v: v for v in range(self.first)}
        """Ids in the new graph."""

    def run(self) -> Graph:
        self._share_out()
        for unit, at in self._order():
            if unit == "operation":
                op = self.graph.operations[at]
                self.new[self.first + at] = self.rewriter.append(op, [self.new[v] for v in op.operands], 0)
            else:
                self._write(self.passes[at])
        return self.rewriter.finish([self.new[v] for v in self.graph.outputs])

    # Which values are made of parts

    def _parts(self, value: int, dim: int, pass_: _Pass) -> list[int] | None:
        """How the part of `value` along `dim` follows from its operands' (`operand_dims`); None: it is cut from all."""
        region, op = self.region, self.region.operation(value)
        if op is None:
            return None
        types = [region.type_of(v) for v in op.operands]
        if value in region.large:
            found = operand_dims(op, types, dim)
            if found is None:
                raise region.refusal([value])
            return found
        if value in region.exits:
            enter = value in pass_.exits
        elif op.opcode in _QUANTISING or op.result.dtype == DType.INT16:
            # A product is fast where its operands are quantised right before it, and nowhere else.
            enter = True
        elif op.result.elements >= region.area:
            enter = value in region.local or region.is_mask(value)
        else:
            enter = bool(region.local.get(value, 0) & pass_.bits)
        return operand_dims(op, types, dim) if enter else None

    def _whole(self, exit_: int, pass_: _Pass) -> set[int]:
        """Values that some part of the exit needs whole, or is cut from."""
        result: set[int] = set()
        seen: set[tuple[int, int]] = set()
        open_ = [(exit_, self.region.exits[exit_].dim)]
        while open_:
            value, dim = open_.pop()
            if (value, dim) in seen:
                continue
            seen.add((value, dim))
            dims = WHOLE if dim == WHOLE else self._parts(value, dim, pass_)
            if dims is None or dims == WHOLE:
                if value in self.region.large:
                    raise self.region.refusal([value])
                result.add(value)
                continue
            assert isinstance(dims, list)
            op = self.region.operation(value)
            assert op is not None
            open_ += zip(op.operands, dims, strict=True)
        return result

    # Passes

    def _share_out(self) -> None:
        """Each exit joins the last pass of its side, unless it needs, by way of anything else, what that pass gives."""
        needs: dict[int, int] = {}
        bits = {value: 1 << n for n, value in enumerate(self.region.exits)}
        latest: dict[tuple[int, int], int] = {}
        for at, op in enumerate(self.graph.operations):
            value = self.first + at
            if value in self.region.large:
                continue
            if value not in self.region.exits:
                needs[value] = 0
                for v in op.operands:
                    needs[value] |= needs.get(v, 0)
                continue
            component, side = self.region.component(value), self.region.exits[value].side
            number = latest.get((component, side))
            if number is None or not self._join(number, value, bits[value], needs):
                number = latest[component, side] = len(self.passes)
                self.passes.append(_Pass(component, side))
                if not self._join(number, value, bits[value], needs):
                    raise _Refused(set(self.region.scores))
            needs[value] = 1 << number
            self.pass_of[value] = number

    def _join(self, number: int, value: int, bit: int, needs: dict[int, int]) -> bool:
        pass_ = self.passes[number]
        pass_.exits.append(value)
        pass_.bits |= bit
        whole = self._whole(value, pass_)
        needed = 0
        for v in whole:
            needed |= needs.get(v, 0)
        for n, other in enumerate(self.passes):
            if needed >> n & 1:
                needed |= other.after
        if needed >> number & 1:
            pass_.exits.pop()
            pass_.bits ^= bit
            return False
        pass_.whole[value] = whole
        pass_.after |= needed
        for other in self.passes:
            if other.after >> number & 1:
                other.after |= needed
        return True

    # Order

    def _order(self) -> list[tuple[str, int]]:
        """Operations and passes that outputs need, each after what it reads, otherwise as in the graph."""
        reads: dict[tuple[str, int], set[tuple[str, int]]] = {}
        wanted: dict[int, None] = {}
        open_ = list(self.graph.outputs)
        seen: set[int] = set()
        while open_:
            value = open_.pop()
            if value < self.first or value in seen:
                continue
            seen.add(value)
            if value in self.pass_of:
                wanted[value] = None
                open_ += self.passes[self.pass_of[value]].whole[value]
            else:
                open_ += self.graph.operations[value - self.first].operands

        def unit(value: int) -> tuple[str, int]:
            if value in self.pass_of:
                return "pass", self.pass_of[value]
            return "operation", value - self.first

        for value in seen:
            own = unit(value)
            is_exit = value in self.pass_of
            sources = (
                self.passes[own[1]].whole[value] if is_exit else self.graph.operations[value - self.first].operands
            )
            reads.setdefault(own, set()).update(unit(v) for v in sources if v >= self.first)
        for pass_ in self.passes:
            pass_.wanted = [v for v in pass_.exits if v in wanted]
        # A pass waits for the last of its exits to be due, so that its results do not lie about.
        due = {u: u[1] if u[0] == "operation" else max(self.passes[u[1]].wanted) - self.first for u in reads}
        users: dict[tuple[str, int], list[tuple[str, int]]] = {}
        missing = {}
        for own, sources_of in reads.items():
            missing[own] = len(sources_of)
            for source in sources_of:
                users.setdefault(source, []).append(own)
        ready = [(due[u], u) for u, count in missing.items() if not count]
        heapq.heapify(ready)
        order = []
        while ready:
            _, own = heapq.heappop(ready)
            order.append(own)
            for user in users.get(own, ()):
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, (due[user], user))
        if len(order) != len(reads):  # passes that wait for each other: no Program known makes them, one may
            raise _Refused(set(self.region.scores))
        return order

    # Writing

    def _write(self, pass_: _Pass) -> None:
        region = self.region
        exits = pass_.wanted
        size = region.type_of(exits[0]).shape[region.exits[exits[0]].dim]
        largest = max(
            region.type_of(v).size_bytes for v in region.scores if region.component(v) == region.component(exits[0])
        )
        for start, length in _blocks(size, largest, self.block_bytes):
            self.phase += 1
            made: dict[tuple[int, int], int] = {}
            for value in exits:
                part = self._part(value, region.exits[value].dim, start, length, pass_, made)
                self.parts.setdefault(value, []).append(part)
        for value in exits:
            dim = region.exits[value].dim
            parts = self.parts.pop(value)
            joined = Operation(Opcode.CONCAT, (), region.type_of(value), (dim,))
            self.new[value] = parts[0] if len(parts) == 1 else self.rewriter.append(joined, parts, 0)

    def _part(self, value: int, dim: int, start: int, size: int, pass_: _Pass, made: dict[tuple[int, int], int]) -> int:
        """The new graph's id of `value` from `start` on along `dim`."""
        if (value, dim) not in made:
            dims = self._parts(value, dim, pass_)
            if dims is None:
                made[value, dim] = self.rewriter.slice(self.new[value], dim, start, size, self.phase)
            else:
                op = self.region.operation(value)
                assert op is not None
                operands = [
                    self.new[v] if d == WHOLE else self._part(v, d, start, size, pass_, made)
                    for v, d in zip(op.operands, dims, strict=True)
                ]
                shape = (*op.result.shape[:dim], size, *op.result.shape[dim + 1 :])
                smaller = replace(op, result=TensorType(op.result.dtype, shape))
                made[value, dim] = self.rewriter.append(smaller, operands, self.phase)
        return made[value, dim]


def _blocks(size: int, bytes_of_all: int, block_bytes: int) -> list[tuple[int, int]]:
    """(start, length) of blocks of nearly one size."""
    rows = max(block_bytes * size // bytes_of_all, _LEAST_ROWS)
    count = -(-size // rows)
    length = -(-size // count)
    if size > length >= _PANEL_ROWS:
        length = -(-length // _PANEL_ROWS) * _PANEL_ROWS
    return [(start, min(length, size - start)) for start in range(0, size, length)]
