"""Files as trees of blocks: Kubo's balanced layout, written and read in a stream.

A file is cut into raw leaves of 256 KiB; up to 174 of them hang below a node, up to 174 nodes below the next, until one
is left. A file of one leaf is that leaf alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cupel.network.ipfs.cid import CidLike, Codec, ParsedCid, parse_cid
from cupel.network.ipfs.dagpb import FileNode, Link
from cupel.protocol.errors import MalformedBlock
from cupel.protocol.types import Cid

CHUNK_BYTES = 256 << 10
LINKS_PER_NODE = 174
MAX_DEPTH = 8
"""Nodes above a leaf. 174^5 leaves of 256 KiB are 40 PB, so 8 is generous for other writers' layouts too."""
MAX_FILE_BYTES = 64 << 30
_FREE_BLOCKS = 4096
_MEAN_BLOCK_BYTES = 4096

Sink = Callable[[ParsedCid, bytes], None]
"""Takes every block of a file as it is made, children before their parent."""


def cid_of(data: bytes | bytearray | memoryview) -> Cid:
    """The CID `ipfs add --cid-version=1 --raw-leaves` gives these bytes. Keeps nothing."""
    return build_file(chunks_of(data), _discard).text


def build_file(chunks: Iterable[bytes], sink: Sink, *, links_per_node: int = LINKS_PER_NODE) -> ParsedCid:
    """Lay `chunks` out as a file and hand each block to `sink`; return the root.

    chunks          the file's bytes in order, each one leaf; none at all is the empty file
    links_per_node  at least 2; other values than Kubo's exist to check the layout on small inputs
    Memory          one chunk and at most `links_per_node` links for each level
    """
    levels: list[list[Link]] = [[]]

    def add(level: int, link: Link) -> None:
        if level == len(levels):
            levels.append([])
        if len(levels[level]) == links_per_node:
            close(level)
        levels[level].append(link)

    def close(level: int) -> None:
        children, levels[level] = levels[level], []
        block = FileNode(tuple(children)).encode()
        cid = ParsedCid.of(block, Codec.DAG_PB)
        sink(cid, block)
        below = sum(link.total_size for link in children)
        add(level + 1, Link(cid, sum(link.size for link in children), len(block) + below))

    for chunk in chunks:
        cid = ParsedCid.of(chunk)
        sink(cid, chunk)
        add(0, Link(cid, len(chunk), len(chunk)))
    if not levels[0]:
        cid = ParsedCid.of(b"")
        sink(cid, b"")
        return cid
    level = 0
    while level < len(levels) - 1 or len(levels[level]) > 1:
        close(level)
        level += 1
    return levels[level][0].cid


def chunks_of(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    view = memoryview(data).cast("B")
    return (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))


def chunks_of_file(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _discard(cid: ParsedCid, block: bytes) -> None:
    """Where only the name is wanted."""


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a file and what its parent promised of it."""

    cid: ParsedCid
    size: int | None
    """Bytes of the file below it; None for the root, of which nothing is promised."""
    depth: int


class Walk:
    """Follows a file from its root, refusing every tree that is not one honest file.

    A hostile tree may name one child many times over and so stand for more bytes than were ever sent. Here every node
    must hold exactly the bytes its parent promised, so that a file is never longer than its root says, the root says
    at most `max_bytes`, and no more blocks are visited than such a file can need.
    """

    def __init__(self, root: CidLike, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.root = Part(parse_cid(root), None, 0)
        self._max_bytes = max_bytes
        self._blocks_left = _FREE_BLOCKS
        self.size: int | None = None
        """Bytes of the whole file, known once the root has been opened."""

    def open(self, part: Part, block: bytes) -> list[Part]:
        """The children of `part`, whose block this is; a leaf has none.

        Raises  MalformedBlock: not a file, not as long as promised, too deep, too large, too finely cut
        """
        if part.cid.codec == Codec.RAW:
            self.open_leaf(part, len(block))
            return []
        node = FileNode.decode(block)
        self._count(part, node.size)
        if part.depth == MAX_DEPTH:
            raise MalformedBlock(f"{self.root.cid}: more than {MAX_DEPTH} levels of nodes")
        return [Part(link.cid, link.size, part.depth + 1) for link in node.links]

    def open_leaf(self, part: Part, length: int) -> None:
        """As `open` for a raw leaf of which only the length is at hand."""
        self._count(part, length)

    def _count(self, part: Part, size: int) -> None:
        self._blocks_left -= 1
        if part.size is None:
            self._open_root(size)
        elif size != part.size:
            raise MalformedBlock(f"{part.cid}: holds {size} bytes of the file where its parent promised {part.size}")
        if self._blocks_left < 0:
            raise MalformedBlock(f"{self.root.cid}: cut into more blocks than {self.size:,} bytes can need")

    def _open_root(self, size: int) -> None:
        if size > self._max_bytes:
            raise MalformedBlock(
                f"{self.root.cid}: a file of {size:,} bytes where at most {self._max_bytes:,} are taken"
            )
        self.size = size
        self._blocks_left += size // _MEAN_BLOCK_BYTES


def walk_file(
    root: CidLike, get: Callable[[ParsedCid], bytes], *, max_bytes: int = MAX_FILE_BYTES
) -> Iterator[tuple[ParsedCid, bytes]]:
    """Every block of a file, depth first and left to right, repeats included.

    get     gives the block of a CID, already checked against it
    Raises  MalformedBlock: as `Walk.open`; and whatever `get` raises
    """
    walk = Walk(root, max_bytes=max_bytes)
    waiting = [walk.root]
    while waiting:
        part = waiting.pop()
        block = get(part.cid)
        children = walk.open(part, block)
        yield part.cid, block
        waiting.extend(reversed(children))
