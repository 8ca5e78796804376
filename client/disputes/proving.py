"""Where a claimed result goes wrong first, and the proof of the one element that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cupel.disputes.files import ProofFile, TraceFile
from cupel.disputes.inputs import Work, name_outputs
from cupel.disputes.wording import name_value
from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Operation, TensorType
from cupel.protocol.disputes import Opening, Prover, find_element, find_operation
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash
from cupel.protocol.proceedings import Difference
from cupel.protocol.program import Program
from cupel.protocol.program.traces import Trace, root_of, value_item, value_leaf
from cupel.protocol.trees import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The first wrong value, and its first wrong element as far as that can be told."""

    value: int
    type: TensorType
    operation: Operation | None
    """None for an input or a constant, which nothing computes."""
    wrong_values: int
    """Values (of a trace) or outputs (of a state) that are not right, this one included."""
    compared: int
    """Of so many."""
    element: int | None
    """Row-major; None where the accused's bytes are not known."""
    claimed: bytes
    right: bytes
    wrong_elements: int
    file: ProofFile | None
    """None where one element proves nothing; then `obstacle` says why, and what does."""
    obstacle: str


class Compared:
    """One run of a Program, computed here, beside what somebody says of it."""

    def __init__(self, work: Work, backend: str = "torch") -> None:
        self._prover = Prover(work.program, work.args, backend)

    @property
    def program(self) -> Program:
        return self._prover.program

    @property
    def trace(self) -> Trace:
        """The right one."""
        return self._prover.trace

    def read(self, value: int) -> torch.Tensor:
        """A value, right."""
        return self._prover.result(value)

    def compare_outputs(self, tensors: Mapping[str, torch.Tensor], source: str) -> Finding | None:
        """Against claimed outputs: the first in the Program's order that differs; None if all are right.

        What is proved is that no run of the Program ends so: the trace of the proof is the right one but for the
        outputs claimed.

        Raises  MalformedInput, UsageError as `name_outputs`
        """
        named = name_outputs(self.program, tensors, source)
        claimed: dict[int, bytes] = {}
        for name, value in zip(self.program.output_names, self.program.graph.outputs, strict=True):
            if name in named:
                data = merkle.tensor_bytes(named[name])
                if _tree(data).root != self.trace.trees[value]:
                    claimed[value] = data
        if not claimed:
            return None
        trees = [_tree(claimed[v]).root if v in claimed else tree for v, tree in enumerate(self.trace.trees)]
        posted = Trace(program=self.program, trees=tuple(trees)).tree
        found = find_operation(self.trace, posted.root, posted.children)
        return self._look(found, claimed[found.index], len(claimed), len(named))

    def compare_trace(self, posted: TraceFile, values: Mapping[str, torch.Tensor], source: str) -> Finding | None:
        """Against a posted trace and the bytes of values of it, which are called by their numbers.

        Raises  MalformedInput: the trace is another Program's; RootMismatch: the bytes are not the trace's
        """
        own = self.trace.tree
        if posted.program != self.program.root:
            raise RootMismatch("the trace's Program", expected=self.program.root, got=posted.program)
        if len(posted.leaves) != own.count:
            raise MalformedInput(f"the trace has {len(posted.leaves)} values, the Program has {own.count}")
        tree = Tree(posted.leaves)
        if tree.root == own.root:
            return None
        found = find_operation(self.trace, tree.root, tree.children)
        wrong = sum(a != b for a, b in zip(own.levels[0], posted.leaves, strict=True))
        name, type_ = str(found.index), self.program.graph.type_of(found.index)
        if name not in values:
            return self._without_bytes(
                found.index, wrong, f"its bytes as they were posted are not known: give them as {name!r} in --values"
            )
        tensor = values[name]
        if TensorType.of(tensor) != type_:
            raise MalformedInput(f"{source}: value {name} is {TensorType.of(tensor)}, the Program says {type_}")
        data = merkle.tensor_bytes(tensor)
        leaf = value_leaf(value_item(self.program, found.index), root_of(type_, _tree(data).root))
        if leaf != found.leaf:
            raise RootMismatch(f"{source}: value {name} as the trace has it", expected=found.leaf, got=leaf)
        return self._look(found, data, wrong, own.count)

    def _without_bytes(self, value: int, wrong: int, obstacle: str) -> Finding:
        return Finding(
            value=value,
            type=self.program.graph.type_of(value),
            operation=self._operation(value),
            wrong_values=wrong,
            compared=self.trace.tree.count,
            element=None,
            claimed=b"",
            right=b"",
            wrong_elements=0,
            file=None,
            obstacle=obstacle,
        )

    def _operation(self, value: int) -> Operation | None:
        number = value - len(self.program.graph.inputs) - len(self.program.constants)
        return self.program.operations[number] if number >= 0 else None

    def _look(self, found: Difference, data: bytes, wrong: int, compared: int) -> Finding:
        """Down to the element, and its proof if an operation gave it."""
        own = self.read(found.index)
        type_, right = TensorType.of(own), merkle.tensor_bytes(own)
        tree = _tree(data)

        def leaf(number: int) -> bytes:
            return data[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]

        element, claimed = find_element(own, tree.root, tree.children, leaf)
        size = type_.dtype.size_bytes
        at = slice(element * size, (element + 1) * size)
        operation = self._operation(found.index)
        file, obstacle = self._prove(found, tree, element, claimed, operation)
        return Finding(
            value=found.index,
            type=type_,
            operation=operation,
            wrong_values=wrong,
            compared=compared,
            element=element,
            claimed=data[at],
            right=right[at],
            wrong_elements=_count_wrong(data, right, size),
            file=file,
            obstacle=obstacle,
        )

    def _prove(
        self, found: Difference, tree: Tree, element: int, claimed: Opening, operation: Operation | None
    ) -> tuple[ProofFile | None, str]:
        if operation is None:
            what = name_value(self.program, found.index)
            return None, (
                f"{what} is not computed: it has to be the state's, the batch's or the Program's own; "
                "on chain its root is compared (docs/design/court.md)"
            )
        try:
            claim, proof = self._prover.prove(found, tree.root, element, claimed)
        except MalformedProof as refused:
            if refused.name != "TooLong":
                raise
            terms, limit = refused.numbers
            return None, (
                f"the element is made of {terms!r} terms, more than {limit!r}: it is not judged "
                'at once but by partial sums (docs/design/disputes.md, "Long elements")'
            )
        return ProofFile(claim=claim, proof=proof), ""


def _tree(data: bytes) -> Tree:
    """The tree over a tensor's bytes."""
    return Tree([leaf_hash(data[at : at + LEAF_BYTES]) for at in range(0, len(data), LEAF_BYTES)])


def _count_wrong(claimed: bytes, right: bytes, size: int) -> int:
    """Elements whose bytes differ."""
    one, other = (torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, size) for data in (claimed, right))
    return int((one != other).any(dim=1).sum())
