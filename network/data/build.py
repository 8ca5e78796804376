"""From text files to shards: read, split, tokenise, pack, store, describe. Same input, same manifest.

OUT/manifest.json     the manifest, for people
OUT/tokenizer.json    the tokenizer, for people
OUT/blockstore/       manifest, tokenizer and shards, as they are served
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from cupel.network.data.corpus import Corpus, Document, read_corpus, split_held_out
from cupel.network.data.manifest import DataManifest, Shard, Totals
from cupel.network.data.tokenizer import (
    Encoder,
    end_of_document,
    read_tokenizer,
    tokenizer_bytes,
    train_tokenizer,
    vocabulary_of,
)
from cupel.network.ipfs.blockstore import BlockStore, atomic_file
from cupel.protocol.errors import UsageError
from cupel.protocol.merkle import tensor_root
from cupel.protocol.types import Cid

BLOCKSTORE = "blockstore"
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
PIN_PREFIX = "data/"
LARGEST_SHARD_TOKENS = 1 << 28

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""
Tokens = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How text becomes shards. Everything here but `licence` changes the roots."""

    vocabulary: int = 512
    """Tokens of the tokenizer that is trained; few texts may give fewer. Ignored where one is taken."""
    tokenizer: Path | None = None
    """A tokenizer.json to take instead of training one."""
    end_of_document: str | None = None
    """Text of the token that closes documents; found by itself in the common tokenizers."""
    shard_tokens: int = 65_536
    """The default makes a shard one block of 256 KiB and its Merkle tree a full one of 64 leaves."""
    held_out: float = 0.05
    """Share of the text's bytes kept from training, as whole files."""
    licence: str = "not stated"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.shard_tokens <= LARGEST_SHARD_TOKENS:
            raise UsageError(f"{self.shard_tokens:,} tokens a shard: from 1 up to {LARGEST_SHARD_TOKENS:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltData:
    """What a build gives."""

    directory: Path
    manifest: DataManifest
    manifest_cid: Cid


def build_data(
    paths: Sequence[str | Path],
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
) -> BuiltData:
    """Make the data of `paths` in `out`, in place of data built there before.

    Memory  one file, the tokens of one shard, and what training a tokenizer takes
    Raises  UsageError: nothing to read, too little of it for one shard, or `out` cannot be written
    """
    options = options or BuildOptions()
    directory = Path(out)
    corpus = read_corpus(
        [Path(path) for path in paths],
        include=options.include,
        exclude=options.exclude,
        progress=lambda done, total: progress("reading", done, total),
    )
    training, held_out = split_held_out(corpus.documents, options.held_out)
    tokenizer = _tokenizer(options, training, progress)
    with BlockStore(directory / BLOCKSTORE) as store:
        pins: dict[str, Cid] = {}

        def keep(name: str, data: bytes) -> Cid:
            cid = pins[PIN_PREFIX + name] = store.add_bytes(data)
            return cid

        packer = _Packer(tokenizer, end_of_document(tokenizer, options.end_of_document), options.shard_tokens)
        counter = _Counter(progress, "packing", corpus.size_bytes)
        training_shards = tuple(
            _store_shard(keep, f"training/{index:07}", tokens)
            for index, tokens in enumerate(packer.pack(training, counter))
        )
        held_out_shards = tuple(
            _store_shard(keep, f"held_out/{index:07}", tokens)
            for index, tokens in enumerate(packer.pack(held_out, counter))
        )
        _check_enough(training_shards, "training", options)
        if options.held_out > 0:
            _check_enough(held_out_shards, "held-out", options)
        manifest = DataManifest(
            tokenizer=keep("tokenizer", tokenizer_bytes(tokenizer)),
            vocabulary=vocabulary_of(tokenizer),
            end_of_document=packer.end,
            shard_tokens=options.shard_tokens,
            training=training_shards,
            held_out=held_out_shards,
            licence=options.licence,
            totals=_totals(corpus, packer.dropped_tokens),
        )
        manifest_cid = keep("manifest", manifest.to_bytes())
        for name, data in ((TOKENIZER, tokenizer_bytes(tokenizer)), (MANIFEST, manifest.to_bytes())):
            with atomic_file(directory / name) as file:
                file.write(data)
        _pin_only(store, pins)
    return BuiltData(directory=directory, manifest=manifest, manifest_cid=manifest_cid)


def _tokenizer(options: BuildOptions, training: Sequence[Document], progress: Progress) -> Tokenizer:
    if options.tokenizer is not None:
        return read_tokenizer(options.tokenizer)
    counter = _Counter(progress, "training the tokenizer", sum(document.size_bytes for document in training))
    return train_tokenizer((counter.count(document).read() for document in training), options.vocabulary)


def _store_shard(
    keep: Callable[[str, bytes], Cid], name: str, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> Shard:
    root = tensor_root(torch.from_numpy(tokens))
    return Shard(cid=keep(name, tokens.astype("<i4", copy=False).tobytes()), root=root)


def _check_enough(shards: Sequence[Shard], split: str, options: BuildOptions) -> None:
    if not shards:
        raise UsageError(
            f"the {split} text has fewer than {options.shard_tokens:,} tokens, one shard; "
            "give more text, a smaller --shard-tokens, or another --held-out"
        )


def _totals(corpus: Corpus, dropped_tokens: int) -> Totals:
    return Totals(
        files=len(corpus.documents),
        text_bytes=corpus.size_bytes,
        dropped_tokens=dropped_tokens,
        duplicate_files=corpus.duplicate_files,
        undecodable_files=corpus.undecodable_files,
        empty_files=corpus.empty_files,
    )


def _pin_only(store: BlockStore, pins: Mapping[str, Cid]) -> None:
    """Keep this build's files and let go of an earlier one's."""
    stale = {name: None for name in store.pins() if name.startswith(PIN_PREFIX)}
    store.change_pins({**stale, **pins})
    store.collect_garbage()


class _Counter:
    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def count(self, document: Document) -> Document:
        self._progress(self._what, self._done, self._total)
        self._done += document.size_bytes
        return document


class _Packer:
    """Strings documents together, each closed by the end-of-document token, and cuts that into shards."""

    def __init__(self, tokenizer: Tokenizer, end: int, shard_tokens: int) -> None:
        self.end = end
        self.dropped_tokens = 0
        self._encoder = Encoder(tokenizer)
        self._shard_tokens = shard_tokens

    def pack(self, documents: Iterable[Document], counter: _Counter) -> Iterator[Tokens]:
        """Full shards; what is left over at the end is dropped and counted."""
        shard = np.empty(self._shard_tokens, dtype=np.int32)
        filled = 0
        for document in documents:
            text = counter.count(document).read()
            for tokens in chain(self._encoder.encode(text), ([self.end],)):
                new = np.asarray(tokens, dtype=np.int32)
                while filled + len(new) >= self._shard_tokens:
                    room = self._shard_tokens - filled
                    shard[filled:], new = new[:room], new[room:]
                    yield shard.copy()
                    filled = 0
                shard[filled : filled + len(new)] = new
                filled += len(new)
        self.dropped_tokens += filled
