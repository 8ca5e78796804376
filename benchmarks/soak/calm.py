"""The same run again, calmly: every merged unit retrained in one process, and the merges, compared with the chain's.

Nothing of the nodes is used but what the chain says: which units each round merged, and each round's seed. PyTorch
itself computes here, the nodes use the compiled engine; a test of many rounds may ask for that one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from network_world import World

from cupel.protocol import merkle, sampling
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import train_segment
from cupel.protocol.types import Seed, UnitId

BACKEND = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """How the two runs compare."""

    rounds: int
    merges: int
    units: int
    """Retrained and merged."""
    differences: tuple[str, ...]
    final_root: bytes


def recompute(world: World, rounds: int, *, backend: str = BACKEND) -> Calm:
    """Rounds 0 to `rounds` - 1 from the run's first state."""
    state, merges, units = world.genesis, 0, 0
    differences: list[str] = []
    for round_ in range(rounds):
        result = world.result(round_)
        if result.merge_set:
            state = _merge(world, round_, state, result.merge_set, differences, backend)
            merges, units = merges + 1, units + len(result.merge_set)
        root = merkle.state_root(state)
        if root != result.state_root:
            differences.append(
                f"round {round_} ended at 0x{result.state_root.hex()[:16]}, calmly at 0x{root.hex()[:16]}"
            )
            break
    return Calm(
        rounds=rounds,
        merges=merges,
        units=units,
        differences=tuple(differences),
        final_root=merkle.state_root(state),
    )


def _merge(
    world: World, round_: int, start: NamedState, merge_set: tuple[UnitId, ...], differences: list[str], backend: str
) -> NamedState:
    seed = world.contract.get_round(round_).seed
    committed = {unit.unit_id: unit for unit in world.contract.get_units(round_)}
    ends = []
    for unit_id in merge_set:
        end = _train(world, start, unit_id, seed, backend)
        if merkle.state_root(end) != committed[unit_id].contribution:
            differences.append(f"round {round_}: unit 0x{unit_id.hex()[:16]} is not what its miner committed to")
        ends.append(end)
    return world.programs.run_merge(list(ends), backend=backend)


def _train(world: World, start: NamedState, unit_id: UnitId, seed: Seed, backend: str) -> NamedState:
    config, shards, parameters = world.programs.config, world.shards, world.contract.parameters()
    length = config.model.context + 1

    def load(step: int) -> torch.Tensor:
        positions = sampling.batch_positions(
            seed, unit_id, step, config.training.batch, len(shards), shards.shard_tokens, length
        )
        return shards.batch(positions, length)

    state = start
    for segment in range(parameters.segments):
        step = partial(world.programs.run_step, backend=backend)
        state = dict(train_segment(step, state, load, segment, parameters.segment_steps).state)
    return state
