"""Exact integer products on units for small numbers: int8 tensor cores, and floats that are exact for small integers.

An operand quantised to d digits is q = sum_i digit_i 128^i with digits in [-64, 64]. A product of two digits is at most
2^12, so that sums of them are exact in int32 up to K = 2^18 and in float32 (also on units that take TF32 or bfloat16)
up to K = 2^11 with a bit to spare. Longer products are cut along K, and the digits' products are put together in wider
integers. Everything here runs on whatever device its operands are on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Tensor = torch.Tensor

INT8_TERMS = 1 << 18
FLOAT_TERMS = 1 << 11
"""Terms whose sums stay at 2^30 and 2^23. Tensor cores may drop what lies 24 bits below the largest term of a sum."""
_LARGEST_DIGIT = 64


def are_digits(operands: Sequence[Sequence[Tensor]], digits: int) -> bool:
    """Whether every operand (its planes) has only values that `digits` digits hold. Reads them all."""
    most = 1 << (7 * digits - 1)
    for planes in operands:
        whole = whole_of(planes)
        if whole.numel() and not bool((whole.amax() <= most) & (whole.amin() >= -most)):
            return False
    return True


def whole_of(planes: Sequence[Tensor]) -> Tensor:
    """q of an operand's planes: the plane itself, or 1024 plane0 + plane1 as int32."""
    return planes[0] if len(planes) == 1 else planes[0].to(torch.int32) * 1024 + planes[1].to(torch.int32)


def digits_of(planes: Sequence[Tensor], digits: int) -> list[Tensor]:
    """int8 digits of an operand whose values `digits` digits hold, lowest first."""
    rest, result = whole_of(planes), []
    for _ in range(digits - 1):
        above = rest + _LARGEST_DIGIT >> 7
        result.append((rest - (above << 7)).to(torch.int8))
        rest = above
    return [*result, rest.to(torch.int8)]


def int8_sums(left: Sequence[Tensor], right: Sequence[Tensor], digits: int, *, row_multiple: int = 1) -> Tensor:
    """sum_k left[m, k] right[n, k] of operands of rank 2, given as planes, through `torch._int_mm`.

    row_multiple  rows of either operand's digits are filled up with zeros to a multiple of it
    Returns       float64 for one and two digits, 0 always +0; int64 for three
    """
    total = _zeros(left, right, digits)
    if not total.numel():
        return total
    rows, columns = (torch.cat(digits_of(planes, digits)) for planes in (left, right))
    for start in range(0, rows.shape[1], INT8_TERMS):
        part = slice(start, start + INT8_TERMS)
        sums = torch._int_mm(_filled(rows[:, part], row_multiple), _filled(columns[:, part], row_multiple).t())
        _put_together(total, sums[: rows.shape[0], : columns.shape[0]], digits)
    return total


def multiply_float32(rows: Tensor, columns: Tensor) -> Tensor:
    """rows[..., M, K] columns[..., N, K] in float32; TF32 holds digits as well."""
    return torch.matmul(rows.to(torch.float32), columns.to(torch.float32).transpose(-1, -2))


def float_sums(
    left: Sequence[Tensor],
    right: Sequence[Tensor],
    digits: int,
    *,
    multiply: Callable[[Tensor, Tensor], Tensor] = multiply_float32,
) -> Tensor:
    """The same of operands of any rank through products of digits as floats, summed in float32."""
    total = _zeros(left, right, digits)
    if not total.numel():
        return total
    rows, columns = (torch.cat(digits_of(planes, digits), dim=-2) for planes in (left, right))
    for start in range(0, rows.shape[-1], FLOAT_TERMS):
        part = slice(start, start + FLOAT_TERMS)
        _put_together(total, multiply(rows[..., part], columns[..., part]), digits)
    return total


def _zeros(left: Sequence[Tensor], right: Sequence[Tensor], digits: int) -> Tensor:
    shape = (*left[0].shape[:-1], right[0].shape[-2])
    return left[0].new_zeros(shape, dtype=torch.int64 if digits == 3 else torch.float64)


def _filled(rows: Tensor, row_multiple: int) -> Tensor:
    """Contiguous, with zeros below and beside where a unit wants other sizes.

    CUDA's int8 product takes K in multiples of 8; PyTorch's on the CPU, seen in 2.13, is wrong for K = 1.
    """
    below, beside = -rows.shape[0] % row_multiple, -rows.shape[1] % 16
    return torch.nn.functional.pad(rows, (0, beside, 0, below)).contiguous()


def _put_together(total: Tensor, sums: Tensor, digits: int) -> None:
    """total[..., m, n] += sum_ij 128^(i + j) sums[..., (i m), (j n)], exact in total's type; +0 stays +0."""
    if sums.is_floating_point() and not total.is_floating_point():
        sums = sums.to(torch.int32)
    (*batch, rows, columns), d = sums.shape, digits
    parts = sums.reshape(*batch, d, rows // d, d, columns // d)
    for i in range(digits):
        for j in range(digits):
            total.add_(parts[..., i, :, j, :], alpha=1 << 7 * (i + j))
