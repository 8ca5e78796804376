"""Every engine gives the bits of the definition: torch, and cpu on one and on two threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic import binary32, cases, reference, torch_backend
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cpu import compile_graph
from cupel.protocol.arithmetic.engines import walk
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    UNARY_FLOAT,
    DType,
    Graph,
    Opcode,
    Operation,
    TensorType,
)

Run = Callable[[Graph, Sequence[torch.Tensor]], list[torch.Tensor]]
F32 = DType.FLOAT32


def interpreted(evaluate: Callable[[Operation, Sequence[torch.Tensor]], torch.Tensor]) -> Run:
    def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = dict(walk(graph, inputs, evaluate))
        return [values[v] for v in graph.outputs]

    return run


def compiled(threads: int) -> Run:
    return lambda graph, inputs: compile_graph(graph, threads=threads).run(list(inputs))


define = interpreted(reference.evaluate)
ENGINES: dict[str, Run] = {
    "torch": interpreted(torch_backend.evaluate),
    "cpu-1": compiled(1),
    "cpu-2": compiled(2),
}


@pytest.fixture(params=ENGINES, scope="session")
def engine(request: pytest.FixtureRequest) -> Run:
    return ENGINES[request.param]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor


def check_same(name: str, expected: torch.Tensor, got: torch.Tensor) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), name
    different = (bits(expected) != bits(got)).nonzero()
    if len(different):
        at = tuple(different[0].tolist())
        raise AssertionError(f"{name}: {len(different)} differ, at {at} {got[at]} for {expected[at]}")


def check(engine: Run, graph: Graph, inputs: Sequence[torch.Tensor], name: str = "result") -> None:
    for expected, got in zip(define(graph, inputs), engine(graph, inputs), strict=True):
        check_same(name, expected, got)


def graph_of(inputs: Sequence[torch.Tensor], build: Callable[..., Value | Sequence[Value]]) -> Graph:
    builder = GraphBuilder()
    outputs = build(builder, *(builder.input(TensorType.of(t)) for t in inputs))
    return builder.build([outputs] if isinstance(outputs, Value) else outputs)


def check_built(engine: Run, inputs: Sequence[torch.Tensor], build: Callable[..., Value | Sequence[Value]]) -> None:
    check(engine, graph_of(inputs, build), inputs)


# Everything at once


@pytest.mark.parametrize(("seed", "size"), [(22, 300)])
def test_every_operation_and_type(engine: Run, seed: int, size: int) -> None:
    together = cases.together(seed, size)
    expected = define(together.graph, together.inputs)
    got = engine(together.graph, together.inputs)
    for name, e, g in zip(together.names, expected, got, strict=True):
        check_same(name, e, g)


def test_every_opcode_has_a_case() -> None:
    assert {case.opcode for case in cases.all_cases(1, 8)} == set(Opcode)


@pytest.mark.parametrize("opcode", sorted(UNARY_FLOAT), ids=lambda o: o.name)
def test_functions_over_every_magnitude(engine: Run, opcode: Opcode) -> None:
    arguments = cases.function_arguments(opcode, cases.Words(opcode), 4000)
    x = cases.tensor_of(arguments, F32)
    check_built(engine, [x], lambda b, v: b.unary(opcode, v))


# Elementwise, by any bits

ANY = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([s | e for e in cases.FLOAT_EDGES for s in (0, 1 << 31)]),
    st.builds(lambda s, m: s << 31 | m, st.integers(0, 1), st.integers(0, 0xFFFFFF)),
    st.builds(
        lambda s, e, m: s << 31 | e << 23 | m, st.integers(0, 1), st.integers(118, 133), st.integers(0, 0x7FFFFF)
    ),
).map(lambda b: binary32.NAN if binary32.is_nan(b) else b)
BINARY = [Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.MAXIMUM, Opcode.MINIMUM, *sorted(COMPARISONS)]
LENGTH = 37
"""Not a multiple of any vector width: the tail is tested too."""


@given(x=st.lists(ANY, min_size=LENGTH, max_size=LENGTH), y=st.lists(ANY, min_size=LENGTH, max_size=LENGTH))
@settings(max_examples=25, deadline=None)
def test_elementwise_on_any_bits(engine: Run, x: list[int], y: list[int]) -> None:
    inputs = [cases.tensor_of(v, F32) for v in (x, y)]
    check(engine, ELEMENTWISE_GRAPH, inputs)


def _elementwise_graph() -> Graph:
    sample = [torch.zeros(LENGTH)] * 2
    return graph_of(
        sample,
        lambda b, v, w: [
            *(b.binary(o, v, w) for o in BINARY),
            *(b.unary(o, v) for o in (*sorted(UNARY_FLOAT), Opcode.NEG, Opcode.ABS)),
        ],
    )


ELEMENTWISE_GRAPH = _elementwise_graph()


def test_no_multiply_is_fused_into_an_add(engine: Run) -> None:
    words = cases.Words(31)
    inputs = [cases.tensor_of(words.ordinary(500), F32) for _ in range(3)]
    check_built(engine, inputs, lambda b, x, y, z: b.binary(Opcode.ADD, b.binary(Opcode.MUL, x, y), z))


def test_subnormals_are_never_flushed(engine: Run) -> None:
    x = torch.tensor([2.0**-126, 3 * 2.0**-149, -(2.0**-149), 2.0**-130])
    y = torch.tensor([0.5, 1.0, 2.0, 0.75])
    check_built(engine, [x, y], lambda b, v, w: [b.binary(o, v, w) for o in BINARY])
    graph = graph_of([x, y], lambda b, v, w: b.binary(Opcode.MUL, v, w))
    assert engine(graph, [x, y])[0].tolist() == [2.0**-127, 3 * 2.0**-149, -(2.0**-148), 1.5 * 2.0**-131]


# Sums


@given(values=st.lists(ANY, min_size=24, max_size=24))
@settings(max_examples=40, deadline=None)
def test_sums_of_any_bits(engine: Run, values: list[int]) -> None:
    x = cases.tensor_of(values, F32, (4, 6))
    check(engine, SUM_GRAPH, [x])


SUM_GRAPH = graph_of([torch.zeros(4, 6)], lambda b, v: [b.sum(v, d) for d in ([0], [1], [0, 1])])


@pytest.mark.parametrize("length", [1, 3, 255, 5000])
def test_sums_along_rows_and_columns(engine: Run, length: int) -> None:
    x = cases.float_rows(cases.Words(length), length)
    check_built(engine, [x], lambda b, v: [b.sum(v, [1]), b.sum(v, [0]), b.sum(v)])


def test_a_sum_longer_than_float64_is_rounded_once(engine: Run) -> None:
    # 2^53 + 2^29 + 1 quanta of 2^-29: rounded to 53 bits first, the last 1 is lost and a false tie goes down.
    x = torch.ones(1, (1 << 24) + 1)
    x[0, :3] = torch.tensor([1.5, 1.5, 2.0**-29])
    graph = graph_of([x], lambda b, v: b.sum(v, [1]))
    assert engine(graph, [x])[0].tolist() == [2.0**24 + 2]


def test_terms_count_to_thirty_bits_below_the_largest(engine: Run) -> None:
    # 2^-24 makes a tie; 2^-29, the last bit that counts beside 1, decides it, and 2^-30 rounds to an even 0.
    rows = torch.tensor([[1.0, 2.0**-24, 2.0**-29], [1.0, 2.0**-24, 2.0**-30]])
    graph = graph_of([rows], lambda b, v: b.sum(v, [1]))
    assert engine(graph, [rows])[0].tolist() == [1 + 2.0**-23, 1.0]


def test_a_product_longer_than_float64_is_rounded_once(engine: Run) -> None:
    # The same integer: 2^15 products of 2^19 by 2^19, one of 2^19 by 2^10, one of 1 by 1.
    a, b = torch.ones(1, (1 << 15) + 2), torch.ones((1 << 15) + 2, 1)
    b[0], a[0, 1], b[1] = 2.0**-9, 2.0**-19, 2.0**-19
    for scale in ("columns", "rows"):
        graph = graph_of([a, b], lambda g, x, y, scale=scale: g.matmul(x, y, 3, scale))
        if scale == "columns":
            assert engine(graph, [a, b])[0].tolist() == [[2.0**15 + 2.0**-8]]
        else:
            check(engine, graph, [a, b])


def test_order_of_terms_does_not_matter(engine: Run) -> None:
    x = cases.tensor_of(cases.Words(41).ordinary(999, low=90, spread=60), F32, (1, 999))
    graph = graph_of([x], lambda b, v: b.sum(v, [1]))
    permuted = x[:, torch.randperm(999, generator=torch.Generator().manual_seed(1))].contiguous()
    assert bits(engine(graph, [x])[0]).tolist() == bits(engine(graph, [permuted])[0]).tolist()


# Products

SHAPES = [(1, 1, 1), (5, 1, 3), (33, 17, 18), (3, 5000, 4), (16, 64, 32), (1, 3, 70), (70, 96, 1)]


@pytest.mark.parametrize("scale", ["columns", "rows"])
@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(engine: Run, shape: tuple[int, int, int], digits: int, scale: str) -> None:
    a, b = cases.product_operands(cases.Words(51 + digits), *shape)
    check_built(engine, [a, b], lambda g, x, y: g.matmul(x, y, digits, scale))


@pytest.mark.parametrize("scale", ["columns", "rows"])
def test_products_of_batches_and_transposes(engine: Run, scale: str) -> None:
    words = cases.Words(61)
    a = cases.tensor_of(words.ordinary(2 * 3 * 9 * 20), F32, (2, 3, 9, 20))
    b = cases.tensor_of(words.ordinary(3 * 9 * 20), F32, (3, 9, 20))
    check_built(engine, [a, b], lambda g, x, y: g.matmul(x, g.transpose(y, 1, 2), 2, scale))
    check_built(engine, [a, b], lambda g, x, y: g.matmul(g.transpose(x, 2, 3), y, 2, scale))
    check_built(engine, [a, b], lambda g, x, y: g.matmul(g.permute(x, [0, 2, 1, 3]), g.permute(y, [1, 2, 0]), 2, scale))


@pytest.mark.parametrize("scale", ["columns", "rows"])
@pytest.mark.parametrize("terms", [0, 1, 300])
def test_products_of_empty_and_zero_operands(engine: Run, terms: int, scale: str) -> None:
    a, b = -torch.zeros(4, terms), torch.ones(terms, 5)
    check_built(engine, [a, b], lambda g, x, y: g.matmul(x, y, 2, scale))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_products_of_any_bits(engine: Run, data: st.DataObject) -> None:
    a, b = (cases.tensor_of(data.draw(st.lists(ANY, min_size=15, max_size=15)), F32, s) for s in ((3, 5), (5, 3)))
    check(engine, PRODUCT_GRAPH, [a, b])


PRODUCT_GRAPH = graph_of(
    [torch.zeros(3, 5), torch.zeros(5, 3)],
    lambda g, x, y: [g.matmul(x, y, d, s) for d in (1, 2, 3) for s in ("columns", "rows")],
)


@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("scale", ["columns", "rows"])
def test_permuting_the_contracted_dimension_changes_no_bit(engine: Run, digits: int, scale: str) -> None:
    a, b = cases.product_operands(cases.Words(71), 6, 777, 5)
    order = torch.randperm(777, generator=torch.Generator().manual_seed(2))
    graph = graph_of([a, b], lambda g, x, y: g.matmul(x, y, digits, scale))
    straight, permuted = engine(graph, [a, b])[0], engine(graph, [a[:, order].contiguous(), b[order].contiguous()])[0]
    assert torch.equal(bits(straight), bits(permuted))


@pytest.mark.parametrize("scale", ["columns", "rows"])
def test_splitting_a_batch_changes_no_bit(engine: Run, scale: str) -> None:
    a, b = cases.product_operands(cases.Words(81), 40, 96, 33)
    whole = engine(graph_of([a, b], lambda g, x, y: g.matmul(x, y, 2, scale)), [a, b])[0]
    parts = [
        engine(graph_of([part, b], lambda g, x, y: g.matmul(x, y, 2, scale)), [part, b])[0]
        for part in (a[:7].contiguous(), a[7:].contiguous())
    ]
    assert torch.equal(bits(whole), bits(torch.cat(parts)))


def test_large_products_take_no_shortcut(engine: Run) -> None:
    # Large enough for the int8 path of torch; checked against int64 sums, the definition being slow here.
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(-8192, 8193, s, generator=generator, dtype=torch.int32) for s in ((128, 1024), (1024, 160)))
    a[:, 0], b[0] = 8192, -8192
    graph = graph_of([a.float(), b.float()], lambda g, x, y: g.matmul(x, y))
    # max |q| = 2^13 has exponent 14, so that one bit is rounded off, half to even.
    q, r = (torch.round(t.double() / 2).to(torch.int64) for t in (a, b))
    total = (q @ r) * 4
    got = engine(graph, [a.float(), b.float()])[0]
    assert torch.equal(bits(got), bits(total.double().float()))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_planes_that_no_quantisation_makes_still_have_one_answer(engine: Run, digits: int) -> None:
    terms = 1 << 14  # with three digits the sums pass 2^63
    planes = [torch.full((2, terms), n, dtype=torch.int16) for n in (32767, 32767, -32768, 32767)]
    planes[0][1] = -32768
    planes[0][0, 3], planes[1][1, 3] = 1, 5
    planes = planes[: 4 if digits == 3 else 2]
    exponents = [torch.tensor([3, 2**31 - 2], dtype=torch.int32), torch.tensor([-(2**31), 1], dtype=torch.int32)]
    for e in (exponents, [t.clamp(-60, 60) for t in exponents]):
        operands = [*e, *planes]
        operation = Operation(Opcode.DOT, tuple(range(len(operands))), TensorType(F32, (2, 2)), (digits,))
        graph = Graph(tuple(TensorType.of(t) for t in operands), (), (operation,), (len(operands),))
        check(engine, graph, operands)


def test_exponents_that_no_row_has_still_have_one_answer(engine: Run) -> None:
    x = cases.tensor_of(cases.Words(95).ordinary(30), F32, (5, 6))
    e = torch.tensor([-(2**31), 2**31 - 2, -400, 400, 0], dtype=torch.int32)
    g = torch.tensor([-(2**31), 2**31 - 2, -400, 400, 129, -150], dtype=torch.int32)
    int16, int32 = TensorType(DType.INT16, (5, 6)), TensorType(DType.INT32, (5,))

    def build(b: GraphBuilder, x: Value, e: Value, g: Value) -> list[Value]:
        return [
            b.apply(Opcode.QUANTIZE, [x, e], int16, (2, 0)),
            b.apply(Opcode.EXPONENT_SCALED, [x, g], int32),
            *(b.apply(Opcode.QUANTIZE_SCALED, [x, g, e], int16, (3, plane)) for plane in (0, 1)),
        ]

    check_built(engine, [x, e, g], build)


# Indexing


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_index_add_in_any_order(engine: Run, rows: int) -> None:
    words = cases.Words(101)
    x = cases.tensor_of(words.ordinary(rows * 5), F32, (rows, 5))
    index = torch.tensor([words.below(rows + 2) - 1 for _ in range(400)])
    source = cases.tensor_of(words.ordinary(2000, low=90, spread=50), F32, (400, 5))
    inputs = [x, index, source]
    graph = graph_of(inputs, lambda b, v, i, s: b.apply(Opcode.INDEX_ADD, [v, i, s], v.type))
    check(engine, graph, inputs)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(4))
    shuffled = engine(graph, [x, index[order].contiguous(), source[order].contiguous()])[0]
    assert torch.equal(bits(shuffled), bits(engine(graph, inputs)[0]))


def test_a_cell_where_nothing_lands_is_the_sum_of_one(engine: Run) -> None:
    x = torch.tensor([[-0.0, 2.0**-149, float("nan"), -float("inf")], [-0.0, 1.0, 1.0, 1.0]])
    inputs = [x, torch.tensor([1, 9]), torch.tensor([[-0.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]])]
    graph = graph_of(inputs, lambda b, v, i, s: b.apply(Opcode.INDEX_ADD, [v, i, s], v.type))
    check(engine, graph, inputs)
    assert bits(engine(graph, inputs)[0])[:, 0].tolist() == [0, 0]


def test_of_several_sources_for_one_cell_the_last_wins(engine: Run) -> None:
    x, index = torch.zeros(3), torch.tensor([1, 2, 1, 5, 1])
    source = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    graph = graph_of([x, index, source], lambda b, v, i, s: b.apply(Opcode.SCATTER, [v, i, s], v.type, (0,)))
    assert engine(graph, [x, index, source])[0].tolist() == [0.0, 5.0, 2.0]


def test_randomness_depends_on_position_alone(engine: Run) -> None:
    key, step = torch.tensor(-3), torch.tensor(1 << 33 | 5)
    shapes = [(1,), (257,), (3, 5, 7)]

    def build(b: GraphBuilder, k: Value, s: Value) -> list[Value]:
        return [b.apply(Opcode.PHILOX, [k, s], TensorType(DType.INT64, n), (0xFFFFFFFF,)) for n in shapes]

    check_built(engine, [key, step], build)
