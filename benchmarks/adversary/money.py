"""What everybody has, read from the chain: ether on the account and in the run, and tokens minted or due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from network_world import World
from node_world.reorgs import OnChain, ask

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_events import DisputeRecord
from cupel.protocol.types import Address

FIRE = Address("0x000000000000000000000000000000000000dEaD")
"""Where burned wei goes."""


def read_wei(world: World, account: Address) -> int:
    """All that is an account's own: balance, deposit (locked or not), what the court owes it and its bonds there."""
    balance = int(ask(world, "eth_getBalance", account, "latest"), 16)
    court = open_court(world)
    own = [record for record in list_disputes(world) if record.challenger == account and record.ending is None]
    bonds = sum(record.bond_wei for record in own)
    return balance + world.contract.member_of(account).deposit + court.credit(account) + bonds


def open_court(world: World) -> CourtContract:
    """The run's."""
    return CourtContract(world.client, world.contract.court())


def list_disputes(world: World) -> list[DisputeRecord]:
    """All about claims of the run."""
    court = open_court(world)
    listed = court.list_disputes(world.contract.address)
    return [court.get_dispute(event.dispute) for event in listed if event.dispute is not None]


def read_tokens(world: World, account: Address) -> int:
    """Minted, and due for rounds that have ended."""
    current = world.contract.current().round
    due = sum(entry.tokens for entry in world.contract.claimable(account, 0, current))
    return world.token.balance_of(account) + due


def read_burned(world: World) -> int:
    """Wei burned, sent away already or not."""
    return int(ask(world, "eth_getBalance", FIRE, "latest"), 16) + sum(
        (world.contract.burn_owed(), open_court(world).burn_owed())
    )


def read_gas(world: OnChain) -> dict[str, int]:
    """Wei paid for transactions, by sender in lower case, over all blocks of the chain as it is now."""
    spent: dict[str, int] = {}
    for number in range(int(ask(world, "eth_blockNumber"), 16) + 1):
        for receipt in ask(world, "eth_getBlockReceipts", hex(number)):
            sender = receipt["from"].lower()
            spent[sender] = spent.get(sender, 0) + int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    return spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse:
    """What one account, or all of one role, has."""

    before_wei: int
    after_wei: int
    gas_wei: int = 0
    """Of the difference, what transactions cost."""
    tokens: int = 0
    """Earned, in the token's smallest unit. Before, there are none."""

    @property
    def change_wei(self) -> int:
        """Gained or lost, gas aside: what the rules gave or took."""
        return self.after_wei - self.before_wei + self.gas_wei

    def __add__(self, other: Purse) -> Purse:
        return Purse(
            before_wei=self.before_wei + other.before_wei,
            after_wei=self.after_wei + other.after_wei,
            gas_wei=self.gas_wei + other.gas_wei,
            tokens=self.tokens + other.tokens,
        )


NOTHING = Purse(before_wei=0, after_wei=0)


def add_up(purses: Iterable[Purse]) -> Purse:
    return sum(purses, NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Everybody's, and what was burned."""

    accounts: Mapping[Address, Purse]
    burned_wei: int
    minted: int
    """The token's total supply, and what is due besides."""

    @property
    def missing_wei(self) -> int:
        """Wei that was somebody's and is neither anybody's now nor burned: none, or the books are wrong."""
        return -sum(purse.change_wei for purse in self.accounts.values()) - self.burned_wei


def read_books(world: World, before: Mapping[Address, int]) -> Books:
    """Once nobody acts any more.

    before  what each account had before it did anything
    """
    gas = read_gas(world)
    purses = {
        account: Purse(
            before_wei=had,
            after_wei=read_wei(world, account),
            gas_wei=gas.get(account.lower(), 0),
            tokens=read_tokens(world, account),
        )
        for account, had in before.items()
    }
    return Books(accounts=purses, burned_wei=read_burned(world), minted=sum(p.tokens for p in purses.values()))
