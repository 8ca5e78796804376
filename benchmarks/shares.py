"""What proof costs: commitment as a share of a unit's time, verification as a share of training.

Commitment is everything a miner does besides optimiser steps: Merkle roots, encoding checkpoints, CIDs and writing them
through to the disk. A miner does it in a thread beside the next segment (miner/checkpoints.py), so three shares are
told: of the unit's time as it passes, of processor time, and as it would be one after the other. Segments with and
without a checkpoint in the making take turns in one process, and medians are compared.

    python benchmarks/shares.py [demo|medium ...] [--disk FOLDER] [--threads 1]

Verification counts the steps all drawn verifiers replay together, and what checking start states costs them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from machine import describe
from step import example

from cupel.demo.settings import DemoSettings
from cupel.miner.checkpoints import CheckpointWriter
from cupel.network.ipfs import CHUNK_BYTES, BlockStore
from cupel.network.states import decode_state, encode_in_pieces
from cupel.protocol import merkle
from cupel.protocol.program import run, trace
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.training.unit import SegmentResult
from cupel.protocol.types import Cid

T = TypeVar("T")
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, and how much of it to run."""

    model: ModelConfig
    training: TrainingConfig
    measured_steps: int
    """Steps of a measured segment; a unit's segments have as many as the demo's."""
    pairs: int


SUBJECTS = {
    "demo": Subject(model=ModelConfig.demo(), training=TrainingConfig.demo(), measured_steps=30, pairs=7),
    "medium": Subject(
        model=ModelConfig(vocabulary=256, width=384, layers=6, heads=6, hidden=1024, context=256),
        training=TrainingConfig(batch=8, learning_rate=1e-3, warmup_steps=10, total_steps=1000),
        measured_steps=3,
        pairs=3,
    ),
}


def seconds(work: Callable[..., T], *arguments: object) -> tuple[float, T]:
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def measure(name: str, subject: Subject, disk: Path | None, threads: int) -> list[str]:
    """The lines of one model's table."""
    plan = DemoSettings(folder=Path("unused"))
    nested, tokens = example(subject.model, subject.training)
    program = trace(make_training_step(subject.model, subject.training), (nested, tokens))
    state: State = flatten_state(nested)
    steps: dict[bool, list[float]] = {False: [], True: []}
    alone: list[float] = []
    waited: list[float] = []
    worked: list[float] = []
    computed: list[float] = []

    def train(state: State, into: list[float]) -> State:
        for _ in range(subject.measured_steps):
            before = time.process_time()
            spent, (following, _) = seconds(
                lambda s: run(program, (unflatten_state(s), tokens), threads=threads), state
            )
            into.append(spent)
            if into is steps[False]:
                computed.append(time.process_time() - before)
            state = flatten_state(following)
        return state

    def result_of(state: State) -> SegmentResult:
        return SegmentResult(state=state, loss=bytes(4), gradient_norm=bytes(4))

    state = train(state, [])  # compiles, and brings the moments to life
    with tempfile.TemporaryDirectory(dir=disk) as folder, BlockStore(Path(folder)) as store:

        def put(state: State, pin: str) -> Cid:
            return store.add_chunks(encode_in_pieces(state, CHUNK_BYTES), pin=pin)

        def timed_put(state: State, pin: str) -> Cid:
            # The thread's own time, hashing the root before this call included.
            cid = put(state, pin)
            worked.append(time.thread_time() - sum(worked))
            return cid

        for _ in range(subject.pairs):
            state = train(state, steps[False])
            root_s, _ = seconds(merkle.state_root, state)
            store_s, _ = seconds(put, state, "alone")
            alone.append(root_s + store_s)
        writer = CheckpointWriter(timed_put)
        for _ in range(subject.pairs):
            state = train(state, steps[False])
            begun_s, checkpoint = seconds(writer.begin, 0, result_of(state), "beside")
            state = train(state, steps[True])
            waited_s, _ = seconds(checkpoint.wait)
            waited.append(begun_s + waited_s)
        writer.close()
        pieces = list(encode_in_pieces(state, CHUNK_BYTES))
        checking_s, _ = seconds(lambda: merkle.state_root(decode_state(bytearray(b"".join(pieces)))))

    size_bytes = sum(len(piece) for piece in pieces)
    step_s, step_beside_s = median(steps[False]), median(steps[True])
    segment_s = plan.segment_steps * step_s
    apart_s = median(alone)
    # What a checkpoint takes from the steps beside it, and the last one, beside which nothing trains.
    processor_s = plan.segment_steps * median(computed)
    slower_s = max(0.0, (step_beside_s - step_s) * subject.measured_steps)
    added_s = (plan.segments - 1) * (median(waited) + slower_s) + apart_s
    unit_s = plan.segments * segment_s
    replayed = plan.verifiers_per_unit * plan.segments_per_verifier
    verify_s = replayed * (segment_s + checking_s + apart_s)
    model = subject.model
    return [
        f"{name}: d={model.width}, {model.layers} layers, T={model.context}, B={subject.training.batch}, "
        f"V={model.vocabulary}; {plan.segments} segments of {plan.segment_steps} steps, {threads} thread(s)",
        f"  step                               {step_s * 1e3:9.2f} ms, {median(computed) * 1e3:.2f} of processor time",
        f"  state                              {size_bytes / 1e6:9.2f} MB",
        f"  root, file, CIDs, on disk, alone   {apart_s * 1e3:9.2f} ms",
        f"  of it the processor's              {median(worked) * 1e3:9.2f} ms",
        f"  beside the next segment: waited    {median(waited) * 1e3:9.2f} ms, steps slower by {slower_s * 1e3:.2f} ms",
        f"  commitment / unit                  {added_s / (unit_s + added_s):9.2%}",
        f"  one after the other                {apart_s / (segment_s + apart_s):9.2%}",
        f"  processor time                     {median(worked) / (processor_s + median(worked)):9.2%}",
        f"  verification / training            {verify_s / unit_s:9.2%}  {replayed} of {plan.segments} segments",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=list(SUBJECTS), metavar="demo|medium")
    parser.add_argument("--disk", type=Path, help="folder on the disk to write to; the system's temporary one")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.models) - set(SUBJECTS):
        parser.error(f"no model is called {', '.join(sorted(unknown))}; take {' or '.join(SUBJECTS)}")
    torch.set_num_threads(options.threads)
    print(describe())
    for name in options.models:
        for line in measure(name, SUBJECTS[name], options.disk, options.threads):
            print(line, flush=True)
    waiting = os.getloadavg()[0]
    print(f"load average at the end {waiting:.1f}: times that pass grow with it, processor time hardly", flush=True)


if __name__ == "__main__":
    main()
