"""Fetching: nothing false is kept, one honest peer is enough, and nobody can make it wait or swell for ever."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ipfs_peers import Answer, head, peer, says

from cupel.network.ipfs import (
    CHUNK_BYTES,
    MAX_BLOCK_BYTES,
    BlockStore,
    Codec,
    Fetcher,
    FetchLimits,
    GatewayServer,
    NobodyServed,
    ParsedCid,
    PeerClient,
    PeerFailed,
    cid_of,
    parse_cid,
)
from cupel.network.ipfs.car import car_header, car_section
from cupel.network.ipfs.dagpb import FileNode, Link
from cupel.protocol.errors import MalformedBlock, Unavailable

DATA = os.urandom(20 * CHUNK_BYTES + 99)
CID = cid_of(DATA)
QUICK = FetchLimits(block_timeout_s=1.0, file_timeout_s=20.0)
PATIENT = FetchLimits(block_timeout_s=4.0, failures=1)
"""So that an honest peer on a busy machine is not taken for a slow one."""
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "source") as store:
        store.add_bytes(DATA)
        yield store


@pytest.fixture
def server(source: BlockStore) -> Iterator[GatewayServer]:
    with GatewayServer(source) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "mine") as store:
        yield store


def count_of(store: BlockStore) -> int:
    return store.usage().blocks


@pytest.mark.parametrize("archives", [False, True])
def test_a_file_arrives_whole(server: GatewayServer, store: BlockStore, archives: bool) -> None:
    with Fetcher(store, [server.url], limits=FetchLimits(archives=archives)) as fetcher:
        assert fetcher.fetch(CID) == DATA
        assert fetcher.fetch_buffer(CID) == DATA
    assert store.read(CID) == DATA


def test_a_file_of_one_block_and_an_empty_one_arrive(
    server: GatewayServer, source: BlockStore, store: BlockStore
) -> None:
    with Fetcher(store, lambda: [server.url]) as fetcher:
        for data in (b"", b"one block"):
            assert fetcher.fetch(source.add_bytes(data)) == data


def test_what_is_here_is_asked_of_nobody(store: BlockStore) -> None:
    cid = store.add_bytes(DATA)
    with Fetcher(store, []) as fetcher:
        assert fetcher.fetch(cid) == DATA


def test_with_nobody_to_ask_it_says_so(store: BlockStore) -> None:
    with Fetcher(store, []) as fetcher, pytest.raises(Unavailable, match="there is nobody to ask"):
        fetcher.fetch(CID)


def test_a_fetched_file_can_be_pinned_in_one_go(server: GatewayServer, store: BlockStore) -> None:
    with Fetcher(store, [server.url]) as fetcher:
        fetcher.fetch_to_store(CID, pin="state")
    assert store.pins() == {"state": CID}
    assert store.collect_garbage().blocks == 0


# Bad peers: each alone is named in the error, and none keeps a file from arriving where one honest peer has it.


def drip(connection: socket.socket, path: str) -> None:
    connection.sendall(head(1000))
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.1)


def drip_headers(connection: socket.socket, path: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for i in range(100):
        connection.sendall(f"X-{i}: y\r\n".encode())
        time.sleep(0.1)


def endless(connection: socket.socket, path: str) -> None:
    connection.sendall(head())
    while True:
        connection.sendall(bytes(1 << 16))


def truncated(connection: socket.socket, path: str) -> None:
    connection.sendall(head(5000) + bytes(100))


def silent(connection: socket.socket, path: str) -> None:
    time.sleep(4.5)


BAD_PEERS: list[tuple[str, Answer, str]] = [
    ("lies", says(b"something else"), "wrong bytes"),
    ("lies with nothing", says(b""), "wrong bytes"),
    ("has nothing", says(b"no", "404 Not Found"), "does not have it"),
    ("fails", says(b"oops", "500 Internal Server Error"), "answered 500"),
    ("sends elsewhere", says(b"", "302 Found", "Location: http://127.0.0.1:9/\r\n"), "answered 302"),
    ("cuts short", truncated, "broke off"),
    ("drips bytes", drip, "not done within 1.0 s"),
    ("drips headers", drip_headers, "not done within 1.0 s"),
    ("says nothing", silent, "not done within 1.0 s"),
    ("never ends", endless, "sent more than the 2,097,152 bytes"),
    ("announces too much", says(bytes(MAX_BLOCK_BYTES + 1)), "announced 2,097,153 bytes"),
    ("compresses", says(gzip.compress(bytes(1000)), extra="Content-Encoding: gzip\r\n"), "compressed"),
    ("speaks no HTTP", lambda connection, path: connection.sendall(b"hello\r\n\r\n"), "broke off"),
]


@pytest.mark.parametrize(("answer", "reason"), [bad[1:] for bad in BAD_PEERS], ids=[bad[0] for bad in BAD_PEERS])
def test_a_bad_peer_is_named_and_stops_nobody(
    server: GatewayServer, store: BlockStore, answer: Answer, reason: str
) -> None:
    with peer(answer) as bad:
        with Fetcher(store, [bad], limits=QUICK) as fetcher:
            began = time.monotonic()
            with pytest.raises(NobodyServed, match=CID) as caught:
                fetcher.fetch(CID)
            assert time.monotonic() - began < 5
            assert reason in caught.value.failures[bad]
            assert count_of(store) == 0
        with Fetcher(store, [bad, DEAD, server.url], limits=PATIENT) as fetcher:
            assert fetcher.fetch(CID) == DATA


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://user:word@x", "http://x?y", "x", "http://[", "http://x:0"]
)
def test_an_address_that_is_none_is_named(store: BlockStore, url: str) -> None:
    with Fetcher(store, [url]) as fetcher, pytest.raises(NobodyServed, match="not an address") as caught:
        fetcher.fetch(CID)
    assert url in caught.value.failures


def test_all_who_failed_are_named(store: BlockStore) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(peer(answer)) for _, answer, _ in BAD_PEERS[:4]] + [DEAD]
        fetcher = stack.enter_context(Fetcher(store, peers, limits=QUICK))
        with pytest.raises(NobodyServed) as caught:
            fetcher.fetch(CID)
    assert set(caught.value.failures) == set(peers)
    assert all(url in str(caught.value) for url in peers)


def test_a_peer_that_lies_about_one_block_is_asked_nothing_more(
    server: GatewayServer, source: BlockStore, store: BlockStore
) -> None:
    asked: list[str] = []

    def honest_about_the_root(connection: socket.socket, path: str) -> None:
        asked.append(path)
        block = source.require(CID) if CID in path else b"a lie"
        connection.sendall(head(len(block)) + block)

    with peer(honest_about_the_root) as liar:
        one_at_a_time = FetchLimits(workers=1)
        with Fetcher(store, [liar], limits=one_at_a_time) as fetcher, pytest.raises(NobodyServed, match="wrong bytes"):
            fetcher.fetch(CID)
        assert len(asked) == 2
        with Fetcher(store, [liar, server.url], limits=one_at_a_time) as fetcher:
            assert fetcher.fetch(CID) == DATA
        assert len(asked) <= 3


def test_blocks_spread_over_peers_come_together(tmp_path: Path, source: BlockStore, store: BlockStore) -> None:
    with ExitStack() as stack:
        urls = []
        for index in range(3):
            part = stack.enter_context(BlockStore(tmp_path / f"part{index}"))
            for at, cid in enumerate(source):
                if at % 3 == index:
                    part.put_checked(cid, source.require(cid))
            urls.append(stack.enter_context(GatewayServer(part)).url)
        fetcher = stack.enter_context(Fetcher(store, urls))
        assert fetcher.fetch(CID) == DATA


# Resuming


def counting(source: BlockStore, asked: list[str], fail_after: int) -> Answer:
    lock = threading.Lock()

    def answer(connection: socket.socket, path: str) -> None:
        with lock:
            asked.append(path)
            number = len(asked)
        block = source.require(path.removeprefix("/ipfs/").partition("?")[0])
        connection.sendall(head(len(block)) + (block if number <= fail_after else block[:-1]))

    return answer


def test_an_interrupted_fetch_goes_on_where_it_stopped(source: BlockStore, store: BlockStore) -> None:
    asked: list[str] = []
    with (
        peer(counting(source, asked, fail_after=10)) as url,
        Fetcher(store, [url], limits=QUICK) as fetcher,
        pytest.raises(NobodyServed, match="broke off"),
    ):
        fetcher.fetch(CID)
    kept = count_of(store)
    assert 1 <= kept <= 10
    asked.clear()
    with peer(counting(source, asked, fail_after=1000)) as url, Fetcher(store, [url]) as fetcher:
        assert fetcher.fetch(CID) == DATA
    assert len(asked) == count_of(source) - kept


def test_a_damaged_block_is_fetched_again_and_only_it(source: BlockStore, store: BlockStore) -> None:
    store.add_bytes(DATA)
    spoilt = ParsedCid.of(DATA[:CHUNK_BYTES])
    path = next(store.directory.glob(f"blocks/*/{spoilt}"))
    path.write_bytes(bytes(CHUNK_BYTES))
    asked: list[str] = []
    with peer(counting(source, asked, fail_after=1000)) as url, Fetcher(store, [url]) as fetcher:
        assert fetcher.fetch(CID) == DATA
    assert asked == [f"/ipfs/{spoilt}?format=raw"]
    assert store.has(spoilt)


@pytest.mark.parametrize("missing_bytes", [0, 1], ids=["ends early", "breaks off"])
def test_an_archive_that_ends_early_keeps_what_came(source: BlockStore, store: BlockStore, missing_bytes: int) -> None:
    asked: list[str] = []
    first = cid_of(DATA[:CHUNK_BYTES])
    sections = [car_section(parse_cid(cid), source.require(cid)) for cid in (CID, first)]

    def answer(connection: socket.socket, path: str) -> None:
        asked.append(path)
        if "format=car" in path:
            sent = car_header(CID) + b"".join(sections)
            connection.sendall(head(len(sent) + missing_bytes) + sent)
        else:
            block = source.require(path.removeprefix("/ipfs/").partition("?")[0])
            connection.sendall(head(len(block)) + block)

    with peer(answer) as url, Fetcher(store, [url], limits=FetchLimits(archives=True)) as fetcher:
        assert fetcher.fetch(CID) == DATA
    assert sum("format=car" in path for path in asked) == 1
    assert not any(first in path for path in asked)


# Archives that lie


def sections_of(source: BlockStore) -> list[bytes]:
    root = source.require(CID)
    order = [ParsedCid.of(root, Codec.DAG_PB), *(link.cid for link in FileNode.decode(root).links)]
    return [car_section(cid, source.require(cid)) for cid in order]


def archive_peer(source: BlockStore, sections: list[bytes]) -> Answer:
    def answer(connection: socket.socket, path: str) -> None:
        body = car_header(CID) + b"".join(sections) if "format=car" in path else source.require(CID)
        connection.sendall(head(len(body)) + body)

    return answer


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda right: [right[0], right[2], right[1]], "not next in the file", id="order"),
        pytest.param(lambda right: [right[0], car_section(ParsedCid.of(b"x"), b"x")], "not next", id="unasked"),
        pytest.param(lambda right: [right[0], right[1][:-1] + b"\0"], "false archive", id="another byte"),
        pytest.param(lambda right: [b"\xff" * 9], "false archive", id="nonsense"),
    ],
)
def test_an_archive_that_lies_is_refused(
    source: BlockStore, store: BlockStore, spoil: Callable[[list[bytes]], list[bytes]], reason: str
) -> None:
    limits = FetchLimits(archives=True)
    with (
        peer(archive_peer(source, spoil(sections_of(source)))) as liar,
        Fetcher(store, [liar], limits=limits) as fetcher,
    ):
        with pytest.raises(NobodyServed) as caught:
            fetcher.fetch(CID)
        assert reason in caught.value.failures[liar]


def test_blocks_after_the_end_of_a_file_are_not_taken(source: BlockStore, store: BlockStore) -> None:
    extra = ParsedCid.of(b"extra")
    sections = [*sections_of(source), car_section(extra, b"extra")]
    limits = FetchLimits(archives=True)
    with peer(archive_peer(source, sections)) as url, Fetcher(store, [url], limits=limits) as fetcher:
        assert fetcher.fetch(CID) == DATA
    assert store.get(extra) is None


# What the CID's author may not do


def test_a_file_longer_than_asked_for_is_refused_before_its_leaves_are_fetched(
    server: GatewayServer, store: BlockStore
) -> None:
    with Fetcher(store, [server.url]) as fetcher, pytest.raises(MalformedBlock, match="at most 1,000"):
        fetcher.fetch(CID, max_bytes=1000)
    assert count_of(store) == 1


@pytest.mark.parametrize("archives", [False, True])
def test_a_false_tree_is_its_authors_fault_not_the_peers(
    server: GatewayServer, source: BlockStore, store: BlockStore, archives: bool
) -> None:
    leaf = ParsedCid.of(DATA[:CHUNK_BYTES])
    cid = source.put(FileNode((Link(leaf, 7, 7), Link(leaf, 7, 7))).encode(), Codec.DAG_PB)
    limits = FetchLimits(archives=archives)
    with Fetcher(store, [server.url], limits=limits) as fetcher, pytest.raises(MalformedBlock, match="promised 7"):
        fetcher.fetch(cid)


def test_a_fetch_ends_when_its_time_is_up(source: BlockStore, store: BlockStore) -> None:
    def slow(connection: socket.socket, path: str) -> None:
        time.sleep(0.15)
        block = source.require(path.removeprefix("/ipfs/").partition("?")[0])
        connection.sendall(head(len(block)) + block)

    with peer(slow) as url, Fetcher(store, [url], limits=FetchLimits(workers=1)) as fetcher:
        began = time.monotonic()
        with pytest.raises(NobodyServed, match="not fetched in time"):
            fetcher.fetch(CID, timeout_s=0.5)
        assert time.monotonic() - began < 2
    assert count_of(store) >= 1


def test_a_full_disk_is_not_laid_at_a_peers_door(
    server: GatewayServer, store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(cid: object, block: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "put_checked", full)
    with Fetcher(store, [server.url]) as fetcher, pytest.raises(OSError, match="No space left"):
        fetcher.fetch(CID)


# Other requests to peers


def test_json_from_a_peer_is_bounded_and_checked() -> None:
    with PeerClient() as client:
        with peer(says(b'{"a":[1]}')) as url:
            assert client.get_json(url, "/units/1") == {"a": [1]}
            with pytest.raises(PeerFailed, match="announced 9 bytes where at most 8"):
                client.get_json(url, "/units/1", max_bytes=8)
        for body in (b"{", b"\xff", b"[" * 100_000):
            with peer(says(body)) as url, pytest.raises(PeerFailed, match="not JSON"):
                client.get_json(url, "/units/1")
