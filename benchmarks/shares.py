"""What proof costs: commitment as a share of a unit's time, verification as a share of training.

One unit of the demo's shapes, one thread. Commitment is everything a miner does besides optimiser steps: Merkle roots,
encoding checkpoints, CIDs and writing them to disk. Verification counts the optimiser steps all drawn verifiers
replay together, and what checking start states costs them.

    python benchmarks/shares.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cupel.demo.settings import DemoSettings
from cupel.network.ipfs import BlockStore
from cupel.network.states import decode_state, encode_state
from cupel.protocol import merkle
from cupel.protocol.training.programs import RunConfig, RunPrograms
from machine import describe

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    plan = DemoSettings(folder=Path("unused"))
    programs = RunPrograms.build(RunConfig.demo())
    model, batch = programs.config.model, programs.config.training.batch
    state = programs.run_genesis(bytes(32))
    tokens = torch.randint(0, model.vocabulary, (batch, model.context + 1), dtype=torch.int32)
    programs.run_step(state, tokens)  # compiles

    steps, hashing, encoding, storing, checking = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = BlockStore(Path(folder))
        for repeat in range(REPEATS):
            for _ in range(plan.segment_steps):
                start = time.perf_counter()
                stepped = programs.run_step(state, tokens)
                steps.append(time.perf_counter() - start)
                state = stepped.state
            hashing.append(seconds(lambda: merkle.state_root(state)))
            data = b""

            def encode() -> None:
                nonlocal data
                data = encode_state(state)

            encoding.append(seconds(encode))
            storing.append(seconds(lambda: store.add_bytes(data, pin=f"checkpoint {repeat}")))
            checking.append(seconds(lambda: merkle.state_root(decode_state(data))))

    step_s = statistics.median(steps)
    checkpoint_s = statistics.median(hashing) + statistics.median(encoding) + statistics.median(storing)
    segment_s = plan.segment_steps * step_s
    unit_s = plan.segments * (segment_s + checkpoint_s)
    replayed = plan.verifiers_per_unit * plan.segments_per_verifier
    verify_s = replayed * (segment_s + statistics.median(checking) + statistics.median(hashing))
    print(describe())
    print(f"step                        {step_s * 1e3:8.2f} ms   ({plan.segments} segments of {plan.segment_steps} steps)")
    print(f"state root                  {statistics.median(hashing) * 1e3:8.2f} ms   ({len(data) / 1e6:.1f} MB)")
    print(f"encode, CID and store       {(checkpoint_s - statistics.median(hashing)) * 1e3:8.2f} ms")
    print(f"commitment / unit           {plan.segments * checkpoint_s / unit_s:8.2%}")
    print(f"verification / training     {verify_s / unit_s:8.2%}   ({replayed} of {plan.segments} segments replayed a unit)")


if __name__ == "__main__":
    main()
