"""Merging, rewards and claims: what becomes the next state, who is paid for it, when, and how much."""

from __future__ import annotations

from typing import Any

import pytest
from contract_world import (
    ACKNOWLEDGE,
    ENDED,
    ETH,
    GENESIS,
    MERGE,
    TRAIN,
    ZERO,
    Account,
    Stage,
    World,
    make_world,
    sha,
    stage_at,
)

CID = (0x70, sha("cid"))


def propose(stage: Stage, account: Account, text: str, cid: tuple[int, bytes] = CID) -> int:
    stage.world.send(account, "proposeMerge", stage.world.draw_seed, sha(text), cid)
    return len(stage.world.ask("candidates", 0)) - 1


def acknowledge(stage: Stage, account: Account, candidate: int, text: str, cid: tuple[int, bytes] = CID) -> Any:
    return stage.world.send(account, "acknowledge", stage.world.draw_seed, candidate, sha(text), cid)


# ---------------------------------------------------------------- candidates and jury


def test_a_candidate_locks_its_bond_and_is_there_to_fetch() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    propose(stage, stage.verifiers[0], "a")
    assert world.ask("candidates", 0) == [
        {
            "proposer": stage.verifiers[0].address,
            "stateRoot": sha("a"),
            "cid": {"codec": 0x70, "digest": sha("cid")},
            "acknowledgements": 0,
            "isConvicted": False,
        }
    ]
    assert world.ask("memberOf", stage.verifiers[0].address)["locked"] == ETH // 4


def test_spoilt_candidates_are_refused() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    stage.refused("NotAMember", lambda: propose(stage, stage.outsider, "a"))
    stage.refused("EmptyRoot", lambda: world.send(stage.miners[0], "proposeMerge", world.draw_seed, ZERO, CID))
    stage.refused("UnknownCodec", lambda: propose(stage, stage.miners[0], "a", (1, ZERO)))
    propose(stage, stage.miners[0], "a")
    assert stage.refused("AlreadyProposed", lambda: propose(stage, stage.miners[1], "a")) == {
        "stateRoot": sha("a"),
        "candidate": 0,
    }
    stage.refused("OneCandidateEach", lambda: propose(stage, stage.miners[0], "b"))


def test_a_bogus_cid_does_not_keep_the_true_one_out() -> None:
    stage = stage_at(MERGE)
    world, bogus = stage.world, (0x55, sha("nobody has this"))
    assert propose(stage, stage.miners[0], "a", bogus) == 0
    assert propose(stage, stage.miners[1], "a") == 1
    # Codec and digest both count, and each pair stands once.
    assert propose(stage, stage.verifiers[0], "a", (0x70, bogus[1])) == 2
    refused = stage.refused("AlreadyProposed", lambda: propose(stage, stage.verifiers[1], "a"))
    assert refused == {"stateRoot": sha("a"), "candidate": 1}
    for verifier in stage.verifiers[:2]:
        acknowledge(stage, verifier, 1, "a")
    world.advance()
    root, cid = world.ask("getState", 1)
    assert (root, (cid["codec"], cid["digest"])) == (sha("a"), CID)


def test_an_acknowledgement_names_root_and_cid_of_its_candidate() -> None:
    stage = stage_at(MERGE)
    other = (0x55, sha("other"))
    propose(stage, stage.miners[0], "a")
    propose(stage, stage.miners[1], "a", other)
    stands = {"candidate": 0, "stateRoot": sha("a"), "codec": CID[0], "digest": CID[1]}
    # The other candidate's, none's by digest, none's by codec, none's by root.
    for text, cid in (("a", other), ("a", (0x70, ZERO)), ("a", (0x55, CID[1])), ("b", CID)):
        named = lambda text=text, cid=cid: acknowledge(stage, stage.verifiers[0], 0, text, cid)  # noqa: E731
        assert stage.refused("CandidateMismatch", named) == stands
    acknowledge(stage, stage.verifiers[0], 0, "a")


def test_a_bond_that_is_not_free_cannot_back_a_candidate() -> None:
    world = make_world(minMiners=1)
    miner, verifiers = world.accounts[0], world.accounts[2:5]
    world.send(miner, "joinMiner", 1, "", value=ETH)
    for verifier in verifiers:
        world.send(verifier, "stake", "", value=20 * ETH)
    world.play_to_merge([miner], verifiers)
    stage = Stage(world, [miner], verifiers, world.accounts[5], {})
    assert stage.refused("NotEnoughFree", lambda: propose(stage, miner, "a")) == {"free": 0, "needed": ETH // 4}


def test_of_two_candidates_the_first_with_a_majority_of_the_jury_is_the_next_state() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    wrong, right = propose(stage, stage.miners[0], "wrong"), propose(stage, stage.miners[1], "right")
    acknowledge(stage, stage.verifiers[0], wrong, "wrong")
    acknowledge(stage, stage.verifiers[1], right, "right")
    assert not world.ask("getRound", 0)["merged"]
    acknowledge(stage, stage.verifiers[2], right, "right")
    view = world.ask("getRound", 0)
    assert (view["merged"], view["accepted"]) == (True, right)
    world.advance()
    assert world.ask("getState", 1)[0] == sha("right")
    assert world.ask("getRound", 0)["phase"] == ENDED


def test_a_majority_ends_the_round_before_its_height() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    until = world.ask("current")["until"]
    propose(stage, stage.miners[0], "a")
    for verifier in stage.verifiers[:2]:
        acknowledge(stage, verifier, 0, "a")
    decided = world.height
    assert decided < until
    # The next transaction finds the round over: the third juror comes too late.
    seed = world.draw_seed
    late = lambda: world.send(stage.verifiers[2], "acknowledge", seed, 0, sha("a"), CID)  # noqa: E731
    assert stage.refused("WrongSeed", late) == {"given": seed, "expected": ZERO}
    world.advance()
    assert world.ask("getRound", 0)["endedAt"] == decided


def test_a_split_jury_ends_the_round_unmerged_as_soon_as_all_have_spoken() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    for text, miner in zip("ab", stage.miners, strict=True):
        propose(stage, miner, text)
    propose(stage, stage.verifiers[0], "c")
    for number, verifier in enumerate(stage.verifiers):
        acknowledge(stage, verifier, number, "abc"[number])
    world.advance()
    assert (world.round, world.ask("getRound", 0)["merged"]) == (1, False)
    assert world.ask("getState", 1)[0] == GENESIS


def test_half_a_jury_is_not_a_majority() -> None:
    world = make_world(juryTarget=2)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    world.play_to_merge(miners, verifiers)
    stage = Stage(world, miners, verifiers, world.accounts[5], {})
    propose(stage, miners[0], "a")
    jury = [one for one in verifiers if one.address in world.ask("jury")]
    assert len(jury) == 2
    left_out = next(one for one in verifiers if one not in jury)
    stage.refused("NotAJuror", lambda: acknowledge(stage, left_out, 0, "a"))
    acknowledge(stage, jury[0], 0, "a")
    assert not world.ask("getRound", 0)["merged"]
    acknowledge(stage, jury[1], 0, "a")
    assert world.ask("getRound", 0)["merged"]


def test_only_jurors_acknowledge_and_each_once() -> None:
    stage = stage_at(MERGE)
    propose(stage, stage.miners[0], "a")
    for account in (stage.miners[0], stage.outsider):
        stage.refused("NotAJuror", lambda account=account: acknowledge(stage, account, 0, "a"))
    stage.refused("UnknownCandidate", lambda: acknowledge(stage, stage.verifiers[0], 1, "a"))
    acknowledge(stage, stage.verifiers[0], 0, "a")
    assert stage.world.ask("acknowledgedBy", 0, stage.verifiers[0].address) == 1
    numbers = stage.refused("AlreadyAcknowledged", lambda: acknowledge(stage, stage.verifiers[0], 0, "a"))
    assert numbers == {"juror": stage.verifiers[0].address, "candidate": 0}


def test_candidates_come_in_their_phase_and_acknowledgements_also_after_it() -> None:
    stage = stage_at(ACKNOWLEDGE)
    stage.refused("WrongPhase", lambda: propose(stage, stage.miners[1], "late"))
    for verifier in stage.verifiers[:2]:
        acknowledge(stage, verifier, 0, "merged", (0x55, sha("merged cid")))
    assert stage.world.ask("getRound", 0)["merged"]


def test_without_a_candidate_or_a_majority_in_time_the_state_stays() -> None:
    for phase in (MERGE, ACKNOWLEDGE):
        stage = stage_at(phase)
        until = stage.world.ask("current")["until"]
        stage.world.pass_phase()
        view = stage.world.ask("getRound", 0)
        assert (view["merged"], view["endedAt"], stage.world.round) == (False, until, 1)
        assert stage.world.ask("getState", 1)[0] == GENESIS


def test_the_set_to_merge_is_in_unit_id_order_and_no_longer_than_allowed() -> None:
    world = make_world(maxMerge=3)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers, units=3)
    works = world.play_to_merge(miners, verifiers)
    assert len(works) == 6
    assert world.ask("mergeSet", 0) == sorted(works)[:3]


# ---------------------------------------------------------------- rewards


def test_an_honest_round_mints_the_shares_and_not_a_wei_more() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    world.play_merge(stage.miners[0], stage.verifiers)
    world.pass_phase()
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    pool = 1_000_000 * ETH
    verifiers, merge = pool * 2000 // 10_000, pool * 500 // 10_000
    unit = (pool - verifiers - merge) // 2
    attestation = verifiers // (2 * 3)
    expected = {
        stage.miners[0]: unit + merge // 2,
        stage.miners[1]: unit,
        stage.verifiers[0]: 2 * attestation + merge // 2 // 2,
        stage.verifiers[1]: 2 * attestation + merge // 2 // 2,
        stage.verifiers[2]: 2 * attestation,
    }
    for account, tokens in expected.items():
        assert world.ask("rewardOf", 0, account.address) == tokens
        assert world.claim(account, 0).named("Claimed")[0]["tokens"] == tokens
        assert world.ask_token("balanceOf", account.address) == tokens
    assert world.ask_token("totalSupply") == sum(expected.values()) <= pool
    world.check_solvent()


def test_rewards_wait_for_maturity_and_are_paid_once() -> None:
    stage = stage_at(MERGE)
    world, miner = stage.world, stage.miners[0]
    world.play_merge(miner, stage.verifiers)
    stage.refused("NotSettled", lambda: world.claim(miner, 0))  # the round ends in this very transaction
    world.advance()
    mature = world.ask("getRound", 0)["matureAt"]
    world.mine_to(mature - 1)
    assert not world.ask("claimable", miner.address, 0, 9)[0]["claimableNow"]
    assert stage.refused("NotSettled", lambda: world.claim(miner, 0)) == {"round": 0, "settled": 0}
    assert world.ask("claimable", miner.address, 0, 9)[0]["claimableNow"]
    world.claim(miner, 0)
    assert world.ask("claimable", miner.address, 0, 9) == []
    assert stage.refused("NothingToClaim", lambda: world.claim(miner, 0)) == {"round": 0, "account": miner.address}
    stage.refused("NothingToClaim", lambda: world.claim(stage.outsider, 0))


def test_naming_a_round_twice_in_one_claim_is_refused() -> None:
    stage = stage_at(MERGE)
    world, miner = stage.world, stage.miners[0]
    world.play_merge(miner, stage.verifiers)
    world.advance()
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    stage.refused("NothingToClaim", lambda: world.claim(miner, 0, 0))
    assert world.ask_token("totalSupply") == 0


def test_what_a_rejected_unit_would_have_earned_is_never_minted_to_anybody() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    worker, silent = stage.miners
    works = world.play_commits(stage.miners)
    world.pass_phase()
    world.pass_to(4)
    for verifier in stage.verifiers:
        world.seal(verifier, works)
    world.pass_to(5)
    for verifier in stage.verifiers:
        world.reveal(verifier, works)
    world.open(worker, works[world.unit_id(worker)])
    world.pass_to(MERGE)
    world.play_merge(worker, stage.verifiers)
    world.advance()
    pool = 1_000_000 * ETH
    verifiers, merge = pool * 2000 // 10_000, pool * 500 // 10_000
    assert world.ask("rewardOf", 0, worker.address) == (pool - verifiers - merge) // 2 + merge // 2
    assert world.ask("rewardOf", 0, silent.address) == 0
    assert world.ask("rewardOf", 0, stage.verifiers[2].address) == verifiers // 6


def test_a_failed_merge_pays_no_miner_and_every_attesting_verifier() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    world.pass_phase()
    assert world.ask("rewardOf", 0, stage.miners[0].address) == 0
    assert world.ask("rewardOf", 0, stage.verifiers[0].address) == 2 * (200_000 * ETH // 6)
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    claimed = world.claim(stage.miners[0], 0).named("Claimed")[0]
    assert (claimed["tokens"], claimed["bonds"]) == (0, ETH)


def play_and_sum(world: World, miners: list[Account], verifiers: list[Account]) -> int:
    """What everybody together earns in the round played now."""
    round_ = world.round
    world.play_round(miners, verifiers)
    return sum(world.ask("rewardOf", round_, account.address) for account in (*miners, *verifiers))


def test_rewards_halve_with_the_rounds_and_scale_with_the_work() -> None:
    world = make_world(workTarget=4, halvingRounds=1, verifierShareBps=0, mergeShareBps=0, maturityBlocks=1)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)  # two units of a target of four
    earned = [play_and_sum(world, miners, verifiers) for _ in range(3)]
    assert earned == [500_000 * ETH, 250_000 * ETH, 125_000 * ETH]


def test_more_work_than_the_target_is_paid_no_more() -> None:
    world = make_world(workTarget=1, verifierShareBps=0, mergeShareBps=0)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    assert play_and_sum(world, miners, verifiers) == 1_000_000 * ETH


def test_several_rounds_are_claimed_in_one_transaction() -> None:
    stage = stage_at(MERGE)
    world, miner = stage.world, stage.miners[0]
    world.play_merge(miner, stage.verifiers)
    world.pass_phase()
    world.play_round(stage.miners, stage.verifiers)
    world.mine_to(world.ask("getRound", 1)["matureAt"])
    found = world.ask("claimable", miner.address, 0, 2**63)
    assert [one["round"] for one in found] == [0, 1]
    receipt = world.claim(miner, 0, 1)
    assert [one["tokens"] for one in receipt.named("Claimed")] == [one["tokens"] for one in found]
    assert world.ask_token("balanceOf", miner.address) == sum(one["tokens"] for one in found)
    assert world.ask("memberOf", miner.address)["locked"] == 0


@pytest.mark.parametrize("function", ["getRound", "getState", "getUnits", "mergeSet", "candidates"])
def test_a_round_that_has_not_begun_is_unknown(function: str) -> None:
    stage = stage_at(MERGE)
    assert stage.refused("UnknownRound", lambda: stage.world.ask(function, 1)) == {"round": 1, "current": 0}
