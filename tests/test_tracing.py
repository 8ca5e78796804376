"""From functions to Programs: what decides a root, and which products are taken by rows."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.errors import UsageError
from cupel.protocol.program import Program, matmul, run, trace


def opcodes(program: Program) -> Counter[Opcode]:
    return Counter(op.opcode for op in program.operations)


# What decides a root


def network(x: torch.Tensor, w: torch.Tensor) -> Any:
    w = w.detach().requires_grad_()
    y = F.rms_norm(F.gelu(x @ w), (4,), eps=1e-5).unsqueeze(0)
    loss = F.scaled_dot_product_attention(y, y, y, is_causal=True).square().mean()
    return loss, torch.autograd.grad(loss, w)[0]


ARGS = (torch.randn(3, 4), torch.randn(4, 4))

ELSEWHERE = """
import sys, torch
torch.set_num_threads(2)
sys.path.insert(0, {tests!r})
import test_tracing
print(test_tracing.trace(test_tracing.network, (torch.zeros(3, 4), torch.ones(4, 4))).root.hex())
"""


def test_another_process_with_other_threads_and_values_traces_the_same_root() -> None:
    from pathlib import Path

    code = ELSEWHERE.format(tests=str(Path(__file__).parent))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == trace(network, ARGS).root.hex()


def test_ambient_settings_and_strides_do_not_change_the_root() -> None:
    expected = trace(network, ARGS).root
    turned = (ARGS[0], ARGS[1].t().clone().t().requires_grad_())
    assert trace(network, turned).root == expected
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert trace(network, ARGS).root == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert trace(network, ARGS).root == expected
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_shapes_constants_and_order_of_operations_change_the_root() -> None:
    base = trace(lambda x: (x + 1.0) * 2.0, (torch.zeros(2),)).root
    assert trace(lambda x: (x + 1.0) * 2.0, (torch.zeros(3),)).root != base
    assert trace(lambda x: (x + 1.5) * 2.0, (torch.zeros(2),)).root != base
    assert trace(lambda x: x * 2.0 + 1.0, (torch.zeros(2),)).root != base
    assert trace(lambda y: (y + 1.0) * 2.0, (torch.ones(2),)).root == base


# What a trace keeps


def test_what_nobody_reads_is_dropped_and_what_is_computed_twice_is_shared() -> None:
    def wasteful(x: torch.Tensor) -> torch.Tensor:
        torch.rand(3)
        x.atan()
        nn.Linear(4, 4)
        return x.exp() * x.exp()

    assert opcodes(trace(wasteful, (torch.zeros(4),))) == {Opcode.EXP: 1, Opcode.MUL: 1}


def test_arithmetic_on_broadcast_values_happens_before_the_broadcast() -> None:
    program = trace(lambda x: x[:, :1].expand(3, 4) / 7.0 + x, (torch.zeros(3, 4),))
    division = next(op for op in program.operations if op.opcode == Opcode.DIV)
    assert division.result.shape == (3, 1)


def test_multiplying_or_dividing_by_one_is_left_out() -> None:
    assert not trace(lambda x: x * 1.0 / 1.0, (torch.zeros(3),)).operations


def test_a_module_and_its_buffers_become_constants() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    program = trace(module, (torch.zeros(2, 4),))
    x = torch.randn(2, 4)
    torch.testing.assert_close(run(program, (x,)), module(x).detach(), rtol=1e-3, atol=1e-3)


def test_a_captured_nan_becomes_the_one_there_is() -> None:
    other = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    program = trace(lambda x: x + other, (torch.zeros(1),))
    assert int(program.graph.constants[0].view(torch.int32)) == 0x7FC00000


def test_a_number_becomes_the_nearest_binary32() -> None:
    program = trace(lambda x: x * 0.1, (torch.zeros(3),))
    assert int(program.graph.constants[0].view(torch.int32)) == 0x3DCCCCCD


def test_matrix_products_take_two_digits_and_chosen_ones_theirs() -> None:
    x = torch.zeros(3, 4)
    plain = trace(lambda x: x @ x.t(), (x,))
    chosen = trace(lambda x: matmul(x, x.t(), digits=3), (x,))
    assert [op.attributes for op in plain.operations if op.opcode == Opcode.DOT] == [(2,)]
    assert [op.attributes for op in chosen.operations if op.opcode == Opcode.DOT] == [(3,)]
    assert opcodes(chosen)[Opcode.QUANTIZE] == 2 * opcodes(plain)[Opcode.QUANTIZE]


# Products over time


def weights_times_values(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.mT).softmax(-1) @ x


ROWS: dict[str, Any] = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "causal attention of heads": lambda x: F.scaled_dot_product_attention(
        *(x.view(2, 5, 2, 2).transpose(1, 2),) * 3, is_causal=True
    ),
    "written out": weights_times_values,
    "through views": lambda x: (
        (x @ x.mT).softmax(-1).view(1, 2, 5, 5).expand(3, 2, 5, 5).clone().reshape(6, 5, 5)[1:3] @ x
    ),
    "of one query": lambda x: (x[:, -1:] @ x.mT).softmax(-1) @ x,
    "softmax over rows, turned": lambda x: (x @ x.mT).softmax(1).mT @ x,
    "masked, one head": lambda x: (
        (x[0] @ x[0].t()).masked_fill(torch.ones(5, 5).triu(1) > 0, -math.inf).softmax(-1) @ x[0]
    ),
    "asked for": lambda x: matmul(x @ x.mT, x, scale="rows"),
}
COLUMNS: dict[str, Any] = {
    "no softmax": lambda x: (x @ x.mT) @ x,
    "softmax over what is not contracted": lambda x: (x @ x.mT).softmax(1) @ x,
    "softmax on the right": lambda x: x.mT @ (x @ x.mT).softmax(-1),
    "turned softmax": lambda x: (x @ x.mT).softmax(-1).mT @ x,
    "log-softmax": lambda x: (x @ x.mT).log_softmax(-1) @ x,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_softmax_times_values_is_taken_by_rows(name: str) -> None:
    assert opcodes(trace(ROWS[name], (torch.zeros(2, 5, 4),)))[Opcode.DOT_ROWS] == 1


@pytest.mark.parametrize("name", COLUMNS)
def test_other_products_are_taken_by_columns(name: str) -> None:
    assert opcodes(trace(COLUMNS[name], (torch.zeros(2, 5, 4),)))[Opcode.DOT_ROWS] == 0


def test_the_transposed_use_in_the_backward_pass_is_taken_by_columns() -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(weights_times_values(x).square().sum(), x)[0]

    found = opcodes(trace(gradient, (torch.zeros(2, 5, 4),)))
    assert (found[Opcode.DOT_ROWS], found[Opcode.DOT]) == (1, 5)


@pytest.mark.parametrize("name", ["causal attention of heads", "attention"])
def test_no_bit_depends_on_later_tokens(name: str) -> None:
    """Seven tokens give the first five what five give alone: by rows, under a causal mask, and only there."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=name.startswith("causal"))

    generator = torch.Generator().manual_seed(1)
    long = torch.randn((2, 7, 4), generator=generator) * torch.tensor([1, 1e-3, 1, 1, 1, 1e6, 1e-20])[:, None]
    short = run(trace(attend, (long[:, :5],)), (long[:, :5],))
    same = torch.equal(run(trace(attend, (long,)), (long,))[:, :5], short)
    assert same == name.startswith("causal")


# Models as they are commonly written


def rotary_block(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """A pre-norm transformer block of two heads of eight, rotary positions, gated feed-forward: [T, 16] → [T, 16]."""
    time, width = x.shape
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, 8, 2).float() / 8))
    angles = torch.outer(torch.arange(time).float(), frequencies)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def rotated(heads: torch.Tensor) -> torch.Tensor:
        low, high = heads.chunk(2, -1)
        return heads * cos + torch.cat([-high, low], -1) * sin

    normed = F.rms_norm(x, (width,), w["norm1"], eps=1e-5)
    q, k, v = (part.view(time, 2, 8).transpose(0, 1) for part in (normed @ w["qkv"]).chunk(3, -1))
    attended = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
    x = x + attended.transpose(0, 1).reshape(time, width) @ w["out"]
    normed = x * (x.pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5 * w["norm2"]
    return x + (F.silu(normed @ w["gate"]) * (normed @ w["up"])) @ w["down"]


def block_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = {"qkv": (16, 48), "out": (16, 16), "gate": (16, 24), "up": (16, 24), "down": (24, 16)}
    matrices = {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    return {"norm1": torch.ones(16), **matrices, "norm2": torch.ones(16)}


def adamw_step(
    w: dict[str, torch.Tensor],
    m: dict[str, torch.Tensor],
    v: dict[str, torch.Tensor],
    t: torch.Tensor,
    x: torch.Tensor,
) -> Any:
    """One AdamW step of the block towards reproducing its input; t is the step, from 1, of whatever type."""
    w = {name: tensor.detach().requires_grad_() for name, tensor in w.items()}
    loss = F.mse_loss(rotary_block(x, w), x.flip(0))
    gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
    beta1, beta2, rate = 0.9, 0.999, 1e-2
    m = {name: beta1 * m[name] + (1 - beta1) * gradients[name] for name in w}
    v = {name: beta2 * v[name] + (1 - beta2) * gradients[name] ** 2 for name in w}
    corrected = {name: (m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)) for name in w}
    w = {name: w[name] * (1 - rate * 0.1) - rate * a / (b.sqrt() + 1e-8) for name, (a, b) in corrected.items()}
    return w, m, v, loss


def same_bits(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in zip(a, b, strict=True))


def test_a_rotary_block_gives_what_pytorch_gives_and_engines_agree() -> None:
    args = (torch.randn((6, 16), generator=torch.Generator().manual_seed(3)), block_weights())
    program = trace(rotary_block, args)
    got = run(program, args, backend="torch")
    assert same_bits([got], [run(program, args, backend="cpu")])
    torch.testing.assert_close(got, rotary_block(*args), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_adamw_with_powers_of_the_step_gives_what_pytorch_gives_and_engines_agree(dtype: torch.dtype) -> None:
    x = torch.randn((6, 16), generator=torch.Generator().manual_seed(3))
    w = block_weights()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in w.items()}
    state: Any = (w, zeros, zeros)
    program = trace(adamw_step, (*state, torch.tensor(1, dtype=dtype), x))
    losses = []
    for step in (1, 2, 3):
        args = (*state, torch.tensor(step, dtype=dtype), x)
        *state, loss = got = run(program, args, backend="torch")
        assert same_bits(pytree.tree_leaves(got), pytree.tree_leaves(run(program, args, backend="cpu")))
        expected = adamw_step(*args)
        torch.testing.assert_close(loss, expected[3].detach(), rtol=3e-3, atol=3e-3)
        # Early on a step is the gradient's sign; where the gradient is near 0, two digits may turn it.
        for name, tensor in expected[0].items():
            moved, wanted = state[0][name] - args[0][name], tensor.detach() - args[0][name]
            assert float((moved - wanted).norm()) < 0.05 * float(wanted.norm()), name
        losses.append(float(loss))
    assert losses[0] > losses[1] > losses[2]


def test_the_bias_correction_is_that_of_the_step() -> None:
    program = trace(lambda t: 1 - 0.999**t, (torch.tensor(1),))
    for step in (1, 10, 1000, 100_000):
        exact = 1 - float(torch.tensor(0.999)) ** step
        assert run(program, (torch.tensor(step),)).item() == pytest.approx(exact, abs=1e-6)


# Arguments and results


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3), {"x": torch.zeros(2)}, None, 3])
def test_arguments_that_are_no_tuple_are_refused(wrong: Any) -> None:
    assert run(trace(lambda x: x + 1, (torch.zeros(2),)), (torch.zeros(2),)).tolist() == [1, 1]
    with pytest.raises(UsageError, match=r"for one argument x it is \(x,\)"):
        trace(lambda x: x + 1, wrong)


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.topk(x, 2), lambda x: torch.sort(x), lambda x: torch.max(x, 1), lambda x: [x.min(0)]],
)
def test_named_results_of_pytorch_are_tuples(function: Any) -> None:
    x = torch.tensor([[3.0, 1.0, 2.0], [4.0, 6.0, 5.0]])
    got, expected = run(trace(function, (x,)), (x,)), function(x)
    if isinstance(expected, list):
        (got,), (expected,) = got, expected
    assert type(got) is tuple
    assert [t.tolist() for t in got] == [t.tolist() for t in expected]


def test_other_named_tuples_are_refused() -> None:
    class Pair(NamedTuple):
        first: torch.Tensor
        second: torch.Tensor

    with pytest.raises(UsageError, match="Pair"):
        trace(lambda x: Pair(x, x), (torch.zeros(2),))
