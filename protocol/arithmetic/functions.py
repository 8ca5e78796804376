"""Order-free arithmetic on PyTorch tensors, one function per operation.

Operands broadcast as in PyTorch and have one element type; a Python number takes the other operand's. Every function
takes `backend`: "auto", "cpu", "torch" or "reference", whose bits agree (engines.py). Meaning: reference.py.

Raises, everywhere  MalformedTensor for a NaN other than 0x7fc00000 or a type arithmetic does not have
                    MalformedProgram for shapes or types that do not go together
                    UsageError for an unknown backend
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, prod
from typing import NamedTuple

import torch

from cupel.protocol.arithmetic.builder import GraphBuilder, Value, scalar_tensor
from cupel.protocol.arithmetic.canonical import check_canonical
from cupel.protocol.arithmetic.engines import Backend, run_graph
from cupel.protocol.arithmetic.operations import DType, Opcode, Rounding, TensorType
from cupel.protocol.errors import MalformedProgram, MalformedTensor

Tensor = torch.Tensor
Operand = torch.Tensor | float | int | bool

__all__ = [
    "Ordered",
    "abs",
    "add",
    "argmax",
    "argmin",
    "cast",
    "ceil",
    "cos",
    "cumsum",
    "div",
    "eq",
    "erf",
    "exp",
    "floor",
    "gather",
    "ge",
    "gt",
    "index_add",
    "le",
    "log",
    "lt",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "mul",
    "ne",
    "neg",
    "normal",
    "philox",
    "randint",
    "rem",
    "round",
    "rsqrt",
    "scatter",
    "sigmoid",
    "sin",
    "sort",
    "sqrt",
    "sub",
    "sum",
    "take",
    "tanh",
    "topk",
    "trunc",
    "uniform",
    "where",
]


class Ordered(NamedTuple):
    """What sort and topk give."""

    values: Tensor
    indices: Tensor
    """int64 positions along the ordered dimension."""


def _run(backend: Backend, operands: Sequence[Tensor], build: Callable[..., Value]) -> Tensor:
    """Evaluate what `build(builder, *values)` composes over the operands."""
    return _run_all(backend, operands, lambda b, *xs: [build(b, *xs)])[0]


def _run_all(backend: Backend, operands: Sequence[Tensor], build: Callable[..., Sequence[Value]]) -> list[Tensor]:
    for i, tensor in enumerate(operands):
        if not isinstance(tensor, torch.Tensor):
            raise MalformedTensor(f"operand {i} is a {type(tensor).__name__}, not a tensor")
        check_canonical(tensor, f"operand {i}")
    builder = GraphBuilder()
    values = [builder.input(TensorType.of(t)) for t in operands]
    graph = builder.build(build(builder, *values))
    inputs = [t.detach().contiguous() for t in operands]
    shared = {t.untyped_storage().data_ptr() for t in inputs}
    results = run_graph(graph, inputs, backend)
    # Whoever writes into a result must not change an operand.
    return [(r.clone() if r.untyped_storage().data_ptr() in shared else r).contiguous() for r in results]


def _tensors(*operands: Operand) -> list[Tensor]:
    """Python numbers as rank-0 tensors of the tensors' element type; float32 where there is no tensor."""
    dtypes = [DType.of(x.dtype) for x in operands if isinstance(x, torch.Tensor)]
    dtype = dtypes[0] if dtypes else DType.FLOAT32
    return [x if isinstance(x, torch.Tensor) else scalar_tensor(x, dtype) for x in operands]


def _unary(opcode: Opcode, x: Operand, backend: Backend) -> Tensor:
    return _run(backend, _tensors(x), lambda b, v: b.unary(opcode, v))


def _binary(opcode: Opcode, x: Operand, y: Operand, backend: Backend) -> Tensor:
    return _run(backend, _tensors(x, y), lambda b, v, w: b.binary(opcode, v, w))


# Elementwise


def add(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.ADD, x, y, backend)


def sub(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.SUB, x, y, backend)


def mul(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.MUL, x, y, backend)


def div(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    """Integers: rounded down, 0 where y is 0."""
    return _binary(Opcode.DIV, x, y, backend)


def rem(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    """Integers only: x - floor(x / y) y, x where y is 0."""
    return _binary(Opcode.REM, x, y, backend)


def neg(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.NEG, x, backend)


def abs(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.ABS, x, backend)


def sqrt(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.SQRT, x, backend)


def exp(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.EXP, x, backend)


def log(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.LOG, x, backend)


def tanh(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.TANH, x, backend)


def sigmoid(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.SIGMOID, x, backend)


def erf(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.ERF, x, backend)


def sin(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.SIN, x, backend)


def cos(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.COS, x, backend)


def rsqrt(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _unary(Opcode.RSQRT, x, backend)


def maximum(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    """NaN if either is; +0 above -0."""
    return _binary(Opcode.MAXIMUM, x, y, backend)


def minimum(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    """NaN if either is; -0 below +0."""
    return _binary(Opcode.MINIMUM, x, y, backend)


def eq(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.EQ, x, y, backend)


def ne(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.NE, x, y, backend)


def lt(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.LT, x, y, backend)


def le(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.LE, x, y, backend)


def gt(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.GT, x, y, backend)


def ge(x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    return _binary(Opcode.GE, x, y, backend)


def where(condition: Tensor, x: Operand, y: Operand, *, backend: Backend = "auto") -> Tensor:
    """x where the bool `condition`, else y."""
    return _run(backend, [condition, *_tensors(x, y)], lambda b, c, v, w: b.select(c, v, w))


def _rounded(x: Operand, rounding: Rounding, backend: Backend) -> Tensor:
    return _run(backend, _tensors(x), lambda b, v: b.round(v, rounding))


def floor(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _rounded(x, Rounding.DOWN, backend)


def ceil(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _rounded(x, Rounding.UP, backend)


def trunc(x: Operand, *, backend: Backend = "auto") -> Tensor:
    return _rounded(x, Rounding.TOWARD_ZERO, backend)


def round(x: Operand, *, backend: Backend = "auto") -> Tensor:
    """To the nearest integer, ties to even."""
    return _rounded(x, Rounding.NEAREST_EVEN, backend)


def cast(x: Tensor, dtype: torch.dtype, rounding: Rounding | None = None, *, backend: Backend = "auto") -> Tensor:
    """To another element type. Floats to integers: saturating, NaN to 0, toward zero unless `rounding` is given."""
    return _run(backend, [x], lambda b, v: b.cast(v, DType.of(dtype), rounding))


# Reductions: `dim` is one dimension, several, or None for all

Dims = int | Sequence[int] | None


def _dims(dim: Dims) -> Sequence[int] | None:
    return [dim] if isinstance(dim, int) else dim


def _reduce(opcode: Opcode, x: Tensor, dim: Dims, keepdim: bool, backend: Backend) -> Tensor:
    return _run(backend, [x], lambda b, v: b.reduce(opcode, v, _dims(dim), keepdim))


def sum(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """float32: order-free over all reduced elements at once, rounded once. Integers: int64, wrapping."""
    return _reduce(Opcode.SUM, x, dim, keepdim, backend)


def mean(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """float32: the sum divided by RN(number of elements)."""

    def build(b: GraphBuilder, v: Value) -> Value:
        total = b.reduce(Opcode.SUM, v, _dims(dim), keepdim)
        count = v.type.elements // total.type.elements if total.type.elements else 0
        return b.binary(Opcode.DIV, total, b.scalar(count, DType.FLOAT32))

    return _run(backend, [x], build)


def max(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """NaN if there is one; +0 above -0."""
    return _reduce(Opcode.MAX, x, dim, keepdim, backend)


def min(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """NaN if there is one; -0 below +0."""
    return _reduce(Opcode.MIN, x, dim, keepdim, backend)


def argmax(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """Position of what `max` gives, the lowest of equal ones; int64."""
    return _reduce(Opcode.ARGMAX, x, dim, keepdim, backend)


def argmin(x: Tensor, dim: Dims = None, keepdim: bool = False, *, backend: Backend = "auto") -> Tensor:
    """Position of what `min` gives, the lowest of equal ones; int64."""
    return _reduce(Opcode.ARGMIN, x, dim, keepdim, backend)


def _ordered(opcode: Opcode, x: Tensor, dim: int, size: int | None, attribute: int, backend: Backend) -> Ordered:
    def build(b: GraphBuilder, v: Value) -> Sequence[Value]:
        if not v.shape:
            raise MalformedProgram("a scalar has no dimension to order along")
        last = b.transpose(v, dim, -1)
        length = last.shape[-1] if size is None else size
        indices = b.apply(opcode, [last], TensorType(DType.INT64, (*last.shape[:-1], length)), (attribute,))
        values = b.apply(Opcode.GATHER, [last, indices], TensorType(v.dtype, indices.shape), (len(last.shape) - 1,))
        return [b.transpose(values, dim, -1), b.transpose(indices, dim, -1)]

    values, indices = _run_all(backend, [x], build)
    return Ordered(values, indices)


def topk(x: Tensor, k: int, dim: int = -1, *, backend: Backend = "auto") -> Ordered:
    """The k largest, largest first: NaN above all, +0 above -0, ties in order of position."""
    return _ordered(Opcode.TOPK, x, dim, k, k, backend)


def sort(x: Tensor, dim: int = -1, descending: bool = False, *, backend: Backend = "auto") -> Ordered:
    """NaN first in either direction, then by value, -0 below +0; ties in order of position."""
    return _ordered(Opcode.SORT, x, dim, None, int(descending), backend)


def cumsum(x: Tensor, dim: int = -1, *, backend: Backend = "auto") -> Tensor:
    """Integers only, int64, wrapping: a floating cumulative sum has no order-free meaning."""

    def build(b: GraphBuilder, v: Value) -> Value:
        last = b.transpose(v, dim, -1)
        return b.transpose(b.apply(Opcode.CUMSUM, [last], TensorType(DType.INT64, last.shape)), dim, -1)

    return _run(backend, [x], build)


# Indexing: indices are integers of any type; negative ones are out of range


def index_add(x: Tensor, index: Tensor, source: Tensor, *, backend: Backend = "auto") -> Tensor:
    """x[V, ...] with source[n, ...] added to its rows index[n]: per cell one order-free sum, the old value included."""

    def build(b: GraphBuilder, v: Value, i: Value, s: Value) -> Value:
        width = prod(v.shape[1:])
        cells = b.reshape(v, (v.shape[0], width))
        landing = b.reshape(s, (s.shape[0], width))
        added = b.apply(Opcode.INDEX_ADD, [cells, b.cast(i, DType.INT64), landing], cells.type)
        return b.reshape(added, v.shape)

    if x.dim() < 1 or source.dim() < 1 or x.shape[1:] != source.shape[1:] or index.shape != source.shape[:1]:
        shapes = f"{list(x.shape)}, {list(index.shape)} and {list(source.shape)}"
        raise MalformedProgram(f"index_add takes x[V, ...], index[n] and source[n, ...], not {shapes}")
    return _run(backend, [x, index, source], build)


def take(x: Tensor, index: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Rows x[index]; 0 where out of range."""

    def build(b: GraphBuilder, v: Value, i: Value) -> Value:
        result = TensorType(v.dtype, i.shape + v.shape[1:])
        return b.apply(Opcode.TAKE, [v, b.cast(i, DType.INT64)], result)

    return _run(backend, [x, index], build)


def gather(x: Tensor, dim: int, index: Tensor, *, backend: Backend = "auto") -> Tensor:
    """As torch.gather; 0 where out of range."""

    def build(b: GraphBuilder, v: Value, i: Value) -> Value:
        result = TensorType(v.dtype, i.shape)
        return b.apply(Opcode.GATHER, [v, b.cast(i, DType.INT64)], result, (_dim(dim, v),))

    return _run(backend, [x, index], build)


def scatter(x: Tensor, dim: int, index: Tensor, source: Tensor, *, backend: Backend = "auto") -> Tensor:
    """As torch.scatter; out of range is dropped, and the last source position wins where several meet."""

    def build(b: GraphBuilder, v: Value, i: Value, s: Value) -> Value:
        return b.apply(Opcode.SCATTER, [v, b.cast(i, DType.INT64), s], v.type, (_dim(dim, v),))

    return _run(backend, [x, index, source], build)


def _dim(dim: int, x: Value) -> int:
    if not -len(x.shape) <= dim < len(x.shape):
        raise MalformedProgram(f"dimension {dim} outside {x.type}")
    return dim % len(x.shape)


# Products


def matmul(a: Tensor, b: Tensor, digits: int = 2, scale: str = "columns", *, backend: Backend = "auto") -> Tensor:
    """a[..., M, K] @ b[..., K, N], or vectors as in torch.matmul, with operands of `digits` digits (1, 2 or 3).

    scale  "columns": each column of b has its own exponent. "rows": each row of b, so that zero weights hide rows
    """
    if a.dim() == 0 or b.dim() == 0:
        raise MalformedProgram("matmul takes vectors, matrices or batches of matrices, not scalars")

    def build(builder: GraphBuilder, x: Value, y: Value) -> Value:
        left = builder.reshape(x, (1, *x.shape)) if len(x.shape) == 1 else x
        right = builder.reshape(y, (*y.shape, 1)) if len(y.shape) == 1 else y
        result = builder.matmul(left, right, digits, scale)
        shape = list(result.shape)
        if len(y.shape) == 1:
            del shape[-1]
        if len(x.shape) == 1:
            del shape[-1 if len(y.shape) == 1 else -2]
        return builder.reshape(result, shape)

    return _run(backend, [a, b], build)


# Randomness: element i of the result depends on key, step, stream and i alone

Scalar = Tensor | int


def _philox_value(b: GraphBuilder, key: Value, step: Value, shape: Sequence[int], stream: int) -> Value:
    return b.apply(Opcode.PHILOX, [key, step], TensorType(DType.INT64, tuple(shape)), (stream,))


def _random(
    key: Scalar, step: Scalar, shape: Sequence[int], stream: int, backend: Backend, build: Callable[..., Value]
) -> Tensor:
    def compose(b: GraphBuilder, k: Value, s: Value) -> Value:
        return build(b, _philox_value(b, k, s, shape, stream))

    return _run(backend, [_word(key), _word(step)], compose)


def _word(value: Scalar) -> Tensor:
    """A 64-bit word as an int64 scalar."""
    if isinstance(value, torch.Tensor):
        return value
    wrapped = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    return torch.tensor(wrapped, dtype=torch.int64)


def _fraction(b: GraphBuilder, bits: Value, word: int, plus: int) -> Value:
    """((w >> 8) + plus) 2^-24, exact in binary32."""

    def integer(n: int) -> Value:
        return b.scalar(n, DType.INT64)

    top = b.binary(Opcode.SHR, bits, integer(8 + 32 * word))
    counted = b.binary(Opcode.ADD, b.binary(Opcode.AND, top, integer(0xFFFFFF)), integer(plus))
    return b.binary(Opcode.MUL, b.cast(counted, DType.FLOAT32), b.scalar(2.0**-24, DType.FLOAT32))


def philox(key: Scalar, step: Scalar, shape: Sequence[int], stream: int = 0, *, backend: Backend = "auto") -> Tensor:
    """int64 of `shape`: words w0 | w1 << 32 of block (i low, i high, stream, step)."""
    return _random(key, step, shape, stream, backend, lambda b, bits: bits)


def uniform(key: Scalar, step: Scalar, shape: Sequence[int], stream: int = 0, *, backend: Backend = "auto") -> Tensor:
    """float32 in [0, 1): (w0 >> 8) 2^-24."""
    return _random(key, step, shape, stream, backend, lambda b, bits: _fraction(b, bits, 0, 0))


def normal(key: Scalar, step: Scalar, shape: Sequence[int], stream: int = 0, *, backend: Backend = "auto") -> Tensor:
    """float32: sqrt(-2 log(((w0 >> 8) + 1) 2^-24)) cos(RN(2 pi) ((w1 >> 8) 2^-24))."""

    def build(b: GraphBuilder, bits: Value) -> Value:
        logarithm = b.unary(Opcode.LOG, _fraction(b, bits, 0, 1))
        radius = b.unary(Opcode.SQRT, b.binary(Opcode.MUL, b.scalar(-2.0, DType.FLOAT32), logarithm))
        angle = b.binary(Opcode.MUL, b.scalar(2 * pi, DType.FLOAT32), _fraction(b, bits, 1, 0))
        return b.binary(Opcode.MUL, radius, b.unary(Opcode.COS, angle))

    return _random(key, step, shape, stream, backend, build)


def randint(
    key: Scalar, step: Scalar, shape: Sequence[int], high: int, stream: int = 0, *, backend: Backend = "auto"
) -> Tensor:
    """int64 in [0, high): (u64 high) >> 64."""
    if not 1 <= high < 1 << 63:
        raise MalformedProgram(f"high is {high}; it is at least 1 and below 2^63")
    return _random(
        key,
        step,
        shape,
        stream,
        backend,
        lambda b, bits: b.binary(Opcode.MULHI, bits, b.scalar(high, DType.INT64)),
    )
