"""Which kept files a block belongs to: what a pin's name says of a file holds for each of its blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from cupel.network.ipfs.blockstore import BlockMissing, BlockStore
from cupel.network.ipfs.cid import Codec, ParsedCid, parse_cid
from cupel.network.ipfs.dagpb import FileNode
from cupel.protocol.errors import MalformedBlock

RETRY_S = 1.0
"""How often files that were not whole here are looked at again, when something unknown is asked for."""


class BlockIndex:
    """From blocks to the pins that reach them. Follows the store's pins by itself; threads may share it.

    Blocks of several states are shared where tensors did not change, so a block may have several names.
    """

    def __init__(self, store: BlockStore, *, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._lock = threading.Lock()
        self._seen = -1
        """`pins_changed` of the store when the pins were last read."""
        self._pins: dict[ParsedCid, tuple[str, ...]] = {}
        """Names by root."""
        self._files: dict[ParsedCid, frozenset[ParsedCid]] = {}
        """Blocks of each root that is pinned, or published and here."""
        self._roots: dict[ParsedCid, tuple[ParsedCid, ...]] = {}
        """Roots by block."""
        self._partial: set[ParsedCid] = set()
        """Roots with nodes that are missing or damaged here."""
        self._published: dict[ParsedCid, str] = {}
        self._retried = float("-inf")

    def publish(self, cids: Iterable[str]) -> None:
        """Names for files that may be here without a pin: `shard/<cid>`."""
        with self._lock:
            self._published |= {parse_cid(cid): f"shard/{cid}" for cid in cids}
            self._partial |= {root for root in self._published if root.codec == Codec.DAG_PB} - set(self._files)

    def names(self, cid: ParsedCid) -> frozenset[str]:
        """Names of all kept files with this block; empty if there is none."""
        with self._lock:
            self._follow()
            if cid not in self._roots and self._partial and self._now() - self._retried > RETRY_S:
                self._retried = self._now()
                for root in [r for r in self._partial if self._store.block_size(r) is not None]:
                    self._add(root)
            found = {name for root in self._roots.get(cid, ()) for name in self._names_of(root)}
            return frozenset(found | ({self._published[cid]} if cid in self._published else set()))

    def _names_of(self, root: ParsedCid) -> tuple[str, ...]:
        published = self._published.get(root)
        return self._pins.get(root, ()) + ((published,) if published is not None else ())

    def _follow(self) -> None:
        if self._seen == self._store.pins_changed:
            return
        self._seen = self._store.pins_changed
        pins: dict[ParsedCid, tuple[str, ...]] = {}
        for name, cid in self._store.pins().items():
            root = parse_cid(cid)
            pins[root] = (*pins.get(root, ()), name)
        self._pins = pins
        for root in [r for r in self._files if r not in pins and r not in self._published]:
            self._drop(root)
        for root in pins:
            if root not in self._files or root in self._partial:
                self._add(root)

    def _add(self, root: ParsedCid) -> None:
        self._drop(root)
        blocks, waiting, is_whole = set[ParsedCid](), [root], True
        while waiting:
            cid = waiting.pop()
            if cid in blocks:
                continue
            blocks.add(cid)
            if cid.codec == Codec.DAG_PB:
                try:
                    waiting.extend(link.cid for link in FileNode.decode(self._store.require(cid)).links)
                except (BlockMissing, MalformedBlock):
                    is_whole = False
        self._files[root] = frozenset(blocks)
        (self._partial.discard if is_whole else self._partial.add)(root)
        for cid in blocks:
            self._roots[cid] = (*self._roots.get(cid, ()), root)

    def _drop(self, root: ParsedCid) -> None:
        self._partial.discard(root)
        for cid in self._files.pop(root, frozenset()):
            left = tuple(r for r in self._roots[cid] if r != root)
            if left:
                self._roots[cid] = left
            else:
                del self._roots[cid]
