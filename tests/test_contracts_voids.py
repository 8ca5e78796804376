"""What becomes of a run of which several rounds are judged: given up in any phase, one inside another, at whose cost.

A real court, before which whoever is accused keeps silent: that convicts it, right or wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from contract_world import (
    ABANDONED,
    ATTESTED,
    CONVICTED,
    DISPUTED,
    DRAW,
    ETH,
    MERGE,
    OPEN,
    SEAL,
    TRAIN,
    Account,
    Refused,
    Work,
    World,
    make_world,
    spoil,
)
from court_world import CourtWorld, Dispute, deploy_court

CLOCK, GRACE, WINDOW = 10, 1, 400
BOND, STAKE = ETH, 2 * ETH


@dataclasses.dataclass
class Trial:
    """Two miners, three verifiers, a court, and somebody who accuses."""

    court: CourtWorld
    works: dict[bytes, Work]

    @property
    def world(self) -> World:
        return self.court.world

    @property
    def miners(self) -> list[Account]:
        return self.world.accounts[:2]

    @property
    def verifiers(self) -> list[Account]:
        return self.world.accounts[2:5]

    @property
    def challenger(self) -> Account:
        return self.world.accounts[6]

    def fork(self) -> Trial:
        return Trial(self.court.fork(), dict(self.works))

    def commit(self) -> dict[bytes, Work]:
        self.world.pass_to(TRAIN)
        works = self.world.play_commits(self.miners)
        self.works |= works
        return works

    def play_round(self) -> int:
        """A round in which all agree and a state is merged. Returns its number."""
        round_ = self.world.round
        works = self.commit()
        self.world.pass_to(SEAL)
        for verifier in self.verifiers:
            if any(one["unitId"] in works for one in self.world.ask("assignmentsOf", round_, verifier.address)):
                self.world.seal(verifier, works)
        self.world.pass_to(OPEN)
        for verifier in self.verifiers:
            if any(one["isSealed"] for one in self.world.ask("assignmentsOf", round_, verifier.address)):
                self.world.reveal(verifier, works)
        self.world.play_opens(self.miners, works)
        self.world.pass_to(MERGE)
        self.world.play_merge(self.miners[0], self.verifiers)
        self.world.pass_phase()
        assert self.world.round == round_ + 1
        return round_

    def accuse(self, miner: Account, round_: int, segment: int = 0) -> Dispute:
        unit = self.world.unit_id(miner, 0, round_)
        self.world.send(self.challenger, "presentUnit", round_, miner.address, 0, self.works[unit].commitment)
        # An announcement serves once.
        salt = bytes([round_, self.miners.index(miner)]).ljust(32, b"\0")
        return self.court.accuse(self.challenger, miner, unit, segment, salt)

    def convict(self, miner: Account, round_: int, segment: int = 0) -> None:
        silence(self.accuse(miner, round_, segment))

    def stored(self, function: str, *arguments: Any) -> Any:
        return self.world.call_contract("RunRules", self.world.run, function, *arguments)

    def status(self, miner: Account, round_: int) -> int:
        return int(self.stored("units", self.world.unit_id(miner, 0, round_))["status"])

    def deposit(self, account: Account) -> int:
        return int(self.world.ask("memberOf", account.address)["deposit"])

    @property
    def voids(self) -> list[tuple[int, int]]:
        return [(span["from"], span["to"]) for span in self.world.ask("finality")[2]]

    def settle(self, round_: int) -> None:
        """Until this round is final."""
        self.world.mine_to(max(self.world.height + 1, self.world.ask("getRound", round_)["matureAt"]))
        self.world.send(self.challenger, "settle")
        assert self.world.ask("finality")[0] > round_


def silence(dispute: Dispute) -> None:
    """The accused says nothing until its time is out."""
    dispute.time_out()
    assert dispute.ended is not None
    assert dispute.ended[0] == "Convicted"


def refused(name: str, act: Callable[[], object]) -> None:
    with pytest.raises(Refused) as caught:
        act()
    caught.value.must_be(name)


@cache
def _make_trial(**overrides: Any) -> Trial:
    base = make_world()
    address = deploy_court(base, CLOCK, GRACE)
    longest = base.call_contract("Court", address, "longestDispute")
    times = {"windowBlocks": WINDOW, "maturityBlocks": WINDOW + longest, "exitBlocks": WINDOW + longest}
    # Longer than what it takes to convict one, so that a round stays where it is meanwhile.
    phases = {"trainBlocks": 100, "sealBlocks": 100, "openBlocks": 100, "mergeBlocks": 100}
    world = make_world(base=base, court=address, verifiersPerUnit=2, **times, **phases, **overrides)
    world.seat(world.accounts[:2], world.accounts[2:5])
    return Trial(CourtWorld(world, address, world.run), {})


@cache
def _after_rounds(count: int) -> Trial:
    trial = (_after_rounds(count - 1) if count else _make_trial()).fork()
    if count:
        trial.play_round()
    return trial


def after_rounds(count: int) -> Trial:
    """So many rounds have been played and merged, and the next one is open."""
    return _after_rounds(count).fork()


@pytest.mark.parametrize("phase", ["draw", "seal", "draw again", "seal again", "open"])
def test_a_round_is_given_up_in_whatever_phase_it_is_and_owes_nobody_anything(phase: str) -> None:
    trial = after_rounds(1)
    world = trial.world
    # Before the last commit, which ends its phase: accusing takes blocks.
    dispute = trial.accuse(trial.miners[0], 0)
    works = trial.commit()
    world.pass_to(DRAW)
    if phase != "draw":
        world.pass_to(SEAL)
    if phase.endswith("again"):
        sleepy, *others = (v for v in trial.verifiers if world.ask("assignmentsOf", 1, v.address))
        for verifier in others:
            world.seal(verifier, works)
        world.pass_phase()
        assert (world.phase, trial.stored("rounds", 1)["played"]["attempt"]) == (DRAW, 1)
        assert trial.deposit(sleepy) < 20 * ETH
    if phase == "seal again":
        world.pass_to(SEAL)
    if phase == "open":
        for verifier in trial.verifiers:
            if world.ask("assignmentsOf", 1, verifier.address):
                world.seal(verifier, works)
        world.pass_to(OPEN)
    assert world.phase == {"draw": DRAW, "seal": SEAL, "open": OPEN}[phase.split()[0]]
    before = {v: trial.deposit(v) for v in trial.verifiers}
    silence(dispute)

    assert (trial.voids, world.round) == ([(0, 1)], 2)
    assert world.ask("getState", 2) == world.ask("getState", 0)
    assert [trial.status(miner, 1) for miner in trial.miners] == [ABANDONED] * 2
    # Who attested the false segment answers for that, and nobody for a seal or an opening that is missing.
    false = world.unit_id(trial.miners[0], 0, 0)
    for verifier in trial.verifiers:
        drawn = verifier.address in world.ask("assignedVerifiers", false) and 0 in world.assigned_segments(
            false, verifier.address
        )
        assert before[verifier] - trial.deposit(verifier) == (STAKE if drawn else 0)
    trial.settle(1)
    for miner in trial.miners:
        claimed = world.claim(miner, 1).named("Claimed")[0]
        assert (claimed["tokens"], claimed["bonds"]) == (0, BOND)
    world.check_solvent()


def test_a_void_from_an_earlier_round_takes_in_those_within_it() -> None:
    trial = after_rounds(2)
    world = trial.world
    first, later = trial.accuse(trial.miners[0], 0), trial.accuse(trial.miners[0], 1)
    silence(later)
    assert trial.voids == [(1, 2)]
    assert world.ask("getState", 3) == world.ask("getState", 1)
    assert trial.play_round() == 3
    trial.convict(trial.miners[1], 3)
    assert trial.voids == [(1, 2), (3, 4)]
    assert world.ask("getState", 5) == world.ask("getState", 3) == world.ask("getState", 1)
    silence(first)
    assert (trial.voids, world.round) == ([(0, 5)], 6)
    assert world.ask("getState", 6) == world.ask("getState", 0)
    world.check_solvent()


def test_what_is_false_in_a_round_that_is_void_already_only_costs() -> None:
    trial = after_rounds(2)
    world, liar = trial.world, trial.miners[0]
    first, later = trial.accuse(liar, 0), trial.accuse(liar, 1)
    silence(first)
    assert (trial.voids, world.round) == ([(0, 2)], 3)
    before = trial.deposit(liar)
    silence(later)
    assert (trial.voids, world.round, trial.status(liar, 1)) == ([(0, 2)], 3, CONVICTED)
    assert before - trial.deposit(liar) == BOND
    trial.settle(1)
    assert world.claim(trial.miners[1], 0, 1).named("Claimed")[0]["tokens"] == 0
    world.check_solvent()


def test_of_more_units_than_are_merged_those_with_the_lowest_ids_are_and_no_conviction_changes_that() -> None:
    trial = _make_trial(maxMerge=1).fork()
    world = trial.world
    trial.play_round()
    units = sorted(((world.unit_id(miner, 0, 0), miner) for miner in trial.miners), key=lambda one: one[0])
    (low, merged), (high, left_out) = units
    named = {unit: (miner.address, 0, trial.works[unit].commitment) for unit, miner in units}
    for wrong in ([named[high]], [named[low], named[high]], []):
        refused("NotTheMergeSet", lambda wrong=wrong: world.send(trial.challenger, "presentMerge", 0, 0, wrong))

    trial.convict(left_out, 0)
    assert (trial.status(left_out, 0), trial.voids, world.round) == (CONVICTED, [], 1)
    refused("NotTheMergeSet", lambda: world.send(trial.challenger, "presentMerge", 0, 0, [named[high]]))

    trial.convict(merged, 0)
    assert trial.voids == [(0, 1)]
    # The merge was of this unit, whatever has become of it.
    world.send(trial.challenger, "presentMerge", 0, 0, [named[low]])
    world.check_solvent()


@pytest.mark.parametrize("is_right", [True, False])
def test_who_contradicts_gets_its_stake_back_if_the_unit_is_convicted_and_loses_it_if_not(is_right: bool) -> None:
    trial = after_rounds(0)
    world = trial.world
    works = trial.commit()
    world.pass_to(SEAL)
    accused = trial.miners[0]
    unit = world.unit_id(accused, 0, 0)
    by_address = {verifier.address: verifier for verifier in trial.verifiers}
    dissenter, other = (by_address[address] for address in world.ask("assignedVerifiers", unit))

    def judge(work: Work) -> Work:
        return spoil(work, 0) if work.unit == unit else work

    def act(play: Callable[..., object]) -> None:
        for verifier in trial.verifiers:
            if world.ask("assignmentsOf", 0, verifier.address):
                play(verifier, works, judge if verifier is dissenter else lambda work: work)

    act(world.seal)
    world.pass_to(OPEN)
    act(world.reveal)
    world.play_opens(trial.miners, works)
    world.pass_to(MERGE)
    assert (trial.status(accused, 0), trial.status(trial.miners[1], 0)) == (DISPUTED, ATTESTED)
    assert trial.stored("entries", 0, dissenter.address)["dissents"] == 1
    before, burned = trial.deposit(dissenter), world.ask("burnOwed")
    if is_right:
        segment = world.assigned_segments(unit, other.address)[0]
        trial.convict(accused, 0, segment)
        assert trial.stored("entries", 0, dissenter.address)["dissents"] == 0
        # A miner can lose on purpose: who agreed with it loses no stake for that.
        assert trial.deposit(other) == before
        assert world.ask("burnOwed") - burned == BOND // 2
    world.pass_phase()
    trial.settle(0)
    claimed = world.claim(dissenter, 0).named("Claimed")[0]
    assert claimed["bonds"] == (STAKE if is_right else 0)
    assert before - trial.deposit(dissenter) == (0 if is_right else STAKE)
    world.check_solvent()
