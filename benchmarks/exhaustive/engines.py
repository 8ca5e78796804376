"""The engines under test, as functions from bit patterns to bit patterns, and how often each asked the definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cupel.protocol.arithmetic import exact_functions, reference, torch_backend
from cupel.protocol.arithmetic.cpu import compile_graph, isa, native
from cupel.protocol.arithmetic.cpu.plan import build
from cupel.protocol.arithmetic.operations import UNARY_FLOAT, DType, Graph, Opcode, Operation, Rounding, TensorType
from exhaustive.mpfr import INFINITY, NAN, SIGN
from exhaustive.oracle import Bits

CHUNK = 1 << 18
"""Arguments a call."""

FUNCTIONS: dict[str, tuple[Opcode, tuple[int, ...]]] = {
    **{opcode.name.lower(): (opcode, ()) for opcode in (*sorted(UNARY_FLOAT), Opcode.NEG, Opcode.ABS)},
    **{f"round_{r.name.lower()}": (Opcode.ROUND, (int(r),)) for r in Rounding},
}
"""Every operation of one float32 argument with a float32 result, by the name the command takes."""

BACKENDS = ("cpu", "torch", "reference")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked."""

    function: str
    """A key of FUNCTIONS."""
    backend: str
    isa: str
    """Of the cpu engine's instruction sets; empty for other engines."""

    def operation(self, size: int = CHUNK) -> Operation:
        opcode, attributes = FUNCTIONS[self.function]
        return Operation(opcode, (0,), TensorType(DType.FLOAT32, (size,)), attributes)

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.function, self.backend, self.isa) if part)


class Engine:
    """One operation on one engine, `size` arguments a call."""

    def __init__(self, subject: Subject, size: int = CHUNK) -> None:
        operation = subject.operation(size)
        self._backend = subject.backend
        # They pass NaN on. Others than the one NaN are malformed, and refused before any engine sees them.
        self._passes_on = operation.opcode not in UNARY_FLOAT
        self._input = torch.zeros(size, dtype=torch.int32)
        self._input_bits = self._input.numpy().view(np.uint32)
        self._output = torch.zeros(size)
        self._run = self._runner(operation, subject)
        self._steps = np.arange(size, dtype=np.uint32)

    def _runner(self, operation: Operation, subject: Subject) -> Callable[[], None]:
        x, out = self._input.view(torch.float32), self._output
        if subject.backend == "cpu":
            compiled = compile_graph(_graph(operation), threads=1, instruction_set=subject.isa)
            return lambda: (compiled.run([x], out=[out]), None)[1]
        evaluate = {"torch": torch_backend.evaluate, "reference": reference.evaluate}[subject.backend]
        return lambda: (out.copy_(evaluate(operation, [x])), None)[1]

    def run(self, first: int) -> Bits:
        """The results' bits for the patterns from `first` on; overwritten by the next call."""
        np.add(self._steps, np.uint32(first), out=self._input_bits)
        if self._passes_on and first & INFINITY == INFINITY:
            bits = self._input_bits
            bits[(bits & ~np.uint32(SIGN)) > INFINITY] = NAN
        self._run()
        return self._output.numpy().view(np.uint32)

    def slow_paths(self) -> int:
        """How many arguments this process has sent to the definition, so far."""
        if self._backend == "reference":
            return 0
        info = (native._exact if self._backend == "cpu" else exact_functions.exact).cache_info()
        return info.hits + info.misses


def _graph(operation: Operation) -> Graph:
    return Graph((operation.result,), (), (operation,), (1,))


def llvm_code(subject: Subject) -> str:
    """What the cpu engine makes of the operation, before LLVM sees it."""
    return str(build(_graph(subject.operation()), isa.choose(subject.isa), 1, native.triple(), clocked=False).ir)


def best_isa() -> str:
    return isa.choose().name
