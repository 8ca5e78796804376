"""Deploy a court and a run, as they are shipped, on any network that Brownie knows.

    brownie run deploy main parameters.json "Name of the token" SYMBOL --network NETWORK
    python scripts/deploy.py parameters.json "Name of the token" SYMBOL NETWORK        without compiling first

parameters.json   what the run is fixed to, by the names of `IRun.Parameters`; a `beacon` or `court` that it does not
                  name is deployed. `cupel network deploy` does the same from a network file, goes on after a crash and
                  reads everything back: this script is for who works with Brownie.
ACCOUNT           in the environment: the account to pay with, as `brownie accounts list` names it. Where it is not set,
                  the chain's own first account.

What is sent is the code of chain/artifacts. Brownie's own compilation has metadata in it: nodes refuse such a run.
Nobody owns what is deployed: the account that pays has no more rights afterwards than any other.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from brownie import accounts, network, web3

ARTIFACTS = Path(__file__).resolve().parents[2] / "chain" / "artifacts"
# Of a court: each side's time in blocks, the least bond in wei, the gas of a whole defence (docs/design/court.md).
COURT = {"clockBlocks": 1200, "graceBlocks": 50, "minimumBond": 10**17, "defenceGas": 20_000_000}


def payer() -> Any:
    name = os.environ.get("ACCOUNT")
    if name is not None:
        return accounts.load(name)
    if not len(accounts):
        raise SystemExit("name the account to pay with in ACCOUNT (brownie accounts new NAME makes one)")
    return accounts[0]


def load(name: str) -> dict[str, Any]:
    artifact: dict[str, Any] = json.loads((ARTIFACTS / f"{name}.json").read_text())
    return artifact


def inputs_of(name: str) -> list[dict[str, Any]]:
    """Of a contract's constructor."""
    return next((entry["inputs"] for entry in load(name)["abi"] if entry["type"] == "constructor"), [])


def deploy(account: Any, name: str, *arguments: Any) -> str:
    """Send a shipped contract; its address once it is in a block."""
    artifact = load(name)
    contract = web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    data = contract.constructor(*arguments).data_in_transaction
    # Brownie's own price may be below the base fee of the block to come.
    receipt = account.transfer(data=data, gas_price=2 * web3.eth.gas_price)
    if receipt.status != 1:
        raise SystemExit(f"{name} was not deployed: transaction {receipt.txid} failed")
    print(f"{name:18} {receipt.contract_address}   {receipt.gas_used} gas")
    return str(receipt.contract_address)


def as_tuple(component: dict[str, Any], value: Any, place: str) -> Any:
    """A value in the order of the ABI. Says which field is missing, or is none."""
    if component["type"] != "tuple":
        return value
    names = [part["name"] for part in component["components"]]
    if set(value) != set(names):
        missing, unknown = sorted(set(names) - set(value)), sorted(set(value) - set(names))
        raise SystemExit(f"{place}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    return tuple(as_tuple(part, value[part["name"]], f"{place}.{part['name']}") for part in component["components"])


def deploy_court(account: Any) -> str:
    """With its judges: all stateless but for the court, and one of each serves every run."""
    made = {
        "evaluator": deploy(account, "Evaluator", deploy(account, "FunctionEvaluator")),
        "clerk": deploy(account, "Clerk", deploy(account, "TermsEvaluator")),
        **COURT,
    }
    return deploy(account, "Court", *(made[parameter["name"]] for parameter in inputs_of("Court")))


def parameters_of(name: str) -> dict[str, Any]:
    """What a contract's constructor takes as `Parameters`, for `as_tuple`."""
    [parameter] = [part for part in inputs_of(name) if part["type"] == "tuple"]
    return parameter


def main(parameters_file: str, token_name: str, token_symbol: str) -> str:
    account = payer()
    fields = json.loads(Path(parameters_file).read_text())
    parameter = parameters_of("RunRules")
    names = {part["name"] for part in parameter["components"]}
    court = fields.get("court") or deploy_court(account)
    if "court" in names:
        fields["court"] = court
    if not fields.get("beacon"):
        fields["beacon"] = deploy(account, "PrevrandaoBeacon")
    parameters = as_tuple(parameter, fields, "parameters")
    rules, lens = deploy(account, "RunRules", parameters), deploy(account, "RunLens")
    return deploy(account, "Run", parameters, rules, lens, token_name, token_symbol)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    network.connect(sys.argv[4])
    main(*sys.argv[1:4])
