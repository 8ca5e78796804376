"""What a transaction may cost, and what the next version of a stuck one must.

EIP-1559: a transaction names a tip and a most per gas; it pays the block's base fee and the tip, never more than the
most. Nodes take another transaction of the same nonce only if both are a tenth higher.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel.chain.errors import FeeAboveCap
from cupel.protocol.errors import UsageError

GWEI = 10**9
REPLACEMENT_PERCENT = 10
"""By how much both fees of a replacement must exceed those of what it replaces; every client asks for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePolicy:
    """What a transaction may cost."""

    max_fee_wei: int = 500 * GWEI
    """Cap per gas, base fee and tip together; above it nothing is sent."""
    tip_wei: int | None = None
    """Per gas for the block's producer; None takes the node's suggestion."""
    base_fee_multiple: int = 2
    """Room for the base fee to rise before the transaction is in: it grows by at most an eighth a block."""
    gas_margin: float = 1.5
    """Gas limit over estimate: other transactions of the block may move the state meanwhile. Unused gas is not paid."""
    replace_after_blocks: int = 5
    replace_after_s: float = 10.0
    """A transaction that was left out of this many blocks for this long is offered again at higher fees."""
    spike_patience_s: float = 60.0
    """How long a call waits for the base fee to fall under the cap before it fails with FeeAboveCap."""

    def __post_init__(self) -> None:
        if self.max_fee_wei <= 0 or self.base_fee_multiple < 1 or self.gas_margin < 1 or (self.tip_wei or 0) < 0:
            raise UsageError(f"a fee cap must be above 0, multiple and margin at least 1: {self}")
        if self.replace_after_blocks < 1 or self.replace_after_s < 0 or self.spike_patience_s < 0:
            raise UsageError(f"a replacement comes after at least 1 block, times are at least 0: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Wei per gas."""

    tip_wei: int
    max_fee_wei: int


def compute_fees(policy: FeePolicy, *, base_fee_wei: int, suggested_tip_wei: int) -> Fees:
    """Fees of a first version. Raises FeeAboveCap."""
    cap = policy.max_fee_wei
    if base_fee_wei > cap:
        raise FeeAboveCap(base_fee_wei=base_fee_wei, cap_wei=cap)
    tip = suggested_tip_wei if policy.tip_wei is None else policy.tip_wei
    tip = min(tip, cap - base_fee_wei)
    return Fees(tip_wei=tip, max_fee_wei=min(base_fee_wei * policy.base_fee_multiple + tip, cap))


def compute_replacement(policy: FeePolicy, before: Fees, wanted: Fees) -> Fees | None:
    """Fees that nodes accept in place of `before`, at least `wanted`; None where the cap leaves no room for them."""
    tip, max_fee = (
        max(new, -(-old * (100 + REPLACEMENT_PERCENT) // 100), old + 1)
        for old, new in ((before.tip_wei, wanted.tip_wei), (before.max_fee_wei, wanted.max_fee_wei))
    )
    max_fee = max(max_fee, tip)
    return Fees(tip_wei=tip, max_fee_wei=max_fee) if max_fee <= policy.max_fee_wei else None
