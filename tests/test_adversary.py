"""Some of the attacks of `make adversary`, as processes against real nodes: what they cost, and whom."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from adversary.attacks import find_attack
from adversary.playing import Verdict, play

CHEAP = (
    ("one ulp", "embedded", Verdict.LEFT_OUT),
    ("lying opening", "embedded", Verdict.FINED),
    ("wrong merge", "embedded", Verdict.LEFT_OUT),
    pytest.param("copied unit", "anvil", Verdict.LEFT_OUT, marks=pytest.mark.node),
)


@pytest.mark.parametrize(("name", "chain", "verdict"), CHEAP)
def test_a_cheat_gains_nothing_and_costs_nobody_else_a_wei(
    name: str, chain: str, verdict: Verdict, tmp_path: Path
) -> None:
    outcome = play(find_attack(name), chain, tmp_path)
    assert outcome.failures() == []
    assert outcome.verdict == verdict
    assert outcome.found
