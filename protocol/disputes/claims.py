"""What a judgement is about and what proves it, with their ABI encoding (docs/design/disputes.md, "The proof")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from cupel.protocol.disputes.errors import MalformedProof

CLAIM = "(bytes32,bytes32,uint32,uint32,uint64)"
_VALUE = "(bytes,bytes32,bytes32[])"
_OPENING = "(bytes,bytes32[])"
PROOF = f"(bytes32,{_VALUE},{_VALUE}[],{_OPENING},{_OPENING}[])"
SUMS = "(int32,uint64[2],int256[])"
BLOCK = "(uint64,uint64,int32,int256)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One element of one operation's result, as the trace of the accused has it."""

    program: bytes
    """The Program's root."""
    trace: bytes
    """Root of the trace that the accused posted."""
    values: int
    """Values of the Program: inputs, constants and operations."""
    value: int
    """Id of the operation's result."""
    element: int
    """Row-major index in it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the trace: its declaration, the tree over its bytes, and its path in the trace's tree."""

    item: bytes
    tree: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """Whole leaves of a tensor, one after another, and their path in its tree."""

    data: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Everything that recomputing an element takes; which bytes of an operand these are follows from the operation."""

    tree: bytes
    """Root of the tree over the trace's values."""
    operation: Value
    operands: tuple[Value, ...]
    """One for each operand, in order, also where one value is taken twice."""
    claimed: Opening
    """The leaf of the result that holds the element; empty where no element is judged (`judge_block`)."""
    openings: tuple[Opening, ...]
    """Leaves of operands, in the order in which the judge asks for them."""

    def to_bytes(self) -> bytes:
        """The ABI encoding that the contract takes."""
        return encode([PROOF], [astuple(self)])

    @staticmethod
    def from_bytes(data: bytes) -> Proof:
        """Raises MalformedProof unless it is the encoding of a proof. Memory stays within a multiple of len(data)."""
        _check_layout(data)
        try:
            ((tree, operation, operands, claimed, openings),) = decode([PROOF], data)
        except (DecodingError, OverflowError) as wrong:
            raise MalformedProof("Undecodable", str(wrong)) from None
        proof = Proof(
            tree=tree,
            operation=_value(operation),
            operands=tuple(map(_value, operands)),
            claimed=_opening(claimed),
            openings=tuple(map(_opening, openings)),
        )
        if proof.to_bytes() != data:
            raise MalformedProof("Undecodable", "not the canonical encoding")
        return proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the accused posts about an element too long to recompute at once: partial sums, where its extreme lies."""

    exponent: int
    """Of the largest term of a float sum (`terms.key`); 0 for any other operation."""
    positions: tuple[int, int]
    """Terms that have it: one, twice, or infinities of both signs. 0 where nothing is to be named."""
    sums: tuple[int, ...]
    """Exact integer sums of consecutive blocks; none for an operation that sums nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of an element's terms and the sum that the accused posted for it."""

    first: int
    end: int
    """One past the last term."""
    exponent: int
    total: int


_WORD_BYTES = 32
_VALUE_PARTS = ("bytes", "word", "words")
_OPENING_PARTS = ("bytes", "words")
_PROOF_PARTS = ("word", _VALUE_PARTS, [_VALUE_PARTS], _OPENING_PARTS, [_OPENING_PARTS])
"""The proof's layout: a tuple for a struct, a list of one for an array of structs."""


def _check_layout(data: bytes) -> None:
    """That every part follows the one before it, each offset being the one that it then has.

    A decoder follows offsets: a few kilobytes that name one long part a thousand times would become gigabytes.
    """

    def word(at: int) -> int:
        if at + _WORD_BYTES > len(data):
            raise MalformedProof("Undecodable", f"{len(data)} bytes end before offset {at + _WORD_BYTES}")
        return int.from_bytes(data[at : at + _WORD_BYTES], "big")

    def walk(parts: Any, at: int) -> int:
        """Where the part that begins at `at` ends."""
        if parts == "bytes":
            end = at + _WORD_BYTES + -(-word(at) // _WORD_BYTES) * _WORD_BYTES
        elif parts == "words":
            end = at + _WORD_BYTES * (1 + word(at))
        elif isinstance(parts, list):
            # Offsets count from behind the number of elements.
            count = word(at)
            if at + _WORD_BYTES * (1 + count) > len(data):
                raise MalformedProof("Undecodable", f"{count} elements announced in {len(data)} bytes")
            return walk_heads(parts * count, at + _WORD_BYTES)
        else:
            return walk_heads(parts, at)
        if end > len(data):
            raise MalformedProof("Undecodable", f"{len(data)} bytes end before offset {end}")
        return end

    def walk_heads(parts: Sequence[Any], start: int) -> int:
        end = start + _WORD_BYTES * len(parts)
        for place, part in enumerate(parts):
            if part == "word":
                word(start + place * _WORD_BYTES)
                continue
            if word(start + place * _WORD_BYTES) != end - start:
                raise MalformedProof("Undecodable", "not the canonical encoding")
            end = walk(part, end)
        return end

    if walk_heads([_PROOF_PARTS], 0) != len(data):
        raise MalformedProof("Undecodable", "not the canonical encoding")


def _value(decoded: tuple[bytes, bytes, tuple[bytes, ...]]) -> Value:
    item, tree, path = decoded
    return Value(item, tree, tuple(path))


def _opening(decoded: tuple[bytes, tuple[bytes, ...]]) -> Opening:
    data, path = decoded
    return Opening(data, tuple(path))
