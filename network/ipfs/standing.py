"""What is known of peers from asking them: who fails and who is slow. It only decides who is asked first."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

SLOW = 3.0
"""A peer is slow that takes this many times as long for a block as the quickest one."""
NOTABLE_S = 0.05
"""Differences below this are noise."""
REMEMBERED_S = 60.0
"""How long a measurement counts: a link that was slow may have recovered, and only asking again can tell."""
SHORTEST_PATIENCE_S = 0.25
_MOST_FAULTS = 8


@dataclass(slots=True)
class _Record:
    faults: int = 0
    """Failures since the last success."""
    block_s: float | None = None
    """Seconds for a block, smoothed."""
    measured: float = 0.0
    """When, by time.monotonic."""


class Standing:
    """One process's experience with its peers; threads may share it."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._turn = itertools.count()
        self._lock = threading.Lock()

    def in_order(self, peers: Sequence[str], absent: Collection[str] = ()) -> list[str]:
        """Peers, first those without faults, then the quick; equals take turns at being first.

        absent  had not all that was asked of them lately
        """
        turn = next(self._turn) % len(peers) if peers else 0
        with self._lock:
            times = {peer: s for peer in peers if (s := self._block_s(peer)) is not None}
            quickest = min(times.values(), default=0.0)
            slow = {p for p, s in times.items() if s > SLOW * quickest and s > quickest + NOTABLE_S}
            faults = {peer: record.faults for peer in peers if (record := self._records.get(peer))}
        return sorted(
            [*peers[turn:], *peers[:turn]], key=lambda peer: (peer in absent, faults.get(peer, 0), peer in slow)
        )

    def patience_s(self, peer: str, most_s: float) -> float:
        """How long to wait for this peer alone."""
        with self._lock:
            usual = self._block_s(peer)
        return most_s if usual is None else min(most_s, max(SHORTEST_PATIENCE_S, 4 * usual))

    def served(self, peer: str, elapsed_s: float) -> None:
        with self._lock:
            self._measure(peer, elapsed_s)
            self._records[peer].faults = 0

    def overtaken(self, peer: str, elapsed_s: float) -> None:
        """It had not answered after so long, and somebody else had."""
        with self._lock:
            if elapsed_s > (self._block_s(peer) or 0.0):
                self._measure(peer, elapsed_s)

    def failed(self, peer: str) -> None:
        with self._lock:
            record = self._records.setdefault(peer, _Record())
            record.faults = min(record.faults + 1, _MOST_FAULTS)

    def _measure(self, peer: str, elapsed_s: float) -> None:
        before = self._block_s(peer)
        record = self._records.setdefault(peer, _Record())
        record.block_s = elapsed_s if before is None else 0.5 * (before + elapsed_s)
        record.measured = time.monotonic()

    def _block_s(self, peer: str) -> float | None:
        record = self._records.get(peer)
        if record is None or time.monotonic() - record.measured > REMEMBERED_S:
            return None
        return record.block_s
