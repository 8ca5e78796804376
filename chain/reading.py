"""Asking a chain: blocks, balances, contracts' answers, events, and what its nodes call final."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from cupel.chain.abi import Call
from cupel.chain.answers import (
    Transaction,
    parse_block,
    parse_count,
    parse_data,
    parse_logs,
    parse_quantity,
    parse_transactions,
)
from cupel.chain.endpoints import Endpoints
from cupel.chain.errors import ContractReverted, TransactionRejected
from cupel.chain.headers import encode_header
from cupel.chain.transport import RpcFault, Silent
from cupel.chain.values import Block, Log
from cupel.protocol.errors import ChainRefused, MalformedInput, Unavailable
from cupel.protocol.types import Address, Height, Wei

LOG_RANGE_BLOCKS = 2_000
"""Blocks asked for at once; smaller where a node finds them too many."""
FINAL_DEPTH = 64
"""Blocks after which a block counts as final where the chain does not say: two epochs of Ethereum."""
_LATEST_FINAL_DEPTH = 1_024
"""A chain whose own finality stands still longer than this is taken by depth after all."""


class ChainReader:
    """Questions to one chain through its endpoints."""

    def __init__(self, endpoints: Endpoints, *, chain_id: int, poll_seconds: float) -> None:
        self._rpc, self.chain_id, self._poll_s = endpoints, chain_id, poll_seconds
        self._genesis: bytes | None = None

    @property
    def url(self) -> str:
        """The endpoints, without what may be secret in their URLs."""
        return self._rpc.name

    def request(self, method: str, *params: Any) -> Any:
        """One JSON-RPC request. Raises RpcFault, ChainUnreachable."""
        return self._rpc.request(method, *params)

    def head(self) -> Block:
        """The newest block."""
        block = self.get_block("latest")
        if block is None:
            raise Unavailable(f"{self.url} has no newest block")
        return block

    def get_block(self, number: Height | int | str) -> Block | None:
        """A block by number or tag (`latest`, `finalized`, ...); None if there is none yet."""
        answer = self.request("eth_getBlockByNumber", hex(number) if isinstance(number, int) else number, False)
        return None if answer is None else parse_block(answer)

    def get_block_by_hash(self, block_hash: bytes) -> Block | None:
        """A block by its hash; None if the node has none such, or no longer."""
        answer = self.request("eth_getBlockByHash", f"0x{block_hash.hex()}", False)
        return None if answer is None else parse_block(answer)

    def get_final_height(self, head: Block | None = None) -> Height:
        """The newest height no re-org will undo: by the chain's own `finalized` where it has that, else by depth."""
        newest = (head or self.head()).number
        by_depth = max(0, newest - FINAL_DEPTH)
        try:
            block = self.get_block("finalized")
        except RpcFault:  # nodes of chains without it refuse the tag, each in its own words
            block = None
        if block is None:
            return Height(by_depth)
        return Height(min(newest, max(block.number, newest - _LATEST_FINAL_DEPTH)))

    def get_genesis(self) -> bytes:
        """The first block's hash, which tells chains with one identifier apart.

        Raises   Unavailable: no endpoint has that block. Never a substitute: a key's lock and outbox are named by it,
                 and would differ from one endpoint to the next
        """
        if self._genesis is None:
            self._genesis = self._find_genesis()
        return self._genesis

    def _find_genesis(self) -> bytes:
        reasons = []
        # First as everything is asked, which waits for a silent chain; then whoever else may know.
        for ask in (self.request, *(one.ask for one in self._rpc.all if one.may_be_asked)):
            try:
                answer = ask("eth_getBlockByNumber", "0x0", False)
                block = None if answer is None else parse_block(answer)
            except (RpcFault, Silent, MalformedInput) as error:
                reasons.append(str(error))
                continue
            if block is not None and block.number == 0:
                return block.hash
            reasons.append("no block 0 there" if block is None else f"block {block.number} instead of 0")
        raise Unavailable(
            f"{self.url} does not give the chain's first block ({'; '.join(dict.fromkeys(reasons))}), whose hash tells "
            "this chain from others of the same id. Try again; where the node pruned block 0, header and all, add the "
            "URL of one that keeps headers"
        )

    def get_transactions(self, number: Height | int) -> tuple[Transaction, ...]:
        """A block's transactions; none where there is no such block yet. Raises MalformedInput."""
        answer = self.request("eth_getBlockByNumber", hex(number), True)
        return () if answer is None else parse_transactions(answer)

    def get_header(self, number: Height | int) -> bytes:
        """A block's header in RLP, as its hash covers it. Raises Unavailable, MalformedInput."""
        answer = self.request("eth_getBlockByNumber", hex(number), False)
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
        return Wei(parse_quantity(self.request("eth_getBalance", address, "latest")))

    def has_code(self, address: Address) -> bool:
        """Whether there is a contract at `address`."""
        return parse_data(self.request("eth_getCode", address, "latest")) != b""

    def count_transactions(self, address: Address, block: int | str) -> int:
        """The account's next nonce as of a block or tag."""
        at = hex(block) if isinstance(block, int) else block
        return parse_count(self.request("eth_getTransactionCount", address, at))

    def estimate_gas(self, fields: dict[str, str], at: str = "latest") -> int:
        """What a transaction would take as of that block. Raises RpcFault, MalformedInput."""
        return parse_count(self.request("eth_estimateGas", fields, at))

    def suggest_tip(self, base_fee_wei: int) -> Wei:
        """Per gas for a block's producer, as the node suggests."""
        try:
            return Wei(parse_quantity(self.request("eth_maxPriorityFeePerGas")))
        except RpcFault:  # not every chain has it
            return Wei(max(0, parse_quantity(self.request("eth_gasPrice")) - base_fee_wei))

    def call(
        self, call: Call, *, block: Height | int | str = "latest", sender: Address | None = None
    ) -> tuple[Any, ...]:
        """What a function answers. `sender` matters only where the contract looks at it.

        Raises   ContractReverted, MalformedInput (no contract with this interface is there)
        """
        fields = {"to": call.to, "data": f"0x{call.data.hex()}"} | ({"from": sender} if sender else {})
        try:
            answer = self.request("eth_call", fields, hex(block) if isinstance(block, int) else block)
        except RpcFault as fault:
            raise explain_fault(call, fault) from fault
        return call.function.decode(parse_data(answer))

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
        start, step = int(first_block), LOG_RANGE_BLOCKS
        wanted = [None if accepted is None else [f"0x{topic.hex()}" for topic in accepted] for accepted in topics]
        while start <= last:
            end = min(start + step - 1, last)
            query = {"address": address, "topics": wanted, "fromBlock": hex(start), "toBlock": hex(end)}
            try:
                answer = self.request("eth_getLogs", query)
            except RpcFault:
                if step == 1:
                    raise
                # Nodes word "too many" in many ways; a smaller piece is the answer to all of them.
                step = max(1, step // 4)
                continue
            yield from parse_logs(answer)
            start = end + 1


def explain_fault(call: Call, fault: RpcFault) -> ChainRefused:
    """A node's error to a call or an estimate, in the contract's words where they are the contract's."""
    data = fault.revert_data
    if data is not None:
        return make_reverted(call, data, None)
    return TransactionRejected(call.what, code=fault.code, message=fault.message)


def make_reverted(call: Call, data: bytes, transaction_hash: bytes | None) -> ContractReverted:
    name, arguments = call.abi.decode_error(data)
    return ContractReverted(
        call.what, error_name=name, arguments=arguments, data=data, transaction_hash=transaction_hash
    )
