"""A Program: typed inputs, constants, operations in SSA order and named outputs, and the root that names it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Graph, Operation, TensorType, check_operation
from cupel.protocol.errors import MalformedProgram
from cupel.protocol.program import encoding
from cupel.protocol.program.structure import MAX_STRUCTURE_BYTES, Structure, leaves
from cupel.protocol.types import Root


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """A function of tensors as data. Two Programs are equal when their roots are.

    Made by `trace` or `from_bytes`; both leave only well-typed graphs. Read-only, tensors of `constants` included.
    """

    graph: Graph
    """What an engine compiles: input types, constants, operations, output value ids."""
    structure: Structure
    """How arguments and result nest; input and output names are the paths in it."""

    def __post_init__(self) -> None:
        if len(self.input_names) != len(self.graph.inputs) or len(self.output_names) != len(self.graph.outputs):
            raise MalformedProgram(
                f"structure holds {len(self.input_names)} arguments and {len(self.output_names)} results, the graph "
                f"{len(self.graph.inputs)} inputs and {len(self.graph.outputs)} outputs"
            )

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        return self.graph.constants

    @property
    def operations(self) -> tuple[Operation, ...]:
        return self.graph.operations

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Dotted paths from the argument's position on, such as `0.weights.embedding`."""
        return tuple(name for name, _ in leaves(self.structure.arguments))

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Dotted paths in the result; a bare tensor is called by the empty string."""
        return tuple(name for name, _ in leaves(self.structure.result))

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Name and type of every input, in order."""
        return dict(zip(self.input_names, self.graph.inputs, strict=True))

    @property
    def outputs(self) -> dict[str, TensorType]:
        """Name and type of every output, in order."""
        return {n: self.graph.type_of(v) for n, v in zip(self.output_names, self.graph.outputs, strict=True)}

    @cached_property
    def items(self) -> tuple[bytes, ...]:
        """The encoding of every item: header, inputs, constants, operations, outputs. One leaf of the tree each."""
        graph, structure = self.graph, self.structure.to_bytes()
        header = encoding.encode_header(
            len(graph.inputs), len(graph.constants), len(graph.operations), len(graph.outputs), structure
        )
        return (
            header,
            *map(encoding.encode_input, graph.inputs, self.input_names),
            *(encoding.encode_constant(TensorType.of(c), merkle.tensor_root(c)) for c in graph.constants),
            *map(encoding.encode_operation, graph.operations),
            *map(encoding.encode_output, graph.outputs, self.output_names),
        )

    @cached_property
    def root(self) -> Root:
        """The Merkle root over the items; what the chain stores."""
        return merkle.tree_root([merkle.leaf_hash(item) for item in self.items])

    def operation_leaf(self, index: int, output_root: Root) -> bytes:
        """H(0x04 ‖ encoding ‖ output root): how a trace commits to what operation `index` gave."""
        return merkle.operation_leaf(encoding.encode_operation(self.graph.operations[index]), output_root)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        graph = self.graph
        return (
            f"<Program 0x{self.root.hex()[:16]}: {len(graph.inputs)} inputs, {len(graph.constants)} constants, "
            f"{len(graph.operations)} operations, {len(graph.outputs)} outputs>"
        )

    def to_bytes(self) -> bytes:
        """The whole Program; each constant's item is followed by its elements."""
        first = 1 + len(self.graph.inputs)
        parts = [encoding.MAGIC]
        for i, item in enumerate(self.items):
            parts.append(item)
            if first <= i < first + len(self.graph.constants):
                parts.append(merkle.tensor_bytes(self.graph.constants[i - first]))
        return b"".join(parts)

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview) -> Program:
        """The Program whose `to_bytes` is `data`.

        Raises MalformedProgram for anything else. Nothing is executed, and memory stays within a small multiple
        of len(data): no shape is allocated, only constants whose bytes are there.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise MalformedProgram(f"a Program is read from bytes, not from {type(data).__name__}")
        read = encoding.Reader(data)
        if read.take(len(encoding.MAGIC), "magic") != encoding.MAGIC:
            raise MalformedProgram("these bytes are no Program: they do not start with CUPEL\\0")
        read.kind(encoding.HEADER, "header")
        version, *counts = read.integers("HIIII", "header")
        if version != encoding.VERSION:
            raise MalformedProgram(f"version {version} of the encoding; this node reads {encoding.VERSION}")
        # No item is shorter than four bytes: a count beyond that lies, and nothing is made for it.
        if sum(counts) > read.left // 4:
            raise MalformedProgram(f"{sum(counts)} items announced in {read.left} bytes")
        (length,) = read.integers("I", "header")
        if length > MAX_STRUCTURE_BYTES:
            raise MalformedProgram(f"structure of {length} bytes; at most {MAX_STRUCTURE_BYTES} are read")
        structure = Structure.from_bytes(read.take(length, "structure"))
        n_inputs, n_constants, n_operations, n_outputs = counts
        names = [name for name, _ in leaves(structure.arguments)]
        results = [name for name, _ in leaves(structure.result)]
        if len(names) != n_inputs or len(results) != n_outputs:
            raise MalformedProgram(
                f"structure holds {len(names)} arguments and {len(results)} results, the header announces "
                f"{n_inputs} and {n_outputs}"
            )

        types: list[TensorType] = []
        for i, name in enumerate(names):
            what = f"input {i}"
            read.kind(encoding.INPUT, what)
            types.append(read.type(what))
            _check_name(read.name(what), name, what)
        inputs = tuple(types)

        constants = []
        for i in range(n_constants):
            what = f"constant {i}"
            read.kind(encoding.CONSTANT, what)
            types.append(read.type(what))
            root = read.take(32, what)
            constants.append(read.tensor(types[-1], what))
            if merkle.tensor_root(constants[-1]) != root:
                raise MalformedProgram(f"{what}: its bytes do not hash to its root 0x{root.hex()}")

        operations = []
        for i in range(n_operations):
            what = f"operation {i}"
            operation = read.operation(what)
            if operation.operands and max(operation.operands) >= len(types):
                raise MalformedProgram(f"{what}: operand {max(operation.operands)} does not exist yet")
            check_operation(operation, [types[value] for value in operation.operands])
            operations.append(operation)
            types.append(operation.result)

        outputs = []
        for i, name in enumerate(results):
            what = f"output {i}"
            read.kind(encoding.OUTPUT, what)
            (value,) = read.integers("I", what)
            if value >= len(types):
                raise MalformedProgram(f"{what}: value {value} does not exist")
            _check_name(read.name(what), name, what)
            outputs.append(value)
        if read.left:
            raise MalformedProgram(f"{read.left} bytes follow the last output")
        graph = Graph(inputs, tuple(constants), tuple(operations), tuple(outputs))
        return Program(graph=graph, structure=structure)


def _check_name(name: str, expected: str, what: str) -> None:
    if name != expected:
        raise MalformedProgram(f"{what}: called {name[:80]!r} where the structure says {expected[:80]!r}")
