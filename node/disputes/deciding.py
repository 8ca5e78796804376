"""What a player does next, from what the chain says of its disputes: pure, so that a restart decides the same."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from cupel.chain.court_contract import ANNOUNCEMENT_BLOCKS
from cupel.chain.court_events import DisputeRecord
from cupel.node.disputes.accusations import Accusation
from cupel.protocol.hashing import sha256
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
PATIENCE = 4
"""Another's dispute about the same segment is waited for during this part, a quarter, of the time there is to accuse:
one bond convicts as well as two, and whoever loses a sham of a dispute on purpose delays nobody beyond that."""
TURN_BLOCKS = 3
"""Between one who sees that a dispute of other people has to be ended and the next: a transaction is seen by then."""
CROWD = 8


@dataclass(frozen=True, kw_only=True)
class DisputeFacts:
    """What there is to decide on."""

    me: Address
    height: Height
    """Of the newest block; what is sent now is in a later one."""
    disputes: Mapping[int, DisputeRecord]
    """This node's, as either side."""
    others: Mapping[int, DisputeRecord] = field(default_factory=dict)
    """Other people's, in the same run."""
    convicted: Mapping[bytes, Height] = field(default_factory=dict)
    """Subjects that a court convicted, and since when."""
    is_patient: bool = True
    """Whether another's dispute about the same is waited for."""
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
    if following < one.since or (facts.is_patient and _is_waiting(facts, one)):
        return None
    since = (facts.announced or {}).get(one.key)
    if since is None or following > since + ANNOUNCEMENT_BLOCKS:
        return Announce(one)
    return Accuse(one)


def _is_waiting(facts: DisputeFacts, one: Accusation) -> bool:
    """Whether somebody else's dispute may yet bring what this accusation is to bring."""
    following = facts.height + 1
    if following >= one.since + (one.until - one.since) // PATIENCE:
        return False
    return any((r.subject, r.segment) == one.key and _is_progressing(r, following) for r in facts.others.values())


def _is_progressing(record: DisputeRecord, following: int) -> bool:
    """Whether a dispute is open and its challenger has not let it lie."""
    turn = record.turn
    return turn is not None and (following <= turn.until or turn.mover == record.accused)


def find_stale(facts: DisputeFacts) -> TimeOut | Close | None:
    """A dispute which those that it concerns do not end, though anybody may: the one that is due for longest.

    Until it has ended nothing of its round is final, nor of any later one, for nobody. Who does it is drawn for each
    dispute, so that not all do it at once.
    """
    due: list[tuple[int, TimeOut | Close]] = []
    action: TimeOut | Close
    own = [record for record in facts.disputes.values() if record.accused == facts.me]
    for record in (*own, *facts.others.values()):
        turn, convicted = record.turn, facts.convicted.get(record.subject)
        if turn is None:
            continue
        if convicted is not None:
            since, action = max(convicted, record.accusation.block_number), Close(record.number)
        elif record.number in facts.others:
            since, action = turn.until, TimeOut(record.number, record.moves)
        else:
            continue  # a party of it does that at once (`decide`)
        if facts.height + 1 > since + _wait_blocks(facts.me, record) and action not in facts.asleep:
            due.append((since, action))
    return min(due, key=lambda one: (one[0], one[1].dispute))[1] if due else None


def _wait_blocks(me: Address, record: DisputeRecord) -> int:
    return TURN_BLOCKS * (1 + sha256(me.encode() + record.accusation.transaction_hash)[0] % CROWD)
