"""JSON-RPC over HTTP to one URL: one request, one answer or the reason why there is none.

Bounded whatever the other side does: a deadline for the whole exchange, name lookup included, a size for the answer,
and no word of it in our messages beyond what it is (an error page in HTML is "HTTP status 502 (text/html)").
"""

from __future__ import annotations

import email.utils
import ipaddress
import itertools
import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from cupel.chain.deadlines import GaveUp, call_within
from cupel.protocol.errors import ProtocolError, UsageError
from cupel.protocol.json_text import parse_json

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "gzip", "User-Agent": "cupel"}
_LIMIT_CODES = (-32005, -32007, -32029, -32097, 429)
"""JSON-RPC codes with which providers say that they were asked too often; some of them also mean too much at once."""
_TOO_MUCH = re.compile(r"result|range|blocks|response size|logs", re.IGNORECASE)
_DEFAULT_REST_S = 2.0
_LONGEST_REST_S = 300.0


class RpcFault(ProtocolError):
    """The node answered with an error."""

    def __init__(self, method: str, code: int, message: str, data: Any, *, node: str = "the node") -> None:
        super().__init__(f"{node} answered {method} with {message!r} (code {code})")
        self.method, self.code, self.message, self.data = method, code, message, data

    @property
    def revert_data(self) -> bytes | None:
        """What a REVERT returned, where the error is one. Nodes differ in where they put it."""
        data = self.data.get("data") if isinstance(self.data, dict) else self.data
        if isinstance(data, str):
            digits = data.removeprefix("Reverted ").removeprefix("0x")
            try:
                return bytes.fromhex(digits)
            except ValueError:
                return None
        return b"" if self.code == 3 or "revert" in self.message.lower() else None


class Silent(Exception):
    """Nothing usable came back; the message is a short reason."""


class Throttled(Silent):
    """The endpoint asks for fewer requests."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def redact_url(url: str) -> str:
    """A URL for messages and logs: without user, password, path and query, where providers put their keys."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    hidden = "/..." if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{host}{port}{hidden}"


def check_url(url: str) -> str:
    """Raises UsageError: not the URL of a JSON-RPC endpoint."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right:
        shown = re.sub(r"//[^/@]*@", "//...@", url)[:80]
        raise UsageError(f"{shown!r} is not a JSON-RPC URL; it should look like http://127.0.0.1:8545")
    return url


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Transport:
    """Requests to one URL. Safe to use from several threads. Raises UsageError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(check_url(url))
        self.name, self._url = redact_url(url), url
        self.is_local = is_loopback(parts.hostname or "")
        self._http = httpx.Client(
            # A proxy from the environment could not reach this machine; without TLS there are no certificates to load.
            trust_env=not self.is_local,
            verify=parts.scheme == "https",
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
        )
        self._ids = itertools.count(1)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, params: tuple[Any, ...], *, timeout_s: float) -> Any:
        """The result, as JSON gives it. Raises RpcFault, Silent, Throttled."""
        number = next(self._ids)
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}).encode()
        try:
            status, headers, content = call_within(timeout_s, lambda: self._post(body, timeout_s))
        except GaveUp as error:
            raise Silent(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, RuntimeError) as error:
            raise Silent(_explain(error)) from error
        return self._read_answer(method, number, status, headers, content)

    def _post(self, body: bytes, timeout_s: float) -> tuple[int, httpx.Headers, bytes]:
        deadline = time.monotonic() + timeout_s
        with self._http.stream("POST", self._url, content=body, headers=_HEADERS, timeout=timeout_s) as response:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "gzip", ""):
                # Compressed twice, a few bytes become gigabytes before the first chunk can be counted.
                raise Silent("an answer compressed in another way than was asked for")
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise Silent(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise Silent(f"the answer was not complete after {timeout_s:g} s")
            return response.status_code, response.headers, bytes(content)

    def _read_answer(self, method: str, number: int, status: int, headers: httpx.Headers, content: bytes) -> Any:
        kind = re.sub(r"[^\w/+.-].*", "", headers.get("content-type", ""))[:40] or "no content type"
        if status == 429 or (status == 503 and "retry-after" in headers):
            raise Throttled(f"HTTP status {status}: asked too often", retry_after_s=_read_retry_after(headers))
        try:
            answer = parse_json(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not ("result" in answer or answer.get("error") is not None):
            if status != 200:
                advice = ": is the key in the URL right?" if status in (401, 403) else ""
                raise Silent(f"HTTP status {status} ({kind}){advice}")
            raise Silent(f"answered {len(content)} bytes ({kind}) that are not JSON-RPC")
        error = answer.get("error")
        if error is not None:
            raise self._make_fault(method, error if isinstance(error, dict) else {"message": error}, headers)
        if answer.get("id") != number:
            raise Silent("answered another request than was asked")
        return answer["result"]

    def _make_fault(self, method: str, error: dict[str, Any], headers: httpx.Headers) -> Exception:
        try:
            code = int(error.get("code", 0))
        except (TypeError, ValueError, OverflowError):
            code = 0
        message = str(error.get("message", ""))[:500]
        if code in _LIMIT_CODES and not (method == "eth_getLogs" and _TOO_MUCH.search(message)):
            return Throttled(f"code {code}: asked too often", retry_after_s=_read_retry_after(headers))
        return RpcFault(method, code, message, error.get("data"), node=self.name)


def _read_retry_after(headers: httpx.Headers) -> float:
    """Seconds, from a number or a date."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            seconds = _DEFAULT_REST_S
    return min(max(seconds, 0.0), _LONGEST_REST_S) if seconds == seconds else _DEFAULT_REST_S


def _explain(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError) and "certificate" in str(error).lower():
        return "its TLS certificate is not valid"
    if isinstance(error, httpx.ConnectError) and re.search("name|nodename|resolve", str(error), re.IGNORECASE):
        return "its name is not known"
    if isinstance(error, httpx.NetworkError | OSError):
        return "connection refused or lost"
    if isinstance(error, httpx.ProtocolError | httpx.DecodingError):
        return "answered something that is not HTTP"
    return type(error).__name__
