"""Whole rounds on the shipped contracts: honest ones, and ones where somebody lies, is silent, or is not there."""

from __future__ import annotations

import pytest
from contract_world import (
    ATTESTED,
    BURN,
    DISPUTED,
    ENDED,
    ETH,
    GENESIS,
    MERGE,
    OPEN,
    REJECTED,
    SEAL,
    SEED,
    TRAIN,
    UNVERIFIED,
    WAITING,
    Stage,
    make_world,
    sha,
    spoil,
    stage_at,
)


def statuses(stage: Stage) -> dict[str, int]:
    return {unit["miner"]: unit["status"] for unit in stage.world.ask("getUnits", 0)}


def test_an_honest_round_ends_with_the_merged_state_and_the_next_one_starts_from_it() -> None:
    stage = stage_at(WAITING)
    world = stage.world
    world.seat(stage.miners, stage.verifiers)
    assert world.ask("getState", 0)[0] == GENESIS
    merged = world.play_round(stage.miners, stage.verifiers)
    assert world.ask("getState", 1) == [merged, {"codec": 0x55, "digest": sha(f"cid {merged.hex()}")}]
    assert world.phase == SEED
    view = world.ask("getRound", 0)
    assert (view["phase"], view["merged"], view["attested"], view["committed"]) == (ENDED, True, 2, 2)
    world.play_round(stage.miners, stage.verifiers)
    assert world.round == 2
    world.check_solvent()


def test_phases_end_early_once_everybody_has_acted_and_never_before() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    late = world.ask("current")["until"]
    first, second = stage.miners
    world.commit(first, world.honest_work(first))
    assert world.ask("current")["until"] == late
    world.commit(second, world.honest_work(second))
    assert world.ask("current")["until"] == world.height < late


def test_a_height_ends_a_phase_and_not_the_caller() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    until = world.ask("current")["until"]
    world.commit(stage.miners[0], world.honest_work(stage.miners[0]))
    world.mine_to(until)
    assert not world.ask("current")["due"]
    world.commit(stage.miners[1], world.honest_work(stage.miners[1]))
    assert world.ask("getRound", 0)["committed"] == 2


def test_a_commit_in_the_block_after_the_last_is_too_late() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    work = world.honest_work(stage.miners[1])
    world.commit(stage.miners[0], world.honest_work(stage.miners[0]))
    world.mine_to(world.ask("current")["until"] + 1)
    assert world.ask("current")["due"]
    numbers = stage.refused("WrongPhase", lambda: world.commit(stage.miners[1], work))
    assert numbers["expected"] == TRAIN


def test_a_lying_miner_is_left_out_and_its_bond_held() -> None:
    stage = stage_at(TRAIN)
    world, (liar, honest) = stage.world, stage.miners
    lie = spoil(world.honest_work(liar), 0)
    truth = {one.unit: one for one in (world.honest_work(liar), world.honest_work(honest))}
    world.commit(liar, lie)
    world.commit(honest, truth[world.unit_id(honest)])
    world.pass_to(SEAL)
    for verifier in stage.verifiers:
        world.seal(verifier, truth)
    world.pass_to(OPEN)
    for verifier in stage.verifiers:
        world.reveal(verifier, truth)
    world.open(liar, lie)
    world.open(honest, truth[world.unit_id(honest)])
    world.pass_to(MERGE)
    assert statuses(stage) == {liar.address: DISPUTED, honest.address: ATTESTED}
    assert world.ask("mergeSet", 0) == [world.unit_id(honest)]

    world.play_merge(honest, stage.verifiers)
    world.pass_phase()
    view = world.ask("getRound", 0)
    world.mine_to(view["matureAt"])
    paid = world.claim(honest, 0).named("Claimed")[0]
    assert paid["tokens"] > 0
    # A verifier's stake in the disputed unit is held as well.
    juror = stage.verifiers[0]
    assert world.ask("memberOf", juror.address)["locked"] == 2 * ETH
    assert world.claim(liar, 0).named("Claimed")[0] | {} == {
        "round": 0,
        "account": liar.address,
        "tokens": 0,
        "bonds": ETH,
    }
    assert world.ask("memberOf", liar.address)["locked"] == 0
    world.check_solvent()


def test_one_dissenting_verifier_is_enough_to_keep_a_unit_out() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    target = stage.work_of(stage.miners[0]).unit
    dissenter = stage.verifiers[1]

    def judge(work):  # type: ignore[no-untyped-def]
        return spoil(work, 0) if work.unit == target else work

    for verifier in stage.verifiers:
        world.seal(verifier, stage.works, judge if verifier == dissenter else lambda work: work)
    world.pass_to(OPEN)
    world.play_opens(stage.miners, stage.works)
    for verifier in stage.verifiers:
        receipt = world.reveal(verifier, stage.works, judge if verifier == dissenter else lambda work: work)
        assert bool(receipt.named("Dissent")) == (verifier == dissenter)
    world.pass_to(MERGE)
    assert statuses(stage) == {stage.miners[0].address: DISPUTED, stage.miners[1].address: ATTESTED}
    accounts = (*stage.miners, *stage.verifiers)
    held = {one.address: sum(c["held"] for c in world.ask("claimable", one.address, 0, 5)) for one in accounts}
    # A bond and a stake; nothing of who agreed with the miner.
    assert {address: wei for address, wei in held.items() if wei} == {
        stage.miners[0].address: ETH,
        dissenter.address: 2 * ETH,
    }
    world.check_solvent()


def test_a_miner_that_does_not_open_is_rejected_and_pays_the_fee_out_of_its_bond() -> None:
    stage = stage_at(OPEN)
    world, (silent, honest) = stage.world, stage.miners
    for verifier in stage.verifiers:
        world.reveal(verifier, stage.works)
    world.open(honest, stage.work_of(honest))
    before = world.balance(BURN)
    world.pass_to(MERGE)
    assert statuses(stage) == {silent.address: REJECTED, honest.address: ATTESTED}
    assert world.balance(BURN) - before == ETH // 2
    assert world.ask("memberOf", silent.address)["deposit"] == 20 * ETH - ETH // 2
    assert world.ask("claimable", silent.address, 0, 5)[0]["bonds"] == ETH // 2
    world.check_solvent()


def test_a_verifier_that_does_not_seal_pays_the_fee_and_the_others_attest() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    silent, *others = stage.verifiers
    for verifier in others:
        world.seal(verifier, stage.works)
    world.pass_to(OPEN)
    for verifier in others:
        world.reveal(verifier, stage.works)
    world.play_opens(stage.miners, stage.works)
    world.pass_to(MERGE)
    assert set(statuses(stage).values()) == {ATTESTED}
    assert world.ask("memberOf", silent.address)["deposit"] == 20 * ETH - 2 * (ETH // 10)
    assert world.ask("memberOf", others[0].address)["deposit"] == 20 * ETH


def test_a_verifier_that_seals_and_does_not_reveal_loses_a_slot_stake_a_unit() -> None:
    stage = stage_at(OPEN)
    world = stage.world
    silent, *others = stage.verifiers
    for verifier in others:
        world.reveal(verifier, stage.works)
    world.play_opens(stage.miners, stage.works)
    world.pass_to(MERGE)
    assert set(statuses(stage).values()) == {ATTESTED}
    assert world.ask("memberOf", silent.address)["deposit"] == 20 * ETH - 2 * 2 * ETH
    world.check_solvent()


def test_below_the_quorum_a_unit_is_unverified_and_nobody_but_the_silent_pays() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    only = stage.verifiers[0]
    world.seal(only, stage.works)
    world.pass_to(OPEN)
    world.reveal(only, stage.works)
    world.play_opens(stage.miners, stage.works)
    world.pass_phase()
    assert set(statuses(stage).values()) == {UNVERIFIED}
    view = world.ask("getRound", 0)
    assert (view["phase"], view["merged"]) == (ENDED, False)
    assert world.ask("getState", 1)[0] == GENESIS
    world.mine_to(view["matureAt"])
    paid = world.claim(stage.miners[0], 0).named("Claimed")[0]
    assert (paid["tokens"], paid["bonds"]) == (0, ETH)
    assert world.ask_token("totalSupply") == 0


def test_when_everybody_is_silent_the_round_ends_and_the_state_stays() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    until = world.ask("current")["until"]
    world.mine_to(until + 200)
    world.advance()
    assert world.round == 1
    assert set(statuses(stage).values()) == {REJECTED}
    view = world.ask("getRound", 0)
    # Heights, not the late caller, say when it ended: the seal's and the open's own lengths after the draw.
    assert view["endedAt"] == until + 40
    assert world.ask("getState", 1)[0] == GENESIS
    world.check_solvent()


def test_a_round_without_commits_ends_unmerged_and_mints_nothing() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    world.pass_phase()
    view = world.ask("getRound", 0)
    assert (view["phase"], view["committed"], view["merged"]) == (ENDED, 0, False)
    assert world.round == 1
    assert world.ask("claimable", stage.miners[0].address, 0, 2) == []


def test_a_silent_miner_keeps_its_deposit_and_loses_its_seat_after_three_rounds() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    worker, silent = stage.miners
    for round_ in range(3):
        assert world.ask("memberOf", silent.address)["role"] == 1
        world.pass_to(TRAIN)
        world.commit(worker, world.honest_work(worker))
        world.mine_to(world.ask("current")["until"] + 1)
        world.pass_to(SEAL)
        world.mine_to(world.ask("current")["until"] + 200)
        world.advance()
        assert world.round == round_ + 1
    member = world.ask("memberOf", silent.address)
    assert (member["role"], member["deposit"], member["locked"]) == (0, 20 * ETH, 0)
    assert world.ask("memberOf", worker.address)["role"] == 1
    # With one miner left there are too few; the seat is taken again without a new deposit.
    assert world.phase == WAITING
    world.send(silent, "joinMiner", 1, "http://again")
    assert world.phase == SEED


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 6, 9, 14])
def test_units_of_any_length_open_against_the_tree_python_commits(segments: int) -> None:
    world = make_world(segments=segments, segmentsPerVerifier=min(2, segments), minMiners=1, minVerifiers=1)
    miner, verifier = world.accounts[0], world.accounts[1]
    world.seat([miner], [verifier])
    world.play_to_merge([miner], [verifier])
    unit = world.ask("getUnits", 0)[0]
    assert unit["status"] == ATTESTED
    assert unit["verifiers"] == [verifier.address]


def test_one_verifier_fewer_than_asked_for_is_drawn_for_every_unit_and_suffices() -> None:
    world = make_world(minVerifiers=2, verifiersPerUnit=3, quorum=3)
    miners, verifiers = world.accounts[:2], world.accounts[2:4]
    world.seat(miners, verifiers)
    world.play_to_merge(miners, verifiers)
    for unit in world.ask("getUnits", 0):
        assert sorted(unit["verifiers"]) == sorted(one.address for one in verifiers)
        assert unit["status"] == ATTESTED


def test_work_is_identical_whichever_of_open_and_reveal_comes_first() -> None:
    stage = stage_at(OPEN)
    world = stage.world
    first, second = stage.miners
    one, two, three = stage.verifiers
    world.reveal(one, stage.works)
    world.open(first, stage.work_of(first))
    world.reveal(two, stage.works)
    world.open(second, stage.work_of(second))
    world.reveal(three, stage.works)
    for unit in world.ask("getUnits", 0):
        assert (unit["sealedMask"], unit["revealedMask"], unit["agreedMask"]) == (7, 7, 7)
    world.pass_to(MERGE)
    assert set(statuses(stage).values()) == {ATTESTED}
