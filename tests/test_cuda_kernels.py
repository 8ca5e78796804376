"""The GPU's kernels give the bits of the definition: their own text, compiled for this machine's processor.

What differs on a GPU (atomics, a warp's tree, launching) is not seen here; benchmarks/gpu.py sees it where one is.
"""

from __future__ import annotations

import functools
import re
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_host import COMPILER, HostLauncher
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol import merkle
from cupel.protocol.arithmetic import cases, engines, reference, steps, torch_backend
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cuda import driver, prelude
from cupel.protocol.arithmetic.cuda.answers import Answers, Kernel
from cupel.protocol.arithmetic.cuda.lowering import Units
from cupel.protocol.arithmetic.cuda.plan import FusedPlan
from cupel.protocol.arithmetic.cuda.source import Module, literal
from cupel.protocol.arithmetic.engines import walk
from cupel.protocol.arithmetic.exact_functions import exact
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, TensorType
from cupel.protocol.errors import BackendUnfit, MalformedTensor
from cupel.protocol.training.resident import ResidentState, run_resident_step

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here: generated kernels cannot be compiled")

BYTES = Units(int8=True, bfloat16=True, int8_from_products=1)
BFLOAT16 = Units(int8=False, bfloat16=True)
FLOAT64 = Units(int8=False, bfloat16=False)
EDGES = (*cases.FLOAT_EDGES, *(bits | 1 << 31 for bits in cases.FLOAT_EDGES), 0x7FC00000)


@functools.cache
def answers() -> Answers:
    return Answers(HostLauncher())


def plan_of(graph: Graph, units: Units = BYTES) -> FusedPlan:
    return FusedPlan(graph, HostLauncher(), answers(), units)


def as_bytes(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def define(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    values = dict(walk(graph, inputs, reference.evaluate))
    return [values[v] for v in graph.outputs]


def floats(bits: Sequence[int]) -> torch.Tensor:
    return torch.frombuffer(bytearray(struct.pack(f"<{len(bits)}I", *bits)), dtype=torch.float32)


# Everything


def test_every_stored_vector_comes_out() -> None:
    stored = engines.stored_vectors()
    together = cases.together(stored["seed"], stored["size"])
    outputs = plan_of(together.graph).run(together.inputs)
    got = {name: engines.short_hash(x) for name, x in zip(together.names, outputs, strict=True)}
    assert {name: got[name] for name in stored["results"]} == stored["results"]


@functools.cache
def step_plan() -> FusedPlan:
    return plan_of(steps.program().graph, BFLOAT16)


def test_training_steps_end_at_the_stored_roots_and_the_state_stays_on_the_device() -> None:
    """Attention, norms, losses and AdamW, fused as a GPU would; a state is copied when its root is asked for."""
    stored, program = engines.stored_vectors()["training"], steps.program()
    tokens = []

    def run(_: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tokens.append(dict(zip(program.input_names, inputs, strict=True))["1"])
        return step_plan().run(inputs)

    walked = steps.walk_steps(stored["seed"], run)
    for expected, step in zip(stored["steps"][:2], walked, strict=False):
        assert [step.root.hex(), f"{step.loss:08x}", f"{step.gradient_norm:08x}"] == expected
    state: Mapping[str, torch.Tensor] = steps.start(cases.Words(stored["seed"]))
    seen = []
    for batch in tokens[:2]:
        stepped = run_resident_step(program, step_plan(), state, batch)
        state = stepped.state
        assert isinstance(state, ResidentState)
        seen.append(state)
    assert not any(one.is_copied for one in seen), "a step read a state"
    assert merkle.state_root(state).hex() == stored["steps"][1][0]
    assert [one.is_copied for one in seen] == [False, True]


def test_a_state_on_the_device_of_another_program_is_refused() -> None:
    with pytest.raises(MalformedTensor, match="not this Program's"):
        run_resident_step(steps.program(), step_plan(), ResidentState({"step": torch.zeros(())}), torch.zeros(1))


# Ways of walking rows

ROWS = {
    "a warp a row": (5, 40),
    "a block a row": (3, 700),
    "kept in shared memory": (2, 4000),
    "kept in memory": (2, 4500),
    "few long rows": (2, 16400),
    "columns kept": (700, 40),
}


def softmax(builder: GraphBuilder, x: Value) -> Value:
    shifted = builder.binary(Opcode.SUB, x, builder.max(x, [-1], keepdim=True))
    e = builder.unary(Opcode.EXP, shifted)
    return builder.binary(Opcode.DIV, e, builder.sum(e, [-1], keepdim=True))


@functools.cache
def row_plan() -> tuple[FusedPlan, Graph, dict[str, tuple[int, int]]]:
    """For each way, and for columns of a matrix: softmax, norms, sums, extremes and exponents in one graph."""
    builder = GraphBuilder()
    outputs = []
    for rows, columns in ROWS.values():
        x = builder.input(TensorType(DType.FLOAT32, (rows, columns)))
        outputs.append(softmax(builder, x))
        square = builder.sum(builder.binary(Opcode.MUL, x, x), [-1], keepdim=True)
        outputs.append(builder.binary(Opcode.MUL, x, builder.unary(Opcode.RSQRT, square)))
        outputs += [builder.sum(x, [-1]), builder.max(x, [-1]), builder.min(x, [-1])]
        outputs.append(builder.apply(Opcode.EXPONENT, [x], TensorType(DType.INT32, (rows,))))
        outputs += [builder.sum(x, [0]), builder.max(x, [0])]
        outputs.append(softmax(builder, builder.transpose(x, 0, 1)))
    graph = builder.build(outputs)
    return plan_of(graph), graph, ROWS


def rows_of(kind: str, rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(rows, columns, generator=generator) * 2.0 ** torch.randint(-20, 20, (rows, 1), generator=generator)
    if kind == "edges":
        places = torch.randint(0, len(EDGES), (rows, columns), generator=generator)
        return floats(EDGES)[places]
    if kind == "zeros":
        return torch.where(torch.rand(rows, columns, generator=generator) < 0.5, 0.0, -0.0)
    if kind == "infinite":
        x[0, -1] = float("inf")
        x[-1, 0] = float("-inf")
    return x


@pytest.mark.parametrize("kind", ["edges", "zeros", "infinite"])
def test_rows_have_the_bits_of_the_definition_however_they_are_walked(kind: str) -> None:
    plan, graph, ways = row_plan()
    generator = torch.Generator().manual_seed(len(kind))
    inputs = [rows_of(kind, *shape, generator) for shape in ways.values()]
    each = len(graph.outputs) // len(ways)
    for at, (got, expected) in enumerate(zip(plan.run(inputs), expected_of(graph, inputs), strict=True)):
        assert as_bytes(got) == as_bytes(expected), (list(ways)[at // each], at % each)


def expected_of(graph: Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """By the torch engine, which other tests hold to the definition: that would take seconds for long rows."""
    values = dict(walk(graph, inputs, torch_backend.evaluate))
    return [values[v] for v in graph.outputs]


def test_the_rows_are_walked_in_every_way() -> None:
    source = row_plan()[0].source
    assert "SHARED(int64_t, kept_words" in source
    assert "_begin(" in source, "no long row was split over blocks"
    assert "THREAD % 32, lane = THREAD / 32" in source, "no column was walked beside its neighbours"


def test_threads_that_gather_as_a_warp_have_one_row() -> None:
    """No host would notice: what a warp's tree adds up must be terms of one sum."""
    kernels = [text for text in row_plan()[0].source.split("KERNEL(") if "warp_" in text and "lane =" in text]
    assert kernels
    for text in kernels:
        lanes = {int(n) for n in re.findall(r"local = THREAD / (\d+), lane", text)}
        assert lanes, text[:60]
        assert all(n % 32 == 0 for n in lanes), (text[:60], lanes)


# Elementwise chains


@functools.cache
def chain() -> tuple[FusedPlan, Graph]:
    builder = GraphBuilder()
    x, y = (builder.input(TensorType(DType.FLOAT32, (len(EDGES) ** 2,))) for _ in range(2))
    outputs = [builder.binary(o, x, y) for o in (Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.MAXIMUM)]
    a, b, c, d, _ = outputs
    mixed = builder.binary(Opcode.ADD, builder.binary(Opcode.MUL, a, b), builder.binary(Opcode.DIV, c, d))
    outputs.append(mixed)
    outputs.append(builder.unary(Opcode.SIGMOID, builder.unary(Opcode.SQRT, builder.unary(Opcode.ABS, mixed))))
    outputs.append(builder.cast(builder.binary(Opcode.MUL, x, y), DType.INT64))
    outputs.append(builder.cast(builder.binary(Opcode.LT, a, b), DType.INT8))
    return plan_of(builder.build(outputs)), builder.build(outputs)


def test_chains_of_special_values_have_the_bits_of_the_definition() -> None:
    plan, graph = chain()
    edges = floats(EDGES)
    x, y = edges.repeat(len(EDGES)), edges.repeat_interleave(len(EDGES))
    assert plan.launches < len(graph.operations), "nothing was fused"
    for got, expected in zip(plan.run([x, y]), define(graph, [x, y]), strict=True):
        assert as_bytes(got) == as_bytes(expected)


@given(st.integers(0, 1 << 60))
@settings(max_examples=3, deadline=None)
def test_chains_of_any_values_have_the_bits_of_the_definition(seed: int) -> None:
    plan, graph = chain()
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(1 << 31), 1 << 31, (2, len(EDGES) ** 2), generator=generator).to(torch.int32)
    x, y = torch.where(torch.isnan(bits.view(torch.float32)), float("nan"), bits.view(torch.float32))
    for got, expected in zip(plan.run([x, y]), define(graph, [x, y]), strict=True):
        assert as_bytes(got) == as_bytes(expected)


# Products


@pytest.mark.parametrize("units", [BYTES, BFLOAT16, FLOAT64], ids=["int8", "bfloat16", "float64"])
def test_products_have_the_bits_of_the_definition_whatever_multiplies(units: Units) -> None:
    generator = torch.Generator().manual_seed(9)
    builder = GraphBuilder()
    outputs, inputs = [], []
    for digits in (1, 2, 3):
        for shape, scale in (((7, 33, 5), "columns"), ((2, 3, 19, 4), "columns"), ((2, 6, 17, 9), "rows")):
            *batch, m, k, n = shape
            spread = 2.0 ** torch.randint(-70, 70, (m, k), generator=generator)
            a = torch.randn(*batch, m, k, generator=generator) * spread
            b = torch.randn(*batch, k, n, generator=generator)
            a[..., 0, 0], a[..., 1, :], b[..., 2, 0] = float("inf"), 0.0, float("nan")
            inputs += [a, b]
            left, right = (builder.input(TensorType.of(x)) for x in (a, b))
            outputs.append(builder.matmul(left, right, digits, scale))
            outputs.append(builder.unary(Opcode.SQRT, outputs[-1]))
    graph = builder.build(outputs)
    plan = plan_of(graph, units)
    calls = [step for step in plan._steps if step.call]
    assert len(calls) == 9, "a product was not recognised"
    for got, expected in zip(plan.run(inputs), define(graph, inputs), strict=True):
        assert as_bytes(got) == as_bytes(expected)


@pytest.mark.parametrize("terms", [5000, 9001], ids=["chunks apart", "chunks added"])
def test_long_products_are_cut_where_float32_would_lose_a_bit(terms: int) -> None:
    a = 1.0 - torch.rand(2, terms, generator=torch.Generator().manual_seed(3)) * 0.1
    b = a.flip(1).t().contiguous()
    builder = GraphBuilder()
    left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
    graph = builder.build([builder.matmul(left, right, digits) for digits in (1, 2, 3)])
    expected = define(graph, [a, b])
    for got, wanted in zip(plan_of(graph, BFLOAT16).run([a, b]), expected, strict=True):
        assert as_bytes(got) == as_bytes(wanted)


@pytest.mark.parametrize("units", [BYTES, FLOAT64], ids=["int8", "float64"])
def test_sums_beyond_53_bits_are_rounded_once(units: Units) -> None:
    """2^54 + 2^30 + 1 lies just above the middle between two binary32 numbers; rounded to 53 bits first, on it."""
    a = torch.tensor([[2.0**19] * (1 << 16) + [2.0**15, 1.0]])
    builder = GraphBuilder()
    left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(a.t()))
    graph = builder.build([builder.matmul(left, right, 3)])
    (got,) = plan_of(graph, units).run([a, a.t().contiguous()])
    assert got.item() == 2.0**54 + 2.0**31


# Answers of the definition


def test_arguments_that_binary64_leaves_undecided_are_found_and_answered() -> None:
    """As a GPU does for all 2^32 arguments, here around the hardest known ones."""
    mine = Answers(HostLauncher())
    hard = cases.HARD_ARGUMENTS[Opcode.EXP]
    for bits in hard[:4]:
        mine.try_all([Opcode.EXP], (bits - 50, bits + 50))
    assert len(mine) >= 2
    for question, answer in mine._known.items():
        assert question >> 32 == Opcode.EXP
        assert answer == exact(Opcode.EXP, question & 0xFFFFFFFF)
    before = len(mine)
    mine.try_all([Opcode.EXP], (hard[0] - 50, hard[0] + 50))
    assert len(mine) == before, "what was answered was asked again"


def test_a_run_that_meets_an_unanswered_argument_begins_again() -> None:
    launcher, mine = HostLauncher(), Answers(HostLauncher())
    x = floats(cases.HARD_ARGUMENTS[Opcode.EXP])
    builder = GraphBuilder()
    graph = builder.build([builder.unary(Opcode.EXP, builder.input(TensorType.of(x)))])
    (got,) = FusedPlan(graph, launcher, mine, BYTES).run([x])
    assert len(mine) > 0
    expected = [exact(Opcode.EXP, bits) for bits in cases.HARD_ARGUMENTS[Opcode.EXP]]
    assert [bits & 0xFFFFFFFF for bits in got.view(torch.int32).tolist()] == expected


# Source


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, 2.0**-149, -(2.0**-1074), float("inf"), float("-inf"), float("nan")])
def test_literals_keep_every_bit(value: float) -> None:
    text = literal("double", value)
    if "longlong" in text:
        bits = int(re.findall(r"0x([0-9a-f]+)LL", text)[0], 16)
    else:
        (bits,) = struct.unpack("<Q", struct.pack("<d", float.fromhex(text.strip("()"))))
    assert bits == struct.unpack("<Q", struct.pack("<d", value))[0]


class Compilable:
    """Keeps what would be compiled."""

    device = torch.device("cpu")
    sources: tuple[str, ...] = ()

    def load(self, module: Module) -> dict[str, Kernel]:
        self.sources = tuple(module.sources(1 << 20))
        return {}

    def enter(self) -> None:
        pass


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler here")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nothing_is_contracted_flushed_or_approximated(architecture: str, tmp_path: Path) -> None:
    kept = Compilable()
    FusedPlan(chain()[1], kept, answers(), BYTES)
    source, ptx = tmp_path / "kernels.cu", tmp_path / "kernels.ptx"
    source.write_text(prelude.whole(kept.sources[0]))
    options = [o for o in driver.OPTIONS if o.startswith(("--fmad", "--ftz", "--prec", "--std"))]
    nvcc = ["nvcc", "-w", "-ptx", f"-arch={architecture}", *options, "-o", str(ptx), str(source)]
    subprocess.run(nvcc, check=True)
    text = ptx.read_text()
    assert "div.rn.f32" in text
    assert "sqrt.rn.f32" in text
    assert not re.search(r"fma\.rn\.f32|mad\.[a-z.]*f32|\.ftz|\.approx", text)


# Where it cannot run


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch brings NVRTC")
def test_without_nvrtc_the_reason_is_told() -> None:
    with pytest.raises(BackendUnfit, match="without CUDA"):
        driver.Nvrtc()


def test_a_plan_refuses_inputs_that_are_not_its_graphs() -> None:
    plan, _ = chain()
    with pytest.raises(MalformedTensor, match="the graph takes"):
        plan.run([torch.zeros(3)])


def test_the_text_names_every_kernel_it_defines() -> None:
    text = "KERNEL(128) void rows_0(Answers* answers, char* p0) {\n}\nDEVICE float f(Answers* answers) {}\n"
    assert driver.kernels_of(text) == ["rows_0"]
