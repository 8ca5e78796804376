"""A court and a docket on a real `cupel chain`, reached through clients as a node's are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

from cupel.chain.abi import load_abi
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks, deploy_court
from cupel.chain.values import Receipt
from cupel.protocol.hashing import leaf_hash, tree_root
from cupel.protocol.merkle import tensor_root
from cupel.protocol.types import Address, Wei

CLOCKS = Clocks(clock_blocks=4000, grace_blocks=600, minimum_bond_wei=Wei(ETH // 10), defence_gas=10_000_000)
WINDOW = 4000
ACCUSED, CHALLENGER, OTHER, _, DEPLOYER = KEYS[:5]


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

    def fresh(self, clocks: Clocks | None = None) -> CourtChain:
        """The same chain with another docket and, where clocks are given, another court."""
        deployer = self.connect(DEPLOYER)
        court, block = self.court, deployer.head().number
        if clocks is not None:
            known = self.bind_court(deployer)
            arguments = (clocks.clock_blocks, clocks.grace_blocks, clocks.minimum_bond_wei, clocks.defence_gas)
            call = load_abi("Court").bind_deployment(known.evaluator(), known.clerk(), *arguments)
            court, _ = deployer.deploy(call)
        docket = _deploy_docket(deployer, court)
        deployer.close()
        return replace(self, court=court, docket=docket, block=int(block))


def _deploy_docket(deployer: ChainClient, court: Address) -> Address:
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
    docket, _ = deployer.deploy(docket_abi().bind_deployment(court, rules))
    return docket


@contextmanager
def open_court(folder: Path, *, clocks: Clocks = CLOCKS, block_time_s: float = 0.05) -> Iterator[CourtChain]:
    with EmbeddedChain(folder / "chain", block_time_s=block_time_s) as chain:
        deployer = ChainClient(chain.url, DEPLOYER, poll_seconds=0.02, outbox=Outbox())
        deployed = deploy_court(deployer, clocks)
        docket = _deploy_docket(deployer, deployed.court)
        deployer.close()
        yield CourtChain(chain=chain, court=deployed.court, docket=docket, block=int(deployed.block))
