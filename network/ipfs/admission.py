"""Who is served what, and how much of it: what a gateway asks before it answers.

The network layer knows no chain. Whoever runs a server hands it an `Access`, which says of a block whether anybody may
have it, and if not, whether this request may. A peer is a known account, or else a host (connections.py).

Of the requests in hand one peer has half of what is there for it at most, and several of them equal shares with one
more share left over: so no peer, and no few of them, take all. Some are for known peers alone. Hosts by the hundred can
still take what there is for strangers, and the bandwidth of a machine is its owner's to guard.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cupel.network.ipfs.cid import ParsedCid

REMEMBERED_PEERS = 4096
"""Peers whose recent use is remembered; the one heard of longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, as HTTP says it."""

    status: int
    """401 without a valid signature, 403 not for this peer, 404 not here, 503 not decidable now."""
    reason: str
    """One plain sentence, sent to the peer."""
    retry_after_s: int | None = None


class Access(Protocol):
    """Decides about single blocks. Called from several threads."""

    def known(self, authorization: str) -> str | None:
        """Whose limits a request with this Authorization header counts against; None: its host's. Never waits."""

    def identify(self, authorization: str) -> str | None:
        """As `known`, also for a header not seen before: that may take a moment's computing, but asks nobody."""

    def is_public(self, cid: ParsedCid) -> bool:
        """Whether anybody may have this block, as far as that is known without asking anybody."""

    def refuse(self, cid: ParsedCid, authorization: str | None) -> Refusal | None:
        """Why this request may not have a block that is not public; None if it may. May take as long as a question
        to the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """What one peer is given at most. Several nodes behind one address that do not sign share what it gets."""

    requests: int = 32
    """In hand at the same time; further ones wait for room."""
    waiting: int = 224
    """Of them at most; more are refused at once."""
    requests_per_s: float = 500.0
    burst_requests: int = 1000
    """Made at once after a time of silence."""
    bytes_per_s: float = 64 << 20
    burst_bytes: int = 256 << 20
    """Taken at once after a time of silence. What is owed after a long answer is waited for before the next."""


@dataclass(slots=True)
class _Account:
    """One peer's use."""

    refilled: float
    requests: float
    size_bytes: float
    in_hand: int = 0


class Admission:
    """Token buckets by peer. Belongs to one thread, the server's own.

    now       seconds of a clock that never goes back
    requests  in hand of all peers together
    reserved  of these, those that are for known peers alone; at most a quarter
    """

    def __init__(
        self, limits: PeerLimits, now: Callable[[], float], *, requests: int = 1 << 30, reserved: int = 0
    ) -> None:
        self._limits, self._now = limits, now
        self._requests, self._reserved = requests, min(reserved, requests // 4)
        self._in_hand = 0
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self.admitted = self.refused = self.charged_bytes = 0
        """Requests let in and sent away, and what was sent to all peers together, since the start."""
        self.faults: Counter[str] = Counter({"silent": 0, "crowded": 0, "slow": 0, "hung up": 0, "malformed": 0})
        """Connections that brought no request in time, or had to make room; answers that were read too slowly or
        not at all; requests that are not HTTP."""

    def enter(self, peer: str) -> float | None:
        """None lets a request in, until `leave`; otherwise the seconds after which asking again may help."""
        wait_s = self.compute_wait(peer)
        if wait_s is not None:
            self.refused += 1
            return wait_s
        account = self._account(peer)
        account.requests -= 1.0
        account.in_hand += 1
        self._in_hand += 1
        self.admitted += 1
        return None

    def count_free(self, *, is_known: bool) -> int:
        """Requests more that may be in hand, for a known peer or for a stranger."""
        return self._requests - self._in_hand - (0 if is_known else self._reserved)

    def is_full(self, peer: str, *, is_known: bool) -> bool:
        """Whether it has as much in hand as it may: its limit, or as much as is left for others of its kind."""
        return self._account(peer).in_hand >= min(self._limits.requests, self.count_free(is_known=is_known))

    def compute_wait(self, peer: str) -> float | None:
        """Seconds until a request of this peer would be let in; None if it would be now."""
        account, limits = self._account(peer), self._limits
        if account.in_hand >= limits.requests:
            return 1.0
        if account.requests < 1.0:
            return (1.0 - account.requests) / limits.requests_per_s
        if account.size_bytes <= 0.0:
            return (1.0 - account.size_bytes) / limits.bytes_per_s
        return None

    def leave(self, peer: str) -> None:
        """A request that was let in is over."""
        account = self._account(peer)
        account.in_hand = max(0, account.in_hand - 1)
        self._in_hand -= 1

    def charge(self, peer: str, size_bytes: int) -> None:
        """So much is being sent to it."""
        self._account(peer).size_bytes -= size_bytes
        self.charged_bytes += size_bytes

    def _account(self, peer: str) -> _Account:
        now, limits = self._now(), self._limits
        account = self._accounts.get(peer)
        if account is None:
            account = _Account(now, limits.burst_requests, limits.burst_bytes)
            self._accounts[peer] = account
            self._forget()
        self._accounts.move_to_end(peer)
        passed, account.refilled = now - account.refilled, now
        account.requests = min(limits.burst_requests, account.requests + passed * limits.requests_per_s)
        account.size_bytes = min(limits.burst_bytes, account.size_bytes + passed * limits.bytes_per_s)
        return account

    def _forget(self) -> None:
        if len(self._accounts) > REMEMBERED_PEERS:
            idle = next((peer for peer, account in self._accounts.items() if account.in_hand == 0), None)
            if idle is not None:
                del self._accounts[idle]
