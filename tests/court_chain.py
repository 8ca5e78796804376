"""A court and a docket on a real `cupel chain`, reached through clients as a node's are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain_process import ETH, KEYS
from chain_worlds import EmbeddedChain
from court_world import (
    SEED,
    SEGMENTS,
    SHARD_TOKENS,
    SHARDS,
    STEPS,
    UNIT,
    Unit,
    docket_abi,
    program_roots,
    shards,
)

from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import Clocks, CourtContract, deploy_court
from cupel.chain.values import Receipt
from cupel.protocol.hashing import leaf_hash, tree_root
from cupel.protocol.merkle import tensor_root
from cupel.protocol.types import Address, Wei

CLOCKS = Clocks(clock_blocks=400, grace_blocks=60, minimum_bond_wei=Wei(ETH // 10), defence_gas=10_000_000)
WINDOW = 4000
ACCUSED, CHALLENGER, OTHER = KEYS[:3]


@dataclass(frozen=True, kw_only=True)
class CourtChain:
    """A running chain with a court, and a docket on which the accused posts."""

    chain: EmbeddedChain
    court: Address
    docket: Address
    block: int
    """Nothing is earlier."""

    def connect(self, key: Any, **settings: Any) -> ChainClient:
        return ChainClient(self.chain.url, key, **({"poll_seconds": 0.02, "outbox": Outbox()} | settings))

    def bind_court(self, client: ChainClient) -> CourtContract:
        return CourtContract(client, self.court)

    def ask_docket(self, client: ChainClient, function: str, *arguments: Any) -> Any:
        return client.call(docket_abi().bind(self.docket, function, *arguments))[0]

    def is_contestable(self, client: ChainClient, subject: bytes) -> bool:
        return bool(self.ask_docket(client, "claimOf", subject)[1])

    def post_unit(self, unit: Unit, subject: bytes = UNIT) -> Receipt:
        client = self.connect(ACCUSED)
        call = docket_abi().bind(self.docket, "postUnit", subject, unit.root, SEED, WINDOW)
        receipt = client.send(call, value_wei=4 * ETH)
        client.close()
        return receipt


@contextmanager
def open_court(folder: Path, *, block_time_s: float = 0.05) -> Iterator[CourtChain]:
    with EmbeddedChain(folder / "chain", block_time_s=block_time_s) as chain:
        deployer = ChainClient(chain.url, KEYS[4], poll_seconds=0.02, outbox=Outbox())
        deployed = deploy_court(deployer, CLOCKS)
        roots = program_roots()
        rules = (
            tree_root([leaf_hash(root) for root in roots]),
            len(roots),
            tree_root([tensor_root(shard) for shard in shards()]),
            SHARDS,
            SHARD_TOKENS,
            SEGMENTS,
            STEPS,
        )
        docket, _ = deployer.deploy(docket_abi().bind_deployment(deployed.court, rules))
        deployer.close()
        yield CourtChain(chain=chain, court=deployed.court, docket=docket, block=int(deployed.block))
