"""Comparing an engine with an oracle, a shard of 2^24 bit patterns at a time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from cupel.protocol.arithmetic.operations import Opcode
from exhaustive import mpfr
from exhaustive.engines import CHUNK, FUNCTIONS, Engine, Subject
from exhaustive.oracle import Bits, Oracle, OracleBroken, oracle_for

SHARDS = 256
SHARD = (1 << 32) // SHARDS
MOST_SHOWN = 8

Run = Callable[[int], Bits]


@dataclass(kw_only=True)
class Outcome:
    """What a check of some arguments found."""

    inputs: int = 0
    mismatches: int = 0
    decided: int = 0
    """By MPFR, because the double-precision bound left two answers."""
    asked: int = 0
    """Arguments at which MPFR confirmed the bound."""
    slow: int = 0
    """Arguments that the engine sent to the definition."""
    engine_s: float = 0.0
    oracle_s: float = 0.0
    wrong: list[tuple[int, int, int]] = field(default_factory=list)
    """(argument, the engine's result, the right one), as bits; the first few."""

    def add(self, other: Outcome) -> None:
        for name in ("inputs", "mismatches", "decided", "asked", "slow", "engine_s", "oracle_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.wrong = [tuple(entry) for entry in [*self.wrong, *other.wrong][:MOST_SHOWN]]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def check(opcode: Opcode, run: Run, oracle: Oracle, starts: Sequence[int], size: int = CHUNK) -> Outcome:
    """Compare `run` with the oracle on `size` patterns from each of `starts` (multiples of it).

    Raises  OracleBroken
    """
    outcome = Outcome()
    low, high = np.empty(size, np.uint32), np.empty(size, np.uint32)
    for first in starts:
        began = time.perf_counter()
        got = run(first)
        ran = time.perf_counter()
        asked = oracle.asked
        oracle.bound(first, low, high)
        _compare(opcode, first, got, low, high, outcome)
        outcome.inputs += size
        outcome.asked += oracle.asked - asked
        outcome.engine_s += ran - began
        outcome.oracle_s += time.perf_counter() - ran
    return outcome


def _compare(opcode: Opcode, first: int, got: Bits, low: Bits, high: Bits, outcome: Outcome) -> None:
    for i in np.flatnonzero((got != low) | (got != high)).tolist():
        pattern, settled = first + i, low[i] == high[i]
        right = int(low[i])
        if opcode in mpfr.SPECIAL and (not settled or len(outcome.wrong) < MOST_SHOWN):
            right = mpfr.decide(opcode, pattern)
            if not mpfr.is_between(int(low[i]), right, int(high[i])):
                raise OracleBroken(f"{opcode.name} of {pattern:#010x} is {right:#010x}, out of the proven bounds")
        outcome.decided += not settled
        if got[i] != right:
            outcome.mismatches += 1
            if len(outcome.wrong) < MOST_SHOWN:
                outcome.wrong.append((pattern, int(got[i]), right))


def chunk_starts(shard: int, every: int = 1) -> list[int]:
    """Where the chunks of a shard begin; every n-th of them, the first always among them."""
    return list(range(shard * SHARD, (shard + 1) * SHARD, CHUNK * every))


@functools.lru_cache(maxsize=1)
def _parts(subject: Subject) -> tuple[Engine, Oracle]:
    return Engine(subject), oracle_for(*FUNCTIONS[subject.function])


def check_shard(subject: Subject, shard: int, every: int = 1) -> Outcome:
    """One shard, in this process; engine and oracle are kept for the next of the same subject."""
    torch.set_num_threads(1)
    engine, oracle = _parts(subject)
    before = engine.slow_paths()
    outcome = check(FUNCTIONS[subject.function][0], engine.run, oracle, chunk_starts(shard, every))
    outcome.slow = engine.slow_paths() - before
    return outcome
