"""Disputes to judge: Programs of one operation, a trace that lies in one element, and the contracts on py-evm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from contract_world import World, empty_world

from cupel.chain.abi import load_abi
from cupel.protocol import merkle
from cupel.protocol.arithmetic.cases import Case
from cupel.protocol.arithmetic.operations import Graph
from cupel.protocol.disputes import Claim, Opening, Proof, Prover, find_element, find_operation
from cupel.protocol.hashing import LEAF_BYTES, leaf_hash
from cupel.protocol.proceedings import Difference
from cupel.protocol.program import Program
from cupel.protocol.program.structure import Structure
from cupel.protocol.program.traces import Trace
from cupel.protocol.trees import Tree
from cupel.protocol.types import Address


def program_of(graph: Graph) -> Program:
    arguments = ["t", *range(len(graph.inputs))]
    return Program(graph=graph, structure=Structure(arguments, ["t", *range(len(graph.outputs))]))


def program_of_case(case: Case) -> Program:
    """The case's operation with its first operand as a constant, so that every proof meets each kind of value."""
    if not case.operands:
        return program_of(case.graph)
    inputs = case.graph.inputs[1:]
    n = len(inputs)
    operands = (n, *range(n))
    graph = Graph(inputs, case.operands[:1], (replace(case.operation, operands=operands),), (n + 1,))
    return program_of(graph)


def prover_of_case(case: Case) -> Prover:
    return Prover(program_of_case(case), list(case.operands[1:]), backend="torch")


@dataclass(frozen=True, eq=False)
class Liar:
    """Somebody whose trace is honest but for one value."""

    trace: Trace
    value: int
    data: bytes
    """The wrong value's bytes."""

    @property
    def tree(self) -> Tree:
        return _tree(self.data)

    def leaf(self, number: int) -> bytes:
        return self.data[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]

    def opening(self, element: int) -> Opening:
        """The leaf that holds an element."""
        size = self.trace.program.graph.type_of(self.value).dtype.size_bytes
        leaf = element * size // LEAF_BYTES
        return Opening(self.leaf(leaf), tuple(self.tree.path(leaf)))


def _tree(data: bytes) -> Tree:
    return Tree([leaf_hash(data[at : at + LEAF_BYTES]) for at in range(0, len(data), LEAF_BYTES)])


def tell_lie(honest: Trace, value: int, data: bytes) -> Liar:
    """A trace with other bytes for one result; what rests on it stays as it was, which no proof looks at."""
    trees = list(honest.trees)
    trees[value] = _tree(data).root
    return Liar(Trace(program=honest.program, trees=tuple(trees)), value, data)


def changed(tensor: torch.Tensor, element: int, mask: int) -> bytes:
    """The tensor's bytes with some bits of one element flipped."""
    data, size = bytearray(merkle.tensor_bytes(tensor)), tensor.element_size()
    bits = int.from_bytes(data[element * size : (element + 1) * size], "little") ^ mask
    data[element * size : (element + 1) * size] = bits.to_bytes(size, "little")
    return bytes(data)


def found_in(trace: Trace, value: int) -> Difference:
    """A value as though the traces differed there."""
    return Difference(value, trace.tree.levels[0][value], tuple(trace.tree.path(value)))


def expose(prover: Prover, liar: Liar) -> tuple[Claim, Proof]:
    """Find the lie as a challenger does, and prove it."""
    found = find_operation(prover.trace, liar.trace.tree.root, liar.trace.tree.children)
    element, claimed = find_element(prover.result(found.index), liar.tree.root, liar.tree.children, liar.leaf)
    return prover.prove(found, liar.tree.root, element, claimed)


def prove_honest(prover: Prover, value: int, element: int) -> tuple[Claim, Proof]:
    """The proof of an element that is right: what a challenger without cause would send."""
    honest = Liar(prover.trace, value, merkle.tensor_bytes(prover.result(value)))
    return prover.prove(found_in(prover.trace, value), honest.tree.root, element, honest.opening(element))


@dataclass
class Referee:
    """The contracts on py-evm."""

    world: World
    evaluator: str
    terms: str

    def judge(self, claim: Claim, proof: Proof) -> bool:
        """Raises contract_world.Refused with the error's name and numbers, as all of them do."""
        return self.ask("judge", claim, proof)

    def ask(self, function: str, claim: Claim, *arguments: Any) -> bool:
        """A judgement as Python has it: dataclasses for structs."""
        return bool(self.answers(function, claim, *arguments))

    def answers(self, function: str, claim: Claim, *arguments: Any) -> Any:
        name, address = self._contract(function)
        return self.world.call_contract(name, address, function, *map(_plain, (claim, *arguments)))

    def send(self, function: str, claim: Claim, *arguments: Any) -> tuple[int, int]:
        """Gas of a whole transaction, and the bytes of its data."""
        name, address = self._contract(function)
        call = load_abi(name).bind(Address(address), function, *map(_plain, (claim, *arguments)))
        receipt, computation = self.world.send_raw(self.world.deployer, address, call.data)
        assert not computation.is_error, repr(computation.error)
        return int(receipt.gas_used), len(call.data)

    def _contract(self, function: str) -> tuple[str, str]:
        return ("Evaluator", self.evaluator) if function == "judge" else ("TermsEvaluator", self.terms)


def _plain(argument: Any) -> Any:
    return astuple(argument) if is_dataclass(argument) and not isinstance(argument, type) else argument


@cache
def deployed() -> Referee:
    world = empty_world(2).fork()
    evaluator = world.deploy("Evaluator", world.deploy("FunctionEvaluator"))
    return Referee(world, evaluator, world.deploy("TermsEvaluator"))


def elements_to_try(count: int, salt: int) -> Sequence[int]:
    """The first, the last, and one in between."""
    return sorted({0, count - 1, salt * 7919 % count}) if count else []
