"""What cheaters do to a training step: the last one of each segment is spoiled, and training goes on from there.

The last, because most of what is done to an earlier one still differs at the end, but not all: an ulp may be rounded
away again by the updates that follow, and then it was no lie.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from cupel.protocol.training.unit import State, Step, Stepped

Spoil = Callable[[State, Stepped], Stepped]
"""(state before the step, what it gives) to what is said that it gives."""


def spoil_last(step: Step, segment_steps: int, spoil: Spoil) -> Step:
    """`step`, with the result of the last one of each segment spoiled."""
    done = 0

    def spoiled(state: State, tokens: torch.Tensor) -> Stepped:
        nonlocal done
        done += 1
        stepped = step(state, tokens)
        return spoil(state, stepped) if done % segment_steps == 0 else stepped

    return spoiled


def first_of(state: State, group: str) -> str:
    """The name of the group's first tensor."""
    return min(name for name in state if name.startswith(f"{group}."))


def change_first(state: State, group: str, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """The state with the first element of a group's first tensor changed."""
    name = first_of(state, group)
    tensor = state[name].clone()
    flat = tensor.view(-1)
    flat[0] = change(flat[0])
    return {**state, name: tensor}
