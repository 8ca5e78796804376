"""Fetching files from peers who may be absent, slow or lying.

Every block is hashed on arrival and stored at once, so nothing false is kept, and what was fetched before a failure is
not fetched again. A peer that lies is asked nothing more during that fetch; the others still are. One that is slow is
overtaken: another is asked for the same block, and the first right answer counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from cupel.network.ipfs.attempt import MOST_ASKED, Attempt, FetchCounts, FetchLimits, Means, NobodyServed
from cupel.network.ipfs.blockstore import BlockMissing, BlockStore
from cupel.network.ipfs.cid import CidLike, parse_cid
from cupel.network.ipfs.kubo import KuboClient
from cupel.network.ipfs.peers import Introduce, PeerClient
from cupel.network.ipfs.standing import Standing
from cupel.network.ipfs.unixfs import MAX_FILE_BYTES, Walk

__all__ = ["FetchCounts", "FetchLimits", "Fetcher", "NobodyServed", "Peers"]

Peers = Sequence[str] | Callable[[], Sequence[str]]
"""Addresses like http://host:port, or a function that tells those of the moment."""


class Fetcher:
    """Brings files into a blockstore; threads may share one.

    blockstore  takes every block; must be writable
    peers       asked in turn, the slow after the quick, those that failed before last
    introduce   headers that tell a peer who asks
    kubo        a daemon that looks in its own network for what no peer has; asked last
    """

    def __init__(
        self,
        blockstore: BlockStore,
        peers: Peers,
        *,
        limits: FetchLimits | None = None,
        introduce: Introduce | None = None,
        kubo: KuboClient | None = None,
    ) -> None:
        self.blockstore = blockstore
        self.client = PeerClient(introduce=introduce)
        """For further bounded requests to the same peers."""
        self.standing = Standing()
        self.counts = FetchCounts()
        self._peers = peers
        limits = limits or FetchLimits()
        workers = MOST_ASKED * limits.workers
        self._means = Means(
            store=blockstore,
            client=self.client,
            standing=self.standing,
            counts=self.counts,
            requests=ThreadPoolExecutor(max_workers=workers, thread_name_prefix="ask"),
            limits=limits,
            kubo=kubo,
        )

    def fetch(self, cid: CidLike, *, max_bytes: int = MAX_FILE_BYTES, timeout_s: float | None = None) -> bytes:
        """The bytes of a file, from here or from a peer. Raises as `fetch_to_store`."""
        parsed = parse_cid(cid)
        with self.blockstore.no_collection():
            try:
                return self.blockstore.read(parsed, max_bytes=max_bytes)
            except BlockMissing:
                self.fetch_to_store(parsed, max_bytes=max_bytes, timeout_s=timeout_s)
                return self.blockstore.read(parsed, max_bytes=max_bytes)

    def fetch_buffer(
        self, cid: CidLike, *, max_bytes: int = MAX_FILE_BYTES, timeout_s: float | None = None
    ) -> bytearray:
        """As `fetch`, into a buffer of the caller's own, of which tensors may be views."""
        parsed = parse_cid(cid)
        with self.blockstore.no_collection():
            try:
                return self.blockstore.read_buffer(parsed, max_bytes=max_bytes)
            except BlockMissing:
                self.fetch_to_store(parsed, max_bytes=max_bytes, timeout_s=timeout_s)
                return self.blockstore.read_buffer(parsed, max_bytes=max_bytes)

    def fetch_to_store(
        self,
        cid: CidLike,
        *,
        max_bytes: int = MAX_FILE_BYTES,
        timeout_s: float | None = None,
        pin: str | None = None,
    ) -> None:
        """Make every block of a file present and intact here, asking peers only for those that are not.

        max_bytes  longest file taken; state it wherever a stranger chose the CID
        timeout_s  for all of it; by default as the limits say, according to its size
        pin        keep the file under this name

        Raises  Unavailable (NobodyServed): no peer could serve a block, or not in time
                MalformedBlock: what the CID names is not a file, or is too long; no peer's fault
        """
        parsed = parse_cid(cid)
        peers = self._peers() if callable(self._peers) else self._peers
        attempt = Attempt(self._means, list(dict.fromkeys(peers)), Walk(parsed, max_bytes=max_bytes), timeout_s)
        with self.blockstore.no_collection():
            attempt.run()
            if pin is not None:
                self.blockstore.pin(parsed, pin)

    def close(self) -> None:
        self._means.requests.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
