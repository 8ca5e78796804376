"""Bounded HTTP requests to machines nobody trusts.

A peer may answer slowly, endlessly, compressed, with redirects or not at all. Every request here has a deadline that
holds from the first connection attempt to the last byte, and a limit on what is read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpcore
import httpx

from cupel.network.ipfs.transport import Abandoned, DeadlineTransport, limited
from cupel.protocol.errors import Unavailable
from cupel.protocol.json_text import parse_json

Introduce = Callable[[str], Mapping[str, str]]
"""Headers that tell a peer, given by its URL, who asks."""
_LONGEST_REASON = 300
"""Bytes of a refusal that are read and repeated."""
_LONGEST_REST_S = 30.0
"""A peer that asks to be left alone for longer is left alone for this long."""


class PeerFailed(Unavailable):
    """One peer did not serve what it was asked for."""

    def __init__(
        self, peer: str, reason: str, *, lied: bool = False, absent: bool = False, rest_s: float | None = None
    ) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason
        self.lied = lied
        """It sent something else than was asked for."""
        self.absent = absent
        """It answered properly that it does not have it, or not for us."""
        self.rest_s = rest_s
        """It is busy and wants to be asked again after so many seconds."""


class PeerClient:
    """Makes requests to peers; any number of threads may share one. Connections are kept and used again.

    connections        open at once, over all peers
    connect_timeout_s  for finding and reaching a machine; answering has its own limit in each request
    introduce          what peers are told about who asks; by default nothing
    """

    def __init__(
        self, *, connections: int = 32, connect_timeout_s: float = 5.0, introduce: Introduce | None = None
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._introduce = introduce
        self._client = httpx.Client(transport=DeadlineTransport(connections), follow_redirects=False, trust_env=False)

    def get(
        self,
        peer: str,
        path: str,
        *,
        max_bytes: int,
        timeout_s: float,
        accept: str = "*/*",
        abandon: threading.Event | None = None,
    ) -> bytes:
        """The body of one answer. Raises PeerFailed: refused, late, too long, cut short, or an error status.

        abandon  set by another thread to end the request early, which then fails
        """
        with self.stream(
            peer, path, max_bytes=max_bytes, timeout_s=timeout_s, accept=accept, abandon=abandon
        ) as chunks:
            return b"".join(chunks)

    def post(
        self,
        peer: str,
        path: str,
        *,
        upload: Iterable[bytes] | None = None,
        max_bytes: int,
        timeout_s: float,
        abandon: threading.Event | None = None,
    ) -> bytes:
        """The body of the answer to a POST, whose body is one file of multipart/form-data. Raises as `get`."""
        headers = {}
        if upload is not None:
            boundary = os.urandom(16).hex()
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
            upload = _multipart(upload, boundary)
        with self._request(
            "POST", peer, path, headers, upload, max_bytes=max_bytes, timeout_s=timeout_s, abandon=abandon
        ) as chunks:
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
        self,
        peer: str,
        path: str,
        *,
        max_bytes: int,
        timeout_s: float,
        accept: str = "*/*",
        abandon: threading.Event | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """The body as it arrives. Raises PeerFailed, as `get`, inside the block as well."""
        introduction = self._introduce(peer) if self._introduce is not None else {}
        headers = {"Accept": accept, **introduction}
        with self._request(
            "GET", peer, path, headers, None, max_bytes=max_bytes, timeout_s=timeout_s, abandon=abandon
        ) as chunks:
            yield chunks

    @contextmanager
    def _request(
        self,
        method: str,
        peer: str,
        path: str,
        headers: Mapping[str, str],
        content: Iterable[bytes] | None,
        *,
        max_bytes: int,
        timeout_s: float,
        abandon: threading.Event | None,
    ) -> Iterator[Iterator[bytes]]:
        url = checked_url(peer) + path
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, self._connect_timeout_s))
        # A server that compresses could send a gigabyte in a kilobyte.
        plain = {"Accept-Encoding": "identity", "User-Agent": "cupel", **headers}
        with limited(timeout_s, abandon):
            with _blaming(peer, timeout_s):
                request = self._client.build_request(method, url, headers=plain, content=content, timeout=timeout)
                response = self._client.send(request, stream=True)
            try:
                _check_answer(peer, response, max_bytes, timeout_s)
                yield _bounded(peer, response.iter_raw(), max_bytes, timeout_s)
            finally:
                response.close()

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


def _check_answer(peer: str, response: httpx.Response, max_bytes: int, timeout_s: float) -> None:
    if response.status_code in (404, 410):
        raise PeerFailed(peer, "does not have it (404)", absent=True)
    if response.status_code in (401, 403):
        reason = _read_reason(peer, response, timeout_s)
        raise PeerFailed(peer, f"refuses it ({response.status_code}: {reason})", absent=True)
    rest_s = _read_rest(response)
    if rest_s is not None:
        raise PeerFailed(peer, f"is busy ({response.status_code}), asks for {rest_s:g} s", rest_s=rest_s)
    if response.status_code == 500:
        raise PeerFailed(peer, f"answered 500: {_read_reason(peer, response, timeout_s)}")
    if response.status_code != 200:
        raise PeerFailed(peer, f"answered {response.status_code} {response.reason_phrase}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise PeerFailed(peer, "sent a compressed answer, which was not asked for", lied=True)
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise PeerFailed(peer, f"announced {int(length[:20]):,} bytes where at most {max_bytes:,} are taken", lied=True)


def _multipart(chunks: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """One file as the body of a form."""
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    yield from chunks
    yield f"\r\n--{boundary}--\r\n".encode()


def _read_reason(peer: str, response: httpx.Response, timeout_s: float) -> str:
    """The first line of a refusal, fit to be printed."""
    text = b""
    for chunk in _bounded(peer, response.iter_raw(), 1 << 16, timeout_s):
        text += chunk
        if len(text) >= _LONGEST_REASON:
            break
    first = text[:_LONGEST_REASON].decode("ascii", "replace").strip().partition("\n")[0]
    return "".join(c if c.isprintable() and c != "\ufffd" else "?" for c in first) or "no reason given"


def _read_rest(response: httpx.Response) -> float | None:
    """Seconds to wait, where an answer says that the peer is busy now."""
    stated = response.headers.get("Retry-After", "")
    if response.status_code not in (429, 503) or not (stated.isascii() and stated.isdigit()):
        return 1.0 if response.status_code == 429 else None
    return min(float(stated[:6]), _LONGEST_REST_S)


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
    except Abandoned:
        raise PeerFailed(peer, "is asked no longer") from None
    except (httpcore.ConnectTimeout, httpcore.ConnectError) as error:
        raise PeerFailed(peer, f"cannot be reached: {error}") from None
    except (httpcore.TimeoutException, httpx.TimeoutException):
        raise PeerFailed(peer, f"not done within {timeout_s:.1f} s") from None
    except (httpcore.RemoteProtocolError, httpcore.NetworkError) as error:
        raise PeerFailed(peer, f"broke off: {error or type(error).__name__}") from None
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise PeerFailed(peer, f"cannot be asked: {error or type(error).__name__}") from None
