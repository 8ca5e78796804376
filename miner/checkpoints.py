"""Hashing and storing a segment's end state while the next segment trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from cupel.protocol.training.unit import Answer, SegmentResult, answer_of
from cupel.protocol.types import Cid

Put = Callable[[Mapping[str, torch.Tensor], str], Cid]
"""Stores a state under a pin; it is on disk when this returns."""


class Checkpoint:
    """One end state in the making."""

    def __init__(self, segment: int, result: SegmentResult, future: Future[tuple[Answer, Cid]]) -> None:
        self.segment, self.result = segment, result
        self._future = future

    @property
    def is_done(self) -> bool:
        """Stored, or failed: `wait` does not wait."""
        return self._future.done()

    def wait(self) -> tuple[Answer, Cid]:
        """What the segment comes to, and the file of its state, on disk. Raises what storing it raised."""
        return self._future.result()


class CheckpointWriter:
    """Makes checkpoints one after the other, in a thread of its own.

    Nothing but the commitment at the end needs a segment's root and file, and nobody writes into a state, so the next
    segment trains from the same tensors meanwhile. What was not stored when a process dies is trained again.
    """

    def __init__(self, put: Put) -> None:
        self._put = put
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cupel-checkpoint")

    def begin(self, segment: int, result: SegmentResult, pin: str) -> Checkpoint:
        """Hash and store the end state of a segment under a pin.

        Tensors that are elsewhere, such as with worker processes, are collected before this returns: whoever trains on
        may not have them any more when the thread gets to them.
        """
        here = replace(result, state=dict(result.state))
        return Checkpoint(segment, here, self._pool.submit(self._make, here, pin))

    def _make(self, result: SegmentResult, pin: str) -> tuple[Answer, Cid]:
        return answer_of(result), self._put(result.state, pin)

    def close(self) -> None:
        """Wait for what was begun. Safe to call twice."""
        self._pool.shutdown(wait=True)
