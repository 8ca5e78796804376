"""Fixtures of the tests of the chain client: each runs on every kind of chain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chain_process import KEYS
from chain_worlds import BOTH, Chain, open_chain
from rpc_faults import FaultyRpc

from cupel.chain.client import ChainClient
from cupel.chain.keys import LocalSigner, make_key


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
