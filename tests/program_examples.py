"""Small Programs that several tests and the golden vectors share."""

from __future__ import annotations

from typing import Any

import torch

from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.programs import RunConfig
from cupel.protocol.training.step import TrainingConfig

TINY_RUN = RunConfig(
    model=ModelConfig(vocabulary=24, width=8, layers=2, heads=2, hidden=12, context=6, tied=False),
    training=TrainingConfig(batch=3, learning_rate=0.02, warmup_steps=2, total_steps=40),
    max_merge=3,
    top_k=5,
)
"""Small enough for the definition on Python integers."""


def tiny(x: torch.Tensor, more: dict[str, Any]) -> dict[str, Any]:
    """A product, a sum, a constant, and every kind of nesting."""
    scaled = x @ more["w"] * 0.5 + torch.tensor([1.0, -0.0])
    return {"out": scaled, "pair": (scaled.sum(), [more["n"] + 1]), "none": None}


def arguments() -> tuple[Any, ...]:
    w = torch.arange(6, dtype=torch.float32).reshape(3, 2) - 2.5
    return torch.arange(6, dtype=torch.float32).reshape(2, 3), {"w": w, "n": torch.tensor(3, dtype=torch.int32)}


def named(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of `tiny`'s result by their output names."""
    return {"out": result["out"], "pair.0": result["pair"][0], "pair.1.0": result["pair"][1][0]}


def batch(seed: int) -> torch.Tensor:
    """A batch of the tiny run."""
    generator = torch.Generator().manual_seed(seed)
    shape = (TINY_RUN.training.batch, TINY_RUN.model.context + 1)
    return torch.randint(0, TINY_RUN.model.vocabulary, shape, generator=generator, dtype=torch.int32)
