"""How a tensor lies on several workers: cut along one dimension, or whole on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch

from cupel.protocol.arithmetic.operations import TensorType


@dataclass(frozen=True, slots=True)
class Sharding:
    """A dimension cut into one piece a worker.

    Its size is a whole multiple of the period. Of every period, worker i holds the positions from cuts[i] up to
    cuts[i + 1], in order. More than one period arises where tensors cut alike are joined along the cut.
    """

    dim: int
    cuts: tuple[int, ...]
    """Ascending, from 0 to the period: one more than there are workers. Equal neighbours are an empty piece."""

    @property
    def period(self) -> int:
        return self.cuts[-1]

    @property
    def largest(self) -> int:
        """Size of the largest piece: what the slowest worker waits for."""
        return max(b - a for a, b in pairwise(self.cuts))

    def with_dim(self, dim: int) -> Sharding:
        return Sharding(dim, self.cuts)

    def periods(self, shape: Sequence[int]) -> int:
        return shape[self.dim] // self.period if self.period else 0

    def piece(self, worker: int) -> tuple[int, int]:
        """First position and size within a period."""
        return self.cuts[worker], self.cuts[worker + 1] - self.cuts[worker]

    def local_shape(self, shape: Sequence[int], worker: int) -> tuple[int, ...]:
        size = self.periods(shape) * self.piece(worker)[1]
        return (*shape[: self.dim], size, *shape[self.dim + 1 :])


def even_cuts(size: int, workers: int) -> tuple[int, ...]:
    """As even as can be; with more workers than positions some pieces are empty."""
    return tuple(size * i // workers for i in range(workers + 1))


def evenly(dim: int, shape: Sequence[int], workers: int) -> Sharding:
    return Sharding(dim, even_cuts(shape[dim], workers))


def local_type(type_: TensorType, sharding: Sharding | None, worker: int) -> TensorType:
    """What the worker holds of a tensor of this type."""
    return type_ if sharding is None else TensorType(type_.dtype, sharding.local_shape(type_.shape, worker))


def reshaped(sharding: Sharding, shape: Sequence[int], new_shape: Sequence[int]) -> Sharding | None:
    """The same pieces of the same elements in another shape; None where no one dimension is cut there."""
    inner = prod(shape[sharding.dim + 1 :])
    flat = [cut * inner for cut in sharding.cuts]
    for dim, size in enumerate(new_shape):
        below = prod(new_shape[dim + 1 :])
        if below and all(cut % below == 0 for cut in flat):
            period = flat[-1] // below
            if period and size % period == 0:
                return Sharding(dim, tuple(cut // below for cut in flat))
    return None


def split(tensor: torch.Tensor, sharding: Sharding | None, worker: int) -> torch.Tensor:
    """The worker's piece of a whole tensor, contiguous."""
    if sharding is None:
        return tensor
    start, size = sharding.piece(worker)
    shape = tuple(tensor.shape)
    periods = tensor.reshape(
        *shape[: sharding.dim], sharding.periods(shape), sharding.period, *shape[sharding.dim + 1 :]
    )
    piece = periods.narrow(sharding.dim + 1, start, size)
    return piece.reshape(sharding.local_shape(shape, worker)).contiguous()


def join(pieces: Sequence[torch.Tensor], sharding: Sharding, shape: Sequence[int]) -> torch.Tensor:
    """The whole tensor from every worker's piece."""
    dim, periods = sharding.dim, sharding.periods(shape)
    parts = []
    for worker, piece in enumerate(pieces):
        size = sharding.piece(worker)[1]
        parts.append(piece.reshape(*shape[:dim], periods, size, *shape[dim + 1 :]))
    return torch.cat(parts, dim + 1).reshape(tuple(shape))
