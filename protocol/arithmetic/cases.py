"""Hard cases for every operation and element type: the inputs of the self-test, the golden vectors and the backend
tests.

They are shaped from the bytes of a hash by integer steps alone, so every machine makes the same tensors.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from cupel.protocol.arithmetic.binary32 import INFINITY, NAN, SIGN, is_nan
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    NOT_FINITE,
    UNARY_FLOAT,
    ZERO_ROW,
    DType,
    Graph,
    Opcode,
    Operation,
    Rounding,
    TensorType,
    planes,
)

FLOAT_EDGES = (
    *(0x00000000, 0x00000001, 0x00000002, 0x00000003, 0x007FFFFF, 0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000),
    *(0x33000000, 0x33800000, 0x33800001, 0x337FFFFF, 0x34000000, 0x3F000000, 0x3F000001, 0x3EFFFFFF),
    *(0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000, 0x40000000, 0x40200000, 0x40490FDB, 0x4B000000, 0x4B000001),
    *(0x4EFFFFFF, 0x4F000000, 0x5F000000, 0x7E7FFFFF, 0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF, INFINITY),
)
"""Magnitudes around which roundings, underflow, overflow and conversions change."""

HARD_ARGUMENTS: dict[Opcode, tuple[int, ...]] = {
    Opcode.EXP: (
        0xC16912CD,
        0xBBF0EDF1,
        0x377EFF81,
        0xBAE0E25C,
        0xB3000000,
        0x39C6BE5B,
        0x38E69CC1,
        0x383A3EF1,
        0x3D1A274E,
        0x40315B33,
        0x4001B249,
        0x39E5BB1D,
    ),
    Opcode.LOG: (
        0x65D890D3,
        0x4C5D65A5,
        0x4D604EBE,
        0x41178FEB,
        0x1F116AB8,
        0x66A8C860,
        0x3C413D3A,
        0x6F31A8EC,
        0x38DCBE38,
        0x4665A9A6,
        0x5EE8984E,
        0x3BF86EF0,
    ),
    Opcode.TANH: (
        0x3AC37DE2,
        0x3EEE0566,
        0x3CD41B91,
        0x40ACB4D0,
        0x40C5E8CA,
        0x3D7C3055,
        0x3C96AE2E,
        0x40A6EF82,
        0x3F20B67F,
        0x3FF8BC7E,
        0x4013CD84,
        0x3BC8B605,
    ),
    Opcode.SIGMOID: (
        0xB3800000,
        0x34000000,
        0xB4400000,
        0x34C00000,
        0xB4A00000,
        0xB4E00000,
        0x35200000,
        0xB5100000,
        0xB5300000,
        0x35600000,
        0xB5500000,
        0x35900000,
    ),
    Opcode.ERF: (
        0x3940EAD6,
        0x39C0057D,
        0x358E9D2D,
        0x36AEA466,
        0x3B25A39D,
        0x3F043A75,
        0x332A320C,
        0x37EE85C4,
        0x3425C046,
        0x3AA60E18,
        0x3C7C9E9F,
        0x35023216,
    ),
    Opcode.SIN: (
        0x46199998,
        0x4371ADE3,
        0x3EF3830F,
        0x45A8ABB3,
        0x3DCF5597,
        0x42D44528,
        0x3D0650EA,
        0x3A1285FF,
        0x401F2100,
        0x3EF32001,
        0x3FA0FA4E,
        0x3A852018,
    ),
    Opcode.COS: (
        0x3C107FE6,
        0x39800000,
        0x424790CE,
        0x3A544395,
        0x42378DB8,
        0x46F85A22,
        0x3A0F1BBD,
        0x3E5FA70E,
        0x4010A4BF,
        0x3FDB3C0E,
        0x3FAA2672,
        0x474D265C,
    ),
    Opcode.RSQRT: (0x403A18E3, 0x4009F038, 0x407FFFFE, 0x3FBA2A39, 0x3FD2208F, 0x3FED3230, 0x3F8A5C86),
}
"""Arguments whose function value lies closest to a tie between two binary32 numbers (docs/design/arithmetic.md)."""


class Words:
    """A sequence of 64-bit words named by `seed`: SHAKE-256 of it, a block at a time."""

    def __init__(self, seed: int) -> None:
        self._seed, self._block = seed, 0
        self._words: Iterator[tuple[int]] = iter(())

    def word(self) -> int:
        for (word,) in self._words:
            return word
        name = struct.pack("<QQ", self._seed, self._block)
        self._block += 1
        self._words = struct.iter_unpack("<Q", hashlib.shake_256(name).digest(1 << 15))
        return self.word()

    def below(self, n: int) -> int:
        return self.word() * n >> 64

    def float_bits(self) -> int:
        """A bit pattern of any kind: any magnitude, an edge, a subnormal, or of ordinary size."""
        kind, sign, fraction = self.below(8), self.below(2) << 31, self.below(1 << 23)
        if kind == 0:
            return sign ^ FLOAT_EDGES[self.below(len(FLOAT_EDGES))]
        if kind == 1:
            return sign | self.below(3) << 23 | fraction
        if kind == 2:
            return sign | self.below(255) << 23 | fraction
        if kind == 3:
            return sign | 120 + self.below(15) << 23 | fraction & (0x7FF000, 0x400001, 0)[self.below(3)]
        return sign | 118 + self.below(14) << 23 | fraction

    def floats(self, n: int) -> list[int]:
        return [self.float_bits() for _ in range(n)]

    def ordinary(self, n: int, low: int = 118, spread: int = 12) -> list[int]:
        """Finite and not far from 1."""
        return [self.below(2) << 31 | low + self.below(spread) << 23 | self.below(1 << 23) for _ in range(n)]

    def integers(self, n: int, dtype: DType) -> list[int]:
        """Half of them edges of the type."""
        width = 1 if dtype == DType.BOOL else 8 * dtype.size_bytes
        low = 0 if dtype in (DType.UINT8, DType.BOOL) else -(1 << width - 1)
        edges = (low, low + 1, 0, 1, 2, 3, (1 << width) + low - 1, (1 << width) + low - 2, -1, -2, 7, 64)
        values = [edges[self.below(len(edges))] if self.below(2) else self.word() for _ in range(n)]
        return [(v - low) % (1 << width) + low for v in values]

    def values(self, n: int, dtype: DType) -> list[int]:
        return self.floats(n) if dtype == DType.FLOAT32 else self.integers(n, dtype)


def tensor_of(values: Sequence[int], dtype: DType, shape: Sequence[int] | None = None) -> torch.Tensor:
    """A tensor from integers; float32 from bit patterns, where every NaN becomes the canonical one."""
    shape = (len(values),) if shape is None else tuple(shape)
    if dtype == DType.FLOAT32:
        bits = [NAN if is_nan(v) else v for v in values]
        signed = torch.tensor([b - (1 << 32) if b >> 31 else b for b in bits], dtype=torch.int32)
        return signed.view(torch.float32).reshape(shape)
    return torch.tensor(values, dtype=dtype.torch).reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One operation with its operands."""

    name: str
    opcode: Opcode
    operands: tuple[torch.Tensor, ...]
    result: TensorType
    attributes: tuple[int, ...] = ()

    @property
    def operation(self) -> Operation:
        return Operation(self.opcode, tuple(range(len(self.operands))), self.result, self.attributes)

    @property
    def graph(self) -> Graph:
        inputs = tuple(TensorType.of(t) for t in self.operands)
        return Graph(inputs, (), (self.operation,), (len(inputs),))


INTEGERS = (DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8)
F32, I32, I64, I16 = DType.FLOAT32, DType.INT32, DType.INT64, DType.INT16


def all_cases(seed: int = 1, size: int = 256) -> Iterator[Case]:
    """Cases for every opcode and each element type it takes; `size` elements or so in each elementwise one."""
    words = Words(seed)
    yield from _elementwise(words, size)
    yield from _shapes(words)
    yield from _reductions(words)
    yield from _indexing(words)
    yield from _products(words)
    yield Case(
        "philox",
        Opcode.PHILOX,
        (torch.tensor(-0x0123456789ABCDEF), torch.tensor(5 << 32 | 77)),
        TensorType(I64, (2, 65)),
        (3,),
    )


def float_pairs(words: Words, size: int) -> tuple[list[int], list[int]]:
    """Edges against edges, then random pairs, a quarter of them nearly cancelling."""
    signed = [s | e for e in FLOAT_EDGES[:: 1 if size >= 1024 else 4] for s in (0, SIGN)] + [NAN, INFINITY]
    pairs = list(product(signed, signed))
    for _ in range(size):
        x = words.float_bits()
        y = (x ^ SIGN) + words.below(7) - 3 & 0xFFFFFFFF if words.below(4) == 0 else words.float_bits()
        pairs.append((x, y))
    return [x for x, _ in pairs], [y for _, y in pairs]


def function_arguments(opcode: Opcode, words: Words, size: int) -> list[int]:
    edges = [s | e for e in (*FLOAT_EDGES, NAN) for s in (0, SIGN)]
    near_limits = [0x42B17217, 0x42B17218, 0xC2AEAC4F, 0xC2AEAC50, 0xC2CFF1B4, 0xC2CFF1B5, 0x41102CB3, 0x407B6C7E]
    hard = HARD_ARGUMENTS.get(opcode, ())
    return [*edges, *near_limits, *hard, *words.floats(size), *words.ordinary(size)]


def _elementwise(words: Words, size: int) -> Iterator[Case]:
    def case(opcode: Opcode, *values: list[int], dtype: DType, result: DType | None = None, label: str = "") -> Case:
        name = f"{opcode.name.lower()} {dtype.name.lower()}{label}"
        tensors = tuple(tensor_of(v, dtype) for v in values)
        return Case(name, opcode, tensors, TensorType(result or dtype, tuple(tensors[0].shape)))

    binary = [Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.MAXIMUM, Opcode.MINIMUM]
    for opcode in binary:
        yield case(opcode, *float_pairs(words, size), dtype=F32)
    for opcode in sorted(COMPARISONS):
        yield case(opcode, *float_pairs(words, size), dtype=F32, result=DType.BOOL)
    for opcode in sorted(UNARY_FLOAT):
        yield case(opcode, function_arguments(opcode, words, size), dtype=F32)
    for opcode in (Opcode.NEG, Opcode.ABS):
        for dtype in (F32, *INTEGERS):
            yield case(opcode, words.values(size, dtype), dtype=dtype)
    logic = [Opcode.AND, Opcode.OR, Opcode.XOR]
    shifts = [Opcode.SHL, Opcode.SHR, Opcode.SHR_LOGICAL]
    for dtype in INTEGERS:
        for opcode in (*binary, Opcode.REM, *logic, *shifts):
            yield case(opcode, words.integers(size, dtype), words.integers(size, dtype), dtype=dtype)
        yield case(Opcode.NOT, words.integers(size, dtype), dtype=dtype)
    for dtype in (*INTEGERS, DType.BOOL):
        for opcode in sorted(COMPARISONS):
            yield case(opcode, words.integers(size, dtype), words.integers(size, dtype), dtype=dtype, result=DType.BOOL)
    for opcode in logic:
        yield case(opcode, words.integers(size, DType.BOOL), words.integers(size, DType.BOOL), dtype=DType.BOOL)
    yield case(Opcode.NOT, words.integers(size, DType.BOOL), dtype=DType.BOOL)
    yield case(Opcode.MULHI, words.integers(size, I64), words.integers(size, I64), dtype=I64)
    for dtype in DType:
        x, y = (tensor_of(words.values(size, dtype), dtype) for _ in range(2))
        condition = tensor_of(words.integers(size, DType.BOOL), DType.BOOL)
        yield Case(f"select {dtype.name.lower()}", Opcode.SELECT, (condition, x, y), TensorType.of(x))
    for rounding in Rounding:
        x = tensor_of([s | e for e in (*FLOAT_EDGES, NAN) for s in (0, SIGN)] + words.floats(size), F32)
        name = rounding.name.lower()
        yield Case(f"round {name}", Opcode.ROUND, (x,), TensorType.of(x), (rounding,))
        for dtype in INTEGERS:
            result = TensorType(dtype, tuple(x.shape))
            yield Case(f"cast float32 {dtype.name.lower()} {name}", Opcode.CAST, (x,), result, (rounding,))
    for source, target in product(DType, DType):
        if source == F32 and target in INTEGERS:
            continue
        x = tensor_of(words.values(size, source), source)
        name = f"cast {source.name.lower()} {target.name.lower()}"
        yield Case(name, Opcode.CAST, (x,), TensorType(target, tuple(x.shape)), (0,))


def _shapes(words: Words) -> Iterator[Case]:
    for dtype in DType:
        name = dtype.name.lower()
        x = tensor_of(words.values(60, dtype), dtype, (3, 4, 5))

        def case(
            opcode: Opcode, shape: Sequence[int], *attributes: int, x: torch.Tensor = x, label: str = name
        ) -> Case:
            name = f"{opcode.name.lower()} {label}"
            return Case(name, opcode, (x,), TensorType(DType.of(x.dtype), tuple(shape)), attributes)

        yield case(Opcode.RESHAPE, (2, 30))
        yield case(Opcode.PERMUTE, (5, 3, 4), 2, 0, 1)
        yield case(Opcode.SLICE, (3, 4, 2), 2, 1, 3)
        yield case(Opcode.EXPAND, (3, 2, 4, 5), x=x.reshape(3, 1, 4, 5))
        fill = {F32: 0xFF800000, DType.BOOL: 1, DType.INT64: 1 << 62}.get(
            dtype, 0xAD if dtype.size_bytes == 1 else 0x8001
        )
        yield case(Opcode.PAD, (5, 4, 7), fill, 1, 0, 2)
        y = tensor_of(words.values(30, dtype), dtype, (3, 2, 5))
        yield Case(f"concat {name}", Opcode.CONCAT, (x, y, x), TensorType(dtype, (3, 10, 5)), (1,))
    yield Case("iota", Opcode.IOTA, (), TensorType(I64, (3, 4, 2)), (1,))


def sum_rows(words: Words, length: int) -> list[list[int]]:
    """Rows that sum in every way: ordinary, cancelling, tiny, huge, of zeros, and with special values."""
    huge = [0x7F7FFFFF - words.below(4) for _ in range(length)]
    cancel = words.ordinary(length // 2)
    # The sum needs more than 53 bits, which a detour over float64 would round twice.
    long = [0x3F800000 | words.below(1 << 23) | 1 for _ in range(length - 1)] + [0x3F7FFFFF]
    rows = [
        words.ordinary(length),
        words.ordinary(length, low=60, spread=130),
        [*cancel, *(v ^ SIGN for v in cancel), *words.ordinary(length - 2 * len(cancel), low=80)],
        [v & 0x807FFFFF for v in words.ordinary(length)],
        [v & 0x81FFFFFF for v in words.ordinary(length)],
        huge,
        [v ^ (words.below(2) << 31) for v in huge],
        long,
        [0] * length,
        [SIGN] * length,
        [*words.ordinary(length - 1), INFINITY],
        [*words.ordinary(length - 1), INFINITY | SIGN],
        [*words.ordinary(length - 1), NAN],
    ]
    if length > 1:
        rows.append([INFINITY | SIGN, *words.ordinary(length - 2), INFINITY])
    return rows


def float_rows(words: Words, length: int) -> torch.Tensor:
    rows = sum_rows(words, length)
    return tensor_of([v for row in rows for v in row], F32, (len(rows), length))


def _reductions(words: Words) -> Iterator[Case]:
    for length in (1, 2, 33, 600):
        x = float_rows(words, length)
        yield Case(f"sum float32 {length}", Opcode.SUM, (x,), TensorType(F32, tuple(x.shape[:-1])))
    yield Case("sum float32 empty", Opcode.SUM, (torch.zeros(3, 0),), TensorType(F32, (3,)))
    for dtype in INTEGERS:
        x = tensor_of(words.integers(90, dtype), dtype, (6, 15))
        yield Case(f"sum {dtype.name.lower()}", Opcode.SUM, (x,), TensorType(I64, (6,)))
        yield Case(f"cumsum {dtype.name.lower()}", Opcode.CUMSUM, (x,), TensorType(I64, (6, 15)))
    for dtype in DType:
        name = dtype.name.lower()
        values = words.values(240, dtype)
        if dtype == F32:
            # Ties, zeros of both signs and more than one NaN within a row.
            values[:60] = [(0, SIGN, NAN, 0x3F800000, INFINITY, 1)[words.below(6)] for _ in range(60)]
            values[60:120] = [(0, SIGN)[words.below(2)] for _ in range(60)]
        x = tensor_of(values, dtype, (12, 20))
        for opcode in (Opcode.MAX, Opcode.MIN):
            yield Case(f"{opcode.name.lower()} {name}", opcode, (x,), TensorType(dtype, (12,)))
        for opcode in (Opcode.ARGMAX, Opcode.ARGMIN):
            yield Case(f"{opcode.name.lower()} {name}", opcode, (x,), TensorType(I64, (12,)))
        yield Case(f"topk {name}", Opcode.TOPK, (x,), TensorType(I64, (12, 7)), (7,))
        for descending in (0, 1):
            label = "descending" if descending else "ascending"
            yield Case(f"sort {label} {name}", Opcode.SORT, (x,), TensorType(I64, (12, 20)), (descending,))


def _indexing(words: Words) -> Iterator[Case]:
    for dtype in DType:
        name = dtype.name.lower()
        x = tensor_of(words.values(105, dtype), dtype, (5, 7, 3))
        index = tensor_of([words.below(11) - 2 for _ in range(32)], I64, (4, 4, 2))
        yield Case(f"gather {name}", Opcode.GATHER, (x, index), TensorType(dtype, (4, 4, 2)), (1,))
        source = tensor_of(words.values(32, dtype), dtype, (4, 4, 2))
        yield Case(f"scatter {name}", Opcode.SCATTER, (x, index, source), TensorType.of(x), (1,))
        rows = tensor_of([words.below(7) - 1 for _ in range(8)], I64, (2, 4))
        yield Case(f"take {name}", Opcode.TAKE, (x, rows), TensorType(dtype, (2, 4, 7, 3)))
    for name, make in (("ordinary", words.ordinary), ("any", words.floats)):
        x = tensor_of(make(40), F32, (10, 4))
        x[0] = -0.0
        index = tensor_of([words.below(11) - 1 for _ in range(50)], I64)
        source = tensor_of(make(200), F32, (50, 4))
        yield Case(f"index_add {name}", Opcode.INDEX_ADD, (x, index, source), TensorType.of(x))


def product_operands(words: Words, m: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a[m, k] and b[k, n] whose rows and columns take turns: ordinary, mixed, subnormal, huge, zero, special."""

    def row(i: int) -> list[int]:
        kind = i % 8
        if kind == 1:
            return words.ordinary(k, low=30, spread=200)
        if kind == 2:
            return [v & 0x80FFFFFF for v in words.ordinary(k)]
        if kind == 3:
            return words.ordinary(k, low=240, spread=15)
        if kind == 4:
            return [(v & SIGN) * words.below(2) for v in words.ordinary(k)]
        if kind == 5:
            return [v | 0x7FFFFF for v in words.ordinary(k, low=126, spread=1)]
        if kind == 7 and i % 16 == 7:
            values = words.ordinary(k)
            values[words.below(k)] = (NAN, INFINITY, INFINITY | SIGN)[words.below(3)]
            return values
        return words.ordinary(k)

    a = tensor_of([v for i in range(m) for v in row(i)], F32, (m, k))
    b = tensor_of([v for i in range(n) for v in row(i)], F32, (n, k)).t().contiguous()
    return a, b


def _products(words: Words) -> Iterator[Case]:
    x = float_rows(words, 33)
    x[-1], x[-2] = 0.0, 0.0
    x[-1, 30:], x[-2, :3] = torch.tensor([7.0, 0.0, 3.0]), 2.0**-149  # the first meets only rows of zeros in g
    exponents = TensorType(I32, tuple(x.shape[:-1]))
    yield Case("exponent", Opcode.EXPONENT, (x,), exponents)
    e = tensor_of([words.below(40) - 10 for _ in range(x.shape[0] - 3)] + [NOT_FINITE, -600, 600], I32)
    g = tensor_of([words.below(200) - 100 for _ in range(30)] + [ZERO_ROW, NOT_FINITE, -600], I32, (33,))
    batched = x.reshape(1, *x.shape)
    yield Case("exponent_scaled", Opcode.EXPONENT_SCALED, (x, g), exponents)
    yield Case(
        "exponent_scaled batch",
        Opcode.EXPONENT_SCALED,
        (torch.cat([batched, batched.flip(1)]), torch.stack([g, g.flip(0)])),
        TensorType(I32, (2, *exponents.shape)),
    )
    for digits in (1, 2, 3):
        for plane in range(planes(digits)):
            label = f"{digits} {plane}"
            result = TensorType(I16, tuple(x.shape))
            yield Case(f"quantize {label}", Opcode.QUANTIZE, (x, e), result, (digits, plane))
            yield Case(f"quantize_scaled {label}", Opcode.QUANTIZE_SCALED, (x, g, e), result, (digits, plane))
    for digits, (m, k, n) in product((1, 2, 3), ((5, 1, 3), (6, 64, 9))):
        w = 7 * digits - 1
        planes_ = []
        for rows in (m, n):
            q = torch.tensor([[words.below(2 << w) + 1 - (1 << w) for _ in range(k)] for _ in range(2 * rows)])
            q = q.reshape(2, rows, k)
            q[0, 0] = 1 << w
            high = q + 512 >> 10
            planes_.append([q.to(torch.int16)] if digits < 3 else [t.to(torch.int16) for t in (high, q - (high << 10))])
        pairs = tuple(t for both in zip(*planes_, strict=True) for t in both)
        ea, eb = (tensor_of([words.below(277) - 148 for _ in range(2 * r)], I32, (2, r)) for r in (m, n))
        ea[0, -1], eb[1, -1] = NOT_FINITE, NOT_FINITE
        result = TensorType(F32, (2, m, n))
        yield Case(f"dot {digits} k={k}", Opcode.DOT, (ea, eb, *pairs), result, (digits,))
        yield Case(f"dot_rows {digits} k={k}", Opcode.DOT_ROWS, (ea, *pairs), result, (digits,))


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """All cases, and some compositions an engine would fuse, as one graph: compiled once, it tests every kernel."""

    graph: Graph
    inputs: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    """What each output is called."""


def together(seed: int = 1, size: int = 64) -> Together:
    builder = GraphBuilder()
    inputs: list[torch.Tensor] = []
    outputs: list[Value] = []
    names: list[str] = []

    def enter(tensor: torch.Tensor) -> Value:
        inputs.append(tensor)
        return builder.input(TensorType.of(tensor))

    for case in all_cases(seed, size):
        value = builder.apply(case.opcode, [enter(t) for t in case.operands], case.result, case.attributes)
        outputs.append(value)
        names.append(case.name)
    words = Words(seed + 1)
    for name, value in _compositions(builder, words, enter):
        outputs.append(value)
        names.append(name)
    return Together(builder.build(outputs), tuple(inputs), tuple(names))


def _compositions(
    builder: GraphBuilder, words: Words, enter: Callable[[torch.Tensor], Value]
) -> Iterator[tuple[str, Value]]:
    # Few: an engine compiles each shape of product anew.
    products = [(d, s, (9, 45, 35)) for d in (1, 2, 3) for s in ("columns", "rows")] + [(2, "columns", (17, 1, 5))]
    for digits, scale, (m, k, n) in products:
        a, b = (enter(t) for t in product_operands(words, m, k, n))
        yield f"matmul {digits} {scale} {m}x{k}x{n}", builder.matmul(a, b, digits, scale)
    # Transposed operands and batches, as attention and weight gradients have them.
    q, k_, v = (enter(tensor_of(words.ordinary(2 * 3 * 7 * 4), F32, (2, 3, 7, 4))) for _ in range(3))
    scores = builder.matmul(q, builder.transpose(k_, -1, -2))
    largest = builder.max(scores, [-1], keepdim=True)
    shifted = builder.binary(Opcode.SUB, scores, largest)
    exponentials = builder.unary(Opcode.EXP, shifted)
    weights = builder.binary(Opcode.DIV, exponentials, builder.sum(exponentials, [-1], keepdim=True))
    yield "softmax", weights
    attended = builder.matmul(weights, v, 2, "rows")
    yield "attention", attended
    yield "attention backward", builder.matmul(builder.transpose(weights, -1, -2), attended)
    x = enter(tensor_of(words.ordinary(13 * 24), F32, (13, 24)))
    square = builder.sum(builder.binary(Opcode.MUL, x, x), [-1], keepdim=True)
    mean = builder.binary(Opcode.DIV, square, builder.scalar(24.0, F32))
    scale_ = builder.unary(Opcode.RSQRT, builder.binary(Opcode.ADD, mean, builder.scalar(1e-6, F32)))
    normal = builder.binary(Opcode.MUL, x, scale_)
    yield "rms norm", normal
    silu = builder.binary(Opcode.MUL, normal, builder.unary(Opcode.SIGMOID, normal))
    yield "silu", silu
    yield "column sum", builder.sum(silu, [0])
    yield "whole sum", builder.sum(silu)
    second = builder.binary(Opcode.MUL, silu, silu)
    update = builder.binary(
        Opcode.DIV, silu, builder.binary(Opcode.ADD, builder.unary(Opcode.SQRT, second), builder.scalar(1e-8, F32))
    )
    yield "adam", builder.binary(Opcode.SUB, x, builder.binary(Opcode.MUL, update, builder.scalar(1e-3, F32)))
    # Whole panels of zeros, as masked tokens and weights that begin at zero make them, over an odd number of pairs.
    empty = [tensor_of(words.ordinary(m * 66), F32, shape) for m, shape in ((35, (35, 66)), (37, (66, 37)))]
    empty[0][:32], empty[1][:, :32] = 0.0, 0.0
    full = [tensor_of(words.ordinary(m * 66), F32, shape) for m, shape in ((35, (35, 66)), (37, (66, 37)))]
    (zero_rows, zero_columns), (rows, columns) = map(enter, empty), map(enter, full)
    for digits in (1, 2, 3):
        for scale in ("columns", "rows"):
            yield f"zero rows {digits} {scale}", builder.matmul(zero_rows, columns, digits, scale)
            yield f"zero columns {digits} {scale}", builder.matmul(rows, zero_columns, digits, scale)
