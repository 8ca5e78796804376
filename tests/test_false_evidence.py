"""A loss or gradient norm that is false is read where it was opened, and what is accused is that segment."""

from __future__ import annotations

from dataclasses import replace

import pytest
from court_world import STEPS, Unit, challenge_of

from cupel.chain.abi import load_abi
from cupel.chain.mapping import make_cid, write_value
from cupel.chain.openings import MOST_CALLS, find_leaves
from cupel.chain.run_values import Answer as PostedAnswer
from cupel.chain.run_values import Commitment, Opened
from cupel.protocol.proceedings import Position, Stage
from cupel.protocol.training.unit import Answer
from cupel.protocol.types import Address, Root, Salt, SegmentIndex
from cupel.verifier.replay import choose_segments

RUN = Address("0x" + "11" * 20)
REPLAYED = {
    number: Answer(end_root=Root(bytes([number]) * 32), loss=bytes([number]) * 4, gradient_norm=b"norm")
    for number in range(3)
}
OPENED = {
    number: PostedAnswer(end_root=answer.end_root, loss=answer.loss, gradient_norm=answer.gradient_norm)
    for number, answer in REPLAYED.items()
}
FALSE = replace(OPENED[1], loss=b"less")


def make_opening(*segments: int) -> bytes:
    """Calldata that opens these segments."""
    leaves = [Opened(segment=SegmentIndex(s), answer=OPENED[s], salt=Salt(bytes([9 + s]) * 32)) for s in segments]
    commitment = Commitment(root=Root(b"r" * 32), contribution=Root(b"c" * 32), cid=make_cid(0x55, b"d" * 32))
    arguments = (write_value(commitment, Commitment), [write_value(leaf, Opened) for leaf in leaves], [b"p" * 32])
    return load_abi("Run").bind(RUN, "open", 0, 0, *arguments).data


@pytest.mark.parametrize("before", [b"", b"\1" * 7, b"call" + bytes(60)])
def test_an_opening_is_read_whoever_carries_it(before: bytes) -> None:
    """As through a wallet that is a contract, with other calls around it, and with bytes that only look like one."""
    look_alike = load_abi("Run").functions["open"].selector + b"\xff" * 8
    found = list(find_leaves(before + make_opening(0, 2) + look_alike + make_opening(1)))
    assert [(leaf.segment, leaf.answer) for leaf in found] == [(s, OPENED[s]) for s in (0, 2, 1)]
    assert found[1].salt == bytes([11]) * 32
    assert not list(find_leaves(before + look_alike))


def test_who_hides_an_opening_behind_many_that_are_none_is_not_searched_for_long() -> None:
    """Then nothing was read, and every segment that was drawn is accused."""
    decoy = load_abi("Run").functions["open"].selector
    assert list(find_leaves(decoy * (MOST_CALLS - 1) + make_opening(0)))
    assert not list(find_leaves(decoy * MOST_CALLS + make_opening(0)))


def test_the_segment_that_was_opened_otherwise_is_accused_and_no_other() -> None:
    assert choose_segments(REPLAYED, OPENED, [0, 1, 2]) == []
    assert choose_segments(REPLAYED, {**OPENED, 1: FALSE}, [0, 1, 2]) == [1]
    assert choose_segments(REPLAYED, {**OPENED, 1: replace(OPENED[1], gradient_norm=b"more")}, ()) == [1]
    assert choose_segments({0: REPLAYED[0]}, {**OPENED, 1: FALSE}, ()) == []


def test_where_no_opening_tells_every_segment_it_may_be_is_accused() -> None:
    unread = {0: OPENED[0]}
    assert choose_segments(REPLAYED, unread, [0, 1, 2]) == [1, 2]
    assert choose_segments(REPLAYED, unread, ()) == []


def test_a_segment_that_is_right_in_everything_is_not_gone_on_with() -> None:
    roots = [Unit().step_root(1 + number) for number in range(STEPS)]
    loss, norm, _ = Unit().metrics(0)
    standing = Position(
        stage=Stage.STEP, end_root=roots[-1], inner_roots=tuple(roots[:-1]), loss=loss, gradient_norm=norm
    )
    own = replace(challenge_of(0), evidence=(loss, norm))
    assert own.move(standing) is None
    for wrong in (
        replace(standing, loss=bytes(4)),
        replace(standing, gradient_norm=bytes(4)),
        replace(standing, end_root=bytes(32)),
    ):
        move = own.move(wrong)
        assert move is not None
        assert (move.function, move.arguments[0]) == ("chooseStep", STEPS - 1)
