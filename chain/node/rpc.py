"""The JSON-RPC methods: the same as any Ethereum client's, so that any client library works."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak
from eth_typing import Address as CanonicalAddress

import cupel
from cupel.chain.node.chain import MAX_REORG_DEPTH, SUGGESTED_TIP_WEI, EmbeddedChain, View, decode_transaction
from cupel.chain.node.encoding import (
    InvalidParams,
    Json,
    format_block,
    format_data,
    format_log,
    format_quantity,
    format_receipt,
    format_transaction,
    parse_address,
    parse_call,
    parse_data,
    parse_quantity,
)
from cupel.chain.node.execution import CallFailed, CannotCall
from cupel.chain.node.pool import Refused
from cupel.chain.node.store import StoredBlock, StoredTransaction

MAX_LOGS = 10_000
"""Events one eth_getLogs returns; above, it asks for a smaller range."""
MAX_FEE_HISTORY_BLOCKS = 1_024

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR, LIMIT_EXCEEDED, REVERTED = -32000, -32005, 3


class RpcError(Exception):
    """What a request is answered with instead of a result."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def as_json(self) -> Json:
        error: dict[str, Json] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


@dataclass(frozen=True, slots=True)
class _Method:
    function: Callable[..., Json]
    least: int
    most: int


class Rpc:
    """Answers requests about one chain."""

    def __init__(
        self, chain: EmbeddedChain, *, block_time_s: float, allow_reorg: bool = False, allow_skip: bool = False
    ) -> None:
        self._chain = chain
        self._block_time_s = block_time_s
        self._started = time.time()
        self._final_depth = MAX_REORG_DEPTH if allow_reorg else 0
        self._methods = {
            "cupel_status": _Method(self._status, 0, 0),
            "eth_accounts": _Method(list, 0, 0),
            "eth_blockNumber": _Method(lambda: format_quantity(chain.head.number), 0, 0),
            "eth_call": _Method(self._call, 1, 2),
            "eth_chainId": _Method(lambda: format_quantity(chain.chain_id), 0, 0),
            "eth_estimateGas": _Method(self._estimate_gas, 1, 2),
            "eth_feeHistory": _Method(self._fee_history, 2, 3),
            "eth_gasPrice": _Method(lambda: format_quantity(chain.get_next_base_fee() + SUGGESTED_TIP_WEI), 0, 0),
            "eth_getBalance": _Method(self._get_balance, 1, 2),
            "eth_getBlockByHash": _Method(self._get_block_by_hash, 1, 2),
            "eth_getBlockByNumber": _Method(self._get_block_by_number, 1, 2),
            "eth_getBlockReceipts": _Method(self._get_block_receipts, 1, 1),
            "eth_getBlockTransactionCountByHash": _Method(self._count_by_hash, 1, 1),
            "eth_getBlockTransactionCountByNumber": _Method(self._count_by_number, 1, 1),
            "eth_getCode": _Method(self._get_code, 1, 2),
            "eth_getLogs": _Method(self._get_logs, 1, 1),
            "eth_getStorageAt": _Method(self._get_storage_at, 2, 3),
            "eth_getTransactionByBlockHashAndIndex": _Method(self._get_transaction_in_hash, 2, 2),
            "eth_getTransactionByBlockNumberAndIndex": _Method(self._get_transaction_in_number, 2, 2),
            "eth_getTransactionByHash": _Method(self._get_transaction, 1, 1),
            "eth_getTransactionCount": _Method(self._get_transaction_count, 1, 2),
            "eth_getTransactionReceipt": _Method(self._get_receipt, 1, 1),
            "eth_maxPriorityFeePerGas": _Method(lambda: format_quantity(SUGGESTED_TIP_WEI), 0, 0),
            "eth_sendRawTransaction": _Method(self._send_raw_transaction, 1, 1),
            "eth_syncing": _Method(lambda: False, 0, 0),
            "net_listening": _Method(lambda: True, 0, 0),
            "net_version": _Method(lambda: str(chain.chain_id), 0, 0),
            "web3_clientVersion": _Method(lambda: f"cupel/{cupel.__version__}/py-evm", 0, 0),
            "web3_sha3": _Method(lambda data: format_data(keccak(parse_data(data, "data"))), 1, 1),
        }
        if allow_reorg:
            self._methods["cupel_reorg"] = _Method(self._reorganise, 1, 2)
        if allow_skip:
            self._methods["cupel_skip"] = _Method(self._skip, 1, 1)

    def answer(self, method: str, params: Sequence[Json]) -> Json:
        """The result of one call. Raises RpcError."""
        known = self._methods.get(method)
        if known is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {method} does not exist/is not available")
        if not known.least <= len(params) <= known.most:
            takes = str(known.least) if known.least == known.most else f"{known.least} to {known.most}"
            raise RpcError(INVALID_PARAMS, f"{method} takes {takes} parameters, got {len(params)}")
        try:
            return known.function(*params)
        except InvalidParams as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        except (Refused, CannotCall) as error:
            raise RpcError(SERVER_ERROR, str(error)) from error
        except CallFailed as error:
            if error.output is None:
                raise RpcError(SERVER_ERROR, str(error)) from error
            raise RpcError(REVERTED, str(error), format_data(error.output)) from error

    # Blocks by name

    def _get_block(self, tag: Json) -> StoredBlock | None:
        """A stored block by number or tag. Every stored block is final, unless re-orgs are allowed."""
        if tag == "latest":
            return self._chain.head
        if tag in ("safe", "finalized"):
            return self._chain.store.get_block(max(0, self._chain.head.number - self._final_depth))
        if tag == "earliest":
            return self._chain.store.get_block(0)
        if isinstance(tag, dict):
            if "blockHash" in tag:
                block_hash = parse_data(tag["blockHash"], "blockHash", length=32)
                return self._chain.store.get_block_by_hash(block_hash)
            tag = tag.get("blockNumber")
        return self._chain.store.get_block(parse_quantity(tag, "block"))

    def _get_view(self, tag: Json) -> View:
        if tag == "pending":
            return self._chain.get_pending_view(int(time.time()))
        block = self._get_block(tag)
        if block is None:
            raise RpcError(SERVER_ERROR, f"header not found: no block {tag}, the head is {self._chain.head.number}")
        if block.number == self._chain.head.number:
            return self._chain.get_head_view()
        return self._chain.make_view(block)

    def _format_block(self, block: StoredBlock | None, full: Json) -> Json:
        if block is None:
            return None
        entries = self._chain.store.get_transactions(block.number)
        return format_block(block, [self._format_entry(entry, block, full) for entry in entries])

    def _format_entry(self, entry: StoredTransaction, block: StoredBlock, full: Json) -> Json:
        if not full:
            return format_data(entry.hash)
        return format_transaction(
            decode_transaction(entry.raw), transaction_hash=entry.hash, sender=entry.sender, block=block, entry=entry
        )

    def _get_block_by_number(self, tag: Json, full: Json = False) -> Json:
        if tag == "pending":
            pending = self._get_view(tag).pending
            assert pending is not None
            entries = [self._format_entry(entry, pending.block, full) for entry in pending.transactions]
            return format_block(pending.block, entries, pending=True)
        return self._format_block(self._get_block(tag), full)

    def _get_block_by_hash(self, block_hash: Json, full: Json = False) -> Json:
        return self._format_block(self._get_block({"blockHash": block_hash}), full)

    def _count_by_number(self, tag: Json) -> Json:
        if tag == "pending":
            pending = self._get_view(tag).pending
            assert pending is not None
            return format_quantity(len(pending.transactions))
        block = self._get_block(tag)
        return None if block is None else format_quantity(len(self._chain.store.get_transactions(block.number)))

    def _count_by_hash(self, block_hash: Json) -> Json:
        return self._count_by_number({"blockHash": block_hash})

    # Accounts

    def _get_balance(self, address: Json, tag: Json = "latest") -> Json:
        account = CanonicalAddress(parse_address(address, "address"))
        return format_quantity(self._get_view(tag).accounts.get_balance(account))

    def _get_transaction_count(self, address: Json, tag: Json = "latest") -> Json:
        account = parse_address(address, "address")
        if tag == "pending":
            return format_quantity(self._chain.get_pending_nonce(account))
        return format_quantity(self._get_view(tag).accounts.get_nonce(CanonicalAddress(account)))

    def _get_code(self, address: Json, tag: Json = "latest") -> Json:
        account = CanonicalAddress(parse_address(address, "address"))
        return format_data(self._get_view(tag).accounts.get_code(account))

    def _get_storage_at(self, address: Json, slot: Json, tag: Json = "latest") -> Json:
        account = CanonicalAddress(parse_address(address, "address"))
        value = self._get_view(tag).accounts.get_storage(account, parse_quantity(slot, "slot"))
        return format_data(value.to_bytes(32, "big"))

    # Execution

    def _call(self, request: Json, tag: Json = "latest") -> Json:
        parsed = parse_call(request, self._chain.chain_id)
        return format_data(self._chain.call(self._get_view(tag), parsed))

    def _estimate_gas(self, request: Json, tag: Json = "latest") -> Json:
        parsed = parse_call(request, self._chain.chain_id)
        return format_quantity(self._chain.make_caller(self._get_view(tag)).estimate(parsed))

    def _send_raw_transaction(self, raw: Json) -> Json:
        return format_data(self._chain.submit(parse_data(raw, "transaction")))

    # Transactions

    def _get_transaction(self, transaction_hash: Json) -> Json:
        key = parse_data(transaction_hash, "hash", length=32)
        entry = self._chain.store.get_transaction(key)
        if entry is not None:
            return self._format_entry(entry, self._get_block_of(entry), full=True)
        waiting = self._chain.pool.get(key)
        if waiting is None:
            return None
        return format_transaction(
            waiting.transaction, transaction_hash=key, sender=waiting.sender, block=None, entry=None
        )

    def _get_block_of(self, entry: StoredTransaction) -> StoredBlock:
        block = self._chain.store.get_block(entry.block_number)
        assert block is not None, "a stored transaction without its block"
        return block

    def _get_transaction_in(self, block: StoredBlock | None, position: Json) -> Json:
        index = parse_quantity(position, "index")
        entries = [] if block is None else self._chain.store.get_transactions(block.number)
        if block is None or index >= len(entries):
            return None
        return self._format_entry(entries[index], block, full=True)

    def _get_transaction_in_hash(self, block_hash: Json, position: Json) -> Json:
        return self._get_transaction_in(self._get_block({"blockHash": block_hash}), position)

    def _get_transaction_in_number(self, tag: Json, position: Json) -> Json:
        return self._get_transaction_in(self._get_block(tag), position)

    def _get_receipt(self, transaction_hash: Json) -> Json:
        entry = self._chain.store.get_transaction(parse_data(transaction_hash, "hash", length=32))
        return None if entry is None else self._format_receipt(entry, self._get_block_of(entry))

    def _format_receipt(self, entry: StoredTransaction, block: StoredBlock) -> Json:
        return format_receipt(entry, block, self._chain.store.get_transaction_logs(entry))

    def _get_block_receipts(self, tag: Json) -> Json:
        by_hash = isinstance(tag, str) and len(tag) == 66
        block = self._get_block({"blockHash": tag} if by_hash else tag)
        if block is None:
            return None
        return [self._format_receipt(entry, block) for entry in self._chain.store.get_transactions(block.number)]

    # Logs

    def _get_logs(self, query: Json) -> Json:
        if not isinstance(query, dict):
            raise InvalidParams(f"expected a filter object, got {query!r:.80}")
        first, last = self._get_range(query)
        addresses = query.get("address") or []
        addresses = [addresses] if isinstance(addresses, str) else addresses
        topics = query.get("topics") or []
        if not isinstance(addresses, list) or not isinstance(topics, list) or len(topics) > 4:
            raise InvalidParams("address: one or a list; topics: a list of at most 4 entries")
        logs = self._chain.store.get_logs(
            first_block=first,
            last_block=last,
            addresses=[parse_address(address, "address") for address in addresses],
            topics=[_parse_topics(entry) for entry in topics],
            limit=MAX_LOGS + 1,
        )
        if len(logs) > MAX_LOGS:
            raise RpcError(LIMIT_EXCEEDED, f"query returned more than {MAX_LOGS} results: ask for fewer blocks")
        blocks: dict[int, StoredBlock] = {}
        for number in {log.block_number for log in logs}:
            block = self._chain.store.get_block(number)
            assert block is not None, "a stored log without its block"
            blocks[number] = block
        return [format_log(log, blocks[log.block_number]) for log in logs]

    def _get_range(self, query: dict[str, Json]) -> tuple[int, int]:
        if "blockHash" in query:
            if "fromBlock" in query or "toBlock" in query:
                raise InvalidParams("cannot specify both blockHash and fromBlock/toBlock, choose one or the other")
            block = self._get_block({"blockHash": query["blockHash"]})
            if block is None:
                raise RpcError(SERVER_ERROR, "unknown block")
            return block.number, block.number
        first, last = (self._get_bound(query.get(name)) for name in ("fromBlock", "toBlock"))
        if first > last:
            raise InvalidParams(f"invalid block range params: from {first} to {last}")
        return first, last

    def _get_bound(self, tag: Json) -> int:
        if tag in (None, "latest", "pending"):
            return self._chain.head.number
        if tag in ("safe", "finalized"):
            return max(0, self._chain.head.number - self._final_depth)
        return 0 if tag == "earliest" else parse_quantity(tag, "block")

    # Fees

    def _fee_history(self, count: Json, newest: Json, percentiles: Json = None) -> Json:
        blocks = parse_quantity(count, "blockCount") if isinstance(count, str) else count
        if not isinstance(blocks, int) or isinstance(blocks, bool) or blocks < 0:
            raise InvalidParams("blockCount: expected a number")
        percentiles = percentiles or []
        if not isinstance(percentiles, list) or not all(
            isinstance(one, int | float) and 0 <= one <= 100 for one in percentiles
        ):
            raise InvalidParams("rewardPercentiles: expected a list of numbers from 0 to 100")
        if sorted(percentiles) != percentiles:
            raise InvalidParams("rewardPercentiles: must be in ascending order")
        last = self._chain.head if newest == "pending" else self._get_block(newest)
        if last is None:
            raise RpcError(SERVER_ERROR, f"request beyond head block: {newest}, the head is {self._chain.head.number}")
        blocks = min(blocks, last.number + 1, MAX_FEE_HISTORY_BLOCKS)
        oldest = last.number - blocks + 1
        chosen = [self._chain.store.get_block(number) for number in range(oldest, last.number + 1)]
        fees = [block.base_fee_wei for block in chosen if block]
        result: dict[str, Json] = {
            "oldestBlock": format_quantity(oldest),
            "baseFeePerGas": [format_quantity(fee) for fee in (*fees, self._get_fee_after(last))] if blocks else [],
            "gasUsedRatio": [block.header.gas_used / block.header.gas_limit for block in chosen if block],
            "baseFeePerBlobGas": ["0x1"] * (len(chosen) + 1),
            "blobGasUsedRatio": [0] * len(chosen),
        }
        if percentiles:
            result["reward"] = [self._compute_rewards(block, percentiles) for block in chosen if block]
        return result

    def _get_fee_after(self, block: StoredBlock) -> int:
        following = self._chain.store.get_block(block.number + 1)
        return following.base_fee_wei if following else self._chain.get_next_base_fee()

    def _compute_rewards(self, block: StoredBlock, percentiles: Sequence[float]) -> list[str]:
        """Tips paid in a block at percentiles of its gas."""
        paid = sorted(
            (entry.effective_gas_price - block.base_fee_wei, entry.gas_used)
            for entry in self._chain.store.get_transactions(block.number)
        )
        if not paid:
            return ["0x0"] * len(percentiles)
        gas_up_to = list(itertools.accumulate(gas for _, gas in paid))
        thresholds = (block.header.gas_used * percentile / 100 for percentile in percentiles)
        return [format_quantity(paid[bisect.bisect_left(gas_up_to, threshold)][0]) for threshold in thresholds]

    # This node

    def _reorganise(self, depth: Json, keep_transactions: Json = True) -> Json:
        blocks = parse_quantity(depth, "depth") if isinstance(depth, str) else depth
        if not isinstance(blocks, int) or isinstance(blocks, bool) or not isinstance(keep_transactions, bool):
            raise InvalidParams("cupel_reorg takes a number of blocks and whether their transactions wait again")
        head = self._chain.reorganise(blocks, keep_transactions=keep_transactions)
        return {"number": format_quantity(head.number), "hash": format_data(head.hash)}

    def _skip(self, count: Json) -> Json:
        head = self._chain.skip(parse_quantity(count, "count"))
        return {"number": format_quantity(head.number), "hash": format_data(head.hash)}

    def _status(self) -> Json:
        chain = self._chain
        pending, queued = chain.pool.count(chain.get_nonce)
        return {
            "version": cupel.__version__,
            "chainId": chain.chain_id,
            "height": chain.head.number,
            "hash": format_data(chain.head.hash),
            "timestamp": chain.head.header.timestamp,
            "beacon": format_data(chain.head.header.mix_hash),
            "blockTimeSeconds": self._block_time_s,
            "baseFeeWei": chain.head.base_fee_wei,
            "transactions": chain.store.count_transactions(),
            "pending": pending,
            "queued": queued,
            "bytesOnDisk": chain.store.get_size(),
            "upSeconds": round(time.time() - self._started, 1),
        }


def _parse_topics(entry: Any) -> list[bytes]:
    if entry is None:
        return []
    accepted = entry if isinstance(entry, list) else [entry]
    return [parse_data(topic, "topic", length=32) for topic in accepted if topic is not None]
