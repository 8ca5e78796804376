"""Talking to a chain: asking contracts, sending transactions and waiting until they are in.

One `ChainClient` speaks for one key on one chain. It owns the key's nonces, chooses fees, estimates gas, waits for
receipts and turns every refusal into an error that says what the contract said. Any EVM node will do.

transport.py  one request to one URL          outbox.py     what was sent and is not final, on disk
endpoints.py  whom to ask                     sending.py    nonces, fees, signing, replacing
reading.py    blocks, calls, events           watching.py   receipts, depth, re-orgs, stuck transactions
receipts.py   which receipts to believe       fees.py       what a transaction may cost
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from cupel.chain.abi import Call, bind_transfer
from cupel.chain.endpoints import Endpoint, EndpointPolicy, Endpoints
from cupel.chain.errors import ContractReverted
from cupel.chain.fees import GWEI, FeePolicy
from cupel.chain.flights import Sent
from cupel.chain.key_lock import hold_key
from cupel.chain.keys import Signer
from cupel.chain.outbox import Entry, Outbox
from cupel.chain.reading import ChainReader
from cupel.chain.receipts import ReceiptFinder
from cupel.chain.sending import Sender
from cupel.chain.values import Receipt
from cupel.chain.watching import Watcher
from cupel.protocol.errors import ChainRefused, UsageError
from cupel.protocol.types import Address

logger = logging.getLogger(__name__)

_process_outbox = Outbox()
"""For clients that keep nothing on disk: shared, so that all clients of a key in this process know of one another."""


class ChainClient(ChainReader):
    """A chain behind one or several JSON-RPC URLs, for one key or, without `signer`, for reading only.

    rpc_urls           asked in this order; the next where one is silent, lags behind or asks for patience
    chain_id           the chain's identifier, checked at once; None takes whatever answers
    poll_seconds       pause between looks at the chain while waiting
    receipt_depth      blocks a transaction must be in before it counts, its own included
    receipt_timeout_s  how long `wait` waits for that; the transaction is looked after until it is final even so
    patience_s         how long a silent chain is asked again before a request fails
    outbox             where transactions are kept from before they are sent until they are final; None: in memory
    observe            called with (step, what) at `journalled`, `signed`, `sent` and `receipt` of every transaction
    notify             told what an operator may want to know: waits, replacements, endpoints that come and go

    Raises   ChainUnreachable, WrongChain, UsageError
             Unavailable: with `signer`, where no URL gives the chain's first block
    """

    def __init__(
        self,
        rpc_urls: str | Sequence[str],
        signer: Signer | None = None,
        *,
        chain_id: int | None = None,
        poll_seconds: float = 0.25,
        receipt_depth: int = 1,
        receipt_timeout_s: float = 180.0,
        patience_s: float = 15.0,
        fees: FeePolicy | None = None,
        outbox: Outbox | None = None,
        observe: Callable[[str, str], None] | None = None,
        notify: Callable[[str], None] | None = None,
        endpoints: EndpointPolicy | None = None,
    ) -> None:
        if receipt_depth < 1 or poll_seconds <= 0:
            raise UsageError(f"receipt_depth is {receipt_depth}, poll_seconds {poll_seconds}: both must be above 0")
        urls = (rpc_urls,) if isinstance(rpc_urls, str) else tuple(rpc_urls)
        tell = notify or logger.warning
        rpc = Endpoints(urls, patience_s=patience_s, policy=endpoints or EndpointPolicy(), notify=tell)
        found = rpc.open(chain_id=chain_id, patience_s=min(2.0, patience_s))
        super().__init__(rpc, chain_id=found, poll_seconds=poll_seconds)
        self._signer, self._sender, self._watcher = signer, None, None
        if signer is not None:
            box, see = outbox or _process_outbox, observe or _ignore
            self._sender = Sender(
                self,
                rpc,
                signer,
                outbox=box,
                fees=fees or FeePolicy(),
                poll_seconds=poll_seconds,
                observe=see,
                notify=tell,
            )
            self._watcher = Watcher(
                self,
                self._sender,
                ReceiptFinder(rpc, notify=tell),
                outbox=box,
                receipt_depth=receipt_depth,
                receipt_timeout_s=receipt_timeout_s,
                poll_seconds=poll_seconds,
                observe=see,
                notify=tell,
            )

    @property
    def address(self) -> Address:
        """Whom transactions are from. Raises UsageError without a signer."""
        return self._need_sender().address

    @property
    def signer(self) -> Signer | None:
        return self._signer

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Each URL and how it does."""
        return self._rpc.all

    def _need_sender(self) -> Sender:
        if self._sender is None:
            raise UsageError("this client has no key: it can read the chain, not send")
        return self._sender

    def _need_watcher(self) -> Watcher:
        self._need_sender()
        assert self._watcher is not None
        return self._watcher

    def close(self) -> None:
        """Stop watching and drop connections. What is not final stays in the outbox."""
        if self._watcher is not None:
            self._watcher.close()
        self._rpc.close()

    def hold_key(self, holder: str) -> AbstractContextManager[None]:
        """Be this machine's only sender with this key on this chain while the block lasts. Raises UsageError."""
        return hold_key(self.chain_id, self.address, holder, genesis=self.get_genesis())

    # Sending

    def send(self, call: Call, *, value_wei: int = 0, gas: int | None = None, duty: str | None = None) -> Receipt:
        """Send a transaction and wait until it is in. `gas` None: estimated, with a margin.

        A call (to, data, value) that is under way already and that nobody in this process waits for, as after a crash
        or a ReceiptTimeout, is joined, not sent twice; so is one that got in while nobody could be told.

        `duty` names what this is done for. Transactions of one duty exclude one another: a call that differs takes the
        nonce of the duty's waiting one at higher fees, so that only one of them can be mined; the same call joins it,
        and is not repeated after it succeeded as long as that is not final. Where the earlier one is mined already,
        the call is judged and sent as any other.

        Raises   ContractReverted: before sending, from the estimate; or in the block
                 TransactionRejected, TransactionReplaced, FeeAboveCap, ReplacementAboveCap, ReceiptTimeout,
                 ChainUnreachable
        """
        try:
            return self.wait(self.submit(call, value_wei=value_wei, gas=gas, duty=duty))
        except ContractReverted as reverted:
            if reverted.error_name != "OutOfGas" or gas is not None:
                raise
            margin = 2 * self._need_sender().fees.gas_margin
        # Between estimate and block the state moved on, as where a phase became due. Nothing happened; try once more.
        return self.wait(self.submit(call, value_wei=value_wei, margin=margin, duty=duty))

    def send_many(
        self, calls: Sequence[Call], *, duties: Sequence[str | None] | None = None
    ) -> list[Receipt | ChainRefused]:
        """Send transactions one behind the other without waiting between them; what became of each, in order.

        A later one sees the earlier ones' effects if they end up in the blocks in this order, which nonces ensure.
        """
        outcomes: list[Sent | ChainRefused] = []
        for call, duty in zip(calls, duties or [None] * len(calls), strict=True):
            try:
                outcomes.append(self.submit(call, duty=duty))
            except ChainRefused as refused:
                outcomes.append(refused)
        return [self._wait_or_refuse(outcome) if isinstance(outcome, Sent) else outcome for outcome in outcomes]

    def _wait_or_refuse(self, sent: Sent) -> Receipt | ChainRefused:
        try:
            return self.wait(sent)
        except ChainRefused as refused:
            return refused

    def transfer(self, to: Address, value_wei: int) -> Receipt:
        """Send ETH."""
        return self.send(bind_transfer(to), value_wei=value_wei)

    def deploy(self, call: Call) -> tuple[Address, Receipt]:
        """Create a contract (`ContractAbi.bind_deployment`); its address."""
        receipt = self.send(call)
        assert receipt.contract is not None, "a deployment's receipt names no contract"
        return receipt.contract, receipt

    def submit(
        self,
        call: Call,
        *,
        value_wei: int = 0,
        gas: int | None = None,
        margin: float | None = None,
        duty: str | None = None,
    ) -> Sent:
        """As `send`, without waiting for it."""
        try:
            return self._need_sender().submit(call, value_wei=value_wei, gas=gas, margin=margin, duty=duty)
        finally:
            self._need_watcher().keep_watch()

    def wait(self, sent: Sent) -> Receipt:
        """The receipt of a transaction `receipt_depth` blocks deep.

        Raises   ContractReverted, TransactionReplaced, ReceiptTimeout, ChainUnreachable
        """
        watcher = self._need_watcher()
        try:
            return watcher.wait(sent)
        finally:
            watcher.keep_watch()  # whoever watched before may have been closed

    def cancel(self, duty: str) -> bool:
        """Take the nonce of a duty's waiting transaction for one that does nothing; False: none waits (any more).

        Raises   FeeAboveCap, ReplacementAboveCap, TransactionRejected, ChainUnreachable
        """
        return self._need_sender().cancel(duty)

    def cancel_nonce(self, nonce: int) -> bool:
        """The same for a nonce, ours or another program's; False: it is used by now.

        Raises   UsageError: nothing waits under that nonce; else as `cancel`
        """
        try:
            return self._need_sender().cancel_nonce(nonce)
        finally:
            self._need_watcher().keep_watch()

    def find_foreign(self) -> int | None:
        """The lowest nonce under which another program's transaction of this key waits; None: there is none."""
        return self._need_sender().find_foreign()

    def recover(self) -> tuple[Entry, ...]:
        """Take up what an earlier process with this outbox left: sign the unsigned, send what is in no block, note what
        is. To be called once at start, before anything is sent. Returns everything that is not final.

        Says so (`notify`) where another program's transaction waits in front.

        Raises   ChainUnreachable
        """
        return self._need_watcher().recover()

    def list_pending(self) -> tuple[Entry, ...]:
        """This key's transactions that are not final yet."""
        return self._need_sender().list_entries()


def _ignore(step: str, what: str) -> None:
    pass


__all__ = ["GWEI", "ChainClient", "EndpointPolicy", "FeePolicy", "Outbox", "Sent"]
