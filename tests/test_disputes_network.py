"""Whoever posted a lie in a run is convicted by real nodes, and nobody honest loses anything by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_process import ETH
from network_world import World, key, open_world

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import DisputeRecord, Reason
from cupel.chain.openings import read_opened
from cupel.chain.run_events import Burned, Convicted, Dissent
from cupel.chain.run_values import Status, UnitView
from cupel.node.descriptions import UnitDescription
from cupel.protocol.types import Wei

LIAR, FLATTERER, VERIFIERS = "liar", "flatterer", ("verifier-1", "verifier-2")
HERE = Path(__file__).resolve().parent
CHEATER = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "benchmarks"), str(HERE)])}
# Who committed to a false loss cannot answer in the end: until its time is over everybody waits.
CLOCKS = Clocks(clock_blocks=50, grace_blocks=40, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "min_miners": 3,
    "min_verifiers": 2,
    "verifiers_per_unit": 2,
    "segments": 2,
    "segments_per_verifier": 2,
    "segment_steps": 3,
    "jury_target": 2,
    "window_blocks": 100,
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Until both liars of the first round are convicted: one of a state, one of a loss."""
    folder = tmp_path_factory.mktemp("disputes")
    parties = ["miner", LIAR, FLATTERER, *VERIFIERS]
    with open_world(folder, parties, block_time_s=0.2, court=CLOCKS, **SEATS) as opened:  # type: ignore[arg-type]
        opened.start_node("miner", "miner")
        opened.start_node("miner", LIAR, "--fault", "perturb")
        opened.start_node("adversary.cheaters.false_loss", FLATTERER, environment=CHEATER)
        for name in VERIFIERS:
            opened.start_node("verifier", name)
        opened.wait_for("convictions", lambda: len(find_convictions(opened)) >= 2, timeout_s=200)
        yield opened


def find_convictions(world: World) -> list[Convicted]:
    return [one for one in world.contract.get_events(Convicted, first_block=0) if one.round == 0]


def find_disputes(world: World, name: str) -> list[DisputeRecord]:
    """About the first unit of a miner."""
    court = CourtContract(world.client, world.contract.court())
    numbers = [event.dispute for event in court.list_disputes(world.contract.address)]
    listed = [court.get_dispute(number) for number in numbers if number is not None]
    return [record for record in listed if record.subject == find_unit(world, name).unit_id]


def find_unit(world: World, name: str) -> UnitView:
    [unit] = [unit for unit in world.contract.get_units(0) if unit.miner == key(name).address]
    return unit


def test_the_liar_s_unit_is_convicted_by_one_element(world: World) -> None:
    disputes = find_disputes(world, LIAR)
    assert {record.accused for record in disputes} == {key(LIAR).address}
    assert {record.challenger for record in disputes} <= {key(name).address for name in VERIFIERS}
    # On a busy machine both may have begun: one convicts, and the other's bond comes back.
    [record] = [one for one in disputes if one.ending is not None and one.ending.convicted]
    assert record.ending is not None
    assert record.ending.reason == Reason.ELEMENT
    assert record.ending.prize_wei == world.contract.parameters().unit_bond // 2
    assert find_unit(world, LIAR).status == Status.CONVICTED


def test_a_loss_that_alone_is_false_convicts_and_costs_who_dissented_nothing(world: World) -> None:
    unit = find_unit(world, FLATTERER)
    assert unit.status == Status.CONVICTED
    dissents = world.contract.get_events(Dissent, first_block=0)
    dissenters = {one.verifier for one in dissents if one.unit_id == unit.unit_id}
    assert dissenters == {key(name).address for name in VERIFIERS}
    assert any(record.ending is not None and record.ending.convicted for record in find_disputes(world, FLATTERER))
    # Dissent that convicts somebody is right: no stake is burned for it.
    assert {one.account for one in world.contract.get_events(Burned, first_block=0) if one.round == 0} == {
        key(LIAR).address,
        key(FLATTERER).address,
    }


def test_what_was_opened_is_read_from_the_chain_and_only_if_it_is_what_was_committed(world: World) -> None:
    unit = find_unit(world, FLATTERER)
    assert unit.cid is not None
    description = UnitDescription.from_bytes(world.fetcher.fetch(unit.cid, max_bytes=1 << 20))
    evidence = [leaf.evidence for leaf in description.states]
    opened = read_opened(world.client, world.contract, 0, unit.unit_id, evidence)
    assert {s: answer.end_root for s, answer in opened.items()} == {
        s: description.states[s + 1].state_root for s in range(2)
    }
    bent = [*evidence[:-1], bytes(32)]
    assert set(read_opened(world.client, world.contract, 0, unit.unit_id, bent)) == {0}


def test_nobody_else_is_accused(world: World) -> None:
    court = CourtContract(world.client, world.contract.court())
    accused = {e.arguments["accused"] for e in court.list_disputes(world.contract.address)}
    assert accused == {key(LIAR).address, key(FLATTERER).address}
