"""Writing with the model: one Program per token, so that every answer can be replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.program import Program, gumbel, philox_key, run, trace
from cupel.protocol.training.model import ModelConfig, Weights, build, compute_logits_at
from cupel.protocol.training.state import example_state

DOMAIN = "cupel sample"

SampleStep = Callable[[Weights, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def make_sample_step(model: ModelConfig, top_k: int) -> SampleStep:
    """sample(weights, tokens int32[1, T], length, key, step int64, temperature float32 scalars) → next token, int64.

    Reads the first `length` tokens; what follows them cannot change a bit. Takes the top_k likeliest, ties to the
    lowest id, and among them argmax(logit / temperature + Gumbel), the noise of a token being that of its id on stream
    0; at temperature 0 the likeliest token.
    """
    gpt = build(model)
    return make_sampling(lambda *where: compute_logits_at(gpt, *where)[0], model.vocabulary, top_k)


LogitsAt = Callable[[Weights, torch.Tensor, torch.Tensor], torch.Tensor]
"""(weights, tokens int32[1, T], position int64 scalar) → logits[V] there, which no later token can change."""


def make_sampling(logits_at: LogitsAt, vocabulary: int, top_k: int) -> SampleStep:
    """`make_sample_step` for any model."""
    if not 1 <= top_k <= vocabulary:
        raise UsageError(f"top_k is {top_k}; it is from 1 to the vocabulary's {vocabulary}")

    def sample(
        weights: Weights,
        tokens: torch.Tensor,
        length: torch.Tensor,
        key: torch.Tensor,
        step: torch.Tensor,
        temperature: torch.Tensor,
    ) -> torch.Tensor:
        logits = logits_at(weights, tokens, length - 1)
        best, ids = torch.topk(logits, top_k)
        noise = gumbel(key, step, (vocabulary,))[ids]
        warm = temperature > 0
        heated = best / torch.where(warm, temperature, 1.0) + noise
        chosen = torch.where(warm, heated, best).argmax()
        return ids.gather(0, chosen.reshape(1)).reshape(())

    return sample


def trace_sample(model: ModelConfig, top_k: int) -> Program:
    scalar = torch.tensor(0, dtype=torch.int64)
    tokens = torch.zeros((1, model.context), dtype=torch.int32)
    weights = example_state(model)["weights"]
    return trace(make_sample_step(model, top_k), (weights, tokens, scalar, scalar, scalar, torch.tensor(0.0)))


def generate(
    program: Program,
    weights: Weights,
    prompt: Sequence[int],
    count: int,
    *,
    seed: bytes,
    temperature: float = 1.0,
    vocabulary: int | None = None,
    backend: str = "auto",
    threads: int = 1,
) -> Iterator[int]:
    """`count` tokens that follow `prompt`, one by one; the last `context` tokens are what the model sees.

    program     from `trace_sample`, or a brought model's
    vocabulary  tokens there are; None: the rows of the weight called `embedding.weight`
    Raises   UsageError for an empty prompt, a token outside the vocabulary or a negative temperature
    """
    context = program.inputs["1"].shape[1]
    if vocabulary is None:
        vocabulary = program.inputs["0.embedding.weight"].shape[0]
    if not prompt or not all(0 <= token < vocabulary for token in prompt):
        raise UsageError(f"a prompt is at least one token, each from 0 to {vocabulary - 1}")
    if not temperature >= 0:
        raise UsageError(f"temperature is {temperature}; it is 0 (the likeliest token) or above")
    seen = list(prompt)
    key = philox_key(seed, DOMAIN)
    for step in range(count):
        window = seen[-context:]
        tokens = torch.zeros((1, context), dtype=torch.int32)
        tokens[0, : len(window)] = torch.tensor(window, dtype=torch.int32)
        scalars = (torch.tensor(len(window)), key, torch.tensor(step), torch.tensor(temperature, dtype=torch.float32))
        seen.append(int(run(program, (weights, tokens, *scalars), backend, threads=threads)))
        yield seen[-1]
