"""The adversary's own counting: what it must call a loss, a fine, a gain, and money that is nowhere."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from network_world import key

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from adversary.attacks import find_attack
from adversary.money import Books, Purse
from adversary.outcomes import Lie, Outcome, Verdict
from adversary.report import Table, describe, summarise

from cupel.protocol.types import Address

FUNDS, GAS, BOND = 10**21, 10**14, 10**18
CHEATER, MINER, VERIFIER = (key(name).address for name in ("cheater", "miner-1", "verifier-1"))
ROLES = {"cheaters": (CHEATER,), "honest miners": (MINER,), "honest verifiers": (VERIFIER,)}


def make_outcome(*, cheater_wei: int = -BOND, lies: tuple[Lie, ...] | None = None, name: str = "one ulp") -> Outcome:
    """A lie that was left out and cost its miner the bond, and everybody else only gas."""
    said = Lie(round=0, what="unit", subject=bytes(32), fate="DISPUTED", got_through=False)
    changes = {CHEATER: cheater_wei, MINER: 0, VERIFIER: 0}
    purses = {
        account: Purse(before_wei=FUNDS, after_wei=FUNDS + change - GAS, gas_wei=GAS, tokens=int(account != CHEATER))
        for account, change in changes.items()
    }
    return Outcome(
        attack=find_attack(name),
        chain="embedded",
        lies=(said,) if lies is None else lies,
        found=("round 0, verifier-1 (drawn): rejects: segment 0",),
        books=Books(accounts=purses, burned_wei=-min(cheater_wei, 0), minted=2),
        roles=ROLES,
        seconds=1.0,
    )


def spoil_purse(outcome: Outcome, account: Address, **changes: int) -> Outcome:
    purses = dict(outcome.books.accounts)
    purses[account] = dataclasses.replace(purses[account], **changes)
    return dataclasses.replace(outcome, books=dataclasses.replace(outcome.books, accounts=purses))


def through(outcome: Outcome) -> Outcome:
    return dataclasses.replace(outcome, lies=(dataclasses.replace(outcome.lies[0], got_through=True),))


def test_a_lie_that_cost_its_bond_is_fined_and_one_that_cost_nothing_only_left_out() -> None:
    assert make_outcome().failures() == []
    assert make_outcome().verdict == Verdict.FINED
    assert make_outcome(cheater_wei=0).verdict == Verdict.LEFT_OUT


def test_gas_is_neither_loss_nor_gain() -> None:
    assert make_outcome().purse("cheaters").change_wei == -BOND
    assert make_outcome().purse("honest miners").change_wei == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda o: dataclasses.replace(o, lies=()), "nobody cheated"),
        (through, "got through: DISPUTED"),
        (lambda o: spoil_purse(o, CHEATER, after_wei=FUNDS - BOND - GAS - 5), "5 wei are nobody's"),
        (lambda o: spoil_purse(o, MINER, tokens=0), "honest miners earned no tokens"),
    ],
)  # fmt: skip
def test_each_failing_of_the_rules_is_said(spoil: Callable[[Outcome], Outcome], says: str) -> None:
    outcome = spoil(make_outcome())
    (failure,) = outcome.failures()
    assert says in failure
    assert f"FAILED: {failure}" in describe(outcome)


def test_what_an_honest_party_lost_and_what_a_cheater_gained_is_said() -> None:
    lost = spoil_purse(make_outcome(cheater_wei=3), VERIFIER, after_wei=FUNDS - GAS - 3)
    assert lost.failures() == ["the cheaters gained 3 wei", "honest verifiers lost 3 wei"]


def test_spite_gets_through_only_where_it_costs_nothing() -> None:
    assert through(make_outcome(name="false dissent")).verdict == Verdict.FINED
    free = through(make_outcome(name="false dissent", cheater_wei=0))
    assert free.verdict == Verdict.GOT_THROUGH
    assert free.failures() == ["unit of round 0 got through: DISPUTED"]
    assert through(make_outcome(name="one ulp")).verdict == Verdict.GOT_THROUGH


def test_the_table_names_every_role_in_wei() -> None:
    text = describe(make_outcome())
    assert f"{FUNDS - BOND - GAS}" in text
    assert f"{-BOND}" in text
    assert "one ulp" in summarise(make_outcome())


def test_what_is_played_again_takes_the_place_of_what_was_played_and_the_rest_stays() -> None:
    order = (("one ulp", "false dissent", "wrong data"), ("embedded", "anvil"))
    table = Table()
    table.add(make_outcome(), "this machine, commit 1")
    table.add(make_outcome(name="false dissent"), "this machine, commit 1")
    table.add_broken("wrong data", "anvil", "no convictions within 240 s", "this machine, commit 1")
    text = table.to_text(*order)
    assert Table(text).to_text(*order) == text
    again = Table(text)
    again.add(make_outcome(cheater_wei=-3 * BOND), "this machine, commit 2")
    changed = again.to_text(*order)
    assert changed.count("commit 1") == 2
    assert changed.count("commit 2") == changed.count("-3.000") == 1
    assert changed.count("DID NOT END") == 2
    assert [row.split("  ")[0] for row in changed.splitlines()[1:4]] == ["one ulp", "false dissent", "wrong data"]


def test_an_attack_that_does_not_exist_is_named() -> None:
    with pytest.raises(KeyError, match="no attack is called 'kindness'; there are skipped step"):
        find_attack("kindness")
