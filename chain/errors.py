"""What can go wrong between us and a chain, below the tree of `cupel.protocol.errors`.

ProtocolError
├── ChainRefused
│   ├── ContractReverted      a contract said no; carries the custom error and its arguments
│   ├── TransactionRejected   the node did not take a transaction
│   ├── FeeAboveCap           the chain asks more per gas than the operator allows
│   ├── ReplacementAboveCap   a waiting transaction cannot be replaced within the cap
│   └── TransactionReplaced   a later call of the same duty took its place
├── SignerRefused             the remote signer said no, or signed something else than it was asked to
└── Unavailable
    ├── ReceiptTimeout        sent, but not in a block yet
    └── SignerSilent          the remote signer does not answer
UsageError
├── ChainUnreachable          nothing answers at the RPC URL
│   └── MaybeTaken            an endpoint that was given a transaction is silent, another refused it
└── WrongChain                what answers there is another chain
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cupel.protocol.errors import ChainRefused, ProtocolError, Unavailable, UsageError


class ContractReverted(ChainRefused):
    """A contract refused. `error_name` is that of its custom error, or `Error`, `Panic`, `OutOfGas`, `Unknown`."""

    def __init__(
        self,
        what: str,
        *,
        error_name: str,
        arguments: Mapping[str, Any],
        data: bytes = b"",
        transaction_hash: bytes | None = None,
    ) -> None:
        listed = ", ".join(f"{name}={_show(value)}" for name, value in arguments.items())
        mined = f" (transaction 0x{transaction_hash.hex()})" if transaction_hash else ""
        super().__init__(f"{what} reverted: {error_name}({listed}){mined}")
        self.what, self.error_name, self.arguments, self.data = what, error_name, dict(arguments), data
        self.transaction_hash = transaction_hash
        """Set where the transaction is in a block and cost its gas; None where it was never sent."""


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_show(item) for item in value)}]"
    return str(value)


class TransactionRejected(ChainRefused):
    """The node did not take a transaction, in the node's words."""

    def __init__(self, what: str, *, code: int, message: str) -> None:
        super().__init__(f"{what}: the node answered {message!r} (code {code})")
        self.code, self.message = code, message


class FeeAboveCap(ChainRefused):
    """The chain's fee exceeds the cap; raise the cap or wait."""

    def __init__(self, *, base_fee_wei: int, cap_wei: int) -> None:
        super().__init__(f"a block now costs {base_fee_wei} wei per gas, your cap is {cap_wei}: raise it or wait")
        self.base_fee_wei, self.cap_wei = base_fee_wei, cap_wei


class ReplacementAboveCap(ChainRefused):
    """A waiting transaction should be replaced, and nodes would take only one above the cap; it may still be mined."""

    def __init__(self, what: str, *, fee_wei: int, cap_wei: int) -> None:
        super().__init__(
            f"{what} cannot replace its waiting predecessor, which offers {fee_wei} wei per gas: a tenth more is above "
            f"your cap of {cap_wei}; raise it, or wait until the other is in a block"
        )
        self.fee_wei, self.cap_wei = fee_wei, cap_wei


class TransactionReplaced(ChainRefused):
    """A later call of the same duty took this one's nonce; this one will never be in a block."""

    def __init__(self, what: str, *, by: str) -> None:
        super().__init__(f"{what} was replaced by {by} before it was in a block")
        self.what, self.by = what, by


class ReceiptTimeout(Unavailable):
    """A transaction was sent and is not deep enough in the chain yet; it may still be included, and is watched."""

    def __init__(self, what: str, *, transaction_hash: bytes, waited_s: float, trouble: str | None = None) -> None:
        because = f" ({trouble})" if trouble else ""
        super().__init__(f"{what}: transaction 0x{transaction_hash.hex()} has no receipt after {waited_s:g} s{because}")
        self.transaction_hash = transaction_hash


class SignerRefused(ProtocolError):
    """The remote signer said no, or what it signed is not what it was asked for."""


class SignerSilent(Unavailable):
    """The remote signer does not answer; nothing was signed, and asking again does no harm."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the signer at {url} does not answer ({reason}): is it running, and is --signer right?")
        self.url = url


class ChainUnreachable(UsageError):
    """Nothing answers at the RPC URL."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no chain answers at {url} ({reason}): check --rpc, or start one with `cupel chain` "
            "(or give another node's URL)"
        )
        self.url = url


class MaybeTaken(ChainUnreachable):
    """One endpoint refused a transaction, and another that was given it says nothing: it may still be mined."""

    def __init__(self, what: str, *, refusal: str, silent: str) -> None:
        UsageError.__init__(
            self,
            f"{what}: one endpoint answered {refusal!r}, but {silent} was given the transaction and is silent: it may "
            "still be mined, and is watched; the same command again does not send it twice",
        )
        self.url, self.refusal = silent, refusal


class WrongChain(UsageError):
    """What answers at the RPC URL is another chain."""

    def __init__(self, url: str, *, expected: int, got: int) -> None:
        super().__init__(f"the chain at {url} has id {got}, not {expected}: give the URL of a node of that chain")
        self.expected, self.got = expected, got
