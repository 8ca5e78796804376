"""A unit in the making: what is trained so far, kept on disk so that a restart goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass, field

from cupel.node.descriptions import CommittedState, UnitDescription
from cupel.node.journal import Journal
from cupel.protocol.errors import MalformedInput
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import Answer, Commitment, DeriveSecret
from cupel.protocol.types import Cid, Root, Seed, UnitId

KIND = "work"
"""What these documents are called in the journal."""


@dataclass(slots=True, kw_only=True, eq=False)
class UnitWork:
    """One unit of this miner."""

    unit: UnitId
    round: int
    seed: Seed
    """What the unit's data order follows from. Work for another seed or start state answers another question."""
    index: int
    start_root: Root
    start_cid: Cid
    answers: list[Answer] = field(default_factory=list)
    """Of the segments trained so far."""
    cids: list[Cid] = field(default_factory=list)
    """Of their end states."""
    train_s: float = 0.0
    commit_s: float = 0.0
    """Seconds that training waited for checkpoints to be hashed and stored, and committing took."""
    is_recorded: bool = False
    """Whether its commitment is in the history."""
    outcome: str | None = None
    """What became of it, once its round ended; a re-org may still change that."""
    state: NamedState | None = None
    """After the last trained segment, while training goes on; None where it must be read back."""

    def commit(self, derive_secret: DeriveSecret) -> Commitment:
        return Commitment.of(derive_secret, self.unit, self.start_root, self.answers)

    def describe(self, commitment: Commitment) -> UnitDescription:
        cids = (self.start_cid, *self.cids)
        leaves = zip(commitment.state_roots(), commitment.evidence(), cids, strict=True)
        return UnitDescription(
            unit=self.unit, states=tuple(CommittedState(state_root=s, evidence=e, cid=c) for s, e, c in leaves)
        )

    # On disk

    def save(self, journal: Journal) -> None:
        journal.put(
            KIND,
            self.unit,
            self.round,
            {
                "seed": self.seed.hex(),
                "index": self.index,
                "start_root": self.start_root.hex(),
                "start_cid": self.start_cid,
                "answers": [[a.end_root.hex(), a.loss.hex(), a.gradient_norm.hex()] for a in self.answers],
                "cids": self.cids,
                "train_s": self.train_s,
                "commit_s": self.commit_s,
                "round": self.round,
                "recorded": self.is_recorded,
                "outcome": self.outcome,
            },
        )

    @staticmethod
    def load(journal: Journal, unit: UnitId) -> UnitWork | None:
        """What was saved, or None. Raises MalformedInput for a document that `save` does not write."""
        table = journal.get(KIND, unit)
        if table is None:
            return None
        try:
            return UnitWork(
                unit=unit,
                round=int(table["round"]),
                seed=Seed(bytes.fromhex(table["seed"])),
                index=int(table["index"]),
                start_root=Root(bytes.fromhex(table["start_root"])),
                start_cid=Cid(table["start_cid"]),
                answers=[
                    Answer(
                        end_root=Root(bytes.fromhex(end)), loss=bytes.fromhex(loss), gradient_norm=bytes.fromhex(norm)
                    )
                    for end, loss, norm in table["answers"]
                ],
                cids=[Cid(c) for c in table["cids"]],
                train_s=float(table["train_s"]),
                commit_s=float(table["commit_s"]),
                is_recorded=bool(table["recorded"]),
                outcome=table["outcome"],
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise MalformedInput(f"{journal.path}: work on unit 0x{unit.hex()} is damaged ({wrong!r})") from wrong
