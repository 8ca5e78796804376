"""One training step: the exact engine against plain PyTorch doing the same step, in turn in one process.

    python benchmarks/step.py [--shape demo|medium|large] [--threads 1] [--isa NAME] [--seconds 20] [--write] [--json]
    python benchmarks/step.py --shape medium --profile [--repeats 5]

All alternatives compute forward, backward, clipping and AdamW on the same tokens from the same weights; medians are
compared, because a machine's speed drifts. Memory is benchmarks/memory.py's.
"""

from __future__ import annotations

import os

# Before torch is loaded: its waiting threads would otherwise spin on our cores between two steps.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import ctypes
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import llvmlite.binding as llvm
import torch
from machine import describe
from tables import clock_name, clock_of, publish, table
from torch import nn

from cupel.diagnosis.engine import example
from cupel.protocol.arithmetic.cpu import CompiledGraph, isa
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import GPT, ModelConfig, compute_loss
from cupel.protocol.training.step import TrainingConfig, make_training_step


def _training(batch: int) -> TrainingConfig:
    return TrainingConfig(batch=batch, learning_rate=3e-3, warmup_steps=60, total_steps=1000)


SHAPES: dict[str, tuple[ModelConfig, TrainingConfig]] = {
    "demo": (ModelConfig.demo(), _training(16)),
    "medium": (ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256), _training(8)),
    "large": (ModelConfig(vocabulary=256, width=768, layers=12, heads=12, hidden=2048, context=512), _training(2)),
}
NAMES = {
    "engine": "exact, this engine",
    "eager": "eager fp32",
    "fused": "eager fp32, fused AdamW",
    "bf16": "bf16 autocast, fused AdamW",
}
Step = Callable[[], object]


def engine_step(options: argparse.Namespace) -> tuple[Step, CompiledGraph]:
    model, training = SHAPES[options.shape]
    state, tokens = example(model, training)
    graph = trace(make_training_step(model, training), (state, tokens)).graph
    inputs = flatten((state, tokens), "arguments")[1]
    compiled = CompiledGraph(graph, threads=options.threads, instruction_set=options.isa)
    return lambda: compiled.run(inputs), compiled


def eager_step(options: argparse.Namespace) -> Step:
    """The very function that the engine's graph was traced from."""
    model, training = SHAPES[options.shape]
    state, tokens = example(model, training)
    step = make_training_step(model, training)
    return lambda: step(state, tokens)


def module_step(options: argparse.Namespace, *, bf16: bool) -> Step:
    """As one writes it for speed: a module, torch's fused AdamW, gradients clipped in place."""
    config, training = SHAPES[options.shape]
    state, tokens = example(config, training)
    module = GPT(config)
    module.load_state_dict(state["weights"])
    weights = dict(module.named_parameters())
    groups = [
        {"params": [w for w in weights.values() if w.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [w for w in weights.values() if w.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (training.beta1, training.beta2)
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=betas, eps=training.epsilon, fused=True)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = compute_loss(module, weights, tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(list(weights.values()), training.clip_norm)
        optimiser.step()
        optimiser.zero_grad()

    return run


def make(name: str, options: argparse.Namespace) -> Step:
    if name == "engine":
        return engine_step(options)[0]
    return eager_step(options) if name == "eager" else module_step(options, bf16=name == "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default=None)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time in all")
    parser.add_argument("--rounds", type=int, default=5, help="at least so many, however long they take")
    parser.add_argument(
        "--beside", nargs="*", choices=[n for n in NAMES if n != "engine"], default=["eager", "fused", "bf16"]
    )
    parser.add_argument("--repeats", type=int, default=5, help="of a profile")
    parser.add_argument("--profile", action="store_true", help="time every kernel instead")
    parser.add_argument("--write", action="store_true", help="add the table to benchmarks/results/step.txt")
    parser.add_argument("--json", action="store_true", help="a JSON object instead of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.profile:
        profile(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    ours, compiled = engine_step(options)
    compile_s = time.perf_counter() - started
    steps = {"engine": ours, **{name: make(name, options) for name in NAMES if name in ("eager", *options.beside)}}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock, end = clock_of(options.threads), time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times["engine"]) < options.rounds:
        for name, step in steps.items():
            started = clock()
            step()
            times[name].append(clock() - started)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = {name: min(values) * 1e3 for name, values in times.items()}
    if options.json:
        print(json.dumps({"shape": options.shape, "threads": options.threads, "median_ms": medians, "best_ms": best}))
        return
    model, training = SHAPES[options.shape]
    rows = [
        [
            label,
            f"{medians[name]:.1f}",
            f"{best[name]:.1f}",
            f"{medians[name] / medians['eager']:.3f}",
            f"{best[name] / best['eager']:.3f}",
        ]
        for name, label in NAMES.items()
        if name in steps
    ]
    head = ["step", "median ms", "best ms", "x eager fp32", "of best"]
    title = (
        f"{options.shape}: d={model.width}, {model.layers} layers, T={model.context}, B={training.batch}, "
        f"SwiGLU {model.hidden}, vocabulary {model.vocabulary}; {len(times['engine'])} rounds, "
        f"{options.threads} thread(s) ({clock_name(options.threads)}), {isa.choose(options.isa).name}, "
        f"torch {torch.__version__}"
    )
    arena = f"traced, and compiled or loaded, in {compile_s:.1f} s; arena {compiled.plan.arena_bytes / 1e6:.0f} MB"
    publish("step.txt", f"{describe()}\n{title}\n{table(head, rows)}\n{arena}", write=options.write)


def profile(options: argparse.Namespace) -> None:
    """Best processor time of each kernel, largest first. A call after every kernel notes the clock."""
    model, training = SHAPES[options.shape]
    state, tokens = example(model, training)
    graph = trace(make_training_step(model, training), (state, tokens)).graph
    inputs = flatten((state, tokens), "arguments")[1]
    best: dict[int, float] = {}
    last = [0.0]

    def note(label: int) -> None:
        spent = time.thread_time() - last[0]
        best[label] = min(best.get(label, spent), spent)
        last[0] = time.thread_time()

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int64)(note)
    llvm.add_symbol("cupel_tick", ctypes.cast(callback, ctypes.c_void_p).value)
    compiled = CompiledGraph(graph, instruction_set=options.isa, clocked=True)
    for _ in range(options.repeats):
        last[0] = time.thread_time()
        compiled.run(inputs)
    by_label: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for index, seconds in best.items():
        entry = by_label[compiled.plan.labels[index]]
        entry[0] += seconds * 1e3
        entry[1] += 1
    print(f"{sum(v[0] for v in by_label.values()):.2f} ms in {len(compiled.plan.labels)} kernels")
    for label, (milliseconds, count) in sorted(by_label.items(), key=lambda kv: -kv[1][0])[:45]:
        print(f"{milliseconds:8.3f} ms  x{count:<3} {label[:170]}")


if __name__ == "__main__":
    main()
