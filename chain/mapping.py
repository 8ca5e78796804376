"""Between eth-abi's nested tuples and our frozen values, by the values' own type annotations.

A dataclass stands for a struct, field by field in order; an IntEnum for an enum; `Cid` for the struct (codec, digest);
`tuple[X, ...]` for an array. Distinct byte and integer types are only names here: the ABI has checked their sizes.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Cid

CODECS = (0x55, 0x70)
"""Multicodec of raw bytes and of dag-pb nodes."""
_MULTIHASH = b"\x12\x20"
"""SHA-256, 32 bytes."""


def make_cid(codec: int, digest: bytes) -> Cid:
    """The CIDv1 in base32. Raises MalformedInput."""
    if codec not in CODECS or len(digest) != 32:
        raise MalformedInput(f"a CID of codec {codec:#x} with {len(digest)} bytes of digest; ours are raw or dag-pb")
    binary = bytes((1, codec)) + _MULTIHASH + digest
    return Cid("b" + base64.b32encode(binary).decode().lower().rstrip("="))


def split_cid(cid: Cid) -> tuple[int, bytes]:
    """Codec and digest. Raises MalformedInput."""
    try:
        binary = base64.b32decode(cid[1:].upper() + "=" * (-(len(cid) - 1) % 8))
    except ValueError as error:
        raise MalformedInput(f"{cid!r:.80} is not a CID in base32") from error
    codec, digest = binary[1:2], binary[4:]
    if binary[:1] != b"\x01" or binary[2:4] != _MULTIHASH or len(digest) != 32 or make_cid(codec[0], digest) != cid:
        raise MalformedInput(f"{cid!r:.80} is not a CIDv1 over SHA-256 of raw bytes or dag-pb")
    return codec[0], digest


@cache
def get_fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Names and resolved annotations of a dataclass's own fields, a base's first."""
    hints = typing.get_type_hints(kind)
    return tuple((one.name, hints[one.name]) for one in dataclasses.fields(kind))


def _identity(value: Any) -> Any:
    return value


@cache
def make_reader(annotation: Any) -> Callable[[Any], Any]:
    """A function from eth-abi's form to the annotated one."""
    if annotation is Cid:
        return lambda value: make_cid(*value)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and Cid in typing.get_args(annotation):
        return lambda value: None if value == (0, bytes(32)) else make_cid(*value)
    if typing.get_origin(annotation) is tuple:
        read_item = make_reader(typing.get_args(annotation)[0])
        return lambda value: tuple(read_item(item) for item in value)
    if isinstance(annotation, type) and issubclass(annotation, enum.IntEnum):
        return annotation
    if dataclasses.is_dataclass(annotation):
        kind: Any = annotation
        return lambda value: read_struct(kind, value)
    return _identity


def read_struct(kind: Any, values: Sequence[Any]) -> Any:
    """A frozen value of dataclass `kind` from a struct's members in order."""
    fields = get_fields(kind)
    return kind(
        **{name: make_reader(annotation)(value) for (name, annotation), value in zip(fields, values, strict=True)}
    )


def write_value(value: Any, annotation: Any) -> Any:
    """A value in eth-abi's form."""
    if annotation is Cid:
        return split_cid(value)
    if typing.get_origin(annotation) in (tuple, Sequence):
        item = typing.get_args(annotation)[0]
        return [write_value(one, item) for one in value]
    if dataclasses.is_dataclass(annotation):
        kind: Any = annotation
        return tuple(write_value(getattr(value, name), member) for name, member in get_fields(kind))
    return value
