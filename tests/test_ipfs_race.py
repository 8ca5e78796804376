"""A slow peer costs a moment: somebody else is asked for the same block, and the quick are asked first."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore
import pytest
from ipfs_peers import Answer, head, peer

from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, FetchLimits, GatewayServer, NobodyServed, PeerClient
from cupel.network.ipfs import transport as transport_module
from cupel.network.ipfs.peers import PeerFailed
from cupel.network.ipfs.standing import REMEMBERED_S, Standing
from cupel.network.ipfs.transport import MAX_LOOKUPS, resolve

DATA = os.urandom(12 * CHUNK_BYTES)
LONG_S = 60.0


@pytest.fixture
def source(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "source") as store:
        store.add_bytes(DATA)
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "mine") as store:
        yield store


def trickle(asked: list[str]) -> Answer:
    """Serves, as it were, but a byte at a time: never late for a single read."""

    def answer(connection: socket.socket, path: str) -> None:
        asked.append(path)
        connection.sendall(head(CHUNK_BYTES))
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


def test_a_slow_peer_is_overtaken_and_then_asked_last(source: BlockStore, store: BlockStore) -> None:
    asked: list[str] = []
    limits = FetchLimits(block_timeout_s=LONG_S, file_timeout_s=LONG_S, hedge_s=0.3, workers=2)
    with (
        peer(trickle(asked)) as slow,
        GatewayServer(source) as quick,
        Fetcher(store, [slow, quick.url], limits=limits) as fetcher,
    ):
        began = time.monotonic()
        assert fetcher.fetch(source.add_bytes(DATA)) == DATA
        assert time.monotonic() - began < LONG_S / 2
        assert len(asked) < 5
        assert fetcher.standing.in_order([slow, quick.url]) == [quick.url, slow]


def test_who_was_overtaken_is_let_go(source: BlockStore, store: BlockStore) -> None:
    before = threading.active_count()
    limits = FetchLimits(block_timeout_s=LONG_S, hedge_s=0.2, workers=1)
    with peer(trickle([])) as slow, GatewayServer(source) as quick:
        with Fetcher(store, [slow, quick.url], limits=limits) as fetcher:
            for block in list(source)[:3]:
                fetcher.fetch(block)
        deadline = time.monotonic() + 20
        while any(t.name.startswith("ask") for t in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(t.name.startswith("ask") for t in threading.enumerate())
    assert threading.active_count() <= before + 8


def test_two_slow_peers_do_not_make_a_third_wait(source: BlockStore, store: BlockStore) -> None:
    limits = FetchLimits(block_timeout_s=1.5, file_timeout_s=LONG_S, hedge_s=0.2, failures=1)
    with (
        peer(trickle([])) as slow,
        peer(trickle([])) as slower,
        GatewayServer(source) as quick,
        Fetcher(store, [slow, slower, quick.url], limits=limits) as fetcher,
    ):
        assert fetcher.fetch(source.add_bytes(DATA)) == DATA


def test_a_request_can_be_ended_by_somebody_else(source: BlockStore) -> None:
    abandon = threading.Event()
    with peer(trickle([])) as slow, PeerClient() as client:
        threading.Timer(0.3, abandon.set).start()
        began = time.monotonic()
        with pytest.raises(PeerFailed, match="is asked no longer"):
            client.get(slow, "/x", max_bytes=CHUNK_BYTES, timeout_s=LONG_S, abandon=abandon)
        assert time.monotonic() - began < LONG_S / 2


def test_a_peer_that_lacks_one_block_is_asked_after_one_that_had_all(source: BlockStore, store: BlockStore) -> None:
    asked: list[str] = []

    def without(connection: socket.socket, path: str) -> None:
        asked.append(path)
        connection.sendall(head(0, "404 Not Found"))

    with peer(without) as poor, GatewayServer(source) as rich:
        limits = FetchLimits(workers=1, hedge_s=30.0)
        with Fetcher(store, [poor, rich.url], limits=limits) as fetcher:
            assert fetcher.fetch(source.add_bytes(DATA)) == DATA
    assert len(asked) <= 1


def test_the_quick_come_first_and_slowness_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("cupel.network.ipfs.standing.time.monotonic", lambda: now[0])
    standing = Standing()
    standing.served("quick", 0.1)
    standing.served("slow", 2.0)
    for _ in range(4):
        assert standing.in_order(["slow", "quick", "new"])[-1] == "slow"
    assert standing.patience_s("quick", 1.0) == pytest.approx(0.4)
    assert standing.patience_s("slow", 1.0) == standing.patience_s("new", 1.0) == 1.0
    standing.failed("quick")
    assert standing.in_order(["slow", "quick"]) == ["slow", "quick"]
    now[0] += REMEMBERED_S + 1
    standing.served("quick", 0.1)
    assert {standing.in_order(["slow", "quick"])[0] for _ in range(4)} == {"slow", "quick"}


# Names


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A name server that does not answer until the test is over; gives the number of questions."""
    over, asked, real = threading.Event(), [], transport_module.socket.getaddrinfo

    def hang(host: str, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".invalid"):
            return real(host, *rest, **more)  # of somebody else in this process
        asked.append(host)
        over.wait(120)
        raise OSError("no such host")

    monkeypatch.setattr(transport_module.socket, "getaddrinfo", hang)
    yield lambda: len(asked)
    over.set()
    deadline = time.monotonic() + 20
    while transport_module._lookups and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not transport_module._lookups


def test_a_name_server_that_hangs_costs_no_more_than_the_connection_may(
    hanging_names: Callable[[], int], store: BlockStore
) -> None:
    url = "http://somewhere.invalid:8700"
    with Fetcher(store, [url], limits=FetchLimits(block_timeout_s=0.5)) as fetcher:
        began = time.monotonic()
        with pytest.raises(NobodyServed) as caught:
            fetcher.fetch("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
        assert time.monotonic() - began < 10
    assert "no name server told the address of somewhere.invalid" in caught.value.failures[url]
    assert hanging_names() == 1


def test_names_that_hang_take_a_bounded_number_of_threads(hanging_names: Callable[[], int]) -> None:
    for number in range(MAX_LOOKUPS):
        with pytest.raises(httpcore.ConnectTimeout):
            resolve(f"host-{number}.invalid", 0.01)
        with pytest.raises(httpcore.ConnectTimeout):
            resolve(f"host-{number}.invalid", 0.01)
    with pytest.raises(httpcore.ConnectError, match="other names are being looked up"):
        resolve("one-more.invalid", 0.01)
    assert hanging_names() == MAX_LOOKUPS


def test_addresses_need_no_name_server(hanging_names: Callable[[], int]) -> None:
    assert (resolve("127.0.0.1", 0.01), resolve("::1", 0.01)) == (("127.0.0.1",), ("::1",))
    assert hanging_names() == 0


def test_a_name_that_does_not_exist_is_a_peers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise OSError("Name or service not known")

    monkeypatch.setattr(transport_module.socket, "getaddrinfo", unknown)
    with PeerClient() as client, pytest.raises(PeerFailed, match=r"the address of nowhere\.invalid is not known"):
        client.get("http://nowhere.invalid", "/", max_bytes=1, timeout_s=5)


def test_an_address_that_leads_nowhere_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, source: BlockStore
) -> None:
    with GatewayServer(source) as server:
        # 127.0.0.2 refuses: the server listens on 127.0.0.1 alone.
        monkeypatch.setattr(transport_module, "resolve", lambda *_: ("127.0.0.2", "127.0.0.1"))
        with PeerClient() as client:
            body = client.get(f"http://both.invalid:{server.port}", "/ipfs/bafkqaaa", max_bytes=9, timeout_s=5)
    assert body == b""
