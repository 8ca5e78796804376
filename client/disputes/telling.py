"""Findings, proofs and verdicts in words, and as JSON."""

from __future__ import annotations

from typing import Any

from cupel.disputes.files import ProofFile
from cupel.disputes.judging import Verdict, read_proof
from cupel.disputes.proving import Compared, Finding
from cupel.disputes.wording import name_results, name_value, show_element, show_operation, show_place

MAX_TRANSACTION_BYTES = 128 << 10
"""Above it nodes take no transaction."""
Told = tuple[dict[str, Any], list[str]]
"""The same as JSON's fields and as lines."""


def describe_finding(compared: Compared, finding: Finding, what: str, assumed: str) -> Told:
    """A finding as JSON and in words."""
    program, value, dtype = compared.program, finding.value, finding.type.dtype
    results = name_results(program, value)
    facts: dict[str, Any] = {
        "work": what,
        "program": f"0x{program.root.hex()}",
        "value": value,
        "name": name_value(program, value),
        "type": str(finding.type),
        "outputs": results,
        "wrong_values": finding.wrong_values,
        "compared_values": finding.compared,
        "assumed": assumed,
    }
    lines = [f"WRONG: {what}, Program 0x{program.root.hex()[:16]}…"]
    called = f", which is output {', '.join(map(repr, results))}" if results else ""
    lines.append(f"  first wrong   value {value}: {name_value(program, value)}{called}")
    if finding.operation is not None:
        operation = finding.operation
        facts |= {"opcode": operation.opcode.name, "operands": list(operation.operands)}
        lines.append(f"  operation     {show_operation(operation)}")
        for operand in operation.operands:
            type_ = program.graph.type_of(operand)
            lines.append(f"    of          value {operand}: {name_value(program, operand)}, {type_}")
    if finding.element is not None:
        place = show_place(finding.type.shape, finding.element)
        claimed, right = show_element(dtype, finding.claimed), show_element(dtype, finding.right)
        facts |= {"element": finding.element, "index": place, "claimed": claimed, "right": right}
        facts |= {"wrong_elements": finding.wrong_elements, "elements": finding.type.elements}
        lines.append(f"  element       {f'{place}, ' if place else ''}number {finding.element}")
        lines += [f"    claimed     {claimed}", f"    right       {right}"]
        wrong = f"{finding.wrong_elements:,} of its {finding.type.elements:,} elements, "
    else:
        wrong = ""
    compared_what = "values" if finding.compared == len(compared.trace.trees) else "outputs"
    lines.append(f"  wrong are     {wrong}{finding.wrong_values:,} of {finding.compared:,} {compared_what}")
    if assumed:
        lines.append(f"  assumed: {assumed}")
    return facts, lines


def describe_proof(file: ProofFile) -> Told:
    """What a proof is about, read from itself; nothing if it cannot be read."""
    claim = file.claim
    facts: dict[str, Any] = {
        "program": f"0x{claim.program.hex()}",
        "trace": f"0x{claim.trace.hex()}",
        "values": claim.values,
        "value": claim.value,
        "element": claim.element,
    }
    lines = [f"Trace 0x{claim.trace.hex()[:16]}… of Program 0x{claim.program.hex()[:16]}…"]
    read = read_proof(file)
    if read is None:
        return facts, [*lines, f"  value {claim.value} of {claim.values}, element {claim.element}"]
    operation, type_ = read.operation, read.operation.result
    facts |= {"opcode": operation.opcode.name, "operands": list(operation.operands), "type": str(type_)}
    lines.append(f"  operation     value {claim.value}: {show_operation(operation)}")
    if operation.operands:
        lines.append(f"    of          values {', '.join(map(str, operation.operands))}")
    place = show_place(type_.shape, claim.element)
    lines.append(f"  element       {f'{place}, ' if place else ''}number {claim.element}")
    facts |= {
        name: show_element(type_.dtype, data) for name, data in (("claimed", read.claimed), ("right", read.right))
    }
    lines += [f"    claimed     {facts['claimed']}", f"    right       {facts['right']}"]
    size = len(file.proof.to_bytes())
    if size > MAX_TRANSACTION_BYTES:
        lines.append(f"  its {size:,} bytes do not fit a transaction of {MAX_TRANSACTION_BYTES:,}: it cannot be sent")
    return facts, lines


def verdict_line(verdict: Verdict) -> str:
    if verdict.right is None:
        word = f"proves nothing: {verdict.refusal}"
    else:
        word = "the claimed element is right" if verdict.right else "the claimed element is WRONG"
    return f"{verdict.judge}: {word}"


def verdict_fields(verdicts: list[Verdict]) -> dict[str, Any]:
    if not verdicts:
        return {}
    listed = [{"judge": one.judge, "right": one.right, "refusal": one.refusal} for one in verdicts]
    return {"verdicts": listed, "convicts": all(one.right is False for one in verdicts)}


def sum_up(verdicts: list[Verdict]) -> str:
    """What all judges together say, the referee in Python first."""
    answers = {verdict.right for verdict in verdicts}
    if any(verdict.refusal == "OutOfGas" for verdict in verdicts):
        return "Recomputing this element takes more gas than a block has: no contract can answer."
    if verdicts[0].refusal.startswith("MalformedItem"):
        # The contract does not look: a trace can only be opened with items of a Program, which are well typed.
        return "It convicts nobody: no Program holds such an operation."
    if len(answers) > 1:
        return "They do not agree: please report this file."
    if answers == {False}:
        return "The proof convicts."
    return "It convicts nobody: the claim is right." if answers == {True} else "It convicts nobody: it is no proof."
