"""A real miner that shares its steps among worker processes, one of which is killed: its unit is what one computes."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from network_world import CONFIG, NodeProcess, World, key, open_world

from cupel.chain.run_values import Status
from cupel.protocol import merkle, sampling
from cupel.protocol.training.unit import train_segment
from cupel.protocol.types import Root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds a miner's processes in Linux's own tables")

SEGMENTS = 8
"""So many that there is a middle to kill a worker in."""


def workers_of(miner: NodeProcess) -> list[int]:
    """Process ids of those that share a miner's steps, by rank."""
    assert miner.process is not None
    pid = miner.process.pid
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return sorted(child for child in children if b"miner.devices.worker" in Path(f"/proc/{child}/cmdline").read_bytes())


def retrained_root(world: World) -> Root:
    """Of the end state of round 0's unit, on one process, from nothing but chain, programs and data."""
    (unit,) = world.contract.get_units(0)
    seed, parameters, shards = world.contract.get_round(0).seed, world.contract.parameters(), world.shards
    length, batch = CONFIG.model.context + 1, CONFIG.training.batch

    def load(step: int) -> torch.Tensor:
        places = sampling.batch_positions(seed, unit.unit_id, step, batch, len(shards), shards.shard_tokens, length)
        return shards.batch(places, length)

    state = dict(world.genesis)
    for segment in range(parameters.segments):
        step = partial(world.programs.run_step, backend="cpu")
        state = dict(train_segment(step, state, load, segment, parameters.segment_steps).state)
    return merkle.state_root(state)


def test_a_unit_of_two_workers_is_attested_though_one_is_killed_in_the_middle(tmp_path: Path) -> None:
    verifiers = {"min_verifiers": 1, "verifiers_per_unit": 1, "quorum": 1, "jury_target": 1, "train_blocks": 1000}
    with open_world(tmp_path, ["miner", "verifier"], segments=SEGMENTS, **verifiers) as world:
        miner = world.add("miner", "miner", "--nproc", "2")
        world.add("verifier", "verifier")
        for node in world.nodes:
            node.start()
        world.wait_for("segment", lambda: miner.events("segment"), timeout_s=120)
        os.kill(workers_of(miner)[1], signal.SIGKILL)
        world.wait_for("next round", lambda: world.contract.current().round >= 1, timeout_s=120)
        workers = workers_of(miner)
        assert len(workers) == 2
        assert world.stop(miner.name) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        world.kill("verifier")

        reasons = [str(event.get("reason")) for event in miner.events("trouble, going on")]
        assert any(reason.startswith("worker process 1 of 2: ended by signal 9") for reason in reasons)
        segments = [event["segment"] for event in miner.events("segment") if event["round"] == 0]
        assert segments == list(range(SEGMENTS))
        (unit,) = world.contract.get_units(0)
        assert (unit.status, unit.verifiers) == (Status.ATTESTED, (key("verifier").address,))
        assert unit.contribution == retrained_root(world)
