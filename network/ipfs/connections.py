"""Who may hold a connection to a server: nobody so many, or so long without a word, that others find no place.

A host is an IPv4 address or the /64 of an IPv6 one, which is what one customer is given. Where all places are taken a
newcomer takes one of whoever holds most of them, on which no answer is under way: so one host, or a few, can only crowd
out themselves. Some places are for known peers alone, whom no stranger puts out.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast


def host_of(address: str | None) -> str:
    """The host that counts for an IP address as the socket layer writes it."""
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """How many, and for how long."""

    connections: int = 384
    """Open at the same time, of all hosts together."""
    connections_per_host: int = 192
    """Of one host, or of one known peer. More than the 174 that Helia opens for the leaves of one node."""
    reserved_connections: int = 64
    """Of all, those that only known peers hold; at most a quarter."""
    first_request_s: float = 5.0
    """How long a connection may take to bring its first request."""


class Connection(asyncio.Protocol):
    """One client's, between its socket and what answers it."""

    def __init__(self, crowd: Crowd, answering: asyncio.Protocol) -> None:
        self._crowd, self._answering = crowd, answering
        self._deadline: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport
        self.holder = ""
        """Its host, or the known peer that asked last."""
        self.is_known = False
        self.in_hand = False
        """Whether a request of it is being answered."""
        self._is_let_in = False

    def heard(self, known: str | None) -> None:
        """A request came, of a known peer or of a stranger."""
        self._forget_deadline()
        if known is not None and not self.is_known:
            self.holder, self.is_known = known, True
            self._crowd.keep_shares(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        self.holder = host_of(name[0] if name else None)
        self._is_let_in = self._crowd.admit(self)
        if not self._is_let_in:
            self.transport.abort()
            return
        limit_s = self._crowd.limits.first_request_s
        self._deadline = asyncio.get_running_loop().call_later(limit_s, self._give_up)
        self._answering.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._forget_deadline()
        self._crowd.leave(self)
        if self._is_let_in:
            self._answering.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._answering.data_received(data)

    def eof_received(self) -> bool | None:
        return self._answering.eof_received()

    def pause_writing(self) -> None:
        self._answering.pause_writing()

    def resume_writing(self) -> None:
        self._answering.resume_writing()

    def _give_up(self) -> None:
        self._crowd.faults["silent"] += 1
        self.transport.abort()

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Crowd:
    """All connections of one server. Belongs to its thread.

    faults  counts of what clients did wrong, by kind; read from any thread
    """

    def __init__(self, limits: ConnectionLimits, faults: Counter[str]) -> None:
        self.limits, self.faults = limits, faults
        self._open: dict[asyncio.BaseTransport, Connection] = {}
        """In the order in which they came."""

    def factory(self, answer: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """What `create_server` takes: connections that `answer` makes the answering half of."""
        return lambda: Connection(self, answer())

    def find(self, transport: asyncio.BaseTransport | None) -> Connection | None:
        return None if transport is None else self._open.get(transport)

    def admit(self, newcomer: Connection) -> bool:
        """Whether there is a place for it; somebody else may have to give it up."""
        limits = self.limits
        known = sum(one.is_known for one in self._open.values())
        reserved = min(limits.reserved_connections, limits.connections // 4)
        held = Counter(one.holder for one in self._open.values() if not one.is_known)
        if held[newcomer.holder] >= limits.connections_per_host:
            is_free = self._put_out(newcomer.holder)
        elif held.total() >= limits.connections - max(reserved, known):
            held[newcomer.holder] += 1
            is_free = any(self._put_out(holder) for holder, _ in held.most_common())
        else:
            is_free = True
        if is_free:
            self._open[newcomer.transport] = newcomer
        else:
            self.faults["crowded"] += 1
        return is_free

    def keep_shares(self, member: Connection) -> None:
        """Known peers have limits as well: each that of a host, and all together half of the places."""
        held = Counter(one.holder for one in self._open.values() if one.is_known)
        if held[member.holder] > self.limits.connections_per_host:
            self._put_out(member.holder)
        elif held.total() > max(1, self.limits.connections // 2):
            any(self._put_out(holder) for holder, _ in held.most_common())

    def leave(self, connection: Connection) -> None:
        self._open.pop(connection.transport, None)

    def _put_out(self, holder: str) -> bool:
        """End the oldest connection of `holder` on which nothing is being answered, if there is one."""
        for one in self._open.values():
            if one.holder == holder and not one.in_hand:
                self.faults["crowded"] += 1
                del self._open[one.transport]
                one.transport.abort()
                return True
        return False
