"""The definition of every operation, on Python integers.

This file is the specification: an engine is right when it gives these bits. Nothing here is rounded by floating point.
Numbers are exact integers, binary32 values their bit patterns (binary32.py), functions come from exact_functions.py,
random words from philox.py. Operands hold no NaN but 0x7fc00000, and results hold no other. No operand value is an
error: whatever bits arrive, the result is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from cupel.protocol import philox
from cupel.protocol.arithmetic import binary32
from cupel.protocol.arithmetic.binary32 import (
    NAN,
    SIGN,
    is_finite,
    is_infinite,
    is_nan,
    is_zero,
    round_dyadic,
    round_half_even,
)
from cupel.protocol.arithmetic.exact_functions import exact
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    NOT_FINITE,
    UNARY_FLOAT,
    ZERO_ROW,
    DType,
    Opcode,
    Operation,
    TensorType,
    check_operation,
    digit_width,
)

SUM_BITS = 30
"""An order-free sum quantises its terms to this many bits below the largest one's exponent."""

__all__ = ["evaluate", "exact"]


@dataclass(frozen=True, slots=True)
class _Array:
    """A tensor as row-major Python integers: binary32 bit patterns, signed or unsigned integers, 0 or 1 for bool."""

    type: TensorType
    values: list[int]

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def rows(self) -> Iterator[list[int]]:
        """The values along the last dimension, row by row."""
        length = self.shape[-1]
        return (self.values[i * length : (i + 1) * length] for i in range(prod(self.shape[:-1])))


def evaluate(operation: Operation, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """The result of one operation.

    Raises  MalformedProgram if it is not well typed over these operands
    """
    check_operation(operation, [TensorType.of(t) for t in operands])
    arrays = [_from_torch(t) for t in operands]
    values = _DEFINITIONS[operation.opcode](operation, arrays)
    return _to_torch(operation.result, values)


def _from_torch(tensor: torch.Tensor) -> _Array:
    type_ = TensorType.of(tensor)
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if type_.dtype == DType.FLOAT32:
        return _Array(type_, [v & 0xFFFFFFFF for v in flat.view(torch.int32).tolist()])
    return _Array(type_, [int(v) for v in flat.tolist()])


def _to_torch(type_: TensorType, values: list[int]) -> torch.Tensor:
    if type_.dtype == DType.FLOAT32:
        signed = [v - (1 << 32) if v >> 31 else v for v in values]
        return torch.tensor(signed, dtype=torch.int32).view(torch.float32).reshape(type_.shape)
    return torch.tensor(values, dtype=type_.dtype.torch).reshape(type_.shape)


# Integers

_WIDTH = {DType.INT8: 8, DType.INT16: 16, DType.INT32: 32, DType.INT64: 64, DType.UINT8: 8, DType.BOOL: 1}


def _range(dtype: DType) -> tuple[int, int]:
    """Lowest and highest value."""
    if dtype in (DType.UINT8, DType.BOOL):
        return 0, (1 << _WIDTH[dtype]) - 1
    return -(1 << _WIDTH[dtype] - 1), (1 << _WIDTH[dtype] - 1) - 1


def _wrap(value: int, dtype: DType) -> int:
    """Two's complement."""
    low, _ = _range(dtype)
    return (value - low) % (1 << _WIDTH[dtype]) + low


def _unsigned(value: int, dtype: DType) -> int:
    return value % (1 << _WIDTH[dtype])


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


# Shapes and copies


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[d + 1 :]) for d in range(len(shape))]


def _positions(shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> list[int]:
    """offset + sum of index times stride, for every index of `shape` in row-major order."""
    positions = [offset]
    for size, stride in zip(shape, strides, strict=True):
        positions = [p + i * stride for p in positions for i in range(size)]
    return positions


def _reshape(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return xs[0].values


def _permute(op: Operation, xs: Sequence[_Array]) -> list[int]:
    strides = _strides(xs[0].shape)
    return [xs[0].values[p] for p in _positions(op.result.shape, [strides[a] for a in op.attributes])]


def _expand(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x = xs[0]
    strides = [0 if n == 1 else s for n, s in zip(x.shape, _strides(x.shape), strict=True)]
    return [x.values[p] for p in _positions(op.result.shape, strides)]


def _slice(op: Operation, xs: Sequence[_Array]) -> list[int]:
    dim, start, step = op.attributes
    strides = _strides(xs[0].shape)
    offset = start * strides[dim]
    strides[dim] *= step
    return [xs[0].values[p] for p in _positions(op.result.shape, strides, offset)]


def _pad(op: Operation, xs: Sequence[_Array]) -> list[int]:
    fill, *low = op.attributes
    dtype = xs[0].dtype
    result = [fill if dtype == DType.FLOAT32 else _wrap(fill, dtype)] * op.result.elements
    strides = _strides(op.result.shape)
    offset = sum(n * s for n, s in zip(low, strides, strict=True))
    for p, value in zip(_positions(xs[0].shape, strides, offset), xs[0].values, strict=True):
        result[p] = value
    return result


def _concat(op: Operation, xs: Sequence[_Array]) -> list[int]:
    dim = op.attributes[0]
    strides = _strides(op.result.shape)
    result = [0] * op.result.elements
    start = 0
    for x in xs:
        for p, value in zip(_positions(x.shape, strides, start * strides[dim]), x.values, strict=True):
            result[p] = value
        start += x.shape[dim]
    return result


def _iota(op: Operation, xs: Sequence[_Array]) -> list[int]:
    dim = op.attributes[0]
    return _positions(op.result.shape, [int(d == dim) for d in range(len(op.result.shape))])


# Elementwise


def _cast(op: Operation, xs: Sequence[_Array]) -> list[int]:
    """To bool: whether x differs from 0, so that NaN is true. Integers wrap; only floats saturate."""
    source, target, rounding = xs[0].dtype, op.result.dtype, op.attributes[0]
    if source == target:
        return xs[0].values
    if source == DType.FLOAT32:
        if target == DType.BOOL:
            return [int(not is_zero(v)) for v in xs[0].values]
        return [_float_to_integer(v, rounding, target) for v in xs[0].values]
    if target == DType.FLOAT32:
        return [binary32.from_integer(v) for v in xs[0].values]
    if target == DType.BOOL:
        return [int(v != 0) for v in xs[0].values]
    return [_wrap(v, target) for v in xs[0].values]


def _float_to_integer(bits: int, rounding: int, target: DType) -> int:
    low, high = _range(target)
    if is_nan(bits):
        return 0
    if is_infinite(bits):
        return low if bits & SIGN else high
    return _clamp(binary32.round_to_integral(bits, rounding), low, high)


def _round(op: Operation, xs: Sequence[_Array]) -> list[int]:
    def rounded(bits: int) -> int:
        if not is_finite(bits):
            return bits
        # The sign of x is kept also where the result is 0.
        return bits & SIGN | round_dyadic(False, abs(binary32.round_to_integral(bits, op.attributes[0])), 0)

    return [rounded(v) for v in xs[0].values]


_FLOAT_BINARY: dict[Opcode, Callable[[int, int], int]] = {
    Opcode.ADD: binary32.add,
    Opcode.SUB: binary32.subtract,
    Opcode.MUL: binary32.multiply,
    Opcode.DIV: binary32.divide,
}
_INTEGER_BINARY: dict[Opcode, Callable[[int, int], int]] = {
    Opcode.ADD: lambda x, y: x + y,
    Opcode.SUB: lambda x, y: x - y,
    Opcode.MUL: lambda x, y: x * y,
    Opcode.DIV: lambda x, y: x // y if y else 0,
    Opcode.REM: lambda x, y: x - x // y * y if y else x,
    Opcode.AND: lambda x, y: x & y,
    Opcode.OR: lambda x, y: x | y,
    Opcode.XOR: lambda x, y: x ^ y,
}


def _binary(op: Operation, xs: Sequence[_Array]) -> list[int]:
    pairs = zip(xs[0].values, xs[1].values, strict=True)
    if xs[0].dtype == DType.FLOAT32:
        return [_FLOAT_BINARY[op.opcode](x, y) for x, y in pairs]
    return [_wrap(_INTEGER_BINARY[op.opcode](x, y), op.result.dtype) for x, y in pairs]


def _extreme(op: Operation, xs: Sequence[_Array]) -> list[int]:
    """MAXIMUM and MINIMUM: the first of two in the order of `ranks`."""
    rank = ranks(xs[0].dtype, descending=op.opcode == Opcode.MAXIMUM)
    return [min(pair, key=rank) for pair in zip(xs[0].values, xs[1].values, strict=True)]


def ranks(dtype: DType, *, descending: bool) -> Callable[[int], int]:
    """Lower ranks come first: NaN, then the largest (or smallest) value, +0 above -0."""
    if dtype == DType.FLOAT32:
        if descending:
            return lambda v: -binary32.order_key(v, nan_key=1 << 32)
        return lambda v: binary32.order_key(v, nan_key=-(1 << 32))
    return (lambda v: -v) if descending else (lambda v: v)


def _negate(op: Operation, xs: Sequence[_Array]) -> list[int]:
    if xs[0].dtype == DType.FLOAT32:
        return [NAN if is_nan(v) else v ^ SIGN for v in xs[0].values]
    return [_wrap(-v, op.result.dtype) for v in xs[0].values]


def _absolute(op: Operation, xs: Sequence[_Array]) -> list[int]:
    if xs[0].dtype == DType.FLOAT32:
        return [v & ~SIGN for v in xs[0].values]
    return [_wrap(abs(v), op.result.dtype) for v in xs[0].values]


def _function(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return [exact(op.opcode, v) for v in xs[0].values]


_COMPARE: dict[Opcode, Callable[[int, int], bool]] = {
    Opcode.EQ: lambda x, y: x == y,
    Opcode.NE: lambda x, y: x != y,
    Opcode.LT: lambda x, y: x < y,
    Opcode.LE: lambda x, y: x <= y,
    Opcode.GT: lambda x, y: x > y,
    Opcode.GE: lambda x, y: x >= y,
}


def _compare(op: Operation, xs: Sequence[_Array]) -> list[int]:
    def compared(x: int, y: int) -> int:
        if xs[0].dtype == DType.FLOAT32:
            if is_nan(x) or is_nan(y):
                return int(op.opcode == Opcode.NE)
            x, y = binary32.compare_key(x), binary32.compare_key(y)
        return int(_COMPARE[op.opcode](x, y))

    return [compared(x, y) for x, y in zip(xs[0].values, xs[1].values, strict=True)]


def _not(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return [_wrap(~v, op.result.dtype) for v in xs[0].values]


def _shift(op: Operation, xs: Sequence[_Array]) -> list[int]:
    dtype = op.result.dtype

    def shifted(x: int, count: int) -> int:
        count &= _WIDTH[dtype] - 1
        if op.opcode == Opcode.SHL:
            return _wrap(x << count, dtype)
        return x >> count if op.opcode == Opcode.SHR else _wrap(_unsigned(x, dtype) >> count, dtype)

    return [shifted(x, y) for x, y in zip(xs[0].values, xs[1].values, strict=True)]


def _multiply_high(op: Operation, xs: Sequence[_Array]) -> list[int]:
    dtype = op.result.dtype
    pairs = zip(xs[0].values, xs[1].values, strict=True)
    return [_wrap(_unsigned(x, dtype) * _unsigned(y, dtype) >> 64, dtype) for x, y in pairs]


def _select(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return [x if c else y for c, x, y in zip(xs[0].values, xs[1].values, xs[2].values, strict=True)]


# Reductions over the last dimension, and orders along it


def _sum(op: Operation, xs: Sequence[_Array]) -> list[int]:
    if xs[0].dtype == DType.FLOAT32:
        return [order_free_sum(row) for row in xs[0].rows()]
    return [_wrap(sum(row), DType.INT64) for row in xs[0].rows()]


def order_free_sum(terms: Sequence[int]) -> int:
    """RN of the exact sum of the terms, each quantised to 2^(e - 30), 2^(e - 1) <= max |term| < 2^e."""
    special = _sum_of_special(terms)
    if special is not None:
        return special
    e = _largest_exponent(terms)
    total = sum(_quantised(t, SUM_BITS - e) for t in terms)
    return round_dyadic(total < 0, abs(total), e - SUM_BITS)


def _sum_of_special(terms: Iterable[int]) -> int | None:
    """The sum where a term is NaN or infinite: NaN for a NaN or both infinities, else the infinity."""
    special = {t for t in terms if not is_finite(t)}
    if not special:
        return None
    return special.pop() if len(special) == 1 else NAN


def _largest_exponent(terms: Iterable[int]) -> int:
    """e with 2^(e - 1) <= max |term| < 2^e over finite terms, ZERO_ROW if all are 0."""
    largest = max((t & ~SIGN for t in terms), default=0)
    return binary32.frexp_exponent(largest) if largest else ZERO_ROW


def _quantised(bits: int, shift: int) -> int:
    """round-half-even(x 2^shift)."""
    m, q = binary32.decode(bits)
    return round_half_even(m, q + shift)


def _order(row: Sequence[int], dtype: DType, *, descending: bool) -> list[int]:
    """Positions in order, ties to the lowest."""
    rank = ranks(dtype, descending=descending)
    return sorted(range(len(row)), key=lambda i: rank(row[i]))


def _reduce_extreme(op: Operation, xs: Sequence[_Array]) -> list[int]:
    descending = op.opcode in (Opcode.MAX, Opcode.ARGMAX)
    first = ((row, _order(row, xs[0].dtype, descending=descending)[0]) for row in xs[0].rows())
    return [row[i] if op.opcode in (Opcode.MAX, Opcode.MIN) else i for row, i in first]


def _top_k(op: Operation, xs: Sequence[_Array]) -> list[int]:
    k = op.attributes[0]
    return [i for row in xs[0].rows() for i in _order(row, xs[0].dtype, descending=True)[:k]]


def _sort(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return [i for row in xs[0].rows() for i in _order(row, xs[0].dtype, descending=op.attributes[0] == 1)]


def _cumulative_sum(op: Operation, xs: Sequence[_Array]) -> list[int]:
    result = []
    for row in xs[0].rows():
        total = 0
        for value in row:
            total += value
            result.append(_wrap(total, DType.INT64))
    return result


# Indexing


def _gather(op: Operation, xs: Sequence[_Array]) -> list[int]:
    (x, index), dim = xs, op.attributes[0]
    strides = _strides(x.shape)
    along, strides[dim] = strides[dim], 0
    return [
        x.values[p + i * along] if 0 <= i < x.shape[dim] else 0
        for p, i in zip(_positions(index.shape, strides), index.values, strict=True)
    ]


def _take(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x, index = xs
    size = prod(x.shape[1:])
    zeros = [0] * size
    rows = (x.values[i * size : (i + 1) * size] if 0 <= i < x.shape[0] else zeros for i in index.values)
    return [value for row in rows for value in row]


def _index_add(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x, index, source = xs
    width = x.shape[1]
    landing = [[value] for value in x.values]
    for n, row in enumerate(index.values):
        if 0 <= row < x.shape[0]:
            for column in range(width):
                landing[row * width + column].append(source.values[n * width + column])
    return [order_free_sum(terms) for terms in landing]


def _scatter(op: Operation, xs: Sequence[_Array]) -> list[int]:
    (x, index, source), dim = xs, op.attributes[0]
    strides = _strides(x.shape)
    along, strides[dim] = strides[dim], 0
    result = list(x.values)
    for p, i, value in zip(_positions(index.shape, strides), index.values, source.values, strict=True):
        if 0 <= i < x.shape[dim]:
            result[p + i * along] = value
    return result


# Products


def _exponent(op: Operation, xs: Sequence[_Array]) -> list[int]:
    return [_largest_exponent(r) if all(map(is_finite, r)) else NOT_FINITE for r in xs[0].rows()]


def _scale_exponent(g: int) -> int:
    """A scale within what EXPONENT gives, so that no engine needs a wider range."""
    return _clamp(g, ZERO_ROW, 128)


def _exponent_scaled(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x, g = xs
    scales = list(g.rows())
    height = x.shape[-2]
    result = []
    for i, row in enumerate(x.rows()):
        terms = list(zip(row, scales[i // height], strict=True))
        if any(not is_finite(v) or (k == NOT_FINITE and not is_zero(v)) for v, k in terms):
            result.append(NOT_FINITE)
            continue
        scaled = [binary32.frexp_exponent(v) + _scale_exponent(k) for v, k in terms if not is_zero(v) and k > ZERO_ROW]
        result.append(max(scaled, default=ZERO_ROW))
    return result


def _quantize(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x, e = xs
    return [_plane(v, exponent, op.attributes) for row, exponent in zip(x.rows(), e.values, strict=True) for v in row]


def _quantize_scaled(op: Operation, xs: Sequence[_Array]) -> list[int]:
    x, g, e = xs
    scales = list(g.rows())
    height = x.shape[-2]
    result = []
    for i, (row, exponent) in enumerate(zip(x.rows(), e.values, strict=True)):
        for v, k in zip(row, scales[i // height], strict=True):
            usable = ZERO_ROW < k < NOT_FINITE
            result.append(_plane(v, exponent, op.attributes, _scale_exponent(k)) if usable else 0)
    return result


def _plane(bits: int, e: int, attributes: Sequence[int], g: int = 0) -> int:
    """One plane of q = round-half-even(x 2^(g + w - e)), kept within +-2^w: q itself, or q = 1024 plane0 + plane1."""
    digits, plane = attributes
    if e == NOT_FINITE or not is_finite(bits):
        return 0
    w = digit_width(digits)
    shift = _clamp(g + w - e, -1024, 1024)  # beyond that every q is 0 or at its bound
    q = _clamp(_quantised(bits, shift), -(1 << w), 1 << w)
    if digits <= 2:
        return q
    high = q + 512 >> 10
    return high if plane == 0 else q - (high << 10)


def _dot(op: Operation, xs: Sequence[_Array]) -> list[int]:
    """DOT: RN(2^(ea_i + eb_j - 2w) sum over k of qa_ik qb_jk). DOT_ROWS: the same without eb."""
    digits = op.attributes[0]
    by_rows = op.opcode == Opcode.DOT_ROWS
    exponents, quantised = (xs[:1], xs[1:]) if by_rows else (xs[:2], xs[2:])
    left, right = _joined(quantised[0::2]), _joined(quantised[1::2])
    m, n = quantised[0].shape[-2], quantised[1].shape[-2]
    result = []
    for i, row in enumerate(left):
        batch = i // m
        ea = exponents[0].values[i]
        for j in range(batch * n, batch * n + n):
            eb = 0 if by_rows else exponents[1].values[j]
            if NOT_FINITE in (ea, eb):
                result.append(NAN)
                continue
            total = sum(a * b for a, b in zip(row, right[j], strict=True))
            result.append(round_dyadic(total < 0, abs(total), ea + eb - 2 * digit_width(digits)))
    return result


def _joined(quantised: Sequence[_Array]) -> list[list[int]]:
    """The rows of q from its planes."""
    if len(quantised) == 1:
        return list(quantised[0].rows())
    pairs = zip(quantised[0].rows(), quantised[1].rows(), strict=True)
    return [[1024 * high + low for high, low in zip(*rows, strict=True)] for rows in pairs]


# Randomness


def _philox(op: Operation, xs: Sequence[_Array]) -> list[int]:
    key, step = xs[0].values[0], xs[1].values[0]
    words = (philox.word64(key, i, op.attributes[0], step) for i in range(op.result.elements))
    return [_wrap(w, DType.INT64) for w in words]


_Definition = Callable[[Operation, Sequence[_Array]], list[int]]
_DEFINITIONS: dict[Opcode, _Definition] = {
    Opcode.RESHAPE: _reshape,
    Opcode.PERMUTE: _permute,
    Opcode.EXPAND: _expand,
    Opcode.SLICE: _slice,
    Opcode.PAD: _pad,
    Opcode.CONCAT: _concat,
    Opcode.IOTA: _iota,
    Opcode.CAST: _cast,
    Opcode.ROUND: _round,
    Opcode.NEG: _negate,
    Opcode.ABS: _absolute,
    Opcode.MAXIMUM: _extreme,
    Opcode.MINIMUM: _extreme,
    Opcode.NOT: _not,
    Opcode.SHL: _shift,
    Opcode.SHR: _shift,
    Opcode.SHR_LOGICAL: _shift,
    Opcode.MULHI: _multiply_high,
    Opcode.SELECT: _select,
    Opcode.SUM: _sum,
    Opcode.MAX: _reduce_extreme,
    Opcode.MIN: _reduce_extreme,
    Opcode.ARGMAX: _reduce_extreme,
    Opcode.ARGMIN: _reduce_extreme,
    Opcode.TOPK: _top_k,
    Opcode.SORT: _sort,
    Opcode.CUMSUM: _cumulative_sum,
    Opcode.GATHER: _gather,
    Opcode.TAKE: _take,
    Opcode.INDEX_ADD: _index_add,
    Opcode.SCATTER: _scatter,
    Opcode.EXPONENT: _exponent,
    Opcode.QUANTIZE: _quantize,
    Opcode.EXPONENT_SCALED: _exponent_scaled,
    Opcode.QUANTIZE_SCALED: _quantize_scaled,
    Opcode.DOT: _dot,
    Opcode.DOT_ROWS: _dot,
    Opcode.PHILOX: _philox,
    **dict.fromkeys(_INTEGER_BINARY, _binary),
    **dict.fromkeys(UNARY_FLOAT, _function),
    **dict.fromkeys(COMPARISONS, _compare),
}
