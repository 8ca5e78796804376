"""Rewriting a graph for one engine: the same values by other operations, never part of a Program.

A rewritten graph computes some things twice on purpose, so that they need not wait in memory. Its operations carry
phases, and an engine shares no result between two of them: what is equal in another phase is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from cupel.protocol.arithmetic.operations import ELEMENTWISE, Graph, Opcode, Operation, TensorType


@dataclass(frozen=True, slots=True, eq=False)
class PhasedGraph(Graph):
    """A graph as rewritten for an engine; its inputs, outputs and bits are those of the graph it was made from."""

    phases: tuple[int, ...] = ()
    """One per operation. 0 is where the graph's own operations are, each computed once."""


def phases_of(graph: Graph) -> tuple[int, ...]:
    return graph.phases if isinstance(graph, PhasedGraph) else (0,) * len(graph.operations)


class Rewriter:
    """Appends operations to a graph with the inputs and constants of `graph`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.first = len(graph.inputs) + len(graph.constants)
        self.operations: list[Operation] = []
        self.phases: list[int] = []

    def append(self, operation: Operation, operands: Sequence[int], phase: int) -> int:
        """`operation` with these operands (ids of the new graph); its id."""
        self.operations.append(replace(operation, operands=tuple(operands)))
        self.phases.append(phase)
        return self.first + len(self.operations) - 1

    def type_of(self, value: int) -> TensorType:
        """Of a value of the new graph."""
        return self.operations[value - self.first].result if value >= self.first else self.graph.type_of(value)

    def slice(self, value: int, dim: int, start: int, size: int, phase: int) -> int:
        type_ = self.type_of(value)
        if type_.shape[dim] == size:
            return value
        shape = (*type_.shape[:dim], size, *type_.shape[dim + 1 :])
        return self.append(
            Operation(Opcode.SLICE, (), TensorType(type_.dtype, shape), (dim, start, 1)), (value,), phase
        )

    def finish(self, outputs: Sequence[int]) -> PhasedGraph:
        graph = self.graph
        return PhasedGraph(graph.inputs, graph.constants, tuple(self.operations), tuple(outputs), tuple(self.phases))


WHOLE = -1
"""Among dimensions of operands: this one is taken whole."""


def operand_dims(operation: Operation, types: Sequence[TensorType], dim: int) -> list[int] | None:
    """For a part of the result along `dim`, the dimension along which each operand is cut to the same part.

    `WHOLE` where an operand is needed whole. None where a part of the result is no operation on parts.
    """
    code, shape = operation.opcode, operation.result.shape
    rank = len(shape)
    if code in ELEMENTWISE:
        return [dim] * len(types)
    if code == Opcode.RESHAPE:
        found = same_dim(shape, dim, types[0].shape)
        return None if found is None else [found]
    if code == Opcode.PERMUTE:
        return [operation.attributes[dim]]
    if code == Opcode.EXPAND:
        return [dim if types[0].shape[dim] == shape[dim] else WHOLE]
    if code == Opcode.SLICE:
        return None if operation.attributes[0] == dim else [dim]
    if code == Opcode.PAD:
        return [dim] if types[0].shape[dim] == shape[dim] else None
    if code == Opcode.CONCAT:
        return None if operation.attributes[0] == dim else [dim] * len(types)
    if code == Opcode.IOTA:
        return None if operation.attributes[0] == dim else []
    if code in (Opcode.SUM, Opcode.MAX, Opcode.MIN, Opcode.ARGMAX, Opcode.ARGMIN, Opcode.EXPONENT):
        return [dim]
    if code == Opcode.QUANTIZE:
        return [dim, WHOLE if dim == rank - 1 else dim]
    if code == Opcode.EXPONENT_SCALED:
        return [dim, WHOLE if dim == rank - 1 else dim]
    if code == Opcode.QUANTIZE_SCALED:
        return None if dim == rank - 1 else [dim, WHOLE if dim == rank - 2 else dim, dim]
    if code in (Opcode.DOT, Opcode.DOT_ROWS):
        if dim < rank - 2:
            return [dim] * len(types)
        # Left and right take turns among exponents (DOT_ROWS has only the left's) and planes. Rows of an operand stand
        # at the same place in its planes and in its exponents.
        exponents = 2 if code == Opcode.DOT else 1
        sides = [n if n < exponents else (n - exponents) % 2 for n in range(len(types))]
        return [rank - 2 if side == dim - (rank - 2) else WHOLE for side in sides]
    return None


def same_dim(shape: Sequence[int], dim: int, other: Sequence[int]) -> int | None:
    """The dimension of the reshaped `other` that is `shape`'s `dim`: of the same size, with as much after it."""
    after = prod(shape[dim + 1 :])
    for d, size in enumerate(other):
        if size == shape[dim] and size > 1 and prod(other[d + 1 :]) == after:
            return d
    return None
