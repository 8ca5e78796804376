"""Both sides' moves about an element of many terms (docs/design/court.md, "Long elements").

Functions give the name of a move and its arguments; `game` says when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Opcode, Operation
from cupel.protocol.disputes import terms
from cupel.protocol.disputes.claims import Block, Opening
from cupel.protocol.disputes.finding import HeldProver, Prover, path_beside
from cupel.protocol.disputes.openings import leaf_of
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash
from cupel.protocol.proceedings import Difference, Reduction
from cupel.protocol.program.traces import tree_of
from cupel.protocol.trees import Tree

DIRECT_TERMS = 4096
"""An element of more terms goes the long way though a judge would take up to 16,384: it is cheaper from here on."""
DIRECT_SOURCES = 1024
"""The same of INDEX_ADD and SCATTER, of which every term is looked up by itself."""
DIRECT_BYTES = 1 << 16
"""So does one whose proof is longer: a transaction has 128 KiB, and pays for each byte."""

Call = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Disputed:
    """The operation in question: its value in the accused's trace, and the leaf of its bytes that was opened."""

    found: Difference
    tree: bytes
    """Root of the tree over the value's bytes."""
    leaf: int
    data: bytes
    path: tuple[bytes, ...]

    @property
    def opening(self) -> Opening:
        return Opening(self.data, self.path)


def direct_terms(op: Operation) -> int:
    """The most terms of an element that is judged at once."""
    return DIRECT_SOURCES if op.opcode in (Opcode.INDEX_ADD, Opcode.SCATTER) else DIRECT_TERMS


# ---------------------------------------------------------------- the accused


def post_sums(held: HeldProver, value: int, element: int) -> Call:
    """What an honest poster answers: the sums or the term, and the proof that they give what it holds."""
    sums = held.sums(value, element)
    _, proof = held.prove_sums(*held.about(value), element, held.opening(value, element), sums)
    return "postSums", ((sums.exponent, list(sums.positions), list(sums.sums)), proof.to_bytes())


def post_parts(held: HeldProver, value: int, reduction: Reduction) -> Call:
    r = reduction
    return "postParts", (list(held.parts(value, r.element, r.exponent, r.first, r.end)),)


# ---------------------------------------------------------------- the challenger


def question(prover: Prover, disputed: Disputed, element: int) -> Call:
    """How a wrong element is brought to judgement: at once, or the long way where it has one and that is cheaper."""
    d, value = disputed, disputed.found.index
    op = prover.operation(value)
    ordered = op.opcode in terms.ORDERED
    has_long_way = ordered or op.opcode in terms.SUMMED or op.opcode in terms.NAMED
    count = 0
    if has_long_way:
        length = prover.program.graph.type_of(op.operands[0]).shape[-1]
        count = length if ordered else prover.count_terms(value, element)
    if count <= direct_terms(op):
        _, proof = prover.prove(d.found, d.tree, element, d.opening)
        encoded = proof.to_bytes()
        if count == 0 or len(encoded) <= DIRECT_BYTES:
            return "judge", (element, encoded)
    if ordered:
        return _contradict(prover, op, d, element)
    _, proof = prover.prove_count(d.found, d.tree, element)
    return "askSums", (element, proof.to_bytes())


def _contradict(prover: Prover, op: Operation, d: Disputed, element: int) -> Call:
    """The terms or places that show a position to be wrong, all earlier places being right."""
    own = prover.result(d.found.index)
    flat = own.reshape(-1)
    right = int(flat[element])
    positions, leaves = (right, 0), dict[int, Opening]()
    if op.opcode in (Opcode.TOPK, Opcode.SORT):
        place = element % op.result.shape[-1]
        at = element * 8 - d.leaf * LEAF_BYTES
        claimed = int.from_bytes(d.data[at : at + 8], "little", signed=True)
        earlier = flat[element - place : element].tolist()
        positions = (earlier.index(claimed), 0) if claimed in earlier else (max(place - 1, 0), 1 + right)
        leaf = leaf_of(op.result, element - place + positions[0])
        if leaf != d.leaf:
            # It lies before the first leaf that differs, so it is one's own, and so are its bytes.
            beside = path_beside(tree_of(own), Difference(d.leaf, leaf_hash(d.data), d.path), leaf)
            shown = merkle.tensor_bytes(own)[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
            leaves[leaf] = Opening(shown, tuple(beside))
    _, proof = prover.prove_order(d.found, d.tree, element, d.opening, positions, leaves)
    return "judgeOrder", (element, list(positions), proof.to_bytes())


def answer_sums(prover: Prover, disputed: Disputed, reduction: Reduction) -> Call | None:
    """What contradicts the sums posted last: a term, a block, or a sum whose parts are asked for. None: nothing."""
    d, r, value = disputed, reduction, disputed.found.index
    op = prover.operation(value)
    own = prover.sums(value, r.element)
    if op.opcode in terms.NAMED:
        if not prover.precedes(value, r.element, own.positions[0], r.positions[0]):
            return None
        return _point_at(prover, d, r, (own.positions[0], 0))
    if own.exponent > r.exponent:
        return _point_at(prover, d, r, own.positions)
    if r.exponent >= terms.INFINITE_KEY:
        return None
    sums = prover.parts(value, r.element, r.exponent, r.first, r.end)
    place = next((i for i, (a, b) in enumerate(zip(r.sums, sums, strict=True)) if a != b), None)
    if place is None:
        return None
    size = terms.child_terms(r.block, r.end - r.first)
    first = r.first + place * size
    end = min(first + size, r.end)
    total = r.sums[place]
    path = Tree(sum_leaves(r.sums)).path(place)
    if end - first > r.block:
        return "chooseSum", (place, total, path)
    block = Block(first=first, end=end, exponent=r.exponent, total=total)
    _, proof = prover.prove_block(d.found, d.tree, r.element, block)
    return "judgeBlock", (place, total, path, proof.to_bytes())


def _point_at(prover: Prover, d: Disputed, r: Reduction, positions: tuple[int, int]) -> Call:
    _, proof = prover.prove_witness(d.found, d.tree, r.element, r.positions[0], positions)
    return "judgeWitness", (list(positions), proof.to_bytes())


def sum_leaves(sums: Sequence[int]) -> list[bytes]:
    """Posted sums as leaves of a tree: words of the contract."""
    return [one.to_bytes(32, "big", signed=True) for one in sums]
