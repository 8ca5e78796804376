"""Distinct things have distinct types: what passes between modules is never a loose `bytes` or `int`."""

from __future__ import annotations

from typing import NewType

Root = NewType("Root", bytes)
"""A 32-byte SHA-256 Merkle root (docs/design/roots.md)."""
UnitId = NewType("UnitId", bytes)
"""32 bytes naming one unit of training work: run, round, miner and index."""
Seed = NewType("Seed", bytes)
"""32 bytes from the chain's beacon."""
Salt = NewType("Salt", bytes)
"""32 bytes that hide a value until it is opened."""
Address = NewType("Address", str)
"""A checksummed EVM address."""
Cid = NewType("Cid", str)
"""A CIDv1 in base32."""
Wei = NewType("Wei", int)
Height = NewType("Height", int)
"""A block number."""
RoundIndex = NewType("RoundIndex", int)
SegmentIndex = NewType("SegmentIndex", int)
"""Position of a segment in its unit, from 0; segment j leads from leaf j to leaf j + 1."""
StepIndex = NewType("StepIndex", int)
