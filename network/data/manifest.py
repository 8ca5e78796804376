"""The data manifest: what the tokens are, where they can be fetched, and the roots that decide whether they are right.

A run fixes `root`, the Merkle root over the roots of its training shards, on chain. CIDs only say where to fetch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cupel.network.ipfs.cid import CidLike, parse_cid
from cupel.network.ipfs.fetch import Fetcher
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.hashing import HASH_BYTES, tree_root
from cupel.protocol.json_text import parse_json
from cupel.protocol.types import Cid, Root

FORMAT = "cupel data"
VERSION = 1
MAX_MANIFEST_BYTES = 256 << 20
"""About a million shards."""
TOKEN_BYTES = 4
"""Shards are little-endian int32."""
_SPLITS = ("training", "held_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A fixed number of consecutive tokens, stored as their bytes and nothing else."""

    cid: Cid
    root: Root
    """Tensor root of int32[shard_tokens]: its leaves are slices of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What went into the shards, and what did not."""

    files: int
    """Files whose text is in, both splits together."""
    text_bytes: int
    """Their bytes of UTF-8."""
    dropped_tokens: int
    """Tokens at the end of each split that filled no shard."""
    duplicate_files: int
    """Left out, because the same bytes were in already."""
    undecodable_files: int
    """Left out, because they are not UTF-8 text."""
    empty_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataManifest:
    """Everything a node needs to fetch, check and read the tokens."""

    tokenizer: Cid
    """A Hugging Face tokenizer.json."""
    vocabulary: int
    """Tokens are in [0, vocabulary)."""
    end_of_document: int
    """The token that closes every document."""
    shard_tokens: int
    """Tokens in every shard."""
    training: tuple[Shard, ...]
    held_out: tuple[Shard, ...]
    """Shards of other files than the training shards', for measuring what was learnt."""
    licence: str
    """What its builder says about the rights to the text."""
    totals: Totals

    @property
    def root(self) -> Root:
        """Merkle root over the training shards' roots, which stand in the tree as they are."""
        return tree_root([shard.root for shard in self.training])

    @property
    def held_out_root(self) -> Root:
        """The same over the held-out shards."""
        return tree_root([shard.root for shard in self.held_out])

    @property
    def training_tokens(self) -> int:
        return len(self.training) * self.shard_tokens

    @property
    def held_out_tokens(self) -> int:
        return len(self.held_out) * self.shard_tokens

    def to_table(self) -> dict[str, Any]:
        """The manifest as JSON has it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "data_root": _hex(self.root),
            "held_out_root": _hex(self.held_out_root),
            "licence": self.licence,
            "shard_tokens": self.shard_tokens,
            "shards": [
                {"cid": shard.cid, "root": _hex(shard.root), "split": split, "tokens": self.shard_tokens}
                for split in _SPLITS
                for shard in self.shards(split)
            ],
            "tokenizer": {
                "cid": self.tokenizer,
                "end_of_document": self.end_of_document,
                "vocabulary": self.vocabulary,
            },
            "totals": {
                **asdict(self.totals),
                "held_out_tokens": self.held_out_tokens,
                "training_tokens": self.training_tokens,
            },
        }

    def shards(self, split: str) -> tuple[Shard, ...]:
        """split: `training` or `held_out`"""
        if split not in _SPLITS:
            raise AssertionError(f"split {split!r}: one of {', '.join(_SPLITS)}")
        return self.training if split == "training" else self.held_out

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.to_table(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @staticmethod
    def from_bytes(data: bytes) -> DataManifest:
        """Accepts exactly what `to_bytes` writes. Raises MalformedInput, saying what is wrong."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise MalformedInput(f"data manifest: {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are read")
        try:
            manifest = _from_table(parse_json(data))
        except (RecursionError, MalformedInput) as error:
            raise MalformedInput(f"data manifest: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedInput(f"data manifest: not one of {FORMAT}, version {VERSION} ({error!r:.200})") from None
        if manifest.to_bytes() != data:
            raise MalformedInput("data manifest: its roots, totals or spelling are not those of its shards")
        return manifest


def load_manifest(fetcher: Fetcher, cid: CidLike, *, expected_root: Root | None = None) -> DataManifest:
    """Fetch and check a manifest.

    expected_root  of the training shards, where the chain fixes one
    Raises         Unavailable, MalformedInput; RootMismatch if it describes other data
    """
    manifest = DataManifest.from_bytes(fetcher.fetch(cid, max_bytes=MAX_MANIFEST_BYTES))
    if expected_root is not None and manifest.root != expected_root:
        raise RootMismatch(f"data manifest {parse_cid(cid)}", expected=expected_root, got=manifest.root)
    return manifest


def _from_table(table: Mapping[str, Any]) -> DataManifest:
    if table["format"] != FORMAT or table["version"] != VERSION:
        raise ValueError(f"format {table['format']!r:.40}, version {table['version']!r:.40}")
    tokenizer = table["tokenizer"]
    totals = {name: _count(table["totals"][name]) for name in Totals.__slots__}
    vocabulary, end = _count(tokenizer["vocabulary"]), _count(tokenizer["end_of_document"])
    shard_tokens = _count(table["shard_tokens"])
    if not 0 < vocabulary <= 1 << 31 or end >= vocabulary or shard_tokens == 0:
        raise ValueError(f"vocabulary {vocabulary}, end of document {end}, {shard_tokens} tokens a shard")
    if not isinstance(table["licence"], str):
        raise ValueError("licence is not text")
    return DataManifest(
        tokenizer=_cid(tokenizer["cid"]),
        vocabulary=vocabulary,
        end_of_document=end,
        shard_tokens=shard_tokens,
        training=_shards(table["shards"], "training"),
        held_out=_shards(table["shards"], "held_out"),
        licence=table["licence"],
        totals=Totals(**totals),
    )


def _shards(table: Sequence[Mapping[str, Any]], split: str) -> tuple[Shard, ...]:
    return tuple(Shard(cid=_cid(shard["cid"]), root=_root(shard["root"])) for shard in table if shard["split"] == split)


def _hex(root: Root) -> str:
    return "0x" + root.hex()


def _root(text: str) -> Root:
    root = bytes.fromhex(text.removeprefix("0x"))
    if len(root) != HASH_BYTES:
        raise ValueError(f"a root of {len(root)} bytes")
    return Root(root)


def _cid(text: object) -> Cid:
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.40} is not a CID")
    return parse_cid(text).text


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.40} is not a count")
    return value
