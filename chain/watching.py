"""Seeing transactions through: into a block, to a depth, and until no re-org can undo them.

Whoever waits for a transaction looks often; a thread in the background looks after everything else that is not final,
so that what a re-org throws out is sent again even while nobody waits. It ends when nothing is left to look after.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from cupel.chain.answers import parse_data
from cupel.chain.errors import ContractReverted, ReceiptTimeout, TransactionReplaced
from cupel.chain.flights import SAY_AGAIN_S, Flight, Sent
from cupel.chain.outbox import Entry, Outbox, State
from cupel.chain.reading import ChainReader, make_reverted
from cupel.chain.receipts import Found, ReceiptFinder
from cupel.chain.sending import Sender
from cupel.chain.transport import RpcFault
from cupel.chain.values import Block, Receipt
from cupel.protocol.errors import CupelError, MalformedInput
from cupel.protocol.types import Height

logger = logging.getLogger(__name__)

_REBROADCAST_S = 10.0
"""A transaction without receipt is offered again this often: a node may have lost its pool."""
_TAKEN_LOOKS = 3
"""Blocks in which the account's count must be past a nonce, and no version found, before the nonce counts as taken."""
_SEARCHED_BLOCKS = 120
"""Blocks back from the newest whose states every node keeps."""
_UNTOLD_BLOCKS = 1_000
"""Blocks past its own for which an outcome that nobody was told is kept for whoever asks for the same again."""


class Watcher:
    """Sees one sender's transactions through.

    observe(step, what)   called at `receipt`, when a transaction was first found in a block and that is on disk
    """

    def __init__(
        self,
        reader: ChainReader,
        sender: Sender,
        finder: ReceiptFinder,
        *,
        outbox: Outbox,
        receipt_depth: int,
        receipt_timeout_s: float,
        poll_seconds: float,
        observe: Callable[[str, str], None],
        notify: Callable[[str], None],
    ) -> None:
        self._reader, self._sender, self._finder, self._outbox = reader, sender, finder, outbox
        self._depth, self._timeout_s, self._poll_s = receipt_depth, receipt_timeout_s, poll_seconds
        self._look_s = max(0.5, 4 * poll_seconds)
        self._observe, self._notify = observe, notify
        self._account, self._state = sender.account, sender.state
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop looking; what is unsettled stays in the outbox."""
        self._closed.set()

    # For whoever waits

    def wait(self, sent: Sent) -> Receipt:
        """The receipt of a transaction `receipt_depth` blocks deep. See ChainClient.wait."""
        started = last = time.monotonic()
        excused_s = 0.0
        try:
            while True:
                outcome = self._look(sent)
                if isinstance(outcome, Receipt):
                    return outcome
                sent = outcome
                now, flight = time.monotonic(), self._state.flights.get(sent.nonce)
                if flight is not None and flight.is_waiting_for_fee:
                    # The price keeps it waiting, not the chain: that time is the fee policy's.
                    excused_s = min(excused_s + now - last, self._sender.fees.spike_patience_s)
                last = now
                if now - started - excused_s > self._timeout_s:
                    raise ReceiptTimeout(
                        sent.call.what,
                        transaction_hash=sent.hash,
                        waited_s=now - started,
                        trouble=self._finder.trouble or (flight.trouble if flight else None),
                    )
                time.sleep(self._poll_s)
        finally:
            with self._state.lock:
                self._state.claimed.discard(sent.nonce)

    def _look(self, sent: Sent) -> Receipt | Sent:
        """The receipt if it is deep enough, else what to look for. Raises ContractReverted, TransactionReplaced."""
        entry = self._outbox.get(self._account, sent.nonce)
        found = self._finder.find([sent.hash] if entry is None else _list_hashes(entry))
        if found is not None:
            if entry is not None:
                self._note_mined(entry, found)
            if not self._is_deep(found.receipt.block_number):
                return sent
            mined = None if entry is None else entry.find_version(found.receipt.transaction_hash)
            if mined is None or mined.content.key == sent.key:
                return self._judge(sent, found)
            return self._follow(sent, mined.content.what, is_newest=entry is not None and _is_newest(entry, sent))
        if entry is None:
            return sent
        if entry.state is State.MINED:
            self._note_undone(entry)
        elif not _is_newest(entry, sent):
            raise TransactionReplaced(sent.call.what, by=entry.newest.content.what)
        if self._push(sent.nonce):
            self._outbox.forget(self._account, sent.nonce)
            return self._send_elsewhere(sent, "another transaction took its nonce")
        return sent

    def _follow(self, sent: Sent, mined: str, *, is_newest: bool) -> Sent:
        """Another content of the nonce is in a block: this call still has to be sent, or was itself replaced."""
        if not is_newest:
            raise TransactionReplaced(sent.call.what, by=mined)
        with self._state.lock:
            entry = self._outbox.get(self._account, sent.nonce)
            for version in entry.versions if entry else ():
                if version.content.key == sent.key:
                    # It must not be sent again under this nonce when a re-org undoes the other.
                    self._outbox.drop_version(self._account, sent.nonce, version.number)
            self._outbox.mark_told(self._account, sent.nonce)
        return self._send_elsewhere(sent, f"{mined} was faster")

    def _send_elsewhere(self, sent: Sent, reason: str) -> Sent:
        self._notify(f"{sent.call.what} (nonce {sent.nonce}) is sent under another nonce: {reason}")
        with self._state.lock:
            self._state.claimed.discard(sent.nonce)
        return self._sender.submit(sent.call, value_wei=sent.value_wei, duty=sent.duty)

    def _is_deep(self, block_number: int) -> bool:
        return self._depth == 1 or self._reader.head().number >= block_number + self._depth - 1

    def _judge(self, sent: Sent, found: Found) -> Receipt:
        failure = None if found.succeeded else self._explain_failure(sent, found.receipt)
        self._outbox.mark_told(self._account, sent.nonce)
        if failure is not None:
            raise failure
        return found.receipt

    def _explain_failure(self, sent: Sent, receipt: Receipt) -> ContractReverted:
        """Why a transaction in a block reverted: receipts do not say, so it is tried again on the state around it."""
        fields = {"from": self._sender.address, "data": f"0x{sent.call.data.hex()}", "value": hex(sent.value_wei)}
        fields |= {"gas": hex(sent.gas)} | ({"to": sent.call.to} if sent.call.to else {})
        for height in (receipt.block_number - 1, receipt.block_number):
            try:
                parse_data(self._reader.request("eth_call", fields, hex(height)))
            except RpcFault as fault:
                data = fault.revert_data
                if data is not None:
                    return make_reverted(sent.call, data, receipt.transaction_hash)
        name = "OutOfGas" if receipt.gas_used >= sent.gas * 63 // 64 else "Unknown"
        arguments = {"gas": sent.gas} if name == "OutOfGas" else {}
        return ContractReverted(
            sent.call.what, error_name=name, arguments=arguments, transaction_hash=receipt.transaction_hash
        )

    # What is found, and what is done about what is not

    def _note_mined(self, entry: Entry, found: Found) -> None:
        receipt = found.receipt
        if entry.state is State.MINED and entry.block_hash == receipt.block_hash:
            return
        self._outbox.mark_mined(
            self._account,
            entry.nonce,
            hash=receipt.transaction_hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            succeeded=found.succeeded,
        )
        self._state.flights.pop(entry.nonce, None)
        if entry.state is not State.MINED:
            self._observe("receipt", entry.newest.content.what)

    def _note_undone(self, entry: Entry) -> None:
        """A re-org threw it out of its block: back to the pools with the same bytes."""
        with self._state.lock:
            self._outbox.mark_sent(self._account, entry.nonce)
            self._notify(f"{entry.newest.content.what} (nonce {entry.nonce}) is in no block any more: sent again")
            trouble = self._sender.rebroadcast(entry)
            self._begin_flight(entry, self._reader.head()).trouble = trouble

    def _begin_flight(self, entry: Entry, head: Block) -> Flight:
        now = time.monotonic()
        flight = Flight(height=head.number, since=now, broadcast_at=now)
        self._state.flights[entry.nonce] = flight
        return flight

    def _push(self, nonce: int) -> bool:
        """Do what helps a transaction into a block; True: its nonce is somebody else's, nothing will."""
        with self._state.lock:
            entry, now = self._outbox.get(self._account, nonce), time.monotonic()
            if entry is None or entry.state is State.MINED:
                return False
            if not entry.is_signed:
                self._sender.finish_unsigned(entry)
                return False
            flight = self._state.flights.get(nonce)
            if flight is None:
                self._begin_flight(entry, self._reader.head())
                return False
            if now - flight.looked_at < self._look_s:
                return flight.is_taken
            flight.looked_at, head = now, self._reader.head()
            flight.is_taken = self._is_taken(entry, flight, head)
            if flight.is_taken:
                return True
            cap = self._sender.fees.max_fee_wei
            flight.is_waiting_for_fee = head.base_fee_wei > cap
            if flight.is_waiting_for_fee:
                self._say(flight, entry, f"waits: a block now costs {head.base_fee_wei} wei per gas, your cap is {cap}")
            if flight.taken_heights:
                return False  # offering it again would be in vain
            if not flight.is_waiting_for_fee and self._is_stuck(entry, flight, head, now):
                self._unstick(entry, flight, head)
            elif now - flight.broadcast_at >= _REBROADCAST_S:
                flight.broadcast_at, flight.trouble = now, self._sender.rebroadcast(entry)
                if flight.trouble:
                    self._say(flight, entry, f"is not taken: {flight.trouble}")
            return False

    def _is_taken(self, entry: Entry, flight: Flight, head: Block) -> bool:
        deep = max(0, head.number - self._depth + 1)
        counted = self._reader.count_transactions(self._sender.address, deep)
        if counted <= entry.nonce:
            flight.taken_heights.clear()
            if counted < entry.nonce and self._outbox.get(self._account, counted) is None:
                self._say(flight, entry, f"waits: {_describe_foreign(counted)}")
            return False
        flight.taken_heights.add(head.number)
        if len(flight.taken_heights) < _TAKEN_LOOKS or self._finder.find(_list_hashes(entry)) is not None:
            return False
        return self._is_foreign(entry, deep)

    def _is_foreign(self, entry: Entry, newest: int) -> bool:
        """Whether the transaction that used an entry's nonce by block `newest` is none of ours.

        An endpoint that hides or spoils a receipt must not make us send twice: so the block is looked at.
        """
        low, high, address = max(0, newest - _SEARCHED_BLOCKS), newest, self._sender.address
        if self._reader.count_transactions(address, low) > entry.nonce:
            return True  # so long ago that nodes may not know the states between; and no receipt in all that time
        while high - low > 1:
            middle = (low + high) // 2
            is_used = self._reader.count_transactions(address, middle) > entry.nonce
            low, high = (low, middle) if is_used else (middle, high)
        try:
            transactions = self._reader.get_transactions(high)
        except MalformedInput as error:
            self._finder.trouble = str(error)
            return False  # what cannot be read proves nothing
        for transaction in transactions:
            if transaction.sender.lower() == address.lower() and transaction.nonce == entry.nonce:
                if entry.find_version(transaction.hash) is None:
                    return True
                self._finder.trouble = self._finder.trouble or f"it is in block {high}, and its receipt is kept from us"
        return False

    def _is_stuck(self, entry: Entry, flight: Flight, head: Block, now: float) -> bool:
        policy = self._sender.fees
        if head.number - flight.height < policy.replace_after_blocks or now - flight.since < policy.replace_after_s:
            return False
        return not any(one.nonce < entry.nonce and one.state is not State.MINED for one in self._sender.list_entries())

    def _unstick(self, entry: Entry, flight: Flight, head: Block) -> None:
        version = entry.to_send
        assert version is not None, "a transaction nobody signed"
        if self._reader.request("eth_getTransactionByHash", f"0x{version.hash.hex()}") is None:
            self._sender.rebroadcast(entry)  # nodes lost it: its price is not what keeps it waiting
            self._begin_flight(entry, head)
        elif (reason := self._sender.raise_fees(entry, head)) is not None:
            self._say(flight, entry, f"waits: {reason}")

    def _say(self, flight: Flight, entry: Entry, message: str) -> None:
        now = time.monotonic()
        if now - flight.said_at >= SAY_AGAIN_S:
            flight.said_at = now
            self._notify(f"{entry.newest.content.what} (nonce {entry.nonce}) {message}")

    # In the background

    def recover(self) -> tuple[Entry, ...]:
        """Take up what an earlier process left; everything that is not final. See ChainClient.recover."""
        with self._state.lock:
            for entry in self._sender.list_entries():
                if not entry.is_signed:
                    self._sender.finish_unsigned(entry)
                elif entry.state is not State.MINED:
                    found = self._finder.find(_list_hashes(entry))
                    if found is not None:
                        self._note_mined(entry, found)
                    else:
                        self._sender.rebroadcast(entry)
                        self._begin_flight(entry, self._reader.head())
        if (foreign := self._sender.find_foreign()) is not None:
            self._notify(_describe_foreign(foreign))
        self.keep_watch()
        return self._sender.list_entries()

    def keep_watch(self) -> None:
        """See that somebody looks after this key's transactions, if there are any."""
        with self._state.lock:
            keeper = self._state.keepers.get(self._outbox)
            if (keeper is not None and keeper.is_alive()) or self._closed.is_set() or not self._sender.list_entries():
                return
            arguments = (weakref.ref(self), self._closed, self._look_s)
            keeper = threading.Thread(target=_tend_for_ever, args=arguments, name="cupel-outbox", daemon=True)
            self._state.keepers[self._outbox] = keeper
            keeper.start()

    def tend(self) -> bool:
        """Look once after everything that is not final; False if nothing is. Raises ChainUnreachable, ProtocolError."""
        entries = self._sender.list_entries()
        if not entries:
            return False
        head = self._reader.head()
        final = self._reader.get_final_height(head)
        hashes: dict[Height, bytes | None] = {}
        for entry in entries:
            if entry.state is State.MINED:
                assert entry.block_number is not None
                if entry.block_number not in hashes:
                    block = self._reader.get_block(entry.block_number)
                    hashes[entry.block_number] = None if block is None else block.hash
                self._tend_mined(entry, hashes[entry.block_number], head, final)
            else:
                self._tend_waiting(entry)
        return True

    def _tend_mined(self, entry: Entry, block_hash: bytes | None, head: Block, final: Height) -> None:
        assert entry.block_number is not None
        if block_hash != entry.block_hash:
            found = self._finder.find(_list_hashes(entry))
            if found is not None:
                self._note_mined(entry, found)
            elif block_hash is not None or head.number >= entry.block_number:
                self._note_undone(entry)
        elif entry.block_number <= final:
            with self._state.lock:
                is_old = head.number - entry.block_number > _UNTOLD_BLOCKS
                if entry.nonce not in self._state.claimed and (entry.told or is_old):
                    self._outbox.forget(self._account, entry.nonce)

    def _tend_waiting(self, entry: Entry) -> None:
        found = self._finder.find(_list_hashes(entry))
        if found is not None:
            self._note_mined(entry, found)
        elif self._push(entry.nonce):
            with self._state.lock:
                if entry.nonce not in self._state.claimed:
                    # Only the key's owner can have done that. Whoever decided it decides again from the chain.
                    self._notify(f"{entry.newest.content.what} (nonce {entry.nonce}) is dropped: its nonce was used")
                    self._outbox.forget(self._account, entry.nonce)


def _describe_foreign(nonce: int) -> str:
    return (
        f"another program's transaction waits in front of ours (nonce {nonce}); if it stays, `cupel wallet cancel` "
        "takes its place"
    )


def _list_hashes(entry: Entry) -> list[bytes]:
    """Every version that may be in a block, the likeliest first."""
    return [version.hash for version in reversed(entry.signed)]


def _is_newest(entry: Entry, sent: Sent) -> bool:
    return entry.newest.content.key == sent.key


def _tend_for_ever(reference: weakref.ref[Watcher], closed: threading.Event, pause_s: float) -> None:
    said_at = -SAY_AGAIN_S
    while not closed.wait(pause_s):
        watcher = reference()
        if watcher is None:
            return
        try:
            if not watcher.tend():
                return
        except CupelError:
            pass  # whoever asks for something is told; this goes on when chain and disk are back
        except Exception:
            # A bug must not leave transactions without anybody to look after them.
            if time.monotonic() - said_at >= SAY_AGAIN_S:
                said_at = time.monotonic()
                logger.exception("looking after transactions failed; it goes on")
        del watcher
