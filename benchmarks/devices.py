"""One training step on one process and on N, in turn: time, memory and bytes exchanged.

    python benchmarks/devices.py [--workers 2] [--repeats 15] [--model demo|large]

Every process computes with one thread, so N workers use N cores where one process uses one. Steps of one and of N take
turns, medians are compared, and the states at the end must have one root. Workers are real processes that exchange
through gloo on the loopback interface. Prints a table; `--write` adds it to benchmarks/results/devices.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch

from cupel.miner.devices import WorkerGroup
from cupel.protocol import merkle
from cupel.protocol.parallel import make_layout
from cupel.protocol.program import Program, run, trace
from cupel.protocol.training.genesis import run_genesis, trace_genesis
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import NamedState, example_state, flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.types import Seed

MODELS = {
    "demo": (ModelConfig.demo(), TrainingConfig.demo()),
    "large": (
        ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256),
        TrainingConfig(batch=8, learning_rate=1e-3, warmup_steps=10, total_steps=1000),
    ),
}
RESULTS = Path(__file__).parent / "results" / "devices.md"


def peak_mb(pid: int) -> float:
    """The most memory a process ever held, from Linux's own account."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/{pid}/status has no VmHWM")


def processor_s(pid: int | str) -> float:
    """Processor time a process has used: what it costs also where others use the machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--model", choices=list(MODELS), default="demo")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, training = MODELS[options.model]
    tokens = torch.zeros((training.batch, model.context + 1), dtype=torch.int32)
    program = trace(make_training_step(model, training), (example_state(model), tokens))
    start = flatten_state(run_genesis(trace_genesis(model), Seed(bytes(32)), backend=options.backend))
    lines = measure(program, model, training, start, options)
    print("\n".join(lines))
    if options.write:
        with RESULTS.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


def measure(
    program: Program, model: ModelConfig, training: TrainingConfig, start: NamedState, options: argparse.Namespace
) -> list[str]:
    random = torch.Generator().manual_seed(1)
    shape = (training.batch, model.context + 1)
    batches = [torch.randint(0, model.vocabulary, shape, generator=random, dtype=torch.int32) for _ in range(4)]
    one_s: list[float] = []
    many_s: list[float] = []
    alone: NamedState = start
    used_by_one = used_by_many = 0.0
    with WorkerGroup(program, size=options.workers, backend=options.backend) as group:
        shared = start
        for repeat in range(options.repeats + 2):
            if repeat == 2:
                used_by_one, used_by_many = 0.0, -sum(map(processor_s, group.process_ids))
            before = processor_s("self")
            tokens = batches[repeat % len(batches)]
            began = time.perf_counter()
            nested, _ = run(program, (unflatten_state(alone), tokens), options.backend)
            one_s.append(time.perf_counter() - began)
            used_by_one += processor_s("self") - before
            alone = flatten_state(nested)
            before, began = processor_s("self"), time.perf_counter()
            shared = group.step(shared, tokens).state
            many_s.append(time.perf_counter() - began)
            used_by_many += processor_s("self") - before
        assert merkle.state_root(shared) == merkle.state_root(alone), "the roots differ"
        used_by_many += sum(map(processor_s, group.process_ids))
        peaks = [peak_mb(pid) for pid in group.process_ids]
    one, many = (statistics.median(times[2:]) * 1e3 for times in (one_s, many_s))
    layout = make_layout(program, options.workers)
    whole = sum(t.size_bytes for t in layout.state_types.values())
    held = sum(tensor.nbytes for tensor in layout.split_state(start, 0).values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return [
        f"## {options.model}: {model.width} wide, {model.layers} layers, {training.batch} x {model.context} tokens",
        "",
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread a process, commit {commit}:",
        f"`python benchmarks/devices.py --model {options.model} --workers {options.workers} "
        f"--repeats {options.repeats}`",
        "",
        "| | one process | " + f"{options.workers} workers |",
        "|---|---|---|",
        f"| step, ms | {one:.1f} | {many:.1f} ({many / one:.2f}x) |",
        f"| processor time of a step, ms | {used_by_one / options.repeats * 1e3:.1f} | "
        f"{used_by_many / options.repeats * 1e3:.1f} with the miner ({used_by_many / used_by_one:.2f}x) |",
        f"| state held, MB | {whole / 1e6:.1f} | {held / 1e6:.1f} each ({held / whole:.2f}x) |",
        f"| peak memory of a worker, MB | | {max(peaks):.0f} |",
        "",
        "Same root after all steps.",
    ]


if __name__ == "__main__":
    main()
