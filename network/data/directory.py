"""Data on disk, as `build_data` leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cupel.network.data.build import BLOCKSTORE, MANIFEST, PIN_PREFIX
from cupel.network.data.manifest import DataManifest
from cupel.network.data.shards import load_shard
from cupel.network.data.tokenizer import load_tokenizer, vocabulary_of
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.unixfs import cid_of
from cupel.protocol.errors import MalformedInput, ProtocolError, UsageError
from cupel.protocol.types import Cid


class DataDirectory:
    """A directory of data, opened for reading. Raises UsageError if there is none, MalformedInput if it is damaged."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        try:
            data = (self.path / MANIFEST).read_bytes()
        except OSError as error:
            raise UsageError(
                f"{self.path}: no data here ({MANIFEST}: {error.strerror}); make some with `cupel data build`"
            ) from error
        self.manifest = DataManifest.from_bytes(data)
        self.manifest_cid: Cid = cid_of(data)
        self.store = BlockStore(self.path / BLOCKSTORE, read_only=True)


def verify_data(directory: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Everything that is wrong with data on disk, in plain words; nothing if it is whole.

    Reads every block, repeats every hash and root, and looks at every token.

    Raises  UsageError if there is no data there
    """
    try:
        data = DataDirectory(directory)
    except MalformedInput as error:
        return [f"{MANIFEST}: {error}"]
    manifest, wrong = data.manifest, []
    if data.store.pins().get(PIN_PREFIX + "manifest") != data.manifest_cid:
        wrong.append(f"{MANIFEST} is not the one in the blockstore")
    with Fetcher(data.store, []) as fetcher:
        try:
            fetcher.fetch(data.manifest_cid)
        except ProtocolError as error:
            wrong.append(f"manifest: {error}")
        try:
            held = vocabulary_of(load_tokenizer(fetcher.fetch(manifest.tokenizer)))
            if held != manifest.vocabulary:
                wrong.append(f"tokenizer: {held} tokens where the manifest states {manifest.vocabulary}")
        except ProtocolError as error:
            wrong.append(f"tokenizer: {error}")
        shards = [
            (f"{split} shard {index}", shard)
            for split in ("training", "held_out")
            for index, shard in enumerate(manifest.shards(split))
        ]
        for done, (what, shard) in enumerate(shards):
            progress(done, len(shards))
            try:
                tokens = load_shard(what, shard, manifest.shard_tokens, fetcher)
            except ProtocolError as error:
                wrong.append(f"{what}: {error}")
                continue
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= manifest.vocabulary:
                wrong.append(f"{what}: tokens from {low} to {high} where the vocabulary has {manifest.vocabulary}")
        progress(len(shards), len(shards))
    return wrong
