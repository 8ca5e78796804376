"""Commit, seal, open, reveal: what each refuses, one thing spoilt at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from contract_world import (
    ETH,
    MERGE,
    OPEN,
    SEAL,
    TRAIN,
    ZERO,
    Stage,
    compute_seal,
    make_world,
    sha,
    spoil,
    stage_at,
)

CID = (0x70, sha("cid"))


# ---------------------------------------------------------------- commit


def test_a_commit_locks_a_bond_and_is_there_to_fetch() -> None:
    stage = stage_at(TRAIN)
    world, miner = stage.world, stage.miners[0]
    work = world.honest_work(miner)
    world.commit(miner, work)
    assert world.ask("memberOf", miner.address)["locked"] == ETH
    unit = world.ask("getUnit", work.unit)
    assert unit == world.ask("getUnits", 0)[0]
    assert (unit["miner"], unit["index"], unit["root"], unit["contribution"]) == (
        miner.address,
        0,
        work.root,
        work.contribution,
    )
    assert unit["cid"] == {"codec": 0x70, "digest": sha(f"cid {work.root.hex()}")}
    assert world.ask("unitIdOf", 0, miner.address, 0) == work.unit


COMMITS: dict[str, Callable[[Stage], Any]] = {
    "IndexNotDrawn": lambda s: s.world.send(s.miners[0], "commit", s.world.seed, 1, sha("a"), sha("b"), CID),
    "EmptyRoot": lambda s: s.world.send(s.miners[0], "commit", s.world.seed, 0, ZERO, sha("b"), CID),
    "UnknownCodec": lambda s: s.world.send(s.miners[0], "commit", s.world.seed, 0, sha("a"), sha("b"), (0x71, ZERO)),
}


@pytest.mark.parametrize("name", COMMITS)
def test_a_spoilt_commit_is_refused(name: str) -> None:
    stage = stage_at(TRAIN)
    stage.refused(name, lambda: COMMITS[name](stage))


@pytest.mark.parametrize("who", ["verifier", "outsider", "newcomer"])
def test_only_miners_of_the_round_commit(who: str) -> None:
    stage = stage_at(TRAIN)
    account = stage.verifiers[0] if who == "verifier" else stage.outsider
    if who == "newcomer":
        stage.world.send(account, "joinMiner", 1, "", value=ETH)
    commit = lambda: stage.world.send(account, "commit", stage.world.seed, 0, sha("a"), sha("b"), CID)  # noqa: E731
    assert stage.refused("IndexNotDrawn", commit) == {"index": 0, "drawn": 0}


def test_a_unit_is_committed_once() -> None:
    stage = stage_at(TRAIN)
    world, miner = stage.world, stage.miners[0]
    work = world.honest_work(miner)
    world.commit(miner, work)
    numbers = stage.refused("AlreadyCommitted", lambda: world.commit(miner, spoil(work, 0)))
    assert numbers == {"unitId": work.unit}


def test_there_is_no_commit_before_the_seed() -> None:
    world = make_world(scripted=False)
    world.seat(world.accounts[:2], world.accounts[2:5])
    stage = Stage(world, world.accounts[:2], world.accounts[2:5], world.accounts[5], {})
    stage.refused("WrongPhase", lambda: world.send(stage.miners[0], "commit", world.seed, 0, sha("a"), sha("b"), CID))


# ---------------------------------------------------------------- seal


def test_a_seal_cannot_be_changed() -> None:
    stage = stage_at(SEAL)
    world, verifier = stage.world, stage.verifiers[0]
    world.seal(verifier, stage.works)
    stage.refused("AlreadySealed", lambda: world.seal(verifier, stage.works, lambda work: spoil(work, 0)))


def test_nobody_but_the_drawn_seals() -> None:
    stage = stage_at(SEAL)
    unit = stage.work_of(stage.miners[0]).unit
    for account in (stage.outsider, stage.miners[1]):
        seal = lambda who=account: stage.world.send(who, "seal", stage.world.draw_seed, [unit], [sha("s")])  # noqa: E731
        numbers = stage.refused("NotAssigned", seal)
        assert numbers == {"unitId": unit, "verifier": account.address}


def test_spoilt_seals_are_refused() -> None:
    stage = stage_at(SEAL)
    world, verifier = stage.world, stage.verifiers[0]
    unit = stage.work_of(stage.miners[0]).unit
    stage.refused("EmptySeal", lambda: world.send(verifier, "seal", world.draw_seed, [unit], [ZERO]))
    stage.refused("LengthsDiffer", lambda: world.send(verifier, "seal", world.draw_seed, [unit], []))
    stage.refused("UnknownUnit", lambda: world.send(verifier, "seal", world.draw_seed, [sha("no unit")], [sha("s")]))
    twice = lambda: world.send(verifier, "seal", world.draw_seed, [unit, unit], [sha("s"), sha("t")])  # noqa: E731
    stage.refused("AlreadySealed", twice)


# ---------------------------------------------------------------- open


def opening(stage: Stage, **changes: Any) -> Callable[[], Any]:
    """The first miner's opening, with some of its arguments replaced."""
    miner = stage.miners[0]
    work = stage.work_of(miner)
    drawn = stage.world.drawn_segments(work.unit)
    arguments = {
        "index": 0,
        "commitment": work.commitment,
        "leaves": work.opened(drawn),
        "proof": work.proof(drawn),
    } | changes
    return lambda: stage.world.send(miner, "open", 0, *arguments.values())


def test_the_honest_opening_goes_through_once() -> None:
    stage = stage_at(OPEN)
    opening(stage)()
    stage.refused("AlreadyOpened", opening(stage))


def all_opened(stage: Stage, leaves: Any) -> Callable[[], Any]:
    """The first miner's opening of all its leaves, these."""
    return opening(stage, leaves=leaves, proof=stage.work_of(stage.miners[0]).proof(range(5)))


def test_a_leaf_opened_at_another_index_is_refused() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    leaves = work.opened(range(5))
    all_opened(stage_at(OPEN), leaves)()
    swapped = [(i, *leaves[{0: 1, 1: 0}.get(i, i)][1:]) for i in range(5)]
    numbers = stage.refused("LeavesNotInTree", all_opened(stage, swapped))
    assert numbers["root"] == work.root != numbers["found"]


def test_every_bit_of_an_opened_leaf_counts() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    for part in ("ends", "losses", "norms", "salts"):
        values = list(getattr(work, part))
        values[0] = bytes([values[0][0] ^ 1]) + values[0][1:]
        spoilt = dataclasses.replace(work, **{part: tuple(values)}).opened(range(5))
        stage.refused("LeavesNotInTree", all_opened(stage, spoilt))


def test_proofs_of_a_wrong_length_or_with_another_word_are_refused() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    leaves, proof = work.opened([4]), [sha("sibling")]
    drawn = stage.world.drawn_segments(work.unit)
    honest = work.proof(drawn)
    for wrong in ([*honest, ZERO], honest[:-1] if honest else [ZERO], [sha("another"), *honest[1:]]):
        stage.refused("LeavesNotInTree", opening(stage, proof=wrong))
    stage.refused("LeavesNotInTree", opening(stage, leaves=leaves, proof=proof))


def test_what_is_opened_is_what_was_committed() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    root, contribution, cid = work.commitment
    for other in (
        (sha("root"), contribution, cid),
        (root, sha("end"), cid),
        (root, contribution, (0x55, cid[1])),
        (root, contribution, (cid[0], sha("elsewhere"))),
    ):
        numbers = stage.refused("CommitmentMismatch", opening(stage, commitment=other))
        assert numbers["unitId"] == work.unit


def test_every_drawn_segment_and_the_last_must_be_opened() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    drawn = stage.world.drawn_segments(work.unit)
    for missing in drawn:
        some = drawn - {missing}
        spoilt = opening(stage, leaves=work.opened(some), proof=work.proof(some))
        numbers = stage.refused("SegmentNotOpened", spoilt)
        assert numbers == {"segment": missing}
    stage.refused("SegmentNotOpened", opening(stage, leaves=[]))
    all_opened(stage, work.opened(range(5)))()  # more than asked for is no harm


def test_segments_are_opened_in_order_and_within_the_unit() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    leaves = work.opened(range(5))
    stage.refused("SegmentsNotAscending", opening(stage, leaves=[leaves[1], leaves[0], *leaves[2:]]))
    stage.refused("SegmentsNotAscending", opening(stage, leaves=[leaves[0], *leaves]))
    beyond = (5, *leaves[4][1:])
    assert stage.refused("SegmentOutOfRange", opening(stage, leaves=[*leaves, beyond])) == {
        "segment": 5,
        "segments": 5,
    }


def test_work_from_another_start_state_cannot_be_opened() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    stale, honest = stage.miners
    wrong = dataclasses.replace(world.honest_work(stale), start=sha("an older state"))
    works = {wrong.unit: wrong, world.unit_id(honest): world.honest_work(honest)}
    world.commit(stale, wrong)
    world.commit(honest, works[world.unit_id(honest)])
    world.pass_to(SEAL)
    world.seal(stage.verifiers[0], works)
    world.pass_to(OPEN)
    numbers = stage.refused("LeavesNotInTree", lambda: world.open(stale, wrong))
    assert numbers["root"] == wrong.root


def test_a_contribution_that_is_not_the_end_state_cannot_be_opened() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    liar, honest = stage.miners
    poisoned = dataclasses.replace(world.honest_work(liar), contribution=sha("poison"))
    world.commit(liar, poisoned)
    world.commit(honest, world.honest_work(honest))
    world.pass_to(OPEN)
    numbers = stage.refused("ContributionMismatch", lambda: world.open(liar, poisoned))
    assert numbers == {"contribution": sha("poison"), "endRoot": poisoned.ends[-1]}


def test_a_miner_opens_only_its_own_units() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    stage.refused("UnknownUnit", lambda: stage.world.open(stage.outsider, work))
    stage.refused("CommitmentMismatch", lambda: stage.world.open(stage.miners[1], work))
    stage.refused("UnknownUnit", opening(stage, index=1))


# ---------------------------------------------------------------- reveal


def reveal(stage: Stage, verifier: int = 0, **changes: Any) -> Callable[[], Any]:
    """A verifier's reveal of the first miner's unit, with some of its arguments replaced."""
    account = stage.verifiers[verifier]
    work = stage.work_of(stage.miners[0])
    segments = stage.world.assigned_segments(work.unit, account.address)
    arguments = {
        "unit": work.unit,
        "answers": work.answers(segments),
        "salt": sha(f"salt {account.address} {work.unit.hex()}"),
    } | changes
    return lambda: stage.world.send(account, "reveal", 0, *([value] for value in arguments.values()))


def test_a_reveal_goes_through_once() -> None:
    stage = stage_at(OPEN)
    reveal(stage)()
    stage.refused("AlreadyRevealed", reveal(stage))


def test_a_reveal_must_be_what_was_sealed() -> None:
    stage = stage_at(OPEN)
    work = stage.work_of(stage.miners[0])
    segments = stage.world.assigned_segments(work.unit, stage.verifiers[0].address)
    other = spoil(work, 0).answers(segments)
    numbers = stage.refused("SealMismatch", reveal(stage, answers=other))
    salt = sha(f"salt {stage.verifiers[0].address} {work.unit.hex()}")
    assert numbers["posted"] == compute_seal(work.unit, stage.verifiers[0].address, work.answers(segments), salt)
    stage.refused("SealMismatch", reveal(stage, salt=sha("another salt")))
    stage.refused("AnswersMismatch", reveal(stage, answers=work.answers(segments)[:1]))


def test_a_seal_copied_from_another_verifier_cannot_be_revealed() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    honest, copier, third = stage.verifiers
    world.seal(honest, stage.works)
    units = [one["unitId"] for one in world.ask("assignmentsOf", 0, honest.address)]
    copied = []
    for unit in units:
        segments = world.assigned_segments(unit, honest.address)
        salt = sha(f"salt {honest.address} {unit.hex()}")
        copied.append(compute_seal(unit, honest.address, stage.works[unit].answers(segments), salt))
    world.send(copier, "seal", world.draw_seed, units, copied)
    world.seal(third, stage.works)
    world.pass_to(OPEN)
    segments = world.assigned_segments(units[0], honest.address)
    answers = stage.works[units[0]].answers(segments)
    salt = sha(f"salt {honest.address} {units[0].hex()}")
    stage.refused("SealMismatch", lambda: world.send(copier, "reveal", 0, [units[0]], [answers], [salt]))


def test_what_was_not_sealed_cannot_be_revealed() -> None:
    stage = stage_at(SEAL)
    stage.world.seal(stage.verifiers[1], stage.works)
    stage.world.pass_to(OPEN)
    stage.refused("NotSealed", reveal(stage))


def test_several_units_are_sealed_and_revealed_in_one_transaction() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    receipt = world.seal(stage.verifiers[0], stage.works)
    assert len(receipt.named("Sealed")) == 2
    world.pass_to(OPEN)
    assert len(world.reveal(stage.verifiers[0], stage.works).named("Revealed")) == 2
    assert all(one["isRevealed"] for one in world.ask("assignmentsOf", 0, stage.verifiers[0].address))


def test_actions_wait_for_their_phase() -> None:
    stage = stage_at(MERGE)
    numbers = stage.refused("WrongPhase", opening(stage))
    assert numbers == {"phase": MERGE, "expected": OPEN}
    stage.refused("WrongPhase", reveal(stage))
    early = stage_at(SEAL)
    early.refused("WrongPhase", opening(early))
