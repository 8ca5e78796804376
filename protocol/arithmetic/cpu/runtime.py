"""Running a compiled graph: memory, pointers, threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cupel.protocol.arithmetic.cpu import cache, native
from cupel.protocol.arithmetic.cpu import isa as instruction_sets
from cupel.protocol.arithmetic.cpu.building import evaluate
from cupel.protocol.arithmetic.cpu.plan import PythonStep, Slice, build, table_slot
from cupel.protocol.arithmetic.cpu.results import Results
from cupel.protocol.arithmetic.operations import Graph, TensorType
from cupel.protocol.arithmetic.recomputation import Recompute, prepare
from cupel.protocol.errors import MalformedTensor, UsageError

_ALIGN = 64
_MAX_THREADS = 256


@dataclass(frozen=True, slots=True)
class _Expected:
    """A TensorType in torch's own words: they are compared for every tensor of every run."""

    dtype: torch.dtype
    shape: torch.Size
    described: str

    @staticmethod
    def of(type_: TensorType) -> _Expected:
        return _Expected(type_.dtype.torch, torch.Size(type_.shape), str(type_))


class CompiledGraph:
    """A graph as machine code. Callers in several threads wait for each other, because intermediates lie in one memory;
    every call gives the same bits, whatever the thread count."""

    def __init__(
        self, graph: Graph, *, threads: int = 1, instruction_set: str | None = None, clocked: bool = False
    ) -> None:
        """`clocked` code calls the symbol cupel_tick after each kernel, with the kernel's number."""
        if not 1 <= threads <= _MAX_THREADS:
            raise UsageError(f"threads must lie in 1..{_MAX_THREADS}, not {threads}")
        self.graph, self.threads = graph, threads
        self.instruction_set = instruction_sets.choose(instruction_set)
        name = cache.key(graph, self.instruction_set, threads, native.triple(), clocked=clocked)
        stored = cache.load(name)
        self.from_cache = stored is not None
        if stored is None:
            self.plan = build(graph, self.instruction_set, threads, native.triple(), clocked=clocked)
            code = native.machine_code(self.plan.ir, self.instruction_set)
            cache.store(name, cache.encode(self.plan, code))
        else:
            self.plan, code = cache.decode(stored)
        self.native = native.Native(code, self.plan.entries, self.instruction_set)
        self._memory = torch.zeros(self.plan.arena_bytes + _ALIGN, dtype=torch.uint8)
        self._arena = -(-self._memory.data_ptr() // _ALIGN) * _ALIGN
        slots = 1 + len(graph.inputs) + len(graph.outputs) + len(self.plan.constants)
        self._table = np.zeros(slots, np.uint64)
        self._table[0] = self._arena
        for i, tensor in enumerate(self.plan.constants):
            self._table[table_slot(graph, ("constant", i))] = tensor.data_ptr()
        self._sync = np.zeros(24, np.uint64)
        self._input_types = [_Expected.of(t) for t in graph.inputs]
        self._output_types = [_Expected.of(graph.type_of(v)) for v in graph.outputs]
        self._results = Results([(t.dtype, t.shape) for t in self._output_types])
        self._busy = threading.Lock()

    def run(self, inputs: Sequence[torch.Tensor], out: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The outputs, contiguous; in `out` where given, which must not share memory with the inputs.

        Raises  MalformedTensor: an input or a member of `out` has another type or shape than the graph says
        """
        with self._busy:
            return self._run(inputs, out)

    def _run(self, inputs: Sequence[torch.Tensor], out: Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
        held = self._checked("input", inputs, self._input_types)
        if out is None:
            outputs = self._results.fresh()
        else:
            outputs = self._checked("out", out, self._output_types)
            if any(a is not b for a, b in zip(outputs, out, strict=True)):
                raise MalformedTensor("out must be contiguous CPU tensors")
        tensors = [*held, *outputs]
        self._table[1 : 1 + len(tensors)] = [t.data_ptr() for t in tensors]
        failed_before = len(native.failures)
        done = 0
        for step in self.plan.python_steps:
            self._native(done)
            done = step.after + 1
            self._python(step, held, outputs)
        self._native(done)
        if len(native.failures) > failed_before:
            raise native.failures[-1]
        return outputs

    @staticmethod
    def _checked(what: str, tensors: Sequence[torch.Tensor], types: Sequence[_Expected]) -> list[torch.Tensor]:
        if len(tensors) != len(types):
            raise MalformedTensor(f"{len(tensors)} tensors as {what}, the graph has {len(types)}")
        result = []
        for i, (tensor, expected) in enumerate(zip(tensors, types, strict=True)):
            if tensor.dtype is not expected.dtype or tensor.shape != expected.shape:
                raise MalformedTensor(
                    f"{what} {i} is {tensor.dtype}{list(tensor.shape)}, the graph says {expected.described}"
                )
            result.append(tensor.detach().cpu().contiguous() if _must_copy(tensor) else tensor)
        return result

    def _native(self, entry: int) -> None:
        function = self.native.entries[entry]
        table, sync = self._table.ctypes.data, self._sync.ctypes.data
        sync = -(-sync // _ALIGN) * _ALIGN
        if self.threads == 1:
            function(table, 0, sync)
        else:
            _workers(self.threads).run(lambda thread: function(table, thread, sync))

    def _python(self, step: PythonStep, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
        operands = [self._tensor(s, inputs, outputs) for s in step.reads]
        result = evaluate(self.graph.operations[step.operation], operands)
        self._tensor(step.write, inputs, outputs).copy_(result)

    def _tensor(self, part: Slice, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The memory of a slice as a tensor, not copied."""
        kind, number = part.place
        dtype = part.dtype.torch
        if kind == "none":
            return torch.empty(part.shape, dtype=dtype)
        size = TensorType(part.dtype, part.shape).size_bytes
        if kind == "arena":
            start = self._arena - self._memory.data_ptr() + number + part.offset_bytes
            return self._memory[start : start + size].view(dtype).reshape(part.shape)
        whole = {"input": inputs, "output": outputs, "constant": self.plan.constants}[kind][number]
        bytes_ = whole.reshape(-1).view(torch.uint8)
        return bytes_[part.offset_bytes : part.offset_bytes + size].view(dtype).reshape(part.shape)


def _must_copy(tensor: torch.Tensor) -> bool:
    return tensor.requires_grad or not tensor.is_cpu or not tensor.is_contiguous()


class _Workers:
    """Threads that sleep until called. Thread 0 is the caller."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._starts = [threading.Semaphore(0) for _ in range(count - 1)]
        self._ended = threading.Semaphore(0)
        self._task: Callable[[int], object] = lambda thread: None
        for i, start in enumerate(self._starts):
            threading.Thread(target=self._work, args=(i + 1, start), name=f"cupel-cpu-{i + 1}", daemon=True).start()

    def _work(self, thread: int, start: threading.Semaphore) -> None:
        while True:
            start.acquire()
            self._task(thread)
            self._ended.release()

    def run(self, task: Callable[[int], object]) -> None:
        with self._lock:
            self._task = task
            for start in self._starts:
                start.release()
            task(0)
            for _ in self._starts:
                self._ended.acquire()


@functools.cache
def _workers(count: int) -> _Workers:
    return _Workers(count)


if hasattr(os, "register_at_fork"):
    # A child has the pool's memory but none of its threads: it would wait for them for ever.
    os.register_at_fork(after_in_child=_workers.cache_clear)


def compile_graph(
    graph: Graph, *, threads: int = 1, instruction_set: str | None = None, recompute: Recompute = "none"
) -> CompiledGraph:
    """Machine code for `graph`: see CompiledGraph.

    instruction_set  "avx512vnni", "avx2" or "portable"; by default CUPEL_ISA or this machine's best
    recompute        what a backward pass computes again instead of keeping it (recomputation.py)
    Raises           UsageError: that set is unknown or this processor lacks it, or no such recomputation
    """
    return CompiledGraph(prepare(graph, recompute), threads=threads, instruction_set=instruction_set)
