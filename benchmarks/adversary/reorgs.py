"""Other blocks in place of the newest ones, on either chain."""

from __future__ import annotations

import contextlib

from adversary.money import OnChain, ask


def undo(world: OnChain, chain: str, depth: int, *, keep_transactions: bool) -> None:
    """Put other blocks in place of the newest `depth`; what was in them waits again, or is forgotten."""
    if chain == "embedded":
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
