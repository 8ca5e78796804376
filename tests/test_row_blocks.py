"""Attention in blocks gives the definition's bits, and needs no matrix of T x T scores.

Axes: B = sequences, H = heads, T = tokens, E = width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from cupel.protocol.arithmetic import row_blocks
from cupel.protocol.arithmetic.cpu import isa, native
from cupel.protocol.arithmetic.cpu.plan import build
from cupel.protocol.arithmetic.cpu.runtime import CompiledGraph
from cupel.protocol.arithmetic.engines import run_graph
from cupel.protocol.arithmetic.operations import Graph, check_operation
from cupel.protocol.arithmetic.row_blocks import cut_scores
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.modules import make_step, next_token_loss
from cupel.protocol.training.optimisers import AdamW
from cupel.protocol.training.state import example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step

BATCH, HEADS, TOKENS, WIDTH = 2, 2, 11, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "_LEAST_ROWS", 1)


def cut(graph: Graph, rows: int, tokens: int = TOKENS) -> Graph:
    """Blocks of about `rows` queries or keys."""
    return cut_scores(graph, least_length=8, least_bytes=0, block_bytes=4 * BATCH * HEADS * tokens * rows)


def attention(*, causal: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
    """(q, k, v, gradient, mask) → the result and all gradients."""

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, gradient: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=None if causal else mask, is_causal=causal)

        result, pull = torch.func.vjp(forward, q, k, v)
        return (result, *pull(gradient))

    return attend


def operands(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(BATCH, HEADS, TOKENS, WIDTH, generator=generator) for _ in range(4)]
    return [*tensors, torch.rand(BATCH, 1, TOKENS, TOKENS, generator=generator) < 0.6]


def bits(tensors: list[torch.Tensor]) -> list[bytes]:
    return [t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]


def values_of(*, causal: bool, seed: int = 0) -> tuple[Graph, list[torch.Tensor]]:
    inputs = operands(seed)
    return trace(attention(causal=causal), tuple(inputs)).graph, inputs


def has_square(graph: Graph, tokens: int) -> bool:
    return any(op.result.shape[-2:].count(tokens) == 2 for op in graph.operations)


@pytest.mark.parametrize(("causal", "rows"), [(True, 4), (False, 6)])
def test_blocks_give_the_bits_of_the_definition(causal: bool, rows: int) -> None:
    graph, inputs = values_of(causal=causal)
    blocks = cut(graph, rows)
    assert has_square(graph, TOKENS)
    assert not has_square(blocks, TOKENS)
    first = len(blocks.inputs) + len(blocks.constants)
    for at, op in enumerate(blocks.operations):
        assert all(v < first + at for v in op.operands)
        check_operation(op, [blocks.type_of(v) for v in op.operands])
    expected = bits(run_graph(graph, inputs, "reference"))
    assert bits(run_graph(blocks, inputs, "reference")) == expected
    for name, threads in zip(isa.supported(), (1, 2, 4) if causal else (4, 2, 1), strict=False):
        assert bits(CompiledGraph(blocks, threads=threads, instruction_set=name).run(inputs)) == expected


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e-45, -0.0, 3e38])
@pytest.mark.parametrize("where", range(4), ids=["q", "k", "v", "gradient"])
def test_special_values_and_empty_rows_pass_through_blocks_as_through_the_whole(special: float, where: int) -> None:
    graph, inputs = values_of(causal=False, seed=1)
    inputs[where][0, 1, 5, 0] = special
    inputs[where][1, 0, 10] = special
    inputs[4][0, 0, 3] = False
    inputs[4][1, 0, 10] = False
    expected = bits(run_graph(graph, inputs, "torch"))
    assert bits(CompiledGraph(cut(graph, 4)).run(inputs)) == expected


def training_step(tokens: int) -> tuple[Graph, list[torch.Tensor]]:
    model = ModelConfig(vocabulary=16, width=8, layers=2, heads=2, hidden=12, context=tokens)
    training = TrainingConfig(batch=BATCH, learning_rate=1e-2, warmup_steps=1, total_steps=10)
    generator = torch.Generator().manual_seed(2)
    state = example_state(model)
    for name, weight in state["weights"].items():
        state["weights"][name] = torch.randn(weight.shape, generator=generator)
    arguments = (state, torch.randint(0, 16, (BATCH, tokens + 1), generator=generator, dtype=torch.int32))
    return trace(make_training_step(model, training), arguments).graph, flatten(arguments, "arguments")[1]


def test_a_training_step_in_blocks_gives_the_same_bits() -> None:
    graph, inputs = training_step(23)
    blocks = cut(graph, 8, 23)
    assert has_square(graph, 23)
    assert not has_square(blocks, 23)
    expected = bits(run_graph(graph, inputs, "torch"))
    assert bits(CompiledGraph(blocks, threads=2).run(inputs)) == expected


def arena_bytes(graph: Graph) -> int:
    """Of the plan alone: nothing is compiled."""
    return build(graph, isa.choose(), 1, native.triple()).arena_bytes


def test_memory_grows_with_tokens_not_with_their_square() -> None:
    whole, blocks = [], []
    for tokens in (256, 512):
        graph, _ = training_step(tokens)
        whole.append(arena_bytes(graph))
        blocks.append(arena_bytes(cut(graph, 32, tokens)))
    assert whole[1] > 3.5 * whole[0]
    assert blocks[1] < 2.2 * blocks[0]
    assert blocks[1] < whole[1] / 8


def test_weights_that_are_asked_for_stay_whole() -> None:
    def attend(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT, -1)

    q, k, *_ = operands(0)
    graph = trace(attend, (q, k)).graph
    assert cut(graph, 4) is graph


def test_one_layer_whose_weights_are_asked_for_leaves_the_others_cut() -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.softmax(x @ k.mT, -1), x

    inputs = operands(3)[:3]
    graph = trace(attend, tuple(inputs)).graph
    blocks = cut(graph, 4)
    squares = [sum(op.result.shape[-2:].count(TOKENS) == 2 for op in g.operations) for g in (graph, blocks)]
    assert 0 < squares[1] < squares[0]
    assert bits(CompiledGraph(blocks).run(inputs)) == bits(run_graph(graph, inputs, "reference"))


def test_short_attention_is_left_alone_and_long_attention_is_cut() -> None:
    for tokens, is_cut in ((512, False), (4096, True)):
        model = ModelConfig(vocabulary=16, width=16, layers=1, heads=1, hidden=8, context=tokens)
        training = TrainingConfig(batch=1, learning_rate=1e-2, warmup_steps=1, total_steps=10)
        arguments = (example_state(model), torch.zeros(1, tokens + 1, dtype=torch.int32))
        graph = trace(make_training_step(model, training), arguments).graph
        assert (cut_scores(graph) is not graph) == is_cut


@pytest.mark.parametrize("family", ["GPT2", "Gemma2"])
def test_models_of_others_are_cut_too(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "head_dim": 4}
    sizes |= {"num_key_value_heads": 1, "num_hidden_layers": 1, "max_position_embeddings": 32, "sliding_window": 6}
    old = {"vocab_size": 16, "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 32}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "attn_implementation": "eager"}
    config = getattr(transformers, f"{family}Config")(**(old if family == "GPT2" else sizes), **none)
    kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(0)
    step = make_step(getattr(transformers, kind)(config).eval(), next_token_loss, AdamW(learning_rate=1e-3))
    arguments = (step.initial_state(), torch.randint(0, 16, (BATCH, 19)))
    graph, inputs = trace(step, arguments).graph, flatten(arguments, "arguments")[1]
    tokens = 18 if has_square(graph, 18) else 19
    blocks = cut(graph, 5, tokens)
    assert has_square(graph, tokens)
    assert not has_square(blocks, tokens)
    assert bits(CompiledGraph(blocks).run(inputs)) == bits(run_graph(graph, inputs, "torch"))
