"""What a node has earned is found however old the run is, and again after a re-org or a restart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cupel.chain.run_contract import CLAIM_ROUNDS
from cupel.chain.run_values import Claimable, Finality
from cupel.node.journal import Identity, Journal
from cupel.node.rewards import REORG_BLOCKS, Rewards
from cupel.protocol.types import Address, Height, RoundIndex, Wei

ME = Address("0x8484C3061f8C07335FE7818d84E703F080fdb74f")


def entry(round_: int, *, mature_at: int = 5) -> Claimable:
    return Claimable(
        round=RoundIndex(round_),
        tokens=3,
        bonds=Wei(1),
        held=Wei(0),
        mature_at=Height(mature_at),
        claimable_now=True,
    )


class Ledger:
    """What a chain says of one account, and what it was asked."""

    def __init__(self, rounds: list[int]) -> None:
        self.rounds = rounds
        self.asked: list[tuple[int, int]] = []
        self.settling = 10**6
        self.entries: dict[int, Claimable] = {}

    def finality(self) -> Finality:
        return Finality(settled=RoundIndex(0), settling=RoundIndex(self.settling), voids=())

    def claimable(self, account: Address, first: int, end: int) -> tuple[Claimable, ...]:
        assert account == ME
        self.asked.append((first, end))
        return tuple(self.entries.get(round_, entry(round_)) for round_ in self.rounds if first <= round_ < end)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, Identity(chain_id=1, contract=ME, address=ME))


def rewards_of(ledger: Ledger, journal: Journal) -> Rewards:
    return Rewards(ledger, journal, ME)  # type: ignore[arg-type]


def test_rounds_with_nothing_left_are_asked_for_once_and_not_again_after_a_restart(journal: Journal) -> None:
    ledger = Ledger([90])
    rewards = rewards_of(ledger, journal)
    rewards.read(100, Height(1000))
    rewards.read(101, Height(1000 + REORG_BLOCKS))
    rewards.read(102, Height(1001 + REORG_BLOCKS))
    assert ledger.asked == [(0, 101), (0, 102), (90, 103)]
    rewards_of(ledger, journal).read(103, Height(1002 + REORG_BLOCKS))
    assert ledger.asked[-1] == (90, 104)


def test_what_was_claimed_is_looked_at_until_no_re_org_can_undo_it(journal: Journal) -> None:
    ledger = Ledger([7, 9])
    rewards = rewards_of(ledger, journal)
    rewards.read(10, Height(100))
    rewards.note_claim((7,), Height(101))
    ledger.rounds.remove(7)
    rewards.read(11, Height(102))
    ledger.rounds.insert(0, 7)  # undone
    rewards.read(11, Height(103))
    assert rewards.find_ripe(Height(103)) == (7, 9)


def test_a_restart_right_after_a_claim_forgets_no_round_that_a_re_org_brings_back(journal: Journal) -> None:
    ledger = Ledger([7, 9])
    rewards = rewards_of(ledger, journal)
    rewards.read(10, Height(100))
    rewards.note_claim((7,), Height(101))
    ledger.rounds.remove(7)
    again = rewards_of(ledger, journal)
    again.read(11, Height(102))
    ledger.rounds.insert(0, 7)
    again.read(11, Height(103))
    assert again.find_ripe(Height(103)) == (7, 9)


def test_a_claim_fits_a_transaction_however_long_it_was_put_off(journal: Journal) -> None:
    ledger = Ledger(list(range(500)))
    rewards = rewards_of(ledger, journal)
    rewards.read(500, Height(1000))
    assert rewards.find_ripe(Height(1000)) == tuple(range(CLAIM_ROUNDS))
    assert rewards.count(Height(1000)) == (0, 1500)
    assert rewards.count(Height(3)) == (1500, 0)


def test_what_a_dispute_keeps_from_being_final_is_not_claimed(journal: Journal) -> None:
    ledger = Ledger([7, 8, 9])
    rewards = rewards_of(ledger, journal)
    rewards.read(10, Height(100))
    ledger.settling = 8
    assert rewards.find_ripe(Height(100)) == (7,)


def test_a_bond_that_a_dissent_held_is_claimed_though_nothing_was_earned(journal: Journal) -> None:
    ledger = Ledger([7])
    rewards = rewards_of(ledger, journal)
    ledger.entries = {7: dataclasses.replace(entry(7), tokens=0, bonds=Wei(0), held=Wei(1))}
    rewards.read(10, Height(100))
    assert rewards.find_ripe(Height(100)) == (7,)
