"""What was done to the network: every fault that really hit, by kind, and whether the struck went on afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

EVERYBODY = "the chain"
"""Whom a fault of the chain itself strikes; it has recovered once another block is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One that hit."""

    kind: str
    party: str
    time_s: float
    """`time.monotonic`."""
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Any thread may write."""

    faults: list[Fault] = field(default_factory=list)
    active_s: dict[str, float] = field(default_factory=dict)
    """When a transaction of that party was last seen in a block; for EVERYBODY, when a block was."""
    began_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hit(self, kind: str, party: str, detail: str = "") -> None:
        with self._lock:
            self.faults.append(Fault(kind=kind, party=party, time_s=time.monotonic(), detail=detail))

    def seen_active(self, party: str) -> None:
        with self._lock:
            self.active_s[party] = time.monotonic()

    def __len__(self) -> int:
        return len(self.faults)

    def injected(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.faults)

    def recovered(self) -> Counter[str]:
        """Faults after which the struck party had another transaction in a block."""
        return Counter(f.kind for f in self.faults if self.active_s.get(f.party, 0.0) > f.time_s)

    def not_recovered(self) -> list[Fault]:
        return [f for f in self.faults if self.active_s.get(f.party, 0.0) <= f.time_s]
