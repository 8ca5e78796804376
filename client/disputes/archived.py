"""What a run's folder holds of a posted result: the work that should have been done, and what was posted instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cupel.archive import RoundSummary, RunArchive, UnitSummary, find_unit
from cupel.chain.run_values import Status
from cupel.disputes.inputs import Work
from cupel.network.states import check_state_root, decode_state
from cupel.node.descriptions import UnitDescription
from cupel.protocol import sampling
from cupel.protocol.errors import UsageError
from cupel.protocol.training.state import NamedState, unflatten_state
from cupel.protocol.training.unit import Stepped, answer_of, train_segment
from cupel.protocol.types import Cid, Root, Seed, UnitId
from cupel.run_data import RunData, open_run, open_stores, read_stored

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posted:
    """A result beside the work that it is claimed to be of."""

    work: Work
    claimed: Mapping[str, torch.Tensor]
    """The state after, as it was posted."""
    source: str
    """Where that was found."""
    assumed: str
    """What a proof from the folder takes for granted; empty where nothing."""


class ArchivedRound:
    """One round of a run's folder."""

    def __init__(self, folder: Path, number: int, *, backend: str, threads: int, say: Say) -> None:
        archive = RunArchive(folder)
        archive.check()
        self._summary: RoundSummary = archive.get_round(number)
        self._run: RunData = open_run(archive)
        self._stores = open_stores(archive)
        self._backend, self._threads, self._say = backend, threads, say

    def read_step(self, wanted: str, step: int) -> Work:
        """A step of a unit, from the state that it should start from. Raises UsageError: there is no such step."""
        unit = find_unit(self._summary, wanted)
        steps = self._run.parameters.segments * self._run.parameters.segment_steps
        if not 0 <= step < steps:
            raise UsageError(f"no step {step}: a unit has steps 0 to {steps - 1}")
        self._say(f"repeating {step} steps before step {step} ...")
        state = self._start()
        for before in range(step):
            state = self._step(unit, state, before)
        return self._work(unit, state, step)

    def read_segment(self, wanted: str, segment: int | None) -> Posted | None:
        """The first segment of a unit whose end is not what it should be, or this one; None: all are right.

        Raises  UsageError: no such segment, or its start is wrong already; RootMismatch, MalformedInput: damaged files
        """
        unit = find_unit(self._summary, wanted)
        segments, steps = self._run.parameters.segments, self._run.parameters.segment_steps
        if segment is not None and not 0 <= segment < segments:
            raise UsageError(f"no segment {segment}: a unit has segments 0 to {segments - 1}")
        description = UnitDescription.from_bytes(self._run.fetcher.fetch(unit.cid))
        description.check(
            UnitId(unit.unit), Root(unit.root), Root(unit.contribution), Root(self._summary.start_root), segments
        )
        state = self._start()
        for number in range(segments if segment is None else segment + 1):
            self._say(f"repeating segment {number}, steps {number * steps} to {(number + 1) * steps - 1} ...")
            before = dict(state)
            result = train_segment(self._run_step, before, self._loader(unit), number, steps)
            end = description.states[number + 1]
            if answer_of(result).end_root != end.state_root:
                if segment is not None and number < segment:
                    raise UsageError(
                        f"segment {number} is wrong already, and segment {segment} starts from what it posted: "
                        f"prove segment {number}"
                    )
                return self._posted_segment(unit, before, number, end.state_root, end.cid)
            state = dict(result.state)
        return None

    def read_merge(self) -> Posted:
        """The round's merge. Raises UsageError: there was none, or its states are no longer kept."""
        number = self._summary.round
        if not self._summary.merged:
            raise UsageError(f"round {number} merged nothing")
        attested = sorted((u for u in self._summary.units if u.status == Status.ATTESTED.name), key=lambda u: u.unit)
        states = []
        for unit in attested[: self._run.parameters.max_merge]:
            description = UnitDescription.from_bytes(self._run.fetcher.fetch(unit.cid))
            end = description.states[-1]
            states.append(self._read(f"contribution of unit 0x{unit.unit.hex()[:16]}…", end.cid, end.state_root))
        end_cid, end_root = Cid(self._summary.end_cid), Root(self._summary.end_root)
        work = Work(
            program=self._run.programs.merges[len(states) - 1],
            args=([unflatten_state(state) for state in states],),
            what=f"the merge of round {number}, of {len(states)} units",
        )
        claimed = self._read(f"end of round {number}", end_cid, end_root)
        return Posted(work=work, claimed=claimed, source=f"the state that round {number} ended in", assumed="")

    def _start(self) -> NamedState:
        summary = self._summary
        return self._run.read_state(
            f"start of round {summary.round}", Cid(summary.start_cid), Root(summary.start_root)
        )  # fmt: skip

    def _run_step(self, state: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> Stepped:
        return self._run.programs.run_step(state, tokens, backend=self._backend, threads=self._threads)

    def _loader(self, unit: UnitSummary) -> Callable[[int], torch.Tensor]:
        return lambda step: self._batch(unit, step)

    def _batch(self, unit: UnitSummary, step: int) -> torch.Tensor:
        training, config = self._run.training, self._run.programs.config
        length = config.context + 1
        positions = sampling.batch_positions(
            Seed(self._summary.seed), UnitId(unit.unit), step, config.batch, len(training), training.shard_tokens,
            length,
        )  # fmt: skip
        return training.batch(positions, length)

    def _step(self, unit: UnitSummary, state: NamedState, step: int) -> NamedState:
        return dict(self._run_step(state, self._batch(unit, step)).state)

    def _work(self, unit: UnitSummary, state: NamedState, step: int) -> Work:
        return Work(
            program=self._run.programs.step,
            args=(unflatten_state(state), self._batch(unit, step)),
            what=f"step {step} of unit 0x{unit.unit.hex()[:16]}… of {unit.miner}",
        )

    def _posted_segment(self, unit: UnitSummary, start: NamedState, segment: int, root: Root, cid: Cid) -> Posted:
        steps = self._run.parameters.segment_steps
        last = (segment + 1) * steps - 1
        claimed = self._read(f"what was posted after segment {segment}", cid, root)
        state = start
        for step in range(segment * steps, last):
            state = self._step(unit, state, step)
        assumed = (
            f"the segment's {steps - 1} steps before step {last} are taken as right: their states were not posted. "
            "On chain the accused must open them, and may have to answer for an earlier step"
            if steps > 1
            else ""
        )
        source = f"the state posted after segment {segment}"
        return Posted(work=self._work(unit, state, last), claimed=claimed, source=source, assumed=assumed)

    def _read(self, what: str, cid: Cid, root: Root) -> NamedState:
        data, damaged = read_stored(self._stores, cid)
        if data is None:
            reason = f"is damaged in {damaged[0]}" if damaged else "is not kept in the folder"
            raise UsageError(f"{what} ({cid}) {reason}: without it no element can be compared")
        state = decode_state(data)
        check_state_root(what, state, root)
        return state
