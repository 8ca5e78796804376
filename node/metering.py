"""A chain client that counts what its transactions cost and how old the chain's newest block is."""

from __future__ import annotations

import threading
from collections import Counter
from functools import cached_property

from cupel.chain.abi import Call
from cupel.chain.client import ChainClient, Sent
from cupel.chain.errors import ContractReverted, ReceiptTimeout, TransactionReplaced
from cupel.chain.values import Block, Receipt
from cupel.protocol.errors import ChainRefused


class TransactionCounts:
    """What became of transactions since the start. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(("mined", "reverted", "replaced", "late", "refused"), 0))
        """refused: before it was sent; late: no receipt in time, it may still get in."""
        self.gas_used = 0
        self.cost_wei = 0

    def settled(self, outcome: str, receipt: Receipt | None = None) -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            if receipt is not None:
                self.gas_used += receipt.gas_used
                self.cost_wei += receipt.cost_wei


class MeteredClient(ChainClient):
    """Counts; otherwise a ChainClient."""

    newest: Block | None = None
    """Of the last look at the chain's head."""

    @cached_property
    def counts(self) -> TransactionCounts:
        return TransactionCounts()

    def head(self) -> Block:
        self.newest = super().head()
        return self.newest

    def submit(
        self,
        call: Call,
        *,
        value_wei: int = 0,
        gas: int | None = None,
        margin: float | None = None,
        duty: str | None = None,
    ) -> Sent:
        try:
            return super().submit(call, value_wei=value_wei, gas=gas, margin=margin, duty=duty)
        except ChainRefused:
            self.counts.settled("refused")
            raise

    def wait(self, sent: Sent) -> Receipt:
        try:
            receipt = super().wait(sent)
        except ContractReverted:
            self.counts.settled("reverted")
            raise
        except TransactionReplaced:
            self.counts.settled("replaced")
            raise
        except ReceiptTimeout:
            self.counts.settled("late")
            raise
        self.counts.settled("mined", receipt)
        return receipt
