"""Running a graph: operation by operation on the definition or on plain PyTorch, or compiled whole."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from cupel.protocol.arithmetic.operations import Graph, Opcode, Operation, TensorType
from cupel.protocol.errors import BackendUnfit, UsageError

BACKENDS = ("auto", "reference", "torch", "cpu")

Evaluate = Callable[[Operation, Sequence[torch.Tensor]], torch.Tensor]


class Plan(Protocol):
    """A graph compiled for this machine."""

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]: ...


def evaluator(backend: str) -> Evaluate:
    """The function that computes one operation: `reference` or `torch`."""
    if backend == "reference":
        from cupel.protocol.arithmetic import reference

        return reference.evaluate
    from cupel.protocol.arithmetic import torch_backend

    return torch_backend.evaluate


def walk(graph: Graph, inputs: Sequence[torch.Tensor], evaluate: Evaluate) -> Iterator[tuple[int, torch.Tensor]]:
    """Every value of the graph that is an output or an operation's result, as (value id, tensor), in order.

    Each is dropped after its last use, so memory stays near what is live.
    """
    first = len(graph.inputs) + len(graph.constants)
    last_use: dict[int, int] = {}
    for at, operation in enumerate(graph.operations):
        for value in operation.operands:
            last_use[value] = at
    values: dict[int, torch.Tensor] = dict(enumerate([*inputs, *graph.constants]))
    yield from values.items()
    for at, operation in enumerate(graph.operations):
        result = evaluate(operation, [values[value] for value in operation.operands])
        assert TensorType.of(result) == operation.result, f"{operation} gave {TensorType.of(result)}"
        if first + at in last_use:
            values[first + at] = result
        yield first + at, result
        for value in set(operation.operands):
            if last_use[value] == at:
                del values[value]


def run_graph(
    graph: Graph, inputs: Sequence[torch.Tensor], backend: str, threads: int, key: bytes | None = None
) -> list[torch.Tensor]:
    """The outputs of `graph`. A compiled plan is kept under `key`, when one is given, and the thread count."""
    if backend == "cpu":
        return list(_plan(graph, key, threads).run(inputs))
    wanted = set(graph.outputs)
    kept = {value: tensor for value, tensor in walk(graph, inputs, evaluator(backend)) if value in wanted}
    return [kept[value] for value in graph.outputs]


def choose_backend(backend: str) -> str:
    """`auto` becomes `cpu` where that engine reproduces the stored vectors on this machine, else `torch`."""
    if backend not in BACKENDS:
        raise UsageError(f"no backend is called {backend!r}; take one of {', '.join(BACKENDS)}")
    if backend != "auto":
        return backend
    return "cpu" if _cpu_is_fit() else "torch"


@functools.cache
def _cpu_is_fit() -> bool:
    from cupel.protocol.arithmetic import cpu

    try:
        cpu.self_test()
    except BackendUnfit:
        return False
    return True


_PLANS_KEPT = 64
_plans: OrderedDict[tuple[bytes, int], Plan] = OrderedDict()
_plans_lock = threading.Lock()


def _plan(graph: Graph, key: bytes | None, threads: int) -> Plan:
    from cupel.protocol.arithmetic import cpu

    if key is None:
        return cpu.compile_graph(graph, threads=threads)
    with _plans_lock:
        if (key, threads) not in _plans:
            _plans[key, threads] = cpu.compile_graph(graph, threads=threads)
            if len(_plans) > _PLANS_KEPT:
                _plans.popitem(last=False)
        _plans.move_to_end((key, threads))
        return _plans[key, threads]


def evaluate_one(
    opcode: Opcode, operands: Sequence[torch.Tensor], result: TensorType, *attributes: int
) -> torch.Tensor:
    """One operation on tensors, now; what the eager side of the tracing operations computes with."""
    operation = Operation(opcode, tuple(range(len(operands))), result, attributes)
    return evaluator("torch")(operation, operands)
