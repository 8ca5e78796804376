"""Creating a court. Apart from the rest of it, because the moves of a dispute bring torch, and deploying needs none."""

from __future__ import annotations

from dataclasses import dataclass

from cupel.chain.abi import load_abi
from cupel.chain.client import ChainClient
from cupel.protocol.types import Address, Height, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """What a court was deployed with."""

    clock_blocks: int
    """Each side's time for all its moves."""
    grace_blocks: int
    """Each side's time for any move at least."""
    minimum_bond_wei: Wei
    defence_gas: int
    """Gas that a whole defence may take: a bond pays for ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtDeployment:
    """Where a new court is, and what it asks."""

    court: Address
    clerk: Address
    evaluator: Address
    functions: Address
    """The evaluator's other half."""
    terms: Address
    """What the clerk asks about elements of many terms."""
    block: Height
    longest_dispute: int
    """Blocks within which every dispute has ended: a run's bonds have to wait for so long."""


def deploy_court(client: ChainClient, clocks: Clocks) -> CourtDeployment:
    """Create a court with a clerk and an evaluator of its own; it serves any number of runs.

    Raises   ContractReverted: ParameterOutOfRange says which of the clocks and its bounds
    """
    functions, _ = client.deploy(load_abi("FunctionEvaluator").bind_deployment())
    evaluator, _ = client.deploy(load_abi("Evaluator").bind_deployment(functions))
    terms, _ = client.deploy(load_abi("TermsEvaluator").bind_deployment())
    clerk, _ = client.deploy(load_abi("Clerk").bind_deployment(terms))
    arguments = (clocks.clock_blocks, clocks.grace_blocks, clocks.minimum_bond_wei, clocks.defence_gas)
    court, receipt = client.deploy(load_abi("Court").bind_deployment(evaluator, clerk, *arguments))
    (longest,) = client.call(load_abi("Court").bind(court, "longestDispute"))
    return CourtDeployment(
        court=court,
        clerk=clerk,
        evaluator=evaluator,
        functions=functions,
        terms=terms,
        block=receipt.block_number,
        longest_dispute=int(longest),
    )
