"""Where two traces differ, and the proof of it: what a challenger does who has her own honest trace.

Of the accused she needs only what the game makes it open: nodes of two trees, at most 1,024 a move, and one leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Opcode, Operation
from cupel.protocol.disputes import terms
from cupel.protocol.disputes.claims import Block, Claim, Opening, Proof, Sums, Value
from cupel.protocol.disputes.elements import recompute_element
from cupel.protocol.disputes.openings import Reader, Recorder, Windowed, leaf_of
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.hashing import LEAF_BYTES, node_hash, operation_leaf
from cupel.protocol.program.program import Program
from cupel.protocol.program.running import flat_inputs, run
from cupel.protocol.program.traces import Trace, recompute, root_of, trace_root, tree_of, value_item
from cupel.protocol.trees import Tree, are_children, child_range, height

EXPONENTS = (Opcode.EXPONENT, Opcode.EXPONENT_SCALED)

Open = Callable[[int, int], Sequence[bytes]]
"""(level, index) → the children of that node of the accused's tree, as `Tree.children` gives them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first leaf in which a tree differs from one's own."""

    index: int
    leaf: bytes
    path: tuple[bytes, ...]


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


class Prover:
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

    def prove_sums(
        self, found: Difference, tree: bytes, element: int, claimed: Opening, sums: Sums
    ) -> tuple[Claim, Proof]:
        """What posted sums are judged by: the element, its scales, the named terms."""

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            if op.opcode in EXPONENTS:
                terms.exponent_of_term(op, xs, element, sums.positions[0])
            elif op.opcode in (Opcode.MAX, Opcode.MIN):
                terms.term_bits(op, xs, element, sums.positions[0])
            elif terms.is_float_sum(op):
                for position in sums.positions:
                    terms.term_bits(op, xs, element, position)
            elif op.opcode in (Opcode.DOT, Opcode.DOT_ROWS):
                terms.finish(op, xs, element, 0, 0)

        return self._prove(found, tree, element, claimed, look)

    def prove_witness(
        self,
        found: Difference,
        tree: bytes,
        element: int,
        claimed: Opening,
        positions: tuple[int, int],
        leaves: Mapping[int, Opening] | None = None,
    ) -> tuple[Claim, Proof]:
        """What named terms are judged by (`judge_witness`).

        claimed  the accused's leaf that holds the element; needed where it is compared, as of MAX and SORT
        leaves   further leaves of the accused's result that were opened, for TOPK and SORT
        """
        op = self.operation(found.index)
        compared = not (terms.is_float_sum(op) or op.opcode in EXPONENTS)

        def look(op: Operation, xs: Sequence[Reader]) -> None:
            if op.opcode in EXPONENTS:
                for position in positions:
                    terms.exponent_of_term(op, xs, element, position)
            elif terms.is_float_sum(op):
                for position in positions:
                    terms.term_bits(op, xs, element, position)

        def compare(op: Operation, xs: Sequence[Reader], result: Windowed) -> None:
            leaf = leaf_of(op.result, element)
            result.show(leaf, claimed.data)
            if op.opcode in (Opcode.TOPK, Opcode.SORT):
                terms.is_in_order(op, xs[0], result, element, positions)
            else:
                terms.exceeds(op, xs, element, result.read(element, 1), positions[0])

        if not compared:
            return self._prove(found, tree, element, None, look)
        return self._prove(found, tree, element, claimed, look, compare, leaves or {})

    def sums(self, value: int, element: int) -> Sums:
        """What an honest party posts about an element of its own."""
        op = self.operation(value)
        recorder = Recorder()
        xs = [recorder.reader(t) for t in self._operands(op)]
        count = terms.count_terms(op, xs, element)
        if op.opcode in terms.EXTREMES:
            right = self._values([value])[value].reshape(-1)[element : element + 1]
            return Sums(exponent=0, positions=(_extreme_at(op, xs, element, merkle.tensor_bytes(right)), 0), sums=())
        exponent, positions = _largest(op, xs, element, count) if terms.is_float_sum(op) else (0, (0, 0))
        block = terms.block_terms(op)
        size = terms.child_terms(block, count)
        sums = tuple(
            sum(
                terms.sum_block(op, xs, element, at, min(at + block, count), exponent) or 0
                for at in range(first, min(first + size, count), block)
            )
            for first in range(0, count, size)
        )
        return Sums(exponent=exponent, positions=positions, sums=sums)

    def _operands(self, op: Operation) -> list[torch.Tensor]:
        known = self._values(set(op.operands))
        return [known[v] for v in op.operands]

    def _prove(
        self,
        found: Difference,
        tree: bytes,
        element: int,
        claimed: Opening | None,
        look: Callable[[Operation, Sequence[Reader]], None],
        compare: Callable[[Operation, Sequence[Reader], Windowed], None] | None = None,
        leaves: Mapping[int, Opening] | None = None,
    ) -> tuple[Claim, Proof]:
        op, value = self.operation(found.index), found.index
        recorder = Recorder()
        readers = [recorder.reader(t) for t in self._operands(op)]
        if compare is None:
            look(op, readers)
        else:
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
        """The path of an earlier value in the accused's tree: of what differs from one's own it meets only nodes on
        the way up from `found`, and their siblings."""
        known: dict[tuple[int, int], bytes] = {}
        index, node, siblings, count = found.index, found.leaf, iter(found.path), len(self.trace.trees)
        level = 0
        while count > 1:
            known[level, index] = node
            if index ^ 1 < count:
                sibling = next(siblings)
                known[level, index ^ 1] = sibling
                node = node_hash(sibling, node) if index & 1 else node_hash(node, sibling)
            level, index, count = level + 1, index >> 1, (count + 1) >> 1
        path, index, count = [], value, len(self.trace.trees)
        for level, nodes in enumerate(self.trace.tree.levels[:-1]):
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


def _largest(op: Operation, xs: Sequence[Reader], element: int, count: int) -> tuple[int, tuple[int, int]]:
    """The exponent and the terms that an honest party names for a float sum."""
    bits = _terms_of(op, xs, element, count)
    signs = {b: p for p, b in bits.items() if terms.key(b) == terms.INFINITE_KEY}
    if len(signs) == 2 and all(terms.key(b) < terms.NAN_KEY for b in bits.values()):
        one, other = signs.values()
        return terms.NAN_KEY, (one, other)
    place = max(bits, key=lambda p: terms.key(bits[p]))
    return terms.key(bits[place]), (place, place)


def _terms_of(op: Operation, xs: Sequence[Reader], element: int, count: int) -> dict[int, int]:
    if op.opcode != Opcode.INDEX_ADD:
        return {p: terms.term_bits(op, xs, element, p) for p in range(count)}
    return dict(terms.landing(xs, element, 0, count))


def _extreme_at(op: Operation, xs: Sequence[Reader], element: int, right: bytes) -> int:
    """A term that has the extreme."""
    length = xs[0].type.shape[-1]
    if op.opcode in (Opcode.ARGMAX, Opcode.ARGMIN):
        return int.from_bytes(right, "little")
    if op.opcode in (Opcode.MAX, Opcode.MIN):
        return next(p for p in range(length) if xs[0].read(element * length + p, 1) == right)
    wanted = int.from_bytes(right, "little", signed=True)
    found = [terms.exponent_of_term(op, xs, element, p) for p in range(length)]
    return found.index(wanted) if wanted in found else 0
