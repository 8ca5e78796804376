"""The pages on real networks are programs: every command in them runs here, on anvil with the chain's own parameters.

What is changed: the RPC URL, the port, and the model, which is a tiny one. Where the page says a faucet, this pays.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chain_process import ETH
from node_world.chains import find_anvil

from cupel.chain.client import ChainClient
from cupel.chain.keys import list_keystores
from cupel.chain.run_contract import RunContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Phase
from cupel.chain.suitability import find_chain_problem
from cupel.protocol.arithmetic.cpu import cache

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```sh( service)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {
    "width": 16, "layers": 1, "heads": 2, "hidden": 32, "context": 16, "batch": 2, "segments": 3, "segment_steps": 2,
    "top_k": 8,
}  # fmt: skip
CHAINS = {
    "testnet": {"chain-id": 11155111, "gas-limit": 60_000_000, "block-base-fee-per-gas": 10**9, "seconds": 12},
    "l2": {"chain-id": 11155420, "gas-limit": 60_000_000, "block-base-fee-per-gas": 10**6, "seconds": 2},
}
"""Identifier, gas limit, base fee and seconds between timestamps; blocks come twice a second here."""

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def anvil_as(chain: str, folder: Path, *arguments: str) -> Iterator[str]:
    """The URL of a chain like that one."""
    anvil = find_anvil()
    if anvil is None:
        if os.environ.get("CI"):
            pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
        pytest.skip("needs anvil: Node.js and `npm install` in contracts/")
    rules, port = CHAINS[chain], find_port()
    options = [
        part for name in ("chain-id", "gas-limit", "block-base-fee-per-gas") for part in (f"--{name}", str(rules[name]))
    ]
    with (folder / "anvil.log").open("w") as log:
        process = subprocess.Popen(
            [anvil, "--port", str(port), "--host", "127.0.0.1", "--hardfork", "prague", "--accounts", "1",
             "--block-time", "0.5", *options, *arguments],
            stdout=log,
            stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        client = ChainClient(url, patience_s=30)
        client.request("anvil_setBlockTimestampInterval", rules["seconds"])
        client.close()
        yield url
    finally:
        process.kill()
        process.wait()


@dataclass
class Page:
    """A page being followed, in a folder of its own."""

    folder: Path
    url: str
    port: int = field(default_factory=find_port)
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, name: str) -> None:
        """Every block in order."""
        text = (ROOT / "docs" / "networks" / f"{name}.md").read_text()
        blocks = BLOCK.findall(text)
        assert text.count("```sh") == len(blocks)
        for service, commands in blocks:
            self.run(self.adapt(commands), is_service=bool(service))
            if commands.rstrip().endswith("network.toml") and "cp docs" in commands:
                self.shrink_model()
            if "wallet new" in commands:
                self.pay()

    def adapt(self, commands: str) -> str:
        """With this machine's URL and port; indented as on the page."""
        return commands.replace("https://your-node.example", self.url).replace("8080", str(self.port))

    def run(self, commands: str, *, is_service: bool) -> None:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RPC": self.url,
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "share"),
            # Both pages have the same model: its kernels are compiled once.
            "CUPEL_CACHE": str(cache.directory()),
            "OMP_NUM_THREADS": "1",
        }
        log = (self.folder / "commands.log").open("ab")
        with log:
            log.write(f"$ {commands}".encode())
            log.flush()
            process = subprocess.Popen(
                ["bash", "-euc", commands],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if is_service:
            self.services.append(process)
        else:
            assert process.wait(timeout=600) == 0, self.show_log()

    def show_log(self) -> str:
        return (self.folder / "commands.log").read_text()[-6000:]

    def shrink_model(self) -> None:
        path = self.folder / "network.toml"
        text = path.read_text().replace("8080", str(self.port))
        for key, value in TINY.items():
            text, count = re.subn(rf"(?m)^{key} = \d+$", f"{key} = {value}", text)
            assert count == 1, key
        path.write_text(text)

    def pay(self) -> None:
        client = ChainClient(self.url)
        for folder in (self.folder / "keys").iterdir():
            [entry] = list_keystores(folder)
            client.request("anvil_setBalance", entry.address, hex(ETH))
        client.close()

    def wait_for_a_merged_round(self) -> None:
        run_file = RunFile.read(self.folder / "my-run" / "run.json")
        client = ChainClient(self.url, chain_id=run_file.chain_id)
        run, deadline = RunContract(client, run_file.contract), time.monotonic() + 600
        while not any(run.get_round(r).merged for r in range(run.current_round())):
            assert time.monotonic() < deadline, self.show_log()
            for service in self.services:
                assert service.poll() is None, self.show_log()
            current = run.current()
            ahead = current.until - client.head().number
            if current.phase in (Phase.SEED, Phase.DRAW) and ahead > 5:
                # Nobody acts until that block: let the time pass at once.
                client.request("anvil_mine", hex(ahead - 2))
            time.sleep(0.5)
        client.close()

    def end(self) -> None:
        for service in self.services:
            if service.poll() is None:
                os.killpg(service.pid, signal.SIGKILL)
            service.wait()


@pytest.mark.parametrize("name", CHAINS)
def test_following_the_page_ends_in_a_merged_round(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with anvil_as(name, tmp_path) as url:
        page = Page(tmp_path, url)
        try:
            page.follow(name)
            page.wait_for_a_merged_round()
        finally:
            page.end()


def test_a_chain_that_takes_only_smaller_contracts_is_refused(tmp_path: Path) -> None:
    for limit, complaint in ((24_576, None), (20_000, "does not take contracts of")):
        with anvil_as("testnet", tmp_path, "--code-size-limit", str(limit)) as url:
            client = ChainClient(url)
            client.wait_for_block(2, timeout_s=60)
            problem = find_chain_problem(client)
            client.close()
        assert (problem is None) == (complaint is None), problem
        assert complaint is None or complaint in str(problem)
