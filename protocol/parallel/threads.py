"""Workers that are threads of one process: for tests, and for whoever wants to see what several would do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from cupel.protocol.parallel.communicator import added

T = TypeVar("T")


class _Meeting:
    """Where the threads leave what they have for each other."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.given: list[Any] = [None] * size


class ThreadCommunicator:
    """A `Communicator` among threads. A thread that fails breaks the barrier for all: threading.BrokenBarrierError."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self._meeting, self.rank = meeting, rank

    @classmethod
    def alone(cls, size: int, rank: int = 0) -> ThreadCommunicator:
        """One of `size` workers without the others: enough to plan with, not to run."""
        return cls(_Meeting(size), rank)

    @property
    def size(self) -> int:
        return len(self._meeting.given)

    def _exchange(self, given: Any) -> list[Any]:
        meeting = self._meeting
        meeting.given[self.rank] = given
        meeting.barrier.wait()
        everything = list(meeting.given)
        meeting.barrier.wait()
        return everything

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(tensor)).amax(0)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(tensor)).sum(0)

    def scatter_sum(self, tensor: torch.Tensor, sizes: Sequence[int]) -> Callable[[], torch.Tensor]:
        total = added([torch.split(theirs, list(sizes))[self.rank] for theirs in self._exchange(tensor)])
        return lambda: total

    def gather(self, tensor: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        return self._exchange(tensor)

    def abort(self) -> None:
        self._meeting.barrier.abort()


def run_threads(size: int, work: Callable[[ThreadCommunicator], T]) -> list[T]:
    """What `work` gives on each of `size` workers, in order; raises what the first of them raised."""
    meeting = _Meeting(size)
    results: list[Any] = [None] * size
    failures: list[tuple[bool, int, BaseException]] = []

    def one(rank: int) -> None:
        communicator = ThreadCommunicator(meeting, rank)
        try:
            results[rank] = work(communicator)
        except BaseException as failure:
            failures.append((isinstance(failure, threading.BrokenBarrierError), rank, failure))
            communicator.abort()

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        # The one that broke the barrier says why; the others only say that it is broken.
        raise min(failures, key=lambda failed: failed[:2])[2]
    return results
