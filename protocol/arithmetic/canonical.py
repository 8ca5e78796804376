"""Which tensors may enter arithmetic and roots: seven element types, one NaN, bools of 0 or 1."""

from __future__ import annotations

import torch

from cupel.protocol.arithmetic.binary32 import NAN
from cupel.protocol.arithmetic.operations import DType
from cupel.protocol.errors import MalformedProgram, MalformedTensor


def check_canonical(tensor: torch.Tensor, what: str = "tensor") -> None:
    """Raise MalformedTensor for another element type, a NaN other than 0x7fc00000, or a bool that is not 0 or 1."""
    try:
        dtype = DType.of(tensor.dtype)
    except MalformedProgram as wrong:
        raise MalformedTensor(f"{what}: {wrong}") from None
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise MalformedTensor(f"{what}: a dense tensor in CPU memory, not {tensor.layout} on {tensor.device}")
    if tensor.numel() == 0:
        return
    tensor = tensor.detach()
    if dtype == DType.FLOAT32:
        # A sum is NaN wherever an element is, and reads the tensor once.
        if bool(torch.isnan(tensor.sum())):
            bits = tensor.contiguous().view(torch.int32)
            other = torch.isnan(tensor) & (bits != NAN)
            if bool(other.any()):
                found = int(bits[other][0]) & 0xFFFFFFFF
                raise MalformedTensor(f"{what}: NaN 0x{found:08x} among the elements; every NaN is 0x7fc00000")
    elif dtype == DType.BOOL and int(tensor.contiguous().view(torch.uint8).max()) > 1:
        raise MalformedTensor(f"{what}: a bool is one byte, 0 or 1")
