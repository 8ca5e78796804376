"""What one worker does, as a graph of local operations and exchanges, while it is being built.

A `Value` is a tensor of the whole graph as the workers hold it: the same on all of them, or cut. Each worker builds the
same nodes with its own sizes, because every decision is taken from what all of them know.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cupel.protocol.arithmetic.operations import (
    ELEMENTWISE,
    DType,
    Opcode,
    Operation,
    TensorType,
    check_operation,
)
from cupel.protocol.parallel.sharding import Sharding, local_type, reshaped

_DEEPEST = 200
"""Operations through which a cut is carried towards the inputs; Python's stack ends at a thousand."""


class Exchange(enum.Enum):
    """What workers do together. Operands are what each of them has, results what each gets."""

    LARGEST = "largest"  # (x) -> MAX over the workers
    SMALLEST = "smallest"  # (x) -> MIN over the workers
    SUM_SCALES = "sum scales"  # (largest, smallest term of each row) -> two factors, exponent, special value
    FINISH_SUM = "sum"  # (int64 sums, exponent, special value) -> float32
    INTEGER_SUM = "integer sum"  # (int64) -> int64
    PRODUCT = "product"  # as DOT and DOT_ROWS over this worker's terms -> float32, whole or cut along the first dim
    MATMUL = "matmul"  # (ea, eb, a, b) as DOT of a and b quantised by ea and eb, likewise
    GATHER = "gather"  # (piece) -> whole


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the whole graph."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    tensor: torch.Tensor
    operands: tuple[int, ...] = ()
    """What other workers make it from: all of them must agree on what comes after what."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """One exchange."""

    kind: Exchange
    operands: tuple[int, ...]
    whole: TensorType
    """Of the (first) result, before it is cut."""
    sharding: Sharding | None = None
    """GATHER: how the operand is cut. PRODUCT and MATMUL: how the result is."""
    digits: int = 0
    by_rows: bool = False
    turned: tuple[bool, bool] = (False, False)
    """MATMUL: whether the terms of a and of b come first: [K, M] and [K, N]."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One result of an exchange."""

    meeting: int
    index: int


Node = Input | Constant | Operation | Meeting | Taken


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the whole graph on this worker."""

    node: int
    type: TensorType
    """Of the whole."""
    sharding: Sharding | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape


class Nodes:
    """The nodes of one worker, in order, each made once.

    All workers make the same nodes, so that a number names the same thing to each of them; what they hold differs.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.nodes: list[Node] = []
        self.types: list[TensorType] = []
        """What this worker holds."""
        self._values: dict[int, Value] = {}
        self._shared: dict[object, int] = {}
        self._sliced: dict[tuple[int, Sharding], Value] = {}

    # Making nodes

    def _append(self, node: Node, type_: TensorType) -> int:
        self.nodes.append(node)
        self.types.append(type_)
        return len(self.nodes) - 1

    def _value(self, node: int, type_: TensorType, sharding: Sharding | None) -> Value:
        value = Value(node, type_, sharding)
        self._values.setdefault(node, value)
        return value

    def input(self, index: int, type_: TensorType, sharding: Sharding | None) -> Value:
        return self._value(self._append(Input(index), local_type(type_, sharding, self.rank)), type_, sharding)

    def constant(self, tensor: torch.Tensor) -> Value:
        type_ = TensorType.of(tensor)
        return self._value(self._append(Constant(tensor), type_), type_, None)

    def empty(self, type_: TensorType, sharding: Sharding | None = None) -> Value:
        """A tensor of no elements (or, cut, of none here)."""
        local = local_type(type_, sharding, self.rank)
        key = ("empty", type_, sharding)
        if key not in self._shared:
            self._shared[key] = self._append(Constant(torch.zeros(local.shape, dtype=local.dtype.torch)), local)
        return self._value(self._shared[key], type_, sharding)

    def local(
        self,
        opcode: Opcode,
        operands: Sequence[Value],
        type_: TensorType,
        sharding: Sharding | None,
        attributes: Sequence[int] = (),
        *,
        here: Sequence[int] | None = None,
    ) -> Value:
        """An operation on what this worker holds.

        type_       of the whole result
        attributes  as for the whole
        here        attributes on this worker, where they differ
        """
        nodes = tuple(v.node for v in operands)
        # Of what is the same for all workers alone, or one of them would share what another does twice.
        key = (opcode, nodes, type_, sharding, tuple(attributes))
        if key not in self._shared:
            operation = Operation(opcode, nodes, local_type(type_, sharding, self.rank), tuple(here or attributes))
            self._shared[key] = self._append(self._or_neutral(operation), operation.result)
        return self._value(self._shared[key], type_, sharding)

    def _or_neutral(self, operation: Operation) -> Node:
        """The operation; for the largest or smallest of no terms, what changes no other worker's."""
        types = [self.types[operand] for operand in operation.operands]
        if operation.opcode in (Opcode.MAX, Opcode.MIN) and types[0].shape[-1] == 0:
            neutral = _lowest(types[0].dtype) if operation.opcode == Opcode.MAX else _highest(types[0].dtype)
            tensor = torch.full(operation.result.shape, neutral, dtype=operation.result.dtype.torch)
            return Constant(tensor, operation.operands)
        check_operation(operation, types)
        return operation

    def meet(self, meeting: Meeting, results: Sequence[tuple[TensorType, Sharding | None]]) -> list[Value]:
        if meeting not in self._shared:
            at = self._append(meeting, results[0][0])
            for index, (type_, sharding) in enumerate(results):
                self._append(Taken(at, index), local_type(type_, sharding, self.rank))
            self._shared[meeting] = at
        at = self._shared[meeting]
        return [self._value(at + 1 + i, type_, sharding) for i, (type_, sharding) in enumerate(results)]

    def gather(self, value: Value) -> Value:
        """The whole of it on every worker."""
        if value.sharding is None:
            return value
        meeting = Meeting(Exchange.GATHER, (value.node,), value.type, value.sharding)
        return self.meet(meeting, [(value.type, None)])[0]

    # Cutting what every worker has

    def sliced(self, value: Value, sharding: Sharding, depth: int = 0) -> Value:
        """This worker's piece of a whole value.

        What made the value is done on the piece alone where that gives the piece: the whole may then never be made.
        """
        assert value.sharding is None
        if value.type.elements == 0:
            return self.empty(value.type, sharding)
        key = (value.node, sharding)
        if key not in self._sliced:
            made = self._made_sliced(value, sharding, depth) if depth < _DEEPEST else None
            self._sliced[key] = made if made is not None else self._cut(value, sharding)
        return self._sliced[key]

    def _made_sliced(self, value: Value, sharding: Sharding, depth: int) -> Value | None:
        node = self.nodes[value.node]
        if not isinstance(node, Operation):
            return None
        operands = [self._values[operand] for operand in node.operands]
        if any(operand.sharding is not None for operand in operands):
            return None
        dim, last = sharding.dim, len(value.shape) - 1

        def remade(cuts: Sequence[Sharding | None], attributes: Sequence[int] = node.attributes) -> Value:
            pieces = [
                operand if cut is None else self.sliced(operand, cut, depth + 1)
                for operand, cut in zip(operands, cuts, strict=True)
            ]
            return self.local(node.opcode, pieces, value.type, sharding, attributes)

        if node.opcode in ELEMENTWISE:
            return remade([sharding] * len(operands))
        if node.opcode == Opcode.EXPAND:
            return remade([None if operands[0].shape[dim] == 1 else sharding])
        if node.opcode == Opcode.PERMUTE:
            return remade([sharding.with_dim(node.attributes[dim])])
        if node.opcode == Opcode.RESHAPE:
            before = reshaped(sharding, value.shape, operands[0].shape)
            return None if before is None else remade([before])
        if node.opcode == Opcode.EXPONENT:
            return remade([sharding])
        if node.opcode == Opcode.QUANTIZE:
            return remade([sharding, None if dim == last else sharding])
        if node.opcode == Opcode.IOTA and dim != node.attributes[0]:
            return remade([])
        return None

    def _cut(self, value: Value, sharding: Sharding) -> Value:
        shape, dim = value.shape, sharding.dim
        start, size = sharding.piece(self.rank)
        periods = sharding.periods(shape)
        x, dtype = value.node, value.type.dtype
        if periods == 1:
            return self._value(self._slice(x, dim, start, size), value.type, sharding)
        x = self._reshape(x, dtype, (*shape[:dim], periods, sharding.period, *shape[dim + 1 :]))
        x = self._slice(x, dim + 1, start, size)
        return self._value(self._reshape(x, dtype, sharding.local_shape(shape, self.rank)), value.type, sharding)

    def _slice(self, x: int, dim: int, start: int, size: int) -> int:
        shape = self.types[x].shape
        result = TensorType(self.types[x].dtype, (*shape[:dim], size, *shape[dim + 1 :]))
        return self._append(Operation(Opcode.SLICE, (x,), result, (dim, start, 1)), result)

    def _reshape(self, x: int, dtype: DType, shape: tuple[int, ...]) -> int:
        result = TensorType(dtype, shape)
        return self._append(Operation(Opcode.RESHAPE, (x,), result), result)


def _lowest(dtype: DType) -> float | int | bool:
    if dtype == DType.FLOAT32:
        return -float("inf")
    return False if dtype == DType.BOOL else torch.iinfo(dtype.torch).min


def _highest(dtype: DType) -> float | int | bool:
    if dtype == DType.FLOAT32:
        return float("inf")
    return True if dtype == DType.BOOL else torch.iinfo(dtype.torch).max
