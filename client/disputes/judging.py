"""A proof's verdict: of the referee in Python, and of the contract, here or on a chain."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cache

from cupel.chain.abi import Call, load_abi
from cupel.chain.client import ChainClient
from cupel.chain.errors import ContractReverted, TransactionRejected
from cupel.chain.node.standalone import StandaloneEvm
from cupel.disputes.files import ProofFile
from cupel.protocol.disputes import Judgement, examine, judge
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judge's answer."""

    judge: str
    """Who was asked."""
    right: bool | None
    """Whether the claimed element is the right one; None: the proof proves nothing."""
    refusal: str
    """Name and numbers of what is wrong with the proof; empty where nothing is."""


def read_proof(file: ProofFile) -> Judgement | None:
    """What the proof shows; None for one that proves nothing."""
    try:
        return examine(file.claim, file.proof)
    except MalformedProof:
        return None


def judge_in_python(file: ProofFile) -> Verdict:
    """The referee of `protocol/disputes`."""
    try:
        return Verdict(judge="the referee in Python", right=judge(file.claim, file.proof), refusal="")
    except MalformedProof as refused:
        return Verdict(judge="the referee in Python", right=None, refusal=str(refused))


def judge_in_evm(file: ProofFile) -> Verdict:
    """The Evaluator contract as it is shipped, executed in this process."""
    evm, address = _deployed()
    return _ask("the contract in this process", file, address, evm)


def judge_on_chain(file: ProofFile, client: ChainClient, evaluator: Address) -> Verdict:
    """The Evaluator that a court asks. Raises ChainUnreachable; UsageError: no contract is there."""
    if not client.has_code(evaluator):
        raise UsageError(f"no contract is at {evaluator} on chain {client.chain_id}: name an Evaluator, or its run")
    return _ask(f"the contract {evaluator} on chain {client.chain_id}", file, evaluator, client)


def _ask(name: str, file: ProofFile, evaluator: Address, evm: StandaloneEvm | ChainClient) -> Verdict:
    call = bind_judge(file, evaluator)
    try:
        (right,) = evm.ask(call) if isinstance(evm, StandaloneEvm) else evm.call(call)
    except ContractReverted as reverted:
        numbers = ", ".join(f"0x{n.hex()}" if isinstance(n, bytes) else str(n) for n in reverted.arguments.values())
        return Verdict(judge=name, right=None, refusal=f"{reverted.error_name}({numbers})")
    except TransactionRejected as rejected:
        return Verdict(judge=name, right=None, refusal=rejected.message)
    return Verdict(judge=name, right=bool(right), refusal="")


def bind_judge(file: ProofFile, evaluator: Address) -> Call:
    """The question to the contract."""
    return load_abi("Evaluator").bind(evaluator, "judge", astuple(file.claim), astuple(file.proof))


@cache
def _deployed() -> tuple[StandaloneEvm, Address]:
    evm = StandaloneEvm()
    functions = evm.deploy(load_abi("FunctionEvaluator").bind_deployment())
    return evm, evm.deploy(load_abi("Evaluator").bind_deployment(functions))
