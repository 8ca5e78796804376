"""A run's court, found through the run."""

from __future__ import annotations

from cupel.chain.abi import ContractAbi
from cupel.chain.client import ChainClient
from cupel.chain.court_contract import CourtContract
from cupel.chain.errors import ContractReverted
from cupel.chain.run_file import RunFile
from cupel.protocol.errors import MalformedInput, UsageError
from cupel.protocol.types import Address

_COURT = {
    "type": "function",
    "name": "court",
    "inputs": (),
    "outputs": ({"name": "", "type": "address"},),
    "stateMutability": "view",
}
_DISPUTABLE = ContractAbi("IDisputable", (_COURT,), b"")
"""The one question of `IDisputable` that is asked of whatever contract a run file names."""


def find_court(client: ChainClient, run: RunFile) -> CourtContract:
    """The court that the run named at its deployment. Raises UsageError: nothing is there, or a run without court."""
    if not client.has_code(run.contract):
        raise UsageError(f"no contract is at {run.contract} on chain {client.chain_id}: is this the run's chain?")
    try:
        (address,) = client.call(_DISPUTABLE.bind(run.contract, "court"))
    except (ContractReverted, MalformedInput):
        raise UsageError(f"the contract at {run.contract} names no court: it is older than disputes") from None
    return CourtContract(client, Address(address))
