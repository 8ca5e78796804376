"""Sums of digits' products by the library: exact in whatever it adds with, by the bounds in lowering.py."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cupel.protocol.arithmetic.cuda.lowering import Product

Tensor = torch.Tensor


def multiply(product: Product, left: Tensor, right: Tensor) -> Tensor:
    """sums[chunk, batch, i, j] of left[batch, i, k] right[batch, j, k] over the terms of each chunk, or of all
    chunks together as int64; on their device.

    Operands are as lowering's Form says: int8 digits, or bfloat16 or float64 as integers of their size.
    """
    by_form = _BY_FORM[product.form.name]
    if product.chunks == 1:
        return by_form(left, right).unsqueeze(0)
    starts = range(0, product.terms, product.chunk_terms)
    parts = (
        by_form(*(x[..., start : start + product.chunk_terms].contiguous() for x in (left, right))) for start in starts
    )
    if not product.is_added:
        return torch.stack(list(parts))
    total = torch.zeros((1, product.batch, *product.rows), dtype=torch.int64, device=left.device)
    for part in parts:
        total += part.view(torch.float64).to(torch.int64) if part.dtype == torch.int64 else part.to(torch.int64)
    return total


def _int8(left: Tensor, right: Tensor) -> Tensor:
    # Terms side by side in both operands, the only order in which cuBLAS multiplies bytes.
    return torch._int_mm(left[0], right[0].t()).unsqueeze(0)


def _bfloat16(left: Tensor, right: Tensor) -> Tensor:
    a, b = left.view(torch.bfloat16), right.view(torch.bfloat16).transpose(-1, -2)
    if left.device.type != "cuda":  # where bmm cannot give float32 from bfloat16
        return torch.bmm(a.float(), b.float())
    result: Tensor = torch.bmm(a, b, out_dtype=torch.float32)
    return result


def _float64(left: Tensor, right: Tensor) -> Tensor:
    a, b = left.view(torch.float64), right.view(torch.float64)
    return torch.bmm(a, b.transpose(-1, -2)).view(torch.int64)


_BY_FORM: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "int8": _int8,
    "bfloat16": _bfloat16,
    "float64": _float64,
}
