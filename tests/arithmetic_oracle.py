"""DESIGN section 2 a second time, on fractions: written from the text, sharing nothing with the package."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

CANONICAL_NAN = 0x7FC00000


def bits_of(tensor: torch.Tensor) -> list[int]:
    return [v & 0xFFFFFFFF for v in tensor.contiguous().reshape(-1).view(torch.int32).tolist()]


def from_bits(bits: Sequence[int], shape: Sequence[int] | None = None) -> torch.Tensor:
    array = np.array(bits, dtype=np.uint32).view(np.float32)
    return torch.from_numpy(array).reshape(tuple(shape) if shape is not None else (len(bits),))


def rn(value: Fraction, zero: float = 0.0) -> float:
    """The binary32 nearest to `value`; `zero` is the result for 0."""
    if value == 0:
        return zero
    size = abs(value)
    e = size.numerator.bit_length() - size.denominator.bit_length()
    e += size >= Fraction(2) ** e  # now 2^(e - 1) <= size < 2^e
    quantum = Fraction(2) ** max(e - 24, -149)
    rounded = round(size / quantum) * quantum  # Python rounds fractions half to even
    result = math.inf if rounded >= 2**128 else float(rounded)
    return -result if value < 0 else result


def exponent(size: Fraction) -> int:
    e = size.numerator.bit_length() - size.denominator.bit_length()
    return e + (size >= Fraction(2) ** e)


def float_bits(value: float) -> int:
    return CANONICAL_NAN if math.isnan(value) else struct.unpack("<I", struct.pack("<f", value))[0]


def order_free_sum(values: Sequence[float]) -> float:
    if any(math.isnan(v) for v in values) or {math.inf, -math.inf} <= set(values):
        return math.nan
    for infinity in (math.inf, -math.inf):
        if infinity in values:
            return infinity
    largest = max((abs(Fraction(v)) for v in values), default=Fraction(0))
    if largest == 0:
        return 0.0
    unit = Fraction(2) ** (exponent(largest) - 30)
    return rn(sum(round(Fraction(v) / unit) for v in values) * unit)


def matmul(a: torch.Tensor, b: torch.Tensor, digits: int, scale: str) -> torch.Tensor:
    """[M, K] @ [K, N]."""
    w = 7 * digits - 1
    rows, columns = a.tolist(), b.t().tolist()
    result = [
        [_by_rows(r, b.tolist(), j, w) if scale == "rows" else _by_columns(r, c, w) for j, c in enumerate(columns)]
        for r in rows
    ]
    bits = [float_bits(v) for row in result for v in row]
    return from_bits(bits, (len(rows), len(columns)))


def _quantised(values: Sequence[Fraction], w: int) -> tuple[list[int], int]:
    largest = max((abs(v) for v in values), default=Fraction(0))
    if largest == 0:
        return [0] * len(values), 0
    e = exponent(largest)
    return [round(v * Fraction(2) ** (w - e)) for v in values], e


def _by_columns(row: Sequence[float], column: Sequence[float], w: int) -> float:
    if not all(map(math.isfinite, [*row, *column])):
        return math.nan
    q, e = _quantised([Fraction(v) for v in row], w)
    r, f = _quantised([Fraction(v) for v in column], w)
    total = sum(x * y for x, y in zip(q, r, strict=True))
    return rn(total * Fraction(2) ** (e + f - 2 * w), zero=0.0) if total else 0.0


def _by_rows(row: Sequence[float], b: Sequence[Sequence[float]], j: int, w: int) -> float:
    if not all(map(math.isfinite, row)):
        return math.nan
    scaled, r = [], []
    for x, line in zip(row, b, strict=True):
        if not all(map(math.isfinite, line)):
            if x != 0:
                return math.nan
            line = [0.0] * len(line)
        quantised, g = _quantised([Fraction(v) for v in line], w)
        hidden = all(v == 0 for v in line)
        scaled.append(Fraction(0) if hidden else Fraction(x) * Fraction(2) ** g)
        r.append(quantised[j])
    q, e = _quantised(scaled, w)
    total = sum(x * y for x, y in zip(q, r, strict=True))
    return rn(total * Fraction(2) ** (e - 2 * w)) if total else 0.0
