"""A block's header in its own encoding: what `PrevrandaoBeacon.recordHeader` takes as proof of an earlier height."""

from __future__ import annotations

from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak

from cupel.protocol.errors import MalformedInput

_DATA, _NUMBER = bytes.fromhex, lambda digits: int(digits or "0", 16)
_FIELDS: tuple[tuple[str, Any], ...] = (
    ("parentHash", _DATA),
    ("sha3Uncles", _DATA),
    ("miner", _DATA),
    ("stateRoot", _DATA),
    ("transactionsRoot", _DATA),
    ("receiptsRoot", _DATA),
    ("logsBloom", _DATA),
    ("difficulty", _NUMBER),
    ("number", _NUMBER),
    ("gasLimit", _NUMBER),
    ("gasUsed", _NUMBER),
    ("timestamp", _NUMBER),
    ("extraData", _DATA),
    ("mixHash", _DATA),
    ("nonce", _DATA),
    # Since London, Shanghai, Cancun and Prague, in this order; older chains end earlier.
    ("baseFeePerGas", _NUMBER),
    ("withdrawalsRoot", _DATA),
    ("blobGasUsed", _NUMBER),
    ("excessBlobGas", _NUMBER),
    ("parentBeaconBlockRoot", _DATA),
    ("requestsHash", _DATA),
)


def encode_header(answer: dict[str, Any]) -> bytes:
    """The RLP header of a block as `eth_getBlockByNumber` gives it.

    Raises   MalformedInput: it does not hash to the block's hash, as on chains whose headers have fields of their own
    """
    values: list[bytes | int] = []
    for name, read in _FIELDS:
        if answer.get(name) is None:
            break
        values.append(read(str(answer[name]).removeprefix("0x")))
    header: bytes = rlp.encode(values)
    expected = str(answer.get("hash"))
    if f"0x{keccak(header).hex()}" != expected:
        raise MalformedInput(f"block {answer.get('number')} has other header fields than Ethereum's: not {expected}")
    return header
