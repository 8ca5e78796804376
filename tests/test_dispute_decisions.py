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
    LATE_BLOCKS,
    PATIENCE_BLOCKS,
    Accuse,
    Announce,
    Close,
    Collect,
    DisputeFacts,
    Drop,
    MakeMove,
    TimeOut,
    decide,
)
from cupel.node.journal import Identity, Journal
from cupel.protocol.errors import MalformedInput
from cupel.protocol.proceedings import Stage
from cupel.protocol.types import Address, Height

ME, YOU = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
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
    assert decide(facts(attack, defence, convicted=[SUBJECT])) == [Close(1)]


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


def test_another_s_dispute_about_the_same_is_waited_for_while_there_is_time() -> None:
    for left, what in ((PATIENCE_BLOCKS, []), (PATIENCE_BLOCKS - 1, [Announce])):
        one = replace(MINE, until=Height(HEIGHT + 1 + left))
        assert [type(action) for action in decide(facts(accusations=[one], accused=[SUBJECT]))] == what
        assert decide(facts(accusations=[one], accused=[b"\7" * 32])) == [Announce(one)]


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
    assert decide(facts(accusations=[MINE], convicted=[SUBJECT])) == []


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
