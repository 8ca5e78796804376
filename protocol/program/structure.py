"""How nested arguments and results map to numbered tensors, and the canonical JSON that says so.

A node is a tensor's index, None, or a list that opens with its kind: ["l", ...] list, ["t", ...] tuple,
["d", [key, value], ...] dict in insertion order (docs/design/programs.md). Tensors are numbered in the order a
reader meets them, so one structure has one encoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cupel.protocol.errors import MalformedProgram, MalformedTensor, UsageError
from cupel.protocol.json_text import parse_json

Node = int | None | list[Any]

MAX_DEPTH = 64
"""Nesting a structure may have; recursion stays far from Python's own limit."""
MAX_STRUCTURE_BYTES = 1 << 22
MAX_NAME_BYTES = (1 << 16) - 1
MAX_NAMES_BYTES = 1 << 26
"""All paths together: a long key over many tensors would otherwise grow far beyond the bytes it came in."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a function's arguments and of its result."""

    arguments: Node
    """Always a tuple node: one child per positional argument."""
    result: Node

    def to_bytes(self) -> bytes:
        return json.dumps([self.arguments, self.result], separators=(",", ":"), ensure_ascii=False).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Structure:
        """Raises MalformedProgram unless `data` is the canonical encoding of a structure."""
        if len(data) > MAX_STRUCTURE_BYTES:
            raise MalformedProgram(f"structure of {len(data)} bytes; at most {MAX_STRUCTURE_BYTES} are read")
        try:
            pair = parse_json(data, max_depth=2 * MAX_DEPTH)
            canonical = json.dumps(pair, separators=(",", ":"), ensure_ascii=False).encode() == data
        except (ValueError, RecursionError) as error:
            raise MalformedProgram(f"structure is not JSON: {error}") from None
        if not canonical:
            raise MalformedProgram("structure is JSON, but not in its canonical form")
        if not (isinstance(pair, list) and len(pair) == 2):
            raise MalformedProgram("structure is not a pair [arguments, result]")
        arguments, result = pair
        if not (isinstance(arguments, list) and arguments[:1] == ["t"]):
            raise MalformedProgram("arguments are not a tuple")
        for which, node in (("arguments", arguments), ("result", result)):
            _check_node(node, which)
            named = leaves(node)
            if [index for _, index in named] != list(range(len(named))):
                raise MalformedProgram(f"tensors of the {which} are not numbered 0, 1, ... in order")
            _check_names([name for name, _ in named], which)
        return Structure(arguments, result)


def _check_node(node: Any, which: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise MalformedProgram(f"structure nested deeper than {MAX_DEPTH}")
    if node is None or type(node) is int:
        return
    if not (isinstance(node, list) and node and node[0] in ("l", "t", "d")):
        raise MalformedProgram(f"{which}: {str(node)[:60]} is no structure")
    children = node[1:]
    if node[0] == "d":
        for pair in children:
            if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                raise MalformedProgram(f"{which}: a dict entry is not [name, value]")
        if len({pair[0] for pair in children}) != len(children):
            raise MalformedProgram(f"{which}: a dict names one key twice")
        children = [pair[1] for pair in children]
    for child in children:
        _check_node(child, which, depth + 1)


def _check_names(names: Sequence[str], which: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MalformedProgram(f"{which}: two tensors are both called {name[:80]!r}; keys with dots can collide")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise MalformedProgram(f"{which}: a name of {len(name.encode())} bytes; at most {MAX_NAME_BYTES} fit")
        seen.add(name)


def leaves(node: Node) -> list[tuple[str, int]]:
    """The (name, index) of every tensor in `node`, names being dotted paths, in order.

    Raises MalformedProgram when the names together pass MAX_NAMES_BYTES.
    """
    found: list[tuple[str, int]] = []
    budget = MAX_NAMES_BYTES

    def walk(node: Node, path: str) -> None:
        nonlocal budget
        budget -= len(path)
        if budget < 0:
            raise MalformedProgram(f"the names of a structure's tensors pass {MAX_NAMES_BYTES} bytes")
        if isinstance(node, int):
            found.append((path, node))
        elif node is not None:
            for key, child in _children(node):
                walk(child, _join(path, key))

    walk(node, "")
    return found


def _children(node: list[Any]) -> list[tuple[str, Node]]:
    if node[0] == "d":
        return [(key, child) for key, child in node[1:]]
    return [(str(i), child) for i, child in enumerate(node[1:])]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def flatten(value: object, what: str) -> tuple[Node, list[torch.Tensor]]:
    """The structure of nested dicts, lists and tuples (torch.return_types among them), and its tensors in order.

    Raises UsageError naming the path of anything that is neither a tensor, a container, nor None.
    """
    tensors: list[torch.Tensor] = []

    def walk(x: object, path: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UsageError(f"{what}: nested deeper than {MAX_DEPTH} at {path[:60]!r}")
        if x is None:
            return None
        if isinstance(x, torch.Tensor):
            tensors.append(x)
            return len(tensors) - 1
        # torch.topk, sort, max, ... return tuples of their own types; other named tuples would lose their names.
        if isinstance(x, list | tuple) and (type(x) in (list, tuple) or type(x).__module__ == "torch.return_types"):
            kind = "l" if type(x) is list else "t"
            return [kind, *(walk(y, _join(path, str(i)), depth + 1) for i, y in enumerate(x))]
        if isinstance(x, dict):
            for key in x:
                if not isinstance(key, str):
                    raise UsageError(f"{what}: key {key!r} at {path or 'the top'} is not a string")
            return ["d", *([key, walk(y, _join(path, key), depth + 1)] for key, y in x.items())]
        raise UsageError(
            f"{what}: {type(x).__name__} at {path or 'the top'}; use tensors in dicts, lists and tuples "
            "(make a number a tensor, or close over it)"
        )

    node = walk(value, "", 0)
    try:
        _check_names([name for name, _ in leaves(node)], what)
    except MalformedProgram as error:
        raise UsageError(str(error)) from None
    return node, tensors


def unflatten(node: Node, values: Sequence[Any]) -> Any:
    """The nested value whose tensors are `values`; the inverse of `flatten`."""
    if node is None:
        return None
    if isinstance(node, int):
        return values[node]
    if node[0] == "d":
        return {key: unflatten(child, values) for key, child in node[1:]}
    items = [unflatten(child, values) for child in node[1:]]
    return items if node[0] == "l" else tuple(items)


def match(node: Node, value: object, check: Callable[[str, int, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of `value`, which must have the structure `node`; dict keys may stand in any order.

    check(name, index, tensor) returns the tensor to use. Raises MalformedTensor naming the first path that differs.
    """
    found: list[torch.Tensor] = []

    def walk(node: Node, x: object, path: str) -> None:
        where = path or "the argument"
        if node is None:
            if x is not None:
                raise MalformedTensor(f"{where}: expected None, got {type(x).__name__}")
        elif isinstance(node, int):
            if not isinstance(x, torch.Tensor):
                raise MalformedTensor(f"{where}: expected a tensor, got {type(x).__name__}")
            found.append(check(path, node, x))
        elif node[0] == "d":
            if not isinstance(x, dict):
                raise MalformedTensor(f"{where}: expected a dict, got {type(x).__name__}")
            names = [key for key, _ in node[1:]]
            if missing := [key for key in names if key not in x]:
                raise MalformedTensor(f"{where}: {missing[0]!r} is missing ({len(missing)} of {len(names)} keys are)")
            if extra := [key for key in x if key not in set(names)]:
                raise MalformedTensor(f"{where}: unknown key {extra[0]!r}")
            for key, child in node[1:]:
                walk(child, x[key], _join(path, key))
        else:
            kind = list if node[0] == "l" else tuple
            if not isinstance(x, kind) or len(x) != len(node) - 1:
                got = f"{type(x).__name__} of {len(x)}" if isinstance(x, list | tuple) else type(x).__name__
                raise MalformedTensor(f"{where}: expected a {kind.__name__} of {len(node) - 1}, got {got}")
            for i, child in enumerate(node[1:]):
                walk(child, x[i], _join(path, str(i)))

    walk(node, value, "")
    return found
