"""A miner whose right work is accused as it leaves: it stays, is killed, comes back, and wins, over any re-org."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_process import ETH
from network_world import World, key, open_world
from node_world.chains import choose_chain
from node_world.reorgs import undo

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import DisputeRecord, Reason
from cupel.chain.run_events import Burned
from cupel.chain.run_values import Phase, Status
from cupel.protocol.types import Wei

HERE, PEST = Path(__file__).resolve().parent, "pest"
CLOCKS = Clocks(clock_blocks=150, grace_blocks=40, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "min_verifiers": 2,
    "segments": 2,
    "segments_per_verifier": 2,
    "segment_steps": 2,
    "jury_target": 2,
    "window_blocks": 60,
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Until the miner has ended by itself."""
    folder, kind = tmp_path_factory.mktemp("accused"), choose_chain()
    settings = {"chain_arguments": ["--allow-reorg"] if kind == "embedded" else (), **SEATS}
    with open_world(folder, ["miner", "verifier", PEST], block_time_s=0.2, court=CLOCKS, **settings) as opened:  # type: ignore[arg-type]
        miner = opened.start_node("miner", "miner", "--on-stop", "leave")
        opened.start_node("verifier", "verifier")
        cheater = opened.add("adversary.cheaters.false_accusation", PEST)
        cheater.environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "benchmarks"), str(HERE)])
        cheater.start()
        opened.wait_for("openings", lambda: opened.contract.current().phase >= Phase.MERGE, timeout_s=120)
        miner.ask_to_end()
        opened.wait_for("the middle of a dispute", lambda: [r for r in list_disputes(opened) if r.moves >= 3])
        opened.kill("miner")
        for depth in (1, 2, 3):
            undo_and_wait(opened, kind, depth)
        opened.restart("miner")
        opened.wait_for("its return", lambda: len(miner.events("ready")) > 1)
        miner.ask_to_end()
        for depth in (4, 5):
            undo_and_wait(opened, kind, depth)
        assert miner.wait() == 0
        yield opened


def undo_and_wait(world: World, kind: str, depth: int) -> None:
    """Undo so many blocks, what was in them waiting again or, once, lost, and let as many come."""
    undo(world, kind, depth, keep_transactions=depth != 3)
    height = world.client.head().number
    world.wait_for("blocks", lambda: world.client.head().number >= height + depth)


def list_disputes(world: World) -> list[DisputeRecord]:
    court = CourtContract(world.client, world.contract.court())
    numbers = [event.dispute for event in court.list_disputes(world.contract.address)]
    return [court.get_dispute(number) for number in numbers if number is not None]


def test_right_work_wins_though_its_miner_was_leaving_was_killed_and_blocks_were_undone(world: World) -> None:
    [record] = list_disputes(world)
    assert record.accused == key("miner").address
    assert record.challenger == key(PEST).address
    assert record.ending is not None
    assert (record.ending.convicted, record.ending.reason) == (False, Reason.ELEMENT)
    assert world.contract.get_units(0)[0].status == Status.ATTESTED
    assert world.contract.get_events(Burned, first_block=0) == []


def test_who_leaves_stays_until_nothing_of_it_can_be_accused(world: World) -> None:
    miner, parameters = world.node("miner"), world.contract.parameters()
    assert miner.events("in a dispute: staying until it is over; asked again, it ends at once")
    assert not miner.events("ended amid disputes: silence loses them")
    said = miner.events("what was done can be accused: staying until it can no more; asked again, it ends at once")
    window_end = world.contract.get_round(0).mature_at - parameters.maturity_blocks + parameters.window_blocks
    assert said[-1]["until_block"] > window_end
    assert world.client.head().number >= said[-1]["until_block"]
    assert miner.events("nothing is left to do: ending")
