"""Memory of large results, used again when nobody holds them any more.

What malloc gives back to the system between two steps, the system clears before it gives it again: for a model of ten
million parameters 4 % of a step. A tensor holds the array it was made of until its last view is gone; the array's end
brings the memory back here.
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import torch

_ALIGN = 64
_LARGE_BYTES = 1 << 17
"""What malloc asks the system for piece by piece."""

_Memory = npt.NDArray[np.uint8]


class Results:
    """Fresh tensors for the outputs of one graph. At most one set of outputs is kept while nobody uses it."""

    def __init__(self, types: list[tuple[torch.dtype, torch.Size]]) -> None:
        self._types = [(dtype, shape, shape.numel() * dtype.itemsize) for dtype, shape in types]
        self._limit_bytes = sum(size for _, _, size in self._types if size >= _LARGE_BYTES)
        self._free: defaultdict[int, list[_Memory]] = defaultdict(list)

    def fresh(self) -> list[torch.Tensor]:
        """One tensor for each output; what it holds is undefined."""
        return [
            torch.empty(shape, dtype=dtype) if size < _LARGE_BYTES else self._large(size).view(dtype).reshape(shape)
            for dtype, shape, size in self._types
        ]

    def _large(self, size: int) -> torch.Tensor:
        try:
            memory = self._free[size].pop()
        except IndexError:
            memory = np.empty(size + _ALIGN, np.uint8)
        start = -memory.ctypes.data % _ALIGN
        owner = memory[start : start + size]
        weakref.finalize(owner, self._give_back, size, memory).atexit = False
        return torch.from_numpy(owner)

    def _give_back(self, size: int, memory: _Memory) -> None:
        """Called in whichever thread let the last tensor go."""
        kept_bytes = sum(each * len(free) for each, free in list(self._free.items()))
        if kept_bytes + size <= self._limit_bytes:
            self._free[size].append(memory)
