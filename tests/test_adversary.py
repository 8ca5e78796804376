"""Some of the attacks of `make adversary`, as processes against real nodes: what they cost, and whom."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from adversary.attacks import find_attack
from adversary.disputes import playing as disputing
from adversary.disputes.playing import Parties, find_dispute_attack
from adversary.outcomes import Verdict
from adversary.playing import play

IN_DISPUTE = (
    ("wrong trace, both ends match", "embedded", Verdict.CONVICTED, "element 2 of value 130, SUB, in step 1"),
    ("wrong merge before the court", "embedded", Verdict.CONVICTED, "element 2 of value 25, DIV"),
    ("griefing challenges", "embedded", Verdict.FINED, None),
)


@pytest.mark.node
def test_one_ulp_costs_its_miner_the_bond_and_nobody_else_a_wei(tmp_path: Path) -> None:
    outcome = play(find_attack("one ulp"), "anvil", tmp_path)
    assert outcome.failures() == []
    assert outcome.verdict == Verdict.CONVICTED
    first = outcome.convictions[0]
    assert "element 0 of value" in first.how
    assert "SUB, in step 1 of segment 0" in first.how
    # Half of a bond of one ETH is the prover's; what became of the next round's lie is added to that.
    assert first.prize_wei == 10**18 // 2
    assert outcome.purse("prover").change_wei >= first.prize_wei
    assert -outcome.purse("cheaters").change_wei >= 2 * first.prize_wei
    assert outcome.found


@pytest.fixture(scope="module")
def parties() -> Iterator[Parties]:
    with Parties() as running:
        yield running


@pytest.mark.parametrize(("name", "chain", "verdict", "how"), IN_DISPUTE)
def test_who_lies_in_a_dispute_or_pesters_with_one_pays_for_it(
    name: str, chain: str, verdict: Verdict, how: str | None, parties: Parties, tmp_path: Path
) -> None:
    attack = find_dispute_attack(name)
    assert attack is not None
    outcome = disputing.play(attack, chain, tmp_path, parties)
    assert outcome.failures() == []
    assert outcome.verdict == verdict
    cheaters, prover = outcome.purse("cheaters"), outcome.purse("prover")
    if how is None:
        # What defending cost was repaid out of the bonds, and they are far more than that.
        assert -cheaters.change_wei > 10 * outcome.purse("honest miners").change_wei > 0
    else:
        assert how in outcome.convictions[0].how
        assert prover.change_wei == outcome.books.burned_wei == -cheaters.change_wei // 2
