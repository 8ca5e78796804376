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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: they are the long ones (a whole network each), and none should be left for the end."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: tests[item.path])


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
