"""A node's answers, in values of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eth_utils.address import to_checksum_address

from cupel.chain.values import Block, Log, Receipt
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Address, Height, Wei

T = TypeVar("T")


def parse_bytes(text: Any) -> bytes:
    return bytes.fromhex(str(text).removeprefix("0x"))


def parse_number(text: Any) -> int:
    return int(str(text), 16)


def _read(what: str, parse: Callable[[Any], T], answer: Any) -> T:
    """Raises MalformedInput where fields are missing or of another kind."""
    try:
        return parse(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedInput(f"the node's {what} is malformed: {type(error).__name__} {error}"[:200]) from error


def parse_quantity(answer: Any) -> int:
    """Raises MalformedInput."""
    return _read("number", parse_number, answer)


def parse_data(answer: Any) -> bytes:
    """Raises MalformedInput."""
    return _read("data", parse_bytes, answer)


def parse_block(answer: Any) -> Block:
    """Raises MalformedInput."""
    return _read("block", _parse_block, answer)


def parse_log(answer: Any) -> Log:
    """Raises MalformedInput."""
    return _read("log", _parse_log, answer)


def parse_receipt(answer: Any) -> Receipt:
    """Raises MalformedInput."""
    return _read("receipt", _parse_receipt, answer)


def _parse_block(answer: Any) -> Block:
    return Block(
        number=Height(parse_number(answer["number"])),
        hash=parse_bytes(answer["hash"]),
        parent_hash=parse_bytes(answer["parentHash"]),
        timestamp=parse_number(answer["timestamp"]),
        base_fee_wei=Wei(parse_number(answer.get("baseFeePerGas") or "0x0")),
        gas_limit=parse_number(answer["gasLimit"]),
        gas_used=parse_number(answer["gasUsed"]),
        beacon=parse_bytes(answer.get("mixHash") or "0x"),
    )


def _parse_log(answer: Any) -> Log:
    return Log(
        address=Address(to_checksum_address(answer["address"])),
        topics=tuple(parse_bytes(topic) for topic in answer["topics"]),
        data=parse_bytes(answer["data"]),
        block_number=Height(parse_number(answer["blockNumber"])),
        block_hash=parse_bytes(answer["blockHash"]),
        transaction_hash=parse_bytes(answer["transactionHash"]),
        position=parse_number(answer["logIndex"]),
    )


def _parse_receipt(answer: Any) -> Receipt:
    contract = answer.get("contractAddress")
    return Receipt(
        transaction_hash=parse_bytes(answer["transactionHash"]),
        block_number=Height(parse_number(answer["blockNumber"])),
        block_hash=parse_bytes(answer["blockHash"]),
        gas_used=parse_number(answer["gasUsed"]),
        gas_price_wei=Wei(parse_number(answer.get("effectiveGasPrice") or "0x0")),
        contract=Address(to_checksum_address(contract)) if contract else None,
        logs=tuple(parse_log(log) for log in answer["logs"]),
    )
