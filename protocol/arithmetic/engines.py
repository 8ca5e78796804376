"""Evaluating a graph on an engine, and finding out whether an engine is fit for this machine.

`reference` is the definition, `torch` plain PyTorch, `cpu` the compiled kernels, `cuda` an NVIDIA GPU. All give the
same bits; a node asks `self_test` before it believes that of its own hardware.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Literal, cast

import torch

from cupel.protocol.arithmetic import cases, cuda_backend, reference, steps, torch_backend
from cupel.protocol.arithmetic.operations import Graph, Operation, TensorType
from cupel.protocol.errors import BackendUnfit, UsageError

Backend = Literal["auto", "reference", "torch", "cpu", "cuda"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference", "torch", "cpu", "cuda")
Evaluate = Callable[[Operation, Sequence[torch.Tensor]], torch.Tensor]
EVALUATORS: dict[str, Evaluate] = {
    "reference": reference.evaluate,
    "torch": torch_backend.evaluate,
    "cuda": cuda_backend.evaluate,
}

SELF_TEST = "self_test.json"
_PLANS_KEPT = 256
_STEPS_AT_START = {"reference": 1, "torch": 4}
"""Steps of the stored twenty that a node's self-test takes where a step is slow; the others take all."""


def walk(graph: Graph, inputs: Sequence[torch.Tensor], evaluate: Evaluate) -> Iterator[tuple[int, torch.Tensor]]:
    """(value id, tensor) of every value in order, inputs and constants first; each is let go after its last use."""
    first = len(graph.inputs) + len(graph.constants)
    last_use = {value: at for at, operation in enumerate(graph.operations) for value in operation.operands}
    values = dict(enumerate([*inputs, *graph.constants]))
    yield from list(values.items())
    for at, operation in enumerate(graph.operations):
        result = evaluate(operation, [values[value] for value in operation.operands])
        if first + at in last_use:
            values[first + at] = result
        yield first + at, result
        for value in set(operation.operands):
            if last_use[value] == at:
                del values[value]


def run_graph(graph: Graph, inputs: Sequence[torch.Tensor], backend: Backend = "auto") -> list[torch.Tensor]:
    """The outputs of `graph`, which may share memory with inputs. Compiled graphs are kept for the next call.

    Raises  UsageError for an unknown backend; BackendUnfit if it is `cpu` or `cuda` and this machine cannot run it
    """
    chosen = choose_backend(backend)
    if chosen == "cpu":
        return _compiled(graph)(inputs)
    if chosen == "cuda":
        return cuda_backend.plan_for(graph, _key(graph)).run(inputs)
    wanted = set(graph.outputs)
    kept = {value: tensor for value, tensor in walk(graph, inputs, EVALUATORS[chosen]) if value in wanted}
    return [kept[value] for value in graph.outputs]


def choose_backend(backend: str) -> Backend:
    """`auto` becomes `cpu` where that engine passes its self-test on this machine, else `torch`."""
    if backend not in BACKENDS:
        raise UsageError(f"no backend is called {backend!r}; take one of {', '.join(BACKENDS)}")
    if backend == "auto":
        return "cpu" if _verdict("cpu") is None else "torch"
    return cast(Backend, backend)


# Compiled graphs

Run = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
_plans: OrderedDict[object, Run] = OrderedDict()
_plans_lock = threading.Lock()


def _key(graph: Graph) -> tuple[object, ...]:
    constants = tuple((TensorType.of(c), _bytes(c)) for c in graph.constants)
    return graph.inputs, constants, graph.operations, graph.outputs


def _compiled(graph: Graph, threads: int = 1) -> Run:
    key = (*_key(graph), threads)
    with _plans_lock:
        if key not in _plans:
            _plans[key] = _compile(graph, threads)
            if len(_plans) > _PLANS_KEPT:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
        return _plans[key]


def _compile(graph: Graph, threads: int) -> Run:
    try:
        from cupel.protocol.arithmetic.cpu import compile_graph
    except ImportError as missing:
        raise BackendUnfit(f"cpu: {missing}; install llvmlite, or use the torch backend") from missing
    plan = compile_graph(graph, threads=threads)
    return lambda inputs: list(plan.run(list(inputs)))


# Fitness


def self_test(backend: str, *, threads: int = 1) -> None:
    """Compute the stored cases and steps of a small GPT on `backend`; the verdict is kept for the process's life.

    threads  for the steps of `cpu`, so that what splits their work is tested too
    Raises   BackendUnfit naming the operations or the step whose bits differ; UsageError for an unknown backend
    """
    if backend not in BACKENDS or backend == "auto":
        raise UsageError(
            f"no engine is called {backend!r}; take one of {', '.join(b for b in BACKENDS if b != 'auto')}"
        )
    verdict = _verdict(backend)
    if verdict is None and threads > 1 and backend == "cpu":
        verdict = _steps_verdict(backend, threads)
    if verdict is not None:
        raise BackendUnfit(verdict)


def stored_vectors() -> dict[str, Any]:
    """The package's self_test.json: `seed`, `size` and `results` of the operations, `training` of the steps."""
    stored: dict[str, Any] = json.loads(resources.files("cupel.protocol.arithmetic").joinpath(SELF_TEST).read_text())
    return stored


@functools.cache
def _verdict(backend: str) -> str | None:
    """None if fit, else what is wrong."""
    stored = stored_vectors()
    try:
        results = self_test_hashes(cast(Backend, backend), stored["seed"], stored["size"])
    except BackendUnfit as unfit:
        return str(unfit)
    wrong = [name for name, expected in stored["results"].items() if results.get(name) != expected]
    if not wrong:
        return _steps_verdict(backend, 1)
    shown = ", ".join(wrong[:8]) + (f" and {len(wrong) - 8} more" if len(wrong) > 8 else "")
    return f"{backend}: {shown}: not the stored bits; this machine must use another backend"


@functools.cache
def _steps_verdict(backend: str, threads: int) -> str | None:
    stored = stored_vectors()["training"]
    expected = stored["steps"][: _STEPS_AT_START.get(backend)]
    got = step_hashes(cast(Backend, backend), stored["seed"], threads=threads)
    for number, (wanted, found) in enumerate(zip(expected, got, strict=False)):
        if wanted != found:
            how = f"{backend}, {threads} threads" if threads > 1 else backend
            return (
                f"{how}: training step {number} gives {', '.join(found)}, not the stored {', '.join(wanted)}; "
                "this machine must use another backend"
            )
    return None


def self_test_hashes(backend: Backend, seed: int, size: int) -> dict[str, str]:
    """What every stored case hashes to on `backend`, by name."""
    together = cases.together(seed, size)
    outputs = run_graph(together.graph, together.inputs, backend)
    return {name: short_hash(tensor) for name, tensor in zip(together.names, outputs, strict=True)}


def step_hashes(backend: Backend, seed: int, *, threads: int = 1) -> Iterator[list[str]]:
    """State root, loss and gradient norm, in hexadecimal, after each step of the small GPT; without end."""

    def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return run_graph(graph, inputs, backend) if threads == 1 else _compiled(graph, threads)(inputs)

    for step in steps.walk_steps(seed, run):
        yield [step.root.hex(), f"{step.loss:08x}", f"{step.gradient_norm:08x}"]


def short_hash(tensor: torch.Tensor) -> str:
    """First 8 bytes of SHA-256 over type, shape and bytes: against error, not against an adversary."""
    return hashlib.sha256(str(TensorType.of(tensor)).encode() + _bytes(tensor)).hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
