"""A daemon with Kubo's RPC: it gets our files under our names, and what only it has we get from it.

The daemon here is js-ipfs, an independent implementation of the same RPC; Kubo's own binary comes from no registry.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from interop_process import NodeScript
from ipfs_peers import head, peer, says

from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, FetchLimits, GatewayServer, NobodyServed, cid_of
from cupel.network.ipfs.kubo import KuboClient
from cupel.network.ipfs.peers import PeerFailed
from cupel.network.ipfs.unixfs import walk_file
from cupel.node.access import NodeAccess
from cupel.node.kubo import KuboMirror

DATA = os.urandom(3 * CHUNK_BYTES + 5)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KuboClient]:
    with NodeScript("kubo_rpc.mjs", str(tmp_path_factory.mktemp("repository"))) as script:
        client = KuboClient(script.read_line())
        yield client
        client.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "store") as store:
        yield store


def pins(daemon: KuboClient) -> set[str]:
    """CIDs the daemon pins, asked of it by other means than ours."""
    with httpx.Client(trust_env=False) as http:
        answer = http.post(f"{daemon.url}/api/v0/pin/ls?type=recursive&cid-base=base32").json()
    return set(answer.get("Keys", {}))


@pytest.mark.node
@pytest.mark.timeout(1200)
def test_a_file_given_to_the_daemon_has_our_name_there(daemon: KuboClient, store: BlockStore) -> None:
    cid = store.add_bytes(DATA)
    daemon.add_file(store, cid)
    with httpx.Client(trust_env=False) as http:
        assert http.post(f"{daemon.url}/api/v0/cat?arg={cid}").content == DATA
    for part, block in walk_file(cid, store.require):
        assert daemon.get_block(part, timeout_s=10) == block
    assert cid in pins(daemon)
    daemon.unpin(cid)
    daemon.unpin(cid)
    assert cid not in pins(daemon)


@pytest.mark.node
@pytest.mark.timeout(1200)
def test_what_no_peer_has_comes_from_the_daemon(daemon: KuboClient, store: BlockStore, tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    cid = store.add_bytes(data)
    daemon.add_file(store, cid)
    with (
        BlockStore(tmp_path / "empty") as empty,
        GatewayServer(empty) as peer_without,
        BlockStore(tmp_path / "mine") as mine,
        Fetcher(mine, [peer_without.url], kubo=daemon) as fetcher,
    ):
        assert fetcher.fetch(cid) == data


@pytest.mark.node
@pytest.mark.timeout(1200)
def test_what_the_daemon_does_not_find_in_time_is_said_with_its_name(daemon: KuboClient, store: BlockStore) -> None:
    limits = FetchLimits(block_timeout_s=4.0)
    with Fetcher(store, [], limits=limits, kubo=daemon) as fetcher, pytest.raises(NobodyServed) as caught:
        fetcher.fetch(cid_of(b"nobody has this"))
    assert list(caught.value.failures) == [daemon.url]


@pytest.mark.node
@pytest.mark.timeout(1200)
def test_it_tells_its_version(daemon: KuboClient) -> None:
    assert daemon.version().count(".") == 2


def wait_for(condition: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.node
@pytest.mark.timeout(1200)
def test_a_node_gives_its_public_files_and_lets_go_of_them_and_of_nothing_else(
    daemon: KuboClient, store: BlockStore, tmp_path: Path
) -> None:
    elsewhere = BlockStore(tmp_path / "elsewhere")
    foreign = elsewhere.add_bytes(b"pinned there by somebody else")
    daemon.add_file(elsewhere, foreign)
    public = store.add_bytes(os.urandom(CHUNK_BYTES + 1), pin="start/0a")
    checkpoint = store.add_bytes(os.urandom(9), pin=f"unit/1/{'07' * 32}/2")
    record = tmp_path / "kubo.json"

    def mirror() -> KuboMirror:
        return KuboMirror(daemon, store, lambda: NodeAccess.lasting(store.pins()), record)

    with mirror() as running:
        wait_for(lambda: running.given() == {public})
        later = store.add_bytes(b"later", pin="run/manifest")
        wait_for(lambda: running.given() == {public, later})
    assert {public, later, foreign} <= pins(daemon)
    assert checkpoint not in pins(daemon)
    store.unpin("start/0a")
    with mirror() as running:
        wait_for(lambda: running.given() == {later})
    assert {later, foreign} <= pins(daemon)
    assert public not in pins(daemon)


# Daemons that misbehave; no Node.js needed


def test_a_daemon_that_lies_hangs_or_swells_is_refused_in_time(store: BlockStore) -> None:
    def hang(connection: socket.socket, path: str) -> None:
        connection.sendall(head(100))
        time.sleep(4)

    for answer, reason in (
        (says(b"a lie"), "wrong bytes"),
        (says(bytes(3 << 20)), "announced 3,145,728 bytes"),
        (hang, "not done within 1.0 s"),
    ):
        with peer(answer) as url, pytest.raises(PeerFailed, match=reason):
            KuboClient(url).get_block(cid_of(b"the truth"), timeout_s=1.0)
    missing = json.dumps({"Message": "block was not found locally", "Code": 0, "Type": "error"}).encode()
    with peer(says(missing, "500 Internal Server Error")) as url, pytest.raises(PeerFailed) as caught:
        KuboClient(url).get_block(cid_of(b"x"), timeout_s=1.0)
    assert caught.value.absent
    assert "block was not found locally" in caught.value.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"{}", "does not say that it pinned"),
        (b'{"Root":{"Cid":{"/":"bafkqaaa"},"PinErrorMsg":""}}', "something else"),
        (b'{"Root":{"Cid":{"/":"x"},"PinErrorMsg":"no space"}}', "did not pin: no space"),
        (b"not json", "something else"),
        (b"[]", "something else"),
    ],
)
def test_an_import_counts_only_if_the_daemon_says_that_it_pinned(store: BlockStore, answer: bytes, reason: str) -> None:
    cid = store.add_bytes(b"data")

    def reply(connection: socket.socket, path: str) -> None:
        connection.settimeout(0.5)
        with suppress(TimeoutError):  # the upload, or what of it did not come along with the head
            while connection.recv(1 << 16):
                pass
        connection.sendall(head(len(answer)) + answer)

    with peer(reply) as url, pytest.raises(PeerFailed, match=reason):
        KuboClient(url).add_file(store, cid)


def test_a_daemon_that_is_away_stops_nobody(store: BlockStore, tmp_path: Path) -> None:
    store.add_bytes(b"public", pin="run/manifest")
    away = KuboClient("http://127.0.0.1:9")
    with KuboMirror(away, store, lambda: NodeAccess.lasting(store.pins()), tmp_path / "kubo.json") as mirror:
        wait_for(lambda: not mirror._is_well)
        assert mirror.given() == frozenset()
