"""Putting transactions on their way: which nonce, which fees, what is on disk before anybody else hears of it.

A transaction is journalled, signed and sent, in this order, and the outbox is written before each next step, so that
the next process goes on where this one was killed. Seeing it through is watching.py's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from eth_hash.auto import keccak

from cupel.chain.abi import Call
from cupel.chain.answers import parse_transaction_hash
from cupel.chain.endpoints import Endpoint, Endpoints
from cupel.chain.errors import ChainUnreachable, FeeAboveCap, MaybeTaken, ReplacementAboveCap, TransactionRejected
from cupel.chain.fees import FeePolicy, Fees, compute_fees, compute_replacement
from cupel.chain.flights import SAY_AGAIN_S, Flight, Sent, get_key_state
from cupel.chain.keys import Signer
from cupel.chain.outbox import Content, Entry, Outbox, State, make_account
from cupel.chain.reading import ChainReader, explain_fault
from cupel.chain.transport import RpcFault, Silent
from cupel.chain.values import Block
from cupel.protocol.errors import MalformedInput, UsageError
from cupel.protocol.types import Address


class Sender:
    """One key's way to one chain.

    observe(step, what)   called at `journalled`, `signed` and `sent`, each on disk by then
    notify(message)       for the operator: waits and replacements
    """

    def __init__(
        self,
        reader: ChainReader,
        endpoints: Endpoints,
        signer: Signer,
        *,
        outbox: Outbox,
        fees: FeePolicy,
        poll_seconds: float,
        observe: Callable[[str, str], None],
        notify: Callable[[str], None],
    ) -> None:
        self._reader, self._endpoints, self._signer, self._outbox = reader, endpoints, signer, outbox
        self.fees, self._poll_s, self._observe, self._notify = fees, poll_seconds, observe, notify
        self.account = make_account(reader.chain_id, reader.get_genesis(), signer.address)
        self.state = get_key_state(self.account)

    @property
    def address(self) -> Address:
        return self._signer.address

    def list_entries(self) -> tuple[Entry, ...]:
        """Everything of this key that is not final yet."""
        return self._outbox.list(self.account)

    # Sending

    def submit(
        self,
        call: Call,
        *,
        value_wei: int = 0,
        gas: int | None = None,
        margin: float | None = None,
        duty: str | None = None,
    ) -> Sent:
        """Send, or join the same transaction where it is under way. See ChainClient.send."""
        key = Content(what=call.what, to=call.to, data=call.data, value_wei=value_wei, gas=0).key
        if (joined := self._join(call, key, duty)) is not None:
            return joined
        self._wait_for_fee(call.what)
        with self.state.lock:
            if (joined := self._join(call, key, duty)) is not None:
                return joined
            older = self._find_older(duty)
            head = self._reader.head()
            limit = gas
            if limit is None:
                # Without the one it replaces, this call will find the state as it is now.
                at = "pending" if older is None else "latest"
                limit = self._estimate(call, value_wei, margin or self.fees.gas_margin, most=head.gas_limit, at=at)
            content = Content(what=call.what, to=call.to, data=call.data, value_wei=value_wei, gas=limit)
            nonce = None if older is None else self._replace(older, content, head)
            if nonce is None:
                nonce = self._send_new(content, head, duty)
            return self._claim(nonce, call, duty)

    def _find_same(self, key: bytes, duty: str | None) -> Entry | None:
        """The entry somebody asks for again: under way without anybody waiting, or in a block and nobody was told.

        Two calls at once are two transactions, unless they name the same duty.
        """
        for entry in self.list_entries():
            if entry.duty != duty:
                continue
            is_free = entry.nonce not in self.state.claimed
            if entry.state is not State.MINED:
                if entry.newest.content.key == key and (is_free or duty is not None):
                    return entry
            elif entry.mined.content.key == key:
                is_done = duty is not None and bool(entry.succeeded)
                if is_done or (is_free and not entry.told):
                    return entry
        return None

    def _find_older(self, duty: str | None) -> Entry | None:
        if duty is None:
            return None
        entries = self.list_entries()
        return next((one for one in entries if one.duty == duty and one.state is not State.MINED), None)

    def _join(self, call: Call, key: bytes, duty: str | None) -> Sent | None:
        with self.state.lock:
            same = self._find_same(key, duty)
            if same is not None and same.to_send is None:
                self.finish_unsigned(same)
                same = self._find_same(key, duty)
            if same is None or same.to_send is None:
                return None
            if same.state is not State.MINED:
                self.rebroadcast(same)
            return self._claim(same.nonce, call, duty)

    def _claim(self, nonce: int, call: Call, duty: str | None) -> Sent:
        entry = self._outbox.get(self.account, nonce)
        assert entry is not None, "a transaction that is in no outbox"
        version = entry.to_send
        assert version is not None, "a transaction nobody signed"
        content = version.content
        self.state.claimed.add(nonce)
        return Sent(
            call=call,
            hash=version.hash,
            raw=version.raw,
            nonce=nonce,
            gas=content.gas,
            value_wei=content.value_wei,
            key=content.key,
            duty=duty,
        )

    def _send_new(self, content: Content, head: Block, duty: str | None) -> int:
        """Journal, sign and send under a fresh nonce; which one."""
        fees = self._choose_fees(head)
        for attempt in (1, 2):
            nonce = self.choose_nonce()
            self._outbox.journal(self.account, nonce, content, duty=duty)
            self._observe("journalled", content.what)
            try:
                self._sign_and_send(nonce, 0, content, fees)
            except ChainUnreachable:
                # Some node may have it nevertheless: from now on it is under way.
                self.state.next_nonce = nonce + 1
                self._begin_flight(nonce, head)
                raise
            except TransactionRejected as rejected:
                self._outbox.forget(self.account, nonce)
                if attempt == 2 or not _is_nonce_used(rejected):
                    raise
                continue  # another process used the key, or the node's count lagged: ask again, once
            except BaseException:
                # Not signed: nobody has seen it, and the nonce is free.
                entry = self._outbox.get(self.account, nonce)
                if entry is not None and not entry.is_signed:
                    self._outbox.forget(self.account, nonce)
                raise
            break
        self.state.next_nonce = nonce + 1
        self._begin_flight(nonce, head)
        return nonce

    def _begin_flight(self, nonce: int, head: Block) -> None:
        now = time.monotonic()
        self.state.flights[nonce] = Flight(height=head.number, since=now, broadcast_at=now)

    def choose_nonce(self) -> int:
        """The next nonce: the node's count, or ours where that is ahead because a node's may lag."""
        counted = self._reader.count_transactions(self.address, "pending")
        ours = max((entry.nonce + 1 for entry in self.list_entries()), default=0)
        return max(counted, ours, self.state.next_nonce if self.state.claimed else 0)

    def _sign_and_send(self, nonce: int, number: int, content: Content, fees: Fees) -> None:
        """Sign a journalled version, keep the bytes, send them. Raises TransactionRejected, ChainUnreachable."""
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._reader.chain_id,
            "nonce": nonce,
            "maxPriorityFeePerGas": fees.tip_wei,
            "maxFeePerGas": fees.max_fee_wei,
            "gas": content.gas,
            "value": content.value_wei,
            "data": content.data,
        }
        if content.to is not None:
            fields["to"] = content.to
        raw = self._signer.sign_transaction(fields)
        transaction_hash = keccak(raw)
        self._outbox.save_signed(self.account, nonce, number, fees=fees, hash=transaction_hash, raw=raw)
        self._observe("signed", content.what)
        self._broadcast(content.what, transaction_hash, raw)
        self._outbox.mark_sent(self.account, nonce)
        self._observe("sent", content.what)

    def _broadcast(self, what: str, transaction_hash: bytes, raw: bytes) -> None:
        """Give a node the transaction.

        Raises   TransactionRejected: one refused it, and none that was given it has it
                 MaybeTaken: one refused it, another was given it and says nothing any more
                 ChainUnreachable
        """
        data, silent = f"0x{raw.hex()}", list[Endpoint]()
        try:
            self._endpoints.request("eth_sendRawTransaction", data, silent=silent)
        except RpcFault as fault:
            # A request repeated after a lost answer finds its own transaction there, waiting or already in a block.
            message = fault.message.lower()
            if not ("already known" in message or "already imported" in message):
                doubtful = self._find_doubtful(transaction_hash, silent)
                if doubtful is not None:
                    raise MaybeTaken(what, refusal=fault.message, silent=doubtful) from fault
                if not self._is_known(transaction_hash):
                    raise TransactionRejected(what, code=fault.code, message=fault.message) from fault
        if len(self._endpoints.all) > 1:
            arguments = ("eth_sendRawTransaction", data)
            threading.Thread(target=self._endpoints.spread, args=arguments, daemon=True).start()

    def _find_doubtful(self, transaction_hash: bytes, silent: Sequence[Endpoint]) -> str | None:
        """Of those that were given a transaction and did not answer, one that does not deny it even now."""
        if len(self._endpoints.all) == 1:
            return None  # it answered after all
        for endpoint in silent:
            try:
                if endpoint.ask("eth_getTransactionByHash", f"0x{transaction_hash.hex()}") is not None:
                    return None  # `_is_known` looks closer
            except (RpcFault, Silent):
                return endpoint.name
        return None

    def _is_known(self, transaction_hash: bytes) -> bool:
        """Whether any node has it, waiting or in a block. One that says nonsense does not deny it."""
        method, argument = "eth_getTransactionByHash", f"0x{transaction_hash.hex()}"
        if len(self._endpoints.all) == 1:
            return _is_that(self._endpoints.request(method, argument), transaction_hash)
        for endpoint in self._endpoints.all:
            if endpoint.may_be_asked:
                try:
                    if _is_that(endpoint.ask(method, argument), transaction_hash):
                        return True
                except (RpcFault, Silent):
                    continue
        return False

    # Fees

    def _choose_fees(self, head: Block) -> Fees:
        """Raises FeeAboveCap."""
        suggested = self.fees.tip_wei
        if suggested is None and head.base_fee_wei <= self.fees.max_fee_wei:
            suggested = self._reader.suggest_tip(head.base_fee_wei)
        return compute_fees(self.fees, base_fee_wei=head.base_fee_wei, suggested_tip_wei=suggested or 0)

    def _wait_for_fee(self, what: str) -> None:
        """Sit out a price above the cap, for the policy's patience; then sending fails with FeeAboveCap."""
        started, said_at = time.monotonic(), -SAY_AGAIN_S
        while True:
            base_fee, cap = self._reader.head().base_fee_wei, self.fees.max_fee_wei
            now = time.monotonic()
            if base_fee <= cap:
                return
            if now - started >= self.fees.spike_patience_s:
                raise FeeAboveCap(base_fee_wei=base_fee, cap_wei=cap)
            if now - said_at >= SAY_AGAIN_S:
                self._notify(f"{what} waits: a block now costs {base_fee} wei per gas, your cap is {cap}")
                said_at = now
            time.sleep(self._poll_s)

    def _estimate(self, call: Call, value_wei: int, margin: float, *, most: int, at: str) -> int:
        fields = {"from": self.address, "data": f"0x{call.data.hex()}", "value": hex(value_wei)}
        if call.to is not None:
            fields["to"] = call.to
        try:
            # On the pending block: this key's earlier transactions count, and so does the next height.
            estimate = self._reader.estimate_gas(fields, at)
        except RpcFault as fault:
            raise explain_fault(call, fault) from fault
        return min(int(estimate * margin), most) if call.data else min(estimate, most)

    # Replacing

    def cancel(self, duty: str) -> bool:
        """Take the nonce of a duty's waiting transaction for one that does nothing; False: there is none.

        Raises   ReplacementAboveCap, FeeAboveCap, ChainUnreachable
        """
        with self.state.lock:
            older = self._find_older(duty)
            return older is not None and self._cancel(older)

    def cancel_nonce(self, nonce: int) -> bool:
        """The same for a nonce, ours or another program's; False: it is used by now.

        Raises   UsageError: nothing waits under that nonce
                 ReplacementAboveCap, FeeAboveCap, TransactionRejected, ChainUnreachable
        """
        with self.state.lock:
            entry = self._outbox.get(self.account, nonce)
            if entry is not None:
                return entry.state is not State.MINED and self._cancel(entry)
            if nonce < self._reader.count_transactions(self.address, "latest"):
                return False
            if nonce >= self._reader.count_transactions(self.address, "pending"):
                raise UsageError(f"no transaction of {self.address} waits under nonce {nonce}")
            return self._cancel_foreign(nonce)

    def _cancel(self, entry: Entry) -> bool:
        if entry.to_send is not None:
            return self._replace(entry, self._make_nothing(entry), self._reader.head()) is not None
        if self._is_last(entry):
            self._outbox.forget(self.account, entry.nonce)
            return True
        # Transactions behind it wait for this nonce. Nobody has seen it: from now on it is one that does nothing.
        self._outbox.add_version(self.account, entry.nonce, self._make_nothing(entry))
        self._outbox.drop_version(self.account, entry.nonce, entry.newest.number)
        current = self._outbox.get(self.account, entry.nonce)
        assert current is not None
        self.finish_unsigned(current)
        return True

    def _cancel_foreign(self, nonce: int) -> bool:
        """Outbid a transaction whose price nobody told us: ever higher, until nodes take ours or the cap is reached."""
        content = Content(what=f"nothing (nonce {nonce})", to=self.address, data=b"", value_wei=0, gas=21_000)
        head = self._reader.head()
        fees = self._choose_fees(head)
        self._outbox.journal(self.account, nonce, content, duty=None)
        self._observe("journalled", content.what)
        while True:
            try:
                self._sign_and_send(nonce, 0, content, fees)
            except TransactionRejected as rejected:
                dearer = compute_replacement(self.fees, fees, fees)
                if "underpriced" not in rejected.message.lower() or dearer is None:
                    self._outbox.forget(self.account, nonce)
                    if _is_nonce_too_low(rejected):
                        return False
                    if dearer is not None:
                        raise
                    cap = self.fees.max_fee_wei
                    raise ReplacementAboveCap(content.what, fee_wei=fees.max_fee_wei, cap_wei=cap) from rejected
                fees = dearer
                continue
            self._begin_flight(nonce, head)
            return True

    def find_foreign(self) -> int | None:
        """The lowest nonce under which a transaction waits that is none of ours; None: there is none."""
        latest = self._reader.count_transactions(self.address, "latest")
        pending = self._reader.count_transactions(self.address, "pending")
        ours = {entry.nonce for entry in self.list_entries()}
        return next((nonce for nonce in range(latest, min(pending, latest + len(ours) + 1)) if nonce not in ours), None)

    def _make_nothing(self, entry: Entry) -> Content:
        what = f"nothing (instead of {entry.newest.content.what})"
        return Content(what=what, to=self.address, data=b"", value_wei=0, gas=21_000)

    def _replace(self, older: Entry, content: Content, head: Block) -> int | None:
        """Put another content under a waiting entry's nonce; None where the old one is in a block by now."""
        fees: Fees | None = self._choose_fees(head)
        if older.signed and fees is not None:
            fees = compute_replacement(self.fees, older.signed[-1].fees, fees)
        if fees is None:
            cap = self.fees.max_fee_wei
            raise ReplacementAboveCap(content.what, fee_wei=older.signed[-1].fees.max_fee_wei, cap_wei=cap)
        number = self._outbox.add_version(self.account, older.nonce, content)
        self._observe("journalled", content.what)
        try:
            self._sign_and_send(older.nonce, number, content, fees)
        except TransactionRejected as rejected:
            self._outbox.drop_version(self.account, older.nonce, number)
            if _is_nonce_too_low(rejected):
                return None
            raise
        except ChainUnreachable:
            raise
        except BaseException:
            entry = self._outbox.get(self.account, older.nonce)
            if entry is not None and not entry.is_signed:
                self._outbox.drop_version(self.account, older.nonce, number)
            raise
        self._begin_flight(older.nonce, head)
        return older.nonce

    def raise_fees(self, entry: Entry, head: Block) -> str | None:
        """Offer a stuck transaction again, a tenth dearer or at today's price; why not, where it cannot be."""
        newest, cap = entry.signed[-1], self.fees.max_fee_wei
        try:
            fees = compute_replacement(self.fees, newest.fees, self._choose_fees(head))
        except FeeAboveCap as above:
            return str(above)
        if fees is None:
            return f"offers {newest.fees.max_fee_wei} wei per gas; a tenth more would exceed your cap of {cap}"
        number = self._outbox.add_version(self.account, entry.nonce, newest.content)
        try:
            self._sign_and_send(entry.nonce, number, newest.content, fees)
        except TransactionRejected as rejected:
            if "underpriced" not in rejected.message.lower():  # else the next one goes higher still
                self._outbox.drop_version(self.account, entry.nonce, number)
            return None if _is_nonce_too_low(rejected) else rejected.message
        finally:
            self._begin_flight(entry.nonce, head)
        self._notify(
            f"{newest.content.what} (nonce {entry.nonce}) was left out of blocks: sent again at {fees.max_fee_wei} wei "
            f"per gas, tip {fees.tip_wei}"
        )
        return None

    def rebroadcast(self, entry: Entry) -> str | None:
        """Offer the same bytes again; a node's reason not to take them."""
        version = entry.to_send
        assert version is not None, "a transaction nobody signed"
        try:
            self._broadcast(version.content.what, version.hash, version.raw)
        except TransactionRejected as rejected:
            # "nonce too low": it, or another in its place, is in a block.
            return None if _is_nonce_too_low(rejected) else rejected.message
        except MaybeTaken as doubt:
            return doubt.refusal
        if entry.state is State.JOURNALLED:
            self._outbox.mark_sent(self.account, entry.nonce)
        return None

    # After a crash

    def finish_unsigned(self, entry: Entry) -> None:
        """Sign and send what was decided and not signed, or see that its nonce leaves no hole where it makes no sense
        any more. Raises ChainUnreachable; whatever the signer raises."""
        newest, is_only = entry.newest, len(entry.versions) == 1
        content, head = newest.content, self._reader.head()
        if entry.nonce < self._reader.count_transactions(self.address, "latest"):
            self._drop_unsigned(entry, "its nonce was used in the meantime")
            return
        if is_only and (reason := self._find_refusal(content)) is not None:
            if self._is_last(entry):
                self._drop_unsigned(entry, reason)
                return
            content = self._make_nothing(entry)  # transactions behind it wait for this nonce
            self._outbox.add_version(self.account, entry.nonce, content)
            self._outbox.drop_version(self.account, entry.nonce, newest.number)
        try:
            fees: Fees | None = self._choose_fees(head)
        except FeeAboveCap as above:
            self._notify(f"{content.what} waits: {above}")
            return
        if entry.signed and fees is not None:
            fees = compute_replacement(self.fees, entry.signed[-1].fees, fees)
        current = self._outbox.get(self.account, entry.nonce)
        assert current is not None
        if fees is None:
            self._drop_unsigned(current, "replacing what was sent before would exceed the fee cap")
            return
        try:
            self._sign_and_send(entry.nonce, current.newest.number, content, fees)
        except TransactionRejected as rejected:
            if not is_only or self._is_last(entry):
                self._drop_unsigned(current, rejected.message)
            return
        self._begin_flight(entry.nonce, head)

    def _find_refusal(self, content: Content) -> str | None:
        """Why a call makes no sense any more."""
        fields = {"from": self.address, "data": f"0x{content.data.hex()}", "value": hex(content.value_wei)}
        fields |= {"gas": hex(content.gas)} | ({"to": content.to} if content.to else {})
        try:
            self._reader.request("eth_call", fields, "latest")
        except RpcFault as fault:
            return fault.message
        return None

    def _drop_unsigned(self, entry: Entry, reason: str) -> None:
        self._notify(f"{entry.newest.content.what} was decided before the last end and is dropped: {reason}")
        if len(entry.versions) == 1:
            self._outbox.forget(self.account, entry.nonce)
        else:
            self._outbox.drop_version(self.account, entry.nonce, entry.newest.number)

    def _is_last(self, entry: Entry) -> bool:
        return entry.nonce == max(one.nonce for one in self.list_entries())


def _is_that(answer: Any, transaction_hash: bytes) -> bool:
    """Whether a node's answer to a question for a transaction is that transaction, or may be."""
    if answer is None:
        return False
    try:
        return parse_transaction_hash(answer) == transaction_hash
    except MalformedInput:
        return True


def _is_nonce_too_low(rejected: TransactionRejected) -> bool:
    return "nonce too low" in rejected.message.lower()


def _is_nonce_used(rejected: TransactionRejected) -> bool:
    """By a transaction in a block or, unknown to the count, in a node's pool."""
    return _is_nonce_too_low(rejected) or "underpriced" in rejected.message.lower()
