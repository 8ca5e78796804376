"""What a node writes down can be read back; what others send in its place is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_world.disk import note_synced

from cupel.network.ipfs import cid_of
from cupel.node.descriptions import CommittedState, UnitDescription
from cupel.node.log import Log
from cupel.node.manifest import RunManifest
from cupel.node.records import (
    ClaimRecord,
    History,
    MergeRecord,
    OutcomeRecord,
    SegmentVerdict,
    VerdictRecord,
    from_line,
    to_line,
)
from cupel.node.stats import StatLine, Stats
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.merkle import tree_root
from cupel.protocol.types import Root, Seed, UnitId

UNIT, OTHER = UnitId(b"\x05" * 32), Root(b"\x06" * 32)
VERDICT = VerdictRecord(
    time_s=1.5,
    round=3,
    unit=UNIT,
    miner="0xA",
    index=0,
    verifier="0xB",
    verdict="rejects",
    reason="segment 1: …",
    drawn=True,
    segments=(
        SegmentVerdict(
            segment=1,
            expected_root=OTHER,
            got_root=bytes(32),
            loss=b"\0\0\x80\x3f",
            gradient_norm=bytes(4),
            agrees=False,
        ),
    ),
    replay_s=0.25,
    fetch_s=0.0,
)
MERGE = MergeRecord(time_s=2.0, round=3, state_root=OTHER, cid="b", units=(UNIT,), action="proposed")
CLAIM = ClaimRecord(time_s=3.0, rounds=(1, 2), amount=10**20, transaction=bytes(32))


@pytest.mark.parametrize("record", [VERDICT, MERGE, CLAIM])
def test_a_record_reads_back_as_itself(record: VerdictRecord | MergeRecord | ClaimRecord) -> None:
    assert from_line(to_line(record)) == record
    assert json.loads(to_line(record))["kind"] == record.kind


@pytest.mark.parametrize("line", ["", "[]", '{"kind":"gold"}', to_line(VERDICT).replace("rejects", "forgives")])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(MalformedInput, match="not a history record"):
        from_line(line)


def test_a_line_cut_short_by_a_crash_costs_that_line_alone(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append(MERGE)
    with history.path.open("a") as file:
        file.write(to_line(VERDICT)[:40])
    assert list(history) == [MERGE]
    outcome = OutcomeRecord(time_s=0.0, round=1, index=0, unit=UNIT, outcome="accepted")
    history.append(outcome)
    assert list(history) == [MERGE, outcome]


def test_a_record_is_on_disk_when_the_journal_may_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "history.jsonl")
    synced = note_synced(monkeypatch)
    history.append(MERGE)
    assert {history.path.stat().st_ino, tmp_path.stat().st_ino} <= synced
    synced.clear()
    history.append(MERGE)
    assert history.path.stat().st_ino in synced


# Descriptions


def describe(states: int = 4) -> UnitDescription:
    return UnitDescription(
        unit=UNIT,
        states=tuple(
            CommittedState(
                state_root=Root(bytes([i]) * 32), evidence=Root(bytes([i + 9 if i else 0]) * 32), cid=cid_of(bytes([i]))
            )
            for i in range(states)
        ),
    )


def check(description: UnitDescription, committed: UnitDescription) -> None:
    root = tree_root(committed.leaves())
    description.check(UNIT, root, committed.contribution, committed.states[0].state_root, len(committed.states) - 1)


def test_a_description_reads_back_as_itself_and_proves_its_states() -> None:
    description = describe()
    assert UnitDescription.from_bytes(description.to_bytes()) == description
    check(description, description)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 255))
def test_a_description_of_other_states_is_refused(which: int, is_root: bool, bit: int) -> None:
    honest = describe()
    old = honest.states[which]
    value = bytearray(old.state_root if is_root else old.evidence)
    value[bit // 8] ^= 1 << bit % 8
    spoilt = replace(old, **{"state_root" if is_root else "evidence": Root(bytes(value))})
    states = (*honest.states[:which], spoilt, *honest.states[which + 1 :])
    with pytest.raises(RootMismatch, match="unit description"):
        check(replace(honest, states=states), honest)


def test_a_description_of_another_unit_or_length_is_refused() -> None:
    honest = describe()
    with pytest.raises(MalformedInput, match="description of unit"):
        check(replace(honest, unit=UnitId(bytes(32))), honest)
    with pytest.raises(MalformedInput, match="the run has 3 a unit"):
        honest.check(UNIT, tree_root(honest.leaves()), honest.contribution, honest.states[0].state_root, 2)
    with pytest.raises(RootMismatch, match="first checkpoint"):
        honest.check(UNIT, tree_root(honest.leaves()), honest.contribution, OTHER, 3)
    with pytest.raises(RootMismatch, match="contribution"):
        honest.check(UNIT, tree_root(honest.leaves()), OTHER, honest.states[0].state_root, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        describe(1).to_bytes(),
        describe().to_bytes() + b" ",
        describe().to_bytes().replace(b'"version":1', b'"version":2'),
        describe().to_bytes().replace(cid_of(b"\0").encode(), b"../../etc/passwd"),
        b" " * (1 << 20) + describe().to_bytes(),
    ],
)
def test_bytes_that_are_no_description_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        UnitDescription.from_bytes(data)


def test_a_manifest_reads_back_as_itself_and_nothing_else_does() -> None:
    manifest = RunManifest(programs={"step.program": cid_of(b"s")}, data=cid_of(b"d"), genesis_seed=Seed(b"\x01" * 32))
    data = manifest.to_bytes()
    assert RunManifest.from_bytes(data) == manifest
    # A run that goes on from another's state has no seed.
    successor = RunManifest(programs=manifest.programs, data=manifest.data, genesis_seed=None)
    assert RunManifest.from_bytes(successor.to_bytes()) == successor
    assert successor.to_bytes() != data
    for spoilt in (b"", b"[]", data + b" ", data.replace(b'"version":1', b'"version":2'), data.replace(b"01", b"", 1)):
        with pytest.raises(MalformedInput, match="run manifest"):
            RunManifest.from_bytes(spoilt)


# Telling the operator


def test_the_stat_line_is_written_when_something_changes_and_not_for_each_step() -> None:
    stream, now = io.StringIO(), [0.0]
    stats = Stats(round=2, phase="train")
    line = StatLine(Log("miner", as_json=True, stream=stream), stats, every_s=5.0, clock=lambda: now[0])
    line.tick()
    for _ in range(10):
        stats.steps += 1
        stats.steps_s += 0.02
        line.tick()
    assert len(stream.getvalue().splitlines()) == 1
    now[0] = 5.0
    line.tick()
    stats.accepted += 1
    line.tick()
    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[-1]["level"] == "stat"
    assert (lines[-1]["accepted"], lines[-1]["round"]) == (1, 2)
    assert "50.0 steps/s" in lines[-1]["event"]


def test_a_log_line_is_for_people_or_one_json_object() -> None:
    people, programs = io.StringIO(), io.StringIO()
    for as_json, stream in ((False, people), (True, programs)):
        Log("verifier", as_json=as_json, stream=stream, clock=lambda: 0.0).warning(
            "unit rejected", got=OTHER, segment=3
        )
    assert people.getvalue().endswith(" verifier warning: unit rejected got=0x06060606… segment=3\n")
    entry = json.loads(programs.getvalue())
    assert entry["got"] == "0x" + OTHER.hex()
    assert (entry["level"], entry["process"], entry["segment"]) == ("warning", "verifier", 3)
