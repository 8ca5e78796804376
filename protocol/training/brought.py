"""The Programs of a model that somebody brings: any module `make_step` takes, over tokens, with logits to sample from.

Everything but a handful of numbers is in the Programs themselves: which tensors a state holds, and how they move. The
first state is no Program's result but the module's own weights, a file that the run names by its root.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.program import Program, trace
from cupel.protocol.training.generation import make_sampling
from cupel.protocol.training.merge import trace_merge_like
from cupel.protocol.training.model import Weights
from cupel.protocol.training.modules import ModuleStep


@dataclass(frozen=True, kw_only=True)
class BroughtConfig:
    """What its Programs do not say by themselves."""

    vocabulary: int
    """Tokens the model knows; the data has at most as many."""
    context: int
    """Tokens of a sequence that are predicted; a batch has one more."""
    batch: int
    """Sequences a step."""
    digits: int
    """Of matrix products, 1 to 3."""
    max_merge: int
    """Most units a round merges; there is one Program for each number of them."""
    top_k: int
    """Tokens the sampling step chooses among."""

    def __post_init__(self) -> None:
        bounds = {"vocabulary": 1 << 24, "context": 1 << 20, "batch": 1 << 20, "digits": 3, "max_merge": 256}
        for name, most in {**bounds, "top_k": self.vocabulary}.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise UsageError(f"{name} is {value}; it is from 1 to {most}")


def trace_brought(step: ModuleStep, config: BroughtConfig) -> tuple[Program, Program, Program, tuple[Program, ...]]:
    """Step, evaluate, sample and merges.

    Raises UnsupportedOperation, and UsageError for a module that gives no logits for tokens
    """
    state = step.initial_state()
    tokens = torch.zeros((config.batch, config.context + 1), dtype=torch.int32)
    window = torch.zeros((1, config.context), dtype=torch.int32)
    vocabulary = _count_logits(step, state["weights"], window)
    if vocabulary < config.vocabulary:
        raise UsageError(f"the model's logits are over {vocabulary} tokens, and vocabulary is {config.vocabulary}")

    def logits_at(weights: Weights, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return step.predict(weights, tokens.long())[0].index_select(0, position.reshape(1))[0]

    sampling = make_sampling(logits_at, vocabulary, config.top_k)
    scalar = torch.tensor(0, dtype=torch.int64)
    asked = (state["weights"], window, scalar, scalar, scalar, torch.tensor(0.0))
    return (
        trace(step, (state, tokens), digits=config.digits),
        trace(step.evaluate, (state["weights"], tokens), digits=config.digits),
        trace(sampling, asked, digits=config.digits),
        tuple(trace_merge_like(state, n, step.frozen) for n in range(1, config.max_merge + 1)),
    )


def _count_logits(step: ModuleStep, weights: Weights, tokens: torch.Tensor) -> int:
    logits = step.predict(weights, tokens.long())
    if logits.dtype != torch.float32 or logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        raise UsageError(
            f"the module gives {str(logits.dtype).removeprefix('torch.')}{list(logits.shape)} for tokens "
            f"{list(tokens.shape)}; a run trains models that give float32 logits [sequences, tokens, vocabulary]"
        )
    return logits.shape[2]
