"""One peer gets its share of a server and no more, and whoever is told to wait waits and then goes on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ipfs_peers import head, peer, says

from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, FetchLimits, GatewayLimits, GatewayServer, NobodyServed
from cupel.network.ipfs.admission import REMEMBERED_PEERS, Admission, PeerLimits, Refusal
from cupel.network.ipfs.cid import ParsedCid

DATA = os.urandom(6 * CHUNK_BYTES)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "source") as store:
        store.add_bytes(DATA)
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "mine") as store:
        yield store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


LIMITS = PeerLimits(requests=2, requests_per_s=4.0, burst_requests=6, bytes_per_s=1000.0, burst_bytes=5000)


# The buckets


def test_requests_in_hand_are_limited_for_each_peer_alone() -> None:
    admission = Admission(LIMITS, Clock())
    assert [admission.enter("a"), admission.enter("a")] == [None, None]
    assert admission.enter("a") == 1.0
    assert admission.enter("b") is None
    admission.leave("a")
    assert admission.enter("a") is None


def test_a_rate_of_requests_is_held_after_a_burst() -> None:
    clock = Clock()
    admission = Admission(LIMITS, clock)

    def ask() -> float | None:
        wait_s = admission.enter("a")
        if wait_s is None:
            admission.leave("a")
        return wait_s

    assert [ask() for _ in range(7)] == [None] * 6 + [0.25]
    clock.now += 0.25
    assert [ask(), ask()] == [None, 0.25]
    clock.now += 100.0
    assert [ask() for _ in range(7)] == [None] * 6 + [0.25]


def test_bytes_sent_are_paid_off_before_the_next_answer() -> None:
    clock = Clock()
    admission = Admission(LIMITS, clock)
    assert admission.enter("a") is None
    admission.charge("a", 7000)
    admission.leave("a")
    wait_s = admission.enter("a")
    assert wait_s == pytest.approx(2.0, abs=0.01)
    assert admission.enter("b") is None
    clock.now += wait_s
    assert admission.enter("a") is None


def test_peers_that_are_idle_longest_are_forgotten_and_busy_ones_are_not() -> None:
    admission = Admission(LIMITS, Clock())
    assert admission.enter("busy") is None
    assert admission.enter("busy") is None
    for number in range(REMEMBERED_PEERS + 10):
        admission.enter(f"peer {number}")
        admission.leave(f"peer {number}")
    assert len(admission._accounts) == REMEMBERED_PEERS
    assert admission.enter("busy") == 1.0


# A real server and a real fetch


def test_a_fetch_that_is_told_to_wait_goes_on_and_blames_nobody(source: BlockStore, store: BlockStore) -> None:
    given = PeerLimits(requests=2, requests_per_s=20.0, burst_requests=3)
    with (
        GatewayServer(source, limits=GatewayLimits(peer=given)) as server,
        Fetcher(store, [server.url], limits=FetchLimits(failures=1)) as fetcher,
    ):
        assert fetcher.fetch(source.add_bytes(DATA)) == DATA


def test_blocks_that_are_all_asked_for_at_once_are_served_one_after_the_other(source: BlockStore) -> None:
    given = GatewayLimits(requests=4, peer=PeerLimits(requests=2))
    cids = [cid.text for cid in source]
    with (
        GatewayServer(source, limits=given) as server,
        httpx.Client(trust_env=False) as client,
        ThreadPoolExecutor(40) as pool,
    ):
        answers = pool.map(lambda cid: client.get(f"{server.url}/ipfs/{cid}?format=raw").status_code, cids * 12)
        assert set(answers) == {200}


def test_only_so_many_wait_for_room_and_only_so_long(source: BlockStore) -> None:
    given = GatewayLimits(wait_s=1.5, peer=PeerLimits(requests=0, waiting=2))
    cid = next(iter(source))
    with GatewayServer(source, limits=given) as server, httpx.Client(trust_env=False, timeout=30) as client:

        def ask(_: int) -> tuple[int, float]:
            began = time.monotonic()
            status = client.get(f"{server.url}/ipfs/{cid}?format=raw").status_code
            return status, time.monotonic() - began

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(4)))
    assert {status for status, _ in answers} == {429}
    assert sum(elapsed_s >= 1.5 for _, elapsed_s in answers) == 2


def test_above_its_share_a_peer_is_asked_to_come_back(source: BlockStore) -> None:
    given = PeerLimits(requests_per_s=0.5, burst_requests=2)
    with GatewayServer(source, limits=GatewayLimits(peer=given)) as server, httpx.Client(trust_env=False) as client:
        answers = [client.get(f"{server.url}/ipfs/{cid}?format=raw") for cid in list(source)[:3]]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[-1].headers["Retry-After"] == "2"


def test_bytes_beyond_a_share_wait_too(source: BlockStore) -> None:
    given = PeerLimits(bytes_per_s=CHUNK_BYTES / 100, burst_bytes=CHUNK_BYTES)
    cid = source.put(os.urandom(4 * CHUNK_BYTES))
    with GatewayServer(source, limits=GatewayLimits(peer=given)) as server, httpx.Client(trust_env=False) as client:
        answers = [client.get(f"{server.url}/ipfs/{cid}?format=raw") for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 429]


class Doorman:
    """Knows two callers by their header; refuses nothing."""

    def known(self, authorization: str) -> str | None:
        return authorization if authorization in ("alice", "bob") else None

    def identify(self, authorization: str) -> str | None:
        return self.known(authorization)

    def is_public(self, cid: ParsedCid) -> bool:
        return True

    def refuse(self, cid: ParsedCid, authorization: str | None) -> Refusal | None:
        return None


def test_known_callers_have_shares_of_their_own_behind_one_address(source: BlockStore) -> None:
    given = PeerLimits(requests_per_s=0.001, burst_requests=1)
    cid = next(iter(source))
    with (
        GatewayServer(source, limits=GatewayLimits(peer=given), access=Doorman()) as server,
        httpx.Client(trust_env=False) as client,
    ):
        statuses = [
            client.get(f"{server.url}/ipfs/{cid}?format=raw", headers={"Authorization": who}).status_code
            for who in ("alice", "bob", "carol", "dave", "alice")
        ]
    assert statuses == [200, 200, 200, 429, 429]


def test_a_peer_that_is_always_busy_is_given_up_in_time(store: BlockStore) -> None:
    busy = says(b"later", "429 Too Many Requests", "Retry-After: 86400\r\n")
    with peer(busy) as url, Fetcher(store, [url]) as fetcher:
        began = time.monotonic()
        with pytest.raises(NobodyServed, match=r"is busy \(429\), asks for 30 s") as caught:
            fetcher.fetch(ParsedCid.of(b"x"), timeout_s=1.5)
        assert time.monotonic() - began < 6
        assert list(caught.value.failures) == [url]


def test_a_busy_peer_holds_nobody_up_who_has_another(source: BlockStore, store: BlockStore) -> None:
    busy = says(b"later", "503 Service Unavailable", "Retry-After: 600\r\n")
    with peer(busy) as url, GatewayServer(source) as server, Fetcher(store, [url, server.url]) as fetcher:
        assert fetcher.fetch(source.add_bytes(DATA), timeout_s=15.0) == DATA


def test_a_refusal_is_repeated_briefly_and_fit_to_print(store: BlockStore) -> None:
    def rude(connection: socket.socket, path: str) -> None:
        connection.sendall(head(status="403 Forbidden") + b"no\x1b[31m" + b"!" * 100_000)

    with peer(rude) as url, Fetcher(store, [url]) as fetcher, pytest.raises(NobodyServed) as caught:
        fetcher.fetch(ParsedCid.of(b"x"))
    reason = caught.value.failures[url]
    assert reason.startswith("refuses it (403: no?[31m!!!")
    assert len(reason) < 350
