"""Peak memory of training steps: the engine against plain PyTorch, each in a process of its own.

    python benchmarks/memory.py [demo|medium|large ...] [--threads 1] [--out benchmarks/results/memory.txt]

What is counted is resident memory at its highest during three steps, beyond what the process held with everything
imported and traced: state, gradients, activations, compiled code. The engine loads its code from the cache, as a node
does after its first start. `in place` is PyTorch as people use it: parameters, `torch.optim.AdamW`, gradients let go
after each step; `eager` runs the very function that was traced, which gives a new state.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe
from step import example

from cupel.protocol.arithmetic.cpu import compile_graph
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig, build, compute_loss
from cupel.protocol.training.step import TrainingConfig, make_training_step

STEPS = 3
WAYS = ("engine", "eager", "in place")
MODELS = {
    "demo": (ModelConfig.demo(), 16),
    "medium": (ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256), 8),
    "large": (ModelConfig(vocabulary=8192, width=768, layers=12, heads=12, hidden=2048, context=512), 4),
}
MIB = 1 << 20


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def forget_the_peak() -> None:
    """VmHWM starts anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, name: str, threads: int) -> int:
    """Bytes at the peak of three steps; in this process, which must do nothing else."""
    torch.set_num_threads(threads)
    model, batch = MODELS[name]
    training = TrainingConfig(batch=batch, learning_rate=1e-3, warmup_steps=10, total_steps=1000)
    step = make_training_step(model, training)
    graph = None
    if way == "engine":
        graph = trace(step, example(model, training)).graph
    gc.collect()
    before = resident_bytes("VmRSS")
    forget_the_peak()
    state, tokens = example(model, training)
    advance: Callable[[], object]
    if graph is not None:
        compiled = compile_graph(graph, threads=threads)
        assert compiled.from_cache, "the first run fills the cache"
        values = flatten((state, tokens), "arguments")[1]
        del state
        count = len(graph.outputs)

        def run_engine() -> None:
            outputs = compiled.run(values)
            # The state's tensors come in the same order out and in; what follows them are metrics and tokens.
            kept = len(values) - 1
            assert kept <= count
            values[:kept] = outputs[:kept]

        advance = run_engine
    elif way == "eager":
        held = [state]
        del state

        def run_function() -> None:
            held[0] = step(held[0], tokens)[0]

        advance = run_function
    else:
        gpt = build(model)
        weights = {n: w.clone().requires_grad_() for n, w in state["weights"].items()}
        del state
        optimiser = torch.optim.AdamW(weights.values(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

        def run_in_place() -> None:
            compute_loss(gpt, weights, tokens).backward()  # type: ignore[no-untyped-call]  # torch's
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad()

        advance = run_in_place
    for _ in range(STEPS):
        advance()
    return resident_bytes("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["demo", "medium"], metavar="|".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the report there")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"no model is called {', '.join(sorted(unknown))}; take {', '.join(MODELS)}")
    if options.child:
        print(json.dumps(measure(options.child, options.models[0], options.threads)))
        return
    if not Path("/proc/self/clear_refs").exists():
        parser.error("this system does not tell a process's peak memory (Linux does)")
    lines = [
        describe(),
        f"MiB at the peak of {STEPS} training steps, {options.threads} thread(s); ratios to the engine's",
    ]
    lines.append(f"{'model':<28}{'engine':>10}{'eager':>10}{'in place':>10}{'engine/eager':>14}{'engine/in place':>17}")
    for name in options.models:
        model, batch = MODELS[name]
        fill_cache(name, options.threads)
        peaks = {way: peak_of(way, name, options.threads) for way in WAYS}
        shape = f"d={model.width} L={model.layers} T={model.context} B={batch}"
        sizes = "".join(f"{peaks[way] / MIB:10.1f}" for way in WAYS)
        ratios = f"{peaks['engine'] / peaks['eager']:14.2f}{peaks['engine'] / peaks['in place']:17.2f}"
        lines.append(f"{shape:<28}{sizes}{ratios}")
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


def fill_cache(name: str, threads: int) -> None:
    model, batch = MODELS[name]
    training = TrainingConfig(batch=batch, learning_rate=1e-3, warmup_steps=10, total_steps=1000)
    compile_graph(trace(make_training_step(model, training), example(model, training)).graph, threads=threads)


def peak_of(way: str, name: str, threads: int) -> int:
    command = [sys.executable, __file__, name, "--threads", str(threads), "--child", way]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


if __name__ == "__main__":
    main()
