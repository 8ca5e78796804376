"""The stored twenty steps of a small GPT: every engine, instruction set and thread count walks the same states.

The definition takes two seconds a step: its first is in its self-test (test_arithmetic_functions.py). All twenty of it
and of torch were compared when the vectors were made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from cupel.protocol import arithmetic
from cupel.protocol.arithmetic import cases, engines, steps, torch_backend
from cupel.protocol.arithmetic.cpu import isa
from cupel.protocol.arithmetic.operations import Graph, Opcode
from cupel.protocol.errors import BackendUnfit

STORED = engines.stored_vectors()["training"]
THREADS = (1, 2, 4)
TORCH_STEPS = 7
SETS = list(zip(isa.supported(), itertools.cycle(THREADS), strict=False))
"""Each instruction set and each thread count at least once, where three sets run; the portable one always."""


@pytest.fixture
def fresh() -> object:
    """No verdicts and no plans of earlier tests, nor of this one later."""

    def clear() -> None:
        engines._verdict.cache_clear()
        engines._steps_verdict.cache_clear()
        with engines._plans_lock:
            engines._plans.clear()

    clear()
    yield
    clear()


def walked(backend: engines.Backend, count: int, threads: int = 1) -> list[list[str]]:
    return list(itertools.islice(engines.step_hashes(backend, STORED["seed"], threads=threads), count))


def test_twenty_steps_of_the_stored_program_are_stored() -> None:
    assert steps.program().root.hex() == STORED["program"]
    assert len(STORED["steps"]) == steps.COUNT == 20
    roots = [root for root, _, _ in STORED["steps"]]
    assert len(set(roots)) == len(roots)


@pytest.mark.parametrize(("name", "threads"), SETS)
def test_the_compiled_engine_walks_the_stored_steps(
    fresh: object, monkeypatch: pytest.MonkeyPatch, name: str, threads: int
) -> None:
    monkeypatch.setenv("CUPEL_ISA", name)
    assert walked("cpu", steps.COUNT, threads) == STORED["steps"]


def test_the_torch_engine_walks_the_stored_steps() -> None:
    assert walked("torch", TORCH_STEPS) == STORED["steps"][:TORCH_STEPS]


def test_the_steps_hold_hard_sizes() -> None:
    types = steps.program().inputs
    assert types["1"].shape == (3, 14)
    assert types["0.weights.embedding.weight"].shape == (67, 24)
    products = {op.opcode for op in steps.program().operations} & {Opcode.DOT, Opcode.DOT_ROWS, Opcode.INDEX_ADD}
    assert len(products) == 3


def spoiled(opcode: Opcode) -> Callable[..., torch.Tensor]:
    """The torch engine with one bit of one result of `opcode` wrong."""

    def evaluate(op, xs):  # type: ignore[no-untyped-def]
        result = torch_backend.evaluate(op, xs)
        if op.opcode != opcode or result.numel() < 100:
            return result
        flipped = result.clone().view(torch.int32)
        flipped.view(-1)[7] ^= 1
        return flipped.view(torch.float32)

    return evaluate


def test_a_step_that_is_one_bit_off_makes_the_engine_unfit(fresh: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if no stored operation had noticed.
    monkeypatch.setattr(engines, "self_test_hashes", lambda *a: engines.stored_vectors()["results"])
    monkeypatch.setitem(engines.EVALUATORS, "torch", spoiled(Opcode.DIV))
    with pytest.raises(BackendUnfit, match=r"^torch: training step 0 gives [0-9a-f]{64}, .*another backend$"):
        arithmetic.self_test("torch")


def test_threads_that_disagree_make_the_engine_unfit(fresh: object, monkeypatch: pytest.MonkeyPatch) -> None:
    engines._verdict.cache_clear()
    monkeypatch.setattr(engines, "_verdict", lambda backend: None)
    honest = engines._compiled

    def compiled(graph: Graph, threads: int = 1) -> engines.Run:
        run = honest(graph)  # the kernels of one thread, so that nothing is compiled twice
        if threads == 1:
            return run

        def wrong(inputs):  # type: ignore[no-untyped-def]
            outputs = run(inputs)
            outputs[0].view(torch.int32).view(-1)[3] ^= 1
            return outputs

        return wrong

    monkeypatch.setattr(engines, "_compiled", compiled)
    with pytest.raises(BackendUnfit, match=r"^cpu, 2 threads: training step 0 gives"):
        arithmetic.self_test("cpu", threads=2)
    arithmetic.self_test("cpu")


def test_states_and_tokens_come_from_the_seed_alone() -> None:
    first, second = (steps.start(cases.Words(seed)) for seed in (STORED["seed"], STORED["seed"] + 1))
    again = steps.start(cases.Words(STORED["seed"]))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weights.embedding.weight"], second["weights.embedding.weight"])
    sizes = first["weights.embedding.weight"].abs()
    assert 2.0**-9 < sizes.min() <= sizes.max() < 2.0**-3
