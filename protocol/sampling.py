"""What the seed of a round decides about a unit's work, on Python integers alone.

Element i of a stream is the first 64 bits of its Philox block, u64; an integer in [0, N) is (u64 N) >> 64.
"""

from __future__ import annotations

import hashlib

from cupel.protocol import philox
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Seed, UnitId

BATCH_DOMAIN = "batch"
SHARD_STREAM = 0
OFFSET_STREAM = 1


def philox_key(seed: bytes, domain: str, unit: bytes = b"") -> int:
    """64-bit key: the first 8 bytes, little-endian, of SHA-256(seed || domain || unit)."""
    return int.from_bytes(hashlib.sha256(seed + domain.encode() + unit).digest()[:8], "little")


def draw_below(key: int, index: int, stream: int, step: int, n: int) -> int:
    """Element `index` of the stream at this step, as an integer in [0, n)."""
    return philox.word64(key, index, stream, step) * n >> 64


def batch_positions(
    seed: Seed, unit: UnitId, step: int, sequences: int, shards: int, shard_tokens: int, tokens_per_sequence: int
) -> list[tuple[int, int]]:
    """(shard, offset in tokens) of each sequence a unit reads at a step, with replacement.

    step                 of the unit, counted from 0
    shard_tokens         length of every shard
    tokens_per_sequence  consecutive tokens read from the offset on, all within the shard
    Raises               MalformedInput if no sequence fits a shard
    """
    offsets = shard_tokens - tokens_per_sequence + 1
    if shards < 1 or tokens_per_sequence < 1 or offsets < 1:
        raise MalformedInput(
            f"no {tokens_per_sequence} consecutive tokens in {shards} shards of {shard_tokens}; "
            "build the data with longer shards or shorten the sequences"
        )
    if not 0 <= step < 1 << 32:
        raise MalformedInput(f"step {step} does not fit 32 bits")
    key = philox_key(seed, BATCH_DOMAIN, unit)
    return [
        (draw_below(key, i, SHARD_STREAM, step, shards), draw_below(key, i, OFFSET_STREAM, step, offsets))
        for i in range(sequences)
    ]
