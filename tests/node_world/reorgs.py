"""Other blocks in place of a chain's newest ones, on either chain."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import httpx


class Running(Protocol):
    """A chain that answers."""

    @property
    def url(self) -> str: ...


class OnChain(Protocol):
    """Whatever is on a chain of its own."""

    @property
    def chain(self) -> Running: ...


def ask(world: OnChain, method: str, *params: Any) -> Any:
    """The result of a request to the world's chain; AssertionError if it is an error."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    answer = httpx.post(world.chain.url, json=body, timeout=30, trust_env=False).json()
    assert "error" not in answer, answer
    return answer["result"]


def undo(world: OnChain, kind: str, depth: int, *, keep_transactions: bool) -> None:
    """Put other blocks in place of the newest `depth`; what was in them waits again, or is forgotten.

    kind  of chain: `embedded`, which allows it, or `anvil`
    """
    if kind == "embedded":
        ask(world, "cupel_reorg", depth, keep_transactions)
        return
    lost = []
    if keep_transactions:
        newest = int(ask(world, "eth_blockNumber"), 16)
        for number in range(newest - depth + 1, newest + 1):
            block = ask(world, "eth_getBlockByNumber", hex(number), True)
            lost += [ask(world, "eth_getRawTransactionByHash", one["hash"]) for one in block["transactions"]]
    ask(world, "anvil_reorg", depth, [])
    for raw in lost:
        with contextlib.suppress(AssertionError):  # its sender was faster
            ask(world, "eth_sendRawTransaction", raw)
