"""Workers as long as they work: a machine on which they keep failing trains in the miner's own process instead."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cupel.miner.devices.group import WorkerGroup
from cupel.protocol.training.unit import State, Step, Stepped

MOST_FAILURES = 3
"""One after another, without a segment in between: less is chance, and more would cost the unit its round."""


def with_fallback(group: WorkerGroup, alone: Step, note: Callable[[], None]) -> Step:
    """The workers' step, and `alone` once they have failed too often, for good; `note` is called then.

    Its failures are the group's: WorkersFailed, after which the segment is trained again from a state in hand.
    """
    is_alone = False

    def step(state: State, tokens: torch.Tensor) -> Stepped:
        nonlocal is_alone
        if not is_alone and group.failures >= MOST_FAILURES:
            is_alone = True
            note()
        return alone(state, tokens) if is_alone else group.step(state, tokens)

    return step
