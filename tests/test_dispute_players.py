"""Disputes play themselves to their end, whatever becomes of the processes that play them, or of the chain's blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from court_chain import CHALLENGER, CLOCKS, CourtChain, open_court
from court_world import UNIT, Lie, Unit
from dispute_players import LIAR, DocketSides, Player, PlayerServer, has_ended

from cupel.chain.client import ChainClient
from cupel.chain.court_events import DisputeRecord, Ending, Reason
from cupel.node.disputes.counts import DisputeCounts
from cupel.node.disputes.deciding import TURN_BLOCKS
from cupel.node.disputes.player import DisputePlayer
from cupel.node.points import STEPS

pytestmark = pytest.mark.timeout(180)
DEFENCE = ("openSegment", "postTrace", "openValue", "openLeaf")
ATTACK = ("accusation", "announce", "accuse", "chooseStep", "chooseNode", "chooseNode", "judge", "collect")
SHORT = replace(CLOCKS, clock_blocks=150, grace_blocks=60)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CourtChain]:
    with open_court(tmp_path_factory.mktemp("court")) as opened:
        yield opened


@pytest.fixture
def world(chain: CourtChain) -> CourtChain:
    """An empty docket."""
    return chain.fresh()


def where(world: CourtChain) -> dict[str, Any]:
    return {"url": world.chain.url, "court": world.court, "docket": world.docket, "block": world.block}


def find_disputes(world: CourtChain) -> list[DisputeRecord]:
    """All there are on the docket."""
    client = ChainClient(world.chain.url, poll_seconds=0.02)
    court = world.bind_court(client)
    numbers = [event.dispute for event in court.list_disputes(world.docket) if event.dispute is not None]
    found = [court.get_dispute(number) for number in numbers]
    client.close()
    return found


def end_of(record: DisputeRecord) -> Ending:
    assert record.ending is not None, record.events[-1]
    return record.ending


def list_moves(record: DisputeRecord) -> list[str]:
    return [event.name for event in record.events if event.name != "Turn"]


PLAYED = [
    "Accused", "SegmentOpened", "StepChosen", "TracePosted", "NodeChosen", "ValueOpened", "NodeChosen", "LeafOpened",
    "Convicted",
]  # fmt: skip


# Killed


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, PlayerServer]]:
    with PlayerServer() as accused, PlayerServer() as challenger:
        yield {"accused": accused, "challenger": challenger}


@pytest.mark.parametrize("offset", [0, 2])
def test_both_sides_are_killed_at_every_move_and_the_liar_is_convicted(
    world: CourtChain, servers: dict[str, PlayerServer], tmp_path: Path, offset: int
) -> None:
    """In turn once it is written down, signed, sent, in a block; each process that follows goes on from the chain."""

    def play(side: str, calls: tuple[str, ...]) -> list[int]:
        kills = [
            "accusation/stated" if call == "accusation" else f"{call}/{STEPS[(at + offset) % len(STEPS)]}"
            for at, call in enumerate(calls)
        ]
        common = {"side": side, "folder": str(tmp_path), **where(world)}
        return [servers[side].play(**common, kill_at=kill) for kill in (*kills, None)]

    world.post_unit(LIAR)
    with ThreadPoolExecutor() as pool:
        defence, attack = pool.submit(play, "accused", DEFENCE), pool.submit(play, "challenger", ATTACK)
        assert defence.result() == [-9] * len(DEFENCE) + [0]
        assert attack.result() == [-9] * len(ATTACK) + [0]
    [record] = find_disputes(world)
    assert list_moves(record) == PLAYED
    client = world.connect(CHALLENGER)
    assert world.bind_court(client).credit(CHALLENGER.address) == 0
    client.close()


# Undone


def test_moves_that_a_reorg_undoes_are_made_again(world: CourtChain, tmp_path: Path) -> None:
    """Once after each move, one to five blocks deep, their transactions kept or lost in turn."""
    world.post_unit(LIAR)
    accused, challenger = (Player(side, tmp_path, **where(world)) for side in ("accused", "challenger"))
    challenger.chain.wait_for_block(challenger.chain.head().number + 6)  # what is posted stays
    challenger.player.accuse(UNIT, 0, until=10**9, reason="another end state")
    depths, undone = iter([1, 2, 3, 4, 5, 2, 3, 4]), list[int]()

    def undo(player: DisputePlayer) -> bool:
        """After each new move this side sees."""
        moves = max((record.moves for record in player.disputes.values()), default=0)
        depth = next(depths, None) if moves > len(undone) else None
        if depth is not None:
            undone.append(depth)
            world.chain.reorg(depth, keep_transactions=len(undone) % 2 == 0)
        return has_ended(player)

    opponent = threading.Thread(target=lambda: accused.play_until(has_ended, timeout_s=100))
    opponent.start()
    challenger.play_until(undo, timeout_s=100)
    # What was seen last may be undone as well.
    challenger.chain.wait_for_block(challenger.chain.head().number + 8)
    challenger.play_until(has_ended)
    opponent.join()
    assert len(undone) >= 7
    assert accused.player.counts.lost == challenger.player.counts.won == 1
    accused.close()
    challenger.close()
    [record] = find_disputes(world)
    assert list_moves(record) == PLAYED
    assert end_of(record).reason == Reason.ELEMENT


# Silent, poor, mistaken


@pytest.fixture
def hasty(chain: CourtChain) -> CourtChain:
    """An empty docket before a court where sides have 150 blocks: some seven seconds."""
    return chain.fresh(SHORT)


def settle(*players: Player) -> None:
    """All play, in turn, until their disputes have ended."""

    def is_over(_: DisputePlayer) -> bool:
        for one in players[1:]:
            one.player.play()
        return all(has_ended(one.player) for one in players)

    players[0].play_until(is_over)


def test_who_cannot_answer_is_timed_out_and_every_other_dispute_is_closed(hasty: CourtChain, tmp_path: Path) -> None:
    unit = Unit(Lie(step=1, end_root=b"\1" * 32))
    hasty.post_unit(unit)
    # Neither waits for the other's.
    players = [Player(side, tmp_path, **where(hasty), is_patient=False) for side in ("challenger", "other")]
    before = [one.chain.get_balance(one.chain.address) for one in players]
    for one in players:
        one.player.accuse(UNIT, 0, until=10**9, reason="another end state")
        assert one.player.means_to_accuse(UNIT)
    liar = Player("accused", tmp_path, make_sides=partial(DocketSides, unit=unit), **where(hasty))
    settle(*players, liar)
    records = find_disputes(hasty)
    assert sorted(record.events[-1].name for record in records) == ["Closed", "Convicted"]
    assert [end_of(r).reason for r in records if end_of(r).convicted] == [Reason.SILENCE]
    for one, had in zip(players, before, strict=True):
        one.play_until(lambda player: not player.play())
        assert one.chain.get_balance(one.chain.address) > had - int(CLOCKS.minimum_bond_wei) // 2, "the bond is back"
        one.close()
    liar.close()


def test_a_challenger_who_finds_nothing_wrong_loses_to_a_player(hasty: CourtChain, tmp_path: Path) -> None:
    hasty.post_unit(Unit())
    challenger, honest = (
        Player("challenger", tmp_path, **where(hasty)),
        Player("accused", tmp_path, make_sides=partial(DocketSides, unit=Unit()), **where(hasty)),
    )
    challenger.player.accuse(UNIT, 0, until=10**9, reason="a mistake")
    settle(challenger, honest)
    assert (honest.player.counts.won, challenger.player.counts.lost) == (1, 1)
    [record] = find_disputes(hasty)
    assert (end_of(record).convicted, end_of(record).reason) == (False, Reason.EVIDENCE)
    for one in (challenger, honest):
        one.play_until(lambda player: not player.play())
        one.close()
    assert find_disputes(hasty) == [record], "it is not accused again"


def test_bonds_beyond_the_budget_are_not_put_down(world: CourtChain, tmp_path: Path) -> None:
    world.post_unit(LIAR)
    poor = Player("challenger", tmp_path, budget_wei=int(CLOCKS.minimum_bond_wei) - 1, **where(world))
    poor.player.accuse(UNIT, 0, until=10**9, reason="another end state")
    poor.play_until(lambda player: bool(player._asleep))  # it has tried
    assert find_disputes(world) == []
    poor.close()


# Of others


def test_a_dispute_between_two_that_are_gone_is_ended_by_whoever_is_there(chain: CourtChain, tmp_path: Path) -> None:
    hasty = chain.fresh(replace(CLOCKS, clock_blocks=30, grace_blocks=10))
    hasty.post_unit(LIAR)
    bystander = Player("other", tmp_path, **where(hasty))
    bystander.player.play()
    gone = Player("challenger", tmp_path, **where(hasty))
    gone.player.accuse(UNIT, 0, until=10**9, reason="another end state")
    gone.play_until(lambda player: bool(player.disputes))
    gone.close()

    bystander.play_until(lambda player: player.end_stale())
    [record] = find_disputes(hasty)
    assert (end_of(record).convicted, end_of(record).reason) == (True, Reason.SILENCE)
    last = next(event for event in reversed(record.events) if event.name == "Turn")
    assert end_of(record).block_number > last.arguments["until"] + TURN_BLOCKS, "its parties had time to"
    bystander.player.play()
    assert not bystander.player.end_stale()
    assert bystander.player.counts == DisputeCounts(), "it is none of its own"
    bystander.close()
