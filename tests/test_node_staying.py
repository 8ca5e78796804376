"""Until when a node that was asked to end stays for a court: silence loses, be one right or wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_chain_bindings import PARAMETERS

from cupel.chain.run_values import Claimable, MemberView, Role
from cupel.node.ending import MARGIN_BLOCKS, EndingFacts, Stay, compute_facts, find_reason, list_window_ends
from cupel.protocol.types import Address, Height, RoundIndex, Wei

RUN = replace(PARAMETERS, window_blocks=100, maturity_blocks=500)
ENDED = Claimable(round=RoundIndex(3), tokens=0, bonds=Wei(1), held=Wei(0), mature_at=Height(2500), claimable_now=False)
PLAYED = replace(ENDED, round=RoundIndex(4), mature_at=Height(0))
LAST = 2100
"""The block in which the ended round can be accused last."""


def find(
    *,
    leaving: bool = True,
    disputes: int = 0,
    to_accuse: bool = False,
    stakes: tuple[Claimable, ...] = (),
    height: int = 0,
) -> Stay | None:
    return find_reason(
        RUN, is_leaving=leaving, open_disputes=disputes, is_to_accuse=to_accuse, stakes=stakes, height=height
    )


@pytest.mark.parametrize("leaving", [True, False])
def test_an_open_dispute_is_seen_through_whatever_the_seat(leaving: bool) -> None:
    assert find(leaving=leaving, disputes=1) is not None
    assert find(leaving=leaving) is None


def test_who_leaves_stays_until_nothing_of_it_can_be_accused() -> None:
    assert list_window_ends(RUN, (ENDED, PLAYED)) == [LAST, None]
    over = LAST + MARGIN_BLOCKS
    for height in (LAST - 50, LAST, over - 1):
        stay = find(stakes=(ENDED,), height=height)
        assert stay is not None
        assert stay.until == over
    assert find(stakes=(ENDED,), height=over) is None
    assert find(stakes=(ENDED, PLAYED), height=over) is not None
    assert find(stakes=(replace(ENDED, mature_at=Height(2510)), ENDED), height=over) is not None


def test_who_keeps_the_seat_ends_though_it_could_be_accused() -> None:
    """It is asked to be back soon, and what it means to accuse is on disk."""
    assert find(leaving=False, stakes=(ENDED, PLAYED), height=LAST - 50, to_accuse=True) is None


def test_who_leaves_accuses_first() -> None:
    assert find(to_accuse=True) is not None


SEATED = MemberView(
    account=Address("0x" + "11" * 20),
    role=Role.MINER,
    leaving=False,
    units=1,
    joined_round=RoundIndex(0),
    deposit=Wei(9),
    locked=Wei(1),
    exit_at=Height(0),
    endpoint="http://127.0.0.1:1",
)


def compute(member: MemberView, *, leaving: bool, staying: bool, current: int = 5) -> EndingFacts:
    return compute_facts(
        is_leaving=leaving, is_staying=staying, asked_in=RoundIndex(4), current=RoundIndex(current), member=member
    )


def test_a_seat_that_is_kept_is_served_on_while_its_node_has_to_stay() -> None:
    assert compute(SEATED, leaving=False, staying=True) == EndingFacts()
    assert compute(SEATED, leaving=False, staying=False) == EndingFacts(finishing=True, round_over=True)
    assert compute(SEATED, leaving=False, staying=False, current=4) == EndingFacts(finishing=True)


def test_a_seat_that_is_left_is_given_up_whatever_its_node_stays_for() -> None:
    for staying in (True, False):
        given_up = EndingFacts(finishing=True, round_over=True, answerable=staying)
        assert compute(SEATED, leaving=True, staying=staying) == replace(given_up, retire=True)
        assert compute(replace(SEATED, leaving=True), leaving=True, staying=staying) == given_up
        assert compute(replace(SEATED, role=Role.NONE), leaving=False, staying=staying) == given_up
