"""The stat line miners know: speed, units, rewards, and where the round stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from cupel.node.log import Log


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counted since the process started, except rewards, which the chain knows."""

    round: int = 0
    phase: str = "-"
    steps: int = 0
    """Optimiser steps computed, trained or replayed."""
    steps_s: float = 0.0
    """Seconds spent in them: steps / steps_s is the speed while computing."""
    accepted: int = 0
    rejected: int = 0
    stale: int = 0
    pending: int = 0
    """Rewards not yet mature, in the token's smallest unit."""
    matured: int = 0
    """Rewards that can be, or have been, claimed."""
    reorgs: int = 0
    """Times the chain replaced blocks this node had seen."""
    loss: float | None = None
    """Of the last segment computed, in nats a token."""

    def line(self, decimals: int = 18) -> str:
        speed = self.steps / self.steps_s if self.steps_s else 0.0
        loss = "" if self.loss is None else f" | loss {self.loss:.3f}"
        return (
            f"round {self.round} {self.phase} | {speed:.1f} steps/s | "
            f"units {self.accepted} accepted {self.rejected} rejected {self.stale} stale | "
            f"rewards {self.pending / 10**decimals:.2f} pending {self.matured / 10**decimals:.2f} matured{loss}"
        )


class StatLine:
    """Writes the stat line when what it counts changed, and every few seconds while steps are computed."""

    def __init__(
        self, log: Log, stats: Stats, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._stats, self._every_s, self._clock = log, stats, every_s, clock
        self._written: dict[str, object] = {}
        self._written_at = float("-inf")

    def tick(self) -> None:
        now, fields = self._clock(), asdict(self._stats)
        if fields == self._written:
            return
        slow = ("steps", "steps_s", "loss")
        changed = any(fields[name] != self._written.get(name) for name in fields if name not in slow)
        if changed or now - self._written_at >= self._every_s:
            self._written, self._written_at = fields, now
            self._log.stat(self._stats.line(), **fields)
