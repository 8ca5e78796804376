"""No client, and no few of them, keep a server from the others: hosts crowd out themselves, members have places."""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cupel.network.ipfs import CHUNK_BYTES, BlockStore, ConnectionLimits, GatewayLimits, GatewayServer, PaceLimits
from cupel.network.ipfs.admission import Admission, PeerLimits, Refusal
from cupel.network.ipfs.cid import ParsedCid
from cupel.network.ipfs.connections import host_of

SMALL = b"x" * 1000


class Doorman:
    """Knows those whose header is a name of his; refuses nothing."""

    def known(self, authorization: str) -> str | None:
        return authorization if authorization in ("alice", "bob") else None

    def identify(self, authorization: str) -> str | None:
        return self.known(authorization)

    def is_public(self, cid: ParsedCid) -> bool:
        return True

    def refuse(self, cid: ParsedCid, authorization: str | None) -> Refusal | None:
        return None


class Clients:
    """Connections from hosts 127.0.0.N to one server."""

    def __init__(self, server: GatewayServer, small: str, large: str) -> None:
        self.server, self.small, self.large = server, small, large
        self.opened: list[socket.socket] = []

    def open(self, host: int) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.bind((f"127.0.0.{host}", 0))
        connection.connect(("127.0.0.1", self.server.port))
        self.opened.append(connection)
        return connection

    def ask(self, connection: socket.socket, *, who: str = "", path: str | None = None) -> None:
        header = f"Authorization: {who}\r\n" if who else ""
        path = path or f"/ipfs/{self.small}?format=raw"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode())

    def status(self, host: int, who: str = "") -> int:
        connection = self.open(host)
        self.ask(connection, who=who)
        return status_of(connection)

    def ask_and_read_nothing(self, host: int) -> socket.socket:
        connection = self.open(host)
        self.ask(connection, path=f"/ipfs/{self.large}?format=car")
        return connection


def status_of(connection: socket.socket) -> int:
    answer = b""
    while len(answer) < 12 and (more := connection.recv(12 - len(answer))):
        answer += more
    return int(answer[9:12]) if answer else 0


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it; waits for that. What was still on the way is read."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Clients]]:
    """Clients of a server with such limits."""
    started: list[Clients] = []
    with BlockStore(tmp_path) as store:
        small, large = store.add_bytes(SMALL), store.add_bytes(os.urandom(24 << 20))

        def start(**limits: object) -> Clients:
            server = GatewayServer(store, limits=GatewayLimits(**limits), access=Doorman())  # type: ignore[arg-type]
            server.start()
            started.append(Clients(server, small, large))
            return started[-1]

        yield start
        for clients in started:
            for connection in clients.opened:
                connection.close()
            clients.server.stop()


# Connections


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
    ],
)
def test_a_host_is_an_address_or_what_one_customer_is_given(address: str | None, host: str) -> None:
    assert host_of(address) == host


def test_one_hosts_silence_takes_no_place_from_others(serve: Callable[..., Clients]) -> None:
    clients = serve()
    silent = [clients.open(2) for _ in range(GatewayLimits().connections.connections)]
    assert clients.status(9) == 200
    assert clients.status(2) == 200
    assert is_closed(silent[0])


def test_who_holds_most_makes_room_and_the_longest_idle_goes_first(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(connections=4, reserved_connections=0))
    held = {name: clients.open(host) for name, host in (("a", 2), ("b", 3), ("c", 3), ("d", 3))}
    for connection in held.values():
        clients.ask(connection)
        assert status_of(connection) == 200
    assert clients.status(4) == 200
    assert is_closed(held["b"])
    for name in ("a", "c", "d"):
        clients.ask(held[name])
        assert held[name].recv(1)


def test_one_host_has_its_limit_where_there_is_room_as_well(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(connections_per_host=2))
    first, second = clients.open(2), clients.open(2)
    for connection in (first, second):
        clients.ask(connection)
        assert status_of(connection) == 200
    assert clients.status(2) == 200
    assert is_closed(first)
    assert clients.server.admission.faults["crowded"] == 1


def test_connections_being_answered_are_not_put_out(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(connections=2, reserved_connections=0))
    for _ in range(2):
        assert status_of(clients.ask_and_read_nothing(2)) == 200
    assert is_closed(clients.open(3))


def test_a_connection_that_brings_no_request_is_closed_soon(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(first_request_s=0.2))
    connection = clients.open(2)
    connection.sendall(b"GET / HTTP/1.1\r\nHo")
    assert is_closed(connection)
    assert clients.server.admission.faults["silent"] == 1


def test_strangers_put_no_member_out(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(connections=4, reserved_connections=1))
    members = [clients.open(2) for _ in range(2)]
    for connection in members:
        clients.ask(connection, who="alice")
        assert status_of(connection) == 200
    for host in range(3, 9):
        assert clients.status(host) == 200
    for connection in members:
        clients.ask(connection, who="alice")
        assert connection.recv(1)


def test_members_leave_places_for_others(serve: Callable[..., Clients]) -> None:
    clients = serve(connections=ConnectionLimits(connections=4, reserved_connections=1))
    for _ in range(6):
        assert clients.status(2, "alice") == 200
    assert clients.status(3) == 200
    assert clients.status(2, "bob") == 200


# Requests


def test_no_number_of_peers_below_the_places_takes_them_all() -> None:
    admission = Admission(PeerLimits(requests=32), lambda: 0.0, requests=64, reserved=16)
    held = dict.fromkeys(("a", "b", "c", "d", "e"), 0)
    for name in held:
        while not admission.is_full(name, is_known=False):
            assert admission.enter(name) is None
            held[name] += 1
    assert list(held.values()) == [24, 12, 6, 3, 2]
    assert admission.count_free(is_known=False) == 1
    assert not admission.is_full("alice", is_known=True)
    assert admission.count_free(is_known=True) == 17


def test_two_hosts_that_read_nothing_keep_nobody_waiting(serve: Callable[..., Clients]) -> None:
    clients = serve()
    taken = [clients.ask_and_read_nothing(host) for host in (2, 3) for _ in range(40)]
    wait_for(lambda: clients.server.admission.count_free(is_known=False) <= 12)
    began = time.monotonic()
    assert clients.status(9) == 200
    assert time.monotonic() - began < GatewayLimits().wait_s
    assert len(taken) == 80


def test_strangers_leave_requests_for_members(serve: Callable[..., Clients]) -> None:
    clients = serve(requests=4, reserved_requests=1, wait_s=0.1)
    for host in (2, 2, 3):
        assert status_of(clients.ask_and_read_nothing(host)) == 200
    assert clients.status(4) == 503
    assert clients.status(4, "alice") == 200


def test_an_answer_read_too_slowly_is_cut_off(serve: Callable[..., Clients]) -> None:
    clients = serve(pace=PaceLimits(min_bytes_per_s=1 << 30, slow_s=0.5))
    connection = clients.ask_and_read_nothing(2)
    total = 0
    try:
        # A byte now and then is within the limit for a single block.
        while more := connection.recv(1 << 12):
            total += len(more)
            time.sleep(0.02)
    except ConnectionResetError:
        pass
    assert total < 24 << 20
    assert clients.server.admission.faults["slow"] == 1


def test_a_block_that_is_not_read_is_given_up_too(serve: Callable[..., Clients], tmp_path: Path) -> None:
    clients = serve(pace=PaceLimits(slow_s=0.3, min_bytes_per_s=1 << 30))
    with BlockStore(tmp_path, read_only=True) as store:
        whole = next(cid for cid in store if store.block_size(cid) == CHUNK_BYTES)
    asked = [clients.open(2) for _ in range(8)]
    for connection in asked:
        # More than the kernel takes for a reader that does not read.
        for _ in range(40):
            clients.ask(connection, path=f"/ipfs/{whole}?format=raw")
    wait_for(lambda: clients.server.admission.faults["slow"] == len(asked))


# The log


def test_what_strangers_do_fills_no_log_and_is_counted(
    serve: Callable[..., Clients], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clients = serve()
    faults = clients.server.admission.faults
    gone = clients.ask_and_read_nothing(2)
    assert status_of(gone) == 200
    # Closed with a reset, as by a client that dies.
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    wait_for(lambda: faults["hung up"] == 1)
    rude = clients.open(2)
    rude.sendall(b"GET / HTTP/1.1\r\nContent-Length: nine\r\n\r\n")
    assert status_of(rude) == 400
    assert faults["malformed"] == 1
    assert [r for r in caplog.records if r.name.startswith(("aiohttp", "cupel.network"))] == []
