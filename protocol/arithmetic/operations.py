"""The opcode table: what a Program may consist of, and how each operation is typed.

Meaning lives in `reference.py` (the definition, on Python integers). Numbers here decide every root, so none
may change; new operations take unused numbers. docs/design/programs.md is the prose of this table.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import dtype as _TorchDType

from cupel.protocol.errors import MalformedProgram

MAX_RANK = 8
MAX_ELEMENTS = 1 << 40
"""Bounds the product of a shape's sizes that are not 0, too: strides of (0, 2^40, 2^40) overflow in every engine."""
MAX_DOT_TERMS = 1 << 22
NOT_FINITE = 0x7FFFFFFF
"""The exponent of a row that holds a NaN or an infinity."""
ZERO_ROW = -149
"""The exponent of a row of zeros (or of none): as a scale g it stands for 0, which no frexp exponent could."""


class DType(enum.IntEnum):
    """Element types, numbered as tensor roots hash them."""

    FLOAT32 = 1
    INT8 = 2
    INT16 = 3
    INT32 = 4
    INT64 = 5
    UINT8 = 6
    BOOL = 7

    @property
    def torch(self) -> _TorchDType:
        return _TORCH[self]

    @property
    def size_bytes(self) -> int:
        return _SIZE[self]

    @property
    def is_integer(self) -> bool:
        return self not in (DType.FLOAT32, DType.BOOL)

    @staticmethod
    def of(dtype: _TorchDType) -> DType:
        """Raises MalformedProgram for a type no Program can hold."""
        try:
            return _FROM_TORCH[dtype]
        except KeyError:
            raise MalformedProgram(
                f"{dtype} has no place in a Program; use one of {', '.join(str(t) for t in _FROM_TORCH)}"
            ) from None


_TORCH = {
    DType.FLOAT32: torch.float32,
    DType.INT8: torch.int8,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.UINT8: torch.uint8,
    DType.BOOL: torch.bool,
}
_FROM_TORCH = {v: k for k, v in _TORCH.items()}
_SIZE = {
    DType.FLOAT32: 4,
    DType.INT8: 1,
    DType.INT16: 2,
    DType.INT32: 4,
    DType.INT64: 8,
    DType.UINT8: 1,
    DType.BOOL: 1,
}


class Opcode(enum.IntEnum):
    """One number per operation; attributes are listed after the semicolon.

    "last" is the last dimension. Elementwise operands and results have one shape: broadcasting is an EXPAND of
    its own. Only CAST, comparisons, SELECT's condition and index operands mix element types.
    """

    # Shapes and copies
    RESHAPE = 1  # (x) row-major order kept; shape from the result
    PERMUTE = 2  # (x; permutation...) result dim i is x dim permutation[i]
    EXPAND = 3  # (x) same rank, a dimension of size 1 may become any size
    SLICE = 4  # (x; dim, start, step) result size tells the end
    PAD = 5  # (x; fill_bits, low...) `low[i]` fills before each dim; the result size tells how many after
    CONCAT = 6  # (x...; dim)
    IOTA = 7  # (; dim) integers 0, 1, ... along dim; int64
    CAST = 8  # (x; rounding) 0 nearest even, 1 toward zero, 2 down, 3 up; saturating, NaN to 0

    # Elementwise
    ADD = 16
    SUB = 17
    MUL = 18
    DIV = 19  # integers: floor; x div 0 = 0
    REM = 20  # integers only: x - floor(x / y) y; x mod 0 = x
    NEG = 21
    ABS = 22
    SQRT = 23
    EXP = 24
    LOG = 25
    TANH = 26
    SIGMOID = 27
    ERF = 28
    SIN = 29
    COS = 30
    RSQRT = 31
    MAXIMUM = 32  # NaN first, +0 > -0
    MINIMUM = 33  # NaN first, -0 < +0
    ROUND = 34  # (x; rounding) float to integral float, rounding as in CAST, sign of zero kept
    EQ = 40
    NE = 41
    LT = 42
    LE = 43
    GT = 44
    GE = 45
    AND = 48  # integers and bool
    OR = 49
    XOR = 50
    NOT = 51
    SHL = 52  # shift counts are masked to the width
    SHR = 53  # arithmetic for signed types
    SHR_LOGICAL = 54
    MULHI = 55  # int64 read as unsigned: high 64 bits of the 128-bit product
    SELECT = 56  # (condition bool, x, y)

    # Reductions over last; the result drops it
    SUM = 64  # float: order-free, rounded once; integers: int64 result, wrapping
    MAX = 65
    MIN = 66
    ARGMAX = 67  # int64, ties to the lowest index
    ARGMIN = 68
    # Orders along last
    TOPK = 69  # (x; k) int64 indices of the k largest, largest first, ties to the lowest index
    SORT = 70  # (x; descending) int64 indices, stable
    CUMSUM = 71  # integers only, int64 result, wrapping

    # Indexing; index operands are int64
    GATHER = 80  # (x, index; dim) as torch.gather; out of range gives 0
    TAKE = 81  # (x[V, ...], index[I...]) rows: result [I..., ...]; out of range gives 0
    INDEX_ADD = 82  # (x[V, D], index[n], source[n, D]) per cell: order-free sum of old value and what lands there
    SCATTER = 83  # (x, index, source; dim) as torch.scatter; out of range dropped, the last source position wins

    # Products
    EXPONENT = 96  # (x) last: frexp exponent of max |x|, ZERO_ROW, NOT_FINITE; int32
    QUANTIZE = 97  # (x, e; digits, plane) int16: q = RNE(x 2^(w - e)), within +-2^w; 0 where x or e is not finite
    EXPONENT_SCALED = 98  # (x[..., M, K], g[..., K]) as EXPONENT of the reals x 2^g, 0 where g is ZERO_ROW
    QUANTIZE_SCALED = 99  # (x[..., M, K], g[..., K], e[..., M]; digits, plane)
    DOT = 100  # (ea[..., M], eb[..., N], qa[..., M, K], qb[..., N, K], more planes...; digits)
    DOT_ROWS = 101  # (ea[..., M], qa[..., M, K], qb[..., N, K], more planes...; digits) scale="rows"

    # Randomness
    PHILOX = 112  # (key int64[], step int64[]; stream) element i: words w0 | w1 << 32 of block (i, stream, step)


class Rounding(enum.IntEnum):
    NEAREST_EVEN = 0
    TOWARD_ZERO = 1
    DOWN = 2
    UP = 3


UNARY_FLOAT = frozenset(
    {
        Opcode.SQRT,
        Opcode.EXP,
        Opcode.LOG,
        Opcode.TANH,
        Opcode.SIGMOID,
        Opcode.ERF,
        Opcode.SIN,
        Opcode.COS,
        Opcode.RSQRT,
    }
)
COMPARISONS = frozenset({Opcode.EQ, Opcode.NE, Opcode.LT, Opcode.LE, Opcode.GT, Opcode.GE})
ELEMENTWISE = frozenset(o for o in Opcode if Opcode.ADD <= o <= Opcode.SELECT) | {Opcode.CAST}


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of one value."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def is_too_large(self) -> bool:
        """Whether no value can have this type: above MAX_ELEMENTS, sizes of 0 counted as 1."""
        return prod(max(size, 1) for size in self.shape) > MAX_ELEMENTS

    @property
    def size_bytes(self) -> int:
        return self.elements * self.dtype.size_bytes

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorType:
        return TensorType(DType.of(tensor.dtype), tuple(tensor.shape))

    def __str__(self) -> str:
        return f"{self.dtype.name.lower()}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation in SSA order. It has exactly one result."""

    opcode: Opcode
    operands: tuple[int, ...]
    """Value ids: inputs come first, then constants, then operation results, each numbered in order."""
    result: TensorType
    attributes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Operations over typed inputs and constants: what an engine compiles and runs."""

    inputs: tuple[TensorType, ...]
    constants: tuple[torch.Tensor, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]

    def type_of(self, value: int) -> TensorType:
        if value < len(self.inputs):
            return self.inputs[value]
        value -= len(self.inputs)
        if value < len(self.constants):
            return TensorType.of(self.constants[value])
        return self.operations[value - len(self.constants)].result


def digit_width(digits: int) -> int:
    """Bits w of a quantised operand: |q| <= 2^w."""
    return 7 * digits - 1


def planes(digits: int) -> int:
    """int16 planes a quantised operand takes: q = plane0 for w <= 13, else q = 1024 plane0 + plane1."""
    return 1 if digits <= 2 else 2


def padded_terms(terms: int) -> int:
    """Length a dot product's rows are padded to: a power of two, so that one row is one aligned subtree."""
    return 1 << max(terms - 1, 0).bit_length()


def check_operation(op: Operation, operands: Sequence[TensorType]) -> None:
    """Raise MalformedProgram unless `op` is well typed over operands of these types."""
    try:
        _check(op, operands)
    except _Wrong as wrong:
        raise MalformedProgram(
            f"{op.opcode.name}({', '.join(map(str, operands))}; {list(op.attributes)}) -> {op.result}: {wrong}"
        ) from None


class _Wrong(Exception):
    pass


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise _Wrong(message)


def _check(op: Operation, xs: Sequence[TensorType]) -> None:
    code, attrs, out = op.opcode, op.attributes, op.result
    _need(len(out.shape) <= MAX_RANK, f"rank above {MAX_RANK}")
    _need(all(d >= 0 for d in out.shape) and not out.is_too_large, "result too large")
    if code in ELEMENTWISE:
        _check_elementwise(code, attrs, xs, out)
    elif code <= Opcode.IOTA:
        _check_shape(code, attrs, xs, out)
    elif code <= Opcode.CUMSUM:
        _check_reduction(code, attrs, xs, out)
    elif code <= Opcode.SCATTER:
        _check_index(code, attrs, xs, out)
    elif code == Opcode.PHILOX:
        _count(xs, 2)
        _attributes(attrs, 1)
        _need(0 <= attrs[0] < 1 << 32, "stream outside 32 bits")
        _need(all(x == TensorType(DType.INT64, ()) for x in xs), "key and step are int64 scalars")
        _need(out.dtype == DType.INT64, "result is int64")
    else:
        _check_product(code, attrs, xs, out)


def _count(xs: Sequence[TensorType], n: int) -> None:
    _need(len(xs) == n, f"takes {n} operands, not {len(xs)}")


def _attributes(attrs: Sequence[int], n: int) -> None:
    _need(len(attrs) == n, f"takes {n} attributes, not {len(attrs)}")


def _dim(dim: int, rank: int) -> None:
    _need(0 <= dim < rank, f"dimension {dim} outside rank {rank}")


def _check_elementwise(code: Opcode, attrs: Sequence[int], xs: Sequence[TensorType], out: TensorType) -> None:
    unary = code in UNARY_FLOAT or code in (Opcode.NEG, Opcode.ABS, Opcode.NOT, Opcode.CAST, Opcode.ROUND)
    _count(xs, 1 if unary else 3 if code == Opcode.SELECT else 2)
    _need(all(x.shape == out.shape for x in xs), "operands and result have one shape")
    if code in (Opcode.CAST, Opcode.ROUND):
        _attributes(attrs, 1)
        _need(attrs[0] in tuple(Rounding), "unknown rounding")
    else:
        _attributes(attrs, 0)
    if code == Opcode.CAST:
        return
    if code == Opcode.SELECT:
        _need(xs[0].dtype == DType.BOOL, "condition is bool")
        xs = xs[1:]
    first = xs[0].dtype
    _need(all(x.dtype == first for x in xs), "operands have one element type")
    _need(out.dtype == (DType.BOOL if code in COMPARISONS else first), "wrong result type")
    if code in UNARY_FLOAT or code == Opcode.ROUND:
        _need(first == DType.FLOAT32, "float32 only")
    elif code in (Opcode.AND, Opcode.OR, Opcode.XOR, Opcode.NOT):
        _need(first != DType.FLOAT32, "integers and bool only")
    elif code in (Opcode.SHL, Opcode.SHR, Opcode.SHR_LOGICAL, Opcode.REM):
        _need(first.is_integer, "integers only")
    elif code == Opcode.MULHI:
        _need(first == DType.INT64, "int64 only")
    elif code not in COMPARISONS and code != Opcode.SELECT:
        _need(first != DType.BOOL, "numbers only")


def _check_shape(code: Opcode, attrs: Sequence[int], xs: Sequence[TensorType], out: TensorType) -> None:
    if code == Opcode.IOTA:
        _count(xs, 0)
        _attributes(attrs, 1)
        _dim(attrs[0], len(out.shape))
        _need(out.dtype == DType.INT64, "result is int64")
        return
    _need(len(xs) >= 1, "takes an operand")
    x = xs[0]
    rank = len(x.shape)
    _need(all(y.dtype == out.dtype for y in xs), "copies keep the element type")
    if code == Opcode.CONCAT:
        _attributes(attrs, 1)
        _dim(attrs[0], rank)
        d = attrs[0]
        _need(all(len(y.shape) == rank for y in xs), "operands have one rank")
        _need(all(y.shape[:d] + y.shape[d + 1 :] == x.shape[:d] + x.shape[d + 1 :] for y in xs), "other sizes differ")
        _need(out.shape == (*x.shape[:d], sum(y.shape[d] for y in xs), *x.shape[d + 1 :]), "wrong result shape")
        return
    _count(xs, 1)
    if code == Opcode.RESHAPE:
        _attributes(attrs, 0)
        _need(out.elements == x.elements, "element counts differ")
        return
    if code == Opcode.PERMUTE:
        _need(sorted(attrs) == list(range(rank)), "not a permutation")
        _need(out.shape == tuple(x.shape[a] for a in attrs), "wrong result shape")
        return
    _need(len(out.shape) == rank, "rank is kept")
    if code == Opcode.EXPAND:
        _attributes(attrs, 0)
        _need(all(a in (1, b) for a, b in zip(x.shape, out.shape, strict=True)), "only sizes of 1 expand")
    elif code == Opcode.SLICE:
        _attributes(attrs, 3)
        dim, start, step = attrs
        _dim(dim, rank)
        n = out.shape[dim]
        _need(start >= 0 and step >= 1, "start and step are positive")
        _need(n == 0 or start + (n - 1) * step < x.shape[dim], "slice outside the operand")
        _need(out.shape[:dim] + out.shape[dim + 1 :] == x.shape[:dim] + x.shape[dim + 1 :], "other sizes are kept")
    elif code == Opcode.PAD:
        _attributes(attrs, 1 + rank)
        _need(0 <= attrs[0] < 1 << (8 * x.dtype.size_bytes) and attrs[0] < 1 << 63, "fill does not fit the type")
        _need(x.dtype != DType.BOOL or attrs[0] < 2, "bool is 0 or 1")
        _need(x.dtype != DType.FLOAT32 or _is_canonical(attrs[0]), "a NaN other than 0x7fc00000")
        _need(
            all(low >= 0 and low + a <= b for low, a, b in zip(attrs[1:], x.shape, out.shape, strict=True)),
            "operand does not fit",
        )
    else:
        raise _Wrong("unknown operation")


def _is_canonical(bits: int) -> bool:
    """Not a binary32 NaN other than the one there is."""
    return bits & 0x7FFFFFFF <= 0x7F800000 or bits == 0x7FC00000


def _check_reduction(code: Opcode, attrs: Sequence[int], xs: Sequence[TensorType], out: TensorType) -> None:
    _count(xs, 1)
    x = xs[0]
    _need(len(x.shape) >= 1, "operand has a last dimension")
    if code in (Opcode.TOPK, Opcode.SORT):
        _attributes(attrs, 1)
    else:
        _attributes(attrs, 0)
    if code == Opcode.TOPK:
        _need(0 <= attrs[0] <= x.shape[-1], "k outside the operand")
        shape = (*x.shape[:-1], attrs[0])
    elif code in (Opcode.SORT, Opcode.CUMSUM):
        shape = x.shape
    else:
        shape = x.shape[:-1]
    _need(out.shape == shape, "wrong result shape")
    if code == Opcode.SORT:
        _need(attrs[0] in (0, 1), "descending is 0 or 1")
    if code == Opcode.CUMSUM:
        _need(x.dtype.is_integer, "a floating cumulative sum has no order-free meaning")
    if code in (Opcode.MAX, Opcode.MIN, Opcode.ARGMAX, Opcode.ARGMIN):
        _need(x.shape[-1] >= 1, "empty rows have no extreme")
    if code == Opcode.SUM:
        _need(x.dtype != DType.BOOL, "cast bool first")
        _need(x.shape[-1] <= 1 << 32, "more than 2^32 terms")
        _need(out.dtype == (DType.FLOAT32 if x.dtype == DType.FLOAT32 else DType.INT64), "wrong result type")
    elif code in (Opcode.MAX, Opcode.MIN):
        _need(out.dtype == x.dtype, "wrong result type")
    else:
        _need(out.dtype == DType.INT64, "result is int64")


def _check_index(code: Opcode, attrs: Sequence[int], xs: Sequence[TensorType], out: TensorType) -> None:
    _count(xs, 2 if code in (Opcode.GATHER, Opcode.TAKE) else 3)
    x, index = xs[0], xs[1]
    _need(index.dtype == DType.INT64, "index is int64")
    _need(out.dtype == x.dtype, "wrong result type")
    if code in (Opcode.GATHER, Opcode.SCATTER):
        _attributes(attrs, 1)
        _dim(attrs[0], len(x.shape))
        d = attrs[0]
        _need(len(index.shape) == len(x.shape), "index and operand have one rank")
        fits = [i <= a for k, (i, a) in enumerate(zip(index.shape, x.shape, strict=True)) if k != d]
        _need(all(fits), "index too large")
    else:
        _attributes(attrs, 0)
    if code == Opcode.GATHER:
        _need(out.shape == index.shape, "wrong result shape")
    elif code == Opcode.TAKE:
        _need(len(x.shape) >= 1, "operand has rows")
        _need(out.shape == index.shape + x.shape[1:], "wrong result shape")
    elif code == Opcode.SCATTER:
        _need(xs[2].shape == index.shape and xs[2].dtype == x.dtype, "source has the index's shape")
        _need(out.shape == x.shape, "wrong result shape")
    else:
        _need(len(x.shape) == 2 and len(index.shape) == 1, "x[V, D], index[n]")
        _need(x.dtype == DType.FLOAT32, "float32 only")
        _need(xs[2] == TensorType(x.dtype, (index.shape[0], x.shape[1])), "source is [n, D]")
        _need(out.shape == x.shape, "wrong result shape")


def _check_product(code: Opcode, attrs: Sequence[int], xs: Sequence[TensorType], out: TensorType) -> None:
    def is_type(x: TensorType, dtype: DType, shape: tuple[int, ...]) -> bool:
        return x.dtype == dtype and x.shape == shape

    scaled = code in (Opcode.EXPONENT_SCALED, Opcode.QUANTIZE_SCALED)
    if code in (Opcode.EXPONENT, Opcode.QUANTIZE) or scaled:
        quantize = code in (Opcode.QUANTIZE, Opcode.QUANTIZE_SCALED)
        _count(xs, 1 + scaled + quantize)
        x = xs[0]
        _need(x.dtype == DType.FLOAT32 and len(x.shape) >= 1 + scaled, "float32 rows")
        if scaled:
            _need(is_type(xs[1], DType.INT32, (*x.shape[:-2], x.shape[-1])), "g is int32[..., K]")
        if quantize:
            _attributes(attrs, 2)
            _need(attrs[0] in (1, 2, 3) and 0 <= attrs[1] < planes(attrs[0]), "no such digits or plane")
            _need(is_type(xs[-1], DType.INT32, x.shape[:-1]), "e is int32[...]")
            _need(is_type(out, DType.INT16, x.shape), "result is int16 of the operand's shape")
        else:
            _attributes(attrs, 0)
            _need(is_type(out, DType.INT32, x.shape[:-1]), "result is int32 without the last dimension")
        return
    _need(code in (Opcode.DOT, Opcode.DOT_ROWS), "unknown operation")
    _attributes(attrs, 1)
    _need(attrs[0] in (1, 2, 3), "digits are 1, 2 or 3")
    exponents = 2 if code == Opcode.DOT else 1
    n = planes(attrs[0])
    _count(xs, exponents + 2 * n)
    qa, qb = xs[exponents], xs[exponents + 1]
    _need(len(qa.shape) >= 2 and len(qb.shape) == len(qa.shape), "operands are [..., M, K] and [..., N, K]")
    _need(qa.shape[:-2] == qb.shape[:-2] and qa.shape[-1] == qb.shape[-1], "batches and K agree")
    _need(qa.shape[-1] <= MAX_DOT_TERMS, "K above 2^22")
    for i in range(n):
        _need(is_type(xs[exponents + 2 * i], DType.INT16, qa.shape), "planes are int16 of one shape")
        _need(is_type(xs[exponents + 2 * i + 1], DType.INT16, qb.shape), "planes are int16 of one shape")
    _need(is_type(xs[0], DType.INT32, qa.shape[:-1]), "exponents are int32[..., M]")
    _need(exponents == 1 or is_type(xs[1], DType.INT32, qb.shape[:-1]), "exponents are int32[..., N]")
    _need(is_type(out, DType.FLOAT32, (*qa.shape[:-1], qb.shape[-2])), "result is float32[..., M, N]")
