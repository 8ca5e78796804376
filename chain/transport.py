"""JSON-RPC over HTTP through web3's provider, in values of our own.

Every request here may be repeated: reads change nothing, and a signed transaction sent twice is the same transaction.
So a node that restarts costs a pause, not a failure.
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any
from urllib.parse import urlsplit

import requests
from web3 import HTTPProvider
from web3.types import RPCEndpoint

from cupel.chain.errors import ChainUnreachable
from cupel.protocol.errors import UsageError

REQUEST_TIMEOUT_S = 30.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class RpcFault(Exception):
    """The node answered with an error."""

    def __init__(self, method: str, code: int, message: str, data: Any) -> None:
        super().__init__(f"{method}: {message} (code {code})")
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Transport:
    """Requests to one URL. Safe to use from several threads."""

    def __init__(self, url: str, *, patience_s: float, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not a JSON-RPC URL; it should look like http://127.0.0.1:8545")
        self.url = url
        self._patience_s = patience_s
        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=16)
        session.mount(f"{parts.scheme}://", adapter)
        if _is_loopback(parts.hostname):
            session.trust_env = False  # a proxy from the environment could not reach this machine
        self._session = session
        self._provider = HTTPProvider(
            url, request_kwargs={"timeout": timeout_s}, session=session, exception_retry_configuration=None
        )

    def close(self) -> None:
        self._session.close()

    def request(self, method: str, *params: Any, patience_s: float | None = None) -> Any:
        """The result, as JSON gives it.

        Raises   RpcFault: the node answered with an error
                 ChainUnreachable: nothing answered for `patience_s` (by default the transport's)
        """
        patience = self._patience_s if patience_s is None else patience_s
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE_S
        while True:
            try:
                return self._request_once(method, params)
            except (requests.RequestException, ConnectionError, ValueError) as error:
                # ValueError: an answer that is not JSON, as from something else on that port.
                if time.monotonic() + pause > deadline:
                    raise ChainUnreachable(self.url, _explain(error)) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _request_once(self, method: str, params: tuple[Any, ...]) -> Any:
        answer: Any = self._provider.make_request(RPCEndpoint(method), list(params))
        if not isinstance(answer, dict):
            raise ValueError(f"answered {str(answer)[:80]!r}, not JSON-RPC")
        error = answer.get("error")
        if error is not None:
            error = error if isinstance(error, dict) else {"message": str(error)}
            raise RpcFault(method, int(error.get("code", 0)), str(error.get("message", "")), error.get("data"))
        if "result" not in answer:
            raise ValueError("answered neither a result nor an error")
        return answer["result"]


def _explain(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError | ConnectionError):
        return "connection refused or lost"
    return f"{type(error).__name__}: {error}"[:200]
