"""The chains a test network can stand on: our embedded one, and anvil as a second, independent implementation."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest
from chain_process import ETH, ChainProcess
from chain_worlds import find_anvil

from cupel.chain.keys import LocalSigner
from cupel.chain.transport import Silent, Transport

FUNDS_WEI = 1000 * ETH


class AnyChain(Protocol):
    """A chain as a process: started, killed, started again."""

    url: str

    def start(self, *, fund: Sequence[LocalSigner]) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> int: ...


class AnvilProcess:
    """`anvil` under the same rules, chain id and funds as the embedded chain; its state ends with it."""

    def __init__(self, folder: Path, *, block_time_s: float, host: str) -> None:
        self._folder, self._block_time_s, self._host = folder, block_time_s, host
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *, fund: Sequence[LocalSigner]) -> None:
        """Start and wait until it answers; skips the test where there is no anvil."""
        anvil = find_anvil()
        if anvil is None:
            if os.environ.get("CI"):
                pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
            pytest.skip("needs anvil: Node.js and `npm install` in contracts/")
        with socket.socket() as free:
            free.bind((self._host, 0))
            port = free.getsockname()[1]
        self.url = f"http://{self._host}:{port}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "anvil.log").open("ab") as sink:
            self._process = subprocess.Popen(
                [
                    anvil, "--port", str(port), "--host", self._host, "--chain-id", "31337", "--hardfork", "prague",
                    "--accounts", "1", "--block-time", str(self._block_time_s),
                ],
                stdout=sink,
                stderr=sink,
            )  # fmt: skip
        transport = Transport(self.url)
        try:
            self._wait(transport)
            for signer in fund:
                transport.ask("anvil_setBalance", (signer.address, hex(FUNDS_WEI)), timeout_s=10.0)
        finally:
            transport.close()

    def _wait(self, transport: Transport) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                transport.ask("eth_chainId", (), timeout_s=2.0)
                return
            except Silent:
                assert self._process is not None
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        code, self._process = self._process.wait(30), None
        return code


def open_chain(kind: str, folder: Path, *, block_time_s: float, host: str, arguments: Sequence[str] = ()) -> AnyChain:
    """`embedded` or `anvil`, not started yet."""
    if kind == "anvil":
        return AnvilProcess(folder, block_time_s=block_time_s, host=host)
    if kind == "embedded":
        return ChainProcess(folder, "--host", host, *arguments, block_time_s=block_time_s)
    raise AssertionError(f"no chain is called {kind!r}")


def choose_chain(arguments: Sequence[str] = ()) -> str:
    """For a network whose chain is not what is tested: anvil where there is one.

    Nodes ask a chain all the time, and py-evm needs a hundred times longer for an answer: it was two fifths of what
    such a test took of the processor. Options of the embedded chain's command line ask for that one.
    """
    return "anvil" if find_anvil() is not None and not arguments else "embedded"


__all__ = ["AnvilProcess", "AnyChain", "choose_chain", "find_anvil", "open_chain"]
