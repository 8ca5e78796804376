"""What proof costs: commitment as a share of a unit's time, verification as a share of training.

One unit of the demo's shapes, one thread. Commitment is everything a miner does besides optimiser steps: Merkle roots,
encoding checkpoints, CIDs and writing them to disk. Verification counts the optimiser steps all drawn verifiers
replay together, and what checking start states costs them.

    python benchmarks/shares.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from machine import describe

from cupel.demo.settings import DemoSettings
from cupel.network.ipfs import BlockStore
from cupel.network.states import decode_state, encode_state
from cupel.protocol import merkle
from cupel.protocol.training.programs import RunConfig, RunPrograms
from cupel.protocol.types import Seed

REPEATS = 5
T = TypeVar("T")


def timed(work: Callable[..., T], *arguments: object, into: list[float]) -> T:
    start = time.perf_counter()
    result = work(*arguments)
    into.append(time.perf_counter() - start)
    return result


def main() -> None:
    torch.set_num_threads(1)
    plan = DemoSettings(folder=Path("unused"))
    programs = RunPrograms.build(RunConfig.demo())
    model, batch = programs.config.model, programs.config.training.batch
    state = programs.run_genesis(Seed(bytes(32)))
    tokens = torch.randint(0, model.vocabulary, (batch, model.context + 1), dtype=torch.int32)
    programs.run_step(state, tokens)  # compiles

    steps: list[float] = []
    hashing: list[float] = []
    encoding: list[float] = []
    storing: list[float] = []
    checking: list[float] = []
    size_bytes = 0
    with tempfile.TemporaryDirectory() as folder, BlockStore(Path(folder)) as store:
        for _ in range(REPEATS):
            for _ in range(plan.segment_steps):
                state = timed(programs.run_step, state, tokens, into=steps).state
            timed(merkle.state_root, state, into=hashing)
            data = timed(encode_state, state, into=encoding)
            size_bytes = len(data)
            timed(store.add_bytes, data, into=storing)
            served = timed(decode_state, data, into=checking)
            timed(merkle.state_root, served, into=checking)

    root_s, store_s = median(hashing), median(encoding) + median(storing)
    segment_s = plan.segment_steps * median(steps)
    unit_s = plan.segments * (segment_s + root_s + store_s)
    replayed = plan.verifiers_per_unit * plan.segments_per_verifier
    # A verifier decodes and checks the start state, replays, and hashes where it ended.
    verify_s = replayed * (segment_s + sum(checking) / REPEATS + root_s)
    print(describe())
    print(f"step                     {median(steps) * 1e3:8.2f} ms  {plan.segments} segments of {plan.segment_steps}")
    print(f"state root               {root_s * 1e3:8.2f} ms  {size_bytes / 1e6:.1f} MB")
    print(f"encode, CID and store    {store_s * 1e3:8.2f} ms")
    print(f"commitment / unit        {plan.segments * (root_s + store_s) / unit_s:8.2%}")
    print(f"verification / training  {verify_s / unit_s:8.2%}  {replayed} of {plan.segments} segments replayed")


if __name__ == "__main__":
    main()
