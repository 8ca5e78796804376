"""Two real chains under one interface, so that a test of the client runs on both: the embedded one and anvil."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import httpx
import pytest
from chain_process import ETH, KEYS, ChainProcess

from cupel.chain.keys import LocalSigner


class Chain(Protocol):
    """A chain process a test controls."""

    url: str

    def ask(self, method: str, *params: Any) -> Any: ...

    def reorg(self, depth: int, *, keep_transactions: bool) -> None:
        """Put other blocks in place of the last `depth`."""

    def kill(self) -> None: ...


def undo_from(chain: Chain, first: int, *, keep_transactions: bool = False) -> None:
    """Put other blocks in place of this one and all after it, however many are made while it is asked for."""

    def read_hash() -> str:
        return str(chain.ask("eth_getBlockByNumber", hex(first), False)["hash"])

    undone = read_hash()
    while read_hash() == undone:
        chain.reorg(int(chain.ask("eth_blockNumber"), 16) - first + 1, keep_transactions=keep_transactions)


class EmbeddedChain(ChainProcess):
    """`cupel chain`, with re-orgs allowed."""

    def __init__(self, directory: Path, *, block_time_s: float = 0.1) -> None:
        super().__init__(directory, "--allow-reorg", block_time_s=block_time_s)

    def reorg(self, depth: int, *, keep_transactions: bool) -> None:
        self.ask("cupel_reorg", depth, keep_transactions)


def find_anvil() -> str | None:
    """Beside the contracts' other tools (npm), or on the path."""
    tools = Path(__file__).resolve().parent.parent / "contracts" / "node_modules" / "@foundry-rs"
    return next((str(path) for path in tools.glob("anvil-*/bin/anvil*")), shutil.which("anvil"))


ANVIL = find_anvil()


class AnvilChain:
    """Foundry's anvil (revm), an independent implementation of the same rules."""

    def __init__(self, *, block_time_s: float = 0.1, fund: tuple[LocalSigner, ...] = KEYS[:-1]) -> None:
        self._block_time_s, self._fund = block_time_s, fund
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(trust_env=False, verify=False, timeout=30)

    def __enter__(self) -> AnvilChain:
        assert ANVIL is not None
        # Its clock, like the embedded chain's, goes on a second a block at least: so intervals may be shorter.
        arguments = ["--port", str(self._port), "--silent", "--hardfork", "prague", "--host", "127.0.0.1"]
        arguments += ["--block-time", str(self._block_time_s)]
        self._process = subprocess.Popen([ANVIL, *arguments])
        deadline = time.monotonic() + 30
        while True:
            try:
                for signer in self._fund:
                    self.ask("anvil_setBalance", signer.address, hex(1000 * ETH))
                return self
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._http.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._http.post(self.url, json=body).json()
        assert "error" not in answer, answer
        return answer["result"]

    def reorg(self, depth: int, *, keep_transactions: bool) -> None:
        lost = []
        if keep_transactions:
            newest = int(self.ask("eth_blockNumber"), 16)
            for number in range(newest - depth + 1, newest + 1):
                block = self.ask("eth_getBlockByNumber", hex(number), True)
                lost += [self.ask("eth_getRawTransactionByHash", one["hash"]) for one in block["transactions"]]
        self.ask("anvil_reorg", depth, [])
        for raw in lost:
            self.ask("eth_sendRawTransaction", raw)


@contextmanager
def open_chain(kind: str, directory: Path, *, block_time_s: float = 0.1) -> Iterator[Chain]:
    """A fresh chain of a kind; skips the test where anvil is not installed, except in CI."""
    if kind == "embedded":
        with EmbeddedChain(directory / "chain", block_time_s=block_time_s) as embedded:
            yield embedded
        return
    if ANVIL is None:
        if os.environ.get("CI"):
            pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
        pytest.skip("needs anvil: Node.js and `npm install` in contracts/")
    with AnvilChain(block_time_s=block_time_s) as anvil:
        yield anvil


BOTH = [pytest.param("embedded", id="embedded"), pytest.param("anvil", id="anvil", marks=pytest.mark.node)]
"""For a fixture's `params`."""
