"""Getting everything home: give up the seat, claim what is mature, withdraw the deposit, and say what has to wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel.chain.client import ChainClient
from cupel.chain.errors import ContractReverted
from cupel.chain.run_contract import CLAIM_ROUNDS, RunContract
from cupel.chain.run_values import Claimable, Role
from cupel.protocol.types import Address

ETHER = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is still in the run."""

    seated: bool
    deposit_wei: str
    locked_wei: str
    tokens: str
    """Rewards not claimed yet, in the smallest unit."""
    next_block: int
    """Height at which more can be had; 0 where that depends on a round's end."""
    reasons: tuple[str, ...]
    """What is waited for, in words."""

    @property
    def is_done(self) -> bool:
        return not self.reasons


def take_home(client: ChainClient, contract: RunContract, address: Address, say: Callable[[str], None]) -> Left:
    """Do all that can be done now. May be called again and again.

    Raises   ContractReverted, ChainUnreachable, and whatever sending may
    """
    member = contract.member_of(address)
    if member.role != Role.NONE and not member.leaving:
        contract.retire()
        say("seat given up: it is free when the round ends, whose duties remain")
    entries = _get_entries(contract, address)
    ripe = [entry for entry in entries if entry.claimable_now]
    for first in range(0, len(ripe), CLAIM_ROUNDS):
        part = ripe[first : first + CLAIM_ROUNDS]
        contract.claim([entry.round for entry in part])
        rounds = ", ".join(str(entry.round) for entry in part)
        say(f"claimed rounds {rounds}: {sum(entry.tokens for entry in part) / ETHER:g} tokens")
    member = contract.member_of(address)
    free = member.deposit - member.locked
    if member.role == Role.NONE and free > 0 and client.head().number + 1 >= member.exit_at:
        try:
            contract.withdraw()
            say(f"withdrew {free / ETHER:g} ETH")
        except ContractReverted as refused:
            if refused.error_name not in ("WithdrawalTooEarly", "StillSeated"):
                raise
    return look(contract, address)


def look(contract: RunContract, address: Address) -> Left:
    """What is left in the run, and what it waits for."""
    member, entries = contract.member_of(address), _get_entries(contract, address)
    reasons, heights = [], []
    if member.role != Role.NONE:
        reasons.append("the seat is free when the round ends")
    for entry in entries:
        height = entry.mature_at
        what = "bonds held by a dispute" if entry.held else "rewards and bonds"
        reasons.append(f"{what} of round {entry.round} from block {height}" if height else f"round {entry.round} ends")
        heights.append(height)
    if member.role == Role.NONE and member.deposit > member.locked:
        reasons.append(f"{(member.deposit - member.locked) / ETHER:g} ETH can be withdrawn from block {member.exit_at}")
        heights.append(member.exit_at)
    if member.locked and not entries:
        reasons.append(f"{member.locked / ETHER:g} ETH are locked by the round under way")
    return Left(
        seated=member.role != Role.NONE,
        deposit_wei=str(member.deposit),
        locked_wei=str(member.locked),
        tokens=str(sum(entry.tokens for entry in entries)),
        next_block=min((height for height in heights if height), default=0),
        reasons=tuple(reasons),
    )


def _get_entries(contract: RunContract, address: Address) -> tuple[Claimable, ...]:
    return contract.claimable(address, 0, contract.current().round + 1)
