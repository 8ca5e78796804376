"""The chain behind every URL, the run on it, and what the key owns there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel.chain.client import ChainClient
from cupel.chain.run_contract import RunContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters, Role
from cupel.chain.values import Block
from cupel.diagnosis.findings import Finding, ok, skipped, warning, wrong
from cupel.node.deposits import miner_deposit, verifier_deposit
from cupel.node.redaction import redact
from cupel.protocol.errors import CupelError, UsageError
from cupel.protocol.types import Address, Wei

PATIENCE_S = 5.0
LAG_BLOCKS = 5
SKEW_S = 15.0
"""How far a block may seem to come from the future: block times are whole seconds, and clocks of others differ too."""
STALE_S = 120.0
GAS_OF_A_ROUND = 3_000_000
"""Roughly what a member's transactions of one round use."""
ETH = 10**18


@dataclass(frozen=True, slots=True)
class _Answer:
    client: ChainClient
    head: Block


def read_run(path: Path | None) -> tuple[RunFile | None, Finding]:
    """The run file, if there is a good one."""
    if path is None:
        return None, skipped("run.file", "no --run given")
    try:
        run = RunFile.read(path)
    except UsageError as error:
        return None, wrong("run.file", str(error), "ask whoever deployed the run for its file")
    return run, ok("run.file", f"{path}: run {run.contract} on chain {run.chain_id}")


def check_chain(
    urls: Sequence[str], run: RunFile | None, address: Address | None, *, role: Role, wanted: int,
    max_fee_wei: int, clock: float | None = None,
) -> Iterator[Finding]:  # fmt: skip
    """Every URL; then the run and the funds, through the first URL that answers.

    wanted   units of a miner, or slots of a verifier, that joining should cover
    """
    if not urls:
        yield skipped("chain", "no --rpc given")
        return
    now = time.time() if clock is None else clock
    answers: dict[str, _Answer] = {}
    for i, url in enumerate(urls):
        name = "chain" if len(urls) == 1 else f"chain.{i + 1}"
        found, answer = _check_url(name, url, run)
        if answer is not None:
            answers[name] = answer
        yield found
    try:
        best = max((a.head.number for a in answers.values()), default=0)
        for name, answer in answers.items():
            if best - answer.head.number > LAG_BLOCKS:
                yield warning(
                    f"{name}.lag", f"{best - answer.head.number} blocks behind the best of your URLs",
                    "put a fresher one first in --rpc",
                )  # fmt: skip
        if answers:
            first = next(iter(answers.values()))
            yield _check_clock(first, now)
            yield from _check_run(first, run, address, role, wanted, max_fee_wei)
    finally:
        for answer in answers.values():
            answer.client.close()


def _check_url(name: str, url: str, run: RunFile | None) -> tuple[Finding, _Answer | None]:
    began = time.perf_counter()
    try:
        client = ChainClient(url, chain_id=run.chain_id if run is not None else None, patience_s=PATIENCE_S)
        head = client.head()
    except CupelError as error:
        fix = "check --rpc, that its host is up, and that a firewall lets you through"
        return wrong(name, redact(str(error)), fix), None
    found = (
        f"{redact(url)}: chain {client.chain_id}, block {head.number}, answered in {time.perf_counter() - began:.2f} s"
    )
    return ok(name, found), _Answer(client, head)


def _check_clock(answer: _Answer, now: float) -> Finding:
    head = answer.head
    age_s = now - head.timestamp
    if age_s < -SKEW_S and _runs_ahead(answer):
        return ok("clock", "this chain makes more than one block a second, and so its time runs ahead of any clock")
    if age_s < -SKEW_S:
        return wrong(
            "clock",
            f"the newest block is {-age_s:.0f} s in this machine's future",
            "set the clock: sudo timedatectl set-ntp true",
        )
    if age_s > STALE_S:
        return warning(
            "clock", f"the newest block is {age_s:.0f} s old",
            "if other blocks explorers show newer ones, the RPC node lags; else check this machine's clock",
        )  # fmt: skip
    return ok("clock", f"the newest block is {age_s:.0f} s old by this machine's clock")


def _runs_ahead(answer: _Answer, blocks: int = 4) -> bool:
    """Whether blocks follow one another at one second each, the least there is: a private chain in a hurry."""
    earlier = answer.client.get_block(max(0, answer.head.number - blocks))
    return earlier is not None and answer.head.timestamp - earlier.timestamp <= blocks


def _check_run(
    answer: _Answer, run: RunFile | None, address: Address | None, role: Role, wanted: int, max_fee_wei: int
) -> Iterator[Finding]:
    base_fee = answer.head.base_fee_wei
    if base_fee > max_fee_wei:
        yield wrong(
            "fees", f"a block asks {base_fee / 1e9:g} gwei per gas, --max-fee is {max_fee_wei / 1e9:g}",
            "raise --max-fee, or wait",
        )  # fmt: skip
    else:
        yield ok("fees", f"{base_fee / 1e9:g} gwei per gas now, cap {max_fee_wei / 1e9:g}")
    if run is None:
        yield skipped("run.contract", "no run file")
        return
    contract = RunContract(answer.client, run.contract)
    try:
        if not answer.client.has_code(run.contract):
            yield wrong(
                "run.contract", f"no contract is at {run.contract}", "this is not the chain the run is on: check --rpc"
            )
            return
        parameters, current = contract.parameters(), contract.current()
        yield ok(
            "run.contract", f"round {current.round}, phase {current.phase.name.lower()}, until block {current.until}"
        )
        if address is None:
            yield skipped("funds", "no key given")
        else:
            yield _check_funds(answer.client, contract, parameters, address, role, wanted, base_fee)
    except CupelError as error:
        yield wrong("run.contract", redact(str(error)), "is this the run file of this version's contracts?")


def _check_funds(
    client: ChainClient,
    contract: RunContract,
    parameters: Parameters,
    address: Address,
    role: Role,
    wanted: int,
    base_fee: Wei,
) -> Finding:
    balance, member = client.get_balance(address), contract.member_of(address)
    gas = GAS_OF_A_ROUND * max(base_fee, 1)
    if member.role != Role.NONE:
        found = (
            f"{address}: {member.role.name.lower()} with {member.deposit / ETH:g} ETH put down "
            f"({member.locked / ETH:g} locked), {balance / ETH:g} ETH for gas"
        )
        if balance < gas:
            return wrong("funds", found, f"send it some: a round's transactions cost about {gas / ETH:.6f} ETH")
        return ok("funds", found)
    deposit = miner_deposit(parameters, wanted) if role == Role.MINER else verifier_deposit(parameters, wanted)
    kind = f"{wanted} unit(s)" if role == Role.MINER else f"{wanted} slot(s)"
    need = deposit + gas
    join = f"joining as a {role.name.lower()} with {kind} takes {deposit / ETH:g} and gas"
    found = f"{address} has {balance / ETH:g} ETH; {join}"
    if balance < need:
        return wrong("funds", found, f"send it {(need - balance) / ETH:.6f} ETH more, or ask for less")
    return ok("funds", found)
