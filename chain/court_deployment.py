"""Creating a court, and looking at one: whether all five of its contracts are the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cupel.chain.abi import Call, load_abi
from cupel.chain.bytecode import Creation, address_word, compute_created, find_difference, get_code
from cupel.chain.client import ChainClient
from cupel.protocol.types import Address, Height, Wei

MOST_CLOCK_BLOCKS, MOST_GRACE_BLOCKS = 1 << 20, 1 << 16
MOST_BOND_WEI, MOST_DEFENCE_GAS = 1 << 80, 1 << 32
"""Bounds of the court's constructor; the least is 1 each."""
BOND_FACTOR = 10
"""A bond pays for so many defences."""
_GRACES = 28 + 64
"""Moves of the longest dispute, and disputes at once for which the accused's clock is extended."""


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

    @property
    def longest_dispute(self) -> int:
        """Blocks within which every dispute has ended, as the court counts them."""
        return 2 * self.clock_blocks + _GRACES * self.grace_blocks

    def bind_court(self, evaluator: Address, clerk: Address) -> Call:
        """The call that deploys a court with these."""
        arguments = (self.clock_blocks, self.grace_blocks, self.minimum_bond_wei, self.defence_gas)
        return load_abi("Court").bind_deployment(evaluator, clerk, *arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtParts:
    """A court as it stands, and the contracts it asks."""

    court: Address
    clerk: Address
    evaluator: Address
    functions: Address
    """The evaluator's other half."""
    terms: Address
    """What the clerk asks about elements of many terms."""
    clocks: Clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtDeployment(CourtParts):
    """Where a new court is, and what it asks."""

    block: Height
    longest_dispute: int
    """Blocks within which every dispute has ended: a run's bonds have to wait for so long."""
    transaction: str
    """Hash of the one that created the court."""


def deploy_court(client: ChainClient, clocks: Clocks) -> CourtDeployment:
    """Create a court with a clerk and an evaluator of its own; it serves any number of runs.

    Raises   ContractReverted: ParameterOutOfRange says which of the clocks and its bounds
    """
    functions, _ = client.deploy(load_abi("FunctionEvaluator").bind_deployment())
    evaluator, _ = client.deploy(load_abi("Evaluator").bind_deployment(functions))
    terms, _ = client.deploy(load_abi("TermsEvaluator").bind_deployment())
    clerk, _ = client.deploy(load_abi("Clerk").bind_deployment(terms))
    court, receipt = client.deploy(clocks.bind_court(evaluator, clerk))
    (longest,) = client.call(load_abi("Court").bind(court, "longestDispute"))
    return CourtDeployment(
        court=court,
        clerk=clerk,
        evaluator=evaluator,
        functions=functions,
        terms=terms,
        clocks=clocks,
        block=receipt.block_number,
        longest_dispute=int(longest),
        transaction=f"0x{receipt.transaction_hash.hex()}",
    )


def read_court(client: ChainClient, address: Address) -> CourtParts:
    """What a court says of itself. Whether it is one of ours, `find_court_differences` tells.

    Raises   MalformedInput, ChainRefused: no court answers there
    """

    def ask(contract: str, at: Address, question: str) -> str | int:
        answer: str | int = client.call(load_abi(contract).bind(at, question))[0]
        return answer

    evaluator, clerk = (Address(str(ask("Court", address, question))) for question in ("EVALUATOR", "CLERK"))
    clock, grace, bond, gas = (
        int(ask("Court", address, question))
        for question in ("CLOCK_BLOCKS", "GRACE_BLOCKS", "MINIMUM_BOND", "DEFENCE_GAS")
    )
    return CourtParts(
        court=address,
        clerk=clerk,
        evaluator=evaluator,
        functions=Address(str(ask("Evaluator", evaluator, "FUNCTIONS"))),
        terms=Address(str(ask("Clerk", clerk, "TERMS"))),
        clocks=Clocks(clock_blocks=clock, grace_blocks=grace, minimum_bond_wei=Wei(bond), defence_gas=gas),
    )


def find_court_differences(client: ChainClient, parts: CourtParts) -> Iterator[str]:
    """How any of the five contracts differs from the shipped one, in words; nothing where none does."""
    clocks = parts.clocks
    numbers = (clocks.clock_blocks, clocks.grace_blocks, clocks.minimum_bond_wei, clocks.defence_gas)
    words = (*(number.to_bytes(32, "big") for number in numbers), *map(address_word, (parts.evaluator, parts.clerk)))
    expected: tuple[tuple[str, Address, tuple[bytes, ...]], ...] = (
        ("Court", parts.court, words),
        ("Clerk", parts.clerk, (address_word(parts.terms),)),
        ("Evaluator", parts.evaluator, (address_word(parts.functions),)),
        ("FunctionEvaluator", parts.functions, ()),
        ("TermsEvaluator", parts.terms, ()),
    )
    for name, address, immutables in expected:
        difference = find_difference(get_code(client, address), name, immutables)
        if difference is not None:
            yield f"{name} at {address}: {difference}"


def find_court_creation_problem(created: Creation | None, parts: CourtParts) -> str | None:
    """Why a court may have begun with verdicts or credits that nobody earned; None: the shipped constructor made it."""
    if created is None or compute_created(created.creator, created.nonce) != parts.court:
        return (
            f"the transaction that is named for it did not create {parts.court}, as far as this node knows; what its "
            "constructor did cannot be checked (ask a node that keeps old blocks)"
        )
    if created.input != parts.clocks.bind_court(parts.evaluator, parts.clerk).data:
        return f"{parts.court} was not created by the shipped constructor alone"
    return None


def find_time_problem(clocks: Clocks, *, maturity_blocks: int, window_blocks: int, exit_blocks: int) -> str | None:
    """Why bonds would be free before a dispute has ended; None: they are not. A run's constructor asks the same."""
    least = window_blocks + clocks.longest_dispute
    if maturity_blocks < least:
        return (
            f"maturity is {maturity_blocks:,} blocks, less than the window ({window_blocks:,}) and the court's longest "
            f"dispute ({clocks.longest_dispute:,}: twice its clock and 92 times its grace); it takes {least:,} blocks"
        )
    if exit_blocks < maturity_blocks:
        return f"exit is {exit_blocks:,} blocks, less than maturity ({maturity_blocks:,}): deposits would leave first"
    return None
