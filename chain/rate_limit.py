"""How often an endpoint may be asked: a bucket of tokens, one a request, refilled at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LEAST_RATE = 0.5
_RECOVERY_S = 10.0
"""Without another refusal for this long, the rate rises again by a tenth of what was set."""


class TokenBucket:
    """At most `burst` requests at once and `rate` a second over time; 0: no limit until somebody slows it down."""

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._set_rate, self._rate, self._burst, self._clock = rate, rate, max(1.0, burst), clock
        self._tokens, self._at, self._quiet_since = self._burst, clock(), clock()
        self._lock = threading.Lock()

    @property
    def rate(self) -> float:
        """Requests a second now; 0: no limit."""
        return self._rate

    def take(self) -> float:
        """Take a token; the seconds to wait before the request may be sent."""
        with self._lock:
            if not self._rate:
                return 0.0
            now = self._clock()
            self._recover(now)
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            self._tokens -= 1
            return max(0.0, -self._tokens / self._rate)

    def give_back(self) -> None:
        """The request was not made after all."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + 1)

    def slow_down(self) -> None:
        """The endpoint found it too much: half the rate, for now."""
        with self._lock:
            self._rate = max(_LEAST_RATE, (self._rate or 2 * self._burst) / 2)
            self._tokens, self._at, self._quiet_since = min(self._tokens, 0.0), self._clock(), self._clock()

    def _recover(self, now: float) -> None:
        if now - self._quiet_since < _RECOVERY_S or self._rate == self._set_rate:
            return
        full = self._set_rate or 2 * self._burst
        self._quiet_since, self._rate = now, self._rate + full / 10
        if self._rate >= full:
            self._rate = self._set_rate
