"""The native engine: each instruction set gives the definition's bits, alone and fused; its cache heals itself."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic import cases, reference, torch_backend
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cpu import CompiledGraph, compile_graph, isa, native
from cupel.protocol.arithmetic.cpu.plan import build
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation, TensorType
from cupel.protocol.errors import MalformedTensor, UsageError
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import State, example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step

F32, I64, I32, I16, BOOL = DType.FLOAT32, DType.INT64, DType.INT32, DType.INT16, DType.BOOL
EVERY_SET = pytest.mark.parametrize("name", isa.supported())
Evaluate = Callable[[Operation, Sequence[torch.Tensor]], torch.Tensor]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32) if tensor.dtype == torch.float32 else tensor


def node_by_node(
    graph: Graph, inputs: Sequence[torch.Tensor], evaluate: Evaluate = torch_backend.evaluate
) -> list[torch.Tensor]:
    values = [*inputs, *graph.constants]
    for operation in graph.operations:
        values.append(evaluate(operation, [values[v] for v in operation.operands]))
    return [values[v] for v in graph.outputs]


def check_equal(got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], names: Sequence[str] = ()) -> None:
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        label = names[i] if names else f"output {i}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape), label
        different = (bits(a) != bits(b)).nonzero()
        assert not len(different), f"{label}: {len(different)} differ, at {different[0].tolist()}"


def check(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    name: str | None = None,
    *,
    threads: Sequence[int] = (1, 2),
    evaluate: Evaluate = torch_backend.evaluate,
) -> None:
    expected = node_by_node(graph, inputs, evaluate)
    for count in threads:
        check_equal(compile_graph(graph, threads=count, instruction_set=name).run(inputs), expected)


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def from_bits(*patterns: int) -> torch.Tensor:
    return torch.tensor([struct.unpack("<i", struct.pack("<I", p))[0] for p in patterns], dtype=torch.int32).view(
        torch.float32
    )


def built(inputs: Sequence[torch.Tensor], build: Callable[..., Value | Sequence[Value]]) -> Graph:
    builder = GraphBuilder()
    result = build(builder, *(builder.input(TensorType.of(t)) for t in inputs))
    return builder.build([result] if isinstance(result, Value) else result)


# Every operation


@EVERY_SET
@pytest.mark.parametrize("size", [19, 130])
def test_every_operation_in_every_instruction_set(name: str, size: int) -> None:
    together = cases.together(seed=size, size=size)
    expected = node_by_node(together.graph, together.inputs, reference.evaluate)
    got = compile_graph(together.graph, instruction_set=name).run(together.inputs)
    check_equal(got, expected, together.names)


@EVERY_SET
@pytest.mark.parametrize("opcode", [Opcode.EXP, Opcode.LOG, Opcode.TANH, Opcode.SIGMOID, Opcode.ERF, Opcode.RSQRT])
def test_functions_of_random_bit_patterns(name: str, opcode: Opcode) -> None:
    patterns = torch.randint(-(1 << 31), 1 << 31, (6000,), generator=torch.Generator().manual_seed(int(opcode)))
    x = patterns.to(torch.int32).view(torch.float32)
    x = torch.where(torch.isnan(x), torch.tensor(math.nan), x)
    graph = built([x], lambda b, v: b.unary(opcode, v))
    check(graph, [x], name, threads=[1])


@EVERY_SET
def test_exp_of_registers_that_a_mask_fills(name: str) -> None:
    """All of a register below -104 is zero without a look; one lane that is not, or NaN, has all computed."""
    x = torch.full((40, 16), -math.inf)
    x[16:32, 5] = torch.tensor([-104.0, -103.97209, -103.972, -103.5, -87.4, -0.0, 0.0, 88.72284, 88.8, 1e-42] * 2)[:16]
    x[32:, 3] = torch.tensor([math.nan, math.inf, 1.0, -1.0, -104.00001, 104.0, -1e-3, -700.0])
    for shape in ((40, 16), (640,), (16, 40)):
        y = x.reshape(shape)
        check(built([y], lambda b, v: b.unary(Opcode.EXP, v)), [y], name, threads=[1], evaluate=reference.evaluate)


@EVERY_SET
@pytest.mark.parametrize("opcode", [Opcode.SIN, Opcode.COS])
def test_circular_functions_of_huge_arguments(name: str, opcode: Opcode) -> None:
    x = from_bits(0x49800000, 0x49BFFFFF, 0x5F000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0x80000000, 0x00000001)
    x = torch.cat([x, floats(40) * 3e5])
    check(built([x], lambda b, v: b.unary(opcode, v)), [x], name, threads=[1], evaluate=reference.evaluate)


def test_an_undecided_lane_is_settled_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    # exp(-2^-25) lies 2^-51 from a tie: no binary64 evaluation may decide it.
    x = torch.full((33,), -(2.0**-25))
    asked: list[int] = []
    definition = native._exact

    def exact(opcode: int, pattern: int) -> int:
        asked.append(pattern)
        return definition(opcode, pattern)

    monkeypatch.setattr(native, "_exact", exact)
    graph = built([x], lambda b, v: b.unary(Opcode.EXP, v))
    got = compile_graph(graph).run([x])
    assert set(asked) == {0xB3000000}
    check_equal(got, node_by_node(graph, [x], reference.evaluate))


def test_what_the_definition_raises_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(opcode: int, pattern: int) -> int:
        raise MemoryError("none left")

    monkeypatch.setattr(native, "_exact", broken)
    x = torch.tensor([-(2.0**-25)])
    compiled = compile_graph(built([x], lambda b, v: b.unary(Opcode.EXP, v)))
    with pytest.raises(MemoryError):
        compiled.run([x])
    compiled.run([torch.tensor([1.0])])


# Products


@EVERY_SET
@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5000, 5), (9, 31, 33), (40, 97, 65)])
def test_products(name: str, digits: int, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = floats(m, k), floats(k, n, seed=1) * 1e-20
    a[0, 0] = 1e-40

    def build(g: GraphBuilder, x: Value, y: Value) -> list[Value]:
        swapped = g.matmul(g.transpose(y, 0, 1), g.transpose(x, 0, 1), digits)
        return [g.matmul(x, y, digits), swapped, g.matmul(x, y, digits, "rows")]

    check(built([a, b], build), [a, b], name)


@EVERY_SET
def test_special_rows_reach_only_their_own_results(name: str) -> None:
    a, b = floats(7, 20), floats(20, 40, seed=1)
    a[1, 3], a[2, 4], a[3] = math.nan, math.inf, 0.0
    b[5, 7], b[:, 9] = -math.inf, -0.0

    def build(g: GraphBuilder, x: Value, y: Value) -> list[Value]:
        return [g.matmul(x, y, d, s) for d in (1, 2, 3) for s in ("columns", "rows")]

    graph = built([a, b], build)
    check(graph, [a, b], name, threads=[1], evaluate=reference.evaluate)
    columns = compile_graph(graph, instruction_set=name).run([a, b])[2]
    assert torch.isnan(columns[1]).all()
    assert torch.isnan(columns[2]).all()
    assert torch.isnan(columns[:, 7]).all()
    rest = columns[[0, 3, 4, 5, 6]][:, [j for j in range(40) if j != 7]]
    assert not torch.isnan(rest).any()
    assert (bits(columns[3, :7]) == 0).all()  # zero rows give +0


@EVERY_SET
@pytest.mark.parametrize("digits", [2, 3])
def test_the_largest_operands_overflow_nothing(name: str, digits: int) -> None:
    # Every quantised element is +-2^w, the most the registers are promised.
    terms = 3001
    a = torch.full((9, terms), 1.9999999)
    b = torch.full((terms, 34), -1.9999999)
    check(built([a, b], lambda g, x, y: g.matmul(x, y, digits)), [a, b], name, threads=[1])


def test_sums_beyond_the_tiles_go_through_int64() -> None:
    terms = (1 << 19) + 6
    a, b = torch.full((1, terms), 1.9999999), torch.full((terms, 1), 1.9999999)
    check(built([a, b], lambda g, x, y: g.matmul(x, y, 2)), [a, b], threads=[1])


@settings(max_examples=12, deadline=None)
@given(
    m=st.integers(1, 40),
    k=st.integers(0, 70),
    n=st.integers(1, 70),
    batch=st.integers(1, 3),
    digits=st.integers(1, 3),
    scale=st.sampled_from(["columns", "rows"]),
    left=st.booleans(),
    right=st.booleans(),
)
def test_any_shape_and_layout_of_product(
    m: int, k: int, n: int, batch: int, digits: int, scale: str, left: bool, right: bool
) -> None:
    a = floats(batch, k, m) if left else floats(batch, m, k)
    b = floats(batch, n, k, seed=1) if right else floats(batch, k, n, seed=1)

    def build(g: GraphBuilder, x: Value, y: Value) -> Value:
        x = g.transpose(x, 1, 2) if left else x
        y = g.transpose(y, 1, 2) if right else y
        return g.matmul(x, y, digits, scale)

    check(built([a, b], build), [a, b])


def test_quantised_operands_that_are_read_elsewhere_are_computed_plainly() -> None:
    a, b = floats(6, 50), floats(50, 8, seed=1)
    graph = built([a, b], lambda g, x, y: g.matmul(x, y, 2))
    every = Graph(
        graph.inputs,
        graph.constants,
        graph.operations,
        tuple(range(2, 2 + len(graph.constants) + len(graph.operations))),
    )
    check(every, [a, b], evaluate=reference.evaluate)


def test_a_product_of_planes_from_elsewhere_still_works() -> None:
    ea, eb = torch.tensor([3, 0], dtype=torch.int32), torch.tensor([-2], dtype=torch.int32)
    qa = torch.tensor([[30000, -7, 1], [5, 6, 7]], dtype=torch.int16)
    qb = torch.tensor([[-32768, 2, 9]], dtype=torch.int16)
    inputs = [ea, eb, qa, qb]
    operation = Operation(Opcode.DOT, (0, 1, 2, 3), TensorType(F32, (2, 1)), (2,))
    graph = Graph(tuple(TensorType.of(t) for t in inputs), (), (operation,), (4,))
    check(graph, inputs, evaluate=reference.evaluate)


# Fusion and views


@EVERY_SET
@pytest.mark.parametrize("columns", [1, 7, 16, 37, 5000])
def test_a_fused_softmax_equals_its_nodes(name: str, columns: int) -> None:
    x, y = floats(6, columns) * 5, floats(columns, seed=1)
    x[2] = -math.inf
    x[3, 0] = math.nan

    def build(g: GraphBuilder, a: Value, b: Value) -> list[Value]:
        z = g.binary(Opcode.MUL, g.binary(Opcode.ADD, a, b), g.scalar(3.0, F32))
        e = g.unary(Opcode.EXP, g.binary(Opcode.SUB, z, g.max(z, [1], keepdim=True)))
        total = g.sum(e, [1], keepdim=True)
        p = g.binary(Opcode.DIV, e, total)
        return [p, total, g.sum(p, [0]), g.min(z, [1]), g.sum(p), g.unary(Opcode.LOG, total)]

    check(built([x, y], build), [x, y], name)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_chain_of_views_and_sums(data: st.DataObject) -> None:
    x = floats(2, 3, 4, 5, seed=data.draw(st.integers(0, 99)))
    moves = data.draw(
        st.lists(st.sampled_from(["permute", "reshape", "slice", "expand", "pad", "concat", "add"]), max_size=7)
    )
    choices = [data.draw(st.integers(0, 1 << 20)) for _ in moves]

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        for move, choice in zip(moves, choices, strict=True):
            rank = len(v.shape)
            dim = choice % rank if rank else 0
            if move == "permute":
                v = g.permute(v, sorted(range(rank), key=lambda d: (choice >> d & 3, d)))
            elif move == "reshape":
                flat = math.prod(v.shape)
                divisors = [d for d in range(1, flat + 1) if flat % d == 0]
                size = divisors[choice % len(divisors)]
                v = g.reshape(v, (size, flat // size))
            elif move == "slice" and v.shape[dim] > 1:
                v = g.slice(v, dim, 1, (v.shape[dim] - 1 + choice % 2) // (1 + choice % 2), 1 + choice % 2)
            elif move == "expand":
                v = g.expand(g.reshape(v, (*v.shape[:dim], 1, *v.shape[dim:])), (*v.shape[:dim], 2, *v.shape[dim:]))
                v = g.reshape(v, (v.shape[0], math.prod(v.shape[1:])))
            elif move == "pad":
                v = g.pad(v, [choice % 3] * rank, [1] * rank, 0x80000000)
            elif move == "concat" and math.prod(v.shape) < 500:
                v = g.concat([v, g.unary(Opcode.NEG, v), v], dim)
            elif move == "add":
                v = g.binary(Opcode.ADD, v, g.scalar(0.5, F32))
        return [v, g.sum(v, [0]), g.max(v, [len(v.shape) - 1])]

    check(built([x], build), [x], threads=[1])


@EVERY_SET
def test_lookups_scatters_and_scans(name: str) -> None:
    table = floats(11, 40)
    index = torch.tensor([3, -1, 10, 11, 0, 3, 1 << 40], dtype=torch.int64)
    picks = torch.randint(-1, 12, (5, 40), generator=torch.Generator().manual_seed(3))
    source = floats(7, 40, seed=2)
    source[0, 0], source[5, 0], source[1, 1] = math.inf, -math.inf, math.nan

    def build(g: GraphBuilder, t: Value, i: Value, p: Value, s: Value) -> list[Value]:
        taken = g.apply(Opcode.TAKE, [t, i], TensorType(F32, (7, 40)))
        gathered = g.apply(Opcode.GATHER, [t, p], TensorType(F32, (5, 40)), (0,))
        across = g.apply(Opcode.GATHER, [g.transpose(t, 0, 1), g.transpose(p, 0, 1)], TensorType(F32, (40, 5)), (1,))
        added = g.apply(Opcode.INDEX_ADD, [t, i, s], TensorType(F32, (11, 40)))
        scattered = g.apply(Opcode.SCATTER, [t, p, g.slice(s, 0, 1, 5)], TensorType(F32, (11, 40)), (0,))
        best = g.reduce(Opcode.ARGMAX, t, [1])
        worst = g.reduce(Opcode.ARGMIN, t, [0])
        running = g.apply(Opcode.CUMSUM, [p], TensorType(I64, (5, 40)))
        top = g.apply(Opcode.TOPK, [t], TensorType(I64, (11, 5)), (5,))
        order = g.apply(Opcode.SORT, [t], TensorType(I64, (11, 40)), (1,))
        doubled = g.binary(Opcode.ADD, taken, taken)
        return [taken, gathered, across, added, scattered, best, worst, running, top, order, doubled, g.sum(order)]

    inputs = [table, index, picks, source]
    check(built(inputs, build), inputs, name, evaluate=reference.evaluate)


def test_outputs_that_are_inputs_constants_or_each_other() -> None:
    x = floats(3, 4)

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        c = g.constant(torch.arange(6.0).reshape(2, 3))
        y = g.unary(Opcode.NEG, v)
        return [v, v, c, g.transpose(c, 0, 1), y, y, g.transpose(y, 0, 1), g.constant(torch.tensor(-0.0))]

    graph = built([x], build)
    check(graph, [x])
    first = compile_graph(graph).run([x])
    assert len({t.data_ptr() for t in first}) == len(first)


def test_constants_of_both_zeros_stay_apart() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -1.0])

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        return [g.binary(Opcode.MAXIMUM, v, g.scalar(zero, F32)) for zero in (0.0, -0.0)]

    check(built([x], build), [x], evaluate=reference.evaluate)


def test_empty_tensors() -> None:
    x = torch.zeros(0, 5)

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        twice = g.binary(Opcode.ADD, v, v)
        return [
            twice,
            g.sum(v, [0]),
            g.sum(v),
            g.pad(v, [1, 0], [1, 0], 0x3F800000),
            g.concat([v, g.expand(g.reshape(g.sum(v), (1, 1)), (1, 5))], 0),
        ]

    check(built([x], build), [x])


def test_what_only_an_empty_result_looks_at_is_left_out() -> None:
    b = GraphBuilder()
    x = b.input(TensorType(DType.FLOAT32, (3, 4)))
    graph = b.build([b.apply(Opcode.SLICE, [b.unary(Opcode.NEG, x)], TensorType(DType.FLOAT32, (3, 0)), (1, 0, 1))])
    assert compile_graph(graph).run([torch.zeros(3, 4)])[0].shape == (3, 0)


def test_every_nan_that_leaves_is_the_one_nan() -> None:
    x = torch.tensor([math.inf, -1.0, math.nan, 0.0, 2.0])

    def build(g: GraphBuilder, v: Value) -> list[Value]:
        made = g.binary(Opcode.SUB, v, v)
        root = g.unary(Opcode.SQRT, v)
        negated = g.unary(Opcode.NEG, made)
        chosen = g.select(g.binary(Opcode.EQ, v, v), negated, root)
        return [made, root, negated, chosen, g.max(negated), g.min(root), g.sum(negated), g.concat([negated, root], 0)]

    for name in isa.supported():
        graph = built([x], build)
        for tensor in compile_graph(graph, instruction_set=name).run([x]):
            nans = bits(tensor)[torch.isnan(tensor)]
            assert (nans == 0x7FC00000).all()
        check(graph, [x], name, evaluate=reference.evaluate)


# A training step


def step_graph(model: ModelConfig, training: TrainingConfig) -> tuple[Graph, State]:
    tokens = torch.zeros((training.batch, model.context + 1), dtype=torch.int32)
    state = example_state(model)
    program = trace(make_training_step(model, training), (state, tokens))
    for i, (key, weight) in enumerate(state["weights"].items()):
        state["weights"][key] = floats(*weight.shape, seed=i) * 0.1 if weight.dim() > 1 else torch.ones(weight.shape)
    return program.graph, state


@pytest.fixture(scope="module")
def small_step() -> tuple[Graph, list[torch.Tensor], list[list[torch.Tensor]]]:
    """Graph, first state as inputs without tokens, and the states after each of three steps, node by node."""
    model = ModelConfig(vocabulary=48, width=24, layers=2, heads=2, hidden=40, context=12)
    training = TrainingConfig(batch=3, learning_rate=3e-3, warmup_steps=2, total_steps=10)
    graph, state = step_graph(model, training)
    inputs = flatten((state,), "state")[1]
    followed, states = inputs, []
    for i in range(3):
        followed = node_by_node(graph, [*followed, step_tokens(i)])
        states.append(followed)
        followed = followed[: len(inputs)]
    return graph, inputs, states


def step_tokens(i: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(50 + i)
    return torch.randint(0, 48, (3, 13), generator=generator, dtype=torch.int32)


@EVERY_SET
@pytest.mark.parametrize("threads", [1, 2])
def test_training_steps_equal_their_nodes(
    small_step: tuple[Graph, list[torch.Tensor], list[list[torch.Tensor]]], name: str, threads: int
) -> None:
    graph, inputs, states = small_step
    compiled = compile_graph(graph, threads=threads, instruction_set=name)
    assert not compiled.plan.python_steps
    state = inputs
    for i, expected in enumerate(states):
        outputs = compiled.run([*state, step_tokens(i)])
        check_equal(outputs, expected)
        state = outputs[: len(inputs)]


def test_the_same_graph_gives_the_same_code(small_step: tuple[Graph, object, object]) -> None:
    first, second = (build(small_step[0], isa.choose(), 1, native.triple()).ir for _ in range(2))
    assert first == second


# Calling it


def test_the_callers_float_settings_change_nothing_and_are_given_back() -> None:
    x = from_bits(0x00000003, 0x00400000, 0x80000001)
    compiled = compile_graph(built([x], lambda g, v: g.binary(Opcode.MUL, v, g.scalar(1.0, F32))))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor always keeps subnormals")
    try:
        check_equal(compiled.run([x]), [x])
        assert (torch.tensor([1e-40]) * 1.0 == 0).all()
    finally:
        torch.set_flush_denormal(False)


def scaled() -> tuple[CompiledGraph, torch.Tensor]:
    x = floats(5, 6)
    return compile_graph(built([x], lambda g, v: g.binary(Opcode.MUL, v, g.scalar(3.0, F32)))), x


def test_results_are_fresh_unless_memory_is_given() -> None:
    compiled, x = scaled()
    first, second = compiled.run([x])[0], compiled.run([x])[0]
    assert first.data_ptr() != second.data_ptr()
    kept = torch.empty(5, 6)
    assert compiled.run([x], out=[kept])[0] is kept
    check_equal([kept], [first])


def test_large_results_use_memory_again_only_when_nobody_sees_it() -> None:
    x = floats(256, 257)
    compiled = compile_graph(built([x], lambda g, v: g.binary(Opcode.MUL, v, g.scalar(3.0, F32))))
    held = compiled.run([x])[0]
    where, row = held.data_ptr(), held.detach()[7:8].t()
    assert where % 64 == 0
    del held
    # A view is enough to keep the memory...
    other = compiled.run([-x])[0]
    assert other.data_ptr() != where
    check_equal([row], [(x * 3.0)[7:8].t()])
    array = row.numpy()
    del row
    another = compiled.run([-x])[0]
    assert another.data_ptr() != where
    assert (array[:, 0] == (x * 3.0)[7].numpy()).all()
    # ... and the last one's end gives it back, once.
    del array
    again = [compiled.run([x])[0] for _ in range(3)]
    assert [t.data_ptr() == where for t in again] == [True, False, False]
    check_equal(again, [x * 3.0] * 3)
    check_equal([other, another], [x * -3.0] * 2)


def test_callers_in_several_threads_get_their_own_results() -> None:
    """Native code runs without Python's lock: unguarded, calls overwrite each other's intermediates."""
    graph = built([floats(300, 70)], lambda g, v: g.matmul(g.unary(Opcode.EXP, v), g.transpose(v, 0, 1), 2))
    compiled = compile_graph(graph)
    inputs = [floats(300, 70, seed=seed) for seed in range(3)]
    expected = [compiled.run([x])[0] for x in inputs]

    def repeat(at: int) -> bool:
        return all(torch.equal(compiled.run([inputs[at]])[0], expected[at]) for _ in range(25))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(repeat, range(3)))


def test_strided_inputs_are_read_as_they_look() -> None:
    compiled, x = scaled()
    check_equal(compiled.run([x.t().contiguous().t()]), compiled.run([x]))


@pytest.mark.parametrize("wrong", [[], [torch.zeros(5, 7)], [torch.zeros(5, 6, dtype=torch.int32)]])
def test_inputs_of_another_kind_are_refused(wrong: list[torch.Tensor]) -> None:
    with pytest.raises(MalformedTensor):
        scaled()[0].run(wrong)


def test_memory_given_must_fit() -> None:
    compiled, x = scaled()
    with pytest.raises(MalformedTensor):
        compiled.run([x], out=[torch.empty(6, 5).t()])


def test_unknown_instruction_sets_and_thread_counts_are_refused() -> None:
    graph = built([floats(2)], lambda g, v: g.unary(Opcode.NEG, v))
    with pytest.raises(UsageError, match="sse9"):
        compile_graph(graph, instruction_set="sse9")
    with pytest.raises(UsageError, match="threads"):
        compile_graph(graph, threads=0)


def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPEL_ISA", "portable")
    assert scaled()[0].instruction_set.name == "portable"


# The cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUPEL_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_a_plan_from_the_cache_has_its_constants_and_python_steps(cache: Path) -> None:
    x = floats(4, 9)

    def made(g: GraphBuilder, v: Value) -> list[Value]:
        shifted = g.binary(Opcode.ADD, v, g.constant(torch.arange(9.0)))
        exponents = g.constant(torch.arange(9, dtype=torch.int32))
        return [shifted, g.apply(Opcode.EXPONENT_SCALED, [shifted, exponents], TensorType(I32, (4,)))]

    graph = built([x], made)
    first, second = compile_graph(graph), compile_graph(graph)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.plan.python_steps
    check_equal(second.run([x]), first.run([x]))


def test_machine_code_is_kept_and_found_again(cache: Path) -> None:
    first, x = scaled()
    assert not first.from_cache
    assert len(list(cache.iterdir())) == 1
    second, _ = scaled()
    assert second.from_cache
    check_equal(second.run([x]), first.run([x]))


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data[:100] + b"\x90" + data[101:], lambda data: b""]
)
def test_a_spoilt_cache_entry_is_made_again(cache: Path, spoil: Callable[[bytes], bytes]) -> None:
    first, x = scaled()
    (entry,) = cache.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(spoil(good))
    again, _ = scaled()
    assert not again.from_cache
    assert entry.read_bytes()[32:] == good[32:]
    check_equal(again.run([x]), first.run([x]))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_that_cannot_be_written_costs_only_time(cache: Path) -> None:
    cache.parent.chmod(0o500)
    try:
        compiled, x = scaled()
        compiled.run([x])
    finally:
        cache.parent.chmod(0o700)


def test_a_cache_that_is_a_file_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "occupied").write_text("here")
    monkeypatch.setenv("CUPEL_CACHE", str(tmp_path / "occupied"))
    compiled, x = scaled()
    compiled.run([x])
