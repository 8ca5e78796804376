"""`matmul` with chosen digits and scale, usable in plain PyTorch code, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import library

from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.engines import run_graph
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.errors import UsageError


@library.custom_op("cupel::matmul", mutates_args=())
def _matmul(a: torch.Tensor, b: torch.Tensor, digits: int, scale: str) -> torch.Tensor:
    builder = GraphBuilder()
    left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
    graph = builder.build([builder.matmul(left, right, digits, scale)])
    return run_graph(graph, [a.contiguous(), b.contiguous()], "torch")[0]


@_matmul.register_fake
def _(a: torch.Tensor, b: torch.Tensor, digits: int, scale: str) -> torch.Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))


def _setup(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int, str], output: torch.Tensor) -> None:
    a, b, ctx.digits, _ = inputs
    ctx.save_for_backward(a, b)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
    a, b = ctx.saved_tensors
    grad_a = _matmul(grad, b.transpose(-1, -2), ctx.digits, "columns") if ctx.needs_input_grad[0] else None
    grad_b = _matmul(a.transpose(-1, -2), grad, ctx.digits, "columns") if ctx.needs_input_grad[1] else None
    return grad_a, grad_b, None, None


_matmul.register_autograd(_backward, setup_context=_setup)


def matmul(a: torch.Tensor, b: torch.Tensor, digits: int = 2, scale: str = "columns") -> torch.Tensor:
    """a[..., M, K] @ b[..., K, N] in float32, exact to one rounding of quantised operands.

    digits  1, 2 or 3: 7 * digits - 1 bits an operand element keeps, relative to its row's (column's) largest
    scale   "columns", or "rows": products over time, where no bit may depend on later tokens
    Gradients use the same digits and scale="columns".
    """
    if scale not in ("columns", "rows") or digits not in (1, 2, 3):
        raise UsageError(f'digits are 1, 2 or 3 and scale is "columns" or "rows", not {digits} and {scale!r}')
    if a.dtype != torch.float32 or b.dtype != torch.float32:
        raise UsageError(f"matmul takes float32, not {a.dtype} and {b.dtype}")
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2]:
        raise UsageError(f"matmul takes [..., M, K] and [..., K, N], not {list(a.shape)} and {list(b.shape)}")
    product: torch.Tensor
    if b.dim() == 2 < a.dim():
        product = _matmul(a.reshape(-1, a.shape[-1]), b, digits, scale)
        return product.reshape(*a.shape[:-1], b.shape[-1])
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]  # torch leaves it untyped
    product = _matmul(a.expand(*batch, -1, -1), b.expand(*batch, -1, -1), digits, scale)
    return product
