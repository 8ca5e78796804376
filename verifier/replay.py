"""What a verifier has found out about the units of a round, kept on disk until the round is over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cupel.chain.run_values import Answer as PostedAnswer
from cupel.node.journal import Journal
from cupel.protocol.errors import MalformedInput
from cupel.protocol.training.unit import Answer
from cupel.protocol.types import Root, Seed, UnitId

KIND = "replay"
"""What these documents are called in the journal."""


@dataclass(slots=True, kw_only=True, eq=False)
class UnitReplay:
    """One unit, as far as it is replayed."""

    unit: UnitId
    round: int
    seed: Seed
    """The round's seed, from which the unit's data order follows."""
    root: Root
    """What its miner committed to. Answers about another seed or root say nothing about this one."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """By segment."""
    replay_s: float = 0.0
    fetch_s: float = 0.0
    """Seconds in optimiser steps, and in fetching and hashing."""
    reported: set[str] = field(default_factory=set)
    """Which verdicts are in the history: `drawn`, `all`."""

    def save(self, journal: Journal) -> None:
        journal.put(
            KIND,
            self.unit,
            self.round,
            {
                "round": self.round,
                "seed": self.seed.hex(),
                "root": self.root.hex(),
                "answers": {
                    str(s): [a.end_root.hex(), a.loss.hex(), a.gradient_norm.hex()] for s, a in self.answers.items()
                },
                "replay_s": self.replay_s,
                "fetch_s": self.fetch_s,
                "reported": sorted(self.reported),
            },
        )

    @staticmethod
    def load(journal: Journal, unit: UnitId) -> UnitReplay | None:
        """What was saved, or None. Raises MalformedInput for a document that `save` does not write."""
        table = journal.get(KIND, unit)
        if table is None:
            return None
        try:
            return UnitReplay(
                unit=unit,
                round=int(table["round"]),
                seed=Seed(bytes.fromhex(table["seed"])),
                root=Root(bytes.fromhex(table["root"])),
                answers={
                    int(segment): Answer(
                        end_root=Root(bytes.fromhex(end)), loss=bytes.fromhex(loss), gradient_norm=bytes.fromhex(norm)
                    )
                    for segment, (end, loss, norm) in table["answers"].items()
                },
                replay_s=float(table["replay_s"]),
                fetch_s=float(table["fetch_s"]),
                reported=set(table["reported"]),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise MalformedInput(f"{journal.path}: the replay of 0x{unit.hex()} is damaged ({wrong!r})") from wrong


def choose_segments(
    replayed: Mapping[int, Answer], opened: Mapping[int, PostedAnswer], contradicted: Collection[int]
) -> list[int]:
    """Which segments to accuse of another loss or gradient norm, where every state is right.

    opened        what the miner showed on chain, as far as it can be read
    contradicted  segments that this node was drawn for, if it dissented

    The first that was opened otherwise. If no opening tells which it is (the endpoint forgets old transactions, or the
    miner opened in a way that does not show), all that it may be: no move is made against those that are right. Their
    bonds come back if the false one is convicted before this node's time in them is over, and are lost else; half of
    the unit's bond is the prize.
    """
    for segment in sorted(replayed):
        own, shown = replayed[segment], opened.get(segment)
        if shown is not None and (shown.loss, shown.gradient_norm) != (own.loss, own.gradient_norm):
            return [segment]
    return sorted(segment for segment in contradicted if segment in replayed and segment not in opened)
