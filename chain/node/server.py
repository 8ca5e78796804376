"""The chain's process: HTTP in front, a clock that makes blocks, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from eth import EVM_RECURSION_LIMIT

from cupel.chain.node.chain import EmbeddedChain
from cupel.chain.node.rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    Rpc,
    RpcError,
)
from cupel.protocol.errors import UsageError
from cupel.protocol.json_text import parse_json

MAX_REQUEST_BYTES = 5 * 1024 * 1024
MAX_BATCH = 1_000
DEFAULT_PORT = 8545

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How one embedded chain runs."""

    directory: Path
    """Where blocks and state are kept."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 lets the system choose."""
    block_time_s: float = 1.0
    """Seconds between blocks, empty ones included, because heights move a run's phases."""
    chain_id: int | None = None
    """Fixed at genesis; None takes what is there."""
    balances_wei: Mapping[bytes, int]
    """Genesis funds by address."""
    allow_reorg: bool = False
    """Serve `cupel_reorg`, which undoes blocks: for tests."""
    allow_skip: bool = False
    """Serve `cupel_skip`, which adds empty blocks at once: for the demo's end."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.block_time_s <= 3600:
            raise UsageError(f"--block-time {self.block_time_s}: must be from 0.01 to 3600 seconds")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: must be from 0 to 65535")
        if self.chain_id is not None and not 1 <= self.chain_id < 2**63:
            raise UsageError(f"--chain-id {self.chain_id}: must be from 1 to 2^63 - 1")


def run_node(settings: NodeSettings, *, announce: Callable[[str, EmbeddedChain], None]) -> None:
    """Run the chain until SIGTERM or SIGINT. `announce(url, chain)` is called once it answers.

    Raises   UsageError: data directory or port cannot be used
    """
    # What the EVM's own calls within calls need. py_ecc raises it to 100,000 on import: then one request of as many
    # brackets would overflow the stack of the JSON reader, and end the chain.
    sys.setrecursionlimit(EVM_RECURSION_LIMIT)
    chain = EmbeddedChain.create_or_open(
        settings.directory,
        chain_id=settings.chain_id,
        balances=settings.balances_wei,
        timestamp=int(time.time()),
    )
    try:
        asyncio.run(_serve(settings, chain, announce))
    finally:
        chain.close()


async def _serve(settings: NodeSettings, chain: EmbeddedChain, announce: Callable[[str, EmbeddedChain], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(make_app(chain, settings), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}): "
            "is another chain running? choose another with --port"
        ) from error
    port = runner.addresses[0][1]
    announce(f"http://{settings.host}:{port}", chain)
    producing = asyncio.create_task(produce_blocks(chain, settings.block_time_s))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({producing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    producing.cancel()  # between blocks this only wakes a sleep; within one nothing was stored yet
    ended = await asyncio.gather(producing, return_exceptions=True)
    await runner.cleanup()
    if isinstance(ended[0], Exception):
        raise ended[0]


async def produce_blocks(chain: EmbeddedChain, block_time_s: float) -> None:
    """A block each `block_time_s`. After a pause it goes on from now: missed blocks are not made up for."""
    due = time.monotonic() + block_time_s
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        started = time.monotonic()
        block = await chain.produce(
            int(time.time()),
            may_go_on=lambda started=started: time.monotonic() - started < block_time_s,  # type: ignore[misc]
        )
        logger.debug("block %d: %.1f ms", block.number, (time.monotonic() - started) * 1000)
        due = max(due + block_time_s, time.monotonic())


def make_app(chain: EmbeddedChain, settings: NodeSettings) -> web.Application:
    rpc = Rpc(
        chain,
        block_time_s=settings.block_time_s,
        allow_reorg=settings.allow_reorg,
        allow_skip=settings.allow_skip,
    )
    local = _is_loopback(settings.host)

    async def handle(request: web.Request) -> web.Response:
        if local and not _is_loopback(request.url.host or ""):
            # A web page whose name was made to point here must not reach the chain (DNS rebinding).
            return web.Response(status=403, text="invalid host specified\n")
        if request.content_type != "application/json":
            return web.Response(status=415, text="invalid content type, only application/json is supported\n")
        return web.json_response(text=await _answer_body(rpc, await request.read()))

    async def greet(_: web.Request) -> web.Response:
        return web.Response(text="Cupel's embedded chain: POST JSON-RPC here.\n")

    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.router.add_post("/", handle)
    app.router.add_get("/", greet)
    return app


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _answer_body(rpc: Rpc, body: bytes) -> str:
    try:
        request = parse_json(body)
    except (ValueError, RecursionError):
        return json.dumps(_make_error(None, RpcError(PARSE_ERROR, "parse error: the body is not JSON")))
    if not isinstance(request, list):
        answer = _answer_one(rpc, request)
        return "" if answer is None else json.dumps(answer)
    if not request:
        return json.dumps(_make_error(None, RpcError(INVALID_REQUEST, "empty batch")))
    if len(request) > MAX_BATCH:
        return json.dumps(_make_error(None, RpcError(INVALID_REQUEST, f"batch too large: the limit is {MAX_BATCH}")))
    answers = []
    for one in request:
        answers.append(_answer_one(rpc, one))
        await asyncio.sleep(0)
    return json.dumps([answer for answer in answers if answer is not None])


def _answer_one(rpc: Rpc, request: Any) -> Any:
    """The answer object, or None to a notification."""
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return _make_error(None, RpcError(INVALID_REQUEST, "invalid request: expected an object with a method"))
    identifier = request.get("id")
    params = request.get("params") or []
    try:
        if not isinstance(params, list):
            raise RpcError(INVALID_PARAMS, "non-array args: parameters are given by position")
        answer = {"jsonrpc": "2.0", "id": identifier, "result": rpc.answer(request["method"], params)}
    except RpcError as error:
        answer = _make_error(identifier, error)
    except Exception:
        # The edge of the process: a fault in one answer must not end the chain for everybody.
        logger.exception("fault while answering %s", request["method"])
        answer = _make_error(identifier, RpcError(INTERNAL_ERROR, "internal error: see the chain's log"))
    return answer if "id" in request else None


def _make_error(identifier: Any, error: RpcError) -> Any:
    return {"jsonrpc": "2.0", "id": identifier, "error": error.as_json()}
