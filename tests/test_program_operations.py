"""Every PyTorch operation with a lowering: the Program gives what PyTorch gives, and every backend the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from cupel.protocol.program import (
    Program,
    dropout,
    gumbel,
    matmul,
    normal,
    philox_key,
    randint,
    random_bits,
    run,
    trace,
    uniform,
)

Function = Callable[..., Any]


def make(shape: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(dtype)
    if dtype != torch.float32:
        return torch.randint(-9, 10, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator)


X, Y = make((3, 4), 1), make((3, 4), 2)
BATCH = make((2, 3, 4), 3)
POSITIVE = make((3, 4), 4).abs() + 0.1
I64, J64 = make((3, 4), 5, torch.int64), make((3, 4), 6, torch.int64)
NOT_ZERO = torch.where(J64 == 0, 3, J64)
I8 = make((3, 4), 7, torch.int8)
BITS = make((3, 4), 8, torch.bool)
INDEX = torch.tensor([2, 0, 2])
SPECIAL = torch.tensor([0.0, -0.0, 1.5, -2.5, 2.5, math.inf, -math.inf, math.nan, 1e-42, 3e38])


def gradient(loss: Function) -> Function:
    """The function that gives the gradients of `loss` by all its arguments."""

    def of(*args: torch.Tensor) -> Any:
        leaves = [arg.detach().requires_grad_() for arg in args]
        return torch.autograd.grad(loss(*leaves), leaves)

    return of


def clipped_in_place(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[1] = 7.0
    y[:, 2:].mul_(2.0)
    y.add_(1).clamp_(max=3.0)
    return y


CASES: dict[str, tuple[Function, tuple[Any, ...]]] = {
    # Shapes and copies
    "view": (lambda x: x.view(2, 6).unsqueeze(1).squeeze(1).reshape(-1, 3), (X,)),
    "permute": (lambda x: x.permute(2, 0, 1).transpose(0, 1).mT, (BATCH,)),
    "expand": (lambda x: x[:, None].expand(-1, 5, -1), (X,)),
    "slice": (lambda x: (x[1:, ::2], x[-2:, :-1], x[5:], x[:, 3:1]), (X,)),
    "select": (lambda x: (x[:, -1], x[0, 1]), (X,)),
    "split": (lambda x: (x.split([1, 3], 1), x.chunk(2, 1), x.unbind(0)), (X,)),
    "join": (lambda x, y: (torch.cat([x, y, x], 1), torch.stack([x, y], 1)), (X, Y)),
    "cat promotes": (lambda x, i: torch.cat([x, i]), (X, I64)),
    "repeat": (lambda x: (x.repeat(2, 1, 3), torch.tile(x, (2,)), x.repeat_interleave(2, 1)), (X,)),
    "flip and roll": (lambda x: (x.flip(0, 1), x.roll(1, 1)), (X,)),
    "pad": (lambda x: (F.pad(x, (1, 2, 3, 0), value=-1.5), F.pad(x, (-1, 2))), (X,)),
    "pad int": (lambda i: F.pad(i, (1, 0), value=-7), (I64,)),
    "diagonals": (
        lambda x: (x[0].diagonal(), x.diagonal(-1, 2, 0), x[0].diagonal(9), torch.diag(x[0, 0]), x[0, :3, :3].trace()),
        (BATCH,),
    ),
    "windows": (lambda x: (x.unfold(1, 2, 1), x.unfold(2, 3, 1), x.unfold(0, 1, 2)), (BATCH,)),
    "triangles": (lambda x: (x.tril(-1), x.triu(1)), (X,)),
    "constructors": (
        lambda x: (torch.full((2, 2), 1.5), torch.zeros_like(x), torch.ones(3), torch.eye(3), x.new_zeros(2)),
        (X,),
    ),
    "arange": (
        lambda x: (torch.arange(5), torch.arange(2, 11, 3), torch.arange(4.0), torch.arange(3, 0, -1) * 0.5),
        (X,),
    ),
    "captured": (lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]) * Y, (X,)),
    "in place": (clipped_in_place, (X,)),
    "slice with step written": (lambda x: torch.slice_scatter(x, torch.zeros(3, 2), 1, 0, 4, 2), (X,)),
    "casts": (
        lambda x, i, b: (
            x.to(torch.int32),
            i.float(),
            b.float(),
            x.bool(),
            i.to(torch.uint8),
            b.long(),
            x.to(torch.int8),
        ),
        (X, I64, BITS),
    ),
    "nothing": (lambda x: {"same": x, "none": None, "empty": [], "zero": torch.zeros(0, 3)}, (X,)),
    # Elementwise
    "arithmetic": (lambda x, y: (x + y, x - y, x * y, x / y, 2 - x, x * 0.3, 1 / x, x.add(y, alpha=3)), (X, Y)),
    "broadcast": (lambda x, y: x[:, None, :] * y[None, :, :] - x.sum(), (X, Y)),
    "special values": (
        lambda s: (s * s, s + 1, -s, s.abs(), s.sign(), s.relu(), s.clamp(-1, 1), s == s, s < 1, s.isnan(), s.isinf()),
        (SPECIAL,),
    ),
    "special functions": (
        lambda s: (s.exp(), s.log(), s.sqrt(), s.rsqrt(), s.tanh(), s.sigmoid(), s.erf(), s.isfinite()),
        (SPECIAL,),
    ),
    "rounding": (lambda x: (x.floor(), x.ceil(), x.round(), x.trunc()), (SPECIAL * 0.7,)),
    "trigonometry": (lambda x: (x.sin(), x.cos()), (X * 50,)),
    "integers": (lambda i, j: (i + j, i * j, i - 3, -i, i.abs(), i.sign(), i**3), (I64, J64)),
    "integer division": (
        lambda i, j: (i // j, i % j, torch.div(i, j, rounding_mode="trunc"), torch.fmod(i, j), i / j),
        (I64, NOT_ZERO),
    ),
    "bytes wrap": (lambda i: (i * 100, i + 127, i << 5, i >> 1), (I8,)),
    "float division by mode": (
        lambda x, y: (torch.div(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc")),
        (X * 9, Y),
    ),
    "bits": (lambda i, j, b: (i & j, i | j, i ^ j, ~i, b & ~b, b ^ True, i & 6), (I64, J64, BITS)),
    "logic": (
        lambda x, b: (torch.logical_and(x, b), torch.logical_or(x, b), torch.logical_not(x), b + b, b * b),
        (X, BITS),
    ),
    "comparisons": (lambda x, y, i: (x < y, x >= 0.5, i == 3, x != y, i > x), (X, Y, I64)),
    "choices": (
        lambda x, y, b: (torch.where(b, x, y), x.masked_fill(b, -math.inf), torch.where(b, 1.0, x), x.clamp(min=y)),
        (X, Y, BITS),
    ),
    "extremes": (lambda x, y: (torch.maximum(x, y), torch.minimum(x, y)), (X, Y)),
    "powers": (lambda p: (p**2, p**3, p**-1, p**0.5, p**-0.5, p**0, p**-2, p.square(), p.reciprocal()), (POSITIVE,)),
    "powers by other numbers": (lambda p, i: (p**1.5, p**-2.25, p**0.1, (i.abs() + 1) ** 0.3), (POSITIVE, I64)),
    "powers by tensors": (lambda p, x, i: (p**x, torch.pow(p, i), torch.pow(i.abs(), x)), (POSITIVE, X, I64)),
    "powers of numbers": (
        lambda x, i: (10000.0**x, 0.999**i, 2**x, 1.0**x, torch.pow(0.5, x), x.exp2(), 0.0 ** x.abs()),
        (X, I64),
    ),
    "power gradients": (
        gradient(lambda p, y: (p**1.5 + p**y + 3.0**y).sum()),
        (POSITIVE, Y),
    ),
    "composed logarithms and exponentials": (
        lambda p, x: (p.log1p(), x.expm1(), p.log2(), p.log10(), torch.logaddexp(p, x)),
        (POSITIVE, X),
    ),
    "composed activations": (lambda x: (F.softplus(x), F.logsigmoid(x), F.elu(x, 0.5), F.selu(x), F.mish(x)), (X,)),
    "composed activation gradients": (
        gradient(lambda x: (F.softplus(x) + F.logsigmoid(x) + F.elu(x)).sum()),
        (X,),
    ),
    "activations": (lambda x: (F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh"), F.leaky_relu(x)), (X,)),
    "activation gradients": (
        gradient(
            lambda x: (F.silu(x) + F.gelu(x) + F.gelu(x, approximate="tanh") + F.relu(x) + x.tanh().sigmoid()).sum()
        ),
        (X,),
    ),
    "lerp": (lambda x, y: (x.lerp(y, 0.25), torch.addcmul(x, x, y, value=2), torch.addcdiv(x, x, y)), (X, POSITIVE)),
    # Reductions
    "sums": (lambda x: (x.sum(), x.sum(0), x.sum((0, 2)), x.mean(), x.mean(1, keepdim=True)), (BATCH,)),
    "integer sums": (lambda i, b: (i.sum(), i.sum(1), b.sum(0), i.to(torch.int32).sum()), (I64, BITS)),
    "spread": (lambda x: (x.var(), x.std(1), x.var(0, correction=0), *torch.var_mean(x, 1)), (X,)),
    "norms of vectors": (
        lambda x: (x.norm(), torch.linalg.vector_norm(x, 1, 0), torch.linalg.vector_norm(x, math.inf)),
        (X,),
    ),
    "extremes of rows": (
        lambda x: (x.max(), x.amin(1), *x.max(1), *x.min(0, keepdim=True), x.argmax(), x.argmin(1)),
        (X,),
    ),
    "truth": (lambda b, x: (b.any(), b.all(1), (x > 0).any(0), x.any()), (BITS, X)),
    "orders": (
        lambda x: (*x.topk(2), *x.topk(3, 0), *x.sort(), *x.sort(0, descending=True), *x.topk(2, largest=False)),
        (X,),
    ),
    "argsort": (lambda i: i.argsort(stable=True), (I64,)),
    "integer running sum": (lambda i, b: (i.cumsum(1), b.cumsum(0)), (I64, BITS)),
    "logsumexp": (lambda x: (x.logsumexp(1), F.log_softmax(x, 0)), (X,)),
    # Indexing
    "gather": (lambda x, i: (x.gather(1, i.abs() % 4), torch.take_along_dim(x, i.abs() % 3, 0)), (X, I64)),
    "rows": (lambda x, i: (x[i], x[:, i], x.index_select(1, i), x[i, i], x[i - 3]), (X, INDEX)),
    "separated indices": (lambda x, i: (x[i % 2, :, i], x[:, i, i]), (BATCH, INDEX)),
    "written rows": (lambda x, i: torch.index_put(x, (i,), x[:1] * 2), (X, torch.tensor([2, 0]))),
    "accumulated rows": (lambda x, i, y: torch.index_put(x, (i,), y, accumulate=True), (X, INDEX, Y)),
    "accumulated cells": (lambda x, i: torch.index_put(x, (i, i), x[0, :3], accumulate=True), (X, INDEX)),
    "index_add": (lambda x, i, y: (x.index_add(0, i, y), x.t().index_add(1, i, y.t(), alpha=2)), (X, INDEX, Y)),
    "scatter": (
        lambda x, i: (x.scatter(1, i, 9.0), x.scatter(0, i[:, :2] % 3, x * 2), x.scatter(1, i[:, :1], 1.0)),
        (X, torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]])),
    ),
    "counts by whole part": (
        lambda x, i: (torch.histc(x * 3, 4, -2, 2), torch.histc((i % 5).float(), bins=4, min=0, max=4)),
        (X, I64),
    ),
    "scatter_add": (lambda x, i, y: x.scatter_add(1, i.abs() % 4, y), (X, I64, Y)),
    "embedding": (lambda w, i: F.embedding(i.abs() % 3, w), (X, I64)),
    "embedding gradient": (
        gradient(lambda w: (F.embedding(INDEX, w, padding_idx=0) * Y).sum()),
        (X,),
    ),
    "one hot": (lambda i: (F.one_hot(i.abs() % 4, 4), F.one_hot(INDEX, num_classes=3) + i[:, :3]), (I64,)),
    # Layers
    "products": (
        lambda x, y, b: (x @ y.t(), b @ y.t(), b.mT @ b, x @ y[0], torch.einsum("bij,kj->bik", b, y)),
        (X, Y, BATCH),
    ),
    "affine": (
        lambda x, w, b: (
            F.linear(x, w, b),
            torch.addmm(b, x, w.t(), beta=2, alpha=0.5),
            torch.addmv(b, x, w[0], alpha=3),
        ),
        (X, Y, Y[:, 0]),
    ),
    "softmax": (lambda x: (x.softmax(0), x.softmax(-1)), (BATCH,)),
    "softmax gradients": (gradient(lambda x: (x.softmax(0) * x.log_softmax(1)).sum()), (X,)),
    "attention": (
        lambda q, b: (
            F.scaled_dot_product_attention(q, q, q, is_causal=True),
            F.scaled_dot_product_attention(q, q * 2, q, attn_mask=b),
        ),
        (make((2, 5, 4), 9), torch.eye(5, dtype=torch.bool) | (torch.arange(5) == 1)),
    ),
    "attention of a row that may see nothing": (
        lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.arange(3)[:, None] > torch.arange(3)),
        (BATCH,),
    ),
    "attention gradient": (gradient(lambda q: F.scaled_dot_product_attention(q, q, q).square().sum()), (BATCH,)),
    "norms": (
        lambda x, w: (
            F.layer_norm(x, (4,), w, w),
            F.rms_norm(x, (4,), w, eps=1e-5),
            F.group_norm(x, 3),
            F.normalize(x),
        ),
        (BATCH, Y[0]),
    ),
    "norms over the batch": (
        gradient(lambda x: (F.instance_norm(x) * F.batch_norm(x, *torch.ones(2, 3), eps=0.5)).square().sum()),
        (BATCH,),
    ),
    "norm gradients": (
        gradient(lambda x, w: (F.layer_norm(x, (4,), w, w) * F.rms_norm(x, (4,), w, eps=1e-5)).sum()),
        (BATCH, Y[0]),
    ),
    "losses": (
        lambda x, t: (F.cross_entropy(x, t), F.nll_loss(x, t, reduction="sum"), F.mse_loss(x, x * 2), F.l1_loss(x, -x)),
        (X, torch.tensor([1, -100, 3])),
    ),
    "loss gradient": (gradient(lambda x: F.cross_entropy(x, torch.tensor([1, -100, 3]))), (X,)),
    # Our own
    "random bits": (
        lambda k, s: (
            random_bits(k, s, (3, 2), 5),
            uniform(k, s, (4,)),
            randint(k, s, (9,), 1000, 1),
            random_bits(k, s, ()),
        ),
        (philox_key(b"seed", "test"), torch.tensor(7)),
    ),
    "random normals": (
        lambda k, s: (normal(k, s, (33,)), gumbel(k, s, (9,), 2)),
        (philox_key(b"seed", "test"), torch.tensor(7)),
    ),
    "dropout": (
        lambda x, k, s: (dropout(x, 0.3, k, s, 5), *gradient(lambda x: (dropout(x, 0.3, k, s) * x).sum())(x)),
        (BATCH, philox_key(b"seed", "test"), torch.tensor(7)),
    ),
    "chosen products": (
        lambda x, b: (matmul(x, x.t(), digits=3), matmul(b, x.t(), digits=1), matmul(b.mT, b, scale="rows")),
        (X, BATCH),
    ),
    "chosen product gradients": (gradient(lambda x, y: matmul(x, y.t(), digits=3).square().sum()), (X, Y)),
}

LOOSE = {"chosen products": 0.3}
"""One digit keeps six bits; everything else is within what two digits or one rounding allow."""


def tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if leaf is not None]


def same_bits(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return all(
        x.dtype == y.dtype and x.shape == y.shape and x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs
    )


@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_what_pytorch_gives_and_backends_agree(name: str) -> None:
    function, args = CASES[name]
    program = trace(function, args)
    assert Program.from_bytes(program.to_bytes()) == program
    got = run(program, args, backend="torch")
    assert same_bits(got, run(program, args, backend="reference")), "torch and reference differ"
    assert same_bits(got, run(program, args, threads=2)), "torch and this machine's engine differ"
    eager = function(*args)
    assert pytree.tree_structure(got) == pytree.tree_structure(eager)
    for x, y in zip(tensors(got), tensors(eager), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        tolerance = LOOSE.get(name, 2e-3)
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


POWERS_OF_TENSORS = [
    # x, y, what documents call x ** y
    (0.0, 0.0, 1.0),
    (-0.0, -0.0, 1.0),
    (0.0, 2.5, 0.0),
    (-0.0, 3.0, 0.0),
    (0.0, -0.5, math.inf),
    (-0.0, -3.0, math.inf),
    (-2.0, 2.0, math.nan),
    (-2.0, 0.5, math.nan),
    (-2.0, 0.0, 1.0),
    (-math.inf, 2.0, math.nan),
    (math.nan, 0.0, 1.0),
    (math.nan, 1.0, math.nan),
    (2.0, math.nan, math.nan),
    (2.0, math.inf, math.inf),
    (2.0, -math.inf, 0.0),
    (0.5, math.inf, 0.0),
    (1.0, 7.0, 1.0),
    (1.0, math.inf, math.nan),
    (math.inf, 0.5, math.inf),
    (math.inf, -0.5, 0.0),
    (1e38, 2.0, math.inf),
]


def on_every_backend(function: Function, *args: torch.Tensor) -> Any:
    program = trace(function, args)
    got = run(program, args, backend="torch")
    for backend in ("reference", "cpu"):
        assert same_bits(got, run(program, args, backend=backend)), f"torch and {backend} differ"
    return got


def bits_of(values: Sequence[float]) -> list[int]:
    return torch.tensor(values, dtype=torch.float32).view(torch.int32).tolist()


def test_powers_by_tensors_at_zeros_infinities_and_below_zero_are_as_documented() -> None:
    x, y, expected = (list(column) for column in zip(*POWERS_OF_TENSORS, strict=True))
    got = on_every_backend(lambda x, y: x**y, torch.tensor(x), torch.tensor(y))
    assert bits_of(got.tolist()) == bits_of(expected)


def test_powers_by_numbers_at_zeros_infinities_and_below_zero_are_as_documented() -> None:
    x = torch.tensor([0.0, -0.0, -2.0, 1.0, math.inf, math.nan])
    up, down, vanishing = on_every_backend(lambda x: (x**1.5, x**-1.5, x**1e-60), x)
    assert bits_of(up.tolist()) == bits_of([0, 0, math.nan, 1, math.inf, math.nan])
    assert bits_of(down.tolist()) == bits_of([math.inf, math.inf, math.nan, 1, 0, math.nan])
    assert bits_of(vanishing.tolist()) == bits_of([1] * 6)


def test_powers_of_numbers_at_zeros_and_infinities_are_as_documented() -> None:
    x = torch.tensor([0.0, -0.0, -1.0, math.inf, -math.inf, math.nan])
    nan, inf = math.nan, math.inf
    zero, half, one, two = on_every_backend(lambda x: (0.0**x, 0.5**x, 1.0**x, 2.0**x), x)
    assert bits_of(zero.tolist()) == bits_of([1, 1, inf, 0, inf, nan])
    assert bits_of(half.tolist()) == bits_of([1, 1, 2, 0, inf, nan])
    assert bits_of(one.tolist()) == bits_of([1] * 6)
    assert bits_of(two.tolist()) == bits_of([1, 1, 0.5, inf, 0, nan])


def test_powers_are_the_documented_operations_to_the_bit() -> None:
    x = torch.linspace(0.01, 9, 200)

    def written_out(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # LOG of a captured number is the correctly rounded ln that the rule puts there as a constant.
        ln = [torch.tensor(c).log() for c in (0.999, 2.0, 10.0)]
        return (x * ln[0]).exp(), (x.log() * 1.7).exp(), x.log() / ln[1], x.log() / ln[2], (1 + x).log(), x.exp() - 1

    def named(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return 0.999**x, x**1.7, x.log2(), x.log10(), x.log1p(), x.expm1()

    assert same_bits(on_every_backend(named, x), on_every_backend(written_out, x))


REFUSED: dict[str, tuple[Function, str]] = {
    "aten.cumsum": (lambda x: x.cumsum(0), "no order-free meaning"),
    "aten.histc": (lambda x: x.histc(4, 0, 1), "bins of width 1"),
    "aten.prod": (lambda x: x.prod(), "no order-free meaning"),
    "aten.pow of float32 with exponent 65": (lambda x: x**65, "torch.exp(exponent * torch.log(base))"),
    "aten.pow of int64 with exponent -1": (lambda x: x.long() ** -1, "negative ones of float32 only"),
    "aten.pow with exponent inf": (lambda x: x**math.inf, "finite"),
    "aten.pow of int64 by a tensor": (lambda x: x.long() ** x.long(), "float32"),
    "aten.pow of the number 2": (lambda x: 2 ** x.long(), "1 << x"),
    "aten.pow of the negative number -1.0": (lambda x: (-1.0) ** x, "1 - 2 * (x & 1)"),
    "aten.atan": (lambda x: x.atan(), "Supported: aten.__lshift__, "),
    "aten.rand": (lambda x: x + torch.rand(3, 4), "uniform"),
    "aten.rand.default": (lambda x: torch.bernoulli(x), "with a key"),
    "aten.bernoulli": (lambda x: F.dropout(x, 0.1), "give make_step a dropout_seed"),
    "aten.remainder": (lambda x: x % 2.0, "integers have"),
    "float64": (lambda x: x.double() * 2, "torch.float32"),
    "bfloat16": (lambda x: x.bfloat16().float(), "torch.float32"),
    "without .item()": (lambda x: x * x.sum().item(), "cannot branch on a tensor's value"),
    "aten.index with a mask": (lambda x: x[x > 0], "use torch.where with the mask"),
    "torch.where instead of if": (lambda x: x if x.sum() > 0 else -x, "depend on a tensor's values"),
    "argument 0 in place": (lambda x: x[1:].t().mul_(2), "return the new value"),
    "a captured tensor in place": (lambda x: Y.add_(x), "return the new value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_meaning_is_refused_with_its_name_place_and_alternative(name: str) -> None:
    from cupel.protocol.errors import UnsupportedOperation

    function, advice = REFUSED[name]
    with pytest.raises(UnsupportedOperation) as caught:
        trace(function, (X,))
    # The place quotes the line, and the line here says name and advice itself.
    reason, place = str(caught.value).split("\n  at ")
    assert name in reason
    assert advice in reason
    assert f"test_program_operations.py:{function.__code__.co_firstlineno}" in place
