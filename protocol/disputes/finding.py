"""Where two traces differ, and the proof of it: what a challenger does who has her own honest trace.

Of the accused she needs only what the game makes it open: nodes of two trees, at most 1,024 a move, and one leaf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Opcode, Operation, TensorType
from cupel.protocol.disputes import terms, totals
from cupel.protocol.disputes.claims import Block, Claim, Opening, Proof, Sums, Value
from cupel.protocol.disputes.elements import recompute_element, tensor
from cupel.protocol.disputes.openings import Reader, Recorder, Whole, Windowed, leaf_of
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.hashing import LEAF_BYTES, node_hash, operation_leaf
from cupel.protocol.proceedings import Difference
from cupel.protocol.program.program import Program
from cupel.protocol.program.running import flat_inputs, run
from cupel.protocol.program.traces import Trace, recompute, root_of, trace_root, tree_of, value_item
from cupel.protocol.trees import Tree, are_children, child_range, height

Open = Callable[[int, int], Sequence[bytes]]
"""(level, index) → the children of that node of the accused's tree, as `Tree.children` gives them."""


def find_leaf(own: Tree, root: bytes, open_: Open) -> Difference:
    """Descend to the first leaf that differs. A tree of 1,024 leaves takes one move, one of 2^20 two.

    Raises  MalformedInput for children that do not hash to their parent (on chain such a move is refused), and where
            nothing differs
    """
    if own.root == root:
        raise MalformedInput("the two trees are the same: there is nothing to challenge")
    level, index, node = height(own.count), 0, root
    path: list[bytes] = []
    while level:
        children = list(open_(level, index))
        if not are_children(node, own.count, level, index, children):
            raise MalformedInput(f"node {index} of level {level}: the {len(children)} children do not hash to it")
        start, _ = child_range(own.count, level, index)
        mine = own.children(level, index)
        at = next(i for i, (a, b) in enumerate(zip(mine, children, strict=True)) if a != b)
        path = [*Tree(children).path(at), *path]
        level, index, node = max(level - 10, 0), start + at, children[at]
    return Difference(index, node, tuple(path))


def find_operation(own: Trace, tree: bytes, open_: Open) -> Difference:
    """The first value on which the traces differ; `tree` is the root of the accused's tree over values."""
    return find_leaf(own.tree, tree, open_)


def find_element(own: torch.Tensor, tree: bytes, open_: Open, read_leaf: Callable[[int], bytes]) -> tuple[int, Opening]:
    """The first element that differs, and the accused's leaf that holds it.

    tree       root of the tree over the accused's bytes
    read_leaf  the bytes of one of its leaves; the game makes the accused show them
    Raises     RootMismatch for bytes that are not the leaf; MalformedInput as `find_leaf`, and for a leaf of a length
               that no tensor of this type has: nobody can open that
    """
    found = find_leaf(tree_of(own), tree, open_)
    data = read_leaf(found.index)
    if merkle.leaf_hash(data) != found.leaf:
        raise RootMismatch(f"leaf {found.index}", expected=found.leaf, got=merkle.leaf_hash(data))
    mine = merkle.tensor_bytes(own)[found.index * LEAF_BYTES : (found.index + 1) * LEAF_BYTES]
    if len(data) != len(mine):
        raise MalformedInput(
            f"leaf {found.index}: {len(data)} bytes where the type has {len(mine)}: it cannot be opened"
        )
    at = next(i for i, (a, b) in enumerate(zip(mine, data, strict=True)) if a != b)
    size = own.element_size()
    return (found.index * LEAF_BYTES + at) // size, Opening(data, found.path)


class Proofs(ABC):
    """Proofs about a trace that somebody holds, out of the values it is of."""

    program: Program
    trace: Trace

    @abstractmethod
    def _values(self, values: Collection[int]) -> dict[int, torch.Tensor]: ...

    @cached_property
    def _first_operation(self) -> int:
        return len(self.program.graph.inputs) + len(self.program.graph.constants)

    def operation(self, value: int) -> Operation:
        """Raises MalformedInput for an input or a constant: those are not computed, but bound (disputes.md)."""
        if value < self._first_operation:
            raise MalformedInput(f"value {value} is no operation's result")
        return self.program.operations[value - self._first_operation]

    def result(self, value: int) -> torch.Tensor:
        """The right tensor, computed again."""
        return self._values([value])[value]

    def prove(self, found: Difference, tree: bytes, element: int, claimed: Opening) -> tuple[Claim, Proof]:
        """The proof of one element of operation `found.index`.

        found    where the accused's trace differs first, with its path
        tree     root of the tree over the accused's bytes of that result
        claimed  the accused's leaf that holds the element
        """

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            recompute_element(op, xs, element)

        return self._prove(found, tree, element, claimed, look)

    def prove_block(self, found: Difference, tree: bytes, element: int, block: Block) -> tuple[Claim, Proof]:
        """What a block of partial sums is judged by."""

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            terms.sum_block(op, xs, element, block.first, block.end, block.exponent)

        return self._prove(found, tree, element, None, look)

    def prove_count(self, found: Difference, tree: bytes, element: int) -> tuple[Claim, Proof]:
        """What the number of terms is learned from: the operation and its operands' types."""

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            terms.count_terms(op, xs, element)

        return self._prove(found, tree, element, None, look)

    def prove_sums(
        self, found: Difference, tree: bytes, element: int, claimed: Opening, sums: Sums
    ) -> tuple[Claim, Proof]:
        """What posted sums are judged by: the element, its scales, the named terms."""

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            if op.opcode in terms.NAMED:
                terms.named_value(op, xs, element, sums.positions[0])
            elif terms.is_float_sum(op):
                for position in sums.positions:
                    terms.term_bits(op, xs, element, position)
            elif op.opcode in (Opcode.DOT, Opcode.DOT_ROWS):
                terms.finish(op, xs, element, 0, 0)

        return self._prove(found, tree, element, claimed, look)

    def prove_witness(
        self, found: Difference, tree: bytes, element: int, named: int, positions: tuple[int, int]
    ) -> tuple[Claim, Proof]:
        """What terms are judged by that a challenger points at (`judge_witness`)."""

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            if op.opcode in terms.NAMED:
                terms.precedes(op, xs, element, positions[0], named)
            else:
                for position in positions:
                    terms.term_bits(op, xs, element, position)

        return self._prove(found, tree, element, None, look)

    def prove_order(
        self,
        found: Difference,
        tree: bytes,
        element: int,
        claimed: Opening,
        positions: tuple[int, int],
        leaves: Mapping[int, Opening] | None = None,
    ) -> tuple[Claim, Proof]:
        """What a position is judged by (`judge_order`).

        claimed  the accused's leaf that holds the element
        leaves   further leaves of the accused's result, for TOPK and SORT
        """

        def compare(op: Operation, xs: Sequence[Reader], result: Windowed) -> None:
            result.show(leaf_of(op.result, element), claimed.data)
            terms.withstands(op, xs[0], result, element, positions)

        return self._prove(found, tree, element, claimed, compare=compare, leaves=leaves)

    def sums(self, value: int, element: int) -> Sums:
        """What an honest party posts about an element of its own."""
        op, xs = self._readers(value)
        count = terms.count_terms(op, xs, element)
        if op.opcode in terms.NAMED:
            right = self._values([value])[value].reshape(-1)[element : element + 1]
            position = totals.deciding_term(op, xs, element, merkle.tensor_bytes(right))
            return Sums(exponent=0, positions=(position, 0), sums=())
        exponent, positions = totals.largest_terms(op, xs, element, count) if terms.is_float_sum(op) else (0, (0, 0))
        sums = totals.sums_between(op, xs, element, exponent, 0, count)
        return Sums(exponent=exponent, positions=positions, sums=tuple(sums))

    def parts(self, value: int, element: int, exponent: int, first: int, end: int) -> tuple[int, ...]:
        """The sums under one sum, of terms `first` to `end`; `exponent` is the largest term's."""
        op, xs = self._readers(value)
        return tuple(totals.sums_between(op, xs, element, exponent, first, end))

    def precedes(self, value: int, element: int, position: int, named: int) -> bool:
        """Whether a term comes before another, where one decides."""
        op, xs = self._readers(value)
        return terms.precedes(op, xs, element, position, named)

    def count_terms(self, value: int, element: int) -> int:
        """Raises  MalformedProof NoTerms for an operation about whose elements nothing can be posted"""
        op = self.operation(value)
        graph = self.program.graph
        return terms.count_terms(op, [Whole(graph.type_of(v), b"") for v in op.operands], element)

    def _readers(self, value: int) -> tuple[Operation, list[Reader]]:
        op = self.operation(value)
        return op, [Whole(TensorType.of(t), merkle.tensor_bytes(t)) for t in self._operands(op)]

    def _operands(self, op: Operation) -> list[torch.Tensor]:
        known = self._values(set(op.operands))
        return [known[v] for v in op.operands]

    def _prove(
        self,
        found: Difference,
        tree: bytes,
        element: int,
        claimed: Opening | None,
        look: Callable[[Operation, Sequence[Reader]], None] | None = None,
        compare: Callable[[Operation, Sequence[Reader], Windowed], None] | None = None,
        leaves: Mapping[int, Opening] | None = None,
    ) -> tuple[Claim, Proof]:
        op, value = self.operation(found.index), found.index
        recorder = Recorder()
        readers = [recorder.reader(t) for t in self._operands(op)]
        if look is not None:
            look(op, readers)
        if compare is not None:
            compare(op, readers, recorder.shown(op.result, leaves or {}))
        item = value_item(self.program, value)
        root = _walk_up(found, len(self.trace.trees))
        if operation_leaf(item, root_of(op.result, tree)) != found.leaf:
            raise MalformedInput(
                f"value {value}: its leaf is not the Program's item with this tree: it cannot be opened"
            )
        claim = Claim(
            program=self.program.root,
            trace=trace_root(self.program.root, len(self.trace.trees), root),
            values=len(self.trace.trees),
            value=value,
            element=element,
        )
        operands = tuple(
            Value(value_item(self.program, v), self.trace.trees[v], tuple(self._path(v, found))) for v in op.operands
        )
        return claim, Proof(
            tree=root,
            operation=Value(item, tree, found.path),
            operands=operands,
            claimed=claimed or Opening(b"", ()),
            openings=tuple(recorder.openings),
        )

    def _path(self, value: int, found: Difference) -> list[bytes]:
        return path_beside(self.trace.tree, found, value)


class Prover(Proofs):
    """One run of a Program, computed honestly: finds what is wrong in another's trace of it, and proves it."""

    def __init__(self, program: Program, args: Any, backend: str = "torch") -> None:
        self.program, self.backend = program, backend
        self.inputs = flat_inputs(program, args)
        _, self.trace = run(program, args, backend, trace=True)
        self._held: dict[int, torch.Tensor] = {}

    def hold(self, values: Collection[int]) -> None:
        """Compute these values now and hold them, so that proofs about them need no run of their own."""
        self._held |= recompute(self.program, self.inputs, values, self.backend)

    def _values(self, values: Collection[int]) -> dict[int, torch.Tensor]:
        missing = [v for v in values if v not in self._held]
        found = recompute(self.program, self.inputs, missing, self.backend) if missing else {}
        return found | {v: self._held[v] for v in values if v in self._held}


class HeldProver(Proofs):
    """A trace with all its values, whether or not they are right: what its poster proves."""

    def __init__(self, trace: Trace, read: Callable[[int], bytes]) -> None:
        """read  gives the bytes of a value"""
        self.program, self.trace, self._read = trace.program, trace, read

    def _values(self, values: Collection[int]) -> dict[int, torch.Tensor]:
        graph = self.program.graph
        types = {v: graph.type_of(v) for v in values}
        return {v: tensor(type_.dtype, type_.shape, self._read(v)) for v, type_ in types.items()}

    def about(self, value: int) -> tuple[Difference, bytes]:
        """A value of this trace with its path, and the root of the tree over its bytes."""
        tree = self.trace.tree
        return Difference(value, tree.levels[0][value], tuple(tree.path(value))), self.trace.trees[value]

    def opening(self, value: int, element: int) -> Opening:
        """The leaf that holds an element of a value."""
        leaf = leaf_of(self.program.graph.type_of(value), element)
        held = self._values([value])[value]
        data = merkle.tensor_bytes(held)[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
        return Opening(data, tuple(tree_of(held).path(leaf)))


def path_beside(own: Tree, found: Difference, index: int) -> list[bytes]:
    """The path of an earlier leaf in the accused's tree, `found` being the first that differs from one's own.

    Of what differs it meets only nodes on the way up from there, and their siblings.
    """
    known: dict[tuple[int, int], bytes] = {}
    at, node, siblings, count = found.index, found.leaf, iter(found.path), own.count
    level = 0
    while count > 1:
        known[level, at] = node
        if at ^ 1 < count:
            sibling = next(siblings)
            known[level, at ^ 1] = sibling
            node = node_hash(sibling, node) if at & 1 else node_hash(node, sibling)
        level, at, count = level + 1, at >> 1, (count + 1) >> 1
    path, count = [], own.count
    for level, nodes in enumerate(own.levels[:-1]):
        if index ^ 1 < count:
            path.append(known.get((level, index ^ 1), nodes[index ^ 1]))
        index, count = index >> 1, (count + 1) >> 1
    return path


def _walk_up(found: Difference, count: int) -> bytes:
    index, node, siblings = found.index, found.leaf, iter(found.path)
    while count > 1:
        if index ^ 1 < count:
            sibling = next(siblings)
            node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
        index, count = index >> 1, (count + 1) >> 1
    return node
