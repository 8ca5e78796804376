"""Who was convicted of what: read from the chain as anybody can (`cupel dispute show` tells one move by move)."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from cupel.chain.client import ChainClient
from cupel.chain.run_file import RunFile
from cupel.disputes.history import CourtReader, tell_ending
from cupel.disputes.judging import read_proof
from cupel.disputes.wording import show_element, show_operation, show_place

LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conviction:
    """One dispute that its accused lost."""

    dispute: int
    accused: str
    finder: str
    """Who was the first to accuse it, and has the prize."""
    subject: bytes
    segment: int
    step: int | None
    """Of the segment; None where it did not come to one."""
    moves: int
    prize_wei: int
    text: str
    """What ended it."""
    operation: str = ""
    """The operation that was recomputed; empty where none was, as what follows."""
    element: str = ""
    claimed: str = ""
    right: str = ""


def read_convictions(client: ChainClient, run: RunFile) -> list[Conviction]:
    """Of this run, oldest first."""
    court, found = CourtReader(client, run), []
    for record in court.list_disputes():
        ending = record.ending
        if ending is None or not ending.convicted:
            continue
        told = {}
        judged, opened = court.find_judged(record), court.find_opened(record)
        shown = read_proof(judged.file) if judged is not None else None
        if judged is not None and opened is not None and shown is not None:
            told = {
                "operation": f"operation {judged.number}, {show_operation(shown.operation)}",
                "element": f"{show_place(opened.type.shape, judged.element)} of value {judged.value}".strip(),
                "claimed": show_element(opened.type.dtype, opened.claimed),
                "right": show_element(opened.type.dtype, shown.right),
            }
        found.append(
            Conviction(
                dispute=record.number,
                accused=record.accused,
                finder=ending.finder or record.challenger,
                subject=record.subject,
                segment=record.segment,
                step=record.position.step,
                moves=record.moves,
                prize_wei=int(ending.prize_wei),
                text=tell_ending(record),
                **told,
            )
        )
    return found


def wait_for_verdicts(client: ChainClient, run: RunFile, false: Collection[bytes], timeout_s: float) -> None:
    """Until all these units were convicted and no dispute is open; at most so long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        records = CourtReader(client, run).list_disputes()
        convicted = {one.subject for one in records if one.ending is not None and one.ending.convicted}
        if convicted >= set(false) and all(one.ending is not None for one in records):
            return
        time.sleep(LOOK_S)
