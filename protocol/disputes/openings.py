"""Reading elements of operands: the judge out of openings, the prover out of tensors, writing the openings down.

Whoever recomputes an element asks for ranges of elements. A range within the leaves opened last for that operand costs
nothing; any other takes the next opening, which must hold exactly the leaves that the range touches: a proof leaves no
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.disputes.claims import Opening
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash, tensor_leaf_count
from cupel.protocol.program.traces import tree_of
from cupel.protocol.trees import Tree, path_length, root_of_range


class Reader(Protocol):
    """One operand."""

    @property
    def type(self) -> TensorType: ...

    def read(self, first: int, count: int) -> bytes:
        """The bytes of `count` elements from `first` on, which exist."""
        ...


class Whole:
    """A reader over all bytes of a tensor, for what a party computes of its own."""

    def __init__(self, type_: TensorType, data: bytes) -> None:
        self._type, self._data = type_, data

    @property
    def type(self) -> TensorType:
        return self._type

    def read(self, first: int, count: int) -> bytes:
        size = self._type.dtype.size_bytes
        return self._data[first * size : (first + count) * size]


class Windowed:
    """A reader that keeps the leaves it was last given; `fetch(first leaf, last leaf)` gives their bytes."""

    def __init__(self, type_: TensorType, fetch: Callable[[int, int], bytes]) -> None:
        self._type, self._fetch = type_, fetch
        self._start, self._data = 0, b""

    @property
    def type(self) -> TensorType:
        return self._type

    def show(self, leaf: int, data: bytes) -> None:
        """Have the window lie on this leaf."""
        self._start, self._data = leaf * LEAF_BYTES, data

    def read(self, first: int, count: int) -> bytes:
        if count == 0:
            return b""
        size = self._type.dtype.size_bytes
        start, end = first * size, (first + count) * size
        if not (self._start <= start and end <= self._start + len(self._data)):
            leaf, last = start // LEAF_BYTES, (end - 1) // LEAF_BYTES
            self._data = self._fetch(leaf, last)
            self._start = leaf * LEAF_BYTES
        return self._data[start - self._start : end - self._start]


def check_opening(type_: TensorType, tree: bytes, first: int, last: int, opening: Opening, operand: int) -> bytes:
    """The bytes of leaves `first` to `last` of a tensor.

    Raises  MalformedProof: WrongLeafLength, WrongPathLength, NotInTensor
    """
    count = tensor_leaf_count(type_.size_bytes)
    expected = min((last + 1) * LEAF_BYTES, type_.size_bytes) - first * LEAF_BYTES
    if len(opening.data) != expected:
        raise MalformedProof("WrongLeafLength", expected, len(opening.data))
    length = path_length(count, first, last)
    if len(opening.path) != length:
        raise MalformedProof("WrongPathLength", length, len(opening.path))
    hashes = [leaf_hash(opening.data[i : i + LEAF_BYTES]) for i in range(0, expected, LEAF_BYTES)]
    if root_of_range(hashes, first, count, opening.path) != tree:
        raise MalformedProof("NotInTensor", operand, first)
    return opening.data


class Stream:
    """The openings of a proof, taken one after another."""

    def __init__(self, openings: Sequence[Opening]) -> None:
        self._given, self._used = openings, 0

    def reader(self, operand: int, type_: TensorType, tree: bytes) -> Windowed:
        def fetch(first: int, last: int) -> bytes:
            if self._used == len(self._given):
                raise MalformedProof("OpeningMissing", self._used)
            opening = self._given[self._used]
            self._used += 1
            return check_opening(type_, tree, first, last, opening, operand)

        return Windowed(type_, fetch)

    def check_used(self) -> None:
        if self._used != len(self._given):
            raise MalformedProof("OpeningsLeft", self._used, len(self._given))


class Recorder:
    """Readers over tensors that note what a judge will ask for."""

    def __init__(self) -> None:
        self.openings: list[Opening] = []

    def reader(self, tensor: torch.Tensor, tree: Tree | None = None) -> Windowed:
        type_, data = TensorType.of(tensor), merkle.tensor_bytes(tensor)
        known = tree_of(tensor) if tree is None else tree

        def fetch(first: int, last: int) -> bytes:
            part = data[first * LEAF_BYTES : (last + 1) * LEAF_BYTES]
            self.openings.append(Opening(part, tuple(known.path(first, last))))
            return part

        return Windowed(type_, fetch)

    def shown(self, type_: TensorType, leaves: Mapping[int, Opening]) -> Windowed:
        """A reader over leaves that somebody else opened, by number."""

        def fetch(first: int, last: int) -> bytes:
            if first != last or first not in leaves:
                raise MalformedInput(f"leaf {first} was not opened: ask for it first")
            self.openings.append(leaves[first])
            return leaves[first].data

        return Windowed(type_, fetch)


def leaf_of(type_: TensorType, element: int) -> int:
    """The leaf that holds an element."""
    return element * type_.dtype.size_bytes // LEAF_BYTES
