"""Products at the edges of every path the engine takes: what fits a register, what is zero, what binary32 can scale."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cpu_engine import EVERY_SET, built, check, floats

from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cpu import compile_graph, isa, native, plan
from cupel.protocol.arithmetic.operations import DType, Opcode

WORST = 1.9999999
"""Quantised to the largest integer there is."""
Operand = Callable[[int, int, int], torch.Tensor]


def _worst(rows: int, terms: int, seed: int) -> torch.Tensor:
    return torch.full((rows, terms), WORST)


def _wrapping(rows: int, terms: int, seed: int) -> torch.Tensor:
    """Sums leave int32 on the way, and come back."""
    x = _worst(rows, terms, seed)
    x[:, terms // 2 :] *= -1 if seed else 1
    return x


def _ordinary(rows: int, terms: int, seed: int) -> torch.Tensor:
    return floats(rows, terms, seed=seed)


def _spiked(rows: int, terms: int, seed: int) -> torch.Tensor:
    """One long row among ordinary ones: its panel's bound is of no use to the others."""
    x = floats(rows, terms, seed=seed) * 1e-3
    x[rows // 2] = WORST
    return x


def _sparse(rows: int, terms: int, seed: int) -> torch.Tensor:
    return floats(rows, terms, seed=seed) * (floats(rows, terms, seed=seed + 7) > 2.3)


def _below(rows: int, terms: int, seed: int) -> torch.Tensor:
    return floats(rows, terms, seed=seed).tril(terms // 3)


def _above(rows: int, terms: int, seed: int) -> torch.Tensor:
    return floats(rows, terms, seed=seed).triu(terms // 3)


OPERANDS: list[Operand] = [_worst, _wrapping, _spiked, _sparse, _below, _above]


Case = tuple[torch.Tensor, torch.Tensor, int]
"""a [M, K], b [N, K], digits."""


def check_products(cases: Sequence[Case], name: str | None) -> None:
    """Both scales of all of them in one graph: kernels are compiled once."""
    flat = [t for case in cases for t in case[:2]]

    def build(g: GraphBuilder, *values: Value) -> list[Value]:
        return [
            g.matmul(values[2 * i], g.transpose(values[2 * i + 1], 0, 1), case[2], scale)
            for i, case in enumerate(cases)
            for scale in ("columns", "rows")
        ]

    check(built(flat, build), flat, name, threads=[1])


TERMS = {
    # A quad, a vector of quads, a granule of 32 quads.
    1: (1, 4, 5, 63, 129),
    # A pair, 15 pairs, granules of 32 pairs and their stretches up to 512 pairs.
    2: (1, 29, 31, 63, 65, 129, 511, 1023, 1091),
    # One stretch of 448 pairs, and more.
    3: (1, 65, 895, 896, 897, 1793),
}


@EVERY_SET
def test_rows_of_every_sort_as_long_as_each_path_takes(name: str) -> None:
    cases = [(f(3, k, 0), f(17, k, 1), d) for d in TERMS for k in TERMS[d] for f in (_worst, _wrapping, _ordinary)]
    neighbours = [*zip(OPERANDS, OPERANDS, strict=True), *zip(OPERANDS, OPERANDS[1:] + OPERANDS[:1], strict=True)]
    cases += [(a(37, 200, 0), b(34, 200, 1), d) for d in TERMS for a, b in neighbours]
    check_products(cases, name)


@EVERY_SET
def test_panels_packed_together_and_those_left_over(name: str) -> None:
    panel = isa.choose(name).columns
    right = [floats(35, rows, seed=rows) for rows in (4 * panel - 1, 4 * panel, 5 * panel + 1, 9 * panel)]
    right[2][3, 4 * panel], right[3][:, 7] = math.nan, 0.0
    inputs = [floats(3, 35), *right]

    def build(g: GraphBuilder, a: Value, *b: Value) -> list[Value]:
        return [g.matmul(a, x, d, scale) for x in b for d in (1, 2) for scale in ("columns", "rows")]

    check(built(inputs, build), inputs, name, threads=[2])


def test_one_digit_is_bytes_while_sums_fit() -> None:
    cases: list[Case] = []
    for terms in ((1 << 18) - 1, 1 << 18, (1 << 18) + 1):
        a, b = _worst(1, terms, 0), _worst(2, terms, 1)
        b[1] *= -1
        cases.append((a, b, 1))
    check_products(cases, None)


@EVERY_SET
def test_a_subnormal_result_is_rounded_once(name: str) -> None:
    """The sum is 2^25 + 2^(j - 1) + 1 units, j the bits that a subnormal result drops: rounded to 24 bits first, it
    would be a tie, and end lower."""
    cases: list[Case] = []
    for scale in range(-84, -75):
        j = -149 - 2 * scale
        left = [4096, 4096, 2 ** ((j - 1) // 2), 1]
        right = [4096, 4096, 2 ** (j - 1 - (j - 1) // 2), 1]
        a, b = (torch.tensor([q], dtype=torch.float64) * 2.0**scale for q in (left, right))
        cases.append((a.float(), b.float(), 2))
    check_products(cases, name)


@EVERY_SET
def test_scales_that_binary32_cannot_apply_and_rows_without_one(name: str) -> None:
    # Results from far below the smallest subnormal number to far above the largest.
    powers = [-149, -126, -80, -76, -75, -74, -63, -62, -61, -1, 0, 40, 61, 62, 63, 74, 75, 76, 80, 126, 127]
    x = (floats(len(powers), 33).double() * torch.exp2(torch.tensor(powers, dtype=torch.float64))[:, None]).float()
    x = torch.where(torch.isinf(x), torch.tensor(1e38), x)
    # A panel of rows that are all alike against one of everything.
    pairs = [pair for at in range(len(powers)) for row in [x[at : at + 1]] for pair in ((row, x), (x, row))]

    a, b = _below(40, 260, 0), _above(35, 260, 1)
    a[3, 250], a[20, 100], a[33] = math.nan, math.inf, 0.0
    b[4, 0], b[30, 259], b[7] = -math.inf, math.nan, -0.0
    plain = _ordinary(40, 260, 3)
    pairs += [(a, b), (b, a), (a, plain), (plain, b), (torch.zeros(3, 260), b), (a, torch.full((2, 260), -0.0))]
    check_products([(*pair, d) for d in TERMS for pair in pairs], name)


@settings(max_examples=4, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    tokens=st.integers(1, 40),
    size=st.sampled_from([2, 6, 12, 16]),
    seed=st.integers(0, 9),
)
def test_attention_backwards_and_its_transposes(batch: int, heads: int, tokens: int, size: int, seed: int) -> None:
    """Products that come out transposed, gradients stacked into one matrix: only the layout in memory may differ."""
    shape = (batch, tokens, 3, heads, size)
    qkv, mask = floats(*shape, seed=seed), torch.full((tokens, tokens), -math.inf).triu(1)
    mask[0, 0] = -math.inf if seed == 0 else 0.0

    def build(g: GraphBuilder, x: Value, m: Value) -> list[Value]:
        flat = (batch * heads, tokens, size)
        parts = g.permute(x, (2, 0, 3, 1, 4))
        q, k, v = (g.reshape(g.slice(parts, 0, i, 1), flat) for i in range(3))
        q = g.binary(Opcode.MUL, q, g.scalar(0.5, DType.FLOAT32))
        z = g.binary(Opcode.ADD, g.matmul(q, g.transpose(k, 1, 2), 2), m)
        top = g.max(z, [2], keepdim=True)
        empty = g.binary(Opcode.EQ, top, g.scalar(-math.inf, DType.FLOAT32))
        top = g.select(empty, g.scalar(0.0, DType.FLOAT32), top)
        e = g.unary(Opcode.EXP, g.binary(Opcode.SUB, z, top))
        total = g.sum(e, [2], keepdim=True)
        p = g.binary(Opcode.DIV, e, g.select(empty, g.scalar(1.0, DType.FLOAT32), total))
        mixed = g.matmul(p, v, 2, "rows")
        dv = g.matmul(g.transpose(p, 1, 2), mixed, 2)
        ds = g.matmul(mixed, g.transpose(v, 1, 2), 2)
        dk = g.transpose(g.matmul(g.transpose(q, 1, 2), ds, 2), 1, 2)
        dk = g.binary(Opcode.MUL, dk, g.scalar(0.5, DType.FLOAT32))
        dq = g.matmul(ds, k, 2)
        pieces = [g.reshape(d, (batch, heads, tokens, size)) for d in (dq, dk, dv)]
        stacked = g.reshape(g.concat(pieces, 0), (3, batch, heads, tokens, size))
        matrix = g.reshape(g.permute(stacked, (1, 3, 0, 2, 4)), (batch * tokens, 3 * heads * size))
        return [matrix, g.matmul(g.transpose(matrix, 0, 1), matrix, 2), total, p]

    check(built([qkv, mask], build), [qkv, mask])


@EVERY_SET
def test_a_softmax_whose_rows_may_be_empty(name: str) -> None:
    x = floats(7, 37)
    x[1], x[2, 5], x[3, 6], x[4, 1:] = -math.inf, math.nan, math.inf, -math.inf
    x[5, 3] = -math.inf

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        top = g.max(v, [1], keepdim=True)
        results = []
        for instead in (0.0, -3.0, math.inf):
            empty = g.binary(Opcode.EQ, top, g.scalar(-math.inf, DType.FLOAT32))
            safe = g.select(empty, g.scalar(instead, DType.FLOAT32), top)
            results.append(g.sum(g.unary(Opcode.EXP, g.binary(Opcode.SUB, v, safe)), [1]))
        return results

    check(built([x], build), [x], name)


def test_products_kept_apart_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ARM does, on whatever this is."""
    chosen = dataclasses.replace(isa.choose("portable"), product="split")
    monkeypatch.setattr(isa, "choose", lambda name: chosen)
    check_products([(f(5, k, 0), f(17, k, 1), d) for d in TERMS for k in (1, 31, 900) for f in OPERANDS[:4]], None)


@EVERY_SET
def test_products_whose_pairs_are_crossed_and_those_that_are_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way this processor does not take by itself."""
    usual = isa.choose(name)
    chosen = dataclasses.replace(usual, crossed=not usual.crossed)
    monkeypatch.setattr(isa, "choose", lambda name: chosen)
    lengths = {2: (1, 3, 29, 63, 65, 130, 1023, 1091), 3: (1, 65, 897, 1793)}
    cases = [(f(3, k, 0), f(17, k, 1), d) for d, terms in lengths.items() for k in terms for f in (_worst, _wrapping)]
    cases += [(a(37, 200, 0), b(34, 200, 1), d) for d in lengths for a, b in zip(OPERANDS, OPERANDS[::-1], strict=True)]
    check_products(cases, name)


@EVERY_SET
@pytest.mark.parametrize("crossed", [False, True])
def test_a_panel_of_zeros_gives_zeros_whatever_lies_beside_it(
    name: str, crossed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masked tokens, and weights that begin at zero; an odd number of pairs, with and without a single term."""
    chosen = dataclasses.replace(isa.choose(name), crossed=crossed)
    monkeypatch.setattr(isa, "choose", lambda name: chosen)
    lengths = {1: (65,), 2: (1, 2, 9, 65, 130, 1090), 3: (1, 9, 65, 898)}
    cases = []
    for digits, terms in lengths.items():
        for k in terms:
            a, b = _ordinary(40, k, 0), _ordinary(64, k, 1)
            zero = torch.zeros_like(a)
            partly = torch.cat([torch.zeros(32, k), a[32:]])
            cases += [(partly, b, digits), (a, torch.zeros_like(b), digits), (zero, b, digits)]
    check_products(cases, name)


def test_arm_gets_its_own_multiplications() -> None:
    """Compiled for a processor that is not here: the instructions, not the bits, can be looked at."""
    a, b = floats(64, 200), floats(200, 64)
    graph = built([a, b], lambda g, x, y: [g.matmul(x, y, d, s) for d in (1, 2, 3) for s in ("columns", "rows")])
    triple = "aarch64-unknown-linux-gnu"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    for features, expected in (("+neon,+dotprod", {"smlal", "sdot"}), ("+neon", {"smlal"})):
        chosen = isa.neon("cortex-a72", features)
        machine = llvm.Target.from_triple(triple).create_target_machine(cpu=chosen.cpu, features=features, opt=2)
        assembly = machine.emit_assembly(native.optimised(plan.build(graph, chosen, 1, triple).ir, machine))
        found = set(re.findall(r"^\t(smlal|sdot)\b", assembly, re.MULTILINE))
        assert found == expected
        # One instruction for each four products in the loop: nothing is widened or added beside it.
        assert assembly.count("smlal") > 4 * assembly.count("smull")


def adamw(g: GraphBuilder, w: Value, m: Value, v: Value, gradient: Value, scale: Value) -> list[Value]:
    def number(value: float) -> Value:
        return g.scalar(value, DType.FLOAT32)

    gradient = g.binary(Opcode.MUL, gradient, scale)
    m = g.binary(Opcode.ADD, g.binary(Opcode.MUL, m, number(0.9)), g.binary(Opcode.MUL, gradient, number(0.1)))
    square = g.binary(Opcode.MUL, gradient, gradient)
    v = g.binary(Opcode.ADD, g.binary(Opcode.MUL, v, number(0.95)), g.binary(Opcode.MUL, square, number(0.05)))
    step = g.binary(Opcode.DIV, m, g.binary(Opcode.ADD, g.unary(Opcode.SQRT, v), number(1e-8)))
    decayed = g.binary(Opcode.ADD, step, g.binary(Opcode.MUL, w, number(0.1)))
    return [g.binary(Opcode.SUB, w, g.binary(Opcode.MUL, decayed, number(1e-3))), m, v]


def test_an_optimiser_update_is_one_pass_over_each_weight() -> None:
    shapes = [(40, 50), (40, 50), (40, 50), (77,)]
    tensors = [floats(*shape, seed=4 * i + j).abs() for i, shape in enumerate(shapes) for j in range(4)]
    inputs = [*tensors, torch.tensor(0.7)]

    def build(g: GraphBuilder, *values: Value) -> list[Value]:
        return [r for i in range(len(shapes)) for r in adamw(g, *values[4 * i : 4 * i + 4], values[-1])]

    graph = built(inputs, build)
    check(graph, inputs)
    assert len(compile_graph(graph).plan.labels) == len(shapes)
