"""Held-out loss."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.program import Program, run, trace
from cupel.protocol.training.model import ModelConfig, Weights, build, compute_loss
from cupel.protocol.training.state import example_state


def trace_evaluate(model: ModelConfig, batch: int) -> Program:
    """(weights, tokens int32[batch, context + 1]) → mean nats a token, float32 scalar."""
    gpt = build(model)
    tokens = torch.zeros((batch, model.context + 1), dtype=torch.int32)
    return trace(lambda weights, tokens: compute_loss(gpt, weights, tokens), (example_state(model)["weights"], tokens))


def evaluate(
    program: Program, weights: Weights, batches: Iterable[torch.Tensor], *, backend: str = "auto", threads: int = 1
) -> float:
    """Mean nats a token over equally large batches of int32 tokens [batch, context + 1]; a report, in double.

    Raises UsageError when there is no batch
    """
    losses = [float(run(program, (weights, tokens), backend, threads=threads)) for tokens in batches]
    if not losses:
        raise UsageError("no held-out tokens to evaluate on: give at least one batch")
    return sum(losses) / len(losses)
