"""Operations, values and elements in words."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from cupel.protocol.arithmetic.operations import DType, Opcode, Operation, Rounding
from cupel.protocol.disputes.elements import coordinates
from cupel.protocol.program import Program

_ATTRIBUTES: dict[Opcode, tuple[str, ...]] = {
    Opcode.SLICE: ("dim", "start", "step"),
    Opcode.CONCAT: ("dim",),
    Opcode.IOTA: ("dim",),
    Opcode.TOPK: ("k",),
    Opcode.SORT: ("descending",),
    Opcode.GATHER: ("dim",),
    Opcode.SCATTER: ("dim",),
    Opcode.QUANTIZE: ("digits", "plane"),
    Opcode.QUANTIZE_SCALED: ("digits", "plane"),
    Opcode.DOT: ("digits",),
    Opcode.DOT_ROWS: ("digits",),
    Opcode.PHILOX: ("stream",),
}


def show_element(dtype: DType, data: bytes) -> str:
    """An element's bytes as the number they are; floats with their bits, which is what is compared."""
    if dtype == DType.FLOAT32:
        (bits,) = struct.unpack("<I", data)
        return f"{np.frombuffer(data, dtype='<f4')[0]!s} (0x{bits:08x})"
    if dtype == DType.BOOL:
        return {b"\0": "false", b"\1": "true"}.get(data, f"0x{data.hex()}, which is no bool")
    return str(int.from_bytes(data, "little", signed=dtype != DType.UINT8))


def show_place(shape: Sequence[int], element: int) -> str:
    """The element's coordinates; of a scalar nothing."""
    return f"[{', '.join(map(str, coordinates(shape, element)))}]" if shape else ""


def show_operation(operation: Operation) -> str:
    """Opcode, attributes by name and the result's type: `SLICE(dim 1, start 0, step 2) → float32[4, 3]`."""
    attributes = operation.attributes
    if operation.opcode in (Opcode.CAST, Opcode.ROUND):
        words = [Rounding(attributes[0]).name.lower().replace("_", " ")]
    elif operation.opcode in _ATTRIBUTES:
        words = [f"{name} {n}" for name, n in zip(_ATTRIBUTES[operation.opcode], attributes, strict=True)]
    else:
        words = [str(n) for n in attributes]
    listed = f"({', '.join(words)})" if words else ""
    return f"{operation.opcode.name}{listed} → {operation.result}"


def name_value(program: Program, value: int) -> str:
    """What a value of a Program is, in a few words: `operation 12, EXP`, `input 0.weights.out`, `constant 3`."""
    inputs, constants = len(program.graph.inputs), len(program.constants)
    if value < inputs:
        return f"input {program.input_names[value]!r}"
    if value < inputs + constants:
        return f"constant {value - inputs}"
    number = value - inputs - constants
    return f"operation {number}, {program.operations[number].opcode.name}"


def name_results(program: Program, value: int) -> list[str]:
    """The outputs that a value is."""
    outputs = zip(program.output_names, program.graph.outputs, strict=True)
    return [name for name, given in outputs if given == value]
