"""A block's header in its own encoding: what `PrevrandaoBeacon.recordHeader` takes as proof of an earlier height."""

from __future__ import annotations

from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak

from cupel.chain.answers import parse_header
from cupel.protocol.errors import MalformedInput

_FIELDS: tuple[tuple[str, type[bytes] | type[int]], ...] = (
    ("parentHash", bytes),
    ("sha3Uncles", bytes),
    ("miner", bytes),
    ("stateRoot", bytes),
    ("transactionsRoot", bytes),
    ("receiptsRoot", bytes),
    ("logsBloom", bytes),
    ("difficulty", int),
    ("number", int),
    ("gasLimit", int),
    ("gasUsed", int),
    ("timestamp", int),
    ("extraData", bytes),
    ("mixHash", bytes),
    ("nonce", bytes),
    # Since London, Shanghai, Cancun and Prague, in this order; older chains end earlier.
    ("baseFeePerGas", int),
    ("withdrawalsRoot", bytes),
    ("blobGasUsed", int),
    ("excessBlobGas", int),
    ("parentBeaconBlockRoot", bytes),
    ("requestsHash", bytes),
)


def encode_header(answer: Any) -> bytes:
    """The RLP header of a block as `eth_getBlockByNumber` gives it.

    Raises   MalformedInput: it does not hash to the block's hash, as on chains whose headers have fields of their own
    """
    values, expected = parse_header(answer, _FIELDS)
    header: bytes = rlp.encode(values)
    if keccak(header) != expected:
        raise MalformedInput(f"block 0x{expected.hex()} has other header fields than Ethereum's: they hash otherwise")
    return header
