"""Compiled Programs, kept: one plan for each root, thread count and recomputation."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import torch

from cupel.protocol.arithmetic.cuda_backend import plan_for
from cupel.protocol.arithmetic.engines import EVALUATORS, walk
from cupel.protocol.arithmetic.operations import Graph
from cupel.protocol.arithmetic.recomputation import Recompute


class Plan(Protocol):
    """A graph compiled for this machine."""

    def run(self, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]: ...


_KEPT = 64
_plans: OrderedDict[tuple[bytes, int, Recompute], Plan] = OrderedDict()
_lock = threading.Lock()


def run_kept(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    backend: str,
    key: bytes,
    threads: int,
    recompute: Recompute = "none",
) -> list[torch.Tensor]:
    """The outputs of `graph`, which `key` names: what is compiled for it is kept under key, threads and recomputation.

    Outputs may share memory with inputs, constants and each other.
    """
    if backend == "cpu":
        return list(_plan(graph, key, threads, recompute).run(inputs))
    if backend == "cuda":
        return plan_for(graph, key).run(inputs)
    wanted = set(graph.outputs)
    kept = {value: tensor for value, tensor in walk(graph, inputs, EVALUATORS[backend]) if value in wanted}
    return [kept[value] for value in graph.outputs]


def _plan(graph: Graph, key: bytes, threads: int, recompute: Recompute) -> Plan:
    from cupel.protocol.arithmetic.cpu import compile_graph

    with _lock:
        if (key, threads, recompute) not in _plans:
            _plans[key, threads, recompute] = compile_graph(graph, threads=threads, recompute=recompute)
            if len(_plans) > _KEPT:
                _plans.popitem(last=False)
        _plans.move_to_end((key, threads, recompute))
        return _plans[key, threads, recompute]
