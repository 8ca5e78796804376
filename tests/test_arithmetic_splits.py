"""A product's terms in any order, split anywhere, by any engine: one result.

What a device holds of a split product is an exact integer, so the sum of the parts is the whole. The parts are computed
here by the engines themselves: digits of quantised operands, multiplied as one-digit planes at scale 1, give integers
that float32 holds exactly.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic import cases, reference, torch_backend
from cupel.protocol.arithmetic.binary32 import round_dyadic
from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.cpu import CompiledGraph, compile_graph, isa
from cupel.protocol.arithmetic.engines import walk
from cupel.protocol.arithmetic.operations import NOT_FINITE, DType, Graph, Opcode, Operation, TensorType

Run = Callable[[Graph, Sequence[torch.Tensor]], list[torch.Tensor]]
M, K, N = 7, 150, 9
_ONE_DIGIT = 6
"""w of one digit: with both exponents 6, a plane's product stands at scale 2^(6 + 6 - 2 * 6) = 1."""


def interpreted(evaluate: Callable[[Operation, Sequence[torch.Tensor]], torch.Tensor]) -> Run:
    def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = dict(walk(graph, inputs, evaluate))
        return [values[v] for v in graph.outputs]

    return run


_compiled: dict[tuple[int, str, int], CompiledGraph] = {}
_kept: list[Graph] = []


def compiled(name: str, threads: int) -> Run:
    def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        key = (id(graph), name, threads)
        if key not in _compiled:
            _kept.append(graph)
            _compiled[key] = compile_graph(graph, threads=threads, instruction_set=name)
        return list(_compiled[key].run(inputs))

    return run


ENGINES: dict[str, Run] = {
    "reference": interpreted(reference.evaluate),
    "torch": interpreted(torch_backend.evaluate),
    **{
        f"{name}-{threads}": compiled(name, threads)
        for name, threads in zip(itertools.cycle(isa.supported()), (4, 1, 2), strict=False)
    },
}
"""Other pairs of instruction set and threads than test_arithmetic_steps.py has."""


@pytest.fixture(params=ENGINES, scope="module")
def engine(request: pytest.FixtureRequest) -> Run:
    return ENGINES[request.param]


def bits(tensor: torch.Tensor) -> list[int]:
    return [b & 0xFFFFFFFF for b in tensor.contiguous().view(torch.int32).flatten().tolist()]


def products_graph(m: int, k: int, n: int) -> Graph:
    builder = GraphBuilder()
    a, b = builder.input(TensorType(DType.FLOAT32, (m, k))), builder.input(TensorType(DType.FLOAT32, (k, n)))
    return builder.build([builder.matmul(a, b, d, s) for s in ("columns", "rows") for d in (1, 2, 3)])


PRODUCTS = products_graph(M, K, N)


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    return cases.product_operands(cases.Words(301), M, K, N)


EXPECTED = [bits(t) for t in ENGINES["reference"](PRODUCTS, operands())]


@given(seed=st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "reference"], indirect=True)
def test_terms_in_any_order_give_one_result(engine: Run, seed: int) -> None:
    a, b = operands()
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    got = engine(PRODUCTS, [a[:, order].contiguous(), b[order].contiguous()])
    assert [bits(t) for t in got] == EXPECTED


@functools.cache
def longest_sums() -> tuple[tuple[torch.Tensor, torch.Tensor], list[list[int]]]:
    """Operands whose every digit is as large as can be, of one sign and of two, and their products by definition."""
    largest = 2.0 - 2.0**-23
    a, b = torch.full((M, K), largest), torch.full((K, N), largest)
    a[1], a[2, ::2], a[3, K // 2 :], b[:, 1], b[1::2, 2], b[:, 3] = (
        -largest,
        -largest,
        0.0,
        -largest,
        -largest,
        2.0**-149,
    )
    return (a, b), [bits(t) for t in ENGINES["reference"](PRODUCTS, [a, b])]


def test_the_longest_sums_overflow_nowhere(engine: Run) -> None:
    inputs, expected = longest_sums()
    assert [bits(t) for t in engine(PRODUCTS, inputs)] == expected


def quantised(engine: Run, a: torch.Tensor, b: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Exponents and two-digit planes of a's rows and of b's columns, by the engine."""
    graph = _quantise_graph(M, K, N)
    ea, qa, eb, qb = engine(graph, [a, b.t().contiguous()])
    return [ea, qa], [eb, qb]


_graphs: dict[tuple[int, ...], Graph] = {}


def _quantise_graph(m: int, k: int, n: int) -> Graph:
    if (m, k, n) not in _graphs:
        builder = GraphBuilder()
        outputs = []
        for rows in (m, n):
            x = builder.input(TensorType(DType.FLOAT32, (rows, k)))
            e = builder.apply(Opcode.EXPONENT, [x], TensorType(DType.INT32, (rows,)))
            outputs += [e, builder.apply(Opcode.QUANTIZE, [x, e], TensorType(DType.INT16, (rows, k)), (2, 0))]
        _graphs[m, k, n] = builder.build(outputs)
    return _graphs[m, k, n]


def _integer_product_graph(m: int, k: int, n: int) -> Graph:
    """(q int16[m, k], r int16[n, k]) → their integer product as float32, exact while its sums stay below 2^24."""
    if (m, k, n, 1) not in _graphs:
        builder = GraphBuilder()
        q, r = (builder.input(TensorType(DType.INT16, (rows, k))) for rows in (m, n))
        e, f = (builder.constant(torch.full((rows,), _ONE_DIGIT, dtype=torch.int32)) for rows in (m, n))
        result = TensorType(DType.FLOAT32, (m, n))
        _graphs[m, k, n, 1] = builder.build([builder.apply(Opcode.DOT, [e, f, q, r], result, (1,))])
    return _graphs[m, k, n, 1]


def digits_of(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q = 128 high + low, both in [-64, 64]."""
    high = (q.to(torch.int32) + 64) >> 7
    return high.to(torch.int16), (q - 128 * high).to(torch.int16)


@pytest.mark.parametrize("cuts", [(0, 150), (0, 64, 150), (0, 1, 32, 33, 97, 150)], ids=str)
def test_the_parts_of_a_split_product_add_up_to_the_whole(engine: Run, cuts: tuple[int, ...]) -> None:
    a, b = operands()
    (ea, qa), (eb, qb) = quantised(engine, a, b)
    total = torch.zeros(M, N, dtype=torch.int64)
    for start, stop in itertools.pairwise(cuts):
        graph = _integer_product_graph(M, stop - start, N)
        parts = [[p[:, start:stop].contiguous() for p in digits_of(q)] for q in (qa, qb)]
        for i, j in itertools.product((0, 1), repeat=2):
            (exact,) = engine(graph, [parts[0][i], parts[1][j]])
            assert exact.abs().max() < 2**24
            total += exact.to(torch.int64) << 7 * (2 - i - j)
    assert [rounded(total, ea, eb)] == [EXPECTED[1]]


def rounded(total: torch.Tensor, ea: torch.Tensor, eb: torch.Tensor) -> list[int]:
    """RN(total 2^(e + f - 2w)) of each, two digits; NaN where a row or column was not finite."""
    results = []
    for i, e in enumerate(ea.tolist()):
        for j, f in enumerate(eb.tolist()):
            n = int(total[i, j])
            special = NOT_FINITE in (e, f)
            results.append(0x7FC00000 if special else round_dyadic(n < 0, abs(n), e + f - 26) if n else 0)
    return results
