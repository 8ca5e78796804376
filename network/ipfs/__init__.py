"""IPFS without a daemon: CIDs, blocks on disk, serving and fetching them over the trustless gateway protocol."""

from cupel.network.ipfs.blockstore import BlockMissing, BlockStore, Usage
from cupel.network.ipfs.cid import MAX_BLOCK_BYTES, CidLike, Codec, ParsedCid, check_block, parse_cid
from cupel.network.ipfs.connections import ConnectionLimits
from cupel.network.ipfs.fetch import Fetcher, FetchLimits, NobodyServed, Peers
from cupel.network.ipfs.gateway import GatewayLimits, GatewayServer, json_route
from cupel.network.ipfs.manners import PaceLimits
from cupel.network.ipfs.peers import PeerClient, PeerFailed
from cupel.network.ipfs.unixfs import CHUNK_BYTES, LINKS_PER_NODE, cid_of

__all__ = [
    "CHUNK_BYTES",
    "LINKS_PER_NODE",
    "MAX_BLOCK_BYTES",
    "BlockMissing",
    "BlockStore",
    "CidLike",
    "Codec",
    "ConnectionLimits",
    "FetchLimits",
    "Fetcher",
    "GatewayLimits",
    "GatewayServer",
    "NobodyServed",
    "PaceLimits",
    "ParsedCid",
    "PeerClient",
    "PeerFailed",
    "Peers",
    "Usage",
    "check_block",
    "cid_of",
    "json_route",
    "parse_cid",
]
