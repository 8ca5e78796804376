"""What a run leaves on disk: enough to show and to repeat it without any network.

run.json        the run file: where the run is
parameters.json the contract's parameters, as the chain said them
rounds.jsonl    one line per ended round, oldest first
data/           manifests, programs, shards, the states rounds started from, unit descriptions
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cupel.chain.run_values import Parameters
from cupel.network.ipfs import BlockStore
from cupel.node.json_fields import from_fields, to_fields
from cupel.protocol.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictSummary:
    """What one drawn verifier did about one unit."""

    verifier: str
    did_seal: bool
    did_reveal: bool
    agreed: bool
    """Its answers equal what the miner opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSummary:
    """One committed unit of a round."""

    unit: bytes
    miner: str
    index: int
    status: str
    """Name of the contract's status: ATTESTED, DISPUTED, ..."""
    root: bytes
    contribution: bytes
    cid: str
    """Its description."""
    verdicts: tuple[VerdictSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """One ended round."""

    round: int
    seed: bytes
    start_root: bytes
    start_cid: str
    end_root: bytes
    end_cid: str
    merged: bool
    units: tuple[UnitSummary, ...]
    held_out_loss: float
    """Of the state the round ended in, nats a token."""
    ended_at: int
    """Height."""
    seconds: float
    """Since the round before was seen to end."""


class RunArchive:
    """A run's folder. Raises UsageError where the folder holds no run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def blocks(self) -> Path:
        return self.folder / "data" / "blockstore"

    @property
    def _rounds(self) -> Path:
        return self.folder / "rounds.jsonl"

    def open_store(self) -> BlockStore:
        """The blocks, for reading."""
        self.check()
        return BlockStore(self.blocks, read_only=True)

    def check(self) -> None:
        if not self.run_file.is_file() or not self.blocks.is_dir():
            raise UsageError(f"{self.folder} holds no run; `cupel demo --dir {self.folder}` makes one")

    def append(self, summary: RoundSummary) -> None:
        with self._rounds.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_fields(summary)) + "\n")

    def rounds(self) -> Iterator[RoundSummary]:
        """Ended rounds, oldest first; a line cut short by a crash is left out."""
        if not self._rounds.exists():
            return
        for number, line in enumerate(self._rounds.read_text(encoding="utf-8").split("\n")[:-1], 1):
            try:
                yield from_fields(RoundSummary, json.loads(line))
            except (KeyError, TypeError, ValueError) as wrong:
                raise UsageError(f"{self._rounds}, line {number}: not a round ({wrong!r})") from wrong

    def get_round(self, number: int) -> RoundSummary:
        known = {summary.round: summary for summary in self.rounds()}
        if number not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise UsageError(f"no round {number} in {self.folder}; ended rounds there: {listed}")
        return known[number]

    def write_parameters(self, parameters: Parameters) -> None:
        text = json.dumps(to_fields(parameters), indent=2)
        (self.folder / "parameters.json").write_text(text + "\n", encoding="utf-8")

    def read_parameters(self) -> Parameters:
        path = self.folder / "parameters.json"
        try:
            return from_fields(Parameters, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as wrong:
            raise UsageError(f"{path} does not hold a run's parameters ({wrong!r})") from wrong


def find_unit(summary: RoundSummary, wanted: str) -> UnitSummary:
    """A unit of a round by its place in the list (0, 1, ...) or the beginning of its id or of its miner's address."""
    if wanted.isdigit() and int(wanted) < len(summary.units):
        return summary.units[int(wanted)]
    prefix = wanted.lower().removeprefix("0x")
    found = [
        u
        for u in summary.units
        if prefix and (u.unit.hex().startswith(prefix) or u.miner.lower().removeprefix("0x").startswith(prefix))
    ]
    if len(found) != 1:
        listed = "\n".join(f"  {i}  0x{u.unit.hex()}  {u.status.lower()}" for i, u in enumerate(summary.units))
        raise UsageError(f"{len(found) or 'no'} units of round {summary.round} match {wanted!r}; name one:\n{listed}")
    return found[0]
