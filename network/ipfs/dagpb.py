"""Interior nodes of a file: dag-pb links around a UnixFS description.

Two protobuf messages of three fields each are all IPFS files need, so they are written and read here. There is one
way to write a node and only that way is read back: a node that decodes is, byte for byte, what `encode` gives.

    PBNode   2: links (PBLink...)   1: data (UnixFS Data)         links come first on the wire
    PBLink   1: hash (CID bytes)    2: name (empty)   3: Tsize    bytes under the link, nodes included; advisory
    Data     1: type = File (2)     3: filesize       4: blocksizes...

Source: https://ipld.io/specs/codecs/dag-pb/spec/, https://github.com/ipfs/specs/blob/main/UNIXFS.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cupel.network.ipfs.cid import ParsedCid, read_varint, write_varint
from cupel.protocol.errors import MalformedBlock, MalformedInput

_VARINT, _BYTES = 0, 2
_FILE = 2
_KINDS = {
    0: "a raw leaf inside dag-pb",
    1: "a directory",
    3: "metadata",
    4: "a symbolic link",
    5: "a sharded directory",
}


@dataclass(frozen=True, slots=True)
class Link:
    """One child of a node."""

    cid: ParsedCid
    size: int
    """Bytes of the file below this child; at least 1."""
    total_size: int
    """Bytes of all blocks below this child, its own included (Tsize). Advisory: never trusted for a decision."""


@dataclass(frozen=True, slots=True)
class FileNode:
    """An interior node: a file's bytes are those of its children, in order."""

    links: tuple[Link, ...]

    @property
    def size(self) -> int:
        """Bytes of the file below this node."""
        return sum(link.size for link in self.links)

    def encode(self) -> bytes:
        links = b"".join(
            _field(2, _BYTES)
            + _prefixed(
                _field(1, _BYTES)
                + _prefixed(link.cid.to_bytes())
                + _field(2, _BYTES)
                + b"\0"
                + _field(3, _VARINT)
                + write_varint(link.total_size)
            )
            for link in self.links
        )
        sizes = b"".join(_field(4, _VARINT) + write_varint(link.size) for link in self.links)
        unixfs = _field(1, _VARINT) + bytes((_FILE,)) + _field(3, _VARINT) + write_varint(self.size) + sizes
        return links + _field(1, _BYTES) + _prefixed(unixfs)

    @staticmethod
    def decode(block: bytes) -> FileNode:
        """Raises MalformedBlock for anything but one canonically written UnixFS file node with links.

        Time and memory are linear in the block, which its reader has already bounded.
        """
        try:
            node = _decode(block)
        except MalformedBlock:
            raise
        except MalformedInput as error:
            raise MalformedBlock(f"dag-pb node: {error}") from None
        if node.encode() != block:
            raise MalformedBlock("dag-pb node: not written canonically, or with fields a plain file does not have")
        return node


def _decode(block: bytes) -> FileNode:
    raw_links: list[bytes] = []
    unixfs: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes):
            raw_links.append(value)
        elif number == 1 and isinstance(value, bytes) and unixfs is None:
            unixfs = value
        else:
            raise MalformedBlock(f"dag-pb node: field {number} does not belong here")
    if unixfs is None:
        raise MalformedBlock("dag-pb node: no UnixFS description; not a file")
    sizes = _child_sizes(unixfs)
    if not raw_links:
        raise MalformedBlock("dag-pb node: a file without links; its bytes belong in a raw block (--raw-leaves)")
    if len(sizes) != len(raw_links):
        raise MalformedBlock(f"dag-pb node: {len(raw_links)} links but {len(sizes)} block sizes")
    return FileNode(tuple(_link(raw, size) for raw, size in zip(raw_links, sizes, strict=True)))


def _child_sizes(unixfs: bytes) -> list[int]:
    sizes: list[int] = []
    file_size: int | None = None
    for number, value in _fields(unixfs):
        if number == 1 and value != _FILE:
            raise MalformedBlock(
                f"dag-pb node: {_KINDS.get(value if isinstance(value, int) else -1, 'unknown')}; only files are read"
            )
        if number == 2:
            raise MalformedBlock("dag-pb node: file bytes inside a node; only raw leaves are read (--raw-leaves)")
        if number == 3 and isinstance(value, int):
            file_size = value
        if number == 4 and isinstance(value, int):
            if value == 0:
                raise MalformedBlock("dag-pb node: a link to an empty part")
            sizes.append(value)
    if file_size != sum(sizes):
        raise MalformedBlock(f"dag-pb node: states {file_size} bytes, its links {sum(sizes)}")
    return sizes


def _link(raw: bytes, size: int) -> Link:
    cid: ParsedCid | None = None
    total_size = 0
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            cid = ParsedCid.from_bytes(value)
        elif number == 3 and isinstance(value, int):
            total_size = value
    if cid is None:
        raise MalformedBlock("dag-pb node: a link without a CID")
    return Link(cid, size, total_size)


def _fields(message: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Field number and value of each field; only varints and length-prefixed bytes exist here."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        number, wire_type = key >> 3, key & 7
        value, at = read_varint(message, at)
        if wire_type == _VARINT:
            yield number, value
        elif wire_type == _BYTES:
            if value > len(message) - at:
                raise MalformedInput(f"field {number} states {value} bytes where {len(message) - at} are left")
            yield number, message[at : at + value]
            at += value
        else:
            raise MalformedInput(f"wire type {wire_type} of field {number} does not belong here")


def _field(number: int, wire_type: int) -> bytes:
    return bytes((number << 3 | wire_type,))


def _prefixed(data: bytes) -> bytes:
    return write_varint(len(data)) + data
