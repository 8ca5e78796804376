"""What miners opened, read from the transactions that did it: the contract compares opened leaves and keeps none.

A leaf counts only if it hashes to what the unit's commitment holds there. So it does not matter what else a transaction
carries: a miner may open through another contract, or several units at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cupel.chain.abi import decode_values, load_abi
from cupel.chain.answers import parse_transaction
from cupel.chain.client import ChainClient
from cupel.chain.mapping import make_reader
from cupel.chain.run_contract import RunContract
from cupel.chain.run_events import UnitOpened
from cupel.chain.run_values import Answer, Opened
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import evidence as hash_evidence
from cupel.protocol.types import RoundIndex, UnitId

MOST_CALLS = 64
"""Places in one transaction that are tried: more would be there to keep its readers busy."""


def read_opened(
    client: ChainClient, contract: RunContract, round_: RoundIndex | int, unit_id: UnitId, evidence: Sequence[bytes]
) -> dict[int, Answer]:
    """Opened answers of a unit, by segment; without those that no transaction shows.

    evidence  of the commitment's leaves, leaf 0 first: 32 bytes each
    """
    view = contract.get_round(round_)
    if not view.drawn_at:
        return {}
    events = contract.get_events(UnitOpened, first_block=view.drawn_at, last_block=view.judged_at or None)
    found: dict[int, Answer] = {}
    for event in events:
        if event.unit_id == unit_id:
            for leaf in find_leaves(_read_calldata(client, event.transaction_hash)):
                answer, place = leaf.answer, leaf.segment + 1
                shown = hash_evidence(answer.loss, answer.gradient_norm, leaf.salt)
                if place < len(evidence) and shown == evidence[place]:
                    found[int(leaf.segment)] = answer
    return found


def _read_calldata(client: ChainClient, transaction_hash: bytes) -> bytes:
    """Empty where the endpoint does not know the transaction (any more)."""
    answer = client.request("eth_getTransactionByHash", f"0x{transaction_hash.hex()}")
    return b"" if answer is None else parse_transaction(answer).data


def find_leaves(calldata: bytes) -> Iterator[Opened]:
    """Of every call of `open` in there, wherever it begins; of the first `MOST_CALLS`."""
    function = load_abi("Run").functions["open"]
    at, tried = calldata.find(function.selector), 0
    while at >= 0 and tried < MOST_CALLS:
        tried += 1
        try:
            leaves = decode_values(function.inputs, calldata[at + 4 :], function.name)[3]
        except MalformedInput:
            leaves = ()  # four bytes that only look like it
        yield from make_reader(tuple[Opened, ...])(leaves)
        at = calldata.find(function.selector, at + 1)
