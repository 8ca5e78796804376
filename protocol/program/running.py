"""Running a Program on actual tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, overload

import torch

from cupel.protocol.arithmetic.canonical import check_canonical
from cupel.protocol.arithmetic.engines import EVALUATORS, choose_backend, walk
from cupel.protocol.arithmetic.recomputation import Recompute, check_recompute
from cupel.protocol.errors import MalformedTensor
from cupel.protocol.program.engines import run_kept
from cupel.protocol.program.program import Program
from cupel.protocol.program.structure import match, unflatten
from cupel.protocol.program.traces import Trace, make_trace


@overload
def run(
    program: Program,
    args: Any,
    backend: str = "auto",
    trace: Literal[False] = False,
    *,
    threads: int = 1,
    recompute: Recompute = "none",
) -> Any: ...


@overload
def run(
    program: Program, args: Any, backend: str = "auto", *, trace: Literal[True], threads: int = 1
) -> tuple[Any, Trace]: ...


def run(
    program: Program,
    args: Any,
    backend: str = "auto",
    trace: bool = False,
    *,
    threads: int = 1,
    recompute: Recompute = "none",
) -> Any:
    """What the traced function returns for `args`, in the same structure, to the last bit on every backend.

    args       a list or tuple: the positional arguments the Program was traced with
    backend    "auto", "cpu", "torch" or "reference" (docs/design/programs.md, "Engines")
    trace      also return the tensor root of every operation's result, in order: (result, roots)
    threads    for "cpu"; the bits do not depend on it
    recompute  for "cpu": "attention" or "all" lets a backward pass compute again what it would have kept: less memory,
               more time, the same bits
    Raises     MalformedTensor naming the argument whose structure, type, shape or NaN bits are wrong; UsageError for
               another `recompute`
    """
    inputs = _checked_inputs(program, args)
    check_recompute(recompute)
    chosen = choose_backend(backend)
    if not trace:
        outputs = run_kept(program.graph, inputs, chosen, program.root, threads, recompute)
        return _apart(program, outputs, inputs)
    outputs, traced = _run_traced(program, inputs, chosen, threads)
    return _apart(program, outputs, inputs), traced


def _checked_inputs(program: Program, args: Any) -> list[torch.Tensor]:
    def check(name: str, index: int, tensor: torch.Tensor) -> torch.Tensor:
        expected = program.graph.inputs[index]
        if tensor.dtype != expected.dtype.torch or tuple(tensor.shape) != expected.shape:
            got = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            raise MalformedTensor(f"{name}: expected {expected}, got {got}")
        check_canonical(tensor, name)
        return tensor.detach().contiguous()

    return match(program.structure.arguments, tuple(args) if isinstance(args, list) else args, check)


def flat_inputs(program: Program, args: Any) -> list[torch.Tensor]:
    """The tensors of `args` in the order of the Program's inputs, checked as `run` does."""
    return _checked_inputs(program, args)


def _run_traced(
    program: Program, inputs: list[torch.Tensor], backend: str, threads: int
) -> tuple[list[torch.Tensor], Trace]:
    graph = program.graph
    first = len(graph.inputs) + len(graph.constants)
    if backend == "cpu":
        # Every result as an output: nothing is fused away, and all of them are in memory at once.
        everything = replace(graph, outputs=(*graph.outputs, *range(first, first + len(graph.operations))))
        results = run_kept(everything, inputs, backend, b"traced" + program.root, threads)
        n = len(graph.outputs)
        return results[:n], make_trace(program, iter(enumerate([*inputs, *graph.constants, *results[n:]])))
    kept: dict[int, torch.Tensor] = {}

    def values() -> Iterator[tuple[int, torch.Tensor]]:
        wanted = set(graph.outputs)
        for value, tensor in walk(graph, inputs, EVALUATORS[backend]):
            if value in wanted:
                kept[value] = tensor
            yield value, tensor

    traced = make_trace(program, values())
    return [kept[value] for value in graph.outputs], traced


def _apart(program: Program, outputs: list[torch.Tensor], inputs: list[torch.Tensor]) -> Any:
    """The result, its tensors sharing memory with no argument, constant or each other: a caller may write into them."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, *program.graph.constants)}
    apart = []
    for tensor in outputs:
        fresh = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(fresh.untyped_storage().data_ptr())
        apart.append(fresh.contiguous())
    return unflatten(program.structure.result, apart)
