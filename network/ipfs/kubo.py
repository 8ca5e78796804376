"""A Kubo daemon on this machine, through its RPC: its network is asked for blocks, and is given ours.

Four calls of the RPC are all there is to it, made with the same bounded requests as to any peer: what a daemon answers
is hashed like everything else, and a daemon that hangs costs a deadline. Files go there as CARs, because a CAR states
each block's CID: nothing is chunked, encoded or named anew on the other side, and root and blocks arrive as one.
Source: https://docs.ipfs.tech/reference/kubo/rpc/
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from urllib.parse import quote

from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.car import car_header, car_section
from cupel.network.ipfs.cid import MAX_BLOCK_BYTES, CidLike, ParsedCid, check_block, parse_cid
from cupel.network.ipfs.peers import PeerClient, PeerFailed
from cupel.network.ipfs.unixfs import walk_file
from cupel.protocol.errors import MalformedBlock, MalformedInput

SLOWEST_BYTES_PER_S = 64 << 10
"""At which a daemon must take what it is given."""
_ANSWER_BYTES = 1 << 20


class KuboClient:
    """One daemon's RPC. Whoever can reach that can do anything with the daemon, so it is this machine's own.

    url     like http://127.0.0.1:5001
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = PeerClient(connections=8)

    def version(self, *, timeout_s: float = 5.0) -> str:
        """What runs there. Raises PeerFailed."""
        answer = self._client.post(self.url, "/api/v0/version", max_bytes=_ANSWER_BYTES, timeout_s=timeout_s)
        try:
            return str(json.loads(answer)["Version"])
        except (ValueError, KeyError, TypeError):
            raise PeerFailed(self.url, "is no Kubo RPC: it tells no version") from None

    def get_block(self, cid: CidLike, *, timeout_s: float, abandon: threading.Event | None = None) -> bytes:
        """A block the daemon has, or finds in its network in time. Raises PeerFailed."""
        parsed = parse_cid(cid)
        # The daemon's own limit, or it would go on looking after we have hung up.
        path = f"/api/v0/block/get?arg={parsed}&timeout={max(1, math.floor(timeout_s))}s"
        try:
            block = self._client.post(self.url, path, max_bytes=MAX_BLOCK_BYTES, timeout_s=timeout_s, abandon=abandon)
        except PeerFailed as failure:
            # 500 with a sentence is how the RPC says everything, also that nobody has it.
            is_answer = failure.reason.startswith("answered 500")
            raise PeerFailed(self.url, failure.reason, lied=failure.lied, absent=is_answer) from None
        try:
            check_block(parsed, block)
        except MalformedBlock as error:
            raise PeerFailed(self.url, f"sent wrong bytes: {error}", lied=True) from None
        return block

    def add_file(self, store: BlockStore, cid: CidLike, *, abandon: threading.Event | None = None) -> None:
        """Give it a file that is in `store`, pinned there under its root.

        Raises  PeerFailed; BlockMissing: a block is not here
        """
        root = parse_cid(cid)
        size_bytes = _count_bytes(store, root)
        answer = self._client.post(
            self.url,
            "/api/v0/dag/import?pin-roots=true&allow-big-block=true",
            upload=_car_of(store, root),
            max_bytes=_ANSWER_BYTES,
            timeout_s=60.0 + size_bytes / SLOWEST_BYTES_PER_S,
            abandon=abandon,
        )
        if root not in self._read_roots(answer):
            raise PeerFailed(self.url, f"does not say that it pinned {root}")

    def unpin(self, cid: CidLike, *, timeout_s: float = 30.0) -> None:
        """Let go of a file; that it was not pinned is fine. Raises PeerFailed."""
        path = f"/api/v0/pin/rm?arg={quote(parse_cid(cid).text)}&recursive=true"
        try:
            self._client.post(self.url, path, max_bytes=_ANSWER_BYTES, timeout_s=timeout_s)
        except PeerFailed as failure:
            if "not pinned" not in failure.reason:
                raise

    def close(self) -> None:
        self._client.close()

    def _read_roots(self, answer: bytes) -> set[ParsedCid]:
        """Roots of an import that were pinned: one JSON object a line."""
        pinned: set[ParsedCid] = set()
        try:
            for line in answer.splitlines():
                root = json.loads(line).get("Root")
                if root is not None:
                    if root.get("PinErrorMsg"):
                        raise PeerFailed(self.url, f"did not pin: {str(root['PinErrorMsg'])[:200]}")
                    pinned.add(parse_cid(root["Cid"]["/"]))
        except (ValueError, KeyError, TypeError, AttributeError, MalformedInput):
            raise PeerFailed(self.url, f"answered an import with something else: {answer[:80]!r}") from None
        return pinned


def _count_bytes(store: BlockStore, root: ParsedCid) -> int:
    return sum(len(block) for _, block in _unique_blocks(store, root))


def _car_of(store: BlockStore, root: ParsedCid) -> Iterator[bytes]:
    yield car_header(root)
    for cid, block in _unique_blocks(store, root):
        yield car_section(cid, block)


def _unique_blocks(store: BlockStore, root: ParsedCid) -> Iterator[tuple[ParsedCid, bytes]]:
    seen: set[ParsedCid] = set()
    for cid, block in walk_file(root, store.require):
        if cid not in seen:
            seen.add(cid)
            yield cid, block
