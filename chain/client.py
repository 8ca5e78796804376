"""Talking to a chain: asking contracts, sending transactions and waiting until they are in.

One `ChainClient` speaks for one key on one chain. It owns the key's nonces, chooses fees, estimates gas, waits for
receipts and turns every refusal into an error that says what the contract said. Any EVM node will do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from cupel.chain.abi import Call, bind_transfer
from cupel.chain.errors import (
    ContractReverted,
    FeeAboveCap,
    ReceiptTimeout,
    TransactionRejected,
    WrongChain,
)
from cupel.chain.headers import encode_header
from cupel.chain.keys import Signer
from cupel.chain.transport import RpcFault, Transport
from cupel.chain.values import Block, Log, Receipt
from cupel.protocol.errors import ChainRefused, Unavailable, UsageError
from cupel.protocol.types import Address, Height, Wei

GWEI = 10**9
_LOG_RANGE_BLOCKS = 2_000
"""Blocks asked for at once; halved where a node finds them too many."""
_REBROADCAST_S = 10.0
"""A transaction without receipt is sent again this often: a node may have lost its pool."""


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

    def __post_init__(self) -> None:
        if self.max_fee_wei <= 0 or self.base_fee_multiple < 1 or self.gas_margin < 1 or (self.tip_wei or 0) < 0:
            raise UsageError(f"a fee cap must be above 0, multiple and margin at least 1: {self}")


@dataclass(slots=True)
class _KeyState:
    """One key on one chain, shared by every client of this process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    next_nonce: int = 0
    in_flight: set[bytes] = field(default_factory=set)
    """Hashes sent and not yet settled; while there are any, the node's count may lag behind `next_nonce`."""


_key_states: dict[tuple[int, Address], _KeyState] = {}
_key_states_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A transaction on its way."""

    call: Call
    hash: bytes
    raw: bytes
    nonce: int
    gas: int
    value_wei: int


class ChainClient:
    """A chain behind a JSON-RPC URL, for one key or, without `signer`, for reading only.

    chain_id       the chain's identifier, checked at once; None takes whatever answers
    poll_seconds   pause between looks at the chain while waiting
    receipt_depth  blocks a transaction must be in before it counts, its own included
    patience_s     how long a silent node is asked again before a request fails

    Raises   ChainUnreachable, WrongChain
    """

    def __init__(
        self,
        rpc_url: str,
        signer: Signer | None = None,
        *,
        chain_id: int | None = None,
        poll_seconds: float = 0.25,
        receipt_depth: int = 1,
        receipt_timeout_s: float = 180.0,
        patience_s: float = 15.0,
        fees: FeePolicy | None = None,
    ) -> None:
        if receipt_depth < 1 or poll_seconds <= 0:
            raise UsageError(f"receipt_depth is {receipt_depth}, poll_seconds {poll_seconds}: both must be above 0")
        self._transport = Transport(rpc_url, patience_s=patience_s)
        self._signer = signer
        self._poll_s, self._depth, self._receipt_timeout_s = poll_seconds, receipt_depth, receipt_timeout_s
        self._fees = fees or FeePolicy()
        found = int(self._transport.request("eth_chainId", patience_s=min(2.0, patience_s)), 16)
        if chain_id is not None and found != chain_id:
            raise WrongChain(rpc_url, expected=chain_id, got=found)
        self.chain_id = found

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def address(self) -> Address:
        """Whom transactions are from. Raises UsageError without a signer."""
        return self._need_signer().address

    @property
    def signer(self) -> Signer | None:
        return self._signer

    def _need_signer(self) -> Signer:
        if self._signer is None:
            raise UsageError("this client has no key: it can read the chain, not send")
        return self._signer

    def close(self) -> None:
        self._transport.close()

    # Reading

    def head(self) -> Block:
        """The newest block."""
        block = self.get_block("latest")
        assert block is not None, "a chain without a newest block"
        return block

    def get_block(self, number: Height | int | str) -> Block | None:
        """A block by number or tag (`latest`, `finalized`, ...); None if there is none yet."""
        answer = self._request("eth_getBlockByNumber", hex(number) if isinstance(number, int) else number, False)
        return None if answer is None else _parse_block(answer)

    def get_block_by_hash(self, block_hash: bytes) -> Block | None:
        """A block by its hash, in the chain or not; None if the node does not know it."""
        answer = self._request("eth_getBlockByHash", f"0x{block_hash.hex()}", False)
        return None if answer is None else _parse_block(answer)

    def get_header(self, number: Height | int) -> bytes:
        """A block's header in RLP, as its hash covers it. Raises Unavailable, MalformedInput."""
        answer = self._request("eth_getBlockByNumber", hex(number), False)
        if answer is None:
            raise Unavailable(f"{self.url} has no block {number}")
        return encode_header(answer)

    def wait_for_block(self, height: Height | int, *, timeout_s: float | None = None) -> Block:
        """The newest block, once it is `height` or later. Raises Unavailable after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            block = self.head()
            if block.number >= height:
                return block
            if deadline is not None and time.monotonic() >= deadline:
                raise Unavailable(f"{self.url} is at block {block.number} after {timeout_s:g} s, waiting for {height}")
            time.sleep(self._poll_s)

    def get_balance(self, address: Address) -> Wei:
        return Wei(int(self._request("eth_getBalance", address, "latest"), 16))

    def has_code(self, address: Address) -> bool:
        """Whether there is a contract at `address`."""
        return str(self._request("eth_getCode", address, "latest")) not in ("0x", "")

    def call(
        self, call: Call, *, block: Height | int | str = "latest", sender: Address | None = None
    ) -> tuple[Any, ...]:
        """What a function answers. `sender` matters only where the contract looks at it.

        Raises   ContractReverted, MalformedInput (no contract with this interface is there)
        """
        fields = {"to": call.to, "data": f"0x{call.data.hex()}"} | ({"from": sender} if sender else {})
        try:
            answer = self._request("eth_call", fields, hex(block) if isinstance(block, int) else block)
        except RpcFault as fault:
            raise self._explain_fault(call, fault) from fault
        return call.function.decode(_parse_bytes(answer))

    def get_logs(
        self,
        *,
        address: Address,
        topics: Sequence[Sequence[bytes] | None] = (),
        first_block: Height | int,
        last_block: Height | int | None = None,
    ) -> Iterator[Log]:
        """Events of `address` in order, asked for in pieces a node will answer; `last_block` None: up to the head."""
        last = self.head().number if last_block is None else last_block
        start, step = int(first_block), _LOG_RANGE_BLOCKS
        wanted = [None if accepted is None else [f"0x{topic.hex()}" for topic in accepted] for accepted in topics]
        while start <= last:
            end = min(start + step - 1, last)
            query = {"address": address, "topics": wanted, "fromBlock": hex(start), "toBlock": hex(end)}
            try:
                answer = self._request("eth_getLogs", query)
            except RpcFault:
                if step == 1:
                    raise
                # Nodes word "too many" in many ways; a smaller piece is the answer to all of them.
                step = max(1, step // 4)
                continue
            yield from (_parse_log(one) for one in answer)
            start = end + 1

    # Sending

    def send(self, call: Call, *, value_wei: int = 0, gas: int | None = None) -> Receipt:
        """Send a transaction and wait until it is in. `gas` None: estimated, with a margin.

        Raises   ContractReverted: before sending, from the estimate; or in the block
                 TransactionRejected, FeeAboveCap, ReceiptTimeout, ChainUnreachable
        """
        try:
            return self.wait(self.submit(call, value_wei=value_wei, gas=gas))
        except ContractReverted as reverted:
            if reverted.error_name != "OutOfGas" or gas is not None:
                raise
        # Between estimate and block the state moved on, as where a phase became due. Nothing happened; try once more.
        return self.wait(self.submit(call, value_wei=value_wei, margin=2 * self._fees.gas_margin))

    def send_many(self, calls: Sequence[Call]) -> list[Receipt | ChainRefused]:
        """Send transactions one behind the other without waiting between them; what became of each, in order.

        A later one sees the earlier ones' effects if they end up in the blocks in this order, which nonces ensure.
        """
        sent = [self._try(self.submit, call) for call in calls]
        return [self._try(self.wait, one) if isinstance(one, Sent) else one for one in sent]

    @staticmethod
    def _try(action: Any, argument: Any) -> Any:
        try:
            return action(argument)
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

    def submit(self, call: Call, *, value_wei: int = 0, gas: int | None = None, margin: float | None = None) -> Sent:
        """Sign and send a transaction without waiting for it."""
        signer = self._need_signer()
        state = self._key_state(signer.address)
        with state.lock:
            head = self.head()
            limit = gas
            if limit is None:
                limit = self._estimate(call, value_wei, margin or self._fees.gas_margin, most=head.gas_limit)
            fees = self._compute_fees(head.base_fee_wei)
            for attempt in (1, 2):
                nonce = self._choose_nonce(state, signer.address)
                sent = self._sign(signer, call, nonce=nonce, gas=limit, value_wei=value_wei, fees=fees)
                try:
                    self._broadcast(sent)
                    break
                except TransactionRejected as rejected:
                    # Another process used the key, or the node's count lagged: ask again, once.
                    if attempt == 2 or "nonce too low" not in rejected.message.lower():
                        raise
                    state.in_flight.clear()
            state.next_nonce = nonce + 1
            state.in_flight.add(sent.hash)
        return sent

    def wait(self, sent: Sent) -> Receipt:
        """The receipt of a transaction `receipt_depth` blocks deep. Raises ContractReverted, ReceiptTimeout."""
        state = self._key_state(self.address)
        started = sent_at = time.monotonic()
        try:
            while True:
                answer = self._request("eth_getTransactionReceipt", f"0x{sent.hash.hex()}")
                if answer is not None and self._is_deep(int(answer["blockNumber"], 16)):
                    return self._judge(sent, answer)
                now = time.monotonic()
                if now - started > self._receipt_timeout_s:
                    raise ReceiptTimeout(sent.call.what, transaction_hash=sent.hash, waited_s=now - started)
                if answer is None and now - sent_at > _REBROADCAST_S:
                    self._rebroadcast(sent)
                    sent_at = now
                time.sleep(self._poll_s)
        finally:
            with state.lock:
                state.in_flight.discard(sent.hash)

    def _is_deep(self, block_number: int) -> bool:
        return self._depth == 1 or self.head().number >= block_number + self._depth - 1

    def _key_state(self, address: Address) -> _KeyState:
        with _key_states_lock:
            return _key_states.setdefault((self.chain_id, address), _KeyState())

    def _choose_nonce(self, state: _KeyState, address: Address) -> int:
        counted = int(self._request("eth_getTransactionCount", address, "pending"), 16)
        return max(counted, state.next_nonce) if state.in_flight else counted

    def _estimate(self, call: Call, value_wei: int, margin: float, *, most: int) -> int:
        fields = {"from": self.address, "data": f"0x{call.data.hex()}", "value": hex(value_wei)}
        if call.to is not None:
            fields["to"] = call.to
        try:
            # On the pending block: this key's earlier transactions count, and so does the next height.
            estimate = int(self._request("eth_estimateGas", fields, "pending"), 16)
        except RpcFault as fault:
            raise self._explain_fault(call, fault) from fault
        return min(int(estimate * margin), most) if call.data else estimate

    def _sign(self, signer: Signer, call: Call, *, nonce: int, gas: int, value_wei: int, fees: tuple[int, int]) -> Sent:
        tip, max_fee = fees
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": nonce,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": max_fee,
            "gas": gas,
            "value": value_wei,
            "data": call.data,
        }
        if call.to is not None:
            fields["to"] = call.to
        raw = signer.sign_transaction(fields)
        return Sent(call=call, hash=keccak(raw), raw=raw, nonce=nonce, gas=gas, value_wei=value_wei)

    def _compute_fees(self, base_fee: int) -> tuple[int, int]:
        """Tip and cap per gas. Raises FeeAboveCap."""
        cap = self._fees.max_fee_wei
        if base_fee > cap:
            raise FeeAboveCap(base_fee_wei=base_fee, cap_wei=cap)
        tip = self._fees.tip_wei
        if tip is None:
            tip = int(self._request("eth_maxPriorityFeePerGas"), 16)
        tip = min(tip, cap - base_fee)
        return tip, min(base_fee * self._fees.base_fee_multiple + tip, cap)

    def _broadcast(self, sent: Sent) -> None:
        try:
            self._request("eth_sendRawTransaction", f"0x{sent.raw.hex()}")
        except RpcFault as fault:
            # A request repeated after a lost answer finds its own transaction there.
            if "already known" in fault.message.lower() or "already imported" in fault.message.lower():
                return
            raise TransactionRejected(sent.call.what, code=fault.code, message=fault.message) from fault

    def _rebroadcast(self, sent: Sent) -> None:
        try:
            self._broadcast(sent)
        except TransactionRejected as rejected:
            if "nonce too low" not in rejected.message.lower():  # then it, or one in its place, is in a block
                raise

    def _judge(self, sent: Sent, answer: Any) -> Receipt:
        receipt = _parse_receipt(answer)
        if int(answer["status"], 16) == 1:
            return receipt
        raise self._explain_failure(sent, receipt)

    def _explain_failure(self, sent: Sent, receipt: Receipt) -> ContractReverted:
        """Why a transaction in a block reverted: receipts do not say, so it is tried again on the state around it."""
        fields = {"from": self.address, "data": f"0x{sent.call.data.hex()}", "value": hex(sent.value_wei)}
        fields |= {"gas": hex(sent.gas)} | ({"to": sent.call.to} if sent.call.to else {})
        for height in (receipt.block_number - 1, receipt.block_number):
            try:
                self._request("eth_call", fields, hex(height))
            except RpcFault as fault:
                data = fault.revert_data
                if data is not None:
                    return self._reverted(sent.call, data, receipt.transaction_hash)
        name = "OutOfGas" if receipt.gas_used >= sent.gas * 63 // 64 else "Unknown"
        arguments = {"gas": sent.gas} if name == "OutOfGas" else {}
        return ContractReverted(
            sent.call.what, error_name=name, arguments=arguments, transaction_hash=receipt.transaction_hash
        )

    def _explain_fault(self, call: Call, fault: RpcFault) -> ChainRefused:
        data = fault.revert_data
        if data is not None:
            return self._reverted(call, data, None)
        return TransactionRejected(call.what, code=fault.code, message=fault.message)

    @staticmethod
    def _reverted(call: Call, data: bytes, transaction_hash: bytes | None) -> ContractReverted:
        name, arguments = call.abi.decode_error(data)
        return ContractReverted(
            call.what, error_name=name, arguments=arguments, data=data, transaction_hash=transaction_hash
        )

    def _request(self, method: str, *params: Any) -> Any:
        return self._transport.request(method, *params)


def _parse_bytes(text: Any) -> bytes:
    return bytes.fromhex(str(text).removeprefix("0x"))


def _parse_block(answer: Any) -> Block:
    return Block(
        number=Height(int(answer["number"], 16)),
        hash=_parse_bytes(answer["hash"]),
        parent_hash=_parse_bytes(answer["parentHash"]),
        timestamp=int(answer["timestamp"], 16),
        base_fee_wei=Wei(int(answer.get("baseFeePerGas") or "0x0", 16)),
        gas_limit=int(answer["gasLimit"], 16),
        gas_used=int(answer["gasUsed"], 16),
        beacon=_parse_bytes(answer.get("mixHash") or "0x"),
    )


def _parse_log(answer: Any) -> Log:
    return Log(
        address=Address(to_checksum_address(answer["address"])),
        topics=tuple(_parse_bytes(topic) for topic in answer["topics"]),
        data=_parse_bytes(answer["data"]),
        block_number=Height(int(answer["blockNumber"], 16)),
        block_hash=_parse_bytes(answer["blockHash"]),
        transaction_hash=_parse_bytes(answer["transactionHash"]),
        position=int(answer["logIndex"], 16),
    )


def _parse_receipt(answer: Any) -> Receipt:
    contract = answer.get("contractAddress")
    return Receipt(
        transaction_hash=_parse_bytes(answer["transactionHash"]),
        block_number=Height(int(answer["blockNumber"], 16)),
        block_hash=_parse_bytes(answer["blockHash"]),
        gas_used=int(answer["gasUsed"], 16),
        gas_price_wei=Wei(int(answer.get("effectiveGasPrice") or "0x0", 16)),
        contract=Address(to_checksum_address(contract)) if contract else None,
        logs=tuple(_parse_log(log) for log in answer["logs"]),
    )
