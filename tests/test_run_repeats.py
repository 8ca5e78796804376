"""With a scripted beacon and fixed keys a run gives the same states, root for root, on whatever chain it is played."""

from __future__ import annotations

from pathlib import Path

import pytest
from network_world import RoundResult, World, open_world

ROUNDS = 2
SEATS = {"min_miners": 2, "min_verifiers": 2, "verifiers_per_unit": 2, "segments": 2}
MINERS, VERIFIERS = ("miner-1", "miner-2"), ("verifier-1", "verifier-2")


def play(folder: Path, chain: str) -> list[RoundResult]:
    """Two rounds of two miners and two verifiers."""
    with open_world(folder, [*MINERS, *VERIFIERS], chain=chain, **SEATS) as world:
        for name in MINERS:
            world.start_node("miner", name)
        for name in VERIFIERS:
            world.start_node("verifier", name)
        world.wait_for("end of the rounds", lambda: world.contract.current().round >= ROUNDS, timeout_s=240)
        check_that_work_was_done(world)
        return world.results(ROUNDS)


def check_that_work_was_done(world: World) -> None:
    results = world.results(ROUNDS)
    assert all(len(result.merge_set) == len(MINERS) for result in results)
    assert len({result.state_root for result in results}) == ROUNDS


@pytest.mark.node
def test_a_run_gives_the_same_state_roots_on_the_embedded_chain_and_on_anvil(tmp_path: Path) -> None:
    assert play(tmp_path / "embedded", "embedded") == play(tmp_path / "anvil", "anvil")
