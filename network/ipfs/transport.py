"""httpx over httpcore with one deadline for a whole request, which another thread may also end.

The timeouts of httpx hold for a single read: a server that sends a byte now and then would never run into one. And they
do not hold for names at all: a name server that does not answer keeps `getaddrinfo` for as long as the system likes.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

import httpcore
import httpx

MAX_LOOKUPS = 16
"""Names being looked up at the same time; each that hangs keeps a thread of its own until the system gives up."""
MAX_ADDRESSES = 4
"""Addresses of one name that are tried."""
_SLICE_S = 0.2
"""How soon a request notices that nobody waits for it any more."""


class Abandoned(Exception):
    """Somebody else's answer came first."""


@dataclass(frozen=True, slots=True)
class _Limits:
    until: float
    """When, by time.monotonic, the request must be over."""
    abandon: threading.Event | None


_limits: ContextVar[_Limits] = ContextVar("limits")
"""Of the request this thread is making."""


@contextmanager
def limited(timeout_s: float, abandon: threading.Event | None = None) -> Iterator[None]:
    """Everything a `DeadlineTransport` does for this thread inside ends in time, or when `abandon` is set."""
    token = _limits.set(_Limits(time.monotonic() + timeout_s, abandon))
    try:
        yield
    finally:
        _limits.reset(token)


class DeadlineTransport(httpx.BaseTransport):
    """Connections to any number of machines; requests are made inside `limited`."""

    def __init__(self, connections: int) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=30.0,
            network_backend=_DeadlineBackend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(request.stream, httpx.SyncByteStream):
            raise AssertionError("only synchronous requests are made here")
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _DeadlineBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        until = time.monotonic() + _left(timeout)
        failure: Exception | None = None
        addresses = resolve(host, _left(timeout))[:MAX_ADDRESSES]
        for at, address in enumerate(addresses):
            try:
                # An address that leads nowhere leaves time for the next one.
                share = _left(until - time.monotonic()) / (len(addresses) - at)
                return _DeadlineStream(super().connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = failure or error
        raise failure or httpcore.ConnectError(f"{host} has no address")


class _DeadlineStream(httpcore.NetworkStream):
    """A connection that never waits past the deadline of the request it is used for."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = time.monotonic() + _left(timeout)
        while True:
            left = _left(until - time.monotonic())
            # A slice that passes without a byte is not the end; `_left` says when that is.
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, min(_SLICE_S, left))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


_lookups: dict[str, Future[tuple[str, ...]]] = {}
_lookups_lock = threading.Lock()


def resolve(host: str, timeout_s: float) -> tuple[str, ...]:
    """Addresses of a host. Raises httpcore.ConnectError or ConnectTimeout; never takes longer than `timeout_s`.

    A lookup cannot be stopped, only left alone: whoever asks for the same name meanwhile waits for the same one.
    """
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        pass
    with _lookups_lock:
        lookup = _lookups.get(host)
        if lookup is None:
            if len(_lookups) >= MAX_LOOKUPS:
                raise httpcore.ConnectError(f"{MAX_LOOKUPS} other names are being looked up, without an answer")
            lookup = _lookups[host] = Future()
            threading.Thread(target=_look_up, args=(host, lookup), name=f"lookup:{host[:40]}", daemon=True).start()
    wait([lookup], timeout=timeout_s)
    if not lookup.done():
        raise httpcore.ConnectTimeout(f"no name server told the address of {host} within {timeout_s:.1f} s")
    return lookup.result()


def _look_up(host: str, lookup: Future[tuple[str, ...]]) -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        lookup.set_result(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
    except (OSError, UnicodeError) as error:
        lookup.set_exception(httpcore.ConnectError(f"the address of {host[:80]} is not known: {error}"))
    finally:
        with _lookups_lock:
            del _lookups[host]


def _left(timeout: float | None) -> float:
    """Seconds until the request must be over, at most `timeout`. Raises when there are none, or nobody waits."""
    limits = _limits.get()
    if limits.abandon is not None and limits.abandon.is_set():
        raise Abandoned
    left = limits.until - time.monotonic()
    if timeout is not None:
        left = min(left, timeout)
    if left <= 0:
        raise httpcore.ReadTimeout("past the deadline of the request")
    return left
