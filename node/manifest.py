"""The run's manifest: the file whose CID the contract names, from which a node fetches all that the run needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cupel.network.ipfs.cid import parse_cid
from cupel.node.canonical import read_json, write_canonical
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Cid, Seed

MAX_MANIFEST_BYTES = 1 << 20
MAX_PROGRAM_BYTES = 1 << 30
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """Where the run's files are. Nothing here is believed: what is fetched must hash to the roots on chain."""

    programs: Mapping[str, Cid]
    """CID by file name, as `RunPrograms.to_files` names them."""
    data: Cid
    """The data's own manifest: shards, tokenizer, licence notes."""
    genesis_seed: Seed | None
    """32 bytes from which the genesis Program makes the first state. None: the first state is the file the contract
    names, as where a run goes on from an earlier one's last state."""

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        table = {
            "data": self.data,
            "genesis_seed": None if self.genesis_seed is None else self.genesis_seed.hex(),
            "programs": dict(self.programs),
            "version": VERSION,
        }
        return write_canonical(table)

    @staticmethod
    def from_bytes(data: bytes) -> RunManifest:
        """Accepts exactly what `to_bytes` writes. Raises MalformedInput."""
        table = read_json(data, "run manifest", max_bytes=MAX_MANIFEST_BYTES)
        try:
            if table["version"] != VERSION:
                raise ValueError(f"version {table['version']!r}; this node reads {VERSION}")
            seed = None if table["genesis_seed"] is None else Seed(bytes.fromhex(table["genesis_seed"]))
            if seed is not None and len(seed) != 32:
                raise ValueError(f"a genesis seed of {len(seed)} bytes")
            manifest = RunManifest(
                programs={str(name): parse_cid(cid).text for name, cid in table["programs"].items()},
                data=parse_cid(table["data"]).text,
                genesis_seed=seed,
            )
        except (KeyError, TypeError, ValueError, AttributeError, MalformedInput) as wrong:
            raise MalformedInput(f"not a run manifest ({wrong})") from wrong
        if manifest.to_bytes() != data:
            raise MalformedInput("not a run manifest in its canonical form")
        return manifest
