"""The judge, as the contract is: whether a claimed element is right, recomputed from what the proof opens.

A proof that does not open exactly what the element takes is a `MalformedProof`, by the name of the contract's error; it
says nothing about the claim. `contracts/contracts/referee/Evaluator.sol` answers every proof alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel.protocol.arithmetic.binary32 import NAN, is_infinite
from cupel.protocol.arithmetic.operations import Operation, TensorType, check_operation
from cupel.protocol.disputes import terms
from cupel.protocol.disputes.claims import Block, Claim, Proof, Sums, Value
from cupel.protocol.disputes.elements import recompute_element
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.openings import Reader, Stream, check_opening, leaf_of
from cupel.protocol.errors import MalformedProgram
from cupel.protocol.hashing import tensor_leaf_count, tensor_root_of_tree
from cupel.protocol.program import encoding
from cupel.protocol.program.traces import trace_root, value_leaf
from cupel.protocol.trees import path_length, root_of_range

RESULT = 255
"""The number that errors give the result where they give an operand's."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A proof whose declarations were checked against the trace."""

    claim: Claim
    proof: Proof
    operation: Operation
    readers: Sequence[Reader]
    stream: Stream

    def claimed(self) -> bytes:
        """The element as the accused has it."""
        return self.result_reader().read(self.claim.element, 1)

    def result_reader(self) -> Reader:
        """The result of the accused: its first leaf to be read is `claimed`, further ones are openings."""
        type_, tree = self.operation.result, self.proof.operation.tree
        further = self.stream.reader(RESULT, type_, tree)
        place = leaf_of(type_, self.claim.element)
        data = check_opening(type_, tree, place, place, self.proof.claimed, RESULT)
        further.show(place, data)
        return further


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a proof shows."""

    operation: Operation
    claimed: bytes
    """The element as the accused has it, little-endian."""
    right: bytes
    """As the operation gives it."""


def examine(claim: Claim, proof: Proof) -> Judgement:
    """The element as it is claimed and as it should be. Raises MalformedProof."""
    opened = _open(claim, proof)
    claimed = opened.claimed()
    right = recompute_element(opened.operation, opened.readers, claim.element)
    opened.stream.check_used()
    return Judgement(opened.operation, claimed, right)


def judge(claim: Claim, proof: Proof) -> bool:
    """Whether the claimed element is right. Raises MalformedProof."""
    judgement = examine(claim, proof)
    return judgement.claimed == judgement.right


def count_terms(claim: Claim, proof: Proof) -> tuple[int, int]:
    """How many terms the element has, and how many of them one judgement adds up: 0 where one term decides.

    proof   opens no leaf
    Raises  MalformedProof, with NoTerms for an element of none and for an operation that has none
    """
    opened = _open(claim, proof)
    op = opened.operation
    _need_no_claim(proof)
    opened.stream.check_used()
    count = terms.count_terms(op, opened.readers, claim.element)
    if count == 0:
        raise MalformedProof("NoTerms", op.opcode)
    return count, 0 if op.opcode in terms.NAMED else terms.block_terms(op)


def judge_sums(claim: Claim, sums: Sums, proof: Proof) -> bool:
    """Whether the claimed element is what the posted sums round to, and the named terms are what `sums` says.

    Of an operation where one term decides: whether the named term gives it. Raises MalformedProof.
    """
    opened = _open(claim, proof)
    op, xs, element = opened.operation, opened.readers, claim.element
    claimed = opened.claimed()
    count = terms.count_terms(op, xs, element)
    named = op.opcode in terms.NAMED
    expected = 0 if named else -(-count // terms.child_terms(terms.block_terms(op), count))
    if len(sums.sums) != expected:
        raise MalformedProof("WrongSums", expected, len(sums.sums))
    if sums.exponent and not terms.is_float_sum(op):
        raise MalformedProof("NoExponent", sums.exponent)
    if named:
        stands = claimed == terms.named_value(op, xs, element, sums.positions[0])
    else:
        stands = _is_total(op, xs, element, claimed, sums)
    opened.stream.check_used()
    return stands


def judge_block(claim: Claim, block: Block, proof: Proof) -> bool:
    """Whether the terms of one block add up to what was posted for it. Raises MalformedProof."""
    opened = _open(claim, proof)
    op, xs, element = opened.operation, opened.readers, claim.element
    if op.opcode not in terms.SUMMED:
        raise MalformedProof("NoTerms", op.opcode)
    size, count = terms.block_terms(op), terms.count_terms(op, xs, element)
    if block.first >= count or block.first % size or block.end != min(block.first + size, count):
        raise MalformedProof("NotABlock", block.first, block.end)
    _need_no_claim(proof)
    right = terms.sum_block(op, xs, element, block.first, block.end, block.exponent)
    opened.stream.check_used()
    return right == block.total


def judge_witness(claim: Claim, exponent: int, named: int, positions: tuple[int, int], proof: Proof) -> bool:
    """Whether what the accused posted withstands the terms that a challenger points at: none is larger, none before.

    exponent   what the accused posted, for a float sum; 0 otherwise
    named      the term that the accused named, where one decides
    positions  of a float sum two terms (or one twice); else (witness, 0)
    Raises     MalformedProof
    """
    opened = _open(claim, proof)
    op, xs, element = opened.operation, opened.readers, claim.element
    _need_no_claim(proof)
    if terms.is_float_sum(op):
        one, other = (terms.term_bits(op, xs, element, p) for p in positions)
        stands = terms.pair_key(one, other) <= exponent
    elif op.opcode in terms.NAMED:
        stands = not terms.precedes(op, xs, element, positions[0], named)
    else:
        raise MalformedProof("NoTerms", op.opcode)
    opened.stream.check_used()
    return stands


def judge_order(claim: Claim, positions: tuple[int, int], proof: Proof) -> bool:
    """Whether an element that is a term's position withstands what a challenger points at; nothing was posted.

    positions  of ARGMAX, ARGMIN (witness, 0); of TOPK and SORT (another place, 0), or (the place before, 1 + a term
               that belongs between)
    Raises     MalformedProof
    """
    opened = _open(claim, proof)
    op, xs, element = opened.operation, opened.readers, claim.element
    if op.opcode not in terms.ORDERED:
        raise MalformedProof("NoTerms", op.opcode)
    stands = terms.withstands(op, xs[0], opened.result_reader(), element, positions)
    opened.stream.check_used()
    return stands


# Totals


def _is_total(op: Operation, xs: Sequence[Reader], element: int, claimed: bytes, sums: Sums) -> bool:
    for one in sums.sums:
        if not -(1 << 127) <= one < 1 << 127:
            raise MalformedProof("SumOutOfRange", one)
    total = sum(sums.sums)
    if not terms.is_float_sum(op):
        return claimed == terms.finish(op, xs, element, total, 0)
    one, other = (terms.term_bits(op, xs, element, p) for p in sums.positions)
    if terms.pair_key(one, other) != sums.exponent:
        return False
    if sums.exponent >= terms.INFINITE_KEY:
        infinite = one if is_infinite(one) else other
        special = NAN if sums.exponent == terms.NAN_KEY else infinite
        return claimed == special.to_bytes(4, "little")
    return claimed == terms.finish(op, xs, element, total, sums.exponent)


def _need_no_claim(proof: Proof) -> None:
    if proof.claimed.data or proof.claimed.path:
        raise MalformedProof("WrongLeafLength", 0, len(proof.claimed.data))


# Declarations


def _open(claim: Claim, proof: Proof) -> _Opened:
    if trace_root(claim.program, claim.values, proof.tree) != claim.trace:
        raise MalformedProof("NotTheTrace", claim.trace)
    item = proof.operation.item
    operation = _operation(claim.value, item)
    _check_value(claim, claim.value, proof.operation, operation.result, proof.tree)
    if not claim.element < operation.result.elements:
        raise MalformedProof("ElementOutOfRange", claim.element, operation.result.elements)
    if len(proof.operands) != len(operation.operands):
        raise MalformedProof("WrongOperands", len(operation.operands), len(proof.operands))
    stream = Stream(proof.openings)
    readers = []
    for number, (value, opened) in enumerate(zip(operation.operands, proof.operands, strict=True)):
        type_ = _declared_type(value, opened.item)
        _check_value(claim, value, opened, type_, proof.tree)
        readers.append(stream.reader(number, type_, opened.tree))
    try:
        check_operation(operation, [reader.type for reader in readers])
    except MalformedProgram:
        raise MalformedProof("MalformedItem", claim.value) from None
    return _Opened(claim, proof, operation, readers, stream)


def _check_value(claim: Claim, value: int, opened: Value, type_: TensorType, tree: bytes) -> None:
    """That the trace holds this declaration with this tree at this place."""
    if value >= claim.values:
        raise MalformedProof("ValueOutOfRange", value, claim.values)
    length = path_length(claim.values, value)
    if len(opened.path) != length:
        raise MalformedProof("WrongPathLength", length, len(opened.path))
    root = tensor_root_of_tree(type_.dtype, type_.shape, tensor_leaf_count(type_.size_bytes), opened.tree)
    if opened.item[0] == encoding.CONSTANT and opened.item[-32:] != root:
        raise MalformedProof("WrongConstant", opened.item[-32:], root)
    if root_of_range([value_leaf(opened.item, root)], value, claim.values, opened.path) != tree:
        raise MalformedProof("NotInTrace", value)


def _operation(value: int, item: bytes) -> Operation:
    if not item or item[0] != encoding.OPERATION:
        raise MalformedProof("NotAnOperation", value)
    try:
        reader = encoding.Reader(item)
        operation = reader.operation("operation")
    except MalformedProgram:
        raise MalformedProof("MalformedItem", value) from None
    if reader.left:
        raise MalformedProof("MalformedItem", value)
    return operation


def _declared_type(value: int, item: bytes) -> TensorType:
    kind = item[0] if item else 255
    if kind == encoding.OPERATION:
        return _operation(value, item).result
    if kind not in (encoding.INPUT, encoding.CONSTANT):
        raise MalformedProof("MalformedItem", value)
    try:
        reader = encoding.Reader(item[1:])
        type_ = reader.type("value")
    except MalformedProgram:
        raise MalformedProof("MalformedItem", value) from None
    if kind == encoding.CONSTANT and reader.left != 32:
        raise MalformedProof("MalformedItem", value)
    return type_
