"""What recomputing activations, and cutting matrices of scores into blocks, saves in memory and costs in time.

    python benchmarks/recomputation.py [SHAPE...] [--rounds 3] [--no-time SHAPE...] [--out FILE]

One training step, compiled in each way: `whole` keeps everything (no scores are cut, however long), the others are the
values of `recompute`. Memory is the plan's arena: what a step needs beside inputs and outputs. Time is processor time
of one thread, every way in turn in one process, medians, whole = 1; results of all ways are compared, bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from machine import describe
from step import example

from cupel.protocol.arithmetic.cpu import CompiledGraph
from cupel.protocol.arithmetic.recomputation import RECOMPUTE, prepare
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.step import TrainingConfig, make_training_step


def _long(tokens: int) -> tuple[ModelConfig, int]:
    return ModelConfig(vocabulary=256, width=128, layers=2, heads=2, hidden=352, context=tokens), 1


SHAPES = {
    "demo": (ModelConfig.demo(), 16),
    "medium": (ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256), 8),
    "large": (ModelConfig(vocabulary=8192, width=768, layers=12, heads=12, hidden=2048, context=512), 4),
    **{f"T={tokens}": _long(tokens) for tokens in (512, 1024, 2048, 4096)},
}
WAYS = ("whole", *RECOMPUTE)
MIB = 1 << 20


def measure(name: str, rounds: int) -> tuple[dict[str, int], dict[str, float]]:
    """Arena bytes and median processor seconds of each way; no seconds for 0 rounds."""
    model, batch = SHAPES[name]
    training = TrainingConfig(batch=batch, learning_rate=1e-3, warmup_steps=10, total_steps=1000)
    arguments = example(model, training)
    graph = trace(make_training_step(model, training), arguments).graph
    inputs = flatten(arguments, "arguments")[1]
    compiled = {"whole": CompiledGraph(graph)}
    for way in RECOMPUTE:
        compiled[way] = CompiledGraph(prepare(graph, way))
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    expected: list[torch.Tensor] = []
    for _ in range(rounds):
        for way, step in compiled.items():
            began = time.process_time()
            outputs = step.run(inputs)
            spent[way].append(time.process_time() - began)
            bits = [t.reshape(-1).view(torch.uint8) for t in outputs]
            expected = expected or [b.clone() for b in bits]
            if not all(torch.equal(a, b) for a, b in zip(bits, expected, strict=True)):
                raise SystemExit(f"{name}, {way}: other bits")
    seconds = {way: statistics.median(times) for way, times in spent.items() if times}
    return {way: step.plan.arena_bytes for way, step in compiled.items()}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shapes", nargs="*", default=[n for n in SHAPES if n != "large"], metavar="|".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-time", nargs="*", default=[], help="shapes whose memory alone is wanted")
    parser.add_argument("--out", type=Path, help="also write the report there")
    options = parser.parse_args()
    if unknown := {*options.shapes, *options.no_time} - set(SHAPES):
        parser.error(f"no shape is called {', '.join(sorted(unknown))}; take {', '.join(SHAPES)}")
    torch.set_num_threads(1)
    lines = [
        describe(),
        f"MiB of a training step's arena; processor time, whole = 1 (median of {options.rounds} rounds, one thread)",
        f"{'shape':<30}" + "".join(f"{way:>12}{'time':>7}" for way in WAYS),
    ]
    print("\n".join(lines), flush=True)
    for name in dict.fromkeys([*options.shapes, *options.no_time]):
        sizes, seconds = measure(name, 0 if name in options.no_time else options.rounds)
        model, batch = SHAPES[name]
        shape = f"d={model.width} L={model.layers} T={model.context} B={batch}"
        cells = [
            f"{sizes[w] / MIB:12.1f}" + (f"{seconds[w] / seconds['whole']:7.2f}" if seconds else "      -")
            for w in WAYS
        ]
        lines.append(f"{shape:<30}{''.join(cells)}")
        print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
