"""States on disk: safetensors in the blockstore, each checked against its root before anybody computes with it.

A state that may be needed again is kept under a name (a pin); `Session.prune` lets go of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch

from cupel.network.ipfs.blockstore import BlockMissing, BlockStore
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.unixfs import CHUNK_BYTES, walk_file
from cupel.network.states import check_state_root, decode_state, encode_in_pieces
from cupel.protocol.errors import MalformedInput, RootMismatch, Unavailable
from cupel.protocol.training.state import NamedState
from cupel.protocol.types import Cid, Root

_OVERHEAD = 1 << 20
"""Room for a safetensors header beside the tensors themselves."""


class States:
    """States of one run in one process's blockstore."""

    def __init__(self, store: BlockStore, fetcher: Fetcher, size_bytes: int) -> None:
        """size_bytes: sum of the tensors of a state of this run, which bounds what is taken from a stranger."""
        self._store, self._fetcher = store, fetcher
        self._max_bytes = size_bytes + _OVERHEAD

    def put(self, state: Mapping[str, torch.Tensor], pin: str) -> Cid:
        """Keep a state under a name; everybody who encodes it gets the same CID."""
        return self._store.add_chunks(encode_in_pieces(state, CHUNK_BYTES), pin=pin)

    def get(self, what: str, cid: Cid, root: Root, pin: str) -> NamedState:
        """The state of that root, from here or from peers, kept under a name once it is known to be true.

        Raises Unavailable, MalformedInput, or RootMismatch saying `what` is another state
        """
        with self._store.no_collection():
            data = self._fetcher.fetch_buffer(cid, max_bytes=self._max_bytes)
            state = decode_state(data)
            check_state_root(what, state, root)
            self._store.pin(cid, pin)
        return state

    def find(self, what: str, root: Root, pins: Iterable[str]) -> NamedState | None:
        """The state of that root, if it is kept here under one of these names; what else they keep is passed over."""
        for pin in pins:
            cid = self.held(pin)
            if cid is not None:
                with suppress(Unavailable, MalformedInput, RootMismatch):
                    return self.get(what, cid, root, pin)
        return None

    def is_whole(self, cid: Cid) -> bool:
        """Whether every block of a state is here and intact. Reads and hashes them."""
        try:
            for _ in walk_file(cid, self._store.require, max_bytes=self._max_bytes):
                pass
        except (BlockMissing, MalformedInput):
            return False
        return True

    def held(self, pin: str) -> Cid | None:
        """What a name keeps."""
        return self._store.pins().get(pin)
