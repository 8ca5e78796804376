"""Receipts that can be believed.

A receipt decides whether a duty counts as done, and an endpoint can say anything. So it has to name the transaction
asked for, its block has to be in that endpoint's own chain at that height and list the transaction, and where several
endpoints are fit, a second one has to tell the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cupel.chain.answers import parse_block, parse_outcome, parse_transaction_hashes
from cupel.chain.endpoints import Endpoint, Endpoints
from cupel.chain.transport import RpcFault, Silent
from cupel.chain.values import Receipt
from cupel.protocol.errors import MalformedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A transaction in a block."""

    receipt: Receipt
    succeeded: bool

    def is_same(self, other: Found) -> bool:
        """Whether another endpoint tells the same; what it says about prices does not matter."""
        mine, others = self.receipt, other.receipt
        return (
            self.succeeded == other.succeeded
            and (mine.transaction_hash, mine.block_hash) == (others.transaction_hash, others.block_hash)
            and (mine.gas_used, mine.contract, mine.logs) == (others.gas_used, others.contract, others.logs)
        )


class ReceiptFinder:
    """Looks for receipts. `trouble` says, for whoever waits in vain, why the last one seen was not believed."""

    def __init__(self, endpoints: Endpoints, *, notify: Callable[[str], None]) -> None:
        self._endpoints, self._notify = endpoints, notify
        self.trouble: str | None = None

    def find(self, hashes: Sequence[bytes]) -> Found | None:
        """The receipt of the first of these transactions that is in a block; None while none is believed to be.

        Raises   ChainUnreachable
        """
        if not hashes:
            return None
        asked = self._endpoints.get_fit()
        if len(asked) < 2:
            # Through `request`, which waits for a silent chain as everything does, and fails as everything does.
            if all(self._endpoints.request("eth_getTransactionReceipt", _hex(one)) is None for one in hashes):
                return None
            asked = self._endpoints.get_fit()
        found = [(endpoint, self._ask(endpoint, hashes)) for endpoint in asked]
        told = [answer for _, answer in found if answer is not None]
        needed = min(2, sum(endpoint.is_fit for endpoint in asked))
        for answer in told:
            if sum(answer.is_same(other) for other in told) >= needed:
                self.trouble = None
                return answer
        if told:
            described = "; ".join(f"{endpoint.name}: {_describe(answer)}" for endpoint, answer in found)
            self.trouble = f"the endpoints do not agree ({described})"
        return None

    def _ask(self, endpoint: Endpoint, hashes: Sequence[bytes]) -> Found | None:
        for transaction_hash in hashes:
            try:
                answer = endpoint.ask("eth_getTransactionReceipt", _hex(transaction_hash))
                if answer is None:
                    continue
                receipt, succeeded = parse_outcome(answer)
                found = Found(receipt=receipt, succeeded=succeeded)
                lie = self._find_lie(endpoint, transaction_hash, found.receipt)
            except Silent:
                return None
            except RpcFault as fault:
                if len(self._endpoints.all) > 1:
                    endpoint.distrust(f"code {fault.code} instead of a receipt")
                return None
            except MalformedInput as error:
                lie = f"a malformed receipt ({error})"
            if lie is None:
                return found
            self.trouble = f"{endpoint.name} gave {lie}"
            self._notify(f"{self.trouble}: not believed")
            if len(self._endpoints.all) > 1:
                endpoint.distrust(lie)
            return None
        return None

    @staticmethod
    def _find_lie(endpoint: Endpoint, transaction_hash: bytes, receipt: Receipt) -> str | None:
        """What is wrong with a receipt. A re-org between the two requests looks like a lie, until the next look."""
        if receipt.transaction_hash != transaction_hash:
            return f"a receipt of another transaction than 0x{transaction_hash.hex()}"
        if any(
            (log.transaction_hash, log.block_hash) != (transaction_hash, receipt.block_hash) for log in receipt.logs
        ):
            return "a receipt with another transaction's events"
        answer = endpoint.ask("eth_getBlockByNumber", hex(receipt.block_number), False)
        if answer is None or parse_block(answer).hash != receipt.block_hash:
            return f"a receipt in a block {receipt.block_number} that is not in its own chain"
        if transaction_hash not in parse_transaction_hashes(answer):
            return f"a receipt in block {receipt.block_number}, which does not list the transaction"
        return None


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _describe(found: Found | None) -> str:
    if found is None:
        return "no receipt"
    return f"{'success' if found.succeeded else 'failure'} in block {found.receipt.block_number}"
