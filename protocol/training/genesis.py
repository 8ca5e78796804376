"""The state a run starts from, drawn by Philox from one seed, so that anyone can repeat it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from cupel.protocol.program import Program, normal, philox_key, run, trace
from cupel.protocol.training.model import ModelConfig, weight_shapes
from cupel.protocol.training.state import State, example_state
from cupel.protocol.types import Seed

DOMAIN = "cupel genesis"
STANDARD_DEVIATION = 0.02
"""Of embeddings and matrices; those that write into the residual stream are smaller by sqrt(2 layers), as in GPT-2."""
INTO_RESIDUAL = ("attention.out.weight", "feed_forward.down.weight")


def make_genesis(model: ModelConfig) -> Callable[[torch.Tensor], State]:
    """genesis(key int64 scalar) → state: normal matrices, gains of 1, moments of 0, step 0.

    Weight i, counted in the model's order, is drawn on stream i at step 0.
    """
    shapes = weight_shapes(model)

    def genesis(key: torch.Tensor) -> State:
        state = example_state(model)
        for stream, (name, shape) in enumerate(shapes.items()):
            if len(shape) < 2:
                state["weights"][name] = torch.ones(shape)
                continue
            small = name.endswith(INTO_RESIDUAL)
            deviation = STANDARD_DEVIATION / math.sqrt(2 * model.layers) if small else STANDARD_DEVIATION
            state["weights"][name] = normal(key, torch.zeros((), dtype=torch.int64), shape, stream) * deviation
        return state

    return genesis


def trace_genesis(model: ModelConfig) -> Program:
    return trace(make_genesis(model), (torch.tensor(0, dtype=torch.int64),))


def run_genesis(program: Program, seed: Seed, *, backend: str = "auto", threads: int = 1) -> State:
    """The first state of the run whose seed this is (32 bytes)."""
    state: State = run(program, (philox_key(seed, DOMAIN),), backend, threads=threads)
    return state
