"""Blocks are undone under a running network, one to ten at a time: it ends with the states it would have had anyway."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import World, key, open_world
from node_world.reorgs import undo

from cupel.chain.run_events import Burned
from cupel.chain.run_values import Phase, Role, Status
from cupel.node.journal import Duty, Journal, read_identity

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from soak.calm import recompute

SEATS = {
    "min_miners": 1,
    "min_verifiers": 2,
    "verifiers_per_unit": 2,
    "quorum": 2,
    "jury_target": 2,
    "segments": 2,
    "segments_per_verifier": 1,
    "segment_steps": 2,
}
DEPTHS = range(1, 11)
PHASES = (Phase.TRAIN, Phase.SEAL, Phase.OPEN, Phase.MERGE)
NODES = ("miner", "verifier-1", "verifier-2")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.node)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run in which every depth was undone once, in turn with its transactions kept and lost; it runs on.

    What is kept on one chain is lost on the other.
    """
    kind: str = request.param
    extra = {"chain_arguments": ["--allow-reorg"]} if kind == "embedded" else {}
    folder = tmp_path_factory.mktemp("reorgs")
    with open_world(folder, list(NODES), block_time_s=0.2, chain=kind, **SEATS, **extra) as opened:  # type: ignore[arg-type]
        opened.start_node("miner", "miner")
        for name in NODES[1:]:
            opened.start_node("verifier", name)
        for number, depth in enumerate(DEPTHS):
            # Begun at another phase each time: what is undone is a commitment, a seal, an opening, a merge ...
            phase = PHASES[number % len(PHASES)]
            opened.wait_for(f"phase {phase.name}", lambda phase=phase: opened.contract.current().phase == phase)  # type: ignore[misc]
            undo(opened, kind, depth, keep_transactions=(number % 2 == 0) == (kind == "embedded"))
        ended = opened.contract.current().round + 1
        opened.wait_for("rounds after all", lambda: opened.contract.current().round > ended, timeout_s=120)
        yield opened


def test_every_round_merged_its_unit_and_no_bits_differ_from_a_calm_run(world: World) -> None:
    rounds = world.contract.current().round
    for round_ in range(rounds):
        (unit,) = world.contract.get_units(round_)
        assert unit.status == Status.ATTESTED, f"round {round_}"
        assert world.result(round_).merge_set == (unit.unit_id,)
    assert recompute(world, rounds, backend="cpu").differences == ()


def test_every_node_noticed(world: World) -> None:
    deepest = 0
    for node in world.nodes:
        depths = [event["depth"] for event in node.events("the chain replaced its newest blocks")]
        # Of two that follow closely one may be all that is seen, and a busy node has not seen the newest block.
        assert len(depths) >= len(DEPTHS) // 2
        deepest = max(deepest, *depths)
    assert deepest >= DEPTHS[-1] - 2


def test_no_bond_stake_or_fee_was_lost(world: World) -> None:
    assert world.contract.get_events(Burned, first_block=0) == []
    assert all(world.contract.member_of(key(name).address).role != Role.NONE for name in NODES)


def test_the_same_was_decided_again(world: World) -> None:
    for node in world.nodes:
        with Journal(node.data, read_identity(node.data), read_only=True) as journal:
            said = Counter(one.subject for one in journal.statements() if one.duty in (Duty.COMMIT, Duty.SEAL))
        assert said
        assert set(said.values()) == {1}
