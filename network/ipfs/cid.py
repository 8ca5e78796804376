"""Content identifiers: the name of a block is a hash of its bytes.

A CID here is CIDv1 in lower-case base32, of codec raw or dag-pb, with a 32-byte SHA-256 multihash: what
`ipfs add --cid-version=1 --raw-leaves` writes. Nothing else is accepted, so a block has exactly one name of each codec.
Source: https://github.com/multiformats/cid, https://github.com/multiformats/multihash
"""

from __future__ import annotations

import base64
import enum
import hashlib
from dataclasses import dataclass

from cupel.protocol.errors import MalformedBlock, MalformedInput
from cupel.protocol.types import Cid

MAX_BLOCK_BYTES = 2 << 20
"""Largest block that is taken or served: the limit of IPFS's own block exchange."""
EMPTY_IDENTITY_CID = "bafkqaaa"
"""The identity CID of no bytes, by which clients probe whether a gateway is alive. Never a block of ours."""

_CID_BYTES = 36
_CID_CHARACTERS = 59
_SHA2_256 = 0x12
_IDENTITY = 0x00
_MAX_VARINT_BYTES = 9


class Codec(enum.IntEnum):
    """How a block's bytes are to be read; numbers of the multicodec table."""

    RAW = 0x55
    """Plain bytes."""
    DAG_PB = 0x70
    """A node with links, here always a UnixFS file."""


@dataclass(frozen=True, slots=True)
class ParsedCid:
    """A CID taken apart."""

    codec: Codec
    digest: bytes
    """SHA-256 of the block, 32 bytes."""

    def to_bytes(self) -> bytes:
        """The binary form, 36 bytes."""
        return bytes((1, self.codec, _SHA2_256, 32)) + self.digest

    @property
    def text(self) -> Cid:
        return Cid("b" + base64.b32encode(self.to_bytes()).decode("ascii").rstrip("=").lower())

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def of(block: bytes | bytearray | memoryview, codec: Codec = Codec.RAW) -> ParsedCid:
        return ParsedCid(codec, hashlib.sha256(block).digest())

    @staticmethod
    def from_bytes(data: bytes) -> ParsedCid:
        """Raises MalformedInput for anything but one CID of the kind above, saying which part is unlike it."""
        if data[:2] == b"\x12\x20" and len(data) == 34:
            raise MalformedInput("a version 0 CID; convert it with `ipfs cid format -v 1 -b base32`")
        version, at = read_varint(data, 0)
        if version != 1:
            raise MalformedInput(f"CID version {version}; only version 1 is known")
        codec, at = read_varint(data, at)
        function, at = read_varint(data, at)
        length, at = read_varint(data, at)
        if function == _IDENTITY:
            raise MalformedInput("an identity CID carries its data in its name and names no block")
        if function != _SHA2_256:
            raise MalformedInput(f"multihash function 0x{function:x}; only sha2-256 (0x12) is known")
        if length != 32 or len(data) - at != 32:
            raise MalformedInput(f"a sha2-256 digest has 32 bytes; stated {length}, present {len(data) - at}")
        if codec not in (Codec.RAW, Codec.DAG_PB):
            raise MalformedInput(f"codec 0x{codec:x}; only raw (0x55) and dag-pb (0x70) are known")
        return ParsedCid(Codec(codec), bytes(data[at:]))


CidLike = str | ParsedCid
"""Where a CID is asked for, its text and its parsed form both serve."""


def parse_cid(cid: CidLike) -> ParsedCid:
    """Raises MalformedInput, saying what is wrong, for text that is not exactly one CID in its one spelling."""
    if isinstance(cid, ParsedCid):
        return cid
    if cid.startswith("Qm"):
        raise MalformedInput(f"{cid[:60]}: a version 0 CID; convert it with `ipfs cid base32 {cid[:60]}`")
    if not cid.startswith("b"):
        raise MalformedInput(f"{cid[:60]!r}: not a CID in lower-case base32 (those start with b)")
    if len(cid) > 4 * _CID_CHARACTERS:
        raise MalformedInput(f"{cid[:60]!r}... of {len(cid)} characters: a CID has {_CID_CHARACTERS}")
    body = cid[1:]
    if not set(body) <= set("abcdefghijklmnopqrstuvwxyz234567"):
        raise MalformedInput(f"{cid[:80]!r}: lower-case base32 uses only a-z and 2-7")
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:
        raise MalformedInput(f"{cid[:80]!r}: not whole base32 text") from None
    try:
        parsed = ParsedCid.from_bytes(data)
    except MalformedInput as error:
        raise MalformedInput(f"{cid[:80]}: {error}") from None
    if parsed.text != cid:
        raise MalformedInput(f"{cid[:80]}: not the canonical spelling of {parsed.text}")
    return parsed


def check_block(cid: CidLike, block: bytes | bytearray | memoryview) -> None:
    """Raises MalformedBlock unless `block` is what `cid` names and within MAX_BLOCK_BYTES."""
    expected = parse_cid(cid)
    if len(block) > MAX_BLOCK_BYTES:
        raise MalformedBlock(f"{expected}: {len(block):,} bytes, above the limit of {MAX_BLOCK_BYTES:,} bytes a block")
    got = ParsedCid.of(block, expected.codec)
    if got != expected:
        raise MalformedBlock(f"{expected}: the {len(block):,} bytes received are {got}")


def write_varint(value: int) -> bytes:
    """Unsigned LEB128, as multiformats and protobuf use it."""
    if not 0 <= value < 1 << 63:
        raise AssertionError(f"{value} is outside the 63 bits of a varint")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """The varint at `at` and the position after it. Raises MalformedInput if cut short, over 63 bits or padded."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(data):
            raise MalformedInput("a varint is cut short")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise MalformedInput("a varint is longer than its value needs")
            return value, at + index + 1
    raise MalformedInput("a varint is longer than 63 bits")
