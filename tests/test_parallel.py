"""Several workers give the bits of one, whatever is cut and wherever."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cupel.protocol import merkle
from cupel.protocol.arithmetic import cases, torch_backend
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cases import Words, tensor_of
from cupel.protocol.arithmetic.cpu import integers
from cupel.protocol.arithmetic.cpu import isa as instruction_sets
from cupel.protocol.arithmetic.engines import Backend, run_graph
from cupel.protocol.arithmetic.operations import (
    NOT_FINITE,
    ZERO_ROW,
    DType,
    Graph,
    Opcode,
    Operation,
    TensorType,
    planes,
)
from cupel.protocol.errors import MalformedProgram, MalformedTensor, UsageError
from cupel.protocol.parallel import (
    ParallelGraph,
    ParallelStep,
    Sharding,
    ThreadCommunicator,
    evenly,
    exact,
    join,
    make_layout,
    partition,
    run_threads,
    split,
)
from cupel.protocol.program import Program, run, trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.modules import make_step
from cupel.protocol.training.optimisers import Grouped, Lion, Muon, hidden_matrices
from cupel.protocol.training.state import NamedState, example_state, flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step

F32 = DType.FLOAT32


@pytest.fixture(autouse=True, scope="module")
def small_results_are_cut_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "SCATTER_FROM", 40)
        yield


def bits(tensor: torch.Tensor) -> torch.Tensor:
    # A copy: a single element may keep any stride, which a view in bytes refuses.
    return tensor.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)


def check_cut(
    graph: Graph,
    inputs: Sequence[torch.Tensor],
    size: int,
    cut: dict[int, Sharding],
    wanted: dict[int, Sharding] | None = None,
    names: Sequence[str] = (),
    backend: str = "torch",
    definition: Backend = "torch",
) -> list[ParallelGraph]:
    """The graph cut over `size` workers gives what `definition` gives on one."""
    expected = run_graph(graph, inputs, definition)
    outputs = wanted or {}

    def work(communicator: ThreadCommunicator) -> tuple[ParallelGraph, list[torch.Tensor]]:
        mine = ParallelGraph(graph, communicator, inputs=cut, outputs=outputs, backend=backend)
        pieces = [split(tensor, cut.get(i), communicator.rank) for i, tensor in enumerate(inputs)]
        return mine, mine.run(pieces)

    workers = run_threads(size, work)
    for i, tensor in enumerate(expected):
        name = names[i] if names else f"output {i}"
        given_ = [results[i] for _, results in workers]
        if i in outputs:
            given_ = [join(given_, outputs[i], tensor.shape)]
        for got in given_:
            assert got.dtype == tensor.dtype, name
            assert got.shape == tensor.shape, name
            assert torch.equal(bits(got), bits(tensor)), name
    return [mine for mine, _ in workers]


def any_cut(rng: random.Random, shape: Sequence[int], size: int) -> Sharding | None:
    """A dimension, a period that divides it, and borders anywhere, empty pieces included."""
    dims = [d for d, n in enumerate(shape) if n]
    if not dims or 0 in shape or rng.random() < 0.25:
        return None
    dim = rng.choice(dims)
    periods = [p for p in range(1, shape[dim] + 1) if shape[dim] % p == 0]
    period = shape[dim] if rng.random() < 0.7 else rng.choice(periods)
    borders = sorted(rng.randint(0, period) for _ in range(size - 1))
    return Sharding(dim, (0, *borders, period))


def any_cuts(rng: random.Random, types: Sequence[TensorType], size: int) -> dict[int, Sharding]:
    cuts = {i: any_cut(rng, t.shape, size) for i, t in enumerate(types)}
    return {i: cut for i, cut in cuts.items() if cut is not None}


@pytest.mark.parametrize("seed", range(6))
def test_every_operation_cut_anywhere(seed: int) -> None:
    rng = random.Random(seed)
    together = cases.together(seed % 2 + 1, 8)
    size = rng.choice((2, 3, 4))
    cut = any_cuts(rng, together.graph.inputs, size)
    wanted = any_cuts(rng, [together.graph.type_of(v) for v in together.graph.outputs], size)
    check_cut(together.graph, together.inputs, size, cut, wanted, together.names)


ANY_EXPONENTS = (-1000, ZERO_ROW, -20, -3, 1, 3, 6, 40, 1000, NOT_FINITE)


class AnyGraph:
    """A graph of a few dozen operations taken at random, over operands of every kind."""

    def __init__(self, seed: int) -> None:
        self.rng, self.words = random.Random(seed), Words(seed)
        self.builder = GraphBuilder()
        self.inputs: list[torch.Tensor] = []
        self.values: list[Value] = []
        for shape in ((4, 6), (2, 3, 4), (6,), (4, 1, 6), (12, 4)):
            self.values.append(self.enter(self.floats(shape)))
        self.index = self.enter(torch.tensor([self.words.below(8) - 1 for _ in range(12)]))
        exponents = torch.tensor([self.rng.choice(ANY_EXPONENTS) for _ in range(16)], dtype=torch.int32)
        integers_ = [self.words.below(1 << 16) - (1 << 15) for _ in range(96)]
        self.exponents, self.integers = self.enter(exponents), self.enter(torch.tensor(integers_, dtype=torch.int16))
        for _ in range(30):
            value = self.grown()
            if value is not None and value.type.elements <= 600:
                self.values.append(value)
        outputs = [*self.rng.sample(self.values[5:], min(8, len(self.values) - 5)), self.values[-1]]
        self.graph = self.builder.build(outputs)

    def floats(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Finite and ordinary, but for a row of zeros and now and then one of anything."""
        n = shape[0]
        rows = tensor_of(self.words.ordinary(TensorType(F32, shape).elements), F32, shape)
        rows[self.rng.randrange(n)] = -0.0
        if self.rng.random() < 0.4:
            rows[self.rng.randrange(n)] = tensor_of(self.words.floats(rows[0].numel()), F32, rows[0].shape)
        return rows

    def enter(self, tensor: torch.Tensor) -> Value:
        self.inputs.append(tensor)
        return self.builder.input(TensorType.of(tensor))

    def matrix(self, x: Value) -> Value:
        return self.builder.reshape(x, (-(-x.type.elements // x.shape[-1]), x.shape[-1]))

    def grown(self) -> Value | None:
        b, rng = self.builder, self.rng
        x = rng.choice(self.values)
        rank = len(x.shape)
        if not rank or not x.type.elements:
            return None
        dim = rng.randrange(rank)
        kind = rng.randrange(16)
        if kind == 0:
            return b.permute(x, rng.sample(range(rank), rank))
        if kind == 1:
            size = rng.choice([p for p in range(1, x.shape[dim] + 1) if x.shape[dim] % p == 0])
            return b.reshape(x, (*x.shape[:dim], size, x.shape[dim] // size, *x.shape[dim + 1 :])) if rank < 4 else None
        if kind == 2 and rank > 1:
            dim = rng.randrange(rank - 1)
            return b.reshape(x, (*x.shape[:dim], x.shape[dim] * x.shape[dim + 1], *x.shape[dim + 2 :]))
        if kind == 3:
            start, step = rng.randrange(x.shape[dim]), rng.choice((1, 1, 2))
            return b.slice(x, dim, start, rng.randint(0, (x.shape[dim] - start - 1) // step) + 1, step)
        if kind == 4:
            low, high = ([rng.choice((0, 0, 2)) for _ in range(rank)] for _ in range(2))
            return b.pad(x, low, high, rng.choice((0, 0x3F800000)))
        if kind == 5:
            alike = [y for y in self.values if len(y.shape) == rank and _equal_but(x.shape, y.shape, dim)]
            return b.concat([x, *rng.sample(alike, min(2, len(alike)))], dim)
        if kind == 6:
            return b.binary(rng.choice((Opcode.ADD, Opcode.MUL, Opcode.MAXIMUM)), x, self.partner(x))
        if kind == 7:
            return b.unary(rng.choice((Opcode.NEG, Opcode.ABS)), x)
        if kind in (8, 9):
            code = rng.choice((Opcode.SUM, Opcode.SUM, Opcode.MAX, Opcode.MIN))
            return b.reduce(code, x, rng.sample(range(rank), rng.randint(1, rank)), keepdim=rng.random() < 0.5)
        if kind == 10:
            rows = b.rows(x, [dim])
            code = rng.choice((Opcode.ARGMAX, Opcode.ARGMIN))
            positions = b.apply(code, [rows], TensorType(DType.INT64, rows.shape[:-1]))
            return b.cast(positions, F32)
        if kind in (11, 12, 13) and rank > 1:
            return self.product(x)
        if kind == 14 and x.shape[0] == 12 and rank == 2:
            table = next(v for v in self.values if v.shape == (4, 6))
            wide = b.pad(x, [0, 0], [0, max(6 - x.shape[1], 0)])
            return b.apply(Opcode.INDEX_ADD, [table, self.index, b.slice(wide, 1, 0, 6)], table.type)
        if kind == 15:
            return b.apply(Opcode.TAKE, [x, self.index], TensorType(F32, (12, *x.shape[1:])))
        return None

    def partner(self, x: Value) -> Value:
        alike = [y for y in self.values if y.shape == x.shape]
        return self.rng.choice(alike) if self.rng.random() < 0.7 else self.builder.slice(x, -1, 0, 1)

    def product(self, x: Value) -> Value:
        b, rng = self.builder, self.rng
        alike = [y for y in self.values if len(y.shape) > 1 and y.shape[-1] == x.shape[-1]]
        digits, scale = rng.choice((1, 2, 2, 3)), rng.choice(("columns", "columns", "rows"))
        if rng.random() < 0.25:
            return self.unproved(self.matrix(x), self.matrix(rng.choice(alike)), digits, scale)
        if rng.random() < 0.5:
            return b.matmul(self.matrix(x), b.transpose(self.matrix(rng.choice(alike)), 0, 1), digits, scale)
        if rng.random() < 0.5:
            return b.matmul(b.transpose(self.matrix(x), 0, 1), self.matrix(x), digits, scale)
        return b.matmul(x, b.transpose(x, -1, -2), digits, scale)

    def unproved(self, x: Value, y: Value, digits: int, scale: str) -> Value:
        """A product by exponents or of planes that nobody computed, where these are not too many."""
        b, rng = self.builder, self.rng
        sides = []
        for value in (x, y):
            rows, terms = value.shape
            exponent = TensorType(DType.INT32, (rows,))
            given_ = rows <= 16 and rng.random() < 0.6
            e = b.slice(self.exponents, 0, 0, rows) if given_ else b.apply(Opcode.EXPONENT, [value], exponent)
            int16 = TensorType(DType.INT16, value.shape)
            made = [b.apply(Opcode.QUANTIZE, [value, e], int16, (digits, plane)) for plane in range(planes(digits))]
            if rows * terms <= 96 and rng.random() < 0.3:
                made[0] = b.reshape(b.slice(self.integers, 0, 0, rows * terms), (rows, terms))
            sides.append((e, made))
        (ea, left), (eb, right) = sides
        pairs = [plane for both in zip(left, right, strict=True) for plane in both]
        result = TensorType(F32, (x.shape[0], y.shape[0]))
        if scale == "columns":
            return b.apply(Opcode.DOT, [ea, eb, *pairs], result, (digits,))
        return b.apply(Opcode.DOT_ROWS, [ea, *pairs], result, (digits,))


def _equal_but(x: Sequence[int], y: Sequence[int], dim: int) -> bool:
    return all(a == b for d, (a, b) in enumerate(zip(x, y, strict=True)) if d != dim)


def check_any_graph(seed: int, size: int, backend: str) -> None:
    made = AnyGraph(seed)
    rng = random.Random(seed)
    cut = any_cuts(rng, made.graph.inputs, size)
    wanted = any_cuts(rng, [made.graph.type_of(v) for v in made.graph.outputs], size)
    check_cut(made.graph, made.inputs, size, cut, wanted, backend=backend, definition="reference")


@given(seed=st.integers(0, 1 << 32), size=st.sampled_from((2, 2, 3, 4)))
@settings(max_examples=60, deadline=None)
def test_any_graph_cut_anywhere(seed: int, size: int) -> None:
    check_any_graph(seed, size, "torch")


@pytest.mark.parametrize("seed", range(4))
def test_any_graph_cut_anywhere_and_compiled(seed: int) -> None:
    check_any_graph(seed, 2, "cpu")


# Training steps

MODEL = ModelConfig(vocabulary=40, width=16, layers=1, heads=2, hidden=24, context=6, tied=False)
TRAINING = TrainingConfig(batch=4, learning_rate=1e-2, warmup_steps=2, total_steps=20)
STEPS = 2


@pytest.fixture(scope="module")
def step() -> Program:
    tokens = torch.zeros((TRAINING.batch, MODEL.context + 1), dtype=torch.int32)
    return trace(make_training_step(MODEL, TRAINING), (example_state(MODEL), tokens))


@pytest.fixture(scope="module")
def start(step: Program) -> NamedState:
    """Weights and moments as after some training."""
    words = Words(5)
    types = make_layout(step, 1).state_types
    state = {n: tensor_of(words.ordinary(t.elements, 110, 12), F32, t.shape) for n, t in types.items() if n != "step"}
    squares = {name: tensor.abs() for name, tensor in state.items() if name.startswith("adam_v.")}
    return {**state, **squares, "step": torch.tensor(3)}


def tokens_of(step: int) -> torch.Tensor:
    random_ = torch.Generator().manual_seed(step)
    shape = (TRAINING.batch, MODEL.context + 1)
    return torch.randint(0, MODEL.vocabulary, shape, dtype=torch.int32, generator=random_)


def train_on_one(step: Program, state: NamedState) -> tuple[NamedState, dict[str, torch.Tensor]]:
    for index in range(STEPS):
        nested, metrics = run(step, (unflatten_state(state), tokens_of(index)), "torch")
        state = flatten_state(nested)
    return state, metrics


@pytest.mark.parametrize(
    ("size", "backend"), [(1, "torch"), (2, "torch"), (4, "torch"), (7, "torch"), (2, "cpu"), (5, "cpu")]
)
def test_workers_train_to_the_roots_of_one(step: Program, start: NamedState, size: int, backend: str) -> None:
    """Of seven workers three have no sequence of the batch of four."""
    expected, metrics = train_on_one(step, start)

    def work(communicator: ThreadCommunicator) -> tuple[NamedState, dict[str, torch.Tensor]]:
        mine = ParallelStep(step, communicator, backend=backend)
        state = mine.layout.split_state(start, communicator.rank)
        for index in range(STEPS):
            state, told = mine.run(state, mine.layout.split_tokens(tokens_of(index), communicator.rank))
        return state, told

    workers = run_threads(size, work)
    trained = make_layout(step, size).join_state([state for state, _ in workers])
    assert merkle.state_root(trained) == merkle.state_root(expected)
    for _, told in workers:
        assert {name: bits(t).tolist() for name, t in told.items()} == {n: bits(t).tolist() for n, t in metrics.items()}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_workers_hold_their_share_of_the_optimiser_state_alone(step: Program, start: NamedState, size: int) -> None:
    layout = make_layout(step, size)
    name = "adam_m.blocks.0.attention.qkv.weight"
    rows = [layout.split_state(start, worker)[name].shape[0] for worker in range(size)]
    assert rows == [48 // size] * size
    moments = [n for n in start if n.startswith("adam_")]
    held = sum(layout.split_state(start, 0)[n].numel() for n in moments)
    assert held < sum(start[n].numel() for n in moments) / (0.75 * size)


def test_meetings_do_not_grow_with_the_model(step: Program) -> None:
    """All that could be exchanged at one time is, so a deeper model waits no more often."""

    def rounds(program: Program) -> int:
        layout = make_layout(program, 2)
        cut = {i: layout.tokens for i, name in enumerate(program.input_names) if name == "1"}
        communicator = ThreadCommunicator.alone(2)
        graph = ParallelGraph(program.graph, communicator, inputs=cut, outputs={}, backend="torch")
        return sum(bool(stretch.meetings) for stretch in graph.schedule.stretches)

    deeper = replace(MODEL, layers=2)
    tokens = torch.zeros((TRAINING.batch, MODEL.context + 1), dtype=torch.int32)
    assert rounds(trace(make_training_step(deeper, TRAINING), (example_state(deeper), tokens))) == rounds(step) == 6


@pytest.mark.parametrize(("digits", "size"), [(1, 4), (2, 4), (3, 4), (2, 1), (2, 2)])
def test_a_linear_layer_cut_along_what_it_contracts_gives_the_same_bits(digits: int, size: int) -> None:
    """Tensor parallelism: inputs and weight along K, integers added up, one rounding; through the compiled engine."""
    words, builder = Words(digits), GraphBuilder()
    x = builder.input(TensorType(F32, (9, 45)))
    weight = builder.input(TensorType(F32, (33, 45)))
    graph = builder.build([builder.matmul(x, builder.transpose(weight, 0, 1), digits)])
    a, b = cases.product_operands(words, 9, 45, 33)
    cut = {0: evenly(1, (9, 45), size), 1: evenly(1, (33, 45), size)}
    workers = check_cut(graph, [a, b.t().contiguous()], size, cut, backend="cpu")
    gathered = workers[0].traffic.gathered
    assert (workers[0].traffic.scattered > 0) == (size > 1)
    assert gathered < 9 * 45 * 4  # the result alone: neither operand was ever whole anywhere
    check_cut(graph, [a, b.t().contiguous()], size, {1: cut[1]})


EXPONENTS = ((-3, 1), (3, 3), (-500, 5), (1000, -1000), (100_000, -100_000), (NOT_FINITE, 2), (ZERO_ROW, 150))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_product_by_exponents_that_nobody_computed_cut_along_what_it_contracts(digits: int, backend: str) -> None:
    """A Program may name any exponents, below the operands' own too, and take planes from anywhere."""
    m, k, n, count = 4, 16, 3, planes(digits)
    builder, int16 = GraphBuilder(), DType.INT16
    a, b = builder.input(TensorType(F32, (m, k))), builder.input(TensorType(F32, (n, k)))
    ea, eb = builder.input(TensorType(DType.INT32, (m,))), builder.input(TensorType(DType.INT32, (n,)))
    given_ = [builder.input(TensorType(int16, (rows, k))) for _ in range(count) for rows in (m, n)]
    made = [
        builder.apply(Opcode.QUANTIZE, [x, e], TensorType(int16, x.shape), (digits, plane))
        for plane in range(count)
        for x, e in ((a, ea), (b, eb))
    ]
    own = builder.apply(Opcode.EXPONENT, [a], TensorType(DType.INT32, (m,)))
    result = TensorType(F32, (m, n))
    graph = builder.build(
        [
            builder.apply(Opcode.DOT, [ea, eb, *made], result, (digits,)),
            builder.apply(Opcode.DOT, [ea, eb, *given_], result, (digits,)),
            builder.apply(Opcode.DOT, [own, eb, *made], result, (digits,)),
            builder.apply(Opcode.DOT_ROWS, [ea, *made], result, (digits,)),
        ]
    )
    words = Words(digits)
    integers_ = [torch.tensor([words.below(1 << 16) - (1 << 15) for _ in range(t.type.elements)]) for t in given_]
    drawn = [x.to(torch.int16).reshape(t.shape) for x, t in zip(integers_, given_, strict=True)]
    for e, f in EXPONENTS:
        floats = [tensor_of(words.ordinary(rows * k), F32, (rows, k)) for rows in (m, n)]
        floats[0][0, 0] = float("inf") if e == f else 1.5
        inputs = [*floats, torch.full((m,), e).to(torch.int32), torch.full((n,), f).to(torch.int32), *drawn]
        cut = {i: evenly(1, t.shape, 2) for i, t in enumerate(inputs) if t.dim() == 2}
        check_cut(
            graph,
            inputs,
            2,
            cut,
            names=[f"{what}, {e}, {f}" for what in range(4)],
            backend=backend,
            definition="reference",
        )


def test_what_does_not_fit_is_said(step: Program) -> None:
    builder = GraphBuilder()
    graph = builder.build([builder.unary(Opcode.NEG, builder.input(TensorType(F32, (4, 3))))])
    alone = ThreadCommunicator.alone(2)
    with pytest.raises(UsageError, match=r"float32\[4, 3\] cannot be cut along dimension 1 at \(0, 1, 2\) for 2"):
        ParallelGraph(graph, alone, inputs={0: Sharding(1, (0, 1, 2))}, outputs={}, backend="torch")
    half = ParallelGraph(
        graph, alone, inputs={0: Sharding(0, (0, 1, 4))}, outputs={0: Sharding(0, (0, 1, 4))}, backend="torch"
    )
    with pytest.raises(MalformedTensor, match=r"input 0 is torch.float32\[4, 3\], worker 0 holds float32\[1, 3\]"):
        half.run([torch.zeros(4, 3)])
    with pytest.raises(MalformedProgram, match="only a step"):
        make_layout(trace(lambda x: x + 1, (torch.zeros(3),)), 2)
    with pytest.raises(UsageError, match="0 workers"):
        make_layout(step, 0)


@pytest.mark.parametrize("instruction_set", instruction_sets.supported())
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_the_engine_sums_the_integers_that_plain_pytorch_does(instruction_set: str, digits: int) -> None:
    """Of operands that lie either way, with exponents above their own, on two threads as on one."""
    m, k, n = 9, 75, 35
    a, b = cases.product_operands(Words(digits), m, k, n)
    b = b.t().contiguous()
    ea, eb = (
        torch_backend.evaluate(Operation(Opcode.EXPONENT, (0,), TensorType(DType.INT32, (len(x),))), [x])
        for x in (a, b)
    )
    ea = torch.where(ea == NOT_FINITE, ea, ea + torch.arange(m, dtype=torch.int32) % 3)
    finite = (ea != NOT_FINITE).unsqueeze(1) & (eb != NOT_FINITE).unsqueeze(0)
    expected = torch.where(finite, exact.sum_products(a, ea, b, eb, digits), 0)
    # Where nothing averages out, 16 pairs of two digits overflow an int32, and 1,024 of three.
    x, e = torch.full((2, 4500), 1.9999) * torch.tensor([[1.0], [-1.0]]), torch.ones(2, dtype=torch.int32)
    same = integers.sum_products(x, e, x, e, digits, instruction_set=instruction_set)
    assert torch.equal(same, exact.sum_products(x, e, x, e, digits))
    # Here some hundred terms fit and the whole does not; at either end of binary32 a norm is not to be had.
    alike = torch.full((3, 4500), 0.25)
    drawn = torch.randn((3, 4500), generator=torch.Generator().manual_seed(1))
    for x in (alike, drawn, drawn * 1e-30, drawn * torch.tensor([[1e-42], [1.0], [1e37]])):
        e = torch.frexp(x.abs().amax(1)).exponent
        same = integers.sum_products(x, e, x, e, digits, instruction_set=instruction_set)
        assert torch.equal(same, exact.sum_products(x, e, x, e, digits))
    for a_turned, b_turned, threads in ((False, False, 1), (True, True, 1), (True, False, 2), (False, True, 2)):
        got = integers.sum_products(
            a.t().contiguous() if a_turned else a,
            ea,
            b.t().contiguous() if b_turned else b,
            eb,
            digits,
            a_turned=a_turned,
            b_turned=b_turned,
            threads=threads,
            instruction_set=instruction_set,
        )
        assert torch.equal(torch.where(finite, got, 0), expected), (a_turned, b_turned)


class Dropping(nn.Module):
    """An embedding, a hidden layer behind dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 40)
        self.dropout = nn.Dropout(0.2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(torch.tanh(self.hidden(self.embedding(tokens)))))
        return logits


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1].long())
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].long().flatten())


def test_any_module_and_optimiser_trains_on_workers() -> None:
    """Muon multiplies a matrix's moments by themselves, dropout counts elements of the batch, microbatches cut it."""
    optimiser = Grouped(((hidden_matrices, Muon(learning_rate=1e-2)),), otherwise=Lion(learning_rate=1e-3))
    step = make_step(Dropping(), loss_of, optimiser, dropout_seed=b"seed", microbatches=2)
    tokens = torch.randint(0, 40, (6, 7), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    state = step.initial_state()
    program = trace(step, (state, tokens))
    given_ = dict(zip(program.input_names, flatten((state, tokens), "arguments")[1], strict=True))
    start = {name.removeprefix("0."): tensor for name, tensor in given_.items() if name.startswith("0.")}
    expected = dict(
        zip(program.output_names, flatten(run(program, (state, tokens), "torch"), "result")[1], strict=True)
    )

    def work(communicator: ThreadCommunicator) -> NamedState:
        mine = ParallelStep(program, communicator, backend="torch")
        pieces = mine.layout.split_state(start, communicator.rank)
        return mine.run(pieces, mine.layout.split_tokens(tokens, communicator.rank))[0]

    trained = make_layout(program, 3).join_state(run_threads(3, work))
    for name, tensor in trained.items():
        assert torch.equal(bits(tensor), bits(expected[f"0.{name}"])), name
