"""Learning rates as functions of the step, computed inside the Program."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

LearningRate = float | Callable[[torch.Tensor], torch.Tensor]
"""One number, or the rate of the update that follows `step` (int64 scalar) finished ones."""


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, final_fraction: float = 0.1
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Rises linearly from 0 to `peak`, then falls as a cosine to `final_fraction` of it at `total_steps`."""

    def rate(step: torch.Tensor) -> torch.Tensor:
        done = step.to(torch.float32) + 1.0
        warm = done / float(max(warmup_steps, 1))
        along = (done - float(warmup_steps)) / float(total_steps - warmup_steps)
        falling = 0.5 + 0.5 * torch.cos(along.clamp(0.0, 1.0) * math.pi)
        share = final_fraction + (1.0 - final_fraction) * falling
        return peak * torch.where(done < warmup_steps, warm, share)

    return rate


def rate_at(learning_rate: LearningRate, step: torch.Tensor) -> torch.Tensor | float:
    return learning_rate(step) if callable(learning_rate) else learning_rate
