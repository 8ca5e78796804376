"""What verifiers owe: dissent that stands, seals that come, whole units; and what each of them is paid for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from contract_world import (
    ATTESTED,
    DISPUTED,
    DRAW,
    ETH,
    MERGE,
    OPEN,
    SEAL,
    TRAIN,
    Account,
    Stage,
    Work,
    World,
    compute_seal,
    make_world,
    sha,
    spoil,
    stage_at,
)

INITIAL = 1_000_000 * ETH


def drawn_of(world: World, verifiers: Sequence[Account]) -> list[Account]:
    return [v for v in verifiers if world.ask("assignmentsOf", world.round, v.address)]


def seal_all(world: World, verifiers: Sequence[Account], works: dict[bytes, Work]) -> None:
    for verifier in drawn_of(world, verifiers):
        world.seal(verifier, works)


def is_honest(work: Work) -> Work:
    return work


# ---------------------------------------------------------------- dissent


def judged_world(**overrides: object) -> World:
    """A run whose court could convict, if anybody asked it."""
    base = make_world()
    # Nobody asks it anything but how long a dispute lasts, so its judges need no more than to be there.
    court = base.deploy("Court", base.lens, base.lens, 1, 1, 1, 1)
    blocks = {"windowBlocks": 1, "maturityBlocks": 120, "exitBlocks": 120}
    return make_world(base=base, court=court, **blocks, **overrides)


def at_seal(world: World) -> Stage:
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    world.pass_to(SEAL)
    return Stage(world, miners, verifiers, world.accounts[5], works)


def play_dissent(stage: Stage, dissenter: Account, units: int) -> World:
    """One verifier says something else than everybody of the first `units` units; then all holds have ended."""
    world = stage.world
    targets = {stage.work_of(miner).unit for miner in stage.miners[:units]}

    def judge(work: Work) -> Work:
        return spoil(work, 0) if work.unit in targets else work

    for verifier in stage.verifiers:
        world.seal(verifier, stage.works, judge if verifier == dissenter else is_honest)
    world.pass_to(OPEN)
    world.play_opens(stage.miners, stage.works)
    for verifier in stage.verifiers:
        world.reveal(verifier, stage.works, judge if verifier == dissenter else is_honest)
    world.pass_phase()
    assert {unit["status"] for unit in world.ask("getUnits", 0) if unit["unitId"] in targets} == {DISPUTED}
    while not world.round:
        world.pass_phase()
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    return world


@pytest.mark.parametrize("units", [1, 2])
def test_dissent_that_convicts_nobody_costs_a_slot_stake_each(units: int) -> None:
    stage = at_seal(judged_world())
    dissenter, honest, _ = stage.verifiers
    world = play_dissent(stage, dissenter, units)
    receipt = world.claim(dissenter, 0)
    assert receipt.named("Claimed")[0]["bonds"] == 0
    assert [one["amount"] for one in receipt.named("Burned")] == [units * 2 * ETH]
    member = world.ask("memberOf", dissenter.address)
    assert (member["deposit"], member["locked"]) == ((20 - 2 * units) * ETH, 0)
    # Nothing is held of who agreed with the miner: else one dissenter could keep everybody's stake.
    assert world.ask("memberOf", honest.address)["deposit"] == 20 * ETH
    assert {one["held"] for one in world.ask("claimable", honest.address, 0, 1)} <= {0}
    world.check_solvent()


def test_where_there_is_no_court_to_say_who_was_right_dissent_costs_nothing() -> None:
    stage = stage_at(SEAL)
    dissenter = stage.verifiers[0]
    world = play_dissent(stage, dissenter, 1)
    assert not world.claim(dissenter, 0).named("Burned")
    assert world.ask("memberOf", dissenter.address)["deposit"] == 20 * ETH
    assert world.ask("memberOf", dissenter.address)["locked"] == 0
    world.check_solvent()


def test_a_dissent_that_no_stake_backs_is_not_heard() -> None:
    """Else one slot's stake would stop every unit that its owner is drawn for."""
    world = judged_world(minMiners=1, minVerifiers=2, quorum=1)
    miner, (dissenter, honest) = world.accounts[0], world.accounts[1:3]
    world.send(miner, "joinMiner", 2, "", value=20 * ETH)
    for verifier in (dissenter, honest):
        world.send(verifier, "stake", "", value=3 * ETH)
    world.pass_to(TRAIN)
    works = world.play_commits([miner])
    world.pass_to(SEAL)
    for verifier in (dissenter, honest):
        world.seal(verifier, works, (lambda work: spoil(work, 0)) if verifier == dissenter else is_honest)
    world.pass_to(OPEN)
    for verifier in (dissenter, honest):
        world.reveal(verifier, works, (lambda work: spoil(work, 0)) if verifier == dissenter else is_honest)
    world.play_opens([miner], works)
    world.pass_phase()
    # Two dissents, and three ether: a stake for the first, not for the second.
    assert [unit["status"] for unit in world.ask("getUnits", 0)] == [DISPUTED, ATTESTED]
    assert world.ask("claimable", dissenter.address, 0, 1)[0]["held"] == 2 * ETH
    while world.round == 0:
        world.pass_phase()
    assert world.ask("rewardOf", 0, dissenter.address) == 0 < world.ask("rewardOf", 0, honest.address)
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    world.claim(dissenter, 0)
    assert world.ask("memberOf", dissenter.address)["deposit"] == 1 * ETH
    assert world.ask("memberOf", honest.address)["deposit"] == 3 * ETH
    world.check_solvent()


# ---------------------------------------------------------------- whole units


def whole_world(share: int, miners: int = 2, units: int = 2) -> tuple[World, list[Account], list[Account]]:
    world = make_world(replayBps=share, minVerifiers=4, minMiners=1, workTarget=4)
    people = world.accounts[:miners], world.accounts[miners : miners + 4]
    world.seat(*people, units=units)
    return world, *people


def whole_units(world: World, round_: int = 0) -> list[bytes]:
    """Units whose first verifier draws every segment."""
    found = []
    for unit in world.ask("getUnits", round_):
        first, *others = unit["verifiers"]
        assert all(len(world.assigned_segments(unit["unitId"], other)) == 2 for other in others)
        if len(world.assigned_segments(unit["unitId"], first)) == 5:
            found.append(unit["unitId"])
    return found


@pytest.mark.parametrize(("share", "whole"), [(0, 0), (1, 1), (2500, 1), (2501, 2), (10_000, 4)])
def test_the_share_of_units_rounded_up_is_replayed_whole(share: int, whole: int) -> None:
    world, miners, _ = whole_world(share)
    world.pass_to(TRAIN)
    world.play_commits(miners)
    world.pass_to(SEAL)
    assert len(whole_units(world)) == whole
    committed = [unit["unitId"] for unit in world.ask("getUnits", 0)]
    first = -int.from_bytes(world.draw_seed, "big") % 4
    assert set(whole_units(world)) == {committed[(first + i) % 4] for i in range(whole)}


def test_a_whole_unit_is_opened_whole_and_paid_by_the_segment() -> None:
    world, miners, verifiers = whole_world(2500)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    world.pass_to(SEAL)
    (whole,) = whole_units(world)
    whose = next(one for one in world.ask("getUnits", 0) if one["unitId"] == whole)
    miner = next(one for one in miners if one.address == whose["miner"])
    seal_all(world, verifiers, works)
    world.pass_to(OPEN)
    some = sorted({j for other in whose["verifiers"][1:] for j in world.assigned_segments(whole, other)} | {4})
    if len(some) < 5:
        stage = Stage(world, miners, verifiers, world.accounts[-1], works)
        work = works[whole]
        arguments = (whose["index"], work.commitment, work.opened(some), work.proof(some))
        stage.refused("SegmentNotOpened", lambda: world.send(miner, "open", 0, *arguments))
    world.play_opens(miners, works)
    for verifier in drawn_of(world, verifiers):
        world.reveal(verifier, works)
    world.pass_to(MERGE)
    assert {unit["status"] for unit in world.ask("getUnits", 0)} == {ATTESTED}
    world.play_merge(miners[0], verifiers)
    world.pass_phase()
    # 4 units x 3 verifiers x 2 segments, and the other 3 of the one whole unit.
    pool = INITIAL * 2000 // 10_000
    seen = {v.address: sum(v.address in u["verifiers"] for u in world.ask("getUnits", 0)) for v in verifiers}
    for verifier in verifiers:
        segments = 2 * seen[verifier.address] + 3 * (verifier.address == whose["verifiers"][0])
        earned = world.ask("rewardOf", 0, verifier.address)
        proposer_and_jury = earned - pool * segments // 27
        assert 0 <= proposer_and_jury <= INITIAL * 500 // 10_000
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    for account in (*miners, *verifiers):
        if world.ask("claimable", account.address, 0, 1):
            world.claim(account, 0)
    minted = world.ask_token("totalSupply")
    assert INITIAL - 10**4 <= minted <= INITIAL


def test_answers_to_fewer_segments_than_drawn_are_dissent() -> None:
    world, miners, verifiers = whole_world(10_000, miners=1, units=1)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    (unit,) = works
    world.pass_to(SEAL)
    lazy = next(v for v in verifiers if v.address == world.ask("getUnits", 0)[0]["verifiers"][0])
    salt, few = sha("salt"), works[unit].answers(range(2))
    world.send(lazy, "seal", world.draw_seed, [unit], [compute_seal(unit, lazy.address, few, salt)])
    world.pass_to(OPEN)
    world.play_opens(miners, works)
    assert world.send(lazy, "reveal", 0, [unit], [few], [salt]).named("Dissent")


# ---------------------------------------------------------------- replacement


def world_with_a_missing_seal(verifiers: int = 5) -> tuple[World, list[Account], list[Account], dict[bytes, Work]]:
    """In Seal; every drawn verifier but the first unit's second one has sealed."""
    world = make_world(minVerifiers=verifiers)
    miners, people = world.accounts[:2], world.accounts[2 : 2 + verifiers]
    world.seat(miners, people)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    world.pass_to(SEAL)
    first = world.ask("getUnits", 0)[0]
    for verifier in drawn_of(world, people):
        left_out = {first["unitId"]} if verifier.address == first["verifiers"][1] else set()
        mine = {unit: work for unit, work in works.items() if unit not in left_out}
        if any(one["unitId"] in mine for one in world.ask("assignmentsOf", 0, verifier.address)):
            world.seal(verifier, mine)
    return world, miners, people, works


def account_at(world: World, address: str) -> Account:
    return next(account for account in world.accounts if account.address == address)


def test_a_missing_seal_costs_a_fee_and_is_drawn_anew_once() -> None:
    world, miners, verifiers, works = world_with_a_missing_seal()
    before = world.ask("getUnits", 0)
    missing = before[0]["verifiers"][1]
    draw_seed = world.draw_seed
    world.pass_phase()
    assert world.phase == DRAW
    assert world.ask("memberOf", missing)["deposit"] == 20 * ETH - ETH // 10
    world.pass_phase()
    assert (world.phase, world.draw_seed) == (SEAL, draw_seed)
    after = world.ask("getUnits", 0)
    assert after[1] == before[1]
    assert (after[0]["verifiers"][0], after[0]["verifiers"][2]) == (
        before[0]["verifiers"][0],
        before[0]["verifiers"][2],
    )
    new = after[0]["verifiers"][1]
    assert new not in before[0]["verifiers"]
    assert after[0]["sealedMask"] == 0b101

    stage = Stage(world, miners, verifiers, world.accounts[-1], works)
    unit = after[0]["unitId"]
    late = lambda: world.send(account_at(world, missing), "seal", draw_seed, [unit], [sha("late")])  # noqa: E731
    stage.refused("NotAssigned", late)
    world.seal(account_at(world, new), {unit: works[unit]})
    world.pass_phase()
    assert world.phase == OPEN
    world.play_opens(miners, works)
    for verifier in drawn_of(world, verifiers):
        world.reveal(verifier, works)
    world.pass_to(MERGE)
    assert [(one["status"], one["agreedMask"]) for one in world.ask("getUnits", 0)] == [(ATTESTED, 7)] * 2
    assert world.ask("memberOf", missing)["deposit"] == 20 * ETH - ETH // 10
    world.check_solvent()


def test_a_replacement_that_misses_pays_too_and_nobody_is_drawn_after_it() -> None:
    world, miners, _, works = world_with_a_missing_seal()
    world.pass_to(DRAW)
    world.pass_to(SEAL)
    new = world.ask("getUnits", 0)[0]["verifiers"][1]
    world.pass_phase()
    assert world.phase == OPEN
    world.play_opens(miners, works)
    world.pass_phase()
    # It may have sealed for another unit, and has not revealed that.
    burned = 20 * ETH - world.ask("memberOf", new)["deposit"]
    assert burned % (2 * ETH) == ETH // 10


def test_where_nobody_else_has_slots_nobody_is_drawn_again() -> None:
    world, _, _, _ = world_with_a_missing_seal(verifiers=3)
    missing = world.ask("getUnits", 0)[0]["verifiers"][1]
    world.pass_phase()
    assert world.phase == OPEN
    assert world.ask("memberOf", missing)["deposit"] == 20 * ETH


def test_replacements_follow_from_a_later_value_of_the_beacon() -> None:
    world, _, _, _ = world_with_a_missing_seal(verifiers=8)
    until = world.ask("current")["until"]
    world.pass_phase()
    assert world.ask("current")["until"] == until + 2
    drawn = set()
    for branch in ("a", "b", "c", "d", "e", "f"):
        fork = world.fork(branch)
        fork.pass_phase()
        drawn.add(fork.ask("getUnits", 0)[0]["verifiers"][1])
    # The scripted beacon has one value at a height, whatever the fork's blocks say.
    assert len(drawn) == 1
