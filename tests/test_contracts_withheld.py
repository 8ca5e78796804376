"""Units left out before they are judged: data that nobody can get, and evidence shown before its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_world import (
    ATTESTED,
    DISCLOSED,
    DRAW,
    ENDED,
    ETH,
    MERGE,
    OPEN,
    SEAL,
    TRAIN,
    UNAVAILABLE,
    Account,
    Stage,
    Work,
    make_world,
    sha,
    stage_at,
)

from cupel.protocol.hashing import proof_of_several

FEE = ETH // 2


def status_of(stage: Stage, miner: Account) -> int:
    return int(stage.world.ask("getUnit", stage.work_of(miner).unit)["status"])


def report(stage: Stage, juror: Account, *miners: Account) -> Any:
    world = stage.world
    units = [stage.work_of(miner).unit for miner in miners]
    return world.send(juror, "reportUnavailable", world.draw_seed, units)


# ---------------------------------------------------------------- withheld data


@pytest.mark.parametrize("phase", [SEAL, OPEN])
def test_more_than_half_of_the_jury_leaves_a_unit_out_for_a_fee(phase: int) -> None:
    stage = stage_at(phase)
    world, (withheld, honest) = stage.world, stage.miners
    one, two, _ = stage.verifiers
    report(stage, one, withheld)
    assert status_of(stage, withheld) != UNAVAILABLE
    assert world.ask("reportedBy", one.address) == [stage.work_of(withheld).unit]
    assert report(stage, two, withheld).named("Burned")[0]["amount"] == FEE
    assert status_of(stage, withheld) == UNAVAILABLE
    others = {stage.work_of(honest).unit: stage.work_of(honest)}
    if phase == SEAL:
        # Nobody is asked for its seal any more, and the phase ends without it.
        for verifier in stage.verifiers:
            assert [one["unitId"] for one in world.ask("assignmentsOf", 0, verifier.address)] == list(others)
            world.seal(verifier, others)
        assert world.ask("current")["due"]
        world.pass_to(OPEN)
    for verifier in stage.verifiers:
        world.reveal(verifier, others)
    world.open(honest, stage.work_of(honest))
    assert world.ask("current")["due"]
    world.pass_to(MERGE)
    assert (status_of(stage, withheld), status_of(stage, honest)) == (UNAVAILABLE, ATTESTED)
    assert world.ask("memberOf", withheld.address)["deposit"] == 20 * ETH - FEE
    for verifier in stage.verifiers:
        assert world.ask("memberOf", verifier.address)["deposit"] == 20 * ETH
    world.play_merge(honest, stage.verifiers)
    world.pass_phase()
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    paid = world.claim(withheld, 0).named("Claimed")[0]
    # Never a lie by a vote: the rest of the bond is free.
    assert (paid["tokens"], paid["bonds"]) == (0, ETH - FEE)
    world.check_solvent()


def test_an_opened_unit_whose_data_is_withheld_is_left_out_too() -> None:
    stage = stage_at(OPEN)
    world, miner = stage.world, stage.miners[0]
    world.open(miner, stage.work_of(miner))
    world.reveal(stage.verifiers[0], stage.works)
    for verifier in stage.verifiers[:2]:
        report(stage, verifier, miner)
    assert status_of(stage, miner) == UNAVAILABLE
    view = world.ask("getRound", 0)
    assert (view["opened"], view["assignments"], view["seals"], view["reveals"]) == (1, 3, 3, 1)


def test_half_of_a_jury_is_not_enough() -> None:
    world = make_world(minVerifiers=4, juryTarget=4)
    miners, verifiers = world.accounts[:2], world.accounts[2:6]
    world.seat(miners, verifiers)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    world.pass_to(SEAL)
    stage = Stage(world, miners, verifiers, world.accounts[-1], works)
    for verifier in verifiers[:2]:
        report(stage, verifier, miners[0])
    assert status_of(stage, miners[0]) != UNAVAILABLE
    report(stage, verifiers[2], miners[0])
    assert status_of(stage, miners[0]) == UNAVAILABLE


REPORTS: dict[str, Callable[[Stage], Any]] = {
    "NotAJuror": lambda s: report(s, s.outsider, s.miners[0]),
    "AlreadyReported": lambda s: report(s, s.verifiers[0], s.miners[0], s.miners[0]),
    "WrongSeed": lambda s: s.world.send(s.verifiers[0], "reportUnavailable", s.world.seed, []),
    "UnknownUnit": lambda s: s.world.send(s.verifiers[0], "reportUnavailable", s.world.draw_seed, [sha("none")]),
}


@pytest.mark.parametrize("name", REPORTS)
def test_spoilt_reports_are_refused(name: str) -> None:
    stage = stage_at(SEAL)
    stage.refused(name, lambda: REPORTS[name](stage))


def test_reports_end_with_the_opening() -> None:
    stage = stage_at(MERGE)
    stage.refused("WrongPhase", lambda: report(stage, stage.verifiers[0], stage.miners[0]))


# ---------------------------------------------------------------- disclosure


def disclosing(stage: Stage, who: Account, work: Work, segment: int = 1, **changes: Any) -> Callable[[], Any]:
    arguments = {
        "round": 0,
        "miner": stage.miners[0].address,
        "index": 0,
        "commitment": work.commitment,
        "leaf": work.opened([segment])[0],
        "proof": proof_of_several(work.leaves, [segment + 1]),
    } | changes
    return lambda: stage.world.send(who, "disclose", *arguments.values())


def committed_stage(phase: int) -> Stage:
    """In Train with the first miner's unit committed, or in a later phase."""
    stage = stage_at(phase)
    if phase == TRAIN:
        work = stage.world.honest_work(stage.miners[0])
        stage.world.commit(stage.miners[0], work)
        stage.works[work.unit] = work
    return stage


@pytest.mark.parametrize("phase", [TRAIN, DRAW, SEAL])
def test_who_shows_a_sealed_leaf_early_gets_half_of_the_bond(phase: int) -> None:
    stage = committed_stage(phase)
    world, finder = stage.world, stage.outsider
    leaker = stage.miners[0]
    work = stage.work_of(leaker)
    receipt = disclosing(stage, finder, work)()
    assert receipt.named("Disclosed")[0]["prize"] == ETH // 2
    assert receipt.named("Burned")[0]["amount"] == ETH // 2
    assert status_of(stage, leaker) == DISCLOSED
    assert world.ask("memberOf", leaker.address) | {"deposit": 19 * ETH, "locked": 0} == world.ask(
        "memberOf", leaker.address
    )
    before = world.balance(finder.address)
    world.send(finder, "withdraw")
    assert world.balance(finder.address) - before > ETH // 2 - 10**16
    stage.refused("UnknownUnit", disclosing(stage, finder, work, 2))
    if phase == TRAIN:
        other = world.honest_work(stage.miners[1])
        world.commit(stage.miners[1], other)
        stage.works[other.unit] = other
    world.pass_to(SEAL)
    honest = stage.work_of(stage.miners[1])
    for verifier in stage.verifiers:
        world.seal(verifier, {honest.unit: honest})
    assert world.ask("current")["due"]
    world.pass_to(OPEN)
    for verifier in stage.verifiers:
        world.reveal(verifier, {honest.unit: honest})
    world.open(stage.miners[1], honest)
    world.pass_to(MERGE)
    assert (status_of(stage, leaker), world.ask("mergeSet", 0)) == (DISCLOSED, [honest.unit])
    world.play_merge(stage.miners[1], stage.verifiers)
    world.pass_phase()
    assert world.ask("getRound", 0)["phase"] == ENDED
    assert world.ask("claimable", leaker.address, 0, 1) == []
    for verifier in stage.verifiers:
        assert world.ask("memberOf", verifier.address)["deposit"] == 20 * ETH
    world.check_solvent()


def test_a_disclosure_is_never_cheaper_than_not_to_open() -> None:
    world = make_world(unavailableFee=ETH * 3 // 4)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    stage = Stage(world, miners, verifiers, world.accounts[-1], works)
    receipt = disclosing(stage, stage.outsider, stage.work_of(miners[0]))()
    assert receipt.named("Disclosed")[0]["prize"] == ETH // 4
    assert receipt.named("Burned")[0]["amount"] == ETH * 3 // 4
    world.check_solvent()


def spoilt_disclosures(stage: Stage) -> dict[str, Callable[[], Any]]:
    work = stage.work_of(stage.miners[0])
    segment, answer, salt = work.opened([1])[0]
    _, contribution, cid = work.commitment
    return {
        "another salt": disclosing(stage, stage.outsider, work, leaf=(segment, answer, sha("guess"))),
        "another leaf": disclosing(stage, stage.outsider, work, leaf=(2, answer, salt)),
        "another commitment": disclosing(stage, stage.outsider, work, commitment=(sha("root"), contribution, cid)),
        "a leaf there is not": disclosing(stage, stage.outsider, work, leaf=(5, answer, salt)),
        "another round": disclosing(stage, stage.outsider, work, round=1),
        "a unit there is not": disclosing(stage, stage.outsider, work, index=1),
    }


REFUSALS = (
    "LeavesNotInTree",
    "LeavesNotInTree",
    "CommitmentMismatch",
    "SegmentOutOfRange",
    "WrongRound",
    "UnknownUnit",
)


def test_what_proves_no_knowledge_of_the_evidence_is_refused() -> None:
    stage = stage_at(SEAL)
    for (what, spoilt), name in zip(spoilt_disclosures(stage).items(), REFUSALS, strict=True):
        assert stage.refused(name, spoilt), what


def test_what_is_opened_in_its_time_is_no_disclosure() -> None:
    stage = stage_at(OPEN)
    stage.refused("WrongPhase", disclosing(stage, stage.outsider, stage.work_of(stage.miners[0])))
