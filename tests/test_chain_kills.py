"""`cupel chain` killed after every single write: no announced block is lost, and no accepted transaction."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from chain_process import ETH, KEYS, make_transfer
from eth_utils.address import to_canonical_address

from cupel.chain.node.chain import EmbeddedChain
from cupel.chain.node.rpc import Rpc
from cupel.protocol.hashing import keccak256

FUNDS = {to_canonical_address(key.address): 1000 * ETH for key in KEYS[:3]}
OPERATIONS = ("schema", "genesis", "block", "save", "replace", "forget", "reorg")
SCRIPT = Path(__file__).parent / "chain_failpoints.py"


class Witness:
    """Uses a chain until it is gone, and remembers everything it ever said."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(trust_env=False, verify=False, timeout=30)
        self.blocks: dict[int, str] = {}
        """Hashes by height, as announced; a re-org we asked for and that was confirmed takes away what it undid."""
        self.maybe_undone: set[int] = set()
        """Heights of blocks that a re-org nobody confirmed may have undone."""
        self.accepted: dict[str, str] = {}
        """Raw transactions by hash."""
        self.may_be_gone: set[str] = set()
        """Accepted ones that cannot run any more."""
        self.replacements: dict[str, str] = {}
        """By what they replace: at any moment, one of the two is kept."""

    def ask(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._http.post(self._url, json=body).json()
        assert "error" not in answer, answer
        return answer["result"]

    def note_head(self) -> int:
        block = self.ask("eth_getBlockByNumber", "latest", False)
        number = int(block["number"], 16)
        self.blocks[number] = block["hash"]
        return number

    def send(self, raw: str, *, instead_of: str | None = None) -> str:
        if instead_of is not None:
            self.replacements[instead_of] = f"0x{keccak256(bytes.fromhex(raw[2:])).hex()}"
        transaction_hash: str = self.ask("eth_sendRawTransaction", raw)
        self.accepted[transaction_hash] = raw
        return transaction_hash

    def live(self, seconds: float) -> None:
        """Everything that makes the chain write, again and again. Raises httpx.TransportError once it is gone."""
        deadline, nonce = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            self.note_head()
            sent = self.send(make_transfer(KEYS[0], nonce))
            nonce += 1
            waiting = self.send(make_transfer(KEYS[1], 5 + nonce))  # waits behind a gap
            dearer = make_transfer(KEYS[1], 5 + nonce, maxFeePerGas=2 * 10**10, maxPriorityFeePerGas=5)
            self.send(dearer, instead_of=waiting)
            self._wait_until_mined(sent)
            if nonce == 1:
                self._make_forgotten()
            self._reorganise()

    def _wait_until_mined(self, transaction_hash: str) -> None:
        while self.ask("eth_getTransactionReceipt", transaction_hash) is None:
            self.note_head()

    def _make_forgotten(self) -> None:
        """A transaction that can no longer run when its turn comes: the one before it spends everything."""
        funds = int(self.ask("eth_getBalance", KEYS[2].address, "latest"), 16)
        second = self.send(make_transfer(KEYS[2], 1, value_wei=ETH))
        self.may_be_gone.add(second)
        self._wait_until_mined(self.send(make_transfer(KEYS[2], 0, value_wei=funds - 21_000 * 10**10)))

    def _reorganise(self) -> None:
        head = self.note_head()
        if head < 3:
            return
        self.maybe_undone |= {head - 1, head}
        fresh = self.ask("cupel_reorg", 2)
        number = int(fresh["number"], 16)
        self.maybe_undone.clear()
        for height in [height for height in self.blocks if height > number - 2]:
            del self.blocks[height]
        self.blocks[number] = fresh["hash"]


@contextmanager
def run_chain(directory: Path, point: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, which is empty where it died before it had one."""
    command = [sys.executable, str(SCRIPT), point, "chain", "--data", str(directory), "--port", "0"]
    command += ["--block-time", "0.05", "--allow-reorg"]
    for key in KEYS[:3]:
        command += ["--fund", f"{key.address}=1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Statements by operation, as a run makes them."""
    folder = tmp_path_factory.mktemp("record")
    with run_chain(folder / "chain", f"record:{folder / 'record'}") as (_, url):
        Witness(url).live(2.0)
    found: dict[str, int] = {}
    for line in (folder / "record").read_text().splitlines():
        operation, count = json.loads(line)
        found[operation] = max(found.get(operation, 0), count)
    return found


def test_every_operation_writes_and_is_recorded(points: dict[str, int]) -> None:
    assert set(points) == set(OPERATIONS)
    assert points["block"] >= 7
    assert points["reorg"] >= 12


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.timeout(600)
def test_killed_after_any_write_nothing_announced_is_lost(
    points: dict[str, int], tmp_path: Path, operation: str
) -> None:
    for number in range(points[operation] + 1):
        check_kill(tmp_path / f"{operation}-{number}", f"{operation}:{number}")


def check_kill(directory: Path, point: str) -> None:
    witness: Witness | None = None
    with run_chain(directory, point) as (process, url):
        if url:
            witness = Witness(url)
            with pytest.raises(httpx.TransportError):
                witness.live(60)
        process.wait(60)
        assert process.returncode == -9, f"{point}: ended by itself"
    # Opened here, as a restart does: half the processes.
    chain = EmbeddedChain.create_or_open(directory, chain_id=None, balances=FUNDS, timestamp=int(time.time()))
    try:
        check_kept(chain, witness, point)
    finally:
        chain.close()


def check_kept(chain: EmbeddedChain, witness: Witness | None, point: str) -> None:
    rpc = Rpc(chain, block_time_s=1)
    for height, block_hash in witness.blocks.items() if witness else ():
        found = chain.store.get_block(height)
        assert found is not None, f"{point}: block {height} is lost"
        is_same = f"0x{found.hash.hex()}" == block_hash
        assert is_same or height in witness.maybe_undone, f"{point}: block {height} is another"
    for transaction_hash in witness.accepted if witness else ():
        wanted = {transaction_hash, witness.replacements.get(transaction_hash, transaction_hash)}
        is_there = any(rpc.answer("eth_getTransactionByHash", [one]) is not None for one in wanted)
        assert is_there or transaction_hash in witness.may_be_gone, f"{point}: {transaction_hash} is lost"
    check_whole(chain, rpc)
    height = chain.head.number
    assert asyncio.run(chain.produce(int(time.time()))).number == height + 1


def check_whole(chain: EmbeddedChain, rpc: Rpc) -> None:
    """Every block leads to its parent, and every transaction and receipt of a block is there."""
    parent: Any = None
    for height in range(chain.head.number + 1):
        block: Any = rpc.answer("eth_getBlockByNumber", [hex(height), True])
        assert parent is None or block["parentHash"] == parent
        parent = block["hash"]
        receipts: Any = rpc.answer("eth_getBlockReceipts", [hex(height)])
        assert [one["transactionHash"] for one in receipts] == [one["hash"] for one in block["transactions"]]
        assert {one["blockHash"] for one in receipts} <= {block["hash"]}


def test_a_killed_chain_starts_again_as_a_process(tmp_path: Path) -> None:
    with run_chain(tmp_path, "block:5") as (process, url):
        with pytest.raises(httpx.TransportError):
            Witness(url).live(60)
        process.wait(60)
    with run_chain(tmp_path, "nothing:0") as (_, url):
        witness = Witness(url)
        height, deadline = witness.note_head(), time.monotonic() + 60
        while witness.note_head() <= height:
            assert time.monotonic() < deadline, "no more blocks"
