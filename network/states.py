"""States as files: safetensors, written in one way only.

The format is Hugging Face's safetensors, which any of its readers opens. The bytes are canonical besides: tensors
ordered by element type and then by name, no metadata, the header's one spelling. So a state has exactly one file, and
everybody who computed the same state names it by the same CID. What decodes is, byte for byte, what `encode_state`
gives; that one comparison refuses overlaps, gaps, duplicates, odd types and whatever else a header can be made to say.

Source: https://huggingface.co/docs/safetensors (format)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from cupel.protocol.arithmetic.operations import MAX_RANK, DType
from cupel.protocol.errors import MalformedInput, MalformedTensor, RootMismatch
from cupel.protocol.json_text import parse_json
from cupel.protocol.merkle import state_root
from cupel.protocol.types import Root

_NAMES = {
    # In the order the library lays tensors out, larger alignments first, so that every tensor stays aligned.
    DType.INT64: "I64",
    DType.FLOAT32: "F32",
    DType.INT32: "I32",
    DType.INT16: "I16",
    DType.INT8: "I8",
    DType.UINT8: "U8",
    DType.BOOL: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_PLACE = {dtype: place for place, dtype in enumerate(_NAMES)}
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLimits:
    """What is refused before any memory is spent on it."""

    header_bytes: int = 16 << 20
    tensors: int = 1 << 17
    name_bytes: int = 1024
    """Longest name in UTF-8; state leaves could hold 65,535."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.size_bytes


def encode_state(state: Mapping[str, torch.Tensor]) -> bytes:
    """The one file of these tensors, whatever the mapping's order and the tensors' layout or device.

    Raises  MalformedInput: a type that has no root, more than MAX_RANK dimensions, or a name that is not UTF-8
    """
    return b"".join(_parts(state))


def encode_in_pieces(state: Mapping[str, torch.Tensor], piece_bytes: int) -> Iterator[bytes]:
    """`encode_state`, cut into pieces of that many bytes, the last one short: no second copy of a large state."""
    piece, filled = bytearray(piece_bytes), 0
    for part in _parts(state):
        left = memoryview(part)
        while left:
            taken = min(len(left), piece_bytes - filled)
            piece[filled : filled + taken] = left[:taken]
            left, filled = left[taken:], filled + taken
            if filled == piece_bytes:
                yield bytes(piece)
                filled = 0
    if filled:
        yield bytes(piece[:filled])


def _parts(state: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The file's header, then each tensor's bytes."""
    entries = _ordered([_Entry(name, DType.of(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()])
    for entry in entries:
        _check_entry(entry, StateLimits())
    yield _header(entries)
    for entry in entries:
        yield _bytes_of(state[entry.name])


def decode_state(data: bytes | bytearray | memoryview, limits: StateLimits | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, in the file's order.

    data    a writable buffer is not copied: the tensors are views of it and keep it alive
    Raises  MalformedInput: anything but the one file of some state, or beyond the limits. Nothing is ever executed.
    """
    limits = limits or StateLimits()
    view = memoryview(data).cast("B")
    entries, start = _read_header(view, limits)
    if start + sum(entry.size_bytes for entry in entries) != len(view):
        stated = sum(entry.size_bytes for entry in entries)
        raise MalformedInput(f"state file: its header states {stated:,} bytes of tensors, {len(view) - start:,} follow")
    buffer = bytearray(view) if view.readonly else data
    tensors: dict[str, torch.Tensor] = {}
    for entry in entries:
        tensors[entry.name] = _tensor(buffer, entry, start)
        start += entry.size_bytes
    return tensors


def check_state_root(what: str, state: Mapping[str, torch.Tensor], expected: Root) -> None:
    """Raises RootMismatch, saying `what` it was, unless that is its root; MalformedTensor if it can have none."""
    got = state_root(state)
    if got != expected:
        raise RootMismatch(what, expected=expected, got=got)


def _ordered(entries: list[_Entry]) -> list[_Entry]:
    return sorted(entries, key=lambda entry: (_PLACE[entry.dtype], entry.name.encode("utf-8", "surrogatepass")))


def _header(entries: list[_Entry]) -> bytes:
    table: dict[str, object] = {}
    at = 0
    for entry in entries:
        end = at + entry.size_bytes
        table[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _read_header(view: memoryview, limits: StateLimits) -> tuple[list[_Entry], int]:
    """Entries in order, and where the tensors' bytes begin."""
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(view) < _LENGTH_BYTES or length > limits.header_bytes or start > len(view):
        most = min(limits.header_bytes, len(view))
        raise MalformedInput(f"state file: a header of {length:,} bytes where at most {most:,} are possible")
    try:
        table = parse_json(bytes(view[_LENGTH_BYTES:start]))
    except (ValueError, RecursionError) as error:
        raise MalformedInput(f"state file: its header is not JSON ({type(error).__name__})") from None
    if not isinstance(table, dict) or len(table) > limits.tensors:
        raise MalformedInput(f"state file: its header is not a table of at most {limits.tensors:,} tensors")
    entries = [_entry(name, described) for name, described in table.items()]
    for entry in entries:
        _check_entry(entry, limits)
    if _header(_ordered(entries)) != view[:start]:
        raise MalformedInput("state file: its header is not the one spelling of these tensors")
    return entries, start


def _entry(name: str, described: object) -> _Entry:
    if not isinstance(described, dict):
        raise MalformedInput(f"state file: {name[:80]!r} is not described as a tensor")
    dtype, shape = described.get("dtype"), described.get("shape")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise MalformedInput(
            f"state file: {name[:80]!r} has type {dtype!r:.40}; one of {', '.join(_TYPES)} is possible"
        )
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise MalformedInput(f"state file: {name[:80]!r} has no shape of whole numbers")
    return _Entry(name, _TYPES[dtype], tuple(shape))


def _check_entry(entry: _Entry, limits: StateLimits) -> None:
    if entry.name == _METADATA:
        raise MalformedInput("state file: metadata has no place in a state")
    try:
        length = len(entry.name.encode())
    except UnicodeEncodeError:
        raise MalformedInput(f"state file: the name {entry.name[:80]!r} is not UTF-8") from None
    if length > limits.name_bytes:
        raise MalformedInput(f"state file: a name of {length:,} bytes; at most {limits.name_bytes:,}")
    # Bounding each size first keeps the product small, however hostile the numbers.
    if len(entry.shape) > MAX_RANK or not all(0 <= size < 1 << 48 for size in entry.shape):
        raise MalformedInput(f"state file: {entry.name[:80]!r} has a shape no tensor has: {entry.shape!r:.80}")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Row-major bytes, without a copy where the tensor already lies that way on the CPU."""
    array = tensor.detach().to("cpu").contiguous().reshape(-1).numpy()
    return array.view(np.uint8).data


def _tensor(buffer: bytes | bytearray | memoryview, entry: _Entry, start: int) -> torch.Tensor:
    count = prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype.torch)
    if entry.dtype == DType.BOOL and bool(
        (torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=start) > 1).any()
    ):
        raise MalformedTensor(f"state file: {entry.name[:80]!r} holds a bool that is neither 0 nor 1")
    return torch.frombuffer(buffer, dtype=entry.dtype.torch, count=count, offset=start).reshape(entry.shape)
