"""A trace: the root over what every value of one run of a Program was (docs/design/disputes.md).

One leaf a value, in the order of value ids (inputs, constants, operations), H(0x04 || item || tensor root); the trace's
root also covers the Program and the number of values, so that every path has one length.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.engines import EVALUATORS, choose_backend, run_graph, walk
from cupel.protocol.arithmetic.operations import Graph, Operation, TensorType
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import operation_leaf, sha256, tensor_leaf_count, tensor_root_of_tree
from cupel.protocol.program.program import Program
from cupel.protocol.trees import Tree
from cupel.protocol.types import Root

_TRACE = b"\x08"


def value_leaf(item: bytes, root: bytes) -> bytes:
    """Leaf of a value of any kind; of an operation it is roots.md's operation leaf."""
    return operation_leaf(item, root)


def trace_root(program: bytes, values: int, tree: bytes) -> Root:
    return Root(sha256(_TRACE + program + values.to_bytes(4, "little") + tree))


def value_item(program: Program, value: int) -> bytes:
    """The item that declares a value: items and values are numbered alike, after the header."""
    return program.items[1 + value]


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """Who holds the inputs can make it; who made it can open it. It holds hashes, no tensors."""

    program: Program
    trees: tuple[Root, ...]
    """Root of the tree over each value's bytes, by value id; with the type it gives the tensor root."""

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """Tensor root of every value."""
        return tuple(root_of(self.program.graph.type_of(v), tree) for v, tree in enumerate(self.trees))

    @property
    def operation_roots(self) -> tuple[Root, ...]:
        """Tensor root of every operation's result, in order."""
        return self.roots[len(self.program.graph.inputs) + len(self.program.graph.constants) :]

    @cached_property
    def tree(self) -> Tree:
        return Tree([value_leaf(item, root) for item, root in zip(self.program.items[1:], self.roots, strict=False)])

    @cached_property
    def root(self) -> Root:
        return trace_root(self.program.root, len(self.trees), self.tree.root)


def root_of(type_: TensorType, tree: bytes) -> Root:
    return tensor_root_of_tree(type_.dtype, type_.shape, tensor_leaf_count(type_.size_bytes), tree)


def tree_of(tensor: torch.Tensor) -> Tree:
    """The tree over a tensor's bytes."""
    return Tree(merkle.tensor_leaves(tensor))


def make_trace(program: Program, values: Iterator[tuple[int, torch.Tensor]]) -> Trace:
    """values: every value with its id, once, in any order."""
    graph = program.graph
    trees: list[Root | None] = [None] * (len(graph.inputs) + len(graph.constants) + len(graph.operations))
    for value, tensor in values:
        trees[value] = merkle.tree_root(merkle.tensor_leaves(tensor))
    return Trace(program=program, trees=tuple(tree for tree in trees if tree is not None))


def recompute(
    program: Program, inputs: Sequence[torch.Tensor], wanted: Collection[int], backend: str = "torch"
) -> dict[int, torch.Tensor]:
    """The values `wanted` of a run, computed again from its inputs in order, and nothing they do not rest on.

    A value is let go after its last use, so what is in memory at once is what one step needs, not a whole trace. The
    torch engine compiles nothing, which for one value takes longer than computing it.
    Raises  MalformedInput for a value that the Program does not have
    """
    graph = program.graph
    first = len(graph.inputs) + len(graph.constants)
    given: dict[int, torch.Tensor] = dict(enumerate([*inputs, *graph.constants]))
    beyond = [v for v in wanted if not 0 <= v < first + len(graph.operations)]
    if beyond:
        raise MalformedInput(f"value {beyond[0]}: the Program has {first + len(graph.operations)}")
    results = sorted(v for v in wanted if v >= first)
    part, numbers = _needed(graph, results)
    chosen = choose_backend(backend)
    found = {v: given[v] for v in wanted if v < first}
    if chosen in EVALUATORS:
        # One by one, as a trace is made: no value of a fused kernel has to be kept for its own sake.
        back = {numbers[v]: v for v in results}
        found |= {back[v]: tensor for v, tensor in walk(part, list(inputs), EVALUATORS[chosen]) if v in back}
    elif results:
        found |= dict(zip(results, run_graph(part, list(inputs), chosen), strict=True))
    return found


def _needed(graph: Graph, results: Sequence[int]) -> tuple[Graph, Mapping[int, int]]:
    """The graph that gives only `results`, and the ids that values have in it."""
    first = len(graph.inputs) + len(graph.constants)
    used = set(results)
    for at in reversed(range(len(graph.operations))):
        if first + at in used:
            used.update(graph.operations[at].operands)
    numbers = {value: value for value in range(first)}
    operations: list[Operation] = []
    for at, operation in enumerate(graph.operations):
        if first + at in used:
            numbers[first + at] = first + len(operations)
            operations.append(replace(operation, operands=tuple(numbers[v] for v in operation.operands)))
    return Graph(graph.inputs, graph.constants, tuple(operations), tuple(numbers[v] for v in results)), numbers
