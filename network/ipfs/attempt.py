"""One fetch of one file: whom it asks for which block, and when it gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.car import read_car
from cupel.network.ipfs.cid import MAX_BLOCK_BYTES, Codec, ParsedCid, check_block
from cupel.network.ipfs.kubo import KuboClient
from cupel.network.ipfs.negotiation import CAR_TYPE, RAW_TYPE
from cupel.network.ipfs.peers import PeerClient, PeerFailed
from cupel.network.ipfs.standing import Standing
from cupel.network.ipfs.unixfs import Part, Walk
from cupel.protocol.errors import MalformedBlock, Unavailable

MOST_ASKED = 3
"""Peers asked for one block at the same time, each after those before it took too long."""
MOST_RESTS = 16
"""Times a peer may say during one fetch that it is busy before that counts as a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long and how much a fetch may take before it gives up."""

    workers: int = 8
    """Blocks asked for at the same time."""
    block_timeout_s: float = 20.0
    """For one block from one peer, connecting included."""
    bytes_per_second: int = 64 << 10
    """Slowest average taken from a peer that sends a whole file."""
    hedge_s: float = 1.0
    """After so long, or four times what the peer usually takes if that is less, a second peer is asked for the same
    block as well; the first right answer counts."""
    failures: int = 2
    """Times a peer may fail to answer before it is asked nothing more during this fetch."""
    archives: bool = False
    """Ask for a file of which nothing is here as one CAR first. Saves round trips to far peers, but lets one slow peer
    set the pace, and on a near network blocks from several connections come faster."""
    file_timeout_s: float = 120.0
    """For a whole file, besides the time its size takes at `bytes_per_second`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all fetches of a process share."""

    store: BlockStore
    client: PeerClient
    standing: Standing
    counts: FetchCounts
    requests: ThreadPoolExecutor
    """Threads that ask; those that plan wait for them."""
    limits: FetchLimits
    kubo: KuboClient | None


@dataclass(slots=True, eq=False)
class _Request:
    """One question to one peer."""

    peer: str
    patience_s: float
    """After which somebody else is asked as well."""
    began: float = field(default_factory=time.monotonic)
    abandon: threading.Event = field(default_factory=threading.Event)


class NobodyServed(Unavailable):
    """A block, and what each of those who were asked for it did instead of serving it."""

    def __init__(self, cid: ParsedCid, failures: dict[str, str], *, late: bool = False) -> None:
        asked = "; ".join(f"{peer}: {reason}" for peer, reason in failures.items()) or "there is nobody to ask"
        super().__init__(f"{cid}: {'not fetched in time' if late else 'nobody served it'} ({asked})")
        self.cid = cid
        self.failures = failures
        """Reason by peer."""


class FetchCounts:
    """What became of requests since the start. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fetched_bytes = 0
        self.failures = dict.fromkeys(("absent", "busy", "failed", "lied"), 0)

    def fetched(self, size_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += size_bytes

    def failed(self, failure: PeerFailed) -> None:
        kind = "lied" if failure.lied else "absent" if failure.absent else "busy" if failure.rest_s else "failed"
        with self._lock:
            self.failures[kind] += 1


class Attempt:
    """One fetch: whom it still trusts, what each of them did, and when it must be over."""

    def __init__(self, means: Means, peers: list[str], walk: Walk, timeout_s: float | None) -> None:
        self._means = means
        self._store = means.store
        self._limits = means.limits
        self._kubo_url = means.kubo.url if means.kubo is not None else None
        self._peers = peers if self._kubo_url is None else [*peers, self._kubo_url]
        self._walk = walk
        self._timeout_s = timeout_s
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._failures: dict[str, str] = {}
        self._failed: dict[str, int] = {}
        self._excluded: set[str] = set()
        self._absent: set[str] = set()
        """Peers that did not have some block of this file, and so perhaps none; asked after those who had all."""
        self._resting: dict[str, float] = {}
        """Until when, by time.monotonic, to leave busy peers alone."""
        self._excused: dict[str, int] = {}

    def run(self) -> None:
        root = self._walk.root
        fresh = not self._store.has(root.cid)
        block = self._ensure(root.cid)
        level = self._walk.open(root, block)
        if level and fresh and self._limits.archives:
            self._by_car()
        with ThreadPoolExecutor(max_workers=self._limits.workers, thread_name_prefix="fetch") as pool:
            while level:
                level = self._level(pool, level)

    def _level(self, pool: ThreadPoolExecutor, parts: list[Part]) -> list[Part]:
        """Make the blocks of these parts present; return their children."""
        unique = list(dict.fromkeys(part.cid for part in parts))
        lengths = self._ensure_all(pool, unique)
        below: list[Part] = []
        for part in parts:
            if part.cid.codec == Codec.RAW:
                self._walk.open_leaf(part, lengths[part.cid])
            else:
                below += self._walk.open(part, self._store.require(part.cid))
        return below

    def _ensure_all(self, pool: ThreadPoolExecutor, cids: list[ParsedCid]) -> dict[ParsedCid, int]:
        lengths: dict[ParsedCid, int] = {}
        waiting = iter(cids)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                with self._lock:
                    cid = next(waiting, None)
                if cid is None:
                    return
                lengths[cid] = len(self._ensure(cid))

        workers = [pool.submit(work) for _ in range(min(self._limits.workers, len(cids)))]
        wait(workers, return_when=FIRST_EXCEPTION)
        stop.set()
        for worker in workers:
            worker.result()
        return lengths

    def _ensure(self, cid: ParsedCid) -> bytes:
        """The block, from here or else from the first peer that serves it."""
        block = self._store.get(cid)
        if block is None:
            block = self._race(cid)
            self._store.put_checked(cid, block)
        return block

    def _race(self, cid: ParsedCid) -> bytes:
        """The block from one peer, or from another that overtakes it."""
        running: dict[Future[bytes], _Request] = {}
        asked: set[str] = set()
        try:
            while True:
                peer = self._next(asked) if len(running) < MOST_ASKED else None
                if peer is not None:
                    asked.add(peer)
                    request = _Request(peer, self._means.standing.patience_s(peer, self._limits.hedge_s))
                    running[self._means.requests.submit(self._ask, request, cid)] = request
                elif not running:
                    self._rest(cid, asked)
                    continue
                can_widen = len(running) < MOST_ASKED and bool(self._ready(asked))
                patience_s = max(r.patience_s for r in running.values()) if can_widen else None
                for done in wait(running, timeout=patience_s, return_when=FIRST_COMPLETED).done:
                    request = running.pop(done)
                    try:
                        return done.result()
                    except PeerFailed as failure:
                        self._note(failure, asked)
        finally:
            for request in running.values():
                request.abandon.set()
                self._means.standing.overtaken(request.peer, time.monotonic() - request.began)

    def _ready(self, asked: set[str]) -> list[str]:
        """Who may be asked now."""
        now = time.monotonic()
        with self._lock:
            left = [p for p in self._peers if p not in self._excluded and p not in asked]
            return [p for p in left if self._resting.get(p, 0.0) <= now]

    def _next(self, asked: set[str]) -> str | None:
        """Whom to ask first of those; the daemon, which may look all over the world, when peers cannot help."""
        with self._lock:
            absent = set(self._absent)
        ready = self._ready(asked)
        peers = self._means.standing.in_order([peer for peer in ready if peer != self._kubo_url], absent)
        return next(iter([*peers, *ready[:1]]), None)

    def _rest(self, cid: ParsedCid, asked: set[str]) -> None:
        """Wait for a peer that said it is busy. Raises NobodyServed if there is none, or not in time."""
        with self._lock:
            busy = [until for peer, until in self._resting.items() if peer not in asked and peer not in self._excluded]
        left_s = self._deadline() - time.monotonic()
        if not busy or left_s <= 0:
            raise NobodyServed(cid, dict(self._failures), late=left_s <= 0)
        time.sleep(max(0.0, min(min(busy) - time.monotonic(), left_s)))

    def _ask(self, request: _Request, cid: ParsedCid) -> bytes:
        peer, began = request.peer, time.monotonic()
        timeout_s = min(self._limits.block_timeout_s, self._left_s(cid))
        if self._means.kubo is not None and peer == self._kubo_url:
            return self._means.kubo.get_block(cid, timeout_s=timeout_s, abandon=request.abandon)
        block = self._means.client.get(
            peer,
            f"/ipfs/{cid}?format=raw",
            max_bytes=MAX_BLOCK_BYTES,
            timeout_s=timeout_s,
            accept=RAW_TYPE,
            abandon=request.abandon,
        )
        try:
            check_block(cid, block)
        except MalformedBlock as error:
            raise PeerFailed(peer, f"sent wrong bytes: {error}", lied=True) from None
        self._means.standing.served(peer, time.monotonic() - began)
        self._means.counts.fetched(len(block))
        return block

    def _by_car(self) -> None:
        """Take what one peer sends of the file in one stream; what is missing then is asked for block by block."""
        root = self._walk.root.cid
        for peer in self._means.standing.in_order(self._peers, self._absent):
            if peer in self._failures or peer == self._kubo_url:  # it had not even the root, or knows no such request
                continue
            try:
                self._take_car(peer, root)
            except PeerFailed as failure:
                self._note(failure, set())
                continue
            return

    def _take_car(self, peer: str, root: ParsedCid) -> None:
        walk = Walk(root)
        size = self._walk.size or 0
        with self._means.client.stream(
            peer,
            f"/ipfs/{root}?format=car&dag-scope=all&car-dups=n",
            max_bytes=2 * size + MAX_BLOCK_BYTES,
            timeout_s=min(self._limits.block_timeout_s + size / self._limits.bytes_per_second, self._left_s(root)),
            accept=f"{CAR_TYPE}; version=1; order=dfs; dups=n",
        ) as chunks:
            seen: set[ParsedCid] = set()
            waiting = [walk.root]
            for cid, block in _blaming_archive(peer, read_car(chunks, root)):
                while waiting and waiting[-1].cid in seen:
                    waiting.pop()
                if not waiting or waiting[-1].cid != cid:
                    raise PeerFailed(peer, f"sent a block that is not next in the file: {cid}", lied=True)
                part = waiting.pop()
                seen.add(cid)
                self._store.put_checked(cid, block)
                self._means.counts.fetched(len(block))
                waiting.extend(reversed(walk.open(part, block)))
        if any(part.cid not in seen for part in waiting):
            raise PeerFailed(peer, "sent only part of the file")

    def _note(self, failure: PeerFailed, asked: set[str]) -> None:
        """Remember what a peer did; a busy one may be asked for the same block again."""
        peer = failure.peer
        self._means.counts.failed(failure)
        with self._lock:
            self._failures[peer] = failure.reason
            if failure.absent:
                self._absent.add(peer)
                return
            if failure.rest_s is not None and self._excused.setdefault(peer, 0) < MOST_RESTS:
                self._excused[peer] += 1
                self._resting[peer] = time.monotonic() + failure.rest_s
                asked.discard(peer)
                return
            self._failed[peer] = self._failed.get(peer, 0) + 1
            if failure.lied or self._failed[peer] >= self._limits.failures:
                self._excluded.add(peer)
        self._means.standing.failed(peer)

    def _left_s(self, cid: ParsedCid) -> float:
        left = self._deadline() - time.monotonic()
        if left <= 0:
            raise NobodyServed(cid, dict(self._failures), late=True)
        return left

    def _deadline(self) -> float:
        if self._timeout_s is not None:
            return self._began + self._timeout_s
        return self._began + self._limits.file_timeout_s + (self._walk.size or 0) / self._limits.bytes_per_second


def _blaming_archive(peer: str, blocks: Iterator[tuple[ParsedCid, bytes]]) -> Iterator[tuple[ParsedCid, bytes]]:
    """A malformed archive is its sender's fault; a malformed file inside it, found by the reader, is not."""
    try:
        yield from blocks
    except MalformedBlock as error:
        raise PeerFailed(peer, f"sent a false archive: {error}", lied=True) from None
