"""An NVIDIA GPU: whether it computes the right bits, and how fast, against PyTorch's fp32, TF32 and bfloat16.

    python benchmarks/gpu.py [--quick] [--seconds 540] [--out benchmarks/results/gpu.txt]

Checks every stored vector and the stored training steps, compares 20 steps with this machine's CPU root by root, keeps
a state on the GPU for three of them, and measures products and a training step; alternatives run in turn in one process
and medians of GPU time are compared. Made to end within ten minutes on an H200 with 16 cores, compiling included; what
does not fit into --seconds is left out, and said so.

Exit 0: every bit is right. 1: some are not, and nothing was measured. 3: there is no GPU here, and nothing was done.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe
from step import example

from cupel.protocol import merkle
from cupel.protocol.arithmetic import cases, engines
from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.cuda_backend import DevicePlan, Plan, compile_graph, units_of, why_not_fused
from cupel.protocol.arithmetic.operations import Graph, TensorType
from cupel.protocol.arithmetic.steps import COUNT, program, start, walk_steps
from cupel.protocol.errors import BackendUnfit
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.resident import run_resident_step
from cupel.protocol.training.step import TrainingConfig, make_training_step

NO_GPU = 3
ALTERNATIVES = ("fp32", "tf32", "bf16")
LEAST_S = 60
"""With less left nothing more is begun: the largest step is traced and compiled in it."""


@dataclass(frozen=True)
class Shape:
    """[batch, m, k] times [batch, k, n]; no batch if it is 0."""

    m: int
    k: int
    n: int
    batch: int = 0

    def __str__(self) -> str:
        return (f"{self.batch} x " if self.batch else "") + f"{self.m} x {self.k} x {self.n}"


SHAPES = (
    Shape(1024, 1024, 1024),
    Shape(2048, 2048, 2048),
    Shape(4096, 4096, 4096),
    Shape(8192, 8192, 8192),
    Shape(4096, 768, 2048),
    Shape(4096, 2048, 768),
    Shape(512, 64, 512, batch=96),
    Shape(2048, 64, 2048, batch=32),
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A step to measure."""

    name: str
    model: ModelConfig
    batch: int


MODELS = (
    Model(name="d=96 L=3 T=64 B=16", model=ModelConfig.demo(), batch=16),
    Model(
        name="d=384 L=6 T=256 B=8",
        model=ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256),
        batch=8,
    ),
    Model(
        name="d=768 L=12 T=512 B=8",
        model=ModelConfig(vocabulary=8192, width=768, layers=12, heads=12, hidden=2048, context=512),
        batch=8,
    ),
)


# Bits


def check_bits(device: torch.device) -> list[str]:
    """What is wrong, a line each; none where every bit is right."""
    stored = engines.stored_vectors()
    together = cases.together(stored["seed"], stored["size"])
    ways: dict[str, Callable[[Graph], Plan]] = {
        "": lambda graph: compile_graph(graph, device),
        "one operation at a time, ": lambda graph: DevicePlan(graph, device, units_of(device)),
    }
    wrong = []
    for way, compiled in ways.items():
        try:
            outputs = compiled(together.graph).run(together.inputs)
        except BackendUnfit as unfit:
            wrong.append(f"{way}{unfit}")
            continue
        results = {n: engines.short_hash(x) for n, x in zip(together.names, outputs, strict=True)}
        differ = [name for name, expected in stored["results"].items() if results.get(name) != expected]
        wrong += [f"{way}vector {name}: not the stored bits" for name in differ]
    return wrong or [*check_steps(stored["training"]), *check_resident(stored["training"], device)]


def check_steps(stored: dict[str, Any]) -> list[str]:
    wrong = []
    seed, expected = stored["seed"], stored["steps"]
    pairs = zip(engines.step_hashes("cuda", seed), engines.step_hashes("cpu", seed), strict=False)
    for number, (gpu, cpu) in enumerate(itertools.islice(pairs, COUNT)):
        if gpu != cpu:
            wrong.append(f"step {number}: {', '.join(gpu)} on the GPU, {', '.join(cpu)} on the CPU")
        if number < len(expected) and gpu != expected[number]:
            wrong.append(f"step {number}: not the stored roots")
    return wrong


def check_resident(stored: dict[str, Any], device: torch.device) -> list[str]:
    """Three steps without reading the state in between."""
    step, tokens = program(), []

    def run(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tokens.append(dict(zip(step.input_names, inputs, strict=True))["1"])
        return engines.run_graph(graph, inputs, "cpu")

    list(itertools.islice(walk_steps(stored["seed"], run), 3))
    plan = compile_graph(step.graph, device)
    state: Mapping[str, torch.Tensor] = start(cases.Words(stored["seed"]))
    for batch in tokens:
        state = run_resident_step(step, plan, state, batch).state
    root = merkle.state_root(state).hex()
    return [] if root == stored["steps"][2][0] else [f"three steps on the GPU alone end at {root}, not the stored root"]


# Speed


@contextmanager
def precision(name: str) -> Iterator[None]:
    """How PyTorch multiplies meanwhile."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        with torch.autocast("cuda", torch.bfloat16) if name == "bf16" else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Clock:
    """How much of the time allowed is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        return self._end - time.monotonic()


def medians(ways: dict[str, Callable[[], object]], repeats: int, most_s: float) -> dict[str, float]:
    """Milliseconds of each, taken in turn, by the GPU's own clock; three rounds at least, whatever they take."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    clock = Clock(most_s)
    for round_ in range(repeats + 2):
        for name, way in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
            torch.cuda.synchronize()
            begin.record()
            way()
            end.record()
            torch.cuda.synchronize()
            if round_ >= 2:  # the first two compile and warm up
                times[name].append(begin.elapsed_time(end))
        if round_ >= 4 and clock.left_s() < 0:
            break
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )


def measure_products(device: torch.device, shapes: Sequence[Shape], repeats: int, clock: Clock) -> Iterator[str]:
    """TFLOP/s of products of float32 operands, quantised each time; bfloat16's are cast before, as in products.py."""
    rows = [["product", *(f"d={d}" for d in (1, 2, 3)), *ALTERNATIVES, "d=2 / fp32", "d=2 / bf16"]]
    for shape in shapes:
        if clock.left_s() < LEAST_S:
            rows.append([str(shape), "left out"] + [""] * (len(rows[0]) - 2))
            continue
        outer = (shape.batch,) if shape.batch else ()
        a = torch.randn(*outer, shape.m, shape.k, device=device)
        b = torch.randn(*outer, shape.k, shape.n, device=device)
        ways: dict[str, Callable[[], object]] = {}
        for digits in (1, 2, 3):
            builder = GraphBuilder()
            left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
            plan = compile_graph(builder.build([builder.matmul(left, right, digits)]), device)
            ways[f"d={digits}"] = partial(plan.run_on_device, [a, b])
        for name in ALTERNATIVES:
            x, y = (t.bfloat16() if name == "bf16" else t for t in (a, b))
            ways[name] = partial(multiply, name, x, y)
        took = medians(ways, repeats, most_s=20)
        operations = 2 * max(shape.batch, 1) * shape.m * shape.k * shape.n
        speed = {name: operations / (ms * 1e9) for name, ms in took.items()}
        ratios = [f"{took[other] / took['d=2']:.2f}x" for other in ("fp32", "bf16")]
        rows.append([str(shape), *(f"{speed[name]:.1f}" for name in ways), *ratios])
    yield "TFLOP/s (2 m k n a product), quantising included; the last columns are times as fast"
    yield from table(rows)


def multiply(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        return torch.matmul(a, b)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def measure_steps(device: torch.device, models: Sequence[Model], repeats: int, clock: Clock) -> Iterator[str]:
    """Milliseconds of a training step with the state on the device, and ratios."""
    rows = [["step", "exact", "unfused", *ALTERNATIVES, "exact / fp32", "exact / bf16", "peak / fp32's", "launches"]]
    for one in models:
        if clock.left_s() < LEAST_S:
            rows.append([one.name, "left out"] + [""] * (len(rows[0]) - 2))
            continue
        training = TrainingConfig(batch=one.batch, learning_rate=1e-3, warmup_steps=10, total_steps=1000)
        state, tokens = example(one.model, training)
        step = make_training_step(one.model, training)
        graph = trace(step, (state, tokens)).graph
        plan = compile_graph(graph, device)
        inputs = [tensor.to(device) for tensor in flatten((state, tokens), "arguments")[1]]
        on_device = {
            group: {n: t.to(device) for n, t in values.items()} if isinstance(values, dict) else values.to(device)
            for group, values in state.items()
        }
        there = tokens.to(device)

        single = DevicePlan(graph, device, units_of(device))
        ways: dict[str, Callable[[], object]] = {"exact": partial(plan.run_on_device, inputs)}
        ways["unfused"] = partial(single.run_on_device, inputs)
        ways |= {name: partial(run_eagerly, name, device, step, on_device, there) for name in ALTERNATIVES}
        peaks = {name: peak(ways[name]) for name in ("exact", "fp32")}
        took = medians(ways, repeats, most_s=45)
        ratios = [f"{took['exact'] / took[other]:.2f}" for other in ("fp32", "bf16")]
        launches = str(getattr(plan, "launches", "-"))
        peak_ratio = f"{peaks['exact'] / peaks['fp32']:.2f}"
        rows.append([one.name, *(f"{took[n]:.2f}" for n in ways), *ratios, peak_ratio, launches])
    yield "milliseconds a step (forward, backward, clipping, AdamW; bf16 by autocast, as in step.py); ratios of time"
    yield "and of peak memory, 1 is equal; unfused: one operation at a time"
    yield from table(rows)


def run_eagerly(name: str, device: torch.device, step: Callable[..., object], *arguments: object) -> object:
    """PyTorch's own step; tables of positions are made on the device."""
    with precision(name), device:
        return step(*arguments)


def peak(way: Callable[[], object]) -> int:
    """Bytes at the peak, beyond what was held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    way()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="bits, the smallest sizes, few repeats")
    parser.add_argument("--seconds", type=float, default=540.0, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, help="also write the report there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no NVIDIA GPU here (torch {torch.__version__}): nothing was checked or measured")
        return NO_GPU
    clock = Clock(options.seconds)
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory >> 30} GiB, torch {torch.__version__}; {units_of(device)}"
    )
    say(describe())
    try:
        wrong = check_bits(device)
    except BackendUnfit as unfit:
        wrong = [str(unfit)]
    reason = why_not_fused(device)
    say(f"kernels are not fused: {reason}" if reason else "kernels are fused")
    vectors = len(engines.stored_vectors()["results"])
    for line in wrong or [f"bits: {vectors} stored vectors and {COUNT} training steps are the CPU's, to the last bit"]:
        say(line)
    if not wrong:
        repeats = 5 if options.quick else 21
        for measured in (
            measure_products(device, SHAPES[:1] if options.quick else SHAPES, repeats, clock),
            measure_steps(device, MODELS[:1] if options.quick else MODELS, repeats, clock),
        ):
            for line in measured:
                say(line)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
