"""What a node remembers of its work, one JSON object per line of `history.jsonl` in its data folder.

Each line carries its `kind`. Bytes are 0x-hex, floats of the training are kept as their bits as well, because a
verdict is about bits.
"""

from __future__ import annotations

import json
import os
import struct
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cupel.network.ipfs.disk import storage_failed, sync_directory_names
from cupel.node.json_fields import from_fields, to_fields
from cupel.protocol.errors import MalformedInput


def float_of_bits(bits: bytes) -> float:
    """The binary32 number whose little-endian bytes are `bits`, as evidence stores it."""
    return float(struct.unpack("<f", bits)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One unit this miner trained."""

    kind: ClassVar[str] = "unit"
    time_s: float
    """Unix time when the record was written."""
    round: int
    index: int
    """Which of the miner's units of that round."""
    unit: bytes
    miner: str
    steps: int
    train_s: float
    """Seconds in optimiser steps; below, in reading batches, hashing and storing checkpoints."""
    commit_s: float
    root: bytes
    contribution: bytes
    cid: str
    """The unit's description."""
    losses: tuple[float, ...]
    """Loss of each segment's last step, in nats a token."""


Outcome = Literal[
    "accepted",
    "rejected",
    "disputed",
    "unverified",
    "unavailable",
    "disclosed",
    "convicted",
    "unmerged",
    "void",
    "stale",
]
"""accepted: attested and merged; unmerged: attested, but its round agreed on no merge; void: its round rests on what
was convicted; stale: not committed in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRecord:
    """What became of one unit of this miner."""

    kind: ClassVar[str] = "outcome"
    time_s: float
    round: int
    index: int
    unit: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentVerdict:
    """One segment as this verifier replayed it."""

    segment: int
    expected_root: bytes
    """End state the miner committed to."""
    got_root: bytes
    loss: bytes
    """Bits of the replay's last loss and gradient norm, 4 bytes each, little-endian."""
    gradient_norm: bytes
    agrees: bool


Verdict = Literal["attests", "rejects", "unavailable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRecord:
    """What this verifier found in one unit."""

    kind: ClassVar[str] = "verdict"
    time_s: float
    round: int
    unit: bytes
    miner: str
    index: int
    verifier: str
    verdict: Verdict
    reason: str
    """Empty for an attestation."""
    drawn: bool
    """Whether the chain asked for it; False for what `--watch all` replays on its own account."""
    segments: tuple[SegmentVerdict, ...]
    replay_s: float
    """Seconds in optimiser steps; below, in fetching, reading batches and hashing."""
    fetch_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecord:
    """One merge this node computed."""

    kind: ClassVar[str] = "merge"
    time_s: float
    round: int
    state_root: bytes
    cid: str
    units: tuple[bytes, ...]
    action: Literal["proposed", "acknowledged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round that ended, as this node saw it."""

    kind: ClassVar[str] = "round"
    time_s: float
    round: int
    start_root: bytes
    end_root: bytes
    end_cid: str
    """Where the end state is found; empty when the round left the state as it was."""
    units_committed: int
    units_attested: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRecord:
    """Rewards taken."""

    kind: ClassVar[str] = "claim"
    time_s: float
    rounds: tuple[int, ...]
    amount: int
    """In the token's smallest unit."""
    transaction: bytes


Record = UnitRecord | OutcomeRecord | VerdictRecord | MergeRecord | RoundRecord | ClaimRecord
_KINDS: dict[str, type[Record]] = {t.kind: t for t in typing.get_args(Record)}


def to_line(record: Record) -> str:
    """`record` as one line of JSON, without the line's end."""
    return json.dumps({"kind": record.kind} | to_fields(record), ensure_ascii=False)


def from_line(line: str) -> Record:
    """Raises MalformedInput for a line `to_line` does not write."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        return from_fields(kind, fields)
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise MalformedInput(f"not a history record ({wrong!r}): {line[:120]!r}") from wrong


class History:
    """The records of one data folder. A line that a crash cut short is dropped by the next append."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Add one; it is on disk when this returns, because the journal then says that it is.

        Raises StorageFailed: it is not there then, or cut short and so dropped by the next
        """
        try:
            self._append(to_line(record).encode() + b"\n")
        except OSError as error:
            raise storage_failed(self.path.parent, error) from error

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a+b") as file:
            end = file.seek(0, 2)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_directory_names(self.path.parent)

    def __iter__(self) -> Iterator[Record]:
        """Records, oldest first, without a last line still being written."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").split("\n")[:-1]:
            yield from_line(line)
