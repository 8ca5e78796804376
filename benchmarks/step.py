"""One training step of the demo's model: the engine against plain PyTorch eager fp32 doing the same step.

    python benchmarks/step.py [--repeats 41] [--threads 1] [--isa NAME] [--profile]

Both run in turn in one process, on the same tokens, with fresh outputs; medians are compared, because a machine's
speed drifts. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import time
from collections import defaultdict

import llvmlite.binding as llvm
import torch

from cupel.protocol.arithmetic.cpu import compile_graph
from cupel.protocol.program import trace
from cupel.protocol.program.structure import flatten
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import State, example_state
from cupel.protocol.training.step import TrainingConfig, make_training_step


def example(model: ModelConfig, training: TrainingConfig) -> tuple[State, torch.Tensor]:
    """Weights of a size a model starts with, and random tokens."""
    generator = torch.Generator().manual_seed(0)
    state = example_state(model)
    for name, weight in state["weights"].items():
        noise = torch.randn(weight.shape, generator=generator)
        state["weights"][name] = noise * 0.05 if weight.dim() > 1 else torch.ones(weight.shape)
    shape = (training.batch, model.context + 1)
    return state, torch.randint(0, model.vocabulary, shape, generator=generator, dtype=torch.int32)


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default=None)
    parser.add_argument("--profile", action="store_true", help="time every kernel instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, training = ModelConfig.demo(), TrainingConfig.demo()
    state, tokens = example(model, training)
    step = make_training_step(model, training)
    program = trace(step, (state, tokens))
    inputs = flatten((state, tokens), "arguments")[1]
    if options.profile:
        profile(program.graph, inputs, options.isa, options.repeats)
        return

    started = time.perf_counter()
    compiled = compile_graph(program.graph, threads=options.threads, instruction_set=options.isa)
    compile_s = time.perf_counter() - started
    compiled.run(inputs)
    step(state, tokens)
    ours, eager = [], []
    for _ in range(options.repeats):
        started = time.perf_counter()
        compiled.run(inputs)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        step(state, tokens)
        eager.append(time.perf_counter() - started)
    print(
        json.dumps(
            {
                "benchmark": "step",
                "shape": "d=96 layers=3 T=64 B=16 V=512",
                "threads": options.threads,
                "instruction_set": compiled.instruction_set.name,
                "engine_ms": round(statistics.median(ours) * 1e3, 2),
                "eager_ms": round(statistics.median(eager) * 1e3, 2),
                "ratio": round(statistics.median(ours) / statistics.median(eager), 3),
                "engine_best_ms": round(min(ours) * 1e3, 2),
                "eager_best_ms": round(min(eager) * 1e3, 2),
                "ratio_of_best": round(min(ours) / min(eager), 3),
                "compile_s": round(compile_s, 2),
                "operations": len(program.graph.operations),
                "machine": f"{llvm.get_host_cpu_name()} {platform.machine()}",
                "torch": torch.__version__,
                "commit": commit(),
            }
        )
    )


def profile(graph: object, inputs: list[torch.Tensor], isa: str | None, repeats: int) -> None:
    """Best time of each kernel, largest first. A call after every kernel notes the clock."""
    from cupel.protocol.arithmetic.cpu import runtime
    from cupel.protocol.arithmetic.operations import Graph

    assert isinstance(graph, Graph)
    best: dict[int, float] = {}
    last = [0.0]

    def note(label: int) -> None:
        spent = time.perf_counter() - last[0]
        best[label] = min(best.get(label, spent), spent)
        last[0] = time.perf_counter()

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int64)(note)
    llvm.add_symbol("cupel_tick", ctypes.cast(callback, ctypes.c_void_p).value)
    compiled = runtime.CompiledGraph(graph, instruction_set=isa, clocked=True)
    for _ in range(repeats):
        last[0] = time.perf_counter()
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
