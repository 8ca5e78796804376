"""Where the buffers of a run lie: in inputs, outputs, constants, or memory that lives from first write to last use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import TensorType

Tensor = torch.Tensor


class Memory:
    """One run's. PyTorch's allocator hands memory out again in the order of the stream, so letting go is safe."""

    def __init__(self, device: torch.device, fixed: Mapping[str, Sequence[Tensor]]) -> None:
        self.device, self._fixed = device, fixed
        self._made: dict[Buffer, Tensor] = {}

    def make(self, buffer: Buffer) -> None:
        """Memory for a buffer that kernels are about to write, unless it is there."""
        if buffer.place[0] == "arena" and buffer not in self._made:
            self._made[buffer] = torch.empty(buffer.size_bytes, dtype=torch.uint8, device=self.device)

    def of(self, buffer: Buffer) -> Tensor:
        kind, number = buffer.place
        return self._made[buffer] if kind == "arena" else self._fixed[kind][number]

    def let_go(self, buffer: Buffer) -> None:
        self._made.pop(buffer, None)

    def tensor(self, view: View) -> Tensor:
        """A contiguous view as a tensor, not copied."""
        type_ = TensorType(view.dtype, view.shape)
        if view.buffer is None:
            assert not type_.elements
            return torch.empty(view.shape, dtype=view.dtype.torch, device=self.device)
        start = view.offset * view.dtype.size_bytes
        part = self.of(view.buffer).reshape(-1).view(torch.uint8)[start : start + type_.size_bytes]
        return part.view(view.dtype.torch).reshape(view.shape)

    def give(self, buffer: Buffer, tensor: Tensor) -> None:
        """What a library computed becomes the whole of a buffer."""
        if buffer.place[0] == "arena":
            self._made[buffer] = tensor.contiguous()
        else:
            self.of(buffer).copy_(tensor)
