"""What parties say in a dispute: what they hold, with one thing spoiled. `PARTS` has them by name.

The honest have `DocketSides` as it is; a cheater differs in its unit, in a move, or in when it moves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from court_world import (
    MERGE,
    SEGMENTS,
    SHARD_TOKENS,
    SHARDS,
    STEPS,
    Lie,
    Unit,
    challenge_of,
    flipped_weights,
    hold_merge,
    hold_step,
    merge_challenge,
    program_roots,
    prover_of_merge,
    shards,
    states,
    step_program,
    values_of,
)
from dispute_players import DocketSides

from adversary.outcomes import name_values
from cupel.chain.court_events import DisputeRecord
from cupel.protocol import merkle
from cupel.protocol.disputes.game import Challenge, Defence, StepHeld
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash, tree_root
from cupel.protocol.merkle import tensor_root
from cupel.protocol.proceedings import Move, Position

LEFT_BLOCKS = 4
"""Of its time, when who is late moves."""
FALSE_ROOT = bytes(range(32))
HONEST = Unit()
CAREFUL_LIAR = Unit(flipped_weights())
"""Its trace gives the very end it claims, from the very start: one element of one operation is another."""
PLAIN_LIAR = Unit(Lie(step=1, after=lambda after: {**after, "weights.out": FALSE_ROOT}))
"""Its trace is right, and the state it claims is not what the trace gives."""


def false_merge() -> Lie:
    """One bit of one merged weight is another, in the trace and in the state."""
    program = prover_of_merge().program
    value = program.graph.outputs[program.output_names.index("weights.out")]
    data = bytearray(values_of(prover_of_merge())[value])
    data[8] ^= 1
    forged = torch.frombuffer(data, dtype=torch.float32).reshape(program.graph.type_of(value).shape)
    root = tensor_root(forged)
    return Lie(values={value: bytes(data)}, after=lambda after: {**after, "weights.out": root})


class Sides(DocketSides):
    """Of a unit, or of the merge, as its poster holds it; challenges are right."""

    unit = HONEST
    merge: Lie | None = None

    def defend(self, record: DisputeRecord) -> Defence:
        if record.subject == MERGE:
            return Defence(segment=None, hold=self._hold_merge)
        return self.unit.defence(record.segment)

    def _hold_merge(self, _: int) -> StepHeld:
        return hold_merge(self.merge)

    def challenge(self, record: DisputeRecord) -> Challenge:
        return merge_challenge() if record.subject == MERGE else challenge_of(record.segment)


class WrongTrace(Sides):
    unit = CAREFUL_LIAR


class FalseEnd(Sides):
    unit = PLAIN_LIAR


@dataclass(frozen=True, kw_only=True, eq=False)
class FalseOpenings(Defence):
    """Shows the right bytes where its trace holds others: what it shows would stand, if it were what it posted."""

    def move(self, position: Position) -> Move:
        move = super().move(position)
        found = position.found
        if move.function != "openLeaf" or found is None:
            return move
        (said,) = move.arguments
        begin = position.index * LEAF_BYTES
        return Move("openLeaf", (hold_step(position.step or 0).read(found.index)[begin : begin + len(said)],))


class LyingOpening(Sides):
    unit = CAREFUL_LIAR

    def defend(self, record: DisputeRecord) -> Defence:
        defence = super().defend(record)
        return FalseOpenings(segment=defence.segment, hold=defence.hold)


class LateMoves(Sides):
    """Answers when its time is all but out."""

    unit = CAREFUL_LIAR

    def defend(self, record: DisputeRecord) -> Defence:
        turn = record.turn
        while turn is not None and self._chain.head().number < turn.until - LEFT_BLOCKS:
            time.sleep(0.02)
        return super().defend(record)


class FalseMerge(Sides):
    @property
    def merge(self) -> Lie:
        return false_merge()


class Griefing(Sides):
    """Accuses what is right: it takes a lie of its own for true, and goes on to the last move."""

    def challenge(self, record: DisputeRecord) -> Challenge:
        segment = record.segment
        step = segment * STEPS + 1
        lie = flipped_weights(step)
        wrong = Unit(lie)
        return replace(
            challenge_of(segment),
            step_roots=[wrong.step_root(segment * STEPS + 1 + i) for i in range(STEPS)],
            hold=lambda inner: hold_step(segment * STEPS + inner, lie),
        )


PARTS: dict[str, type[Sides]] = {
    kind.__name__: kind for kind in (Sides, WrongTrace, FalseEnd, LyingOpening, LateMoves, FalseMerge, Griefing)
}


def offer() -> dict[str, Any]:
    """Everything that is posted or said by anybody, computed: whoever is forked after it has it at hand.

    roots        of the unit that each kind of poster posts, and of the merge, in hex
    inputs       of the merge, state roots in hex
    rules        of the docket, hashes in hex
    operations   what each value of a trace is: of a step, and of the merge
    """
    units = {name: kind.unit.root.hex() for name, kind in PARTS.items() if kind is not FalseMerge}
    assert Unit(flipped_weights(3)).root
    for segment in (0, 1):
        challenge_of(segment).prover(1)
    values_of(prover_of_merge())
    roots = program_roots()
    rules = [
        tree_root([leaf_hash(root) for root in roots]).hex(),
        len(roots),
        tree_root([tensor_root(shard) for shard in shards()]).hex(),
        SHARDS,
        SHARD_TOKENS,
        SEGMENTS,
        STEPS,
    ]
    return {
        "roots": {**units, FalseMerge.__name__: hold_merge(false_merge()).state_tree.root.hex()},
        "inputs": [merkle.state_root(state).hex() for state in (states()[2], states()[4])],
        "rules": rules,
        "operations": {"step": name_values(step_program()), "merge": name_values(prover_of_merge().program)},
    }
