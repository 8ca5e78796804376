"""A node's answers, in values of our own.

The only place that looks into them: whatever JSON a node answers, what comes out has the kind and size it should have,
or is MalformedInput. Sizes matter: Python refuses to print a number of 5,000 digits, SQLite to keep one of 64 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from eth_utils.address import to_checksum_address

from cupel.chain.values import Block, Log, Receipt
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Address, Height, Wei

T = TypeVar("T")
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
COUNT_BITS = 53
"""Heights, nonces, gas and times: far above any that there are, and sums of a few still fit 63 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """One transaction of a block, as far as anybody here needs it."""

    hash: bytes
    sender: Address
    nonce: int
    to: Address | None
    """None creates a contract."""
    data: bytes
    block_number: Height | None
    """None: it waits for a block."""


# Pieces: each raises ValueError or TypeError, which `_read` makes MalformedInput


def _number(answer: Any, bits: int = 256) -> int:
    if not isinstance(answer, str) or _NUMBER.fullmatch(answer) is None:
        raise ValueError(f"{_show(answer)} is not a number of at most 256 bits")
    number = int(answer, 16)
    if number.bit_length() > bits:
        raise ValueError(f"{_show(answer)} has more than {bits} bits")
    return number


def _count(answer: Any) -> int:
    return _number(answer, COUNT_BITS)


def _bytes(answer: Any, size: int | None = None) -> bytes:
    if not isinstance(answer, str) or not answer.startswith("0x"):
        raise ValueError(f"{_show(answer)} is not bytes")
    try:
        data = bytes.fromhex(answer[2:])
    except ValueError:
        data = b""
    if 2 * len(data) != len(answer) - 2 or (size is not None and len(data) != size):  # `fromhex` skips spaces
        raise ValueError(f"{_show(answer)} is not {'bytes' if size is None else f'{size} bytes'}")
    return data


def _hash(answer: Any) -> bytes:
    return _bytes(answer, 32)


def _address(answer: Any) -> Address:
    if not isinstance(answer, str) or _ADDRESS.fullmatch(answer) is None:
        raise ValueError(f"{_show(answer)} is not an address")
    return Address(to_checksum_address(answer))


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise TypeError(f"{_show(answer)} is not a list")
    return answer


def _fields(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise TypeError(f"{_show(answer)} is not an object")
    return answer


def _optional(read: Callable[[Any], T], answer: Any, default: T) -> T:
    return default if answer is None else read(answer)


def _show(answer: Any) -> str:
    return repr(answer)[:40] if isinstance(answer, str | int | float | None) else type(answer).__name__


def _read(what: str, parse: Callable[[Any], T], answer: Any) -> T:
    """Raises MalformedInput where fields are missing or of another kind."""
    try:
        return parse(answer)
    except KeyError as error:
        raise MalformedInput(f"the node's {what} is malformed: it has no {error}") from error
    except (TypeError, ValueError) as error:
        raise MalformedInput(f"the node's {what} is malformed: {error}"[:200]) from error


# What a node is asked for


def parse_quantity(answer: Any) -> int:
    """A number of up to 256 bits. Raises MalformedInput."""
    return _read("number", _number, answer)


def parse_count(answer: Any) -> int:
    """A height, nonce or amount of gas. Raises MalformedInput."""
    return _read("number", _count, answer)


def parse_data(answer: Any) -> bytes:
    """Raises MalformedInput."""
    return _read("data", _bytes, answer)


def parse_block(answer: Any) -> Block:
    """Raises MalformedInput."""
    return _read("block", _parse_block, answer)


def parse_transaction_hashes(answer: Any) -> tuple[bytes, ...]:
    """Of a block asked for without its transactions. Raises MalformedInput."""
    return _read("block", lambda block: tuple(_hash(one) for one in _list(_fields(block)["transactions"])), answer)


def parse_transactions(answer: Any) -> tuple[Transaction, ...]:
    """Of a block asked for with its transactions. Raises MalformedInput."""
    return _read(
        "block", lambda block: tuple(_parse_transaction(one) for one in _list(_fields(block)["transactions"])), answer
    )


def parse_transaction(answer: Any) -> Transaction:
    """Raises MalformedInput."""
    return _read("transaction", _parse_transaction, answer)


def parse_transaction_hash(answer: Any) -> bytes:
    """The hash alone: of a waiting transaction some nodes say little else. Raises MalformedInput."""
    return _read("transaction", lambda one: _hash(_fields(one)["hash"]), answer)


def parse_logs(answer: Any) -> tuple[Log, ...]:
    """Raises MalformedInput."""
    return _read("list of events", lambda logs: tuple(_parse_log(one) for one in _list(logs)), answer)


def parse_outcome(answer: Any) -> tuple[Receipt, bool]:
    """A receipt, and whether the transaction succeeded. Raises MalformedInput."""
    return _read("receipt", lambda receipt: (_parse_receipt(receipt), _count(receipt["status"]) == 1), answer)


def parse_header(
    answer: Any, kinds: tuple[tuple[str, type[bytes] | type[int]], ...]
) -> tuple[list[bytes | int], bytes]:
    """A block's fields in that order, up to the first it lacks, and its hash. Raises MalformedInput."""

    def read(block: Any) -> tuple[list[bytes | int], bytes]:
        values: list[bytes | int] = []
        for name, kind in kinds:
            if _fields(block).get(name) is None:
                break
            values.append(_number(block[name]) if kind is int else _bytes(block[name]))
        return values, _hash(_fields(block)["hash"])

    return _read("block", read, answer)


def _parse_block(answer: Any) -> Block:
    fields = _fields(answer)
    return Block(
        number=Height(_count(fields["number"])),
        hash=_hash(fields["hash"]),
        parent_hash=_hash(fields["parentHash"]),
        timestamp=_count(fields["timestamp"]),
        base_fee_wei=Wei(_optional(_number, fields.get("baseFeePerGas"), 0)),
        gas_limit=_number(fields["gasLimit"], 64),  # chains without a limit say so with all bits
        gas_used=_count(fields["gasUsed"]),
        beacon=_optional(_bytes, fields.get("mixHash"), b""),
    )


def _parse_transaction(answer: Any) -> Transaction:
    fields = _fields(answer)
    return Transaction(
        hash=_hash(fields["hash"]),
        sender=_address(fields["from"]),
        nonce=_count(fields["nonce"]),
        to=_optional(_address, fields.get("to"), None),
        data=_bytes(fields["input"]),
        block_number=_optional(lambda number: Height(_count(number)), fields.get("blockNumber"), None),
    )


def _parse_log(answer: Any) -> Log:
    fields = _fields(answer)
    return Log(
        address=_address(fields["address"]),
        topics=tuple(_hash(topic) for topic in _list(fields["topics"])),
        data=_bytes(fields["data"]),
        block_number=Height(_count(fields["blockNumber"])),
        block_hash=_hash(fields["blockHash"]),
        transaction_hash=_hash(fields["transactionHash"]),
        position=_count(fields["logIndex"]),
    )


def _parse_receipt(answer: Any) -> Receipt:
    fields = _fields(answer)
    return Receipt(
        transaction_hash=_hash(fields["transactionHash"]),
        block_number=Height(_count(fields["blockNumber"])),
        block_hash=_hash(fields["blockHash"]),
        gas_used=_count(fields["gasUsed"]),
        gas_price_wei=Wei(_optional(_number, fields.get("effectiveGasPrice"), 0)),
        contract=_optional(_address, fields.get("contractAddress"), None),
        logs=tuple(_parse_log(log) for log in _list(fields["logs"])),
    )
