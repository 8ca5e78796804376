"""Proxies that stand between a node and the chain, and in front of a node's blocks, and spoil an answer when told to.

A fault is *armed* on a proxy and counts only once it hits a request. Everything else passes as it came.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web

T = TypeVar("T")
RPC_FAULTS = (
    "rpc hangs",
    "rpc error page",
    "rpc web page (200)",
    "rpc error -32005",
    "rpc refuses (429)",
    "rpc cut off",
    "rpc garbage",
    "rpc answer lost",
    "rpc slow",
)
PEER_FAULTS = ("peer silent", "peer slow", "peer truncated", "peer wrong bytes", "peer endless", "peer error page")
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive", "content-encoding"})
_HANG_S = 10.0
"""Longer than a node waits for one block."""
_ERROR_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(slots=True, kw_only=True)
class Armed:
    """One fault that waits for a request."""

    kind: str
    on_hit: Callable[[float], None]
    """Told the time at which it hit."""
    until: float
    """After this it is forgotten; `time.monotonic`."""


class Proxy:
    """One address that passes on to another."""

    def __init__(self, name: str, target: str | None, *, watch: Callable[[bytes, bytes], None] | None = None) -> None:
        """watch: shown each request's and each answer's body, before any fault"""
        self.name, self.target = name, target
        self.url = ""
        self._watch = watch
        self._armed: deque[Armed] = deque()

    def arm(self, fault: Armed) -> None:
        self._armed.append(fault)

    def take(self, request: web.Request) -> Armed | None:
        """The fault that this request meets."""
        while self._armed and self._armed[0].until < time.monotonic():
            self._armed.popleft()
        if not self._armed:
            return None
        # What a node serves besides blocks is not what the faults of peers are about.
        if self._armed[0].kind in PEER_FAULTS and not request.path.startswith("/ipfs/"):
            return None
        return self._armed.popleft()

    def note(self, request: bytes, answer: bytes) -> None:
        if self._watch is not None:
            self._watch(request, answer)


class ProxyServer:
    """All proxies, in a thread of their own."""

    def __init__(self, host: str, seed: int) -> None:
        self._host, self._random = host, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._session: aiohttp.ClientSession | None = None
        self._runners: list[web.AppRunner] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open_session())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def add(self, proxy: Proxy) -> Proxy:
        """Give it an address, at which it answers at once."""
        self._run(self._serve(proxy))
        return proxy

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(30)

    async def _open_session(self) -> None:
        timeout = aiohttp.ClientTimeout(total=60, sock_connect=5)
        self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False)

    async def _close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        assert self._session is not None
        await self._session.close()

    async def _serve(self, proxy: Proxy) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await self._handle(proxy, request)
            except (ConnectionError, aiohttp.ClientError):
                # Whoever asked has gone.
                return _drop(request)

        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self._host, 0)
        await site.start()
        self._runners.append(runner)
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # aiohttp tells a free port nowhere else
        proxy.url = f"http://{self._host}:{port}"

    async def _handle(self, proxy: Proxy, request: web.Request) -> web.StreamResponse:
        fault, body = proxy.take(request), await request.read()
        if fault is not None:
            fault.on_hit(time.monotonic())
        kind = None if fault is None else fault.kind
        if kind in ("rpc hangs", "peer silent"):
            await asyncio.sleep(_HANG_S)
            return _drop(request)
        if kind in ("rpc error page", "peer error page"):
            return web.Response(status=502, text=_ERROR_PAGE, content_type="text/html")
        if kind == "rpc web page (200)":
            return web.Response(text=_ERROR_PAGE, content_type="text/html")
        if kind == "rpc garbage":
            return web.Response(text='{"jsonrpc": "2.0", "id": [{', content_type="application/json")
        if kind == "rpc error -32005":
            return web.json_response(_limit_exceeded(body))
        if kind == "rpc refuses (429)":
            return web.Response(status=429, text="too many requests", headers={"Retry-After": "1"})
        if kind == "peer endless":
            return await self._pour(request)
        status, headers, answer = await self._forward(proxy, request, body)
        proxy.note(body, answer)
        if kind == "rpc answer lost":
            return _drop(request)
        if kind == "rpc slow":
            await asyncio.sleep(self._random.uniform(0.5, 3.0))
        if kind in ("rpc cut off", "peer truncated") and len(answer) > 1:
            return await _cut(request, status, headers, answer)
        if kind == "peer wrong bytes" and answer:
            at = self._random.randrange(len(answer))
            answer = answer[:at] + bytes([answer[at] ^ 1 << self._random.randrange(8)]) + answer[at + 1 :]
        if kind == "peer slow":
            return await _dribble(request, status, headers, answer)
        return web.Response(status=status, headers=headers, body=answer)

    async def _forward(self, proxy: Proxy, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self._session is not None
        if proxy.target is None:
            return 502, {"Content-Type": "text/html"}, _ERROR_PAGE.encode()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method, proxy.target + request.path_qs, headers=headers, data=body, allow_redirects=False
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
                return answer.status, kept, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            # As a reverse proxy does whose server is away.
            return 502, {"Content-Type": "text/html"}, _ERROR_PAGE.encode()

    async def _pour(self, request: web.Request) -> web.StreamResponse:
        """Bytes without an end, as fast as they are taken; a minute of it at most."""
        answer = web.StreamResponse(headers={"Content-Type": "application/vnd.ipld.raw"})
        await answer.prepare(request)
        chunk, deadline = self._random.randbytes(1 << 16), time.monotonic() + 60
        while time.monotonic() < deadline:
            await answer.write(chunk)
        return answer


def _limit_exceeded(body: bytes) -> Any:
    """What some providers answer instead of 429."""
    asked = json.loads(body)

    def refuse(one: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": one.get("id"), "error": {"code": -32005, "message": "limit exceeded"}}

    return [refuse(one) for one in asked] if isinstance(asked, list) else refuse(asked)


async def _cut(request: web.Request, status: int, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    """The first half, under the whole's length."""
    answer = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    return _drop(request)


async def _dribble(request: web.Request, status: int, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    """All of it, in twenty pieces over some seconds."""
    answer = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
    await answer.prepare(request)
    size = max(len(body) // 20, 1)
    for at in range(0, len(body), size):
        await answer.write(body[at : at + size])
        await asyncio.sleep(0.15)
    await answer.write_eof()
    return answer


def _drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without another word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
