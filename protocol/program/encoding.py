"""The binary encoding of a Program's items (docs/design/programs.md, "Encoding").

Every item is one leaf of the program's tree, so that a contract can be shown a single operation. Integers are
little-endian. Decoding trusts nothing: every count is bounded by the bytes that are left before anything is made.
"""

from __future__ import annotations

import struct

import torch

from cupel.protocol.arithmetic.canonical import check_canonical
from cupel.protocol.arithmetic.operations import MAX_ELEMENTS, MAX_RANK, DType, Opcode, Operation, TensorType
from cupel.protocol.errors import MalformedProgram, MalformedTensor
from cupel.protocol.types import Root

MAGIC = b"CUPEL\x00"
VERSION = 1
HEADER, INPUT, CONSTANT, OPERATION, OUTPUT = range(5)


def encode_header(inputs: int, constants: int, operations: int, outputs: int, structure: bytes) -> bytes:
    counts = struct.pack("<BHIIIII", HEADER, VERSION, inputs, constants, operations, outputs, len(structure))
    return counts + structure


def encode_type(type_: TensorType) -> bytes:
    return struct.pack(f"<BB{len(type_.shape)}Q", type_.dtype, len(type_.shape), *type_.shape)


def encode_input(type_: TensorType, name: str) -> bytes:
    return bytes([INPUT]) + encode_type(type_) + _encode_name(name)


def encode_constant(type_: TensorType, root: Root) -> bytes:
    return bytes([CONSTANT]) + encode_type(type_) + root


def encode_operation(op: Operation) -> bytes:
    return b"".join(
        (
            struct.pack(f"<BHH{len(op.operands)}I", OPERATION, op.opcode, len(op.operands), *op.operands),
            encode_type(op.result),
            struct.pack(f"<B{len(op.attributes)}q", len(op.attributes), *op.attributes),
        )
    )


def encode_output(value: int, name: str) -> bytes:
    return struct.pack("<BI", OUTPUT, value) + _encode_name(name)


def _encode_name(name: str) -> bytes:
    data = name.encode()
    return struct.pack("<H", len(data)) + data


class Reader:
    """Reads items front to back. Every method raises MalformedProgram where the bytes do not fit."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise MalformedProgram(f"{what}: {size} bytes wanted at offset {self._at}, {self.left} left")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def integers(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def kind(self, expected: int, what: str) -> None:
        (kind,) = self.integers("B", what)
        if kind != expected:
            raise MalformedProgram(f"{what}: item kind {kind} where {expected} belongs (offset {self._at - 1})")

    def type(self, what: str) -> TensorType:
        number, rank = self.integers("BB", what)
        if rank > MAX_RANK:
            raise MalformedProgram(f"{what}: rank {rank} above {MAX_RANK}")
        shape = self.integers(f"{rank}Q", what)
        try:
            dtype = DType(number)
        except ValueError:
            raise MalformedProgram(f"{what}: no element type has number {number}") from None
        type_ = TensorType(dtype, shape)
        if type_.is_too_large:
            raise MalformedProgram(f"{what}: {type_} has more than {MAX_ELEMENTS} elements")
        return type_

    def name(self, what: str) -> str:
        (length,) = self.integers("H", what)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise MalformedProgram(f"{what}: name is not UTF-8") from None

    def operation(self, what: str) -> Operation:
        self.kind(OPERATION, what)
        number, count = self.integers("HH", what)
        try:
            opcode = Opcode(number)
        except ValueError:
            raise MalformedProgram(f"{what}: no operation has number {number}") from None
        operands = self.integers(f"{count}I", what)
        result = self.type(what)
        (count,) = self.integers("B", what)
        return Operation(opcode, operands, result, self.integers(f"{count}q", what))

    def tensor(self, type_: TensorType, what: str) -> torch.Tensor:
        data = self.take(type_.size_bytes, what)
        if not data:
            return torch.empty(type_.shape, dtype=type_.dtype.torch)
        tensor = torch.frombuffer(bytearray(data), dtype=type_.dtype.torch).reshape(type_.shape)
        try:
            check_canonical(tensor, what)
        except MalformedTensor as error:
            raise MalformedProgram(str(error)) from None
        return tensor
