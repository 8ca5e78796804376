"""Serves the blocks of a store over HTTP, by the trustless gateway protocol.

    GET|HEAD /ipfs/{cid}?format=raw    one block                     application/vnd.ipld.raw
    GET|HEAD /ipfs/{cid}?format=car    the file, depth first         application/vnd.ipld.car

Whoever fetches checks every block, so the server needs no trust and gives nothing but blocks: no rendered files, no
paths, no directories. An `Access` may keep blocks from some who ask. The aiohttp server runs in a thread of its own
and takes further routes, so that a process serves everything on one port.
Source: https://specs.ipfs.tech/http-gateways/trustless-gateway/
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cupel.network.ipfs.admission import Access, Admission, PeerLimits
from cupel.network.ipfs.blockstore import BlockMissing, BlockStore
from cupel.network.ipfs.car import car_header, car_section
from cupel.network.ipfs.cid import EMPTY_IDENTITY_CID, ParsedCid, parse_cid
from cupel.network.ipfs.connections import ConnectionLimits, Crowd, host_of
from cupel.network.ipfs.manners import PacedWriter, PaceLimits, quiet_logger
from cupel.network.ipfs.negotiation import CAR_TYPE, RAW_TYPE, Car, Raw, plain, wanted
from cupel.network.ipfs.unixfs import Part, Walk
from cupel.protocol.errors import MalformedBlock, MalformedInput, Unavailable, UsageError

log = logging.getLogger(__name__)

_IMMUTABLE = "public, max-age=29030400, immutable"
_REFUSALS: Mapping[int, type[web.HTTPException]] = {
    401: web.HTTPUnauthorized,
    403: web.HTTPForbidden,
    404: web.HTTPNotFound,
    503: web.HTTPServiceUnavailable,
}
JsonHandler = Callable[[Mapping[str, str]], object]
"""From a route's path parameters to something `json` can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What the server gives before it says no."""

    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    requests: int = 64
    """Requests in hand; more wait, and are then answered 503."""
    reserved_requests: int = 16
    """Of these, those for known peers alone; at most a quarter."""
    wait_s: float = 10.0
    """How long a request may wait for room."""
    body_bytes: int = 1 << 20
    """Longest request body a further route may take."""
    pace: PaceLimits = field(default_factory=PaceLimits)
    idle_timeout_s: float = 60.0
    """How long a connection may stay open between requests."""
    peer: PeerLimits = field(default_factory=PeerLimits)
    """What one peer is given of all this; more is answered 429."""


def json_route(path: str, handler: JsonHandler) -> web.RouteDef:
    """A GET route that answers what a plain function returns, as JSON.

    handler  runs in a worker thread; MalformedInput becomes 400, Unavailable 404
    """

    async def answer(request: web.Request) -> web.Response:
        try:
            value = await asyncio.get_running_loop().run_in_executor(None, handler, dict(request.match_info))
        except Unavailable as error:
            raise plain(web.HTTPNotFound, str(error)) from None
        except MalformedInput as error:
            raise plain(web.HTTPBadRequest, str(error)) from None
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return web.Response(text=text, content_type="application/json", headers={"Cache-Control": "no-store"})

    return web.get(path, answer)


class GatewayServer:
    """An HTTP server over a blockstore, in a background thread.

    port    0 takes a free one; `url` tells which
    routes  added to the same server before it starts, for example from `json_route`
    access  decides who gets which block; without it everybody gets every block
    """

    def __init__(
        self,
        blockstore: BlockStore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        routes: Sequence[web.AbstractRouteDef] = (),
        limits: GatewayLimits | None = None,
        access: Access | None = None,
    ) -> None:
        self._store = blockstore
        self._host, self._port = host, port
        self._routes = tuple(routes)
        self._limits = limits or GatewayLimits()
        self._access = access
        self._admission = Admission(
            self._limits.peer,
            time.monotonic,
            requests=self._limits.requests,
            reserved=self._limits.reserved_requests,
        )
        self._crowd = Crowd(self._limits.connections, self._admission.faults)
        # Not the threads that read blocks: who may have what is withheld may have to be asked of a chain that hangs.
        self._deciding = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gateway-access")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._waiting: Counter[str] = Counter()
        """Requests by peer for which there was no room yet."""
        self._freed = asyncio.Event()
        """Set, and replaced, whenever a request is over."""

    @property
    def admission(self) -> Admission:
        """Who was let in, and what was sent; its counts may be read from any thread."""
        return self._admission

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self) -> None:
        """Return once the port answers. Raises UsageError if it cannot be bound."""
        if self._thread is not None:
            raise AssertionError("this gateway is already running")
        listener = self._bind()
        self._port = int(listener.getsockname()[1])
        ready: Future[None] = Future()

        def serve() -> None:
            try:
                asyncio.run(self._serve(listener, ready))
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        self._thread = threading.Thread(target=serve, name=f"gateway:{self._port}", daemon=True)
        self._thread.start()
        ready.result()

    def stop(self) -> None:
        """Finish what is in hand, briefly, and close. Safe to call twice."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = self._stopping = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _bind(self) -> socket.socket:
        try:
            family, *_, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"cannot listen on {self._host}: {error}") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise UsageError(f"cannot listen on {self.url}: {error.strerror}; choose another --port") from error
        return listener

    async def _serve(self, listener: socket.socket, ready: Future[None]) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=4, thread_name_prefix="gateway-disk"))
        application = web.Application(middlewares=[self._guard()], client_max_size=self._limits.body_bytes)
        application.add_routes([web.get("/ipfs/{cid}", self._get), web.get("/ipfs/{cid}/{path:.*}", _no_paths)])
        application.add_routes(self._routes)
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=quiet_logger(log, self._admission.faults),
            keepalive_timeout=self._limits.idle_timeout_s,
            shutdown_timeout=2.0,
            max_line_size=4096,
            max_field_size=4096,
        )
        await runner.setup()
        server = runner.server
        if server is None:
            raise AssertionError("aiohttp set up no server")

        # aiohttp itself has no limit on connections.
        listening = await loop.create_server(self._crowd.factory(server), sock=listener, backlog=128)
        ready.set_result(None)
        try:
            await self._stopping.wait()
        finally:
            listening.close()
            await runner.cleanup()

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            known = await self._identify(request)
            connection = self._crowd.find(request.transport)
            if connection is None:
                raise ConnectionResetError("the client hung up")
            connection.heard(known)
            peer, is_known = known or _host(request), known is not None
            await self._wait_for_room(peer, is_known=is_known)
            if self._admission.count_free(is_known=is_known) <= 0:
                raise web.HTTPServiceUnavailable(
                    text="too many requests in hand; try again\n", headers={"Retry-After": "1"}
                )
            wait_s = 1.0 if self._admission.is_full(peer, is_known=is_known) else self._admission.enter(peer)
            if wait_s is not None:
                raise web.HTTPTooManyRequests(
                    text="more than one peer is given; ask again later\n",
                    headers={"Retry-After": str(max(1, math.ceil(wait_s)))},
                )
            connection.in_hand = True
            try:
                return await handler(request)
            except (ConnectionError, TimeoutError) as error:
                # The client went away or stopped reading; there is nobody to tell.
                self._admission.faults["slow" if isinstance(error, TimeoutError) else "hung up"] += 1
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the answer was not taken") from error
            finally:
                connection.in_hand = False
                self._admission.leave(peer)
                self._freed.set()
                self._freed = asyncio.Event()

        return guard

    async def _wait_for_room(self, peer: str, *, is_known: bool) -> None:
        """Until the server and the peer may have one more request in hand, or for as long as is waited at all.

        Some clients ask for all blocks of a file at once and take a refusal for the end.
        """
        if self._waiting[peer] >= self._limits.peer.waiting:
            return
        self._waiting[peer] += 1
        try:
            async with asyncio.timeout(self._limits.wait_s):
                while self._admission.is_full(peer, is_known=is_known):
                    await self._freed.wait()
        except TimeoutError:
            pass  # the guard says so
        finally:
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer]

    def _peer(self, request: web.Request) -> str:
        """Against whose limits a request counts."""
        authorization = request.headers.get("Authorization")
        known = self._access.known(authorization) if self._access is not None and authorization else None
        return known or _host(request)

    async def _identify(self, request: web.Request) -> str | None:
        """Which known peer asks, if one does."""
        authorization, access = request.headers.get("Authorization"), self._access
        if access is None or not authorization:
            return None
        known = access.known(authorization)
        # Reading a signature costs more than a look at a table: a host that asks too much is not given it.
        if known is not None or self._admission.compute_wait(_host(request)) is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._deciding, access.identify, authorization)

    async def _check_access(self, request: web.Request, cid: ParsedCid) -> None:
        """Raise what HTTP has for it unless this request may have `cid` and all below it."""
        access, loop = self._access, asyncio.get_running_loop()
        if access is None or await loop.run_in_executor(None, access.is_public, cid):
            return
        authorization = request.headers.get("Authorization")
        refusal = await loop.run_in_executor(self._deciding, access.refuse, cid, authorization)
        if refusal is None:
            return
        headers = {"Cache-Control": "no-store"}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Cupel"
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        raise _REFUSALS[refusal.status](text=refusal.reason + "\n", headers=headers)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["cid"]
        if text == EMPTY_IDENTITY_CID:
            return web.Response(body=b"", content_type=RAW_TYPE)
        try:
            cid = parse_cid(text)
        except MalformedInput as error:
            raise plain(web.HTTPBadRequest, str(error)) from None
        asked = wanted(request)
        await self._check_access(request, cid)
        if isinstance(asked, Raw):
            return await self._raw(request, cid)
        return await self._car(request, cid, asked)

    async def _raw(self, request: web.Request, cid: ParsedCid) -> web.StreamResponse:
        headers = self._headers(request, cid, etag=f'"{cid}.raw"', suffix="bin")
        if _unchanged(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        block = await self._block(cid)
        headers |= {"Content-Type": RAW_TYPE, "Content-Length": str(len(block))}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method != "HEAD":
            await self._writer(request, response).write(block)
            await response.write_eof()
        return response

    async def _car(self, request: web.Request, cid: ParsedCid, asked: Car) -> web.StreamResponse:
        tag = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
        headers = self._headers(request, cid, etag=f'W/"{cid}.car.{tag}"', suffix="car")
        headers["Content-Type"] = f"{CAR_TYPE}; version=1; order=dfs; dups={'y' if asked.repeats else 'n'}"
        if _unchanged(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        root = await self._block(cid)
        walk = Walk(cid)
        try:
            children = walk.open(walk.root, root) if asked.scope != "block" else []
        except MalformedBlock as error:
            raise plain(web.HTTPNotImplemented, f"only plain files are served whole: {error}") from None
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        writer = self._writer(request, response)
        await writer.write(car_header(cid) + car_section(cid, root))
        try:
            async for part, block in self._below(walk, children, repeats=asked.repeats):
                await writer.write(car_section(part, block))
        except (BlockMissing, MalformedBlock) as error:
            # A CAR has no place for an error: cut the connection, so that nobody takes what was sent for the whole.
            log.warning("CAR of %s ends early: %s", cid, error)
            raise ConnectionAbortedError(str(error)) from error
        await response.write_eof()
        return response

    async def _below(
        self, walk: Walk, children: list[Part], *, repeats: bool
    ) -> AsyncIterator[tuple[ParsedCid, bytes]]:
        sent: set[ParsedCid] = set()
        waiting = children[::-1]
        while waiting:
            part = waiting.pop()
            if part.cid in sent and not repeats:
                continue
            sent.add(part.cid)
            block = await asyncio.get_running_loop().run_in_executor(None, self._store.require, part.cid)
            waiting.extend(reversed(walk.open(part, block)))
            yield part.cid, block

    async def _block(self, cid: ParsedCid) -> bytes:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._store.require, cid)
        except BlockMissing:
            raise plain(web.HTTPNotFound, f"{cid}: not here") from None

    def _writer(self, request: web.Request, response: web.StreamResponse) -> PacedWriter:
        peer = self._peer(request)
        return PacedWriter(self._limits.pace, response, lambda size_bytes: self._admission.charge(peer, size_bytes))

    def _headers(self, request: web.Request, cid: ParsedCid, *, etag: str, suffix: str) -> dict[str, str]:
        # What was given to one peer for its signature is not for a cache in between to give to others.
        is_shared = self._access is None or "Authorization" not in request.headers
        return {
            "Cache-Control": _IMMUTABLE if is_shared else "private, no-store",
            "ETag": etag,
            "Vary": "Accept, Authorization",
            "X-Content-Type-Options": "nosniff",
            "X-Ipfs-Path": f"/ipfs/{cid}",
            "X-Ipfs-Roots": str(cid),
            "Content-Disposition": f'attachment; filename="{cid}.{suffix}"',
        }


def _host(request: web.Request) -> str:
    return f"ip {host_of(request.remote)}"


async def _no_paths(request: web.Request) -> web.StreamResponse:
    raise plain(web.HTTPNotImplemented, "paths below a CID are not resolved here; ask for the CID of the file itself")


def _unchanged(request: web.Request, etag: str) -> bool:
    """If-None-Match, compared weakly as RFC 9110 has it."""
    asked = request.headers.get("If-None-Match", "")
    return asked.strip() == "*" or etag.removeprefix("W/") in (
        tag.strip().removeprefix("W/") for tag in asked.split(",")
    )
