"""An NVIDIA GPU: whether it computes the right bits, and how fast, against PyTorch's fp32, TF32 and bfloat16.

    python benchmarks/gpu.py [--quick] [--out benchmarks/results/gpu.txt]

Checks every stored vector and the stored training steps, compares 20 steps with this machine's CPU root by root, and
measures products and a training step; alternatives run in turn in one process and medians of GPU time are compared.

Exit 0: every bit is right. 1: some are not, and nothing was measured. 3: there is no GPU here, and nothing was done.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from machine import describe
from step import example

from cupel.protocol.arithmetic import engines
from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.cuda_backend import DevicePlan, units_of
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.arithmetic.steps import COUNT
from cupel.protocol.errors import BackendUnfit
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.step import TrainingConfig, make_training_step

NO_GPU = 3
ALTERNATIVES = ("fp32", "tf32", "bf16")
SIZES = (1024, 2048, 4096, 8192)


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


def check_bits() -> list[str]:
    """What is wrong, a line each; none where every bit is right."""
    stored = engines.stored_vectors()
    wrong = []
    results = engines.self_test_hashes("cuda", stored["seed"], stored["size"])
    wrong += [f"vector {name}: not the stored bits" for name, e in stored["results"].items() if results.get(name) != e]
    seed, expected = stored["training"]["seed"], stored["training"]["steps"]
    pairs = zip(engines.step_hashes("cuda", seed), engines.step_hashes("cpu", seed), strict=False)
    for number, (gpu, cpu) in enumerate(itertools.islice(pairs, COUNT)):
        if gpu != cpu:
            wrong.append(f"step {number}: {', '.join(gpu)} on the GPU, {', '.join(cpu)} on the CPU")
        if number < len(expected) and gpu != expected[number]:
            wrong.append(f"step {number}: not the stored roots")
    return wrong


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


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, taken in turn; by the GPU's own clock."""
    times: dict[str, list[float]] = {name: [] for name in ways}
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
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )


def measure_products(device: torch.device, sizes: tuple[int, ...], repeats: int) -> Iterator[str]:
    """TFLOP/s of a square product of float32 operands, operands quantised each time; and ratios to torch fp32."""
    rows = [["product", *(f"d={d}" for d in (1, 2, 3)), *ALTERNATIVES, "d=2 / fp32", "d=2 / bf16"]]
    for size in sizes:
        a, b = (torch.randn(size, size, device=device) for _ in range(2))
        ways: dict[str, Callable[[], object]] = {}
        for digits in (1, 2, 3):
            builder = GraphBuilder()
            left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
            plan = DevicePlan(builder.build([builder.matmul(left, right, digits)]), device, units_of(device))
            ways[f"d={digits}"] = partial(plan.run_on_device, [a, b])
        for name in ALTERNATIVES:
            ways[name] = partial(multiply, name, a, b)
        took = medians(ways, repeats)
        speed = {name: 2 * size**3 / (ms * 1e9) for name, ms in took.items()}
        ratios = [f"{took[other] / took['d=2']:.2f}x" for other in ("fp32", "bf16")]
        rows.append([f"{size}^3", *(f"{speed[name]:.1f}" for name in ways), *ratios])
    yield "TFLOP/s (2 n^3 a product), quantising included; the last columns are times as fast"
    yield from table(rows)


def multiply(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with precision(name):
        return torch.mm(a, b)


def measure_steps(device: torch.device, models: tuple[Model, ...], repeats: int) -> Iterator[str]:
    """Milliseconds of a training step with the state on the device, and ratios."""
    rows = [["step", "exact", *ALTERNATIVES, "exact / fp32", "exact / bf16", "peak / fp32's"]]
    for one in models:
        training = TrainingConfig(batch=one.batch, learning_rate=1e-3, warmup_steps=10, total_steps=1000)
        state, tokens = example(one.model, training)
        step = make_training_step(one.model, training)
        graph = trace(step, (state, tokens)).graph
        plan = DevicePlan(graph, device, units_of(device))
        inputs = [tensor.to(device) for tensor in flatten((state, tokens), "arguments")[1]]
        on_device = {
            group: {n: t.to(device) for n, t in values.items()} if isinstance(values, dict) else values.to(device)
            for group, values in state.items()
        }
        there = tokens.to(device)

        ways: dict[str, Callable[[], object]] = {"exact": partial(plan.run_on_device, inputs)}
        ways |= {name: partial(run_eagerly, name, device, step, on_device, there) for name in ALTERNATIVES}
        peaks = {name: peak(ways[name]) for name in ("exact", "fp32")}
        took = medians(ways, repeats)
        ratios = [f"{took['exact'] / took[other]:.2f}" for other in ("fp32", "bf16")]
        rows.append([one.name, *(f"{took[n]:.2f}" for n in ways), *ratios, f"{peaks['exact'] / peaks['fp32']:.2f}"])
    yield "milliseconds a step (forward, backward, clipping, AdamW); ratios of time and of peak memory, 1 is equal"
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
    parser.add_argument("--out", type=Path, help="also write the report there")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no NVIDIA GPU here (torch {torch.__version__}): nothing was checked or measured")
        return NO_GPU
    device = torch.device("cuda", torch.cuda.current_device())
    properties = torch.cuda.get_device_properties(device)
    lines = [
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory >> 30} GiB, torch {torch.__version__}; {units_of(device)}",
        describe(),
    ]
    try:
        wrong = check_bits()
    except BackendUnfit as unfit:
        wrong = [str(unfit)]
    vectors = len(engines.stored_vectors()["results"])
    lines += wrong or [f"bits: {vectors} stored vectors and {COUNT} training steps are the CPU's, to the last bit"]
    print("\n".join(lines), flush=True)
    if not wrong:
        repeats = 5 if options.quick else 21
        for measured in (
            measure_products(device, SIZES[:1] if options.quick else SIZES, repeats),
            measure_steps(device, MODELS[:1] if options.quick else MODELS, repeats),
        ):
            for line in measured:
                lines.append(line)
                print(line, flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
