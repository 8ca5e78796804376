"""What a miner and its workers say to each other: JSON and tensors, over a pipe that only the two of them hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from cupel.protocol.arithmetic.operations import DType, TensorType

ALIVE = "alive"
"""What a worker says from time to time, whatever it is at."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message."""

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def write_message(stream: BinaryIO, message: Message) -> None:
    """Raises OSError once nobody reads."""
    types = {name: TensorType.of(tensor) for name, tensor in message.tensors.items()}
    shapes = [[name, int(type_.dtype), list(type_.shape)] for name, type_ in types.items()]
    header = json.dumps([message.what, message.facts, shapes]).encode()
    stream.write(len(header).to_bytes(8, "little"))
    stream.write(header)
    for tensor in message.tensors.values():
        if tensor.numel():
            stream.write(tensor.detach().contiguous().reshape(-1).numpy().data.cast("B"))
    stream.flush()


def read_message(stream: BinaryIO) -> Message:
    """Raises EOFError once nobody writes."""
    length = int.from_bytes(_read(stream, 8), "little")
    what, facts, shapes = json.loads(_read(stream, length))
    tensors = {}
    for name, number, shape in shapes:
        type_ = TensorType(DType(number), tuple(shape))
        data = _read(stream, type_.size_bytes)
        empty = torch.empty(type_.shape, dtype=type_.dtype.torch)
        tensors[name] = torch.frombuffer(data, dtype=type_.dtype.torch).reshape(type_.shape) if data else empty
    return Message(what, facts, tensors)


def _read(stream: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # BinaryIO lacks it
        if not count:
            raise EOFError
        done += count
    return data
