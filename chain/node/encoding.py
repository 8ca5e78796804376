"""JSON-RPC's hexadecimal, both ways, and the shape of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth.abc import SignedTransactionAPI
from eth_utils.address import to_checksum_address

from cupel.chain.node.chain import decode_transaction
from cupel.chain.node.execution import CallRequest
from cupel.chain.node.store import StoredBlock, StoredLog, StoredTransaction

Json = Any


class InvalidParams(Exception):
    """The caller's parameters are not what the method takes (JSON-RPC error -32602)."""


def format_quantity(value: int) -> str:
    return hex(value)


def format_data(value: bytes) -> str:
    return "0x" + value.hex()


def parse_quantity(value: Json, what: str) -> int:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise InvalidParams(f"{what}: expected a hex quantity like 0x1f, got {value!r:.80}")
    try:
        number = int(value, 16)
    except ValueError:
        raise InvalidParams(f"{what}: {value!r:.80} is not a hex quantity") from None
    if number >= 1 << 256:
        raise InvalidParams(f"{what}: above 256 bits")
    return number


def parse_data(value: Json, what: str, *, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise InvalidParams(f"{what}: expected hex data beginning with 0x, got {value!r:.80}")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise InvalidParams(f"{what}: {value!r:.80} is not hex data of whole bytes") from None
    if length is not None and len(data) != length:
        raise InvalidParams(f"{what}: expected {length} bytes, got {len(data)}")
    return data


def parse_address(value: Json, what: str) -> bytes:
    return parse_data(value, what, length=20)


def parse_call(value: Json, chain_id: int) -> CallRequest:
    """The first parameter of eth_call and eth_estimateGas."""
    if not isinstance(value, dict):
        raise InvalidParams(f"expected a transaction object, got {value!r:.80}")
    known = {
        "from", "to", "gas", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas", "value", "data", "input",
        "accessList", "nonce", "type", "chainId",
    }  # fmt: skip
    if unknown := sorted(set(value) - known):
        raise InvalidParams(f"transaction fields not supported: {', '.join(unknown)}")
    fields = {name: given for name, given in value.items() if given is not None}
    if "chainId" in fields and parse_quantity(fields["chainId"], "chainId") != chain_id:
        raise InvalidParams(f"chainId does not match this chain's: {chain_id}")
    if "gasPrice" in fields and ("maxFeePerGas" in fields or "maxPriorityFeePerGas" in fields):
        raise InvalidParams("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified")
    data, given_input = (parse_data(fields[name], name) if name in fields else None for name in ("data", "input"))
    if data is not None and given_input is not None and data != given_input:
        raise InvalidParams("both data and input are set and not equal: use input")
    max_fee = fields.get("gasPrice", fields.get("maxFeePerGas"))
    tip = fields.get("gasPrice", fields.get("maxPriorityFeePerGas", "0x0"))
    to = fields.get("to")
    return CallRequest(
        sender=parse_address(fields["from"], "from") if "from" in fields else bytes(20),
        to=b"" if to in (None, "", "0x") else parse_address(to, "to"),
        gas=parse_quantity(fields["gas"], "gas") if "gas" in fields else None,
        # A price of zero means the caller does not care, as in other clients.
        max_fee_wei=None if max_fee is None else parse_quantity(max_fee, "maxFeePerGas") or None,
        max_priority_fee_wei=parse_quantity(tip, "maxPriorityFeePerGas"),
        value_wei=parse_quantity(fields.get("value", "0x0"), "value"),
        data=data or given_input or b"",
        access_list=_parse_access_list(fields.get("accessList", [])),
    )


def _parse_access_list(value: Json) -> tuple[tuple[bytes, tuple[int, ...]], ...]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidParams("accessList: expected a list of objects with address and storageKeys")
    return tuple(
        (
            parse_address(entry.get("address"), "accessList.address"),
            tuple(
                int.from_bytes(parse_data(key, "accessList.storageKeys", length=32), "big")
                for key in entry.get("storageKeys", [])
            ),
        )
        for entry in value
    )


def format_block(block: StoredBlock, transactions: Sequence[Json], *, pending: bool = False) -> Json:
    header: Any = block.header  # py-evm types what later forks added as optional
    return {
        "number": format_quantity(block.number),
        "hash": None if pending else format_data(block.hash),
        "parentHash": format_data(header.parent_hash),
        "nonce": None if pending else format_data(header.nonce),
        "sha3Uncles": format_data(header.uncles_hash),
        "logsBloom": format_data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": format_data(header.transaction_root),
        "stateRoot": format_data(header.state_root),
        "receiptsRoot": format_data(header.receipt_root),
        "miner": to_checksum_address(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": format_data(header.extra_data),
        "size": format_quantity(block.size),
        "gasLimit": format_quantity(header.gas_limit),
        "gasUsed": format_quantity(header.gas_used),
        "timestamp": format_quantity(header.timestamp),
        "transactions": list(transactions),
        "uncles": [],
        "baseFeePerGas": format_quantity(block.base_fee_wei),
        "mixHash": format_data(header.mix_hash),
        "withdrawals": [],
        "withdrawalsRoot": format_data(header.withdrawals_root),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": format_data(header.parent_beacon_block_root),
        "requestsHash": format_data(header.requests_hash),
    }


def format_transaction(
    transaction: SignedTransactionAPI,
    *,
    transaction_hash: bytes,
    sender: bytes,
    block: StoredBlock | None,
    entry: StoredTransaction | None,
) -> Json:
    """`block` and `entry` are None while it waits."""
    kind = transaction.type_id or 0
    result: dict[str, Json] = {
        "hash": format_data(transaction_hash),
        "type": format_quantity(kind),
        "nonce": format_quantity(transaction.nonce),
        "blockHash": format_data(block.hash) if block else None,
        "blockNumber": format_quantity(block.number) if block else None,
        "transactionIndex": format_quantity(entry.position) if entry else None,
        "from": to_checksum_address(sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "value": format_quantity(transaction.value),
        "gas": format_quantity(transaction.gas),
        "input": format_data(transaction.data),
        "r": format_quantity(transaction.r),
        "s": format_quantity(transaction.s),
        "chainId": format_quantity(transaction.chain_id or 0),
    }
    if kind == 0:
        offset = 35 + 2 * (transaction.chain_id or 0)
        result["v"] = format_quantity(transaction.y_parity + offset)
        result["gasPrice"] = format_quantity(transaction.gas_price)
        return result
    result["v"] = result["yParity"] = format_quantity(transaction.y_parity)
    result["accessList"] = [
        {
            "address": to_checksum_address(address),
            "storageKeys": [format_data(slot.to_bytes(32, "big")) for slot in slots],
        }
        for address, slots in transaction.access_list
    ]
    if kind == 1:
        result["gasPrice"] = format_quantity(transaction.gas_price)
        return result
    result["maxFeePerGas"] = format_quantity(transaction.max_fee_per_gas)
    result["maxPriorityFeePerGas"] = format_quantity(transaction.max_priority_fee_per_gas)
    result["gasPrice"] = format_quantity(entry.effective_gas_price if entry else transaction.max_fee_per_gas)
    if kind == 4:
        result["authorizationList"] = [
            {
                "chainId": format_quantity(one.chain_id),
                "address": to_checksum_address(one.address),
                "nonce": format_quantity(one.nonce),
                "yParity": format_quantity(one.y_parity),
                "r": format_quantity(one.r),
                "s": format_quantity(one.s),
            }
            for one in transaction.authorization_list
        ]
    return result


def format_log(log: StoredLog, block: StoredBlock) -> Json:
    return {
        "address": to_checksum_address(log.address),
        "topics": [format_data(topic) for topic in log.topics],
        "data": format_data(log.data),
        "blockNumber": format_quantity(log.block_number),
        "blockHash": format_data(block.hash),
        "blockTimestamp": format_quantity(block.header.timestamp),
        "transactionHash": format_data(log.transaction_hash),
        "transactionIndex": format_quantity(log.transaction_position),
        "logIndex": format_quantity(log.position),
        "removed": False,
    }


def format_receipt(entry: StoredTransaction, block: StoredBlock, logs: Sequence[StoredLog]) -> Json:
    transaction = decode_transaction(entry.raw)
    return {
        "transactionHash": format_data(entry.hash),
        "transactionIndex": format_quantity(entry.position),
        "blockHash": format_data(block.hash),
        "blockNumber": format_quantity(block.number),
        "from": to_checksum_address(entry.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "contractAddress": to_checksum_address(entry.created) if entry.created else None,
        "cumulativeGasUsed": format_quantity(entry.cumulative_gas_used),
        "gasUsed": format_quantity(entry.gas_used),
        "effectiveGasPrice": format_quantity(entry.effective_gas_price),
        "logs": [format_log(log, block) for log in logs],
        "logsBloom": format_data(entry.bloom),
        "status": format_quantity(entry.status),
        "type": format_quantity(transaction.type_id or 0),
    }
