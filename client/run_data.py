"""What a run computes and on what, read back from its folder and checked against the contract's roots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cupel.archive import RunArchive
from cupel.chain.run_values import Parameters
from cupel.network.data import DataManifest, ShardSet, load_manifest, load_tokenizer
from cupel.network.ipfs import BlockStore, Fetcher
from cupel.network.states import check_state_root, decode_state
from cupel.node.manifest import MAX_MANIFEST_BYTES, MAX_PROGRAM_BYTES, RunManifest
from cupel.protocol.errors import Unavailable
from cupel.protocol.training.programs import RunPrograms
from cupel.protocol.training.state import NamedState
from cupel.protocol.types import Cid, Root


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """A run's folder, opened."""

    parameters: Parameters
    programs: RunPrograms
    data: DataManifest
    training: ShardSet
    held_out: ShardSet
    fetcher: Fetcher
    store: BlockStore

    def read_state(self, what: str, cid: Cid, root: Root) -> NamedState:
        """Raises Unavailable, MalformedInput or RootMismatch."""
        state = decode_state(self.fetcher.fetch_buffer(cid))
        check_state_root(what, state, root)
        return state

    def decode_tokens(self, tokens: list[int]) -> str:
        text: str = load_tokenizer(self.fetcher.fetch(self.data.tokenizer)).decode(tokens)
        return text

    def encode_text(self, text: str) -> list[int]:
        tokens: list[int] = load_tokenizer(self.fetcher.fetch(self.data.tokenizer)).encode(text).ids
        return tokens


def open_stores(archive: RunArchive) -> list[BlockStore]:
    """The archive's blocks and, after them, those of every party whose folder is beside it; for reading."""
    parties = sorted(path.parent for path in archive.folder.glob("*/store/blocks"))
    return [archive.open_store(), *(BlockStore(path, read_only=True) for path in parties)]


def read_stored(stores: Sequence[BlockStore], cid: Cid) -> tuple[bytearray | None, list[Path]]:
    """A file from the first store that holds it whole, and the folders in which it was found damaged."""
    whole: bytearray | None = None
    damaged = []
    for store in stores:
        store.damaged.clear()
        try:
            data = store.read_buffer(cid)
        except Unavailable:
            if store.damaged:
                damaged.append(store.directory)
            continue
        whole = data if whole is None else whole
    return whole, damaged


def open_run(archive: RunArchive) -> RunData:
    """Everything from disk. Raises UsageError, Unavailable, MalformedInput, RootMismatch."""
    store = archive.open_store()
    fetcher = Fetcher(store, [])
    parameters = archive.read_parameters()
    manifest = RunManifest.from_bytes(fetcher.fetch(parameters.manifest, max_bytes=MAX_MANIFEST_BYTES))
    files = {name: fetcher.fetch(cid, max_bytes=MAX_PROGRAM_BYTES) for name, cid in manifest.programs.items()}
    programs = RunPrograms.from_files(files, parameters.programs_root)
    data = load_manifest(fetcher, manifest.data, expected_root=parameters.data_root)
    return RunData(
        parameters=parameters,
        programs=programs,
        data=data,
        training=ShardSet(data, fetcher),
        held_out=ShardSet(data, fetcher, split="held_out"),
        fetcher=fetcher,
        store=store,
    )
