"""Random numbers inside a traced function: Philox4x32-10, counted by position, never by call order.

Every function takes `key` (int64 scalar tensor, from `philox_key`), `step` (int64 scalar tensor) and `stream` (which
of the function's uses this is). Element i of the result depends on key, step, stream and i alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import library

from cupel.protocol import sampling
from cupel.protocol.arithmetic import torch_backend
from cupel.protocol.arithmetic.operations import DType, Opcode, Operation, TensorType
from cupel.protocol.errors import UsageError

_WORD = (1 << 32) - 1


def philox_key(seed: bytes, domain: str, unit: bytes = b"") -> torch.Tensor:
    """`sampling.philox_key` as the int64 scalar that the functions below take."""
    key = sampling.philox_key(seed, domain, unit)
    return torch.tensor(key - (key >> 63 << 64), dtype=torch.int64)


@library.custom_op("cupel::random_bits", mutates_args=())
def _random_bits(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int) -> torch.Tensor:
    result = TensorType(DType.INT64, tuple(shape))
    return torch_backend.evaluate(Operation(Opcode.PHILOX, (0, 1), result, (stream,)), [key, step])


@_random_bits.register_fake
def _(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=torch.int64, device=key.device)


@library.custom_op("cupel::multiply_high", mutates_args=())
def _multiply_high(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch_backend.evaluate(Operation(Opcode.MULHI, (0, 1), TensorType.of(x)), [x.contiguous(), y.contiguous()])


@_multiply_high.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def random_bits(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int = 0) -> torch.Tensor:
    """int64 of `shape`: w0 | w1 << 32 of the block (i low, i high, stream, step) under `key`."""
    for name, tensor in (("key", key), ("step", step)):
        if tensor.dtype != torch.int64 or tensor.dim() != 0:
            raise UsageError(f"{name} is an int64 scalar tensor, not {tensor.dtype}{list(tensor.shape)}")
    if not 0 <= stream <= _WORD:
        raise UsageError(f"stream {stream} is outside [0, 2^32)")
    bits: torch.Tensor = _random_bits(key, step, list(shape), stream)
    return bits


def uniform(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int = 0) -> torch.Tensor:
    """float32 in [0, 1): (w0 >> 8) 2^-24."""
    return _fraction(random_bits(key, step, shape, stream) & _WORD, 0)


def normal(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int = 0) -> torch.Tensor:
    """float32, mean 0, variance 1: sqrt(-2 log u) cos(2 pi v), u = ((w0 >> 8) + 1) 2^-24, v = (w1 >> 8) 2^-24."""
    bits = random_bits(key, step, shape, stream)
    radius = torch.sqrt(torch.log(_fraction(bits & _WORD, 1)) * -2.0)
    return radius * torch.cos(_fraction((bits >> 32) & _WORD, 0) * (2 * math.pi))


def gumbel(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], stream: int = 0) -> torch.Tensor:
    """float32 -log(-log u), u = (2 (w0 >> 9) + 1) 2^-24: never 0 or 1, so never infinite.

    argmax(logits / temperature + gumbel) draws from softmax(logits / temperature).
    """
    word = random_bits(key, step, shape, stream) & _WORD
    u = ((word >> 9) * 2 + 1).to(torch.float32) * 2.0**-24
    return -torch.log(-torch.log(u))


def randint(key: torch.Tensor, step: torch.Tensor, shape: Sequence[int], high: int, stream: int = 0) -> torch.Tensor:
    """int64 in [0, high): (u64 high) >> 64, u64 being the block's first eight bytes."""
    if not 1 <= high < 1 << 63:
        raise UsageError(f"high is {high}; it is at least 1 and below 2^63")
    bits = random_bits(key, step, shape, stream)
    drawn: torch.Tensor = _multiply_high(bits, torch.full_like(bits, high))
    return drawn


def _fraction(word: torch.Tensor, plus: int) -> torch.Tensor:
    """((word >> 8) + plus) 2^-24: 24 bits are exact in binary32."""
    return ((word >> 8) + plus).to(torch.float32) * 2.0**-24
