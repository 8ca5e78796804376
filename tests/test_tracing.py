"""From functions to Programs: what decides a root, and which products are taken by rows."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cupel.protocol.arithmetic.operations import Opcode
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
