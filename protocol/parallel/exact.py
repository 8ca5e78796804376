"""What workers compute beside their graphs, on plain PyTorch: integers that add up exactly, and the one rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, digit_width
from cupel.protocol.arithmetic.reference import SUM_BITS

Tensor = torch.Tensor

_EXACT_TERMS = 1 << 12
"""Terms of a three-digit product, each at most (2^20 + 2^9)^2, that sum exactly in float64."""
_FIRST_KEY = -(1 << 31)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, from bits; far exponents are clamped to where every result is settled."""
    return (exponent.to(torch.int64).clamp(-900, 900) + 1023 << 52).view(torch.float64)


def rounded(total: Tensor, exponent: Tensor) -> Tensor:
    """RN(total 2^exponent), total int64: rounded once, also where total has more bits than float64 holds."""
    return (_odd(total) * power_of_two(exponent)).to(torch.float32)


def _odd(total: Tensor) -> Tensor:
    """int64 as float64, rounded to odd where it is too long: a second rounding, to 24 bits, then is a correct one."""
    low = total & 0x7FF
    odd = (total - low) | ((low != 0).to(torch.int64) << 11)
    wide = (total >= 1 << 53) | (total <= -(1 << 53))
    return torch.where(wide, odd, total).to(torch.float64)


# Order


def largest_first(x: Tensor) -> Tensor:
    """Integers whose maximum is MAX's choice: NaN first, +0 above -0."""
    if x.dtype != torch.float32:
        return x if x.dtype == torch.int64 else x.to(torch.int32)
    bits = x.contiguous().view(torch.int32)
    return bits ^ (bits >> 31 & 0x7FFFFFFF)


def smallest_first(x: Tensor) -> Tensor:
    """Integers whose maximum is MIN's choice."""
    keys = largest_first(x)
    return ~(keys.masked_fill(torch.isnan(x), _FIRST_KEY) if x.dtype == torch.float32 else keys)


def from_largest(keys: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype != torch.float32:
        return keys.to(dtype)
    return (keys ^ (keys >> 31 & 0x7FFFFFFF)).view(torch.float32)


def from_smallest(keys: Tensor, dtype: torch.dtype) -> Tensor:
    result = from_largest(~keys, dtype)
    return torch.where(~keys == _FIRST_KEY, float("nan"), result) if dtype == torch.float32 else result


# Sums


def sum_scales(highest: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an order-free sum quantises by, from the largest and the smallest of all its terms.

    Two float32 factors whose product is 2^(SUM_BITS - e), because one alone can leave binary32's range; e, int32; and
    the sum where a term is not finite, else 0.
    """
    special = torch.where(torch.isinf(highest) & (highest > 0), highest, torch.zeros_like(highest))
    down = torch.isinf(lowest) & (lowest < 0)
    special = torch.where(down, torch.where(special == 0, lowest, float("nan")), special)
    special = special.masked_fill(torch.isnan(highest), float("nan"))
    finite = special == 0
    largest = torch.where(finite, torch.maximum(highest.abs(), lowest.abs()), 0.0).to(torch.float64)
    e = torch.where(largest == 0, ZERO_ROW, torch.frexp(largest).exponent.to(torch.int64))
    shift = SUM_BITS - e
    half = shift >> 1
    first, second = (torch.where(finite, power_of_two(part), 0.0).to(torch.float32) for part in (half, shift - half))
    return first, second, e.to(torch.int32), special


def finish_sum(total: Tensor, e: Tensor, special: Tensor) -> Tensor:
    result = rounded(total, e.to(torch.int64) - SUM_BITS)
    return torch.where(special == 0, result, special)


# Products


def partial_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """int64[..., M, N]: the sums over k of left[..., m, k] right[..., n, k], from one or two int16 planes each.

    Two planes are those of three digits, q = 1024 plane0 + plane1, |q| <= 2^20 + 2^9.
    """
    if len(left) == 1:
        # |q| <= 2^15 and at most 2^22 terms: every partial sum is an integer within 2^52, exact in any order.
        a, b = left[0].to(torch.float64), right[0].to(torch.float64)
        return torch.matmul(a, b.transpose(-1, -2)).to(torch.int64)
    a, b = (p[0].to(torch.float64) * 1024 + p[1].to(torch.float64) for p in (left, right))
    total = torch.zeros((*a.shape[:-1], b.shape[-2]), dtype=torch.int64, device=a.device)
    for start in range(0, a.shape[-1], _EXACT_TERMS):
        stop = start + _EXACT_TERMS
        total += torch.matmul(a[..., start:stop], b[..., start:stop].transpose(-1, -2)).to(torch.int64)
    return total


def quantised(x: Tensor, e: Tensor, digits: int) -> list[Tensor]:
    """The planes of QUANTIZE(x[M, K], e[M]); zeros where e is NOT_FINITE."""
    w = digit_width(digits)
    finite = (e != NOT_FINITE).unsqueeze(-1)
    scale = power_of_two(w - e.to(torch.int64)).unsqueeze(-1)
    q = torch.round(torch.where(finite, x, 0.0).to(torch.float64) * scale).clamp(-(2.0**w), 2.0**w).to(torch.int32)
    if digits <= 2:
        return [q.to(torch.int16)]
    high = q + 512 >> 10
    return [high.to(torch.int16), (q - (high << 10)).to(torch.int16)]


def sum_products(
    a: Tensor,
    ea: Tensor,
    b: Tensor,
    eb: Tensor,
    digits: int,
    *,
    a_turned: bool = False,
    b_turned: bool = False,
    device: torch.device | None = None,
) -> Tensor:
    """`cpu.integers.sum_products` on plain PyTorch, on the operands' device or on another."""
    left, right = (
        quantised((x.t() if turned else x).to(device or x.device), e.to(device or e.device), digits)
        for x, e, turned in ((a, ea, a_turned), (b, eb, b_turned))
    )
    return partial_products(left, right).to(a.device)


def finish_product(total: Tensor, ea: Tensor, eb: Tensor | None, digits: int) -> Tensor:
    """RN(total 2^(ea + eb - 2w)), NaN where a row is not finite; total[..., M, N], ea[..., M], eb[..., N]."""
    w = digit_width(digits)
    # Powers of two, one after the other: in binary64 nothing rounds, and nothing leaves its range, before the end.
    result = total.to(torch.float64) if digits <= 2 else _odd(total)
    result *= _row_scales(ea, w if eb is not None else 2 * w).unsqueeze(-1)
    if eb is not None:
        result *= _row_scales(eb, w).unsqueeze(-2)
    return result.to(torch.float32)


def _row_scales(e: Tensor, w: int) -> Tensor:
    """2^(e - w), NaN for a row that is not finite."""
    return power_of_two(e.to(torch.int64) - w).masked_fill(e == NOT_FINITE, float("nan"))
