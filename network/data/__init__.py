"""Training data: text made into shards of tokens, named by roots that a run can fix on chain."""

from cupel.network.data.build import BuildOptions, BuiltData, build_data
from cupel.network.data.directory import DataDirectory, verify_data
from cupel.network.data.manifest import MAX_MANIFEST_BYTES, DataManifest, Shard, Totals, load_manifest
from cupel.network.data.shards import ShardSet
from cupel.network.data.tokenizer import load_tokenizer

__all__ = [
    "MAX_MANIFEST_BYTES",
    "BuildOptions",
    "BuiltData",
    "DataDirectory",
    "DataManifest",
    "Shard",
    "ShardSet",
    "Totals",
    "build_data",
    "load_manifest",
    "load_tokenizer",
    "verify_data",
]
