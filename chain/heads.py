"""Following the newest block, and noticing when blocks that were there are gone.

A block names its parent by hash: where the newest one does not lead back to the blocks seen before, the chain was
re-organised, and whatever was concluded from the lost blocks has to be concluded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cupel.chain.values import Block
from cupel.protocol.errors import Unavailable
from cupel.protocol.types import Height

KEPT_HASHES = 128
"""Blocks remembered: four epochs of Ethereum; what is older is final on any chain worth using."""
FILLED_HASHES = 32
"""Blocks looked up behind the newest at the first look and after a pause: how deep the next re-org is known to be."""
SHORTER_PATIENCE_S = 10.0
"""How long a chain that only lacks its newest blocks is taken for a node that lags behind."""
_TRIES = 3


class Chain(Protocol):
    """What is needed of a `ChainClient`."""

    def head(self) -> Block: ...

    def get_block(self, number: Height | int | str) -> Block | None: ...

    def get_block_by_hash(self, block_hash: bytes) -> Block | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The newest block, and how many blocks that an earlier look knew are no longer in the chain."""

    head: Block
    reorg_depth: int
    """0: the chain only grew."""
    is_deeper: bool
    """None of the remembered blocks is left: the re-org is at least `reorg_depth` deep, maybe more."""


class HeadTracker:
    """Follows one chain. Not for several threads."""

    def __init__(
        self,
        chain: Chain,
        *,
        shorter_patience_s: float = SHORTER_PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._clock, self._patience_s = chain, clock, shorter_patience_s
        self._hashes: dict[int, bytes] = {}
        """Of blocks in the chain, by height, ascending; heights may be missing."""
        self._top: Block | None = None
        self._shorter_since: float | None = None

    def look(self) -> Look:
        """The newest block now. Raises ChainUnreachable, Unavailable."""
        for _ in range(_TRIES):
            found = self._look_once()
            if found is not None:
                return found
        raise Unavailable("the chain's blocks do not lead to one another: its nodes disagree; looking again")

    def _look_once(self) -> Look | None:
        """None, and nothing remembered, where the chain changed while we looked."""
        head, top = self._chain.head(), self._top
        if top is None:
            return self._accept(head, {}, lost=0)
        if head.hash == top.hash or (head.number == top.number + 1 and head.parent_hash == top.hash):
            return self._accept(head, self._hashes, lost=0)
        common = self._find_common(head)
        if common is None:
            return self._accept(head, {}, lost=top.number - min(self._hashes) + 1, is_deeper=True)
        if common == head.number < top.number and not self._is_shorter_for_long():
            # Nothing contradicts the newer blocks: most likely another node answered, one that has them not yet.
            return Look(head=top, reorg_depth=0, is_deeper=False)
        kept = {height: block_hash for height, block_hash in self._hashes.items() if height <= common}
        return self._accept(head, kept, lost=top.number - common)

    def _is_shorter_for_long(self) -> bool:
        now = self._clock()
        if self._shorter_since is None:
            self._shorter_since = now
        return now - self._shorter_since >= self._patience_s

    def _find_common(self, head: Block) -> int | None:
        """The highest remembered height whose block is still the same."""
        for height in reversed(self._hashes):
            if height > head.number:
                continue
            block = head if height == head.number else self._chain.get_block(height)
            if block is not None and block.hash == self._hashes[height]:
                return height
        return None

    def _accept(self, head: Block, kept: dict[int, bytes], *, lost: int, is_deeper: bool = False) -> Look | None:
        """Go on from `head`, of whose ancestors those `kept` are known; those between are looked up."""
        new, block, known_to = {int(head.number): head.hash}, head, max(kept, default=-1)
        while block.number - 1 > known_to and len(new) < FILLED_HASHES:
            parent = self._chain.get_block_by_hash(block.parent_hash)
            if parent is None:
                return None
            new[int(parent.number)] = parent.hash
            block = parent
        if block.parent_hash != kept.get(block.number - 1, block.parent_hash):
            return None
        hashes = sorted((kept | new).items())
        self._hashes = dict(hashes[-KEPT_HASHES:])
        self._top, self._shorter_since = head, None
        return Look(head=head, reorg_depth=lost, is_deeper=is_deeper)
