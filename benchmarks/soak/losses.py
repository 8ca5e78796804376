"""What honest parties lost, as the chain tells it. The measure is nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from network_world import World

from cupel.chain.run_events import Burned, MinerJoined, VerifierStaked, Withdrawn
from cupel.chain.run_values import Phase, Status
from cupel.protocol.types import Address
from soak.observer import Observer
from soak.wire import Wire

LATE_BLOCKS = 40
"""Mature for this long and still not claimed is forgotten."""


@dataclass(slots=True, kw_only=True)
class Losses:
    """By kind; every entry says what, whose and where."""

    found: dict[str, list[str]] = field(default_factory=dict)
    units_committed: int = 0
    """By honest miners, in rounds that have ended."""
    units_attested: int = 0
    units_missed: int = 0
    """Drawn for honest miners that were seated, and not committed: work not done, nothing of anybody's gone."""
    rounds_merged: int = 0
    lies: int = 0
    """Units of liars, and how many of them were left out."""
    lies_left_out: int = 0
    tokens_claimed: int = 0

    def add(self, kind: str, what: str) -> None:
        self.found.setdefault(kind, []).append(what)

    @property
    def total(self) -> int:
        return sum(len(entries) for entries in self.found.values())


KINDS = (
    "bond, stake or fee burned",
    "deposit short",
    "committed unit not attested",
    "attested work not merged",
    "reward or bond not claimed",
    "contradicting signatures",
    "block or receipt gone",
    "process ended by itself",
)


def count_losses(
    world: World, rounds: int, honest: Mapping[Address, str], liars: Mapping[Address, str], wire: Wire, eye: Observer
) -> Losses:
    """Of the first so many rounds, all of which have ended. Nobody acts any more."""
    losses = Losses()
    _count_money(world, honest, losses, eye)
    for round_ in range(rounds):
        _count_round(world, round_, honest, liars, losses)
    for contradiction in wire.contradictions:
        losses.add("contradicting signatures", str(contradiction))
    eye.check_all()
    for gone in eye.vanished:
        losses.add("block or receipt gone", gone)
    for transaction, (block, height, seen_s) in wire.receipts.items():
        if not eye.was_undone(height, seen_s) and eye.receipt_block(transaction) != block:
            whose = wire.transactions.get(transaction)
            losses.add("block or receipt gone", f"transaction 0x{transaction.hex()[:16]} of {whose}, height {height}")
    return losses


def _count_money(world: World, honest: Mapping[Address, str], losses: Losses, eye: Observer) -> None:
    events = world.contract.get_all_events(first_block=0)
    paid: dict[Address, int] = dict.fromkeys(honest, 0)
    for event in events:
        if isinstance(event, Burned) and event.account in honest:
            losses.add(
                "bond, stake or fee burned", f"{event.amount} wei of {honest[event.account]}, round {event.round}"
            )
        if isinstance(event, MinerJoined) and event.miner in honest:
            paid[event.miner] += eye.value_of(event.transaction_hash)
        if isinstance(event, VerifierStaked) and event.verifier in honest:
            paid[event.verifier] += eye.value_of(event.transaction_hash)
        if isinstance(event, Withdrawn) and event.account in honest:
            paid[event.account] -= event.amount
    for account, name in honest.items():
        held = world.contract.member_of(account).deposit
        if held != paid[account]:
            losses.add("deposit short", f"{name} put down {paid[account]} wei net, the run has {held}")
        losses.tokens_claimed += world.token.balance_of(account)


def _count_round(
    world: World, round_: int, honest: Mapping[Address, str], liars: Mapping[Address, str], losses: Losses
) -> None:
    view, units = world.contract.get_round(round_), world.contract.get_units(round_)
    assert view.phase == Phase.ENDED
    for unit in units:
        if unit.miner in liars:
            losses.lies += 1
            losses.lies_left_out += unit.status != Status.ATTESTED
            continue
        losses.units_committed += 1
        losses.units_attested += unit.status == Status.ATTESTED
        if unit.status != Status.ATTESTED:
            losses.add(
                "committed unit not attested",
                f"round {round_}: {honest[unit.miner]}'s unit is {unit.status.name} "
                f"(opened {unit.opened}, sealed {unit.sealed_mask:b}, revealed {unit.revealed_mask:b})",
            )
    losses.units_missed += view.units - len(units)
    losses.rounds_merged += view.merged
    if view.attested and not view.merged:
        losses.add("attested work not merged", f"round {round_}: {view.attested} units, {view.candidates} candidates")


def find_unclaimed(world: World, honest: Mapping[Address, str]) -> list[str]:
    """Rewards and bonds that could have been claimed long ago. To be asked while everybody is still there."""
    current, height = world.contract.current(), world.client.head().number
    found = []
    for account, name in honest.items():
        for entry in world.contract.claimable(account, 0, current.round):
            # What a dispute holds is free later than the rest.
            free_at = entry.mature_at
            if entry.claimable_now and free_at + LATE_BLOCKS < height:
                found.append(
                    f"{name}, round {entry.round}: {entry.tokens} tokens' units, {entry.bonds + entry.held} wei"
                )
    return found
