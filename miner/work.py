"""A unit in the making: what is trained so far, kept on disk so that a restart goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cupel.network.ipfs.blockstore import atomic_file
from cupel.node.descriptions import CommittedState, UnitDescription
from cupel.protocol.errors import MalformedInput
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import Answer, Commitment, DeriveSecret
from cupel.protocol.types import Cid, Root, UnitId


@dataclass(slots=True, kw_only=True, eq=False)
class UnitWork:
    """One unit of this miner."""

    unit: UnitId
    round: int
    index: int
    start_root: Root
    start_cid: Cid
    answers: list[Answer] = field(default_factory=list)
    """Of the segments trained so far."""
    cids: list[Cid] = field(default_factory=list)
    """Of their end states."""
    train_s: float = 0.0
    commit_s: float = 0.0
    """Seconds spent hashing and storing checkpoints."""
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

    def save(self, folder: Path) -> None:
        table = {
            "unit": self.unit.hex(),
            "round": self.round,
            "index": self.index,
            "start_root": self.start_root.hex(),
            "start_cid": self.start_cid,
            "answers": [[a.end_root.hex(), a.loss.hex(), a.gradient_norm.hex()] for a in self.answers],
            "cids": self.cids,
            "train_s": self.train_s,
            "commit_s": self.commit_s,
        }
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path_of(folder, self.unit)) as file:
            file.write(json.dumps(table).encode())

    @staticmethod
    def load(folder: Path, unit: UnitId) -> UnitWork | None:
        """What was saved, or None. Raises MalformedInput for a file that `save` does not write."""
        path = path_of(folder, unit)
        if not path.exists():
            return None
        try:
            table = json.loads(path.read_bytes())
            return UnitWork(
                unit=UnitId(bytes.fromhex(table["unit"])),
                round=int(table["round"]),
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
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise MalformedInput(f"{path} is damaged ({wrong!r}); delete it, and the unit is trained anew") from wrong


def path_of(folder: Path, unit: UnitId) -> Path:
    return folder / f"{unit.hex()}.json"
