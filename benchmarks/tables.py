"""Plain text tables of measurements, for people and for benchmarks/results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; the first one to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])


def publish(name: str, text: str, *, write: bool) -> None:
    """Print; and with `write` add to benchmarks/results/<name>, where earlier measurements stay."""
    print(text)
    if write:
        path = RESULTS / name
        before = path.read_text() + "\n\n" if path.exists() else ""
        path.write_text(before + text + "\n")


def clock_of(threads: int) -> Callable[[], float]:
    """One thread is timed by the processor time it took, which other programs disturb least; several by the wall."""
    return time.thread_time if threads == 1 else time.perf_counter


def clock_name(threads: int) -> str:
    return "processor time" if threads == 1 else "wall time"
