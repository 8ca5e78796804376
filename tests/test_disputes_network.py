"""Whoever posted a lie in a run is convicted by real nodes, and nobody honest loses anything by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_process import ETH
from network_world import World, key, open_world

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import DisputeRecord, Reason
from cupel.chain.run_events import Convicted
from cupel.chain.run_values import Status
from cupel.protocol.types import Wei

LIAR, VERIFIERS = "liar", ("verifier-1", "verifier-2")
CLOCKS = Clocks(clock_blocks=150, grace_blocks=40, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "min_miners": 2,
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
    """Until the first dispute has ended."""
    folder = tmp_path_factory.mktemp("disputes")
    with open_world(folder, ["miner", LIAR, *VERIFIERS], block_time_s=0.2, court=CLOCKS, **SEATS) as opened:  # type: ignore[arg-type]
        opened.start_node("miner", "miner")
        opened.start_node("miner", LIAR, "--fault", "perturb")
        for name in VERIFIERS:
            opened.start_node("verifier", name)
        opened.wait_for("conviction", lambda: opened.contract.get_events(Convicted, first_block=0), timeout_s=120)
        yield opened


def find_dispute(world: World) -> DisputeRecord:
    court = CourtContract(world.client, world.contract.court())
    accused = court.list_disputes(world.contract.address)[0]
    assert accused.dispute is not None
    return court.get_dispute(accused.dispute)


def test_the_liar_s_unit_is_convicted_by_one_element(world: World) -> None:
    record = find_dispute(world)
    assert record.accused == key(LIAR).address
    assert record.challenger in {key(name).address for name in VERIFIERS}
    assert record.ending is not None
    assert (record.ending.convicted, record.ending.reason) == (True, Reason.ELEMENT)
    assert record.ending.prize_wei == world.contract.parameters().unit_bond // 2
    [unit] = [u for u in world.contract.get_units(0) if u.unit_id == record.subject]
    assert unit.status == Status.CONVICTED


def test_nobody_else_is_accused(world: World) -> None:
    court = CourtContract(world.client, world.contract.court())
    assert {e.arguments["accused"] for e in court.list_disputes(world.contract.address)} == {key(LIAR).address}
