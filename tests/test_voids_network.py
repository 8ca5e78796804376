"""A bought jury's false merge: a node convicts it though it is killed, jurors pay, all go on from the state before."""

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
from cupel.chain.run_events import Burned, Convicted, Voided
from cupel.node.records import OutcomeRecord, UnitRecord
from cupel.protocol.types import Wei

BOUGHT = ("bought-1", "bought-2")
HERE = Path(__file__).resolve().parent
CHEATER = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "benchmarks"), str(HERE)])}
CLOCKS = Clocks(clock_blocks=150, grace_blocks=40, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEATS = {
    "min_verifiers": 3,
    "segments": 2,
    "segments_per_verifier": 2,
    "segment_steps": 2,
    "jury_target": 3,
    "window_blocks": 100,
}
pytestmark = pytest.mark.timeout(300)


def play_as(world: World, name: str, program: str) -> None:
    world.kill(name)
    world.node(name).program = program
    world.restart(name, CHEATER)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An honest round; then two jurors of three agree on a false merge, until that is void and a later round merged.

    Who accuses it is killed twice, and blocks are undone under everybody.
    """
    folder, kind = tmp_path_factory.mktemp("voids"), choose_chain()
    parties = ["miner", "late", "verifier", *BOUGHT]
    settings = {"chain_arguments": ["--allow-reorg"] if kind == "embedded" else (), **SEATS}
    with open_world(folder, parties, block_time_s=0.2, court=CLOCKS, **settings) as opened:  # type: ignore[arg-type]
        opened.start_node("miner", "miner", "--deposit", str(30 * ETH))
        opened.start_node("verifier", "verifier")
        for name in BOUGHT:
            # Nor do they accuse the honest merge that stands beside theirs.
            opened.start_node("verifier", name, "--challenge-budget", "0")
        opened.wait_for("an honest round", lambda: opened.contract.current().round >= 1, timeout_s=120)
        for name in BOUGHT:
            play_as(opened, name, "adversary.cheaters.wrong_merge")
        # It is away while the others agree, and finds out when it is back.
        opened.wait_for("its answers", lambda: has_revealed(opened), timeout_s=120)
        opened.kill("verifier")
        opened.wait_for("a false merge", lambda: find_false(opened), timeout_s=120)
        opened.restart("verifier")
        opened.wait_for("a dispute", lambda: [r for r in list_disputes(opened) if r.moves >= 2], timeout_s=120)
        opened.kill("verifier")
        for depth in range(1, 6):
            undo(opened, kind, depth, keep_transactions=depth != 2)
            if depth == 3:
                opened.restart("verifier")
            height = opened.client.head().number
            opened.wait_for("blocks", lambda height=height, depth=depth: opened.client.head().number >= height + depth)  # type: ignore[misc]
        opened.start_node("miner", "late", "--deposit", str(30 * ETH))
        opened.wait_for("a void", lambda: find_voids(opened), timeout_s=200)
        for name in BOUGHT:
            play_as(opened, name, "verifier")
        opened.wait_for("a round after it", lambda: find_resumed(opened), timeout_s=200)
        yield opened


def list_disputes(world: World) -> list[DisputeRecord]:
    court = CourtContract(world.client, world.contract.court())
    numbers = [event.dispute for event in court.list_disputes(world.contract.address)]
    return [court.get_dispute(number) for number in numbers if number is not None]


def find_voids(world: World) -> list[Voided]:
    return world.contract.get_events(Voided, first_block=0)


def has_revealed(world: World) -> bool:
    """Whether the honest juror has said what it found in a round that is not the first."""
    return any(event["round"] >= 1 for event in world.node("verifier").events("revealed"))


def find_false(world: World) -> list[int]:
    """Rounds that accepted what somebody bought proposed."""
    bought = {key(name).address for name in BOUGHT}
    found = []
    for round_ in range(1, world.contract.current().round):
        view = world.contract.get_round(round_)
        if view.merged and world.contract.candidates(round_)[view.accepted].proposer in bought:
            found.append(round_)
    return found


def find_resumed(world: World) -> list[int]:
    """Merged rounds after the last void one, in which the late miner's work counts as well."""
    first = find_voids(world)[-1].last + 1
    done = list_accepted(world, "miner") & list_accepted(world, "late")
    return [r for r in range(first, world.contract.current().round) if r in done]


def list_accepted(world: World, name: str) -> set[int]:
    return {r.round for r in world.node(name).history if isinstance(r, OutcomeRecord) and r.outcome == "accepted"}


def test_the_false_merge_is_convicted_by_an_element_and_everything_on_it_is_void(world: World) -> None:
    void, records = find_voids(world)[0], list_disputes(world)
    # In the rounds built on it they may have proposed others, which nobody accepted.
    convicted = next(one for one in world.contract.get_events(Convicted, first_block=0) if one.round == void.first)
    assert convicted.accused in {key(name).address for name in BOUGHT}
    assert {record.challenger for record in records} == {key("verifier").address}
    [ending] = [r.ending for r in records if r.subject == convicted.subject and r.ending and r.ending.convicted]
    assert ending.reason == Reason.ELEMENT
    assert void.first >= 1
    start, _ = world.contract.get_state(void.first)
    assert void.state_root == start == world.contract.get_state(void.last + 1)[0]
    assert start not in (world.contract.parameters().genesis_root, world.contract.get_state(void.first + 1)[0])


def test_the_proposer_alone_pays_for_it(world: World) -> None:
    """It could have been convicted of a true merge on purpose: then honest jurors would have acknowledged it."""
    convicted, void = world.contract.get_events(Convicted, first_block=0), find_voids(world)[0]
    said = {name: world.contract.acknowledged_by(void.first, key(name).address) for name in BOUGHT}
    assert None not in said.values()
    burned = [one for one in world.contract.get_events(Burned, first_block=0) if one.amount >= ETH // 10]
    assert {one.account for one in burned} == {one.accused for one in convicted}


def test_nodes_go_on_from_the_last_sound_state_and_one_that_never_had_it_fetches_it(world: World) -> None:
    resumed = find_resumed(world)[0]
    for name in ("miner", "late"):
        assert any(isinstance(r, UnitRecord) and r.round == resumed for r in world.node(name).history)
    convicted = {one.accused for one in world.contract.get_events(Convicted, first_block=0)}
    assert convicted <= {key(name).address for name in BOUGHT}
    # What was accepted before it was void is said to be void, and nobody went on with it.
    void = find_voids(world)[0]
    last = {r.round: r.outcome for r in world.node("miner").history if isinstance(r, OutcomeRecord)}
    assert last[void.first] == "void"
    assert last[resumed] == "accepted"
