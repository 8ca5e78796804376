"""Bounded HTTP requests to machines nobody trusts.

A peer may answer slowly, endlessly, compressed, with redirects or not at all. Every request here has a deadline that
holds from the first connection attempt to the last byte, and a limit on what is read.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpcore
import httpx

from cupel.protocol.errors import Unavailable
from cupel.protocol.json_text import parse_json

_deadline: ContextVar[float] = ContextVar("deadline")
"""When, by time.monotonic, the request this thread is making must be over."""


class PeerFailed(Unavailable):
    """One peer did not serve what it was asked for."""

    def __init__(self, peer: str, reason: str, *, lied: bool = False, absent: bool = False) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason
        self.lied = lied
        """It sent something else than was asked for."""
        self.absent = absent
        """It answered properly that it does not have it."""


class PeerClient:
    """Makes requests to peers; any number of threads may share one. Connections are kept and used again.

    connections        open at once, over all peers
    connect_timeout_s  for reaching a machine; answering has its own limit in each request
    """

    def __init__(self, *, connections: int = 32, connect_timeout_s: float = 5.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._client = httpx.Client(transport=_DeadlineTransport(connections), follow_redirects=False, trust_env=False)

    def get(self, peer: str, path: str, *, max_bytes: int, timeout_s: float, accept: str = "*/*") -> bytes:
        """The body of one answer. Raises PeerFailed: refused, late, too long, cut short, or an error status."""
        with self.stream(peer, path, max_bytes=max_bytes, timeout_s=timeout_s, accept=accept) as chunks:
            return b"".join(chunks)

    def get_json(self, peer: str, path: str, *, max_bytes: int = 1 << 20, timeout_s: float = 20.0) -> object:
        """The JSON document a peer serves at `path`. Raises PeerFailed: as `get`, or not JSON."""
        body = self.get(peer, path, max_bytes=max_bytes, timeout_s=timeout_s, accept="application/json")
        try:
            document: object = parse_json(body)
        except (ValueError, RecursionError):
            raise PeerFailed(peer, f"{path}: not JSON", lied=True) from None
        return document

    @contextmanager
    def stream(
        self, peer: str, path: str, *, max_bytes: int, timeout_s: float, accept: str = "*/*"
    ) -> Iterator[Iterator[bytes]]:
        """The body as it arrives. Raises PeerFailed, as `get`, inside the block as well."""
        url = checked_url(peer) + path
        token = _deadline.set(time.monotonic() + timeout_s)
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, self._connect_timeout_s))
        # A server that compresses could send a gigabyte in a kilobyte.
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": "cupel"}
        try:
            with _blaming(peer, timeout_s):
                request = self._client.build_request("GET", url, headers=headers, timeout=timeout)
                response = self._client.send(request, stream=True)
            try:
                _check_answer(peer, response, max_bytes)
                yield _bounded(peer, response.iter_raw(), max_bytes, timeout_s)
            finally:
                response.close()
        finally:
            _deadline.reset(token)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def checked_url(peer: str) -> str:
    """The peer's address without a slash at the end. Raises PeerFailed unless it is a plain http or https address."""
    try:
        parts = urlsplit(peer)
        plain = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.password
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        plain, port_is_valid = False, False
    if not plain or not port_is_valid or parts.query or parts.fragment or len(peer) > 512:
        raise PeerFailed(peer[:512], "not an address like http://host:port")
    return peer.rstrip("/")


def _check_answer(peer: str, response: httpx.Response, max_bytes: int) -> None:
    if response.status_code in (404, 410):
        raise PeerFailed(peer, "does not have it (404)", absent=True)
    if response.status_code != 200:
        raise PeerFailed(peer, f"answered {response.status_code} {response.reason_phrase}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise PeerFailed(peer, "sent a compressed answer, which was not asked for", lied=True)
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise PeerFailed(peer, f"announced {int(length[:20]):,} bytes where at most {max_bytes:,} are taken", lied=True)


def _bounded(peer: str, chunks: Iterator[bytes], max_bytes: int, timeout_s: float) -> Iterator[bytes]:
    total = 0
    while True:
        with _blaming(peer, timeout_s):
            chunk = next(chunks, None)
        if chunk is None:
            return
        total += len(chunk)
        if total > max_bytes:
            raise PeerFailed(peer, f"sent more than the {max_bytes:,} bytes that are taken", lied=True)
        yield chunk


@contextmanager
def _blaming(peer: str, timeout_s: float) -> Iterator[None]:
    """Turns what the network raises into PeerFailed; stands around network calls only, so that a full disk is not
    laid at a peer's door."""
    try:
        yield
    except (httpcore.ConnectTimeout, httpcore.ConnectError) as error:
        raise PeerFailed(peer, f"cannot be reached: {error}") from None
    except (httpcore.TimeoutException, httpx.TimeoutException):
        raise PeerFailed(peer, f"not done within {timeout_s:.1f} s") from None
    except (httpcore.RemoteProtocolError, httpcore.NetworkError) as error:
        raise PeerFailed(peer, f"broke off: {error or type(error).__name__}") from None
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise PeerFailed(peer, f"cannot be asked: {error or type(error).__name__}") from None


class _DeadlineTransport(httpx.BaseTransport):
    """httpx over httpcore with one deadline for a whole request.

    The timeouts of httpx hold for a single read: a server that sends a byte now and then would never run into one.
    """

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
        return _DeadlineStream(super().connect_tcp(host, port, _left(timeout), local_address, socket_options))


class _DeadlineStream(httpcore.NetworkStream):
    """A connection that never waits past the deadline of the request it is used for."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout))

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


def _left(timeout: float | None) -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("past the deadline of the request")
    return left if timeout is None else min(left, timeout)
