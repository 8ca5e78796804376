"""Exact products against torch's, shape by shape, in turn in one process.

    python benchmarks/products.py [--threads 1] [--isa NAME] [--only TEXT] [--seconds 0.5] [--write]

Both sides get float32 matrices and give float32 results; quantising both operands is part of the exact product's time.
GF/s counts 2 m n k, whatever is computed. A ratio is torch's fp32 time over the other's: above 1, the other is faster.
"""

from __future__ import annotations

import os

# Before torch is loaded: its waiting threads would otherwise spin on our cores between two products.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from machine import describe
from tables import clock_name, clock_of, publish, table

from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.cpu import CompiledGraph, isa
from cupel.protocol.arithmetic.operations import TensorType

Run = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """[batch, m, k] times [batch, k, n]; `layout` names the operands that lie transposed."""

    name: str
    m: int
    k: int
    n: int
    batch: int = 0
    layout: str = "nn"
    scale: str = "columns"

    @property
    def operations(self) -> float:
        return 2.0 * max(self.batch, 1) * self.m * self.k * self.n

    def operands(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As they lie in memory."""
        generator = torch.Generator().manual_seed(0)
        sizes = [(self.m, self.k), (self.k, self.n)]
        stored = [size[::-1] if self.layout[i] == "t" else size for i, size in enumerate(sizes)]
        outer = (self.batch,) if self.batch else ()
        a, b = (torch.randn((*outer, *size), generator=generator) for size in stored)
        if self.scale == "rows":
            # Softmax weights under a causal mask: half of them are zero.
            a = torch.softmax(a + torch.full((self.m, self.k), float("-inf")).triu(1), -1)
        return a, b


def _linear(tokens: int, inputs: int, outputs: int) -> list[Shape]:
    """One linear layer's three products."""
    label = f"{tokens} tokens {inputs}->{outputs}"
    return [
        Shape(f"{label} forward", tokens, inputs, outputs, layout="nt"),
        Shape(f"{label} inputs' gradient", tokens, outputs, inputs),
        Shape(f"{label} weights' gradient", outputs, tokens, inputs, layout="tn"),
    ]


def _attention(batch: int, tokens: int, size: int) -> list[Shape]:
    label = f"attention {batch} x {tokens} x {size}"
    return [
        Shape(f"{label} scores", tokens, size, tokens, batch, layout="nt"),
        Shape(f"{label} mix, by rows", tokens, tokens, size, batch, scale="rows"),
        Shape(f"{label} keys' gradient", tokens, tokens, size, batch, layout="tn"),
    ]


SHAPES = [
    *(Shape(f"{n}^3", n, n, n) for n in (256, 512, 1024, 2048)),
    *_linear(2048, 384, 1024),
    *_linear(2048, 1024, 384),
    *_linear(1024, 768, 2048),
    *_attention(48, 256, 64),
    *_attention(24, 512, 64),
]


def exact(shape: Shape, a: torch.Tensor, b: torch.Tensor, digits: int, options: argparse.Namespace) -> Run:
    builder = GraphBuilder()
    x, y = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
    last = a.dim() - 1
    left = builder.transpose(x, last - 1, last) if shape.layout[0] == "t" else x
    right = builder.transpose(y, last - 1, last) if shape.layout[1] == "t" else y
    graph = builder.build([builder.matmul(left, right, digits, shape.scale)])
    compiled = CompiledGraph(graph, threads=options.threads, instruction_set=options.isa)
    return lambda: compiled.run([a, b])


def plain(shape: Shape, a: torch.Tensor, b: torch.Tensor) -> Run:
    left = a.transpose(-1, -2) if shape.layout[0] == "t" else a
    right = b.transpose(-1, -2) if shape.layout[1] == "t" else b
    multiply = torch.bmm if shape.batch else torch.mm
    return lambda: multiply(left, right)


def measure(runs: dict[str, Run], seconds: float, threads: int) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    for run in runs.values():
        run()
    clock = clock_of(threads)
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default=None)
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.5, help="measuring time of one shape")
    parser.add_argument("--write", action="store_true", help="add the table to benchmarks/results/products.txt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for shape in SHAPES:
        if options.only not in shape.name:
            continue
        a, b = shape.operands()
        runs: dict[str, Run] = {"fp32": plain(shape, a, b)}
        runs["bf16"] = plain(shape, a.bfloat16(), b.bfloat16())
        for digits in (1, 2, 3):
            runs[f"d={digits}"] = exact(shape, a, b, digits, options)
        times = measure(runs, options.seconds, options.threads)
        speeds = [f"{shape.operations / times[name] / 1e9:.0f}" for name in runs]
        ratios = [f"{times['fp32'] / times[name]:.2f}" for name in runs if name != "fp32"]
        rows.append([shape.name, *speeds, *ratios])
    head = [
        "GF/s, then torch fp32's time over each",
        "fp32",
        "bf16",
        "d=1",
        "d=2",
        "d=3",
        "bf16 x",
        "d=1 x",
        "d=2 x",
        "d=3 x",
    ]
    name = isa.choose(options.isa).name
    title = f"torch {torch.__version__}, {options.threads} thread(s), {name}, medians of {clock_name(options.threads)}"
    text = f"{describe()}\n{title}\n{table(head, rows)}"
    publish("products.txt", text, write=options.write)


if __name__ == "__main__":
    main()
