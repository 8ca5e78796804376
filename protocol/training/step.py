"""One training step of a run: forward, backward, clipping, AdamW, as one function of state and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.training.model import ModelConfig, Weights, build, compute_loss
from cupel.protocol.training.optimisers import AdamW
from cupel.protocol.training.schedules import warmup_cosine
from cupel.protocol.training.state import State

Metrics = dict[str, torch.Tensor]
"""{"loss": ..., "grad_norm": ...}, float32 scalars: the evidence of a step (docs/design/roots.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a run trains."""

    batch: int
    """Sequences per step."""
    learning_rate: float
    """At the end of warm-up."""
    warmup_steps: int
    """Steps over which the rate rises linearly from 0."""
    total_steps: int
    """Step at which the cosine has fallen to `final_fraction`; later steps stay there."""
    final_fraction: float = 0.1
    """Smallest rate, as a share of `learning_rate`."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Of matrices only; norms' gains are left alone."""
    clip_norm: float = 1.0
    """Gradients whose joint 2-norm is larger are scaled down to it."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.warmup_steps < 0 or self.total_steps <= self.warmup_steps:
            raise UsageError("training.batch is at least 1, and training.total_steps above training.warmup_steps >= 0")
        if not (0 < self.beta1 < 1 and 0 < self.beta2 < 1 and 0 <= self.final_fraction <= 1):
            raise UsageError("training.beta1 and beta2 lie between 0 and 1, final_fraction from 0 to 1")
        above_zero = (self.learning_rate, self.epsilon, self.clip_norm)
        if not (all(0 < value < math.inf for value in above_zero) and 0 <= self.weight_decay < math.inf):
            raise UsageError("training.learning_rate, epsilon and clip_norm are above 0, weight_decay is not below 0")

    @staticmethod
    def demo() -> TrainingConfig:
        return TrainingConfig(batch=16, learning_rate=3e-3, warmup_steps=60, total_steps=1000)

    @staticmethod
    def tiny() -> TrainingConfig:
        return TrainingConfig(batch=4, learning_rate=1e-2, warmup_steps=4, total_steps=400)


def compute_learning_rate(training: TrainingConfig, step: torch.Tensor) -> torch.Tensor:
    """Of the update that follows `step` finished ones: linear warm-up, then a cosine."""
    return _schedule(training)(step)


def _schedule(training: TrainingConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    return warmup_cosine(training.learning_rate, training.warmup_steps, training.total_steps, training.final_fraction)


def joint_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all of them together."""
    return torch.sqrt(torch.stack([(gradient * gradient).sum() for gradient in gradients]).sum())


def clip_scale(norm: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """What gradients of this joint norm are multiplied by to have at most `clip_norm`."""
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)


def make_training_step(
    model: ModelConfig, training: TrainingConfig
) -> Callable[[State, torch.Tensor], tuple[State, Metrics]]:
    """training_step(state, tokens[B, T + 1]) → (next state, metrics of this step)."""

    gpt = build(model)
    optimiser = AdamW(
        learning_rate=_schedule(training),
        beta1=training.beta1,
        beta2=training.beta2,
        epsilon=training.epsilon,
        weight_decay=training.weight_decay,
    )

    def training_step(state: State, tokens: torch.Tensor) -> tuple[State, Metrics]:
        weights: Weights = {name: weight.detach().requires_grad_() for name, weight in state["weights"].items()}
        loss = compute_loss(gpt, weights, tokens)
        gradients = torch.autograd.grad(loss, list(weights.values()))

        norm = joint_norm(gradients)
        scale = clip_scale(norm, training.clip_norm)
        update = optimiser.begin(state["step"])

        following: State = {"weights": {}, "adam_m": {}, "adam_v": {}, "step": state["step"] + 1}
        for name, gradient in zip(weights, gradients, strict=True):
            moments = (state["adam_m"][name], state["adam_v"][name])
            weight, (m, v) = update(name, state["weights"][name], gradient * scale, moments)
            following["weights"][name], following["adam_m"][name], following["adam_v"][name] = weight, m, v
        return following, {"loss": loss.detach(), "grad_norm": norm}

    return training_step
