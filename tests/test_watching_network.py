"""Who watches every unit needs nothing that its miner gives to nobody: it goes on from its own states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chain_process import ETH
from network_world import World, key, open_world

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import Reason
from cupel.chain.run_events import Convicted
from cupel.chain.run_values import UnitView
from cupel.protocol.types import Wei

CHEATER, BENT, ROUNDS = "cheater", 1, 2
HERE = Path(__file__).resolve().parent
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "benchmarks"), str(HERE)])}
CLOCKS = Clocks(clock_blocks=100, grace_blocks=40, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "segments": 4,
    "segments_per_verifier": 1,
    "segment_steps": 2,
    "window_blocks": 400,
}
pytestmark = pytest.mark.timeout(300)


def find_undrawn(world: World, rounds: int) -> list[UnitView]:
    """Convicted units of so many rounds of which the bent segment was not drawn."""
    found = []
    for one in world.contract.get_events(Convicted, first_block=0):
        for unit in world.contract.get_units(one.round) if one.round < rounds else ():
            drawn = world.contract.assigned_segments(unit.round, unit.unit_id, unit.verifiers[0])
            if unit.unit_id == one.subject and BENT not in drawn:
                found.append(unit)
    return found


def test_a_bent_segment_that_nobody_was_drawn_for_is_convicted_though_its_start_is_withheld(tmp_path: Path) -> None:
    """By a watcher that begins when the rounds are over."""
    with open_world(tmp_path, [CHEATER, "watcher"], block_time_s=0.2, court=CLOCKS, **SEATS) as world:  # type: ignore[arg-type]
        watcher = world.start_node("verifier", "watcher")
        deposit = ("--deposit", str(40 * ETH))
        world.start_node("adversary.cheaters.undrawn_segment", CHEATER, *deposit, environment=ENVIRONMENT)
        world.wait_for("rounds that nobody watched", lambda: world.contract.current().round >= ROUNDS, timeout_s=120)
        watcher.kill()
        watcher.arguments = [*watcher.arguments, "--watch", "all"]
        watcher.start()
        unit, *_ = world.wait_for("a conviction", lambda: find_undrawn(world, ROUNDS), timeout_s=150)
        court = CourtContract(world.client, world.contract.court())
        numbers = [event.dispute for event in court.list_disputes(world.contract.address)]
        records = [court.get_dispute(number) for number in numbers if number is not None]
    assert unit.miner == key(CHEATER).address
    assert unit.has_agreed(key("watcher").address), "what it was drawn for was right"
    [record] = [record for record in records if record.subject == unit.unit_id]
    assert record.segment == BENT
    assert record.challenger == key("watcher").address
    assert record.ending is not None
    assert record.ending.reason == Reason.ELEMENT
