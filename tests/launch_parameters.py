"""Parameters of the network files we ship, as a run of them would have them."""

from __future__ import annotations

from pathlib import Path

from cupel.chain.run_values import Parameters
from cupel.launch.parameter_file import read_parameter_file
from cupel.launch.preparation import Prepared
from cupel.protocol.types import Cid, Root

NETWORKS = Path(__file__).resolve().parent.parent / "docs" / "networks"


def read_preset(name: str = "testnet") -> Parameters:
    """Of `docs/networks/{name}.toml`, with made-up roots."""
    chosen = read_parameter_file(NETWORKS / f"{name}.toml")
    root = Root(b"\1" * 32)
    prepared = Prepared(
        programs_root=root,
        data_root=root,
        shards=1,
        shard_tokens=1024,
        genesis_root=root,
        genesis=Cid("bafkqaaa"),
        manifest=Cid("bafkqaaa"),
        config=chosen.config,
        source=None,
    )
    return prepared.make_parameters(**chosen.contract)
