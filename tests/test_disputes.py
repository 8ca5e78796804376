"""One element decides: the judge in Python and the contract call the same elements right, wrong and unproved.

CUPEL_DISPUTE_CASES=20 judges up to so many cases of every operation, three elements each, instead of one.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract_world import Refused
from referee_world import (
    Liar,
    changed,
    deployed,
    elements_to_try,
    expose,
    found_in,
    program_of,
    prove_honest,
    prover_of_case,
    tell_lie,
)

from cupel.protocol import merkle
from cupel.protocol.arithmetic import cases, reference
from cupel.protocol.arithmetic.cases import Case
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation, TensorType
from cupel.protocol.disputes import Claim, Opening, Proof, Prover, Value, find_element, find_operation, judge
from cupel.protocol.disputes.elements import recompute_element
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.openings import Recorder
from cupel.protocol.errors import MalformedInput, RootMismatch

CASES = int(os.environ.get("CUPEL_DISPUTE_CASES", "1"))
EVERY = list(cases.all_cases(seed=11, size=4))
ONE_EACH = {case.opcode: case for case in reversed(EVERY)}
SOME = [*ONE_EACH.values(), *EVERY[::5]]


def result_of(prover: Prover) -> tuple[int, torch.Tensor]:
    value = len(prover.trace.trees) - 1
    return value, prover.result(value)


def both_judge(claim: Claim, proof: Proof) -> bool:
    """The verdict of Python and contract, which must be one."""
    verdict = judge(claim, proof)
    assert deployed().judge(claim, proof) is verdict
    assert Proof.from_bytes(proof.to_bytes()) == proof
    return verdict


def test_every_operation_has_a_case() -> None:
    assert set(ONE_EACH) == set(Opcode)


@pytest.mark.parametrize("opcode", ONE_EACH, ids=lambda opcode: opcode.name.lower())
def test_an_element_is_right_and_one_unit_off_it_is_wrong(opcode: Opcode) -> None:
    chosen = [case for case in EVERY if case.opcode == opcode] if CASES > 1 else [ONE_EACH[opcode]]
    for number, case in enumerate(chosen[:CASES]):
        prover = prover_of_case(case)
        value, result = result_of(prover)
        tried = elements_to_try(result.numel(), 1 + number + opcode)
        for element in tried if CASES > 1 else tried[-1:]:
            assert both_judge(*prove_honest(prover, value, element)), (case.name, element)
            claim, proof = expose(prover, tell_lie(prover.trace, value, changed(result, element, 1)))
            assert claim.element == element
            assert not both_judge(claim, proof), (case.name, element)


@pytest.mark.parametrize("case", EVERY if CASES > 1 else SOME, ids=lambda case: case.name)
def test_elements_recomputed_alone_are_the_definitions(case: Case) -> None:
    expected = merkle.tensor_bytes(reference.evaluate(case.operation, case.operands))
    size = case.result.dtype.size_bytes
    for element in elements_to_try(case.result.elements, len(case.name)):
        recorder = Recorder()
        operands = [recorder.reader(tensor) for tensor in case.operands]
        got = recompute_element(case.operation, operands, element)
        assert got == expected[element * size : (element + 1) * size]


def test_elements_of_a_random_program_are_judged_as_the_definition_has_them() -> None:
    """All operations in one graph, and compositions in which results are operands."""
    together = cases.together(seed=CASES, size=4)
    whole = Prover(program_of(together.graph), list(together.inputs))
    first = len(together.graph.inputs) + len(together.graph.constants)
    lot = random.Random(CASES)
    filled = [v for v in range(first, len(whole.trace.trees)) if together.graph.type_of(v).elements]
    composed = [v for v in filled if any(o >= first for o in whole.operation(v).operands)]
    whole.hold(range(len(whole.trace.trees)))
    for value in [*lot.sample(composed, 5 * CASES), *lot.sample(filled, 2 * CASES)]:
        result = whole.result(value)
        element = lot.randrange(result.numel())
        assert both_judge(*prove_honest(whole, value, element))
        claim, proof = expose(whole, tell_lie(whole.trace, value, changed(result, element, 1)))
        assert (claim.value, claim.element) == (value, element)
        assert not both_judge(claim, proof)


def test_a_product_of_16384_terms_fits_a_transaction() -> None:
    q = torch.arange(-8192, 8192).to(torch.int16).reshape(1, -1)
    e = torch.zeros(1, dtype=torch.int32)
    longest = prover_of_case(Case("", Opcode.DOT, (e, e, q, q), TensorType(DType.FLOAT32, (1, 1)), (2,)))
    claim, proof = prove_honest(longest, result_of(longest)[0], 0)
    gas, size = deployed().send("judge", claim, proof)
    assert gas <= 4_000_000
    assert size <= 1 << 17


@pytest.mark.parametrize("opcode", [Opcode.TOPK, Opcode.SORT])
@pytest.mark.parametrize("place", [0, 1])
def test_neighbouring_places_of_an_order_cannot_be_swapped(opcode: Opcode, place: int) -> None:
    """The claimed index comes too late in the order, or too early."""
    prover = prover_of_case(ONE_EACH[opcode])
    value, result = result_of(prover)
    swapped = result.clone()
    swapped[0, place] = result[0, 1 - place]
    claim, proof = expose(prover, tell_lie(prover.trace, value, merkle.tensor_bytes(swapped)))
    assert claim.element == place
    assert not both_judge(claim, proof)


# What no honest party has: other patterns of NaN, bools of 2

ONE = torch.tensor([1.0, float("nan"), 2.0])


@pytest.mark.parametrize(
    ("opcode", "operands", "result", "mask"),
    [
        (Opcode.NEG, (ONE,), DType.FLOAT32, 1),
        (Opcode.NEG, (ONE,), DType.FLOAT32, 0x80000000),
        (Opcode.EQ, (ONE, ONE + 1), DType.BOOL, 2),
    ],
    ids=["another NaN", "a NaN with a sign", "a bool of 2"],
)
def test_bytes_that_no_value_has_are_wrong(
    opcode: Opcode, operands: tuple[torch.Tensor, ...], result: DType, mask: int
) -> None:
    prover = prover_of_case(Case("", opcode, operands, TensorType(result, (3,))))
    value, right = result_of(prover)
    assert not both_judge(*expose(prover, tell_lie(prover.trace, value, changed(right, 1, mask))))


def test_zeros_of_the_other_sign_are_wrong() -> None:
    prover = prover_of_case(
        Case("", Opcode.ADD, (torch.tensor([0.0]), torch.tensor([-0.0])), TensorType(DType.FLOAT32, (1,)))
    )
    value, right = result_of(prover)
    assert not both_judge(*expose(prover, tell_lie(prover.trace, value, changed(right, 0, 1 << 31))))


# Proofs that prove nothing

WIDE = torch.arange(3000.0).reshape(3, 1000)


@pytest.fixture(scope="module")
def prover() -> Prover:
    """A constant, an input, and three operations over several leaves."""
    f32 = TensorType(DType.FLOAT32, (3, 1000))
    operations = (
        Operation(Opcode.ADD, (0, 1), f32),
        Operation(Opcode.MUL, (2, 1), f32),
        Operation(Opcode.SUM, (3,), TensorType(DType.FLOAT32, (3,))),
    )
    return Prover(program_of(Graph((f32,), (WIDE / 7,), operations, (4,))), [WIDE])


Bend = Callable[[Claim, Proof], tuple[Claim, Proof]]
"""Claim and proof of element 500 of the first operation, made into something else."""


def in_claim(**changes: Any) -> Bend:
    return lambda claim, proof: (dataclasses.replace(claim, **changes), proof)


def in_proof(name: str, change: Callable[[Any], Any]) -> Bend:
    def bend(claim: Claim, proof: Proof) -> tuple[Claim, Proof]:
        return claim, dataclasses.replace(proof, **{name: change(getattr(proof, name))})

    return bend


def in_opening(change: Callable[[Opening], Opening]) -> Bend:
    """Of the second operand's leaf."""
    return in_proof("openings", lambda given: (given[0], change(given[1])))


def in_operand(number: int, change: Callable[[Value], Value]) -> Bend:
    def bend(operands: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(change(one) if i == number else one for i, one in enumerate(operands))

    return in_proof("operands", bend)


def other(hashes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (*hashes[:-1], bytes(32))


BENT: dict[str, tuple[str, Bend]] = {
    "another trace": ("NotTheTrace", in_claim(trace=bytes(32))),
    "another Program": ("NotTheTrace", in_claim(program=bytes(32))),
    "another number of values": ("NotTheTrace", in_claim(values=6)),
    "another tree": ("NotTheTrace", in_proof("tree", lambda _: bytes(32))),
    "another operation's place": ("NotInTrace", in_claim(value=3)),
    "an operation beyond the last": ("ValueOutOfRange", in_claim(value=5)),
    "an element beyond the shape": ("ElementOutOfRange", in_claim(element=3000)),
    "an element of another leaf": ("NotInTensor", in_claim(element=1500)),
    "an input in an operation's place": (
        "NotAnOperation",
        lambda c, p: (c, dataclasses.replace(p, operation=p.operands[0])),
    ),
    "an operand too few": ("WrongOperands", in_proof("operands", lambda given: given[:1])),
    "an operand too many": ("WrongOperands", in_proof("operands", lambda given: (*given, given[0]))),
    "another operand": ("NotInTrace", in_proof("operands", lambda given: given[::-1])),
    "an operand of another shape": (
        "NotInTrace",
        in_operand(0, lambda one: dataclasses.replace(one, item=one.item.replace(bytes([3, 0, 0]), bytes([4, 0, 0])))),
    ),
    "a constant with another tree": (
        "WrongConstant",
        in_operand(1, lambda one: dataclasses.replace(one, tree=bytes(32))),
    ),
    "an input with another tree": ("NotInTrace", in_operand(0, lambda one: dataclasses.replace(one, tree=bytes(32)))),
    "an item cut short": ("MalformedItem", in_operand(1, lambda one: dataclasses.replace(one, item=one.item[:-1]))),
    "no item": ("MalformedItem", in_operand(1, lambda one: dataclasses.replace(one, item=b""))),
    "another path in the trace": (
        "NotInTrace",
        in_operand(0, lambda one: dataclasses.replace(one, path=other(one.path))),
    ),
    "a path a hash too long": (
        "WrongPathLength",
        in_operand(0, lambda one: dataclasses.replace(one, path=(*one.path, bytes(32)))),
    ),
    "a leaf cut short": ("WrongLeafLength", in_opening(lambda one: Opening(one.data[:-1], one.path))),
    "a leaf too long": ("WrongLeafLength", in_opening(lambda one: Opening(one.data + b"\0", one.path))),
    "another leaf": ("NotInTensor", in_opening(lambda one: Opening(bytes(len(one.data)), one.path))),
    "another path in a tensor": ("NotInTensor", in_opening(lambda one: Opening(one.data, other(one.path)))),
    "a path a hash short": ("WrongPathLength", in_opening(lambda one: Opening(one.data, one.path[:-1]))),
    "an opening too few": ("OpeningMissing", in_proof("openings", lambda given: given[:1])),
    "an opening too many": ("OpeningsLeft", in_proof("openings", lambda given: (*given, given[0]))),
    "the claimed leaf cut short": (
        "WrongLeafLength",
        in_proof("claimed", lambda one: Opening(one.data[:-4], one.path)),
    ),
    "another claimed leaf": ("NotInTensor", in_proof("claimed", lambda one: Opening(bytes(len(one.data)), one.path))),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_proof_is_refused_by_name(prover: Prover, name: str) -> None:
    error, bend = BENT[name]
    claim, proof = bend(*prove_honest(prover, 2, 500))
    with pytest.raises(MalformedProof) as found:
        judge(claim, proof)
    assert found.value.name == error
    with pytest.raises(Refused) as refused:
        deployed().judge(claim, proof)
    assert refused.value.name == error
    assert tuple(refused.value.numbers.values()) == found.value.numbers


def test_a_row_too_long_is_refused() -> None:
    case = Case("", Opcode.SUM, (torch.zeros(1, 16_385),), TensorType(DType.FLOAT32, (1,)))
    long = prover_of_case(case)
    value, _ = result_of(long)
    with pytest.raises(MalformedProof, match=r"TooLong\(16385, 16384\)"):
        prove_honest(long, value, 0)


def test_undecodable_proofs_are_refused(prover: Prover) -> None:
    data = prove_honest(prover, 2, 0)[1].to_bytes()
    for spoilt in (data[:-32], data + bytes(32), b""):
        with pytest.raises(MalformedProof, match="Undecodable"):
            Proof.from_bytes(spoilt)


# Finding


def test_the_first_wrong_value_is_found_whatever_follows_it(prover: Prover) -> None:
    results = {v: prover.result(v) for v in (2, 3, 4)}
    for first in results:
        trace = prover.trace
        for value in range(first, 5):
            trace = tell_lie(trace, value, changed(results[value], 1, 1)).trace
        found = find_operation(prover.trace, trace.tree.root, trace.tree.children)
        assert found.index == first
        liar = Liar(trace, first, changed(results[first], 1, 1))
        element, claimed = find_element(results[first], liar.tree.root, liar.tree.children, liar.leaf)
        assert element == 1
        assert not both_judge(*prover.prove(found, liar.tree.root, element, claimed))


def test_a_lie_in_the_last_leaf_is_found(prover: Prover) -> None:
    liar = tell_lie(prover.trace, 2, changed(prover.result(2), 2999, 1 << 22))
    claim, proof = expose(prover, liar)
    assert (claim.value, claim.element, len(proof.claimed.data)) == (2, 2999, 4 * 3000 % 4096)
    assert not both_judge(claim, proof)


def test_there_is_nothing_to_find_between_equal_traces(prover: Prover) -> None:
    with pytest.raises(MalformedInput, match="the same"):
        find_operation(prover.trace, prover.trace.tree.root, prover.trace.tree.children)


def test_openings_that_do_not_hash_are_refused(prover: Prover) -> None:
    liar = tell_lie(prover.trace, 2, changed(prover.result(2), 5, 1))
    with pytest.raises(MalformedInput, match="do not hash"):
        find_operation(prover.trace, liar.trace.tree.root, prover.trace.tree.children)
    with pytest.raises(RootMismatch):
        find_element(prover.result(2), liar.tree.root, liar.tree.children, lambda number: bytes(4096))


def test_an_input_is_not_recomputed(prover: Prover) -> None:
    liar = Liar(prover.trace, 0, merkle.tensor_bytes(WIDE))
    with pytest.raises(MalformedInput, match="no operation's result"):
        prover.prove(found_in(prover.trace, 0), liar.tree.root, 0, liar.opening(0))
