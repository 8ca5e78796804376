"""Cases for the referee's numeric libraries: arguments, and what the definition makes of them.

Each group is one function under the code that contracts/tests/referee/KernelHarness.sol knows it by. The stored vectors
(tests/vectors/referee) are `all_groups(1, 24)`; any other seed makes new ones, to compare live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cupel.protocol import philox
from cupel.protocol.arithmetic import binary32
from cupel.protocol.arithmetic.binary32 import INFINITY, NAN, ONE, SIGN, decode, is_finite, is_zero
from cupel.protocol.arithmetic.cases import FLOAT_EDGES, HARD_ARGUMENTS, Words, sum_rows, tensor_of
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    NOT_FINITE,
    ZERO_ROW,
    DType,
    Opcode,
    Operation,
    Rounding,
    TensorType,
    digit_width,
    planes,
)
from cupel.protocol.arithmetic.reference import evaluate

F32, I16, I32, I64 = DType.FLOAT32, DType.INT16, DType.INT32, DType.INT64
INTEGERS = (DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8)
INTEGER_CODES, OTHER_CODES = 256, 512
ROUND_SCALED, EXPONENT_OF, FROM_INTEGER, TERM = 512, 513, 514, 515
IS_BEFORE, QUANTIZE, QUANTIZE_SCALED, ROUND_DOT, ROUND_DOT_ROWS, PHILOX = 517, 518, 519, 520, 521, 522
EXPONENT, EXPONENT_SCALED, DOT, DOT_OF_PLANES, SUM, PARTIAL_SUM, SUM_OF = 600, 601, 602, 603, 604, 605, 606
INTEGER_SUM, FIRST, COUNT_BEFORE = 607, 608, 609


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalars:
    """Many cases of a function of numbers."""

    library: str
    name: str
    code: int
    arguments: tuple[tuple[int, ...], ...]
    """One tuple a case, all of one length; signed where the function takes int256."""
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case of a function of rows of bytes."""

    library: str
    name: str
    code: int
    rows: tuple[bytes, ...]
    count: int
    numbers: tuple[int, ...]
    expected: tuple[int, int]
    """The second is 0 where the function has one result."""


Group = Scalars | Row


def all_groups(seed: int, size: int) -> Iterator[Group]:
    """Every function; `size` random cases of each besides the edges."""
    yield from _binary32(Words(seed), size)
    yield from _specials()
    yield from _functions(Words(seed + 1000), size)
    yield from _integers(Words(seed + 2000), size)
    yield from _products(Words(seed + 3000), size)
    yield from _sums(Words(seed + 4000), size)
    yield from _orders(Words(seed + 5000), size)
    yield from _philox(Words(seed + 6000), size)


def values_of(opcode: Opcode, operands: Sequence[torch.Tensor], result: TensorType, *attributes: int) -> list[int]:
    """What the definition makes of tensors, as integers; floats as bit patterns."""
    answer = evaluate(Operation(opcode, tuple(range(len(operands))), result, attributes), operands)
    if result.dtype == F32:
        return [v & 0xFFFFFFFF for v in answer.reshape(-1).view(torch.int32).tolist()]
    return [int(v) for v in answer.reshape(-1).tolist()]


def _scalars(library: str, name: str, code: int, cases: Sequence[tuple[int, ...]], expected: Sequence[int]) -> Scalars:
    assert len(cases) == len(expected)
    return Scalars(library=library, name=name, code=code, arguments=tuple(cases), expected=tuple(expected))


def _row(
    library: str,
    name: str,
    code: int,
    rows: Sequence[bytes],
    count: int,
    *expected: int,
    numbers: Sequence[int] = (),
) -> Row:
    both = (*expected, 0)[:2]
    return Row(
        library=library,
        name=name,
        code=code,
        rows=tuple(rows),
        count=count,
        numbers=tuple(numbers),
        expected=(both[0], both[1]),
    )


def _canonical(bits: int) -> int:
    return NAN if binary32.is_nan(bits) else bits


def _bytes(tensor: torch.Tensor) -> bytes:
    """Little-endian, as a tensor is hashed."""
    return tensor.contiguous().numpy().tobytes()


# Binary32


def _pairs(words: Words, size: int) -> list[tuple[int, int]]:
    """Edges with edges, random ones, and neighbours of ties, overflow and underflow."""
    edges = [0, SIGN, 1, SIGN | 1, 0x7FFFFF, 0x800000, ONE, ONE | SIGN, 0x7F7FFFFF, INFINITY, INFINITY | SIGN, NAN]
    pairs = [(a, b) for a in edges for b in edges]
    # Quotients that look like a tie in their first 41 bits, and lie above it.
    pairs += [(1, b) for b in (0x1E0121FF, 0x1E0164B0, 0x1E0468CF)] + [(SIGN | 1, 0x1E069913)]
    for _ in range(size):
        a, b = _canonical(words.float_bits()), _canonical(words.float_bits())
        pairs.append((a, b))
        # An exponent 22 to 27 below: what is added lies about half a last place.
        low = max((a >> 23 & 0xFF) - 22 - words.below(6), 0) << 23 | b & 0x80600000
        pairs.append((a, _canonical(low)))
        # Products and quotients about the smallest and the largest numbers.
        x = words.ordinary(1, low=1, spread=253)[0]
        partner = (127 + (-24 + words.below(3) if words.below(2) else 254) - (x >> 23 & 0xFF)) % 255
        pairs.append((x, partner << 23 | words.below(1 << 23) & (0x7FFFFF, 0x600000)[words.below(2)]))
        pairs.append((a, a ^ SIGN if is_finite(a) else a))
    return pairs


def _binary32(words: Words, size: int) -> Iterator[Group]:
    pairs = _pairs(words, size)
    x, y = (tensor_of([pair[i] for pair in pairs], F32) for i in (0, 1))
    binary = (Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.MAXIMUM, Opcode.MINIMUM, *sorted(COMPARISONS))
    for opcode in binary:
        dtype = DType.BOOL if opcode in COMPARISONS else F32
        expected = values_of(opcode, (x, y), TensorType(dtype, (len(pairs),)))
        yield _scalars("binary32", opcode.name.lower(), opcode, pairs, expected)
    floats = sorted({_canonical(v) for v in (*FLOAT_EDGES, *words.floats(4 * size))})
    one = tensor_of(floats, F32)
    for opcode in (Opcode.NEG, Opcode.ABS, Opcode.SQRT, Opcode.RSQRT):
        known = [*floats, *HARD_ROOTS] if opcode != Opcode.RSQRT else [*floats, *HARD_ARGUMENTS[opcode]]
        operand = tensor_of(known, F32)
        expected = values_of(opcode, (operand,), TensorType.of(operand))
        yield _scalars("binary32", opcode.name.lower(), opcode, [(v,) for v in known], expected)
    small = [s | 124 + k << 23 | words.below(1 << 23) & 0x7C0000 for k in range(40) for s in (0, SIGN)]
    near = [*floats, *small]
    one = tensor_of(near, F32)
    for rounding in Rounding:
        name = rounding.name.lower()
        expected = values_of(Opcode.ROUND, (one,), TensorType.of(one), rounding)
        yield _scalars("binary32", f"round {name}", Opcode.ROUND, [(v, rounding) for v in near], expected)
        for dtype in INTEGERS:
            width, signed = 8 * dtype.size_bytes, int(dtype != DType.UINT8)
            expected = values_of(Opcode.CAST, (one,), TensorType(dtype, (len(near),)), rounding)
            cases = [(v, rounding, width, signed) for v in near]
            yield _scalars("binary32", f"cast {name} {dtype.name.lower()}", Opcode.CAST, cases, expected)
    integers = [
        *(s * ((1 << k) + d) for k in (0, 23, 24, 25, 30, 53, 62) for d in (-1, 0, 1) for s in (1, -1)),
        -(1 << 63),
    ]
    integers += [w - (1 << 63) >> words.below(60) for w in (words.word() for _ in range(2 * size))]
    expected = values_of(Opcode.CAST, (tensor_of(integers, I64),), TensorType(F32, (len(integers),)), 0)
    yield _scalars("binary32", "from integer", FROM_INTEGER, [(n,) for n in integers], expected)
    scaled = _scaled(words, size)
    expected = [binary32.round_dyadic(m < 0, abs(m), q) for m, q in scaled]
    yield _scalars("binary32", "round scaled", ROUND_SCALED, scaled, expected)
    usable = [v for v in floats if is_finite(v) and not is_zero(v)]
    yield _scalars(
        "binary32", "exponent of", EXPONENT_OF, [(v,) for v in usable], [binary32.frexp_exponent(v) for v in usable]
    )


SPECIALS = (NAN, INFINITY, INFINITY | SIGN, 0, SIGN, *(v | SIGN for v in FLOAT_EDGES))


def _specials() -> Iterator[Group]:
    """NaN, both infinities and zeros, and every edge below zero, through all functions of one number."""
    x = tensor_of(SPECIALS, F32)
    functions = (Opcode.EXP, Opcode.LOG, Opcode.TANH, Opcode.SIGMOID, Opcode.ERF, Opcode.SIN, Opcode.COS)
    for opcode in (Opcode.NEG, Opcode.ABS, Opcode.SQRT, Opcode.RSQRT, *functions):
        library = "functions" if opcode in functions else "binary32"
        expected = values_of(opcode, (x,), TensorType.of(x))
        yield _scalars(library, f"{opcode.name.lower()} of specials", opcode, [(v,) for v in SPECIALS], expected)
    for rounding in Rounding:
        expected = values_of(Opcode.ROUND, (x,), TensorType.of(x), rounding)
        yield _scalars("binary32", "round of specials", Opcode.ROUND, [(v, rounding) for v in SPECIALS], expected)
        for dtype in INTEGERS:
            expected = values_of(Opcode.CAST, (x,), TensorType(dtype, tuple(x.shape)), rounding)
            shape = (8 * dtype.size_bytes, int(dtype != DType.UINT8))
            cases = [(v, rounding, *shape) for v in SPECIALS]
            yield _scalars("binary32", "cast of specials", Opcode.CAST, cases, expected)
    for plane in (0, 1):
        e = tensor_of([3] * len(SPECIALS), I32)
        expected = values_of(Opcode.QUANTIZE, (x.reshape(-1, 1), e), TensorType(I16, (len(SPECIALS), 1)), 3, plane)
        cases = [(v, 3, 3, plane) for v in SPECIALS]
        yield _scalars("products", "quantize of specials", QUANTIZE, cases, expected)


def _scaled(words: Words, size: int) -> list[tuple[int, int]]:
    """(mantissa, exponent): halves of the last place from one bit off to none, at every end of the range."""
    cases = [(0, 0), (0, -4000), (0, 4000), (1, -150), (-1, -150), (3, -151), (1, -151), (1, 127), (-1, 128), (1, 128)]
    cases += [((1 << 25) - 1, 103), ((1 << 25) - 2, 103), (1, 1 << 40), (-1, -(1 << 40)), ((1 << 254) + 1, -254)]
    for _ in range(size):
        bits = 1 + words.below(250)
        m = words.word() << 190 | words.word() << 126 | words.word() << 62 | words.word() >> 2
        m = (m & (1 << bits) - 1 | 1 << bits - 1) * (1 - 2 * words.below(2))
        cases.append((m, words.below(300) - 150 - bits))
        tie = ((1 << 24 | words.below(1 << 24)) << 80) * (1 - 2 * words.below(2))
        cases += [(tie + d, words.below(260) - 235) for d in (-1, 0, 1)]
        small = (2 * words.below(64) + 1) << 60
        cases += [(small + d, -150 - 60) for d in (-1, 0, 1)]
    return cases


HARD_ROOTS = (0x4B2A177F, 0x4B3302BE, 0x4B3B8BCC)
"""Their roots look like a tie in the first 44 bits, and lie above it."""


# Functions


def _functions(words: Words, size: int) -> Iterator[Group]:
    # From where shortcuts and saturation begin, one pattern to either side.
    ends = (0x39800000, 0x3F800000, 0x40800000, 0x41200000, 0x42D00000, 0x42AEAC50, 0x42B17218, 0x42CFF1B5, 0x33000000)
    about = [s | e + d for e in ends for d in (-1, 0, 1) for s in (0, SIGN)]
    # The nearest to whole quarters of a turn, and the largest.
    angles = [0x3FC90FDB, 0x40490FDB, 0x40C90FDB, 0x4B095E4D, 0x5F18B878, 0x7F7FFFFF, 0x7F4ABCDE]
    for opcode in (Opcode.EXP, Opcode.LOG, Opcode.TANH, Opcode.SIGMOID, Opcode.ERF, Opcode.SIN, Opcode.COS):
        known = {*FLOAT_EDGES, *about, *angles, *HARD_ARGUMENTS[opcode], *HARD_CLOSEST.get(opcode, ())}
        known |= {v ^ SIGN for v in HARD_ARGUMENTS[opcode]} | set(words.floats(size))
        # Where no function is constant.
        known |= set(words.ordinary(2 * size, low=110, spread=22))
        if opcode in (Opcode.SIN, Opcode.COS, Opcode.LOG):
            known |= set(words.ordinary(size, low=130, spread=125))
        floats = sorted({_canonical(v) for v in known})
        operand = tensor_of(floats, F32)
        expected = values_of(opcode, (operand,), TensorType.of(operand))
        yield _scalars("functions", opcode.name.lower(), opcode, [(v,) for v in floats], expected)


HARD_CLOSEST: dict[Opcode, tuple[int, ...]] = {
    Opcode.EXP: (0xC16912CD, 0xBBF0EDF1, 0xBAE0E25C),
    Opcode.LOG: (0x65D890D3, 0x4C5D65A5, 0x4D604EBE),
    Opcode.TANH: (0x3AC37DE2, 0xBAC37DE2, 0x3EEE0566),
    Opcode.SIGMOID: (0xB3800000, 0x34000000, 0xB4400000),
    Opcode.ERF: (0x3940EAD6, 0xB940EAD6, 0x39C0057D),
    Opcode.SIN: (0x73243F06, 0xF3243F06, 0x46199998),
    Opcode.COS: (0x6115CB11, 0xE115CB11, 0x5F18B878),
}
"""The closest to a tie of all (benchmarks/results/closest.txt)."""


# Integers


def _integers(words: Words, size: int) -> Iterator[Group]:
    binary = (Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.REM, Opcode.SHL, Opcode.SHR, Opcode.SHR_LOGICAL)
    for dtype in INTEGERS:
        name, count = dtype.name.lower(), 4 * size
        xs, ys = words.integers(count, dtype), words.integers(count, dtype)
        # Every type's hardest: the lowest number and minus one.
        low = min(xs)
        xs, ys = [*xs, low, low, 0], [*ys, max(low, -1), 0, 0]
        x, y = tensor_of(xs, dtype), tensor_of(ys, dtype)
        for opcode in binary:
            expected = values_of(opcode, (x, y), TensorType.of(x))
            cases = [(a, b, dtype) for a, b in zip(xs, ys, strict=True)]
            yield _scalars("integers", f"{opcode.name.lower()} {name}", INTEGER_CODES + opcode, cases, expected)
        for opcode in (Opcode.NEG, Opcode.ABS, Opcode.NOT):
            expected = values_of(opcode, (x,), TensorType.of(x))
            yield _scalars(
                "integers",
                f"{opcode.name.lower()} {name}",
                INTEGER_CODES + opcode,
                [(a, 0, dtype) for a in xs],
                expected,
            )
        length = 1 + words.below(12)
        row = tensor_of(words.integers(length, dtype), dtype)
        total = values_of(Opcode.SUM, (row,), TensorType(I64, ()))[0]
        yield _row("integers", f"sum {name}", INTEGER_SUM, (_bytes(row),), length, total, numbers=(dtype,))
        running = values_of(Opcode.CUMSUM, (row,), TensorType(I64, (length,)))
        at = words.below(length)
        yield _row("integers", f"cumsum {name}", INTEGER_SUM, (_bytes(row),), at + 1, running[at], numbers=(dtype,))
    xs, ys = words.integers(4 * size, I64), words.integers(4 * size, I64)
    x, y = tensor_of(xs, I64), tensor_of(ys, I64)
    expected = values_of(Opcode.MULHI, (x, y), TensorType.of(x))
    cases = [(a, b, I64) for a, b in zip(xs, ys, strict=True)]
    yield _scalars("integers", "mulhi", INTEGER_CODES + Opcode.MULHI, cases, expected)
    bits = tensor_of([0, 1], DType.BOOL)
    expected = values_of(Opcode.NOT, (bits,), TensorType.of(bits))
    yield _scalars("integers", "not bool", INTEGER_CODES + Opcode.NOT, [(v, 0, DType.BOOL) for v in (0, 1)], expected)
    for dtype in INTEGERS:
        wide = tensor_of(words.integers(2 * size, I64), I64)
        expected = values_of(Opcode.CAST, (wide,), TensorType(dtype, tuple(wide.shape)), 0)
        cases = [(int(v), 0, dtype) for v in wide.tolist()]
        yield _scalars("integers", f"wrap {dtype.name.lower()}", INTEGER_CODES + Opcode.CAST, cases, expected)


# Products


def _products(words: Words, size: int) -> Iterator[Group]:
    for length in (1, 7, 8, 21):
        for values in sum_rows(words, length):
            row = tensor_of(values, F32)
            e = values_of(Opcode.EXPONENT, (row.reshape(1, -1),), TensorType(I32, (1,)))[0]
            yield _row("products", f"exponent {length}", EXPONENT, (_bytes(row) + b"\xff" * 4,), length, e)
            scales = [words.below(300) - 160 for _ in values]
            if words.below(2):
                scales[words.below(length)] = (NOT_FINITE, ZERO_ROW, -600, 600)[words.below(4)]
            yield _exponent_scaled(values, scales)
    yield _exponent_scaled([1, 2, 0], [-148, -140, NOT_FINITE])
    yield _exponent_scaled([ONE, ONE], [ZERO_ROW, -(1 << 31)])
    yield from _quantised(words, size)
    yield from _dots(words, size)


def _exponent_scaled(values: Sequence[int], scales: Sequence[int]) -> Row:
    x, g = tensor_of(values, F32).reshape(1, -1), tensor_of(scales, I32)
    e = values_of(Opcode.EXPONENT_SCALED, (x, g), TensorType(I32, (1,)))[0]
    some = any(not is_finite(v) or (not is_zero(v) and s > ZERO_ROW) for v, s in zip(values, scales, strict=True))
    return _row("products", "exponent scaled", EXPONENT_SCALED, (_bytes(x), _bytes(g)), len(values), e, int(some))


def _quantised(words: Words, size: int) -> Iterator[Group]:
    floats = [_canonical(v) for v in (*FLOAT_EDGES, *words.floats(2 * size), *words.ordinary(size, low=110, spread=30))]
    n = len(floats)
    # About the float's own exponent, where it is rounded, and anywhere.
    es = [(v >> 23 & 0xFF) - 126 + words.below(8) - 3 for v in floats]
    for i in range(0, n, 5):
        es[i] = (NOT_FINITE, -(1 << 31), 600, -600, ZERO_ROW, 200)[words.below(6)]
    gs = [words.below(40) - 20 for _ in floats]
    for i in range(0, n, 6):
        gs[i] = (NOT_FINITE, ZERO_ROW, -(1 << 31), 600, 128, -148)[words.below(6)]
    shifted = [e if abs(e) > 500 else e + max(min(g, 128), ZERO_ROW) for e, g in zip(es, gs, strict=True)]
    x = tensor_of(floats, F32)
    for digits in (1, 2, 3):
        for plane in range(planes(digits)):
            name = f"{digits} digits plane {plane}"
            operands = (x.reshape(n, 1), tensor_of(es, I32))
            expected = values_of(Opcode.QUANTIZE, operands, TensorType(I16, (n, 1)), digits, plane)
            cases: list[tuple[int, ...]] = [(v, e, digits, plane) for v, e in zip(floats, es, strict=True)]
            yield _scalars("products", f"quantize {name}", QUANTIZE, cases, expected)
            operands3 = (x.reshape(n, 1, 1), tensor_of(gs, I32, (n, 1)), tensor_of(shifted, I32, (n, 1)))
            expected = values_of(Opcode.QUANTIZE_SCALED, operands3, TensorType(I16, (n, 1, 1)), digits, plane)
            cases = [(v, g, e, digits, plane) for v, g, e in zip(floats, gs, shifted, strict=True)]
            yield _scalars("products", f"quantize scaled {name}", QUANTIZE_SCALED, cases, expected)


def _dots(words: Words, size: int) -> Iterator[Group]:
    extremes = [-(1 << 15), (1 << 15) - 1]
    for length in (1, 2, 15, 16, 17, 40, 64):
        for kind in range(3):
            rows = [
                [extremes[words.below(2)] for _ in range(length)]
                if kind == 0
                else words.integers(length, I16)
                if kind == 1
                else [words.below((1 << 14) + 1) - (1 << 13) for _ in range(length)]
                for _ in range(4)
            ]
            tensors = [tensor_of(row, I16) for row in rows]
            held = [_bytes(t) + b"\x7f" * 3 for t in tensors]  # what follows a row does not count
            total = sum(a * b for a, b in zip(rows[0], rows[1], strict=True))
            yield _row("products", f"dot {length}", DOT, held[:2], length, total)
            left, right = ([1024 * h + low for h, low in zip(rows[i], rows[i + 2], strict=True)] for i in (0, 1))
            total = sum(a * b for a, b in zip(left, right, strict=True))
            yield _row("products", f"dot of planes {length}", DOT_OF_PLANES, held, length, total)
    yield _row("products", "dot of nothing", DOT, (b"", b""), 0, 0)
    results: dict[int, tuple[list[tuple[int, ...]], list[int]]] = {ROUND_DOT: ([], []), ROUND_DOT_ROWS: ([], [])}
    for _ in range(2 * size):
        digits = 1 + words.below(3)
        w = digit_width(digits)
        q = [words.below((2 << w) + 1) - (1 << w) for _ in range(4)]
        if words.below(4) == 0:
            q[2:] = [-q[0], -q[1]] if words.below(2) else [0, 0]
        total = q[0] * q[1] - q[2] * q[3]
        left, right = [q[0], q[2]], [q[1], -q[3]]
        ea, eb = ([*range(-148, 129), NOT_FINITE, ZERO_ROW][words.below(279)] for _ in range(2))
        split = [[left], [right]] if digits < 3 else [_planes(left), _planes(right)]
        tensors = [tensor_of(p, I16, (1, 2)) for pair in zip(*split, strict=True) for p in pair]
        exponents = [tensor_of([e], I32) for e in (ea, eb)]
        for code, opcode, scale in ((ROUND_DOT, Opcode.DOT, 2), (ROUND_DOT_ROWS, Opcode.DOT_ROWS, 1)):
            result = values_of(opcode, (*exponents[:scale], *tensors), TensorType(F32, (1, 1)), digits)
            results[code][0].append((total, *(ea, eb)[:scale], digits))
            results[code][1].append(result[0])
    for code, name in ((ROUND_DOT, "round dot"), (ROUND_DOT_ROWS, "round dot rows")):
        yield _scalars("products", name, code, *results[code])


def _planes(q: Sequence[int]) -> list[list[int]]:
    high = [v + 512 >> 10 for v in q]
    return [high, [v - (h << 10) for v, h in zip(q, high, strict=True)]]


# Sums


def _sums(words: Words, size: int) -> Iterator[Group]:
    for length in (1, 2, 8, 31):
        for values in sum_rows(words, length):
            row = tensor_of(values, F32)
            total = values_of(Opcode.SUM, (row,), TensorType(F32, ()))[0]
            yield _row("sums", f"sum {length}", SUM, (_bytes(row) + b"\xff" * 5,), length, total)
            yield _partial(values, words.below(4))
            x, source = tensor_of(values[:1], F32, (1, 1)), tensor_of(values[1:], F32, (length - 1, 1))
            index = torch.zeros(length - 1, dtype=torch.int64)
            cell = values_of(Opcode.INDEX_ADD, (x, index, source), TensorType(F32, (1, 1)))[0]
            yield _row("sums", f"index add {length}", SUM_OF, (), 0, cell, numbers=[_canonical(v) for v in values])
    yield _row("sums", "sum of nothing", SUM, (b"",), 0, 0)
    finite = [v for v in (*FLOAT_EDGES, *words.floats(4 * size)) if is_finite(v)]
    cases, terms = [], []
    for v in finite:
        e = min((ZERO_ROW if is_zero(v) else binary32.frexp_exponent(v)) + words.below(34), 128)
        m, q = decode(v)
        cases.append((v, e))
        terms.append(binary32.round_half_even(m, q + 30 - e))
    yield _scalars("sums", "term", TERM, cases, terms)


def _partial(values: Sequence[int], more: int) -> Row:
    """A block of a row whose exponent is `more` - 1 above the block's own."""
    row = tensor_of(values, F32)
    own = values_of(Opcode.EXPONENT, (row.reshape(1, -1),), TensorType(I32, (1,)))[0]
    e = 128 if own == NOT_FINITE else own + more - 1
    within = own != NOT_FINITE and e >= own
    total = 0
    if within:
        total = sum(binary32.round_half_even(m, q + 30 - e) for m, q in map(decode, values))
    return _row("sums", "partial sum", PARTIAL_SUM, (_bytes(row),), len(values), total, int(within), numbers=(e,))


# Orders


def _orders(words: Words, size: int) -> Iterator[Group]:
    for dtype in (F32, *INTEGERS, DType.BOOL):
        name = dtype.name.lower()
        for length in (1, 9):
            values = words.values(length, dtype)
            if dtype == F32:
                some = (0, SIGN, NAN, ONE, INFINITY | SIGN, 1)
                values = [_canonical(some[words.below(6)] if words.below(2) else v) for v in values]
            row = tensor_of(values, dtype)
            for descending in (0, 1):
                position, extreme = (Opcode.ARGMAX, Opcode.MAX) if descending else (Opcode.ARGMIN, Opcode.MIN)
                first = values_of(position, (row,), TensorType(I64, ()))[0]
                value = values_of(extreme, (row,), TensorType(dtype, ()))[0]
                numbers: tuple[int, ...] = (dtype, descending)
                yield _row("orders", f"first {name}", FIRST, (_bytes(row),), length, first, value, numbers=numbers)
                order = values_of(Opcode.SORT, (row,), TensorType(I64, (length,)), descending)
                i = words.below(length)
                before, numbers = order.index(i), (0, values[i], i, dtype, descending)
                yield _row("orders", f"count {name}", COUNT_BEFORE, (_bytes(row),), length, before, numbers=numbers)
        cases, expected = [], []
        for _ in range(size):
            x, y = words.values(2, dtype)
            if words.below(4) == 0:
                y = x
            if dtype == F32:
                x, y = _canonical(x), _canonical(y)
            descending, later = words.below(2), words.below(2)
            pair = tensor_of([y, x] if later else [x, y], dtype)
            order = values_of(Opcode.SORT, (pair,), TensorType(I64, (2,)), descending)
            cases.append((x, 3 + later * 2, y, 4, dtype, descending))
            expected.append(int(order[0] == later))
        yield _scalars("orders", f"is before {name}", IS_BEFORE, cases, expected)


# Philox


def _philox(words: Words, size: int) -> Iterator[Group]:
    cases = [(0, 0, 0, 0), ((1 << 64) - 1, (1 << 40) - 1, (1 << 32) - 1, (1 << 64) - 1)]
    cases += [(words.word(), words.word() >> 24, words.word() >> 32, words.word()) for _ in range(size)]
    yield _scalars("philox", "word64", PHILOX, cases, [philox.word64(*case) for case in cases])


Answer = Callable[[Group], Sequence[int]]


def disagreements(groups: Iterator[Group], answer: Answer) -> list[str]:
    """A line for each case where `answer` differs from the definition; it yields unsigned words."""
    wrong = []
    for group in groups:
        got = answer(group)
        cases: Sequence[object] = group.arguments if isinstance(group, Scalars) else [group.numbers] * 2
        for case, value, right in zip(cases, got, group.expected, strict=True):
            if value != right % (1 << 256):
                wrong.append(f"{group.name} {case}: {value:#x}, not {right % (1 << 256):#x}")
    return wrong
