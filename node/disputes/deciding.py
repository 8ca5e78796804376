"""What a player does next, from what the chain says of its disputes: pure, so that a restart decides the same."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from cupel.chain.court_contract import ANNOUNCEMENT_BLOCKS
from cupel.chain.court_events import DisputeRecord
from cupel.node.disputes.accusations import Accusation
from cupel.protocol.types import Address, Height


@dataclass(frozen=True, slots=True)
class MakeMove:
    """This node's turn in a dispute that stands after so many moves."""

    dispute: int
    moves: int


@dataclass(frozen=True, slots=True)
class TimeOut:
    """The other side has let its time run out."""

    dispute: int
    moves: int


@dataclass(frozen=True, slots=True)
class Close:
    """Another dispute convicted what this one is about: the bond comes back."""

    dispute: int


@dataclass(frozen=True, slots=True)
class Announce:
    accusation: Accusation


@dataclass(frozen=True, slots=True)
class Accuse:
    accusation: Accusation


@dataclass(frozen=True, slots=True)
class Drop:
    """An accusation that was tried, or can be no more, and no re-org will change that."""

    accusation: Accusation
    why: str


@dataclass(frozen=True, slots=True)
class Collect:
    """Take home what the court owes this node."""


Action = MakeMove | TimeOut | Close | Announce | Accuse | Drop | Collect
LATE_BLOCKS = 64
"""After the window for accusing, until it is given up: a re-org may yet move it."""
PATIENCE_BLOCKS = 40
"""Another's dispute about the same subject is waited for until so many blocks before the window closes: one bond at a
time convicts as well, and if the other was no honest challenger there is still time."""


@dataclass(frozen=True, kw_only=True)
class DisputeFacts:
    """What there is to decide on."""

    me: Address
    height: Height
    """Of the newest block; what is sent now is in a later one."""
    disputes: Mapping[int, DisputeRecord]
    """This node's, as either side."""
    convicted: Collection[bytes] = ()
    """Subjects that a court convicted."""
    accused: Collection[bytes] = ()
    """Subjects that somebody else has accused."""
    patience_blocks: int = PATIENCE_BLOCKS
    accusations: Sequence[Accusation] = ()
    announced: Mapping[tuple[bytes, int], Height] | None = None
    """Announcements of these that are on chain: since when."""
    has_credit: bool = False
    asleep: Collection[Hashable] = ()
    """Actions that failed a moment ago."""


def decide(facts: DisputeFacts) -> list[Action]:
    """Everything there is to do, the most urgent first: a defence before an attack, the shortest clock first."""
    following = facts.height + 1
    defend: list[tuple[int, Action]] = []
    attack: list[tuple[int, Action]] = []
    rest: list[Action] = []
    for record in facts.disputes.values():
        turn = record.turn
        if turn is None:
            continue
        is_mine = record.challenger == facts.me
        if record.subject in facts.convicted:
            if is_mine:
                rest.append(Close(record.number))
        elif turn.mover == facts.me:
            if following <= turn.until:
                (defend if record.accused == facts.me else attack).append(
                    (turn.until, MakeMove(record.number, record.moves))
                )
        elif following > turn.until:
            rest.append(TimeOut(record.number, record.moves))
    moves = [action for _, action in (*sorted(defend, key=_until), *sorted(attack, key=_until))]
    accusing = [action for one in facts.accusations if (action := _accuse(facts, one)) is not None]
    collect: list[Action] = [Collect()] if facts.has_credit else []
    return [action for action in (*moves, *rest, *accusing, *collect) if action not in facts.asleep]


def _until(timed: tuple[int, Action]) -> int:
    return timed[0]


def _accuse(facts: DisputeFacts, one: Accusation) -> Action | None:
    own = [r for r in facts.disputes.values() if r.challenger == facts.me and (r.subject, r.segment) == one.key]
    if any(record.ending is None for record in own):
        return None  # it is being played; dropped once it has ended, which a re-org may undo
    if own:
        ended = max(record.ending.block_number for record in own if record.ending is not None)
        return Drop(one, "settled") if facts.height > ended + LATE_BLOCKS else None
    following = facts.height + 1
    if following > one.until or one.subject in facts.convicted:
        return Drop(one, "too late") if following > one.until + LATE_BLOCKS else None
    if following < one.since or (one.subject in facts.accused and following + facts.patience_blocks <= one.until):
        return None
    since = (facts.announced or {}).get(one.key)
    if since is None or following > since + ANNOUNCEMENT_BLOCKS:
        return Announce(one)
    return Accuse(one)
