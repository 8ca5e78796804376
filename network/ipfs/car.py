"""CARv1: many blocks in one stream.

    header   varint length ‖ dag-cbor {"roots": [root], "version": 1}
    section  varint length ‖ CID ‖ block, any number of times

Only archives of one root are written and read. Source: https://ipld.io/specs/transport/car/carv1/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cupel.network.ipfs.cid import (
    MAX_BLOCK_BYTES,
    CidLike,
    ParsedCid,
    check_block,
    parse_cid,
    read_varint,
    write_varint,
)
from cupel.protocol.errors import MalformedBlock, MalformedInput

_CID_BYTES = 36
_LONGEST_VARINT = 9


def car_header(root: CidLike) -> bytes:
    cid = parse_cid(root).to_bytes()
    # As dag-cbor writes it: a2 map of two, 81 list of one, d82a a link, 5825 37 bytes, 00 the binary form's prefix.
    header = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + cid + b"\x67version\x01"
    return write_varint(len(header)) + header


def car_section(cid: ParsedCid, block: bytes) -> bytes:
    return write_varint(_CID_BYTES + len(block)) + cid.to_bytes() + block


def read_car(chunks: Iterable[bytes], root: CidLike) -> Iterator[tuple[ParsedCid, bytes]]:
    """The blocks of an archive as they arrive, each checked against its CID.

    Whether a block was wanted is for the caller to judge, who should stop reading at the first that was not.

    Raises  MalformedBlock: another root, a block that does not match its CID, a section too long or cut short
    Memory  one section and one chunk
    """
    stream = _Stream(chunks)
    expected = car_header(root)
    got = stream.take(len(expected))
    if got != expected:
        raise MalformedBlock(f"CAR: its header is not that of version 1 with the one root {parse_cid(root)}")
    while (length := stream.take_length()) is not None:
        if not _CID_BYTES <= length <= _CID_BYTES + MAX_BLOCK_BYTES:
            raise MalformedBlock(f"CAR: a section of {length:,} bytes; blocks have up to {MAX_BLOCK_BYTES:,}")
        section = stream.take(length)
        try:
            cid = ParsedCid.from_bytes(section[:_CID_BYTES])
        except MalformedInput as error:
            raise MalformedBlock(f"CAR: {error}") from None
        block = section[_CID_BYTES:]
        check_block(cid, block)
        yield cid, block


class _Stream:
    """Takes exact lengths out of chunks of any length."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def take(self, length: int) -> bytes:
        self._fill(length)
        if len(self._buffer) < length:
            raise MalformedBlock(f"CAR: cut short, {length - len(self._buffer):,} bytes are missing")
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def take_length(self) -> int | None:
        """The varint before a section, or None at a clean end."""
        for count in range(1, _LONGEST_VARINT + 1):
            self._fill(count)
            if not self._buffer:
                return None
            if len(self._buffer) < count or self._buffer[count - 1] < 0x80:
                break
        try:
            length, at = read_varint(self._buffer, 0)
        except MalformedInput as error:
            raise MalformedBlock(f"CAR: {error}") from None
        del self._buffer[:at]
        return length

    def _fill(self, length: int) -> None:
        while len(self._buffer) < length and (chunk := next(self._chunks, None)) is not None:
            self._buffer += chunk
