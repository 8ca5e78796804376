"""Calls that are given up on after a time, whatever they hang in.

A socket's timeout restarts with every byte, and looking up a name has none at all. So what may hang runs in a thread
of its own, which is left behind when its time is up. Threads are daemons, used again, and end when idle.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

MAX_THREADS = 128
"""Calls under way at once, those given up on included."""
_IDLE_S = 30.0
T = TypeVar("T")


class GaveUp(Exception):
    """The call did not return in time, or too many others have not."""


class _Worker(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="cupel-deadline", daemon=True)
        self.jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                function, future = self.jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        _all.discard(self)
                        return
                continue  # somebody chose this one just now
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del function, future
            with _lock:
                _idle.append(self)


_lock = threading.Lock()
_idle: list[_Worker] = []
_all: set[_Worker] = set()


def call_within(timeout_s: float, function: Callable[[], T]) -> T:
    """What `function()` returns or raises; GaveUp after `timeout_s`, though it may go on unseen."""
    future: Future[T] = Future()
    with _lock:
        if _idle:
            worker = _idle.pop()
        elif len(_all) >= MAX_THREADS:
            raise GaveUp(f"{MAX_THREADS} earlier requests still hang")
        else:
            worker = _Worker()
            worker.start()
            _all.add(worker)
        worker.jobs.put((function, future))
    try:
        return future.result(timeout_s)
    except TimeoutError:
        if future.done():
            raise
        raise GaveUp(f"no answer in {timeout_s:g} s") from None
