"""Deploying a run in several transactions, so that being killed between any two of them costs nothing.

A small file remembers, before each contract is sent, which address it will have; whoever starts again finds what is
there already, waits for what is under way and sends the rest. After the last transaction everything is read back.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from cupel.chain.abi import Call, load_abi
from cupel.chain.bytecode import (
    PARAMETERS_NONCE,
    TOKEN_NONCE,
    bind_rules,
    bind_run,
    compute_created,
    find_creation,
    find_difference,
    get_code,
)
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import Clocks, find_court_differences, read_court
from cupel.chain.run_code import find_run_differences
from cupel.chain.run_contract import Deployment, RunContract, TokenContract
from cupel.chain.run_values import ZERO_ADDRESS, Parameters
from cupel.protocol.errors import ProtocolError, Unavailable, UsageError
from cupel.protocol.types import Address, Height, Wei

VERSION = 1
COURT_GAS = {
    "FunctionEvaluator": 661_053, "Evaluator": 4_218_061, "TermsEvaluator": 3_479_191, "Clerk": 3_205_128,
    "Court": 5_000_713,
}  # fmt: skip
MEASURED_GAS = {
    **COURT_GAS, "PrevrandaoBeacon": 471_403, "RunLens": 4_027_285, "RunRules": 5_416_330, "Run": 5_444_162,
}  # fmt: skip
"""Of whole deployments, as contracts/gas-snapshot.json and gas-snapshot-court.json have them; a test
compares to within a hundredth. In the order in which they are sent."""
MARGIN = 1.5
"""Gas limit over estimate, as the chain client sends it."""
POLL_S = 0.5
Say = Callable[[str], None]


class DeploymentDiffers(ProtocolError):
    """What is on the chain is not what was sent there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be deployed."""

    parameters: Parameters
    """`beacon` address zero: a new `PrevrandaoBeacon`."""
    token_name: str
    token_symbol: str
    brings_beacon: bool
    """Whether `parameters.beacon` is a contract that is there already."""
    court: Clocks | None = None
    """Of a new court; None: `parameters.court` is one that is there already, or zero."""
    court_creation: str | None = None
    """Hash of the transaction that created a court that is there already."""


@dataclass(slots=True, kw_only=True)
class _Contract:
    """One of the deployment's contracts, as the file has it."""

    address: str
    nonce: int
    code_hash: str
    """Of the creating transaction's data: contracts of other parameters are not taken for these."""
    since: int
    """Height when it was first sent: it is in no earlier block."""
    transaction: str | None = None
    block: int | None = None


@dataclass(slots=True)
class Progress:
    """The file of a deployment, written whole before and after each transaction."""

    path: Path
    chain_id: int
    deployer: Address
    contracts: dict[str, _Contract] = field(default_factory=dict)

    @staticmethod
    def open(path: Path, chain_id: int, deployer: Address) -> Progress:
        """What was reached earlier. Raises UsageError: by another key or on another chain, or the file is damaged."""
        progress = Progress(path, chain_id, deployer)
        if not path.exists():
            return progress
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version, of_chain, of_key = content["version"], content["chain_id"], content["deployer"]
            progress.contracts = {name: _Contract(**one) for name, one in content["contracts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged ({error}); delete it to deploy from the beginning") from None
        if (version, of_chain, of_key) != (VERSION, chain_id, deployer):
            raise UsageError(
                f"{path} is of a deployment by {of_key} on chain {of_chain}: go on with that key and chain, or delete "
                "the file to deploy from the beginning"
            )
        return progress

    def write(self) -> None:
        """On disk when this returns."""
        contracts = {name: dataclasses.asdict(one) for name, one in self.contracts.items()}
        content = {
            "version": VERSION, "chain_id": self.chain_id, "deployer": self.deployer, "contracts": contracts,
        }  # fmt: skip
        temporary = self.path.with_name(f".{self.path.name}.new")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What deploying the rest will take."""

    gas: int
    """Expected, of all transactions."""
    price_wei: int
    """Per gas, base fee and tip, now."""
    expected_wei: Wei
    needed_wei: Wei
    """What the key must own for nodes to take the transactions: limits and fees have room to rise."""
    balance_wei: Wei

    @property
    def missing_wei(self) -> Wei:
        return Wei(max(0, self.needed_wei - self.balance_wei))


class Deployer:
    """One run's deployment with one key. Whoever uses it holds the key (`ChainClient.hold_key`)."""

    def __init__(self, client: ChainClient, plan: Plan, progress: Progress, say: Say, *, patience_s: float = 600.0):
        self._client, self._plan, self._progress, self._say = client, plan, progress, say
        self._patience_s = patience_s

    def estimate(self) -> Cost:
        """What is left to pay. A run cannot be estimated before its lens is there: what it was measured to take, in
        proportion to what the lens takes on this chain."""
        client = self._client
        lens = self._estimate_gas(load_abi("RunLens").bind_deployment())
        scale = max(1.0, lens / MEASURED_GAS["RunLens"])
        names = [name for name in MEASURED_GAS if self._plan.court is not None or name not in COURT_GAS]
        if self._plan.brings_beacon:
            names.remove("PrevrandaoBeacon")
        gas = [int(MEASURED_GAS[name] * scale) for name in names if not self._is_there(name)]
        base = client.head().base_fee_wei
        tip = client.suggest_tip(base)
        price, most = base + tip, 2 * base + tip
        # Of the last and largest transaction the node wants all that it might cost.
        needed = sum(gas[:-1]) * price + (int(gas[-1] * MARGIN) * most if gas else 0)
        return Cost(
            gas=sum(gas),
            price_wei=price,
            expected_wei=Wei(sum(gas) * price),
            needed_wei=Wei(needed),
            balance_wei=client.get_balance(client.address),
        )

    def _estimate_gas(self, call: Call) -> int:
        fields = {"from": self._client.address, "data": f"0x{call.data.hex()}"}
        return self._client.estimate_gas(fields)

    def _is_there(self, name: str) -> bool:
        known = self._progress.contracts.get(name)
        return known is not None and get_code(self._client, Address(known.address)) != b""

    def deploy(self) -> Deployment:
        """Send what is not there yet, read everything back, and say where the run is.

        Raises   DeploymentDiffers, UsageError, ChainRefused, ChainUnreachable; called again it goes on
        """
        plan = self._plan
        court = plan.parameters.court if plan.court is None else self._put_court(plan.court)
        if plan.brings_beacon:
            beacon = plan.parameters.beacon
        else:
            beacon = self._put("PrevrandaoBeacon", load_abi("PrevrandaoBeacon").bind_deployment())
        lens = self._put("RunLens", load_abi("RunLens").bind_deployment())
        parameters = dataclasses.replace(plan.parameters, beacon=beacon, court=court)
        rules = self._put("RunRules", bind_rules(parameters))
        run = self._put("Run", bind_run(parameters, rules, lens, plan.token_name, plan.token_symbol))
        created = self._progress.contracts["Run"]
        creation = {"run": created.transaction, "court": plan.court_creation}
        if not plan.brings_beacon:
            creation["beacon"] = self._progress.contracts["PrevrandaoBeacon"].transaction
        if plan.court is not None:
            creation["court"] = self._progress.contracts["Court"].transaction
        deployment = Deployment(
            run=run,
            lens=lens,
            token=RunContract(self._client, run).token(),
            beacon=beacon,
            court=court,
            block=Height(created.block or 0),
            creation={name: digest for name, digest in creation.items() if digest is not None},
        )
        for problem in find_deployment_problems(self._client, deployment, parameters, plan):
            raise DeploymentDiffers(f"what was deployed is not what was sent: {problem}")
        return deployment

    def _put_court(self, clocks: Clocks) -> Address:
        functions = self._put("FunctionEvaluator", load_abi("FunctionEvaluator").bind_deployment())
        evaluator = self._put("Evaluator", load_abi("Evaluator").bind_deployment(functions))
        terms = self._put("TermsEvaluator", load_abi("TermsEvaluator").bind_deployment())
        clerk = self._put("Clerk", load_abi("Clerk").bind_deployment(terms))
        return self._put("Court", clocks.bind_court(evaluator, clerk))

    def _put(self, name: str, call: Call) -> Address:
        """The contract's address, once its code is there."""
        known, digest = self._progress.contracts.get(name), keccak(call.data).hex()
        if known is not None and known.code_hash != digest:
            raise UsageError(
                f"{self._progress.path}: {name} was begun with other parameters than those given now; give the earlier "
                "ones to go on, or delete the file to deploy from the beginning"
            )
        if known is not None and self._settle(name, known):
            self._say(f"{name}: at {known.address} already")
            return Address(known.address)
        nonce = self._client.count_transactions(self._client.address, "pending")
        contract = _Contract(
            address=compute_created(self._client.address, nonce),
            nonce=nonce,
            code_hash=digest,
            since=self._client.head().number,
        )
        self._progress.contracts[name] = contract
        self._progress.write()
        address, receipt = self._client.deploy(call)
        # A transaction of an earlier process may have gone first, and this one got the next nonce.
        contract.address, contract.block = address, receipt.block_number
        contract.transaction = f"0x{receipt.transaction_hash.hex()}"
        self._progress.write()
        cost = receipt.cost_wei / 10**18
        self._say(f"{name}: {address}, {receipt.gas_used:,} gas, {cost:.6f} ETH, block {receipt.block_number}")
        return address

    def _settle(self, name: str, known: _Contract) -> bool:
        """Whether a contract sent by an earlier process is there, waiting while its transaction is under way."""
        deadline = time.monotonic() + self._patience_s
        while not self._is_there(name):
            mined, pending = (
                self._client.count_transactions(self._client.address, tag) for tag in ("latest", "pending")
            )
            if mined > known.nonce or pending <= known.nonce:
                # Its nonce was used for something else, or the transaction never reached anybody.
                return self._is_there(name)
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{name}'s transaction (nonce {known.nonce}) is not in a block after {self._patience_s:g} s; run "
                    "the command again later: it goes on from here"
                )
            time.sleep(POLL_S)
        if known.transaction is None:
            self._find_transaction(name, known)
        return True

    def _find_transaction(self, name: str, known: _Contract) -> None:
        """Where the process was killed before it saw the receipt: look through the blocks since."""
        for height in range(known.since, self._client.head().number + 1):
            creation = find_creation(self._client, Address(known.address), Height(height))
            if creation is not None:
                known.transaction, known.block = f"0x{creation.hash.hex()}", int(creation.height)
                self._progress.write()
                return
        raise Unavailable(f"{name} is at {known.address}, and no block since {known.since} has its transaction")


def find_deployment_problems(
    client: ChainClient, deployment: Deployment, parameters: Parameters, plan: Plan
) -> Iterator[str]:
    """Read everything back: code against the artifacts, the constructor's arguments, the token's wiring."""
    run = RunContract(client, deployment.run)
    blob = compute_created(deployment.run, PARAMETERS_NONCE)
    token = compute_created(deployment.run, TOKEN_NONCE)
    if (run.lens(), run.token(), run.parameters_at()) != (deployment.lens, token, blob):
        yield f"the run names lens {run.lens()}, token {run.token()}"
    if run.parameters() != parameters:
        fields = [f.name for f in dataclasses.fields(parameters)]
        found: Any = run.parameters()
        yield f"parameters: {', '.join(n for n in fields if getattr(found, n) != getattr(parameters, n))} differ"
    for name, how in find_run_differences(client, run, parameters):
        yield f"{name} at {how}"
    if not plan.brings_beacon:
        difference = find_difference(get_code(client, deployment.beacon), "PrevrandaoBeacon")
        if difference is not None:
            yield f"PrevrandaoBeacon at {deployment.beacon}: {difference}"
    if parameters.court != ZERO_ADDRESS:
        yield from find_court_differences(client, read_court(client, parameters.court))
    erc20 = TokenContract(client, token)
    if (erc20.name(), erc20.symbol(), erc20.run()) != (plan.token_name, plan.token_symbol, deployment.run):
        yield f"the token is {erc20.name()} ({erc20.symbol()}) of {erc20.run()}"
