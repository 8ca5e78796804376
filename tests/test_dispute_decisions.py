"""What a player does next, from what stands on chain: each rule on a valid dispute with one thing changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cupel.chain.court_contract import ANNOUNCEMENT_BLOCKS
from cupel.chain.court_events import CourtEvent, DisputeRecord
from cupel.node.disputes.accusations import KIND, Accusation, Accusations
from cupel.node.disputes.deciding import (
    CROWD,
    LATE_BLOCKS,
    PATIENCE,
    TURN_BLOCKS,
    Accuse,
    Announce,
    Close,
    Collect,
    DisputeFacts,
    Drop,
    MakeMove,
    TimeOut,
    decide,
    find_stale,
)
from cupel.node.disputes.holding import Recent
from cupel.node.journal import Identity, Journal
from cupel.protocol.errors import MalformedInput
from cupel.protocol.proceedings import Stage
from cupel.protocol.types import Address, Height

ME, YOU, THIRD = (Address("0x" + byte * 20) for byte in ("11", "22", "33"))
SUBJECT = b"\5" * 32
HEIGHT = Height(100)
MINE = Accusation(
    subject=SUBJECT, segment=1, salt=b"\6" * 32, since=Height(0), until=Height(120), reason="another end state"
)


def event(name: str, number: int, **arguments: Any) -> CourtEvent:
    return CourtEvent(
        name=name,
        arguments={"dispute": number, **arguments},
        block_number=Height(90),
        block_hash=b"",
        position=0,
        transaction_hash=bytes([number]) * 32,
    )


def dispute(number: int, mover: Address, until: int, *, accused: Address = ME, segment: int = 1) -> DisputeRecord:
    begun = event(
        "Accused", number, run=YOU, accused=accused, challenger=YOU if accused == ME else ME, subject=SUBJECT,
        segment=segment, bond=1,
    )  # fmt: skip
    return DisputeRecord(events=[begun, event("Turn", number, stage=Stage.SEGMENT, mover=mover, until=until)])


def ended(record: DisputeRecord, name: str = "Dismissed") -> DisputeRecord:
    return DisputeRecord(events=[*record.events, event(name, record.number, reason=1)])


def facts(*records: DisputeRecord, **changes: Any) -> DisputeFacts:
    return replace(
        DisputeFacts(me=ME, height=HEIGHT, disputes={record.number: record for record in records}), **changes
    )


def test_a_defence_comes_before_an_attack_and_the_shorter_clock_first() -> None:
    records = [
        dispute(1, ME, 110, accused=YOU),
        dispute(2, ME, 150),
        dispute(3, ME, 120),
        dispute(4, YOU, 130),
    ]
    assert decide(facts(*records)) == [MakeMove(3, 1), MakeMove(2, 1), MakeMove(1, 1)]


@pytest.mark.parametrize("until", [100, 101])
def test_a_move_must_be_in_a_block_in_which_it_counts(until: int) -> None:
    assert decide(facts(dispute(1, ME, until))) == ([MakeMove(1, 1)] if until > HEIGHT else [])


@pytest.mark.parametrize("until", [100, 101])
def test_the_other_side_is_timed_out_as_soon_as_it_may_be(until: int) -> None:
    assert decide(facts(dispute(1, YOU, until))) == ([] if until > HEIGHT else [TimeOut(1, 1)])


def test_nothing_is_done_in_a_dispute_that_has_ended() -> None:
    assert decide(facts(ended(dispute(1, ME, 110)))) == []


def test_what_another_dispute_convicted_is_closed_by_its_challenger() -> None:
    attack, defence = dispute(1, ME, 110, accused=YOU), dispute(2, ME, 110)
    assert decide(facts(attack, defence, convicted={SUBJECT: HEIGHT})) == [Close(1)]


def test_what_failed_a_moment_ago_waits() -> None:
    assert decide(facts(dispute(1, ME, 110), asleep=[MakeMove(1, 1)])) == []
    assert decide(facts(dispute(1, ME, 110), asleep=[MakeMove(1, 0)])) == [MakeMove(1, 1)]


def test_money_is_collected_last() -> None:
    assert decide(facts(dispute(1, ME, 110), has_credit=True)) == [MakeMove(1, 1), Collect()]


def test_an_accusation_is_announced_then_made() -> None:
    assert decide(facts(accusations=[MINE])) == [Announce(MINE)]
    assert decide(facts(accusations=[MINE], announced={MINE.key: HEIGHT})) == [Accuse(MINE)]


def test_an_accusation_waits_for_its_turn() -> None:
    for since in (HEIGHT + 1, HEIGHT + 2):
        waiting = replace(MINE, since=Height(since))
        assert decide(facts(accusations=[waiting])) == ([Announce(waiting)] if since <= HEIGHT + 1 else [])


def of_others(number: int, mover: Address, until: int, **changes: Any) -> DisputeRecord:
    """A dispute in which THIRD accuses YOU."""
    begun, turn = dispute(number, mover, until, accused=YOU).events
    begun = replace(begun, arguments={**begun.arguments, "challenger": THIRD, **changes})
    return DisputeRecord(events=[begun, turn])


LATER = replace(MINE, since=HEIGHT, until=Height(HEIGHT + 20 * PATIENCE))
"""To be made at once, were there nobody else's dispute."""


def test_another_s_dispute_about_the_same_is_waited_for_during_a_quarter_of_the_time_there_is() -> None:
    others = {9: of_others(9, THIRD, 10**6)}
    for blocks, what in ((0, []), (18, []), (19, [Announce(LATER)])):
        height = Height(HEIGHT + blocks)
        assert decide(facts(accusations=[LATER], others=others, height=height)) == what
        assert decide(facts(accusations=[LATER], height=height)) == [Announce(LATER)]
        assert decide(facts(accusations=[LATER], others=others, height=height, is_patient=False)) == [Announce(LATER)]


@pytest.mark.parametrize(
    "other",
    [
        ended(of_others(9, THIRD, 10**6)),
        ended(of_others(9, THIRD, 10**6), "Closed"),
        of_others(9, THIRD, HEIGHT),
        of_others(9, THIRD, 10**6, segment=0),
        of_others(9, THIRD, 10**6, subject=b"\7" * 32),
    ],
    ids=["dismissed", "closed", "its challenger is silent", "another segment", "another subject"],
)
def test_a_dispute_that_will_not_convict_the_same_is_not_waited_for(other: DisputeRecord) -> None:
    assert decide(facts(accusations=[LATER], others={9: other})) == [Announce(LATER)]


def test_a_dispute_whose_accused_is_silent_convicts_and_is_waited_for() -> None:
    assert decide(facts(accusations=[LATER], others={9: of_others(9, YOU, HEIGHT)})) == []


LONGEST_WAIT = TURN_BLOCKS * CROWD


def test_a_dispute_between_the_silent_is_ended_by_others_one_after_the_other() -> None:
    others = {9: of_others(9, YOU, HEIGHT)}
    turns = set()
    for byte in range(20):
        me = Address("0x" + f"{byte:02x}" * 20)
        blocks = [
            b for b in range(LONGEST_WAIT + 2)
            if find_stale(facts(me=me, others=others, height=Height(HEIGHT - 1 + b))) == TimeOut(9, 1)
        ]  # fmt: skip
        assert TURN_BLOCKS < blocks[0] <= LONGEST_WAIT + 1, "neither before its parties, nor never"
        assert blocks == list(range(blocks[0], LONGEST_WAIT + 2))
        turns.add(blocks[0])
    assert len(turns) > CROWD // 2


def test_of_disputes_to_be_ended_the_one_that_is_due_for_longest_comes_first_and_only_one() -> None:
    late = Height(HEIGHT + 100)
    others = {8: of_others(8, YOU, HEIGHT), 9: of_others(9, THIRD, HEIGHT - 1), 7: of_others(7, YOU, late)}
    assert find_stale(facts(others=others, height=late)) == TimeOut(9, 1)
    assert find_stale(facts(others=others, height=late, asleep=[TimeOut(9, 1)])) == TimeOut(8, 1)
    assert find_stale(facts(others={7: others[7]}, height=late)) is None


def test_a_dispute_that_another_one_decided_is_closed_where_its_challenger_does_not() -> None:
    convicted, late = {SUBJECT: HEIGHT}, Height(HEIGHT + LONGEST_WAIT)
    other = of_others(9, YOU, HEIGHT - 5)
    assert find_stale(facts(others={9: other}, convicted=convicted, height=late)) == Close(9)
    assert find_stale(facts(others={9: other}, convicted={SUBJECT: late}, height=late)) is None
    assert find_stale(facts(others={9: ended(other)}, convicted=convicted, height=late)) is None
    # One of this node's own, too: its challenger is gone, and has nothing left to win.
    assert find_stale(facts(dispute(1, YOU, 10**6), convicted=convicted, height=late)) == Close(1)


def test_what_a_party_ends_itself_is_not_ended_for_it() -> None:
    own = [dispute(1, YOU, HEIGHT - 50), dispute(2, YOU, HEIGHT - 50, accused=YOU)]
    assert find_stale(facts(*own, height=Height(HEIGHT + LONGEST_WAIT))) is None


def test_an_announcement_that_has_expired_is_made_again() -> None:
    for age, action in ((ANNOUNCEMENT_BLOCKS - 1, Accuse(MINE)), (ANNOUNCEMENT_BLOCKS, Announce(MINE))):
        announced = {MINE.key: Height(1000 - age)}
        late = replace(MINE, until=Height(2000))
        assert decide(facts(height=Height(1000), accusations=[late], announced=announced)) == [type(action)(late)]


def test_nothing_is_accused_twice() -> None:
    for record in (dispute(1, YOU, 110, accused=YOU), ended(dispute(1, YOU, 110, accused=YOU))):
        assert decide(facts(record, accusations=[MINE])) == []
    other = ended(dispute(1, YOU, 110, accused=YOU, segment=0))
    assert decide(facts(other, accusations=[MINE])) == [Announce(MINE)]


def test_an_accusation_is_kept_until_no_reorg_changes_that_it_is_settled_or_late() -> None:
    for height, what in ((MINE.until, []), (MINE.until + LATE_BLOCKS, [Drop(MINE, "too late")])):
        assert decide(facts(accusations=[MINE], height=Height(height))) == what
    record = ended(dispute(1, YOU, 110, accused=YOU))
    for height, what in ((90 + LATE_BLOCKS, []), (91 + LATE_BLOCKS, [Drop(MINE, "settled")])):
        assert decide(facts(record, accusations=[MINE], height=Height(height))) == what
    assert decide(facts(accusations=[MINE], convicted={SUBJECT: HEIGHT})) == []


def test_an_accusation_is_on_disk_with_its_salt_before_anything_is_said(tmp_path: Path) -> None:
    identity = Identity(chain_id=1, contract=YOU, address=ME)
    with Journal(tmp_path, identity) as journal:
        assert Accusations(journal).add(SUBJECT, 1, since=Height(1), until=Height(5), reason="why")
    with Journal(tmp_path, identity) as journal:
        [one] = Accusations(journal)
        assert not Accusations(journal).add(SUBJECT, 1, since=Height(2), until=Height(7), reason="another")
        assert list(Accusations(journal)) == [replace(one, until=Height(7))]
        assert len(one.salt) == 32
        assert Accusations(journal).add(SUBJECT, 0, since=Height(1), until=Height(5), reason="why")
        Accusations(journal).drop(one)
        assert [kept.segment for kept in Accusations(journal)] == [0]
        journal.put(KIND, SUBJECT + b"\0", 0, {"salt": "zz"})
        with pytest.raises(MalformedInput, match="damaged"):
            list(Accusations(journal))


def test_what_disputes_in_turn_take_is_computed_once_for_a_few_of_them() -> None:
    made: list[int] = []
    recent = Recent[int, int](3)

    def ask(key: int) -> int:
        return recent.get(key, lambda: made.append(key) or -key)

    assert [ask(key) for key in (1, 2, 3) * 4] == [-1, -2, -3] * 4
    assert made == [1, 2, 3]
    # A fourth takes the place of the one that was not asked for since.
    ask(1), ask(4), ask(1), ask(3), ask(4)
    assert made == [1, 2, 3, 4]
    ask(2)
    assert made == [1, 2, 3, 4, 2]
