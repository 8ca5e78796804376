"""Watches the chain: who acts, which blocks there are, and whether one that was there is gone."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from soak.ledger import EVERYBODY, Ledger


class Unanswered(Exception):
    """The chain is away, or refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorg:
    """Blocks taken away on purpose."""

    time_s: float
    """`time.monotonic`, once it had happened."""
    first: int
    last: int
    """Heights."""


@dataclass(slots=True, kw_only=True)
class Observer:
    """A thread that reads every block once it is there."""

    url: str
    names: dict[str, str]
    """Party by address, lower case."""
    ledger: Ledger
    blocks: dict[int, str] = field(default_factory=dict)
    """Hash by height, as last seen."""
    vanished: list[str] = field(default_factory=list)
    reorgs: list[Reorg] = field(default_factory=list)
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=20))
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
        self._http.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.look()
            except Unanswered:
                continue

    def look(self) -> None:
        """Read blocks up to the head."""
        with self._lock:
            self._look()

    def _look(self) -> None:
        height = int(self._ask("eth_blockNumber"), 16)
        known = max(self.blocks, default=height - 1)
        if height < known:
            self.vanished.append(f"block {known} was there; now the head is {height}")
            for gone in range(height + 1, known + 1):
                self.blocks.pop(gone, None)
        for number in range(max(known, 0), height + 1):
            self._read(number)

    def _read(self, number: int) -> None:
        block = self._ask("eth_getBlockByNumber", hex(number), True)
        if block is None:
            return
        known = self.blocks.get(number)
        if known is not None:
            if known != block["hash"]:
                self.vanished.append(f"block {number} was {known[:18]}, now it is {block['hash'][:18]}")
                self.blocks[number] = block["hash"]
            return
        self.blocks[number] = block["hash"]
        self.ledger.seen_active(EVERYBODY)
        for transaction in block["transactions"]:
            name = self.names.get(transaction["from"].lower())
            if name is not None:
                self.ledger.seen_active(name)

    def reorganise(self, depth: int, *, keep_transactions: bool) -> None:
        """Have the chain put empty blocks in place of its last ones; their transactions wait again, or are forgotten.

        Raises Unanswered
        """
        with self._lock:
            self._look()
            last = int(self._ask("cupel_reorg", depth, keep_transactions)["number"], 16)
            first = last - depth + 1
            for number in range(first, last + 1):
                self.blocks.pop(number, None)
            self.reorgs.append(Reorg(time_s=time.monotonic(), first=first, last=last))
            self._look()

    def was_undone(self, number: int, seen_s: float) -> bool:
        """Whether a re-org took away the block of this height that was there at that time."""
        return any(reorg.first <= number <= reorg.last and seen_s <= reorg.time_s for reorg in self.reorgs)

    def check_all(self) -> None:
        """Compare every block ever seen with the chain's."""
        with self._lock:
            for number, known in list(self.blocks.items()):
                block = self._ask("eth_getBlockByNumber", hex(number), False)
                if block is None or block["hash"] != known:
                    self.vanished.append(f"block {number} was {known[:18]}; it is no longer there")

    def value_of(self, transaction: bytes) -> int:
        """Wei that a transaction carried."""
        return int(self._ask("eth_getTransactionByHash", f"0x{transaction.hex()}")["value"], 16)

    def receipt_block(self, transaction: bytes) -> str | None:
        """Hash of the block a transaction is in."""
        receipt = self._ask("eth_getTransactionReceipt", f"0x{transaction.hex()}")
        return None if receipt is None else str(receipt["blockHash"])

    def _ask(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = self._http.post(self.url, json=body).json()
        except (httpx.HTTPError, ValueError) as trouble:
            raise Unanswered(f"{method}: {trouble!r}") from trouble
        if "result" not in answer:
            raise Unanswered(f"{method}: {answer.get('error')}")
        return answer["result"]
