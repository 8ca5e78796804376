"""Memory and disk of every node, sampled all along: flat, or growing with the rounds?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FLAT = 1.15
"""Last fifth over second fifth; the first fifth is for warming up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    time_s: float
    memory: int
    disk: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one quantity of one party went, in bytes."""

    early: float
    """Median of the second fifth of the samples."""
    late: float
    """Median of the last fifth."""

    @property
    def ratio(self) -> float:
        return self.late / self.early if self.early else 1.0

    @property
    def is_flat(self) -> bool:
        return self.ratio <= FLAT


@dataclass(slots=True, kw_only=True)
class Gauges:
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def take(self, party: str, pid: int, folder: Path) -> None:
        """One sample of a process that runs; none if it has just ended."""
        memory = resident_bytes(pid)
        if memory:
            sample = Sample(time_s=time.monotonic(), memory=memory, disk=folder_bytes(folder))
            self.samples.setdefault(party, []).append(sample)

    def memory(self, parties: Sequence[str]) -> Course:
        return self._course([[(s.time_s, s.memory) for s in self.samples.get(party, [])] for party in parties])

    def disk(self, parties: Sequence[str]) -> Course:
        return self._course([[(s.time_s, s.disk) for s in self.samples.get(party, [])] for party in parties])

    def largest(self, parties: Sequence[str]) -> int:
        return max((s.memory for party in parties for s in self.samples.get(party, [])), default=0)

    @staticmethod
    def _course(series: list[list[tuple[float, int]]]) -> Course:
        """Over time, not over samples: a party that was down for a while has fewer."""
        points = [point for one in series for point in one]
        if not points:
            return Course(early=0.0, late=0.0)
        first, last = min(t for t, _ in points), max(t for t, _ in points)
        span = max(last - first, 1e-9)

        def median(low: float, high: float) -> float:
            chosen = [value for t, value in points if low <= (t - first) / span <= high]
            return statistics.median(chosen) if chosen else 0.0

        return Course(early=median(0.2, 0.4), late=median(0.8, 1.0))


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: what it shares with the one it was forked from is not counted."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(fields[name].split()[0]) << 10 for name in ("Private_Dirty", "Private_Clean"))


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take on disk."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total
