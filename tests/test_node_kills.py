"""A process is killed at every point of a round, restarted, and nothing is lost: no work, no bond, no answer twice."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import NodeProcess, World, key, open_world

from cupel.chain.run_events import Burned
from cupel.chain.run_values import Role, Status
from cupel.node.journal import Journal, read_identity
from cupel.node.points import MINER_POINTS, VARIABLE, VERIFIER_POINTS

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from soak.calm import recompute

SEATS = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "segments": 2,
    "segments_per_verifier": 1,
    "segment_steps": 2,
    "train_blocks": 400,
    "seal_blocks": 400,
    "open_blocks": 400,
    "merge_blocks": 400,
    "acknowledge_blocks": 400,
}
PATIENCE_S = 200.0
pytestmark = pytest.mark.timeout(1500)


class Victim:
    """A node that is killed at each of its points, in their order, and started again for the next."""

    def __init__(self, node: NodeProcess, points: tuple[str, ...]) -> None:
        self.node, self._points = node, iter(points)
        self.point: str | None = None
        self.died_at: list[str] = []
        self._go_on()

    def _go_on(self) -> None:
        self.point = next(self._points, None)
        self.node.start({VARIABLE: self.point} if self.point else None)

    def look(self) -> bool:
        """Notice a death, and start it again; whether there was one."""
        process = self.node.process
        assert process is not None
        if self.point is None or process.poll() is None:
            return False
        assert process.returncode == -signal.SIGKILL, f"ended by itself:\n{self.node.text()[-3000:]}"
        self.died_at.append(self.point)
        self._go_on()
        return True


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A run in which both parties were killed at every point they pass; they run on."""
    folder = tmp_path_factory.mktemp("kills")
    with open_world(folder, ["miner", "verifier"], block_time_s=0.2, **SEATS) as opened:
        victims = [
            Victim(opened.add("miner", "miner"), MINER_POINTS),
            Victim(opened.add("verifier", "verifier"), VERIFIER_POINTS),
        ]
        while not all(victim.point is None for victim in victims):
            waiting = {victim.node.name: victim.point for victim in victims}
            opened.wait_for(f"death at {waiting}", lambda: any(v.look() for v in victims), timeout_s=PATIENCE_S)
        assert [victim.died_at for victim in victims] == [list(MINER_POINTS), list(VERIFIER_POINTS)]
        ended = opened.contract.current().round + 1
        opened.wait_for("a calm round after all", lambda: opened.contract.current().round > ended, timeout_s=PATIENCE_S)
        yield opened


def ended_rounds(world: World) -> range:
    return range(world.contract.current().round)


def test_every_round_merged_the_miners_unit_and_no_bits_differ_from_a_calm_run(world: World) -> None:
    rounds = ended_rounds(world)
    for round_ in rounds:
        (unit,) = world.contract.get_units(round_)
        assert unit.status == Status.ATTESTED, f"round {round_}"
        assert world.result(round_).merge_set == (unit.unit_id,)
    calm = recompute(world, len(rounds), backend="cpu")
    assert calm.differences == ()
    assert calm.units == len(rounds)


def test_no_bond_stake_or_fee_was_lost(world: World) -> None:
    assert world.contract.get_events(Burned, first_block=0) == []
    for name in ("miner", "verifier"):
        assert world.contract.member_of(key(name).address).role != Role.NONE


def test_nobody_answered_a_question_twice(world: World) -> None:
    for node in world.nodes:
        with Journal(node.data, read_identity(node.data), read_only=True) as journal:
            questions = Counter((one.duty, one.subject) for one in journal.statements())
        assert questions
        assert set(questions.values()) == {1}


def test_what_is_on_chain_is_what_was_journalled(world: World) -> None:
    miner = next(node for node in world.nodes if node.name == "miner")
    with Journal(miner.data, read_identity(miner.data), read_only=True) as journal:
        said = {one.subject: one.content for one in journal.statements()}
    for round_ in ended_rounds(world):
        (unit,) = world.contract.get_units(round_)
        assert said[unit.unit_id].startswith(unit.root + unit.contribution)


def test_no_finished_segment_was_trained_twice(world: World) -> None:
    miner = next(node for node in world.nodes if node.name == "miner")
    trained = Counter((event["round"], event["segment"]) for event in miner.events("segment"))
    assert trained
    assert set(trained.values()) == {1}


def test_every_reward_is_claimed_in_the_end(world: World) -> None:
    mature = world.contract.current().round - 3
    for node in world.nodes:
        world.wait_for(
            f"claims of {node.name}",
            lambda node=node: not world.contract.claimable(node.signer.address, 0, mature),  # type: ignore[misc]
            timeout_s=PATIENCE_S,
        )
