"""The roundings and orders of the definition on plain PyTorch: one place for each, for whoever computes in pieces.

The engine that runs one operation after another (torch_backend.py) and workers that add up their integers (parallel/)
must round alike to the last bit, so they call the same functions. None looks at values, so any device will do.
"""

from __future__ import annotations

import torch

from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, digit_width

Tensor = torch.Tensor

_FIRST_KEY = -(1 << 31)
"""What no float32 but a malformed NaN has for a key: below it nothing is ordered."""


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, built from bits; far exponents are clamped to where every result is already settled."""
    return (exponent.to(torch.int64).clamp(-900, 900) + 1023 << 52).view(torch.float64)


# One rounding


def in_float64(total: Tensor) -> Tensor:
    """An int64 as a float64 that rounds to the same binary32."""
    low = total & 0x7FF
    # Round to odd at 52 bits: the sticky bit keeps the second rounding, to 24 bits, a correct one.
    odd = (total - low) | ((low != 0).to(torch.int64) << 11)
    wide = (total >= 1 << 53) | (total <= -(1 << 53))
    return torch.where(wide, odd, total).to(torch.float64)


def rounded(total: Tensor, exponent: Tensor) -> Tensor:
    """RN(total 2^exponent), total int64: one rounding, also where total has more bits than float64 holds."""
    return (in_float64(total) * power_of_two(exponent)).to(torch.float32)


def rounded_product(
    sums: Tensor, ea: Tensor, eb: Tensor | None, digits: int, *, are_exponents_known: bool = False
) -> Tensor:
    """RN(sums 2^(ea + eb - 2w)); sums[..., M, N], ea[..., M], eb[..., N] or None for a product over time.

    sums                 integers, those of three digits as int64
    are_exponents_known  they are those of EXPONENT, so that rows and columns may be scaled one after the other
    Returns              anything for a row or column of NOT_FINITE, which the caller makes NaN
    """
    wide = in_float64(sums) if digits == 3 else sums.to(torch.float64)
    rows, width = ea.to(torch.int64).unsqueeze(-1), digit_width(digits)
    if eb is None:
        return (wide * power_of_two(rows - 2 * width)).to(torch.float32)
    columns = eb.to(torch.int64).unsqueeze(-2)
    if are_exponents_known:
        # Exact in between: at most 63 bits times powers from 2^-169 to 2^122.
        scaled = wide * power_of_two(rows - width)
        return scaled.mul_(power_of_two(columns - width)).to(torch.float32)
    return (wide * power_of_two(rows + columns - 2 * width)).to(torch.float32)


# Quantising


def exponents(largest: Tensor) -> Tensor:
    """int64 e with 2^(e - 1) <= largest < 2^e, ZERO_ROW or NOT_FINITE."""
    finite = torch.isfinite(largest)
    e = torch.frexp(torch.where(finite, largest, 0.0).to(torch.float64)).exponent.to(torch.int64)
    return torch.where(finite, torch.where(largest == 0, ZERO_ROW, e), NOT_FINITE)


def quantized(x: Tensor, shift: Tensor, digits: int) -> Tensor:
    """round-half-even(x 2^(shift + w)) in float64, within what `digits` digits hold; NaN where x is."""
    w = digit_width(digits)
    return torch.round(x.to(torch.float64) * power_of_two(shift + w)).clamp(-(2.0**w), 2.0**w)


def plane_of(q: Tensor, digits: int, plane: int) -> Tensor:
    """int16: the one plane of one or two digits, or one of the two with q = 1024 plane0 + plane1."""
    if digits <= 2:
        return q.to(torch.int16)
    whole = q.to(torch.int32)
    high = whole + 512 >> 10
    return (high if plane == 0 else whole - (high << 10)).to(torch.int16)


# Order


def order_keys(x: Tensor, *, descending: bool) -> Tensor:
    """Integers that sort as the values do, NaN first, +0 above -0."""
    if x.dtype == torch.bool:
        return x.to(torch.uint8)
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    keys = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return keys if descending else keys.masked_fill(torch.isnan(x), _FIRST_KEY)


def from_keys(keys: Tensor, dtype: torch.dtype) -> Tensor:
    """The values again, a NaN in its one form."""
    if dtype != torch.float32:
        return keys.to(dtype)
    bits = keys ^ (keys >> 31 & 0x7FFFFFFF)
    return torch.where(keys == _FIRST_KEY, 0x7FC00000, bits).view(torch.float32)
