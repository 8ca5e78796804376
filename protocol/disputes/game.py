"""The dispute as a game: which move each side makes next (docs/design/court.md).

Pure: a position in (`protocol/proceedings.py`), a move out. `contracts/contracts/Court.sol` is the referee of these
moves; who plays sends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cupel.protocol.disputes import reducing
from cupel.protocol.disputes.finding import HeldProver, Prover
from cupel.protocol.disputes.reducing import Disputed
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash, proof, state_leaf
from cupel.protocol.proceedings import Difference, Move, Position, Stage
from cupel.protocol.program import Program
from cupel.protocol.program.traces import Trace
from cupel.protocol.sampling import batch_positions
from cupel.protocol.trees import Tree, height
from cupel.protocol.types import Seed, UnitId

TOKEN_BYTES = 4
LOSS, GRADIENT_NORM = "1.loss", "1.grad_norm"


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentHeld:
    """A unit's segment as its poster holds it."""

    start_root: bytes
    start_evidence: bytes
    start_proof: Sequence[bytes]
    end_root: bytes
    loss: bytes
    gradient_norm: bytes
    salt: bytes
    end_proof: Sequence[bytes]
    inner_roots: Sequence[bytes]
    """After every step but the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepHeld:
    """One step (or merge) as a party holds it: honest, or not."""

    program_roots: Sequence[bytes]
    """Of all the run's Programs, in their order."""
    program_place: int
    trace: Trace
    read: Callable[[int], bytes]
    """The bytes of a value."""
    before: Sequence[Mapping[str, bytes]]
    """Tensor roots by name: of the state before, or of each state that is merged."""
    after: Mapping[str, bytes]
    """Of the state after."""

    @property
    def program(self) -> Program:
        return self.trace.program

    @property
    def is_merge(self) -> bool:
        return self.program_place != 0

    @cached_property
    def names(self) -> list[str]:
        return sorted(self.after, key=str.encode)

    @cached_property
    def state_tree(self) -> Tree:
        return Tree([state_leaf(name, self.after[name]) for name in self.names])

    def value_tree(self, value: int) -> Tree:
        data = self.read(value)
        return Tree([leaf_hash(data[i : i + LEAF_BYTES]) for i in range(0, len(data), LEAF_BYTES)])

    def item(self, number: int) -> tuple[bytes, list[bytes]]:
        items = self.program.items
        return items[number], proof([leaf_hash(one) for one in items], number)

    def output(self, name: str) -> tuple[Any, ...]:
        """An output of the Program and its value in the trace, as the contract takes them.

        Raises  MalformedInput for a name that no output has
        """
        if name not in self.program.output_names:
            raise MalformedInput(f"{name[:80]!r} is no output of the Program")
        index = self.program.output_names.index(name)
        values = len(self.trace.trees)
        value = self.program.graph.outputs[index]
        return (
            index,
            self.item(1 + values + index),
            self.program.items[1 + value],
            self.trace.roots[value],
            self.trace.tree.path(value),
        )

    def output_name(self, state_name: str) -> str:
        return state_name if self.is_merge else f"0.{state_name}"


def children_of(tree: Tree, level: int, index: int) -> list[bytes]:
    """What a node is opened to; a leaf that is the whole tree, to itself."""
    return tree.children(level, index) if level else list(tree.levels[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Defence:
    """The accused's side."""

    segment: SegmentHeld | None
    """None for a merge."""
    hold: Callable[[int], StepHeld]
    """Step of the segment; 0 for a merge."""

    def move(self, position: Position) -> Move:
        """The move that answers.

        Raises  MalformedInput where it is not the accused's turn, and where what it holds has no answer
        """
        p, stage = position, position.stage
        if stage == Stage.SEGMENT:
            return self._open_segment()
        held = self.hold(p.step or 0)
        if stage == Stage.TRACE:
            roots = [leaf_hash(root) for root in held.program_roots]
            nodes = children_of(held.trace.tree, height(held.trace.tree.count), 0)
            place = held.program_place
            return Move("postTrace", (held.program.root, proof(roots, place), held.item(0), nodes))
        if stage == Stage.TRACE_NODES:
            return Move("openNodes", (held.trace.tree.children(p.level, p.index),))
        if stage == Stage.STATE_NODES:
            level = p.level if p.path else height(held.state_tree.count)
            return Move("openNodes", (children_of(held.state_tree, level, p.index),))
        if stage == Stage.VALUE:
            return self._open_value(held, p.index)
        if stage in (Stage.TENSOR_NODES, Stage.LEAF) and p.found is not None:
            if stage == Stage.TENSOR_NODES:
                return Move("openNodes", (held.value_tree(p.found.index).children(p.level, p.index),))
            data = held.read(p.found.index)
            return Move("openLeaf", (data[p.index * LEAF_BYTES : (p.index + 1) * LEAF_BYTES],))
        if stage == Stage.STATE_LEAF:
            return self._open_state_leaf(held, p.index)
        if stage == Stage.EVIDENCE:
            return Move("openEvidence", (held.trace.tree.root, held.output(LOSS), held.output(GRADIENT_NORM)))
        if stage in (Stage.SUMS, Stage.PARTS) and p.found is not None and p.reduction is not None:
            own, value = HeldProver(held.trace, held.read), p.found.index
            if stage == Stage.SUMS:
                return Move(*reducing.post_sums(own, value, p.reduction.element))
            return Move(*reducing.post_parts(own, value, p.reduction))
        raise MalformedInput(f"stage {stage.name}: it is not the accused's turn")

    def _open_segment(self) -> Move:
        s = self.segment
        if s is None:
            raise MalformedInput("a merge has no segment to open")
        start = (s.start_root, s.start_evidence, list(s.start_proof))
        ends = (s.end_root, s.loss, s.gradient_norm, s.salt, list(s.end_proof), list(s.inner_roots))
        return Move("openSegment", (start, *ends))

    def _open_value(self, held: StepHeld, value: int) -> Move:
        root = held.trace.roots[value]
        graph = held.program.graph
        place: tuple[int, int, list[bytes]] = (0, 0, [])
        nodes: list[bytes] = []
        name = held.program.input_names[value] if value < len(graph.inputs) else ""
        if name.startswith("0."):
            state, rest = held.before[0], name[2:]
            if held.is_merge:
                number, _, rest = rest.partition(".")
                state = held.before[int(number)]
            names = sorted(state, key=str.encode)
            leaves = [state_leaf(one, state[one]) for one in names]
            index = names.index(rest)
            place = (index, len(names), proof(leaves, index))
        elif not len(graph.inputs) <= value < len(graph.inputs) + len(graph.constants):
            tree = held.value_tree(value)
            nodes = children_of(tree, height(tree.count), 0)
        return Move("openValue", (held.item(1 + value), root, place, nodes))

    def _open_state_leaf(self, held: StepHeld, index: int) -> Move:
        name = held.names[index]
        before, root, path = b"", bytes(32), []
        if index:
            previous = held.names[index - 1]
            before, root = previous.encode(), held.after[previous]
            path = held.state_tree.path(index - 1)
        output = held.output(held.output_name(name))
        return Move("openStateLeaf", (held.trace.tree.root, output, before, root, path))


@dataclass(frozen=True, kw_only=True, eq=False)
class DataHeld:
    """The run's data, as a challenge of a batch shows it."""

    seed: Seed
    unit: UnitId
    shard_roots: Sequence[bytes]
    shard_tokens: int
    read_shard: Callable[[int], bytes]
    first_step: int
    """Of the segment, counted within the unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Challenge:
    """The challenger's side, who has computed what is right."""

    step_roots: Sequence[bytes]
    """State after every step of the segment; of a merge, the right state."""
    hold: Callable[[int], StepHeld]
    prover: Callable[[int], Prover]
    """Of a step of the segment; 0 for a merge."""
    data: DataHeld | None = field(default=None)
    evidence: tuple[bytes, bytes] | None = None
    """Loss and gradient norm at the segment's end, 4 bytes each. Given, a segment that is right is not gone on with."""

    def move(self, position: Position) -> Move | None:
        """The move that follows, or None: nothing is wrong in what was opened, so nothing can be won.

        Raises  MalformedInput where it is not the challenger's turn
        """
        p, stage = position, position.stage
        if stage == Stage.STEP:
            posted = [*p.inner_roots, p.end_root]
            at = _first_difference(posted, self.step_roots)
            if at is None and self.evidence == (p.loss, p.gradient_norm):
                return None
            return Move("chooseStep", (len(posted) - 1 if at is None else at, list(p.inner_roots)))
        held = self.hold(p.step or 0)
        if stage == Stage.CONTEST:
            chosen = self._choose(p, held.trace.tree, height(held.trace.tree.count), 0)
            if chosen is not None:
                return chosen
            return Move("contestState" if p.end_root != held.state_tree.root else "contestEvidence", ())
        if stage == Stage.TRACE_CHOICE:
            return self._choose(p, held.trace.tree, p.level, p.index)
        if stage == Stage.STATE_CHOICE:
            level = p.level if p.path else height(held.state_tree.count)
            return self._choose(p, held.state_tree, level, p.index)
        if stage == Stage.OMISSION:
            return self._prove_omission(p, held)
        if p.found is None:
            raise MalformedInput(f"stage {stage.name}: it is not the challenger's turn")
        tree = held.value_tree(p.found.index)
        if stage == Stage.TENSOR_CHOICE:
            return self._choose(p, tree, p.level if p.path else height(tree.count), p.index)
        if stage == Stage.ELEMENT:
            return self._judge(p, held, p.found)
        if stage == Stage.SUM_CHOICE and p.reduction is not None:
            answer = reducing.answer_sums(self.prover(p.step or 0), _disputed(p, p.found), p.reduction)
            return None if answer is None else Move(*answer)
        raise MalformedInput(f"stage {stage.name}: it is not the challenger's turn")

    def _choose(self, p: Position, own: Tree, level: int, index: int) -> Move | None:
        place = _first_difference(p.nodes, children_of(own, level, index))
        if place is None:
            return None
        return Move("chooseNode", (place, p.nodes[place], Tree(p.nodes).path(place)))

    def _judge(self, p: Position, held: StepHeld, found: Difference) -> Move | None:
        right = held.read(found.index)[p.index * LEAF_BYTES : (p.index + 1) * LEAF_BYTES]
        at = _first_difference(p.data, right)
        if at is None:
            return None
        graph = held.program.graph
        size = graph.type_of(found.index).dtype.size_bytes
        element = (p.index * LEAF_BYTES + at) // size
        if found.index < len(graph.inputs):
            return self._judge_batch(p, held, found, element)
        return Move(*reducing.question(self.prover(p.step or 0), _disputed(p, found), element))

    def _judge_batch(self, p: Position, held: StepHeld, found: Difference, element: int) -> Move:
        data = self.data
        if data is None:
            raise MalformedInput("a batch is judged by the run's data, which is not held")
        sequences, length = held.program.graph.inputs[found.index].shape
        step = data.first_step + (p.step or 0)
        shards = len(data.shard_roots)
        drawn = batch_positions(data.seed, data.unit, step, sequences, shards, data.shard_tokens, length)
        shard, offset = drawn[element // length]
        at = (offset + element % length) * TOKEN_BYTES
        shown = data.read_shard(shard)
        tree = Tree([leaf_hash(shown[i : i + LEAF_BYTES]) for i in range(0, len(shown), LEAF_BYTES)])
        leaf = at // LEAF_BYTES
        part = shown[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
        return Move(
            "judgeBatch",
            (
                element,
                held.item(1 + found.index),
                p.data,
                tree.root,
                proof(list(data.shard_roots), shard),
                part,
                tree.path(leaf),
            ),
        )

    def _prove_omission(self, p: Position, held: StepHeld) -> Move | None:
        for name in held.names:
            encoded = name.encode()
            if encoded < p.name and (p.index == 0 or p.before < encoded):
                index = held.program.output_names.index(held.output_name(name))
                item = held.item(1 + len(held.trace.trees) + index)
                return Move("proveOmission", (index, item, p.before, p.name))
        return None


def _disputed(p: Position, found: Difference) -> Disputed:
    return Disputed(found=found, tree=p.tree, leaf=p.index, data=p.data, path=p.path)


def _first_difference(posted: Sequence[Any], own: Sequence[Any]) -> int | None:
    """Where what was posted differs first; both are as long as the contract and the Program's types say."""
    return next((i for i, (a, b) in enumerate(zip(posted, own, strict=True)) if a != b), None)
