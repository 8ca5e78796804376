"""What a chain tells us, as values of our own: no library's objects travel further in."""

from __future__ import annotations

from dataclasses import dataclass

from cupel.protocol.types import Address, Height, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block's header, as far as anybody here needs it."""

    number: Height
    hash: bytes
    parent_hash: bytes
    timestamp: int
    """Unix seconds."""
    base_fee_wei: Wei
    """Per gas; 0 on chains without EIP-1559."""
    gas_limit: int
    gas_used: int
    beacon: bytes
    """`prevrandao`: 32 bytes; worth nothing on chains with one producer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One event as the chain stores it."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: Height
    block_hash: bytes
    transaction_hash: bytes
    position: int
    """Index in the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a transaction that is in a block and succeeded."""

    transaction_hash: bytes
    block_number: Height
    block_hash: bytes
    gas_used: int
    gas_price_wei: Wei
    """Paid per gas."""
    contract: Address | None
    """Where a deployed contract is."""
    logs: tuple[Log, ...]

    @property
    def cost_wei(self) -> Wei:
        return Wei(self.gas_used * self.gas_price_wei)
