"""What a court announces, and what a dispute has come to by it.

Its events are all a player needs: `Position` (protocol/disputes/game.py) follows from them, and so does every move.
They are kept under the names that the ABI gives them and their arguments, because the game reads them so.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cupel.chain.abi import load_abi
from cupel.chain.values import Log
from cupel.protocol.errors import MalformedInput
from cupel.protocol.proceedings import Position, Stage
from cupel.protocol.types import Address, Height, Wei

ENDINGS = frozenset({"Convicted", "Dismissed", "Closed"})
"""Events that end a dispute."""


class Reason(enum.IntEnum):
    """What ended a dispute, as the contract numbers it."""

    NONE = 0
    ELEMENT = 1
    """An element was recomputed."""
    SILENCE = 2
    """A side's time ran out."""
    BOUND = 3
    """The chosen value is a constant, or an input as the state before has it."""
    EMPTY = 4
    """The chosen value has no elements."""
    STATE = 5
    """The end state holds every output in its place."""
    OMISSION = 6
    """The end state lacks an output."""
    EVIDENCE = 7
    """Loss and gradient norm are the trace's."""


@dataclass(frozen=True, kw_only=True)
class CourtEvent:
    """One event of a court."""

    name: str
    arguments: Mapping[str, Any]
    """By their names in the ABI, in eth-abi's form; addresses with their checksum."""
    block_number: Height
    block_hash: bytes
    position: int
    """Index in the block."""
    transaction_hash: bytes

    @property
    def dispute(self) -> int | None:
        """Number of the dispute it is of; None for announcements and payments."""
        return self.arguments.get("dispute")


def read_court_event(log: Log) -> CourtEvent | None:
    """None for a log that is no event of a court. Raises MalformedInput for one that only looks like it."""
    for event in load_abi("Court").events.values():
        if log.topics[:1] == (event.topic,):
            names = [one["name"] for one in event.inputs]
            return CourtEvent(
                name=event.name,
                arguments=dict(zip(names, event.decode(log), strict=True)),
                block_number=log.block_number,
                block_hash=log.block_hash,
                position=log.position,
                transaction_hash=log.transaction_hash,
            )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Who has to move."""

    stage: Stage
    mover: Address
    until: Height
    """The last block in which it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a dispute ended."""

    convicted: bool
    """Whether the accused lost."""
    closed: bool
    """Whether another dispute decided, and this one ended without loss to either side."""
    reason: Reason
    value: int
    element: int
    """Of the trace: the value, and its element, that was recomputed; 0 where none was."""
    prize_wei: Wei
    """What the conviction brought."""
    finder: Address | None
    """Who was the first to accuse that segment, and has the prize."""
    block_number: Height


@dataclass(frozen=True, kw_only=True)
class DisputeRecord:
    """A dispute by its events, `Accused` first."""

    events: Sequence[CourtEvent]

    @property
    def accusation(self) -> CourtEvent:
        return self.events[0]

    def _accused(self, name: str) -> Any:
        return self.events[0].arguments[name]

    @property
    def number(self) -> int:
        return int(self._accused("dispute"))

    @property
    def run(self) -> Address:
        return Address(self._accused("run"))

    @property
    def accused(self) -> Address:
        return Address(self._accused("accused"))

    @property
    def challenger(self) -> Address:
        return Address(self._accused("challenger"))

    @property
    def subject(self) -> bytes:
        return bytes(self._accused("subject"))

    @property
    def segment(self) -> int:
        return int(self._accused("segment"))

    @property
    def bond_wei(self) -> Wei:
        return Wei(self._accused("bond"))

    @cached_property
    def position(self) -> Position:
        """What stands, for `Defence.move` and `Challenge.move`."""
        position = Position()
        for event in self.events:
            position = position.after(event.name, event.arguments)
        return position

    @property
    def turn(self) -> Turn | None:
        """None once it has ended."""
        if self.ending is not None:
            return None
        last = next(event for event in reversed(self.events) if event.name == "Turn")
        a = last.arguments
        return Turn(stage=Stage(a["stage"]), mover=Address(a["mover"]), until=Height(a["until"]))

    @cached_property
    def ending(self) -> Ending | None:
        last = self.events[-1]
        if last.name not in ENDINGS:
            return None
        a = last.arguments
        return Ending(
            convicted=last.name == "Convicted",
            closed=last.name == "Closed",
            reason=Reason(a.get("reason", 0)),
            value=a.get("value", 0),
            element=a.get("element", 0),
            prize_wei=Wei(a.get("prize", 0)),
            finder=Address(a["finder"]) if "finder" in a else None,
            block_number=last.block_number,
        )

    @property
    def moves(self) -> int:
        """How often it was anybody's turn: two states of one dispute with equal events have equal numbers."""
        return sum(event.name == "Turn" for event in self.events)


def collect_disputes(events: Iterable[CourtEvent]) -> dict[int, DisputeRecord]:
    """Disputes by number, from all their events in order.

    Raises   MalformedInput: of one, the accusation is missing
    """
    found: dict[int, list[CourtEvent]] = {}
    for event in events:
        if event.dispute is not None:
            found.setdefault(event.dispute, []).append(event)
    for number, listed in found.items():
        if listed[0].name != "Accused":
            raise MalformedInput(f"dispute {number} begins with {listed[0].name}, not with its accusation")
    return {number: DisputeRecord(events=tuple(listed)) for number, listed in found.items()}
