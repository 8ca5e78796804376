"""What workers need of each other: four exchanges, all of them of integers or bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch


class Communicator(Protocol):
    """One worker's end. Every worker calls the same methods in the same order; results do not depend on any order.

    An implementation says what to do about a worker that died: these methods raise whatever it raises.
    """

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    def size(self) -> int:
        """How many workers there are."""

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over the workers of an int32[n] or int64[n]."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over the workers of an int64[n], wrapping."""

    def scatter_sum(self, tensor: torch.Tensor, sizes: Sequence[int]) -> Callable[[], torch.Tensor]:
        """int64: the sum over the workers of what each gives for this one, wrapping; of `tensor`, sizes[i] elements
        are for worker i, one worker's after the other's.

        Begins the exchange; what is returned waits for it and gives the sum. Meanwhile `tensor` must stay as it is.
        """

    def gather(self, tensor: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Every worker's uint8[sizes[i]], in order."""


def added(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of integers of one shape, wrapping, in a tensor of its own: pair by pair, faster than a reduction."""
    if len(pieces) == 1:
        return pieces[0].clone()
    total = pieces[0] + pieces[1]
    for piece in pieces[2:]:
        total += piece
    return total
