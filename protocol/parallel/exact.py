"""What workers compute beside their graphs, on plain PyTorch: integers that add up exactly, and the one rounding.

The roundings are arithmetic/roundings.py's, as the torch engine's are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cupel.protocol.arithmetic.operations import NOT_FINITE, planes
from cupel.protocol.arithmetic.reference import SUM_BITS
from cupel.protocol.arithmetic.roundings import (
    exponents,
    from_keys,
    order_keys,
    plane_of,
    power_of_two,
    quantized,
    rounded,
    rounded_product,
)
from cupel.protocol.arithmetic.torch_backend import float64_sums, three_digit_sums

Tensor = torch.Tensor

# Order


def largest_first(x: Tensor) -> Tensor:
    """Integers whose maximum is MAX's choice: NaN first, +0 above -0."""
    return _exchanged(order_keys(x, descending=True))


def smallest_first(x: Tensor) -> Tensor:
    """Integers whose maximum is MIN's choice."""
    return ~_exchanged(order_keys(x, descending=False))


def _exchanged(keys: Tensor) -> Tensor:
    """In a type that workers exchange."""
    return keys if keys.dtype == torch.int64 else keys.to(torch.int32)


def from_largest(keys: Tensor, dtype: torch.dtype) -> Tensor:
    return from_keys(keys, dtype)


def from_smallest(keys: Tensor, dtype: torch.dtype) -> Tensor:
    return from_keys(~keys, dtype)


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
    e = exponents(torch.where(finite, torch.maximum(highest.abs(), lowest.abs()), 0.0))
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
    sums = float64_sums(left[0], right[0]) if len(left) == 1 else three_digit_sums(left, right)
    return sums.to(torch.int64)


def quantised(x: Tensor, e: Tensor, digits: int) -> list[Tensor]:
    """The planes of QUANTIZE(x[M, K], e[M]); zeros where e is NOT_FINITE."""
    finite = torch.where((e != NOT_FINITE).unsqueeze(-1), x, 0.0)
    q = quantized(finite, -e.to(torch.int64).unsqueeze(-1), digits)
    return [plane_of(q, digits, plane) for plane in range(planes(digits))]


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
    """RN(total 2^(ea + eb - 2w)), NaN where a row is not finite; total[..., M, N], ea[..., M], eb[..., N].

    The exponents are EXPONENT's: a product of others is not multiplied in pieces.
    """
    result = rounded_product(total, ea, eb, digits, are_exponents_known=True)
    for special in (ea == NOT_FINITE).unsqueeze(-1), None if eb is None else (eb == NOT_FINITE).unsqueeze(-2):
        if special is not None and special.any():
            result.masked_fill_(special, float("nan"))
    return result
