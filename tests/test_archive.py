"""A run's folder: what is written is read back, and a spoilt line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cupel.archive import RoundSummary, RunArchive, UnitSummary, VerdictSummary, find_unit
from cupel.protocol.errors import UsageError

VERDICT = VerdictSummary(verifier="0xV", did_seal=True, did_reveal=True, agreed=False)
UNIT = UnitSummary(
    unit=bytes([1]) * 32,
    miner="0xM",
    index=0,
    status="ATTESTED",
    root=b"r",
    contribution=b"c",
    cid="b",
    verdicts=(VERDICT,),
)
ROUND = RoundSummary(
    round=3, seed=b"s", start_root=b"0", start_cid="", end_root=b"1", end_cid="c", merged=True, units=(UNIT,),
    held_out_loss=2.0, ended_at=9, seconds=1.5,
)  # fmt: skip


def test_rounds_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    archive = RunArchive(tmp_path)
    archive.append(ROUND)
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "cut sho')
    assert list(archive.rounds()) == [ROUND]
    assert find_unit(archive.get_round(3), "0x0101") == UNIT


@pytest.mark.parametrize(
    "change",
    [
        {"round": "3"},
        {"round": True},
        {"merged": 1},
        {"seed": "0xzz"},
        {"units": [{}]},
        {"units": 7},
        {"extra": 1},
        {"held_out_loss": None},
    ],
    ids=str,
)
def test_a_spoilt_line_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    archive = RunArchive(tmp_path)
    archive.append(ROUND)
    path = tmp_path / "rounds.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(UsageError, match="line 1: not a round"):
        list(archive.rounds())
