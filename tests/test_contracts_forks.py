"""A transaction of a fork that was undone does nothing where beacon values differ: nobody asked there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_world import (
    ACKNOWLEDGE,
    COMMITTED,
    DRAW,
    MERGE,
    SEAL,
    SEED,
    TRAIN,
    ZERO,
    Account,
    Refused,
    World,
    make_world,
    sha,
)

CID = (0x70, sha("cid"))
Transaction = tuple[Account, str, tuple[Any, ...]]


def seated(phase: int) -> World:
    """Round 0, honestly played until it waits for its seed or its draw, the awaited block still some blocks away."""
    world = make_world(scripted=False, beaconDelay=6)
    world.seat(world.accounts[:2], world.accounts[2:5])
    world.pass_to(SEED)
    if phase == DRAW:
        world.pass_to(TRAIN)
        world.play_commits(world.accounts[:2])
        world.pass_to(DRAW)
    return world


def commit_of(world: World) -> Transaction:
    world.pass_to(TRAIN)
    work = world.honest_work(world.accounts[0])
    return world.accounts[0], "commit", (world.seed, 0, work.root, work.contribution, CID)


def seal_of(world: World) -> Transaction:
    world.pass_to(SEAL)
    for verifier in world.accounts[2:5]:
        drawn = [one["unitId"] for one in world.ask("assignmentsOf", 0, verifier.address)]
        if drawn:
            return verifier, "seal", (world.draw_seed, drawn, [sha("seal")] * len(drawn))
    raise AssertionError("nobody was drawn")


def to_merge(world: World) -> None:
    world.pass_to(SEAL)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    works = {}
    for miner in miners:
        work = world.honest_work(miner)
        works[work.unit] = work
    for verifier in verifiers:
        world.seal(verifier, works)
    world.pass_phase()
    for verifier in verifiers:
        world.reveal(verifier, works)
    world.play_opens(miners, works)
    world.pass_to(MERGE)


def proposal_of(world: World) -> Transaction:
    to_merge(world)
    return world.accounts[0], "proposeMerge", (world.draw_seed, sha("merged"), CID)


def acknowledgement_of(world: World) -> Transaction:
    account, function, arguments = proposal_of(world)
    world.send(account, function, *arguments)
    juror = next(one for one in world.accounts if one.address in world.ask("jury"))
    return juror, "acknowledge", (world.draw_seed, 0, sha("merged"), CID)


ANSWERS: dict[str, tuple[int, Callable[[World], Transaction]]] = {
    "commit": (SEED, commit_of),
    "seal": (DRAW, seal_of),
    "proposeMerge": (DRAW, proposal_of),
    "acknowledge": (DRAW, acknowledgement_of),
}


@pytest.mark.parametrize("function", ANSWERS)
def test_an_answer_to_one_forks_seed_is_refused_on_another_and_costs_nothing(function: str) -> None:
    phase, prepare = ANSWERS[function]
    before = seated(phase)
    undone, canonical = before.fork("undone "), before.fork()
    account, name, arguments = prepare(undone)
    _, _, own = prepare(canonical)
    locked = canonical.ask("memberOf", account.address)["locked"]
    with pytest.raises(Refused) as caught:
        canonical.send(account, name, *arguments)
    assert (caught.value.name, caught.value.numbers) == ("WrongSeed", {"given": arguments[0], "expected": own[0]})
    assert arguments[0] != own[0]
    assert canonical.ask("memberOf", account.address)["locked"] == locked
    # Nothing else was wrong with it: where it belongs it goes through.
    undone.send(account, name, *arguments)


@pytest.mark.parametrize("function", ANSWERS)
def test_a_round_that_has_no_such_seed_yet_takes_no_answer_to_zero(function: str) -> None:
    phase, prepare = ANSWERS[function]
    before = seated(phase)
    account, name, arguments = prepare(before.fork())
    with pytest.raises(Refused) as caught:
        before.send(account, name, ZERO, *arguments[1:])
    caught.value.must_be("WrongPhase")
    assert before.phase == phase


def test_a_commit_goes_where_its_seed_is_drawn_again() -> None:
    """A re-org that leaves the beacon's value alone leaves the work worth what it was."""
    before = seated(SEED)
    undone, canonical = before.fork(), before.fork()
    account, name, arguments = commit_of(undone)
    canonical.pass_to(TRAIN)
    canonical.send(account, name, *arguments)
    assert canonical.ask("getUnit", canonical.unit_id(account))["status"] == COMMITTED


def test_a_seal_does_not_pass_for_an_answer_to_the_first_seed() -> None:
    world = seated(DRAW)
    account, name, arguments = seal_of(world)
    with pytest.raises(Refused) as caught:
        world.send(account, name, world.seed, *arguments[1:])
    caught.value.must_be("WrongSeed")


def test_late_candidates_are_refused_and_late_acknowledgements_are_not() -> None:
    world = seated(DRAW)
    proposer, _, arguments = proposal_of(world)
    world.send(proposer, "proposeMerge", *arguments)
    world.pass_to(ACKNOWLEDGE)
    with pytest.raises(Refused) as caught:
        world.send(world.accounts[1], "proposeMerge", world.draw_seed, sha("other"), CID)
    caught.value.must_be("WrongPhase")
    juror = next(one for one in world.accounts if one.address in world.ask("jury"))
    world.send(juror, "acknowledge", world.draw_seed, 0, sha("merged"), CID)
    assert world.ask("candidates", 0)[0]["acknowledgements"] == 1


def test_a_fork_whose_earlier_round_ended_otherwise_has_another_seed_though_its_beacon_says_the_same() -> None:
    world = make_world()
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    world.play_to_merge(miners, verifiers)
    other = world.fork()
    world.play_merge(miners[0], verifiers)
    other.pass_phase()  # nobody proposed
    other.pass_phase()
    for one in (world, other):
        while one.round == 0:
            one.pass_phase()
        one.pass_to(TRAIN)
    assert world.ask("getRound", 1)["stateRoot"] != other.ask("getRound", 1)["stateRoot"]
    assert world.seed != other.seed
