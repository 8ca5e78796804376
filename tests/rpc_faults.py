"""A faulty JSON-RPC endpoint: a real HTTP server in front of a real chain, which does what a test tells it to.

    with FaultyRpc(chain.url) as proxy:
        client = ChainClient([proxy.url, chain.url])
        proxy.fault = Fault.HANG
        ...
        proxy.fault = None

Faults of the connection are in `Fault`. What it says about the chain is bent by the attributes `lag_blocks`,
`base_fee_wei`, `least_fee_wei`, `swallow`, `bend` and so on; all of them may change at any time, from any thread.
"""

from __future__ import annotations

import contextlib
import enum
import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
from eth_account.typed_transactions import TypedTransaction
from eth_hash.auto import keccak
from hexbytes import HexBytes


class Fault(enum.Enum):
    """What happens to a request instead of an answer."""

    HANG = "nothing comes back until the fault is lifted"
    DRIP = "an answer begins and never ends, a byte at a time"
    ENDLESS = "an answer begins and never ends, as fast as it can"
    DROP = "the connection is closed without a word"
    LOSE_ANSWER = "the chain is asked, and its answer is lost"
    HTML_502 = "a gateway's error page"
    HTML_200 = "a web page, as if all were well"
    GARBAGE = "JSON that is no JSON-RPC"
    TOO_MANY = "HTTP 429 with Retry-After"
    LIMIT_EXCEEDED = "JSON-RPC error -32005"
    UNAUTHORIZED = "HTTP 401"
    INTERNAL_ERROR = "JSON-RPC error -32603"


_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>" + b"<p>secret-detail</p>" * 200
Bend = Callable[[str, list[Any], Any], Any]
"""(method, params, the chain's true result) -> what the endpoint says instead."""


class FaultyRpc:
    """Serves until the block ends. `requests` counts methods asked, answered or not."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.fault: Fault | None = None
        self.fault_methods: frozenset[str] | None = None
        """Methods the fault hits; None: all."""
        self.retry_after_s: float = 1
        self.lag_blocks = 0
        """It knows nothing of this many newest blocks."""
        self.frozen_at: int | None = None
        """Its head stands still at this height."""
        self.base_fee_wei: int | None = None
        """What it says blocks cost now."""
        self.least_fee_wei = 0
        """Transactions that offer less per gas wait here and reach nobody, as where the market asks for more."""
        self.swallow = False
        """Transactions are accepted and forgotten."""
        self.refusal: str | None = None
        """Transactions are refused in these words."""
        self.bend: Bend | None = None
        self.requests: Counter[str] = Counter()
        self.held: dict[str, str] = {}
        """Transactions kept back by `least_fee_wei`, by hash."""
        self._lifted = threading.Event()
        self._http = httpx.Client(trust_env=False, verify=False, timeout=60)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyRpc:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fault = None
        self._lifted.set()
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def release(self) -> None:
        """Let the market fall: what was kept back reaches the chain."""
        self.least_fee_wei = 0
        for raw in reversed(list(self.held.values())):  # the dearest of a nonce first
            with contextlib.suppress(AssertionError):
                self.ask("eth_sendRawTransaction", raw)
        self.held.clear()

    def ask(self, method: str, *params: Any) -> Any:
        """What the chain behind says. Raises AssertionError where that is an error."""
        answer = self._forward({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        assert "error" not in answer, answer
        return answer["result"]

    def _forward(self, request: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.post(self._upstream, json=request).json()
        return answer

    def _make_handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with contextlib.suppress(OSError):
                    proxy._serve(self, json.loads(body))

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler

    def _serve(self, handler: http.server.BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        method = request["method"]
        self.requests[method] += 1
        fault = self.fault if self.fault_methods is None or method in self.fault_methods else None
        if fault is not None:
            self._fail(handler, fault, request)
            return
        try:
            answer = self._answer(method, request.get("params") or [], request)
        except (httpx.HTTPError, RuntimeError):
            handler.close_connection = True  # the chain itself is gone: so is its endpoint
            return
        _reply(handler, 200, "application/json", json.dumps(answer | {"id": request["id"]}).encode())

    def _fail(self, handler: http.server.BaseHTTPRequestHandler, fault: Fault, request: dict[str, Any]) -> None:
        if fault is Fault.HANG:
            while self.fault is Fault.HANG and not self._lifted.wait(0.02):
                pass
            handler.close_connection = True
        elif fault in (Fault.DRIP, Fault.ENDLESS):
            handler.close_connection = True
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.end_headers()
            while self.fault is fault and not self._lifted.wait(0.05 if fault is Fault.DRIP else 0):
                handler.wfile.write(b" " if fault is Fault.DRIP else b" " * (1 << 20))
        elif fault in (Fault.DROP, Fault.LOSE_ANSWER):
            if fault is Fault.LOSE_ANSWER:
                self._forward(request)
            handler.close_connection = True
        elif fault is Fault.HTML_502:
            _reply(handler, 502, "text/html; charset=utf-8", _PAGE)
        elif fault is Fault.HTML_200:
            _reply(handler, 200, "text/html", _PAGE)
        elif fault is Fault.GARBAGE:
            _reply(handler, 200, "application/json", b'{"hello": [1, 2, 3]}')
        elif fault is Fault.TOO_MANY:
            _reply(handler, 429, "text/plain", b"slow down", {"Retry-After": f"{self.retry_after_s:g}"})
        elif fault is Fault.UNAUTHORIZED:
            _reply(handler, 401, "text/plain", b"no such project")
        else:
            code = -32005 if fault is Fault.LIMIT_EXCEEDED else -32603
            error = {"code": code, "message": "limit exceeded" if code == -32005 else "internal error"}
            answer = {"jsonrpc": "2.0", "id": request["id"], "error": error}
            _reply(handler, 200, "application/json", json.dumps(answer).encode())

    # What it says about the chain

    def _answer(self, method: str, params: list[Any], request: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_sendRawTransaction":
            transaction_hash = "0x" + keccak(bytes.fromhex(params[0][2:])).hex()
            if self.refusal is not None:
                return {"jsonrpc": "2.0", "error": {"code": -32000, "message": self.refusal}}
            if self.swallow:
                return {"jsonrpc": "2.0", "result": transaction_hash}
            if _get_max_fee(params[0]) < self.least_fee_wei:
                self.held[transaction_hash] = params[0]
                return {"jsonrpc": "2.0", "result": transaction_hash}
        if method == "eth_getTransactionByHash" and params[0] in self.held:
            return {"jsonrpc": "2.0", "result": {"hash": params[0], "blockNumber": None}}
        known = self._get_known_height()
        if known is not None:
            params = [hex(known) if one in ("latest", "pending") else one for one in params]
            request = request | {"params": params}
            if method == "eth_blockNumber":
                return {"jsonrpc": "2.0", "result": hex(known)}
        answer = self._forward(request)
        if "result" not in answer:
            return answer
        result = answer["result"]
        if known is not None and isinstance(result, dict) and _get_height(method, result) > known:
            result = None
        if self.base_fee_wei is not None and method == "eth_getBlockByNumber" and result is not None:
            result = result | {"baseFeePerGas": hex(self.base_fee_wei)}
        if self.bend is not None:
            result = self.bend(method, params, result)
        return answer | {"result": result}

    def _get_known_height(self) -> int | None:
        if not self.lag_blocks and self.frozen_at is None:
            return None
        newest = int(self.ask("eth_blockNumber"), 16) - self.lag_blocks
        return max(0, newest if self.frozen_at is None else min(newest, self.frozen_at))


def _get_height(method: str, result: dict[str, Any]) -> int:
    field = result.get("number") if method.startswith("eth_getBlockBy") else result.get("blockNumber")
    return 0 if field is None else int(field, 16)


def _get_max_fee(raw: str) -> int:
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return int(fields["maxFeePerGas"])


def _reply(
    handler: http.server.BaseHTTPRequestHandler,
    status: int,
    kind: str,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def wait_until(condition: Callable[[], object], *, timeout_s: float = 60.0, what: str = "it") -> None:
    """Raises AssertionError when `condition` stays false that long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s:g} s"
        time.sleep(0.02)
