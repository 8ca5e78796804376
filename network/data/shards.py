"""Reading tokens: shards come when they are first needed, and are believed when they have their root.

Axes: B = sequences, T = consecutive tokens, N = tokens of a shard.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch

from cupel.network.data.manifest import TOKEN_BYTES, DataManifest, Shard
from cupel.network.ipfs.fetch import Fetcher
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.merkle import tensor_root


class ShardSet:
    """The shards of one split, by index; threads may share one.

    fetcher      `Fetcher(store, [])` reads what is on this disk and nothing else
    split        `training` or `held_out`
    cache_bytes  shards kept in memory, the last used ones; at least one is
    """

    def __init__(
        self, manifest: DataManifest, fetcher: Fetcher, *, split: str = "training", cache_bytes: int = 256 << 20
    ) -> None:
        self.manifest = manifest
        self.split = split
        self._shards = manifest.shards(split)
        self._fetcher = fetcher
        self._size_bytes = manifest.shard_tokens * TOKEN_BYTES
        self._cached_shards = max(1, cache_bytes // self._size_bytes)
        self._cache: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def shard_tokens(self) -> int:
        """Tokens in every shard."""
        return self.manifest.shard_tokens

    def shard(self, index: int) -> torch.Tensor:
        """int32[N]; fetched if it is not here. Not to be written to: later calls return the same tensor.

        Raises  Unavailable: nobody served it
                RootMismatch: the manifest names a file that does not have the root it states, so that fetching it
                again from anybody would not help
        """
        if not 0 <= index < len(self):
            raise MalformedInput(f"shard {index} of {len(self)} {self.split} shards")
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        tokens = load_shard(f"{self.split} shard {index}", self._shards[index], self.shard_tokens, self._fetcher)
        with self._lock:
            self._cache[index] = tokens
            while len(self._cache) > self._cached_shards:
                self._cache.popitem(last=False)
        return tokens

    def batch(self, positions: Sequence[tuple[int, int]], length: int) -> torch.Tensor:
        """int32[B, T]: `length` consecutive tokens from each (shard, offset), as `batch_positions` draws them.

        For training on context T take T + 1 tokens, so that each has one to predict.

        Raises  as `shard`; MalformedInput: a sequence would leave its shard
        """
        rows = []
        for shard, offset in positions:
            if not 0 <= offset <= self.shard_tokens - length:
                raise MalformedInput(f"{length} tokens from {offset} on leave a shard of {self.shard_tokens}")
            rows.append(self.shard(shard)[offset : offset + length])
        return torch.stack(rows) if rows else torch.empty((0, length), dtype=torch.int32)


def load_shard(what: str, shard: Shard, shard_tokens: int, fetcher: Fetcher) -> torch.Tensor:
    """One shard, checked. Raises as `ShardSet.shard`, calling it `what`."""
    size_bytes = shard_tokens * TOKEN_BYTES
    buffer = fetcher.fetch_buffer(shard.cid, max_bytes=size_bytes)
    if len(buffer) != size_bytes:
        raise MalformedInput(f"{what}: {len(buffer):,} bytes where {shard_tokens:,} tokens have {size_bytes:,}")
    tokens = torch.frombuffer(buffer, dtype=torch.int32)
    got = tensor_root(tokens)
    if got != shard.root:
        raise RootMismatch(what, expected=shard.root, got=got)
    return tokens
