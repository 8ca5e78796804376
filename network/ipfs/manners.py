"""What a client does with an answer: it reads at a fair pace, and what it does wrong fills no log."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceLimits:
    """How slowly an answer may be read. What it takes us to find the blocks is not counted."""

    block_s: float = 30.0
    """For one block."""
    min_bytes_per_s: float = 64 << 10
    """On average over the whole answer,"""
    slow_s: float = 10.0
    """and so much longer."""


class PacedWriter:
    """Writes one answer, for as long as its client reads it at that pace.

    charge  told what is sent, in bytes, before it is
    """

    def __init__(self, limits: PaceLimits, response: web.StreamResponse, charge: Callable[[int], None]) -> None:
        self._limits, self._response, self._charge = limits, response, charge
        self._sent_bytes, self._waited_s = 0, 0.0

    async def write(self, data: bytes) -> None:
        """Raises TimeoutError: the client reads too slowly, or not at all."""
        self._charge(len(data))
        self._sent_bytes += len(data)
        limits, now_s = self._limits, asyncio.get_running_loop().time
        left_s = limits.slow_s + self._sent_bytes / limits.min_bytes_per_s - self._waited_s
        began_s = now_s()
        async with asyncio.timeout(min(limits.block_s, left_s)):
            await self._response.write(data)
        self._waited_s += now_s() - began_s


class _OnlyOurFaults(logging.Filter):
    """Counts what clients did wrong where aiohttp would log it with a traceback, as often as anybody likes."""

    def __init__(self, faults: Counter[str]) -> None:
        super().__init__()
        self._faults = faults

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._faults["malformed"] += 1
        return not isinstance(error, (HttpProcessingError, ConnectionError))


def quiet_logger(parent: logging.Logger, faults: Counter[str]) -> logging.Logger:
    """For one server of aiohttp's, so that servers count each for itself."""
    logger = logging.Logger(f"{parent.name}.http")
    logger.parent = parent
    logger.addFilter(_OnlyOurFaults(faults))
    return logger
