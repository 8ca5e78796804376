"""When a worker does what: stretches of local operations with exchanges between them.

Everything is done as late as what needs it allows, and all exchanges that could take place at one time are one: a
training step then meets a handful of times, however many layers its model has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cupel.protocol.arithmetic.operations import Graph, Opcode, Operation, TensorType
from cupel.protocol.parallel.nodes import Constant, Input, Meeting, Nodes, Taken

_CHEAP = frozenset(
    {
        Opcode.RESHAPE,
        Opcode.PERMUTE,
        Opcode.EXPAND,
        Opcode.SLICE,
        Opcode.PAD,
        Opcode.IOTA,
        Opcode.EXPONENT,
        Opcode.QUANTIZE,
        Opcode.EXPONENT_SCALED,
        Opcode.QUANTIZE_SCALED,
    }
)
"""Done again in each stretch that reads them: engines fuse them into what follows, and a view copied into memory, or a
product whose quantising is out of sight, costs more."""


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Local operations, then the exchanges that follow. Numbers are nodes."""

    graph: Graph | None
    """None where nothing is computed."""
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    meetings: tuple[int, ...]
    """After the operations, at once."""
    forgets: tuple[int, ...]
    """Nodes that nobody reads any more after this stretch and its exchanges."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    stretches: tuple[Stretch, ...]
    outputs: tuple[int, ...]
    inputs: dict[int, int]
    """Node by number of the input."""
    constants: dict[int, torch.Tensor]
    """What is read between stretches rather than in them."""


def plan(nodes: Nodes, outputs: Sequence[int]) -> Schedule:
    return _Planner(nodes, outputs).run()


class _Planner:
    def __init__(self, nodes: Nodes, outputs: Sequence[int]) -> None:
        self.nodes, self.types = nodes.nodes, nodes.types
        self.outputs = tuple(outputs)

    def run(self) -> Schedule:
        earliest = self._earliest()
        last = max((earliest[node] for node in self.outputs), default=0)
        self._latest(last)
        reads: list[set[int]] = [set() for _ in range(last + 1)]
        """What each stretch's operations, and its exchanges, take from before."""
        needed: list[set[int]] = [set() for _ in range(last + 1)]
        """What each stretch must give: to exchanges, to later stretches, to the caller."""
        for number in self.outputs:
            needed[self.at[number]].add(number)
        for number, node in enumerate(self.nodes):
            if isinstance(node, Meeting) and number in self.at:
                for operand in node.operands:
                    needed[self.at[operand]].add(operand)
        bodies: list[list[int]] = [[] for _ in range(last + 1)]
        for stage in range(last, -1, -1):
            bodies[stage], reads[stage] = self._body(stage, needed[stage])
            for number in reads[stage]:
                needed[self.at[number]].add(number)
        return self._assemble(bodies, reads, needed)

    def _operands(self, number: int) -> tuple[int, ...]:
        node = self.nodes[number]
        if isinstance(node, Operation | Meeting | Constant):
            return node.operands
        return (node.meeting,) if isinstance(node, Taken) else ()

    def _earliest(self) -> list[int]:
        """The first stretch in which each node's result is there."""
        at: list[int] = []
        for number, node in enumerate(self.nodes):
            ready = max((at[operand] for operand in self._operands(number)), default=0)
            at.append(ready + 1 if isinstance(node, Taken) else ready)
        return at

    def _latest(self, last: int) -> None:
        """The last stretch in which each needed node can be done; an exchange follows the stretch it is at."""
        self.at: dict[int, int] = dict.fromkeys(self.outputs, last)
        for number in range(len(self.nodes) - 1, -1, -1):
            if number not in self.at:
                continue
            node, at = self.nodes[number], self.at[number]
            before = at - 1 if isinstance(node, Taken) else at
            for operand in self._operands(number):
                self.at[operand] = min(self.at.get(operand, last), before)
        for number, node in enumerate(self.nodes):
            if isinstance(node, Input) and number in self.at:
                self.at[number] = 0

    def _is_here(self, number: int, stage: int) -> bool:
        """Whether a stretch does the node itself."""
        node = self.nodes[number]
        if isinstance(node, Constant):
            return True
        return isinstance(node, Operation) and (self.at[number] == stage or node.opcode in _CHEAP)

    def _body(self, stage: int, wanted: set[int]) -> tuple[list[int], set[int]]:
        """The operations and constants of one stretch in order, and what it reads."""
        body: set[int] = set()
        reads: set[int] = set()
        open_ = [n for n in wanted if isinstance(self.nodes[n], Operation)]
        while open_:
            number = open_.pop()
            if number in body:
                continue
            body.add(number)
            for operand in () if isinstance(self.nodes[number], Constant) else self._operands(number):
                if self._is_here(operand, stage):
                    open_.append(operand)
                else:
                    reads.add(operand)
        return sorted(body), reads

    def _assemble(
        self, bodies: Sequence[Sequence[int]], reads: Sequence[set[int]], needed: Sequence[set[int]]
    ) -> Schedule:
        meetings: list[list[int]] = [[] for _ in bodies]
        for number, node in enumerate(self.nodes):
            if isinstance(node, Meeting) and number in self.at:
                meetings[self.at[number]].append(number)
        read_last: dict[int, int] = {}
        for stage in range(len(bodies)):
            for number in reads[stage]:
                read_last[number] = stage
            for meeting in meetings[stage]:
                for operand in self._operands(meeting):
                    read_last[operand] = stage
        for number in self.outputs:
            read_last[number] = len(bodies)
        stretches = []
        for stage, body in enumerate(bodies):
            writes = tuple(sorted(n for n in needed[stage] if isinstance(self.nodes[n], Operation)))
            graph = self._graph(body, sorted(reads[stage]), writes) if writes else None
            forgets = tuple(number for number, at in sorted(read_last.items()) if at == stage)
            stretches.append(Stretch(graph, tuple(sorted(reads[stage])), writes, tuple(meetings[stage]), forgets))
        constants = {n: node.tensor for n in read_last if isinstance(node := self.nodes[n], Constant)}
        inputs = {node.index: n for n, node in enumerate(self.nodes) if isinstance(node, Input) and n in self.at}
        return Schedule(tuple(stretches), self.outputs, inputs, constants)

    def _graph(self, body: Sequence[int], reads: Sequence[int], writes: Sequence[int]) -> Graph:
        constants = [n for n in body if isinstance(self.nodes[n], Constant)]
        operations = [n for n in body if isinstance(self.nodes[n], Operation)]
        number = {node: i for i, node in enumerate([*reads, *constants, *operations])}
        made = []
        for node in operations:
            operation = self.nodes[node]
            assert isinstance(operation, Operation)
            operands = tuple(number[operand] for operand in operation.operands)
            made.append(Operation(operation.opcode, operands, operation.result, operation.attributes))
        tensors = []
        for node in constants:
            constant = self.nodes[node]
            assert isinstance(constant, Constant)
            tensors.append(constant.tensor)
        inputs: tuple[TensorType, ...] = tuple(self.types[node] for node in reads)
        return Graph(inputs, tuple(tensors), tuple(made), tuple(number[node] for node in writes))
