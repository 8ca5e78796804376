"""What a backward pass computes again has the same bits, and need not wait in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cupel.protocol.arithmetic.cpu import compile_graph, isa, native
from cupel.protocol.arithmetic.cpu.plan import build
from cupel.protocol.arithmetic.engines import run_graph
from cupel.protocol.arithmetic.operations import Graph, Opcode, check_operation
from cupel.protocol.arithmetic.phases import phases_of
from cupel.protocol.arithmetic.recomputation import RECOMPUTE, prepare, recompute_late
from cupel.protocol.errors import UsageError
from cupel.protocol.program import run, trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.modules import make_step
from cupel.protocol.training.optimisers import AdamW
from cupel.protocol.training.state import example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step

MODEL = ModelConfig(vocabulary=32, width=16, layers=3, heads=2, hidden=24, context=16)
TRAINING = TrainingConfig(batch=8, learning_rate=1e-2, warmup_steps=1, total_steps=10)


def step_of(model: ModelConfig, training: TrainingConfig) -> tuple[Callable[..., object], tuple[object, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    state = example_state(model)
    for name, weight in state["weights"].items():
        state["weights"][name] = torch.randn(weight.shape, generator=generator)
    shape = (training.batch, model.context + 1)
    tokens = torch.randint(0, model.vocabulary, shape, generator=generator, dtype=torch.int32)
    return make_training_step(model, training), (state, tokens)


@pytest.fixture(scope="module")
def step() -> tuple[Graph, list[torch.Tensor]]:
    function, arguments = step_of(MODEL, TRAINING)
    return trace(function, arguments).graph, flatten(arguments, "arguments")[1]


def bits(tensors: list[torch.Tensor]) -> list[bytes]:
    return [t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]


def arena_bytes(graph: Graph) -> int:
    """Of the plan alone: nothing is compiled."""
    return build(graph, isa.choose(), 1, native.triple()).arena_bytes


def test_recomputed_steps_have_the_same_bits(step: tuple[Graph, list[torch.Tensor]]) -> None:
    graph, inputs = step
    expected = bits(run_graph(graph, inputs, "torch"))
    assert bits(run_graph(prepare(graph, "all"), inputs, "torch")) == expected
    assert bits(compile_graph(graph, threads=2, recompute="all").run(inputs)) == expected


def test_recomputing_everything_needs_far_less_memory(step: tuple[Graph, list[torch.Tensor]]) -> None:
    graph, _ = step
    assert arena_bytes(prepare(graph, "all")) < 0.5 * arena_bytes(graph)


def test_copies_are_in_phases_of_their_own_and_well_typed(step: tuple[Graph, list[torch.Tensor]]) -> None:
    graph, _ = step
    rewritten = recompute_late(graph)
    copies = sum(phase > 0 for phase in phases_of(rewritten))
    assert len(rewritten.operations) == len(graph.operations) + copies
    assert copies > 50
    first = len(rewritten.inputs) + len(rewritten.constants)
    for at, op in enumerate(rewritten.operations):
        assert all(v < first + at for v in op.operands)
        check_operation(op, [rewritten.type_of(v) for v in op.operands])


def test_copies_merged_with_what_they_copy_would_save_nothing(step: tuple[Graph, list[torch.Tensor]]) -> None:
    graph, _ = step
    rewritten = recompute_late(graph)
    merged = Graph(rewritten.inputs, rewritten.constants, rewritten.operations, rewritten.outputs)
    assert arena_bytes(merged) > 1.3 * arena_bytes(rewritten)


def test_dropout_is_recomputed_with_the_same_bits() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.Dropout(0.3)) for _ in range(5)]
    module = torch.nn.Sequential(*layers)

    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = (model(x) ** 2).mean()
        return result

    training = make_step(module, loss, AdamW(learning_rate=1e-2), dropout_seed=bytes(32))
    arguments = (training.initial_state(), torch.randn(256, 16))
    graph, inputs = trace(training, arguments).graph, flatten(arguments, "arguments")[1]
    assert any(op.opcode == Opcode.PHILOX for op in graph.operations)
    rewritten = recompute_late(graph)
    assert rewritten is not graph
    assert bits(compile_graph(graph, recompute="all").run(inputs)) == bits(run_graph(graph, inputs, "torch"))


def test_what_saves_nothing_is_left_alone() -> None:
    graph = trace(lambda x: (x * x).sum(), (torch.ones(8),)).graph
    assert recompute_late(graph) is graph


def test_a_program_runs_with_each_way_and_refuses_others() -> None:
    program = trace(lambda x: torch.tanh(x) * x, (torch.ones(8),))
    root = program.root
    results = [run(program, (torch.linspace(-1, 1, 8),), "cpu", recompute=how) for how in RECOMPUTE]
    assert len({bits([r])[0] for r in results}) == 1
    assert program.root == root
    with pytest.raises(UsageError, match="recompute is 'some'; take one of none, attention, all"):
        run(program, (torch.ones(8),), recompute="some")  # type: ignore[call-overload]
