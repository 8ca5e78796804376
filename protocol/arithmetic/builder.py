"""Appending checked operations to a graph, sharing what is computed twice and dropping what nobody reads.

The tracer and the functions of this package both build their graphs here, so that a product or a sum over several
dimensions is the same sequence of operations (docs/design/programs.md) whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from cupel.protocol.arithmetic.binary32 import from_integer
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    DType,
    Graph,
    Opcode,
    Operation,
    Rounding,
    TensorType,
    check_operation,
    padded_terms,
    planes,
)
from cupel.protocol.errors import MalformedProgram


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the graph under construction: an input, a constant or an operation's result."""

    id: int
    """Position in the builder, in order of creation; `build` renumbers to inputs, constants, operations."""
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True, slots=True)
class _Input:
    pass


@dataclass(frozen=True, slots=True, eq=False)
class _Constant:
    tensor: torch.Tensor


class GraphBuilder:
    """Builds one `Graph`. Every method raises MalformedProgram for an operation that is not well typed."""

    def __init__(self) -> None:
        self._nodes: list[_Input | _Constant | Operation] = []
        self._types: list[TensorType] = []
        self._shared: dict[object, int] = {}

    def _append(self, node: _Input | _Constant | Operation, type_: TensorType) -> Value:
        self._nodes.append(node)
        self._types.append(type_)
        return Value(len(self._nodes) - 1, type_)

    def _value(self, id_: int) -> Value:
        return Value(id_, self._types[id_])

    def _operation(self, value: Value) -> Operation | None:
        node = self._nodes[value.id]
        return node if isinstance(node, Operation) else None

    # Leaves

    def input(self, type_: TensorType) -> Value:
        """The next input, in the order in which the graph will take its arguments."""
        return self._append(_Input(), type_)

    def constant(self, tensor: torch.Tensor) -> Value:
        """A constant; equal ones (type and bytes) are shared. The builder keeps its own copy."""
        type_ = TensorType.of(tensor)
        copy = tensor.detach().to("cpu").contiguous().clone()
        key = (type_, copy.reshape(-1).view(torch.uint8).numpy().tobytes())
        if key not in self._shared:
            self._shared[key] = self._append(_Constant(copy), type_).id
        return self._value(self._shared[key])

    def scalar(self, value: float | int | bool, dtype: DType) -> Value:
        """A rank-0 constant. A Python number becomes the nearest binary32, every NaN the canonical one."""
        return self.constant(scalar_tensor(value, dtype))

    def constant_value(self, value: Value) -> torch.Tensor | None:
        """The tensor behind a constant, None for anything computed."""
        node = self._nodes[value.id]
        return node.tensor if isinstance(node, _Constant) else None

    # Operations

    def apply(
        self, opcode: Opcode, operands: Sequence[Value], result_type: TensorType, attributes: Sequence[int] = ()
    ) -> Value:
        """Append one operation as it stands, or return the equal one that is already there."""
        operation = Operation(opcode, tuple(v.id for v in operands), result_type, tuple(int(a) for a in attributes))
        check_operation(operation, [v.type for v in operands])
        if operation not in self._shared:
            self._shared[operation] = self._append(operation, result_type).id
        return self._value(self._shared[operation])

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        shape = tuple(shape)
        while (op := self._operation(x)) is not None and op.opcode == Opcode.RESHAPE:
            x = self._value(op.operands[0])
        if x.shape == shape:
            return x
        return self.apply(Opcode.RESHAPE, [x], TensorType(x.dtype, shape))

    def permute(self, x: Value, permutation: Sequence[int]) -> Value:
        """Result dim i is x's dim permutation[i]; negative dims count from the end."""
        rank = len(x.shape)
        order = tuple(_dim(p, rank) for p in permutation)
        if sorted(order) != list(range(rank)):
            raise MalformedProgram(f"{tuple(permutation)} does not permute {x.type}")
        op = self._operation(x)
        if op is not None and op.opcode == Opcode.PERMUTE:
            x, order = self._value(op.operands[0]), tuple(op.attributes[p] for p in order)
        if order == tuple(range(rank)):
            return x
        return self.apply(Opcode.PERMUTE, [x], TensorType(x.dtype, tuple(x.shape[p] for p in order)), order)

    def transpose(self, x: Value, dim0: int, dim1: int) -> Value:
        order = list(range(len(x.shape)))
        dim0, dim1 = _dim(dim0, len(order)), _dim(dim1, len(order))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self.permute(x, order)

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Dimensions of size 1 grow to `shape`, which has x's rank."""
        shape = tuple(shape)
        op = self._operation(x)
        if op is not None and op.opcode == Opcode.EXPAND and x.shape != shape:
            x = self._value(op.operands[0])
        if x.shape == shape:
            return x
        return self.apply(Opcode.EXPAND, [x], TensorType(x.dtype, shape))

    def broadcast_to(self, x: Value, shape: Sequence[int]) -> Value:
        """PyTorch's broadcasting: leading dimensions of size 1 are added, then expanded."""
        missing = len(shape) - len(x.shape)
        if missing < 0:
            raise MalformedProgram(f"{x.type} does not broadcast to {list(shape)}")
        return self.expand(self.reshape(x, (1,) * missing + x.shape), shape)

    def broadcast(self, *xs: Value) -> list[Value]:
        """All operands expanded to their common shape."""
        shape = broadcast_shape(*(x.shape for x in xs))
        return [self.broadcast_to(x, shape) for x in xs]

    def slice(self, x: Value, dim: int, start: int, size: int, step: int = 1) -> Value:
        """`size` elements of `dim`, from `start`, every `step`th."""
        dim = _dim(dim, len(x.shape))
        if (start, size, step) == (0, x.shape[dim], 1):
            return x
        shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
        return self.apply(Opcode.SLICE, [x], TensorType(x.dtype, shape), (dim, start, step))

    def pad(self, x: Value, low: Sequence[int], high: Sequence[int], fill_bits: int = 0) -> Value:
        """`low[i]` elements before and `high[i]` after each dimension; `fill_bits` is the fill's bit pattern."""
        shape = tuple(before + n + after for before, n, after in zip(low, x.shape, high, strict=True))
        if shape == x.shape:
            return x
        return self.apply(Opcode.PAD, [x], TensorType(x.dtype, shape), (fill_bits, *low))

    def concat(self, xs: Sequence[Value], dim: int) -> Value:
        if not xs:
            raise MalformedProgram("CONCAT takes at least one operand")
        dim = _dim(dim, len(xs[0].shape))
        if len(xs) == 1:
            return xs[0]
        size = sum(x.shape[dim] for x in xs)
        shape = (*xs[0].shape[:dim], size, *xs[0].shape[dim + 1 :])
        return self.apply(Opcode.CONCAT, xs, TensorType(xs[0].dtype, shape), (dim,))

    def iota(self, shape: Sequence[int], dim: int) -> Value:
        """int64 0, 1, ... along `dim`."""
        return self.apply(Opcode.IOTA, [], TensorType(DType.INT64, tuple(shape)), (_dim(dim, len(shape)),))

    def cast(self, x: Value, dtype: DType, rounding: Rounding | None = None) -> Value:
        """To another element type; floats become integers toward zero unless a rounding is named."""
        if x.dtype == dtype:
            return x
        if rounding is None or x.dtype != DType.FLOAT32:
            to_integer = x.dtype == DType.FLOAT32 and dtype.is_integer
            rounding = Rounding.TOWARD_ZERO if to_integer else Rounding.NEAREST_EVEN
        return self.apply(Opcode.CAST, [x], TensorType(dtype, x.shape), (rounding,))

    def unary(self, opcode: Opcode, x: Value) -> Value:
        return self.apply(opcode, [x], x.type)

    def round(self, x: Value, rounding: Rounding) -> Value:
        """float32 to the integral float32 `rounding` names."""
        return self.apply(Opcode.ROUND, [x], x.type, (rounding,))

    def binary(self, opcode: Opcode, a: Value, b: Value) -> Value:
        """Broadcasting; both of one element type. Comparisons give bool."""
        a, b = self.broadcast(a, b)
        dtype = DType.BOOL if opcode in COMPARISONS else a.dtype
        return self.apply(opcode, [a, b], TensorType(dtype, a.shape))

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        """x where `condition`, else y; broadcasting."""
        condition, x, y = self.broadcast(condition, x, y)
        return self.apply(Opcode.SELECT, [condition, x, y], x.type)

    # Reductions

    def rows(self, x: Value, dims: Sequence[int]) -> Value:
        """The reduced dimensions last, as one: PERMUTE, then RESHAPE."""
        rank = len(x.shape)
        reduced = sorted({_dim(d, rank) for d in dims})
        kept = [d for d in range(rank) if d not in reduced]
        x = self.permute(x, [*kept, *reduced])
        return self.reshape(x, (*x.shape[: len(kept)], prod(x.shape[len(kept) :])))

    def reduce(self, opcode: Opcode, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False) -> Value:
        """SUM, MAX, MIN, ARGMAX or ARGMIN over `dims`, all when None; positions count row-major over those dims."""
        rank = len(x.shape)
        reduced = range(rank) if dims is None else sorted({_dim(d, rank) for d in dims})
        rows = self.rows(x, reduced)
        if opcode in (Opcode.MAX, Opcode.MIN) or (opcode == Opcode.SUM and x.dtype == DType.FLOAT32):
            dtype = x.dtype
        else:
            dtype = DType.INT64
        result = self.apply(opcode, [rows], TensorType(dtype, rows.shape[:-1]))
        if not keepdim:
            return result
        return self.reshape(result, [1 if d in reduced else n for d, n in enumerate(x.shape)])

    def sum(self, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False) -> Value:
        return self.reduce(Opcode.SUM, x, dims, keepdim)

    def max(self, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False) -> Value:
        return self.reduce(Opcode.MAX, x, dims, keepdim)

    def min(self, x: Value, dims: Sequence[int] | None = None, keepdim: bool = False) -> Value:
        return self.reduce(Opcode.MIN, x, dims, keepdim)

    # Products

    def matmul(self, a: Value, b: Value, digits: int = 2, scale: str = "columns") -> Value:
        """a[..., M, K] @ b[..., K, N], batches broadcast; the operations of docs/design/programs.md, "Products"."""
        if scale not in ("columns", "rows"):
            raise MalformedProgram(f'scale is "columns" or "rows", not {scale!r}')
        if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
            raise MalformedProgram(f"matmul takes [..., M, K] and [..., K, N], not {a.type} and {b.type}")
        if digits not in (1, 2, 3):
            raise MalformedProgram(f"digits are 1, 2 or 3, not {digits}")
        if len(b.shape) == 2 < len(a.shape):
            # One matrix on the right: the batches of a are further rows, so b is quantised once.
            folded = self.matmul(self.reshape(a, (prod(a.shape[:-1]), a.shape[-1])), b, digits, scale)
            return self.reshape(folded, (*a.shape[:-1], b.shape[-1]))
        batch = broadcast_shape(a.shape[:-2], b.shape[:-2])
        a, b = self.broadcast_to(a, batch + a.shape[-2:]), self.broadcast_to(b, batch + b.shape[-2:])
        if scale == "columns":
            b_columns = self.transpose(b, -1, -2)
            exponents = [self._exponent(a), self._exponent(b_columns)]
            left = [self._quantize(a, exponents[0], digits, i) for i in range(planes(digits))]
            right = [self._quantize(b_columns, exponents[1], digits, i) for i in range(planes(digits))]
        else:
            g = self._exponent(b)
            right = [self.transpose(self._quantize(b, g, digits, i), -1, -2) for i in range(planes(digits))]
            e = self.apply(Opcode.EXPONENT_SCALED, [a, g], TensorType(DType.INT32, a.shape[:-1]))
            exponents = [e]
            int16 = TensorType(DType.INT16, a.shape)
            left = [self.apply(Opcode.QUANTIZE_SCALED, [a, g, e], int16, (digits, i)) for i in range(planes(digits))]
        pairs = [self._pad_terms(q) for both in zip(left, right, strict=True) for q in both]
        opcode = Opcode.DOT if scale == "columns" else Opcode.DOT_ROWS
        result = TensorType(DType.FLOAT32, (*a.shape[:-1], b.shape[-1]))
        return self.apply(opcode, [*exponents, *pairs], result, (digits,))

    def _exponent(self, x: Value) -> Value:
        return self.apply(Opcode.EXPONENT, [x], TensorType(DType.INT32, x.shape[:-1]))

    def _quantize(self, x: Value, e: Value, digits: int, plane: int) -> Value:
        return self.apply(Opcode.QUANTIZE, [x, e], TensorType(DType.INT16, x.shape), (digits, plane))

    def _pad_terms(self, q: Value) -> Value:
        none = [0] * len(q.shape)
        return self.pad(q, none, [*none[:-1], padded_terms(q.shape[-1]) - q.shape[-1]])

    # The result

    def build(self, outputs: Sequence[Value]) -> Graph:
        """The graph of `outputs`: all inputs, and of constants and operations only what the outputs need."""
        needed = {v.id for v in outputs}
        for id_ in range(len(self._nodes) - 1, -1, -1):
            node = self._nodes[id_]
            if id_ in needed and isinstance(node, Operation):
                needed.update(node.operands)
        inputs = [i for i, n in enumerate(self._nodes) if isinstance(n, _Input)]
        constants = [(i, n.tensor) for i, n in enumerate(self._nodes) if isinstance(n, _Constant) and i in needed]
        operations = [(i, n) for i, n in enumerate(self._nodes) if isinstance(n, Operation) and i in needed]
        order = [*inputs, *(i for i, _ in constants), *(i for i, _ in operations)]
        number = {old: new for new, old in enumerate(order)}
        return Graph(
            inputs=tuple(self._types[i] for i in inputs),
            constants=tuple(tensor for _, tensor in constants),
            operations=tuple(
                Operation(n.opcode, tuple(number[o] for o in n.operands), n.result, n.attributes) for _, n in operations
            ),
            outputs=tuple(number[v.id] for v in outputs),
        )


def _dim(dim: int, rank: int) -> int:
    """`dim` counted from the front; negative ones count from the end."""
    if not -rank <= dim < rank:
        raise MalformedProgram(f"dimension {dim} outside rank {rank}")
    return dim % rank


def scalar_tensor(value: float | int | bool, dtype: DType) -> torch.Tensor:
    """A Python number as a rank-0 tensor. Raises MalformedProgram where the type cannot hold it."""
    if dtype == DType.FLOAT32:
        if isinstance(value, int):
            # Through bits: a detour over float64 would round a long integer twice.
            bits = from_integer(value)
            return torch.tensor(bits - (1 << 32) if bits >> 31 else bits, dtype=torch.int32).view(torch.float32)
        return torch.tensor(float("nan") if value != value else value, dtype=torch.float32)
    low, high = (0, 1) if dtype == DType.BOOL else _limits(dtype)
    if not low <= value <= high or value != int(value):
        raise MalformedProgram(f"{value!r} is no {dtype.name.lower()}; cast the tensor to a type that holds it")
    return torch.tensor(int(value), dtype=dtype.torch)


def _limits(dtype: DType) -> tuple[int, int]:
    limits = torch.iinfo(dtype.torch)
    return limits.min, limits.max


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape PyTorch broadcasts these to. Raises MalformedProgram where there is none."""
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        grown = {n for n in sizes if n != 1}
        if len(grown) > 1:
            raise MalformedProgram(f"shapes do not broadcast: {', '.join(str(list(s)) for s in shapes)}")
        result.append(grown.pop() if grown else 1)
    return tuple(result)
