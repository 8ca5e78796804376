"""A dispute whose parties are both gone keeps nobody's rewards: a node that it does not concern ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from chain_process import ETH
from network_world import World, key, open_world

from cupel.chain.abi import load_abi
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import DisputeRecord, Reason
from cupel.chain.mapping import write_value
from cupel.chain.run_values import Commitment, UnitView
from cupel.node.disputes.player import pad_bond
from cupel.protocol.types import Wei

GONE, SALT = "gone", b"\7" * 32
CLOCKS = Clocks(clock_blocks=12, grace_blocks=1, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "segments": 2,
    "segment_steps": 2,
    "window_blocks": 60,
}
pytestmark = pytest.mark.timeout(300)


def accuse_and_go(world: World, unit: UnitView) -> None:
    """By a key that nobody plays for afterwards."""
    assert unit.cid is not None
    client = ChainClient(world.chain.url, key(GONE), poll_seconds=0.05, outbox=Outbox())
    court, run = CourtContract(client, world.contract.court()), world.contract.address
    court.announce(court.compute_announcement(run, unit.unit_id, 0, key(GONE).address, SALT))
    shown = Commitment(root=unit.root, contribution=unit.contribution, cid=unit.cid)
    client.send(load_abi("Run").bind(run, "presentUnit", 0, unit.miner, unit.index, write_value(shown, Commitment)))
    court.accuse(run, unit.unit_id, 0, SALT, bond_wei=pad_bond(court.bond_for(run, unit.miner)))
    client.close()


def find_dispute(world: World) -> DisputeRecord:
    return CourtContract(world.client, world.contract.court()).get_dispute(1)


def test_a_dispute_between_the_dead_is_ended_by_another_node_and_rounds_become_final(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier", GONE], block_time_s=0.1, court=CLOCKS, **SEATS) as world:  # type: ignore[arg-type]
        world.start_node("verifier", "verifier")
        world.start_node("miner", "miner")
        world.wait_for("the end of a round", lambda: world.contract.current().round >= 1, timeout_s=120)
        [unit] = [one for one in world.contract.get_units(0) if one.index == 0]
        world.kill("miner")
        accuse_and_go(world, unit)
        assert find_dispute(world).ending is None
        world.wait_for("the end of the dispute", lambda: find_dispute(world).ending, timeout_s=120)
        ending = find_dispute(world).ending
        assert ending is not None
        assert (ending.convicted, ending.reason) == (True, Reason.SILENCE)
        world.wait_for("a settled round", lambda: world.contract.finality().settled >= 1, timeout_s=200)
        assert world.node("verifier").events("a dispute that nobody else ended is over")
        assert world.client.head().number >= world.contract.get_round(0).mature_at
