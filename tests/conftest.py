"""The order of the tests, and fixtures of the chain client's: each of those runs on every kind of chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from chain_process import KEYS
from chain_worlds import BOTH, Chain, open_chain
from rpc_faults import FaultyRpc

from cupel.chain.client import ChainClient
from cupel.chain.keys import LocalSigner, make_key

LONGEST = (
    "soak", "node_kills", "contracts_toolchain", "network_docs", "node_reorgs", "demo", "peer_network",
    "chain_sending", "chain_failover", "verifier_network", "node_ending", "chain_kills", "operators", "run_repeats",
    "ipfs_crowds", "own_blocks", "miner_network", "network_succession", "launch_network", "contracts_random",
)  # fmt: skip
"""Files of a minute and more, as measured on two cores, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none is left for the end; of the others those of few tests, a whole network each."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (place.get(item.path.stem, len(place)), tests[item.path]))


@pytest.fixture(scope="module", params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One chain for all tests of a file."""
    with open_chain(request.param, tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def proxy(chain: Chain) -> Iterator[FaultyRpc]:
    """An endpoint of it that a test can spoil."""
    with FaultyRpc(chain.url) as running:
        yield running


@pytest.fixture
def key(chain: Chain) -> LocalSigner:
    """A fresh, funded key, so that no test sees another's nonces."""
    fresh = make_key()
    ChainClient(chain.url, KEYS[0], poll_seconds=0.02).transfer(fresh.address, 10**18)
    return fresh
