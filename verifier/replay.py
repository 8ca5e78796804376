"""What a verifier has found out about the units of a round, kept on disk until the round is over."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from cupel.network.ipfs.blockstore import atomic_file
from cupel.protocol.errors import MalformedInput
from cupel.protocol.training.unit import Answer
from cupel.protocol.types import Root, UnitId


@dataclass(slots=True, kw_only=True, eq=False)
class UnitReplay:
    """One unit, as far as it is replayed."""

    unit: UnitId
    round: int
    answers: dict[int, Answer] = field(default_factory=dict)
    """By segment."""
    replay_s: float = 0.0
    fetch_s: float = 0.0
    """Seconds in optimiser steps, and in fetching and hashing."""
    reported: set[str] = field(default_factory=set)
    """Which verdicts are in the history: `drawn`, `all`."""

    def save(self, folder: Path) -> None:
        table = {
            "unit": self.unit.hex(),
            "round": self.round,
            "answers": {
                str(s): [a.end_root.hex(), a.loss.hex(), a.gradient_norm.hex()] for s, a in self.answers.items()
            },
            "replay_s": self.replay_s,
            "fetch_s": self.fetch_s,
            "reported": sorted(self.reported),
        }
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path_of(folder, self.unit)) as file:
            file.write(json.dumps(table).encode())

    @staticmethod
    def load(folder: Path, unit: UnitId) -> UnitReplay | None:
        """What was saved, or None. Raises MalformedInput for a file that `save` does not write."""
        path = path_of(folder, unit)
        if not path.exists():
            return None
        try:
            table = json.loads(path.read_bytes())
            return UnitReplay(
                unit=UnitId(bytes.fromhex(table["unit"])),
                round=int(table["round"]),
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
            raise MalformedInput(f"{path} is damaged ({wrong!r}); delete it, and the unit is replayed anew") from wrong


def path_of(folder: Path, unit: UnitId) -> Path:
    return folder / f"{unit.hex()}.json"
