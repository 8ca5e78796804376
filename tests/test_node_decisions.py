"""What a node does next, for every situation that decides it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.chain.run_values import Phase
from cupel.node.decisions import (
    ADVANCE_STAGGER_S,
    PROPOSE_STAGGER_S,
    Acknowledge,
    Advance,
    Claim,
    Commit,
    ComputeMerge,
    DrawnUnit,
    Extend,
    Facts,
    FetchStart,
    Finish,
    Join,
    MergedState,
    MergeFacts,
    MinerFacts,
    Open,
    Probe,
    ProposeMerge,
    RecordBeacon,
    Replay,
    ReportUnavailable,
    Retire,
    Reveal,
    Seal,
    Train,
    VerifierFacts,
    Wait,
    decide_miner,
    decide_verifier,
)
from cupel.protocol.types import Cid, Root

OURS = MergedState(Root(b"\x01" * 32), Cid("bafkours"))
OTHER = MergedState(Root(b"\x02" * 32), Cid("bafkother"))
UNFETCHABLE = MergedState(OURS.root, Cid("bafknobodys"))


def facts(phase: Phase, **changes: object) -> Facts:
    usual = Facts(phase=phase, phase_for_s=0.0, due=False, due_for_s=0.0, rank=0, member=True)
    return replace(usual, **changes)  # type: ignore[arg-type]


def drawn(unit: bytes = b"u", **changes: object) -> DrawnUnit:
    usual = DrawnUnit(unit=unit, missing=(), asleep=False, is_sealed=False, is_revealed=False)
    return replace(usual, **changes)  # type: ignore[arg-type]


# Everybody


def test_a_stranger_takes_a_seat_first() -> None:
    outside = facts(Phase.TRAIN, member=False)
    assert decide_miner(MinerFacts(round=outside, units=1)) == Join()
    assert decide_verifier(VerifierFacts(round=outside)) == Join()


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.SEAL, Phase.OPEN, Phase.MERGE])
def test_in_a_phase_that_is_over_nothing_is_done_but_to_move_it(phase: Phase) -> None:
    over = facts(phase, due=True)
    assert decide_miner(MinerFacts(round=over, units=1, ready=frozenset({0}))) == Advance()
    assert decide_verifier(VerifierFacts(round=over, drawn=(drawn(),))) == Advance()


def test_only_one_party_moves_a_phase_until_it_fails_to() -> None:
    second = facts(Phase.DRAW, due=True, rank=1)
    assert decide_miner(MinerFacts(round=second)) == Wait()
    late = replace(second, due_for_s=ADVANCE_STAGGER_S)
    assert decide_miner(MinerFacts(round=late)) == Advance()


def test_a_beacon_value_nobody_recorded_is_proved() -> None:
    missed = facts(Phase.SEED, due=True, beacon_missed=True)
    assert decide_miner(MinerFacts(round=missed)) == RecordBeacon()
    assert decide_verifier(VerifierFacts(round=replace(missed, rank=2))) == Wait()


def test_rewards_are_taken_when_there_is_nothing_better_to_do() -> None:
    rich = facts(Phase.TRAIN, claimable=(3, 4))
    assert decide_miner(MinerFacts(round=rich, units=1)) == Train(0)
    assert decide_miner(MinerFacts(round=rich, units=1, committed=frozenset({0}))) == Claim((3, 4))


def test_the_start_state_is_fetched_before_the_seed_comes_and_not_at_once_again() -> None:
    assert decide_miner(MinerFacts(round=facts(Phase.SEED, start_held=False))) == FetchStart()
    assert decide_verifier(VerifierFacts(round=facts(Phase.SEED, start_held=False))) == FetchStart()
    assert decide_miner(MinerFacts(round=facts(Phase.TRAIN, start_held=False), units=1)) == FetchStart()
    assert decide_miner(MinerFacts(round=facts(Phase.SEED, start_held=False, start_asleep=True))) == Wait()


# Miners


def test_units_are_trained_in_order_and_committed_as_soon_as_they_are_ready() -> None:
    train = facts(Phase.TRAIN)
    assert decide_miner(MinerFacts(round=train, units=2)) == Train(0)
    assert decide_miner(MinerFacts(round=train, units=2, ready=frozenset({0}))) == Commit(0)
    assert decide_miner(MinerFacts(round=train, units=2, ready=frozenset({0}), committed=frozenset({0}))) == Train(1)
    assert decide_miner(MinerFacts(round=train, units=2, committed=frozenset({0, 1}))) == Wait()


def test_every_committed_unit_is_opened_once() -> None:
    mine = MinerFacts(round=facts(Phase.OPEN), units=2, ready=frozenset({0, 1}), committed=frozenset({0, 1}))
    assert decide_miner(mine) == Open(0)
    assert decide_miner(replace(mine, opened=frozenset({0}))) == Open(1)
    assert decide_miner(replace(mine, opened=frozenset({0, 1}))) == Wait()


def test_a_unit_is_not_opened_before_its_phase() -> None:
    for phase in (Phase.DRAW, Phase.SEAL):
        mine = MinerFacts(round=facts(phase), units=1, ready=frozenset({0}), committed=frozenset({0}))
        assert decide_miner(mine) == Wait()


# Verifiers


def test_all_drawn_segments_are_replayed_and_sealed_in_one_transaction() -> None:
    seal = facts(Phase.SEAL)
    waiting = VerifierFacts(round=seal, drawn=(drawn(b"a"), drawn(b"b", missing=(2, 5))))
    assert decide_verifier(waiting) == Replay(b"b", 2, drawn=True)
    assert decide_verifier(VerifierFacts(round=seal, drawn=(drawn(b"a"), drawn(b"b")))) == Seal((b"a", b"b"))


def test_an_unfetchable_unit_holds_nobody_else_up() -> None:
    seal = facts(Phase.SEAL)
    asleep = drawn(b"b", missing=(2,), asleep=True)
    assert decide_verifier(VerifierFacts(round=seal, drawn=(drawn(b"a"), asleep))) == Seal((b"a",))
    assert decide_verifier(VerifierFacts(round=seal, drawn=(drawn(b"a", is_sealed=True), asleep))) == Wait()


def test_near_the_deadline_what_there_is_is_sealed() -> None:
    both = (drawn(b"a"), drawn(b"b", missing=(2,)))
    soon = VerifierFacts(round=facts(Phase.SEAL), drawn=both, seal_soon=True)
    assert decide_verifier(soon) == Seal((b"a",))


def test_what_was_sealed_is_revealed_after_a_restart_too() -> None:
    sealed = drawn(is_sealed=True, missing=(1,))
    assert decide_verifier(VerifierFacts(round=facts(Phase.OPEN), drawn=(sealed,))) == Replay(b"u", 1, drawn=True)
    whole = replace(sealed, missing=())
    assert decide_verifier(VerifierFacts(round=facts(Phase.OPEN), drawn=(whole, drawn(b"v")))) == Reveal((b"u",))
    assert decide_verifier(VerifierFacts(round=facts(Phase.OPEN), drawn=(replace(whole, is_revealed=True),))) == Wait()


def test_nothing_is_revealed_before_its_phase() -> None:
    assert decide_verifier(VerifierFacts(round=facts(Phase.SEAL), drawn=(drawn(is_sealed=True),))) == Wait()


def test_watching_waits_for_what_is_owed() -> None:
    watched = ((b"w", 0), (b"w", 1))
    owed = VerifierFacts(round=facts(Phase.SEAL), drawn=(drawn(missing=(4,)),), watched=watched)
    assert decide_verifier(owed) == Replay(b"u", 4, drawn=True)
    idle = VerifierFacts(round=facts(Phase.SEAL), drawn=(drawn(is_sealed=True),), watched=watched)
    assert decide_verifier(idle) == Replay(b"w", 0, drawn=False)


# The merge


def merging(phase: Phase = Phase.MERGE, phase_for_s: float = 0.0, **changes: object) -> MinerFacts:
    merge = replace(MergeFacts(wanted=True), **changes)  # type: ignore[arg-type]
    return MinerFacts(round=facts(phase, merge=merge, phase_for_s=phase_for_s))


def test_the_first_juror_merges_and_proposes_and_then_acknowledges() -> None:
    assert decide_miner(merging(juror=True)) == ComputeMerge()
    assert decide_miner(merging(juror=True, computed=OURS)) == ProposeMerge()
    stands = merging(juror=True, computed=OURS, candidates=(OURS,), proposed=True)
    assert decide_miner(stands) == Acknowledge(0)
    done = merging(juror=True, computed=OURS, candidates=(OURS,), proposed=True, acknowledged=True)
    assert decide_miner(done) == Wait()


def test_a_later_juror_leaves_proposing_to_the_first_for_a_while() -> None:
    assert decide_miner(merging(juror=True, computed=OURS, order=2)) == Wait()
    late = merging(juror=True, computed=OURS, order=2, phase_for_s=2 * PROPOSE_STAGGER_S)
    assert decide_miner(late) == ProposeMerge()


def test_no_other_root_than_ones_own_is_acknowledged() -> None:
    false_one = merging(juror=True, computed=OURS, candidates=(OTHER,), acknowledged=False)
    assert decide_miner(false_one) == ProposeMerge()
    both = merging(juror=True, computed=OURS, candidates=(OTHER, OURS))
    assert decide_miner(both) == Acknowledge(1)
    assert decide_miner(merging(Phase.ACKNOWLEDGE, juror=True, computed=OURS, candidates=(OTHER,))) == Wait()


def test_ones_own_root_under_another_cid_is_answered_and_not_acknowledged() -> None:
    bogus = merging(juror=True, computed=OURS, candidates=(UNFETCHABLE,))
    assert decide_miner(bogus) == ProposeMerge()
    assert decide_miner(merging(juror=True, computed=OURS, candidates=(UNFETCHABLE, OURS))) == Acknowledge(1)
    without_bond = merging(juror=True, computed=OURS, candidates=(UNFETCHABLE,), proposed=True)
    assert decide_miner(without_bond) == Wait()


def test_others_merge_only_if_no_juror_does() -> None:
    assert decide_miner(merging(order=4)) == Wait()
    assert decide_miner(merging(order=4, phase_for_s=4 * PROPOSE_STAGGER_S)) == ComputeMerge()
    assert decide_miner(merging(order=4, phase_for_s=60.0, candidates=(OURS,))) == Wait()


def test_a_contribution_that_is_missing_is_not_asked_for_in_a_hurry() -> None:
    assert decide_miner(merging(juror=True, compute=False)) == Wait()


def test_a_round_without_attested_units_merges_nothing() -> None:
    assert decide_miner(merging(wanted=False, juror=True)) == Wait()


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(Phase),
    st.integers(0, 3),
    st.frozensets(st.integers(0, 2)),
    st.frozensets(st.integers(0, 2)),
    st.booleans(),
    st.booleans(),
)
def test_no_unit_is_ever_committed_twice_or_untrained(
    phase: Phase, units: int, ready: frozenset[int], committed: frozenset[int], due: bool, finishing: bool
) -> None:
    common = facts(phase, due=due, finishing=finishing)
    action = decide_miner(MinerFacts(round=common, units=units, ready=ready, committed=committed))
    if isinstance(action, Commit):
        assert phase == Phase.TRAIN
        assert action.index < units
        assert action.index in ready - committed
    if isinstance(action, Train):
        assert action.index not in ready
        if action.index in committed:
            assert phase in (Phase.DRAW, Phase.SEAL, Phase.OPEN)
        else:
            assert phase == Phase.TRAIN
    if isinstance(action, (Commit, Train)):
        assert not due


def test_a_committed_unit_whose_work_is_lost_is_trained_again_to_be_opened() -> None:
    for phase in (Phase.DRAW, Phase.SEAL, Phase.OPEN):
        lost = MinerFacts(round=facts(phase), units=1, committed=frozenset({0}))
        assert decide_miner(lost) == Train(0)
        assert decide_miner(replace(lost, ready=frozenset({0}))) == (Open(0) if phase == Phase.OPEN else Wait())
        assert decide_miner(replace(lost, opened=frozenset({0}))) == Wait()


# Ending


def test_a_miner_asked_to_end_finishes_the_units_the_round_waits_for() -> None:
    asked = MinerFacts(round=facts(Phase.TRAIN, finishing=True), units=1)
    assert decide_miner(asked) == Train(0)
    assert decide_miner(replace(asked, ready=frozenset({0}))) == Commit(0)
    assert decide_miner(replace(asked, units=0)) == Finish()
    assert decide_miner(replace(asked, round=facts(Phase.SEED, finishing=True))) == Wait()


def test_a_miner_asked_to_end_stays_until_its_commitment_is_opened() -> None:
    committed = {"units": 1, "ready": frozenset({0}), "committed": frozenset({0})}
    for phase in (Phase.TRAIN, Phase.DRAW, Phase.SEAL):
        assert decide_miner(MinerFacts(round=facts(phase, finishing=True), **committed)) == Wait()
    missed = MinerFacts(round=facts(Phase.SEAL, finishing=True), units=1)
    assert decide_miner(missed) == Finish()
    opening = MinerFacts(round=facts(Phase.OPEN, finishing=True), **committed)
    assert decide_miner(opening) == Open(0)
    assert decide_miner(replace(opening, opened=frozenset({0}))) == Finish()


def test_a_verifier_asked_to_end_reveals_what_it_sealed() -> None:
    sealed = VerifierFacts(round=facts(Phase.OPEN, finishing=True), drawn=(drawn(is_sealed=True),))
    assert decide_verifier(sealed) == Reveal((b"u",))


def test_a_verifier_asked_to_end_stays_while_it_may_be_drawn_and_until_the_merge_has_its_word() -> None:
    for phase in (Phase.SEED, Phase.TRAIN, Phase.DRAW, Phase.SEAL, Phase.OPEN):
        asked = VerifierFacts(round=facts(phase, finishing=True), frozen=True)
        assert decide_verifier(asked) == Wait()
        assert decide_verifier(replace(asked, frozen=False)) == Finish()
    merge = MergeFacts(wanted=True, juror=True, candidates=(OURS,), computed=OURS)
    waiting = VerifierFacts(round=facts(Phase.ACKNOWLEDGE, finishing=True, merge=merge))
    assert decide_verifier(waiting) == Acknowledge(0)
    done = replace(merge, acknowledged=True)
    assert decide_verifier(replace(waiting, round=replace(waiting.round, merge=done))) == Finish()


def test_whoever_is_asked_to_end_neither_joins_nor_plays_another_round() -> None:
    outside = facts(Phase.TRAIN, finishing=True, member=False)
    assert decide_miner(MinerFacts(round=outside, units=1)) == Finish()
    assert decide_verifier(VerifierFacts(round=outside)) == Finish()
    later = facts(Phase.TRAIN, finishing=True, round_over=True)
    assert decide_miner(MinerFacts(round=later, units=1)) == Finish()
    assert decide_verifier(VerifierFacts(round=later)) == Finish()


def test_whom_a_court_may_still_ask_stays_with_nothing_to_do_but_claim() -> None:
    out = facts(Phase.TRAIN, finishing=True, member=False, answerable=True)
    for round_ in (out, replace(out, member=True, round_over=True)):
        assert decide_miner(MinerFacts(round=round_, units=1)) == Wait()
        assert decide_verifier(VerifierFacts(round=round_, drawn=(drawn(missing=(0,)),))) == Wait()
        rich = replace(round_, claimable=(3,))
        assert (
            decide_miner(MinerFacts(round=rich, units=1)) == decide_verifier(VerifierFacts(round=rich)) == Claim((3,))
        )
        assert decide_miner(MinerFacts(round=replace(round_, due=True))) == Advance()
    opened = MinerFacts(round=facts(Phase.OPEN, finishing=True, answerable=True), units=1, opened=frozenset({0}))
    assert decide_miner(replace(opened, committed=frozenset({0}))) == Wait()
    assert decide_verifier(VerifierFacts(round=facts(Phase.MERGE, finishing=True, answerable=True))) == Wait()


def test_leaving_gives_up_the_seat_first_and_serves_the_round_out() -> None:
    asked = facts(Phase.SEAL, finishing=True, retire=True)
    assert decide_verifier(VerifierFacts(round=asked, drawn=(drawn(),))) == Retire()
    left = replace(asked, retire=False)
    assert decide_verifier(VerifierFacts(round=left, drawn=(drawn(),))) == Seal((b"u",))


# Seats


def test_what_has_a_deadline_is_said_before_a_new_endpoint_is_and_that_before_work() -> None:
    moved = {"announce": True}
    ready = MinerFacts(round=facts(Phase.OPEN, **moved), units=1, ready=frozenset({0}), committed=frozenset({0}))
    assert decide_miner(ready) == Open(0)
    assert decide_miner(replace(ready, opened=frozenset({0}))) == Join()
    training = MinerFacts(round=facts(Phase.TRAIN, **moved), units=1)
    assert decide_miner(training) == Join()
    assert decide_miner(replace(training, ready=frozenset({0}))) == Commit(0)
    sealing = VerifierFacts(round=facts(Phase.SEAL, **moved), drawn=(drawn(),))
    assert decide_verifier(sealing) == Seal((b"u",))
    assert decide_verifier(replace(sealing, drawn=(drawn(missing=(0,)),))) == Join()
    assert decide_verifier(VerifierFacts(round=facts(Phase.OPEN, **moved), drawn=(drawn(is_sealed=True),))) == Reveal(
        (b"u",)
    )


def test_a_unit_the_journal_contradicts_is_left_to_a_person_and_the_others_go_on() -> None:
    two = MinerFacts(round=facts(Phase.TRAIN), units=2, ready=frozenset({0, 1}), refused=frozenset({0}))
    assert decide_miner(two) == Commit(1)
    assert decide_miner(replace(two, committed=frozenset({1}))) == Wait()


# Spikes of fees, and data that is withheld


def test_a_miner_extends_a_phase_only_while_it_is_not_done() -> None:
    training = MinerFacts(round=facts(Phase.TRAIN, extendable=True), units=1)
    assert decide_miner(training) == Extend()
    assert decide_miner(replace(training, round=facts(Phase.TRAIN))) == Train(0)
    # What can be said now is said now.
    assert decide_miner(replace(training, ready=frozenset({0}))) == Commit(0)
    done = replace(training, ready=frozenset({0}), committed=frozenset({0}))
    assert decide_miner(done) == Wait()
    opening = replace(done, round=facts(Phase.OPEN, extendable=True), ready=frozenset())
    assert decide_miner(opening) == Extend()
    assert decide_miner(replace(opening, opened=frozenset({0}))) == Wait()


@pytest.mark.parametrize(
    ("phase", "unit"),
    [(Phase.SEAL, drawn(missing=(1,))), (Phase.OPEN, drawn(missing=(1,), is_sealed=True))],
)
def test_a_verifier_extends_a_phase_only_while_it_is_not_done(phase: Phase, unit: DrawnUnit) -> None:
    waiting = VerifierFacts(round=facts(phase, extendable=True), drawn=(unit,))
    assert decide_verifier(waiting) == Extend()
    assert decide_verifier(replace(waiting, round=facts(phase))) == Replay(b"u", 1, drawn=True)
    done = replace(unit, missing=(), is_sealed=True, is_revealed=True)
    assert decide_verifier(replace(waiting, drawn=(done,))) == Wait()


def test_a_juror_whose_word_is_awaited_extends_the_merge() -> None:
    merge = MergeFacts(wanted=True, juror=True)
    waiting = facts(Phase.MERGE, extendable=True, merge=merge)
    assert decide_verifier(VerifierFacts(round=waiting)) == Extend()
    spoken = replace(waiting, merge=replace(merge, acknowledged=True, computed=OURS, candidates=(OURS,)))
    assert decide_verifier(VerifierFacts(round=spoken)) == Wait()


def test_a_juror_reports_before_it_looks_further_and_after_its_own_seals() -> None:
    late = VerifierFacts(round=facts(Phase.SEAL), withheld=(b"w",), unprobed=(b"p",))
    assert decide_verifier(late) == ReportUnavailable((b"w",))
    assert decide_verifier(replace(late, drawn=(drawn(),))) == Seal((b"u",))
    assert decide_verifier(replace(late, withheld=())) == Probe(b"p")
    # Its own replays have a deadline, and money on them.
    assert decide_verifier(replace(late, withheld=(), drawn=(drawn(missing=(0,)),))) == Replay(b"u", 0, drawn=True)


def test_a_whole_unit_is_replayed_after_the_others() -> None:
    units = drawn(b"whole", missing=(0, 1, 2, 3)), drawn(b"short", missing=(2,))
    assert decide_verifier(VerifierFacts(round=facts(Phase.SEAL), drawn=units)) == Replay(b"short", 2, drawn=True)
