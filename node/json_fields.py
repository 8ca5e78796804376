"""Dataclasses as JSON and back: one mapping for records, archives and whatever else a node writes down.

Bytes are 0x-hex, tuples lists; what a reader finds must be exactly what a writer gives.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from cupel.node.log import plain

T = TypeVar("T")


def to_fields(value: Any) -> dict[str, Any]:
    """A dataclass's fields as JSON knows them."""
    fields: dict[str, Any] = plain(dataclasses.asdict(value))
    return fields


def from_fields(kind: type[T], fields: Mapping[str, Any]) -> T:
    """The dataclass whose `to_fields` are `fields`.

    Raises ValueError or TypeError: a field is missing, unknown, or not of its type
    """
    hints = typing.get_type_hints(kind)
    own = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    needed = {name for name, field in own.items() if field.default is dataclasses.MISSING}
    if not isinstance(fields, Mapping) or not needed <= set(fields) <= set(own):
        wrong = sorted(set(fields) ^ set(own)) if isinstance(fields, Mapping) else type(fields).__name__
        raise ValueError(f"{kind.__name__}: {wrong} missing or unknown")
    return kind(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    """`value` from JSON as the field of type `hint` that it was."""
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(typing.get_args(hint)[0], value)
    if origin is tuple:
        return tuple(_value(typing.get_args(hint)[0], one) for one in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{value!r} is not one of {typing.get_args(hint)}")
        return value
    if dataclasses.is_dataclass(hint):
        return from_fields(typing.cast("type[Any]", hint), value)
    if hint is bytes:
        return bytes.fromhex(value.removeprefix("0x"))
    if hint is float and type(value) is int:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{value!r} is not of type {hint.__name__}")
    return value
