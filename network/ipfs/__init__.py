"""IPFS without a daemon: CIDs, blocks on disk, serving and fetching them over the trustless gateway protocol."""

from cupel.network.ipfs.blockstore import BlockMissing, BlockStore, Usage
from cupel.network.ipfs.cid import MAX_BLOCK_BYTES, CidLike, Codec, ParsedCid, check_block, parse_cid
from cupel.network.ipfs.unixfs import CHUNK_BYTES, LINKS_PER_NODE, cid_of

__all__ = [
    "CHUNK_BYTES",
    "LINKS_PER_NODE",
    "MAX_BLOCK_BYTES",
    "BlockMissing",
    "BlockStore",
    "CidLike",
    "Codec",
    "ParsedCid",
    "Usage",
    "check_block",
    "cid_of",
    "parse_cid",
]
