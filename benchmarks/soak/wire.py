"""Everything a node signed, read off the wire: did it ever say two different things to one question?

What stands on chain shows only the answers that got there. A proxy sees each transaction that leaves a node, on
whatever fork, lost or not.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import rlp

from cupel.chain.abi import decode_values, load_abi
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address

Question = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Two different answers of one node to one question."""

    node: str
    question: Question
    first: object
    second: object

    def __str__(self) -> str:
        words = " ".join(part.hex()[:16] if isinstance(part, bytes) else str(part) for part in self.question)
        return f"{self.node} answered {words} twice, and differently: {self.first!r:.80} then {self.second!r:.80}"


@dataclass(slots=True, kw_only=True)
class Wire:
    """What all nodes said."""

    run: Address
    answers: dict[tuple[str, Question], object] = field(default_factory=dict)
    contradictions: list[Contradiction] = field(default_factory=list)
    transactions: dict[bytes, str] = field(default_factory=dict)
    """Who sent it, by hash."""
    calls: dict[str, int] = field(default_factory=dict)
    """Transactions by function."""
    receipts: dict[bytes, tuple[str, int, float]] = field(default_factory=dict)
    """By a transaction's hash: the block's hash and height that its node was last told, and when (`time.monotonic`)."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, node: str, request: bytes, answer: bytes) -> None:
        """One exchange of a node with the chain."""
        try:
            asked, told = json.loads(request), json.loads(answer)
        except ValueError:
            return
        pairs = zip(asked, told, strict=False) if isinstance(asked, list) else [(asked, told)]
        now = time.monotonic()
        with self._lock:
            for one, result in pairs:
                if not isinstance(one, dict) or not isinstance(result, dict):
                    continue
                if one.get("method") == "eth_sendRawTransaction":
                    self._note_transaction(node, bytes.fromhex(one["params"][0].removeprefix("0x")))
                if one.get("method") == "eth_getTransactionReceipt" and isinstance(result.get("result"), dict):
                    receipt = result["result"]
                    where = receipt["blockHash"], int(receipt["blockNumber"], 16), now
                    self.receipts[_bytes(receipt["transactionHash"])] = where

    def _note_transaction(self, node: str, raw: bytes) -> None:
        digest = keccak256(raw)
        if digest in self.transactions:
            return
        self.transactions[digest] = node
        fields = rlp.decode(raw[1:])
        to, data = fields[5], fields[7]
        if to.hex() != self.run.lower().removeprefix("0x"):
            return
        function = next((f for f in load_abi("Run").functions.values() if f.selector == data[:4]), None)
        if function is None:
            return
        self.calls[function.name] = self.calls.get(function.name, 0) + 1
        for question, said in statements(function.name, decode_values(function.inputs, data[4:], function.name)):
            known = self.answers.setdefault((node, question), said)
            if known != said:
                self.contradictions.append(Contradiction(node=node, question=question, first=known, second=said))


def statements(function: str, arguments: tuple[Any, ...]) -> list[tuple[Question, object]]:
    """What a call says, by the question it answers. The first argument names the seed or the round."""
    if function in ("commit", "open"):
        which, index, *said = arguments
        return [((function, which, index), tuple(said))]
    if function == "seal":
        which, units, seals = arguments
        return [((function, which, unit), seal) for unit, seal in zip(units, seals, strict=True)]
    if function == "reveal":
        which, units, answers, salts = arguments
        return [((function, which, u), (a, s)) for u, a, s in zip(units, answers, salts, strict=True)]
    if function == "proposeMerge":
        which, *said = arguments
        return [((function, which), tuple(said))]
    if function == "acknowledge":
        # The candidate's number is where it stands in a list, which a re-org may order anew.
        which, _, *said = arguments
        return [((function, which), tuple(said))]
    return []


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
