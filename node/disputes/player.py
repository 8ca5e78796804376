"""Playing disputes as either side, from the chain's events alone.

Whatever happened to the process or to the chain, the next move follows from what stands there now: so a player that was
killed goes on, one that comes back late goes on, and after a re-org the moves that are gone are made again. On disk are
only the salts of announcements (accusations.py), and what the outbox has not seen final.

A transaction's duty names the dispute, the transaction that began it and the number of moves made. So a move that waits
is replaced where the chain now asks for another, and taken back where a re-org took the dispute itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable
from typing import Protocol

from cupel.chain.abi import Call
from cupel.chain.client import ChainClient, Sent
from cupel.chain.court_contract import ANNOUNCEMENT_BLOCKS, CourtContract, CourtFollower
from cupel.chain.court_events import CourtEvent, DisputeRecord
from cupel.chain.errors import ChainUnreachable, ContractReverted
from cupel.chain.outbox import State
from cupel.node.disputes.accusations import Accusation, Accusations
from cupel.node.disputes.counts import DisputeCounts
from cupel.node.disputes.deciding import (
    Accuse,
    Action,
    Announce,
    Close,
    Collect,
    DisputeFacts,
    Drop,
    MakeMove,
    TimeOut,
    decide,
    find_stale,
)
from cupel.node.journal import Journal
from cupel.node.log import Log
from cupel.protocol.disputes.game import Challenge, Defence
from cupel.protocol.errors import ProtocolError
from cupel.protocol.proceedings import Move
from cupel.protocol.types import Address, Height

DUTY = "dispute"
MARGIN_BLOCKS = 64
"""Read further back by so much than any dispute that may still be open began."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
COLLECT_GAS = 60_000
"""Credits that are worth less than this much gas stay where they are."""
FASTER = frozenset(
    {"WrongStage", "NotYourTurn", "TimeIsOut", "TimeRemains", "AlreadyConvicted", "NothingToCollect", "UnknownDispute"}
)
"""Refusals that only say that the dispute has moved on meanwhile."""
OPEN_SINCE = b"since"
"""Name of the document that says in which block the oldest dispute began that this node still plays."""


class Sides(Protocol):
    """What this node holds of the claims of one run: who plays needs no more of a run than this."""

    def defend(self, record: DisputeRecord) -> Defence:
        """This node's own claim. Raises ProtocolError where it cannot be shown (yet)."""

    def challenge(self, record: DisputeRecord) -> Challenge:
        """What is right, computed here. Raises ProtocolError."""

    def is_contestable(self, subject: bytes) -> bool:
        """Whether the run takes an accusation in the next block."""

    def get_accused(self, subject: bytes) -> Address:
        """Who answers for it."""

    def present(self, subject: bytes) -> Call | None:
        """What the run has to be told before it is accused, if anything. Raises ProtocolError."""

    def find_first_block(self) -> Height | None:
        """No dispute that may still be open began before this block; None: that is not known."""


class DisputePlayer:
    """One node's disputes in one run. One thread.

    first_block  nothing of the run is earlier
    is_patient   whether another's dispute about the same is waited for, for a while
    budget_wei   bonds of this node's challenges together; None: what the account has
    counts       kept up to date, for whoever shows them
    observe      told where a crash must lose nothing
    """

    def __init__(
        self,
        *,
        chain: ChainClient,
        court: CourtContract,
        run: Address,
        sides: Sides,
        journal: Journal,
        log: Log,
        first_block: Height | int,
        budget_wei: int | None = None,
        counts: DisputeCounts | None = None,
        is_patient: bool = True,
        observe: Callable[[str], None] = lambda point: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._court, self._run, self._sides = chain, court, run, sides
        self._journal, self._log, self._budget_wei = journal, log, budget_wei
        self._observe, self._clock = observe, clock
        self._first_block, self._is_patient = int(first_block), is_patient
        self._accusations = Accusations(journal)
        self._follower: CourtFollower | None = None
        self._asleep: dict[Hashable, tuple[float, float]] = {}
        self._said: set[Hashable] = set()
        self._may_have_credit = True
        self._reorgs = 0
        self.counts = DisputeCounts() if counts is None else counts

    @property
    def me(self) -> Address:
        return self._chain.address

    # From outside

    def accuse(
        self, subject: bytes, segment: int, *, until: Height | int, reason: str, since: Height | int = 0
    ) -> None:
        """Mean to accuse whoever posted this, between two heights; carried out by `play`, whenever that is possible.

        segment  of a unit one whose end is not what follows from its start; of a merge 0
        """
        heights = {"since": Height(int(since)), "until": Height(int(until))}
        if self._accusations.add(subject, segment, reason=reason, **heights):
            self._observe("accusation/stated")
            self._log.warning("will accuse", subject=subject, segment=segment, reason=reason, until_block=int(until))

    def means_to_accuse(self, subject: bytes) -> bool:
        return any(one.subject == subject for one in self._accusations)

    @property
    def disputes(self) -> dict[int, DisputeRecord]:
        """This node's, as of the last look."""
        return {} if self._follower is None else self._follower.disputes

    @property
    def is_to_accuse(self) -> bool:
        """Whether an accusation is still to be made, and can be: one that is being played is a dispute."""
        begun = {(record.subject, record.segment) for record in self.disputes.values() if record.challenger == self.me}
        return any(
            one.key not in begun and one.subject not in self.convicted and self.height < one.until
            for one in self._accusations
        )

    @property
    def convicted(self) -> Collection[bytes]:
        """Subjects that the court convicted in this run, by whomever, as of the last look."""
        return () if self._follower is None else self._follower.convicted

    @property
    def height(self) -> Height:
        """Of the last look."""
        return Height(0) if self._follower is None else self._follower.height

    # Playing

    def play(self) -> bool:
        """Look, and do everything there is to do now; False: nothing is. Raises ProtocolError, ChainUnreachable."""
        follower = self._follower or self._begin()
        own = list(self._accusations)
        announced = {self._announcement(one): one.key for one in own}
        follower.watch_announcements(list(announced))
        if follower.look():
            self._take_note(follower)
        facts = DisputeFacts(
            me=self.me,
            height=follower.height,
            disputes=follower.disputes,
            others=follower.others,
            convicted=follower.convicted,
            is_patient=self._is_patient,
            accusations=own,
            announced={announced[h]: at for h, at in follower.announced.items() if h in announced},
            has_credit=self._has_credit(),
            asleep=self._list_asleep(),
        )
        return self._carry_out(decide(facts))

    def end_stale(self) -> bool:
        """End one dispute that should have ended and that nobody ends, as of the last look; False: there is none.

        For when nothing of this node's own is due. Raises ProtocolError, ChainUnreachable
        """
        follower = self._follower
        if follower is None:
            return False
        stale = find_stale(
            DisputeFacts(
                me=self.me,
                height=follower.height,
                disputes=follower.disputes,
                others=follower.others,
                convicted=follower.convicted,
                asleep=self._list_asleep(),
            )
        )
        return stale is not None and self._carry_out([stale])

    def _list_asleep(self) -> list[Hashable]:
        return [name for name, (until, _) in self._asleep.items() if self._clock() < until]

    def _begin(self) -> CourtFollower:
        """Read what may still be open: all disputes end within a known time, but only if somebody ends them."""
        height, longest = self._chain.head().number, self._court.longest_dispute()
        recent = height - longest - ANNOUNCEMENT_BLOCKS - MARGIN_BLOCKS
        known, oldest = self._journal.get(DUTY, OPEN_SINCE), self._sides.find_first_block()
        began = [recent, *([] if known is None else [int(known["block"])]), *([] if oldest is None else [int(oldest)])]
        first = max(self._first_block, min(began))
        self._follower = CourtFollower(self._chain, self._court, self._run, first_block=first, concerns=self._is_mine)
        return self._follower

    def _is_mine(self, accused: CourtEvent) -> bool:
        return self.me in (accused.arguments["accused"], accused.arguments["challenger"])

    def _announcement(self, one: Accusation) -> bytes:
        return self._court.compute_announcement(self._run, one.subject, one.segment, self.me, one.salt)

    def _take_note(self, follower: CourtFollower) -> None:
        """Count, say what is new, remember from where to read, and take back what a re-org made void."""
        if follower.reorgs != self._reorgs:
            self._reorgs = follower.reorgs
            self._may_have_credit = True
            self._take_back()
        open_ = [record for record in follower.disputes.values() if record.ending is None]
        since = min((int(record.accusation.block_number) for record in open_), default=None)
        if self._journal.get(DUTY, OPEN_SINCE) != (None if since is None else {"block": since}):
            if since is None:
                self._journal.drop(DUTY, OPEN_SINCE)
            else:
                self._journal.put(DUTY, OPEN_SINCE, 0, {"block": since})
        self._count(follower.disputes.values())
        for record in follower.disputes.values():
            self._say(record)

    def _count(self, disputes: Collection[DisputeRecord]) -> None:
        counts, endings = self.counts, [record.ending for record in disputes if record.ending is not None]
        open_ = [record for record in disputes if record.ending is None]
        own = [record for record in open_ if record.challenger == self.me]
        counts.accused, counts.challenging = len(open_) - len(own), len(own)
        counts.bonds_wei = sum(record.bond_wei for record in own)
        counts.won = sum(self._is_won(record) for record in disputes)
        counts.lost = len(endings) - counts.won - sum(ending.closed for ending in endings)
        counts.prizes_wei = sum(ending.prize_wei for ending in endings if ending.finder == self.me)

    def _is_won(self, record: DisputeRecord) -> bool:
        ending = record.ending
        return ending is not None and not ending.closed and ending.convicted == (record.challenger == self.me)

    def _say(self, record: DisputeRecord) -> None:
        """Each beginning and each ending once in a process."""
        ending, begun = record.ending, record.accusation.transaction_hash
        if begun not in self._said:
            self._said.add(begun)
            who = "accusing" if record.challenger == self.me else "accused"
            self._log.warning(
                who,
                dispute=record.number,
                subject=record.subject,
                segment=record.segment,
                by=record.challenger,
                bond_eth=record.bond_wei / 10**18,
            )
        if ending is None or (begun, ending.block_number) in self._said:
            return
        self._said.add((begun, ending.block_number))
        self._may_have_credit = True
        fields = {"dispute": record.number, "subject": record.subject, "reason": ending.reason.name.lower()}
        if ending.closed:
            self._log.info("dispute closed: another one decided", dispute=record.number, subject=record.subject)
        elif self._is_won(record):
            self._log.info("dispute won", **fields, prize_eth=ending.prize_wei / 10**18)
        else:
            self._log.error("dispute lost", **fields)

    def _find(self, number: int) -> DisputeRecord | None:
        """A dispute of the run, this node's or not."""
        return None if self._follower is None else self.disputes.get(number) or self._follower.others.get(number)

    def _take_back(self) -> None:
        """A move in a dispute that is gone could end up in another that has its number now."""
        for entry in self._chain.list_pending():
            kind, _, rest = (entry.duty or "").partition("/")
            if kind != DUTY or entry.state is State.MINED:
                continue
            number, _, tail = rest.partition("/")
            record = self._find(int(number))
            if record is None or not tail.startswith(f"{_begun(record)}/"):
                self._chain.cancel(entry.duty or "")

    def _has_credit(self) -> bool:
        if not self._may_have_credit:
            return False
        credit = self._court.credit(self.me)
        self._may_have_credit = credit > 0
        return credit > COLLECT_GAS * self._chain.head().base_fee_wei

    # Acting

    def _carry_out(self, actions: list[Action]) -> bool:
        """All that can be sent now is sent; then each is waited for. A move takes a block, whatever it waits behind."""
        sent: list[tuple[Action, Sent]] = []
        for action in actions:
            try:
                under_way = self._send(action)
            except (ProtocolError, ChainUnreachable) as trouble:
                self._note_trouble(action, trouble)
            else:
                if under_way is not None:
                    sent.append((action, under_way))
        for action, under_way in sent:
            try:
                self._chain.wait(under_way)
                self._note_done(action)
            except (ProtocolError, ChainUnreachable) as trouble:
                self._note_trouble(action, trouble)
        return bool(sent)

    def _send(self, action: Action) -> Sent | None:
        """Send what the action asks for; None where there is nothing to send."""
        if isinstance(action, MakeMove):
            return self._make_move(self.disputes[action.dispute], action)
        if isinstance(action, TimeOut | Close):
            record = self._find(action.dispute)
            assert record is not None, action
            if isinstance(action, TimeOut):
                return self._submit(self._court.bind("timeout", action.dispute), record, f"{action.moves}")
            return self._submit(self._court.bind("close", action.dispute), record, "close")
        if isinstance(action, Drop):
            self._log.info("accusation dropped", subject=action.accusation.subject, reason=action.why)
            self._accusations.drop(action.accusation)
            return None
        if isinstance(action, Collect):
            return self._chain.submit(self._court.bind("collect"))
        one = action.accusation
        if not self._sides.is_contestable(one.subject):
            self._sleep(action)
            return None
        if isinstance(action, Announce):
            hashed = self._announcement(one)
            return self._chain.submit(self._court.bind("announce", hashed), duty=f"announce {hashed.hex()}")
        return self._accuse(action)

    def _make_move(self, record: DisputeRecord, action: MakeMove) -> Sent | None:
        move: Move | None
        if record.accused == self.me:
            move = self._sides.defend(record).move(record.position)
        else:
            move = self._sides.challenge(record).move(record.position)
        if move is None:
            self._log.error("nothing wrong is found in what was shown", dispute=record.number)
            self._sleep(action)
            return None
        return self._submit(self._court.bind_move(record.number, move), record, f"{action.moves}")

    def _submit(self, call: Call, record: DisputeRecord, what: str) -> Sent:
        return self._chain.submit(call, duty=f"{DUTY}/{record.number}/{_begun(record)}/{what}")

    def _accuse(self, action: Accuse) -> Sent | None:
        one = action.accusation
        value = pad_bond(self._court.bond_for(self._run, self._sides.get_accused(one.subject)))
        at_stake = sum(r.bond_wei for r in self.disputes.values() if r.challenger == self.me and r.ending is None)
        affordable = int(self._chain.get_balance(self.me))
        if self._budget_wei is not None:
            affordable = min(affordable, self._budget_wei - at_stake)
        if value > affordable:
            self._log.warning(
                "not accused for want of money",
                subject=one.subject,
                bond_eth=value / 10**18,
                left_eth=max(affordable, 0) / 10**18,
            )
            self._sleep(action)
            return None
        self._may_have_credit = True
        named = f"{one.subject.hex()} {one.segment}"
        # In one go: who sees the first has announced nothing, and comes too late.
        presented = self._sides.present(one.subject)
        before = None if presented is None else self._chain.submit(presented, duty=f"present {one.subject.hex()}")
        call = self._court.bind("accuse", self._run, one.subject, one.segment, one.salt)
        try:
            return self._chain.submit(call, value_wei=value, duty=f"accuse {named}")
        finally:
            if before is not None:
                self._chain.wait(before)

    def _note_done(self, action: Action) -> None:
        self._asleep.pop(action, None)
        if isinstance(action, MakeMove):
            stage = self.disputes[action.dispute].position.stage
            self._log.info("move made", dispute=action.dispute, stage=stage.name.lower())
        elif isinstance(action, TimeOut) and action.dispute in self.disputes:
            self._log.info("the other side's time ran out", dispute=action.dispute)
        elif isinstance(action, TimeOut | Close) and action.dispute not in self.disputes:
            self._log.info("a dispute that nobody else ended is over", dispute=action.dispute)
        elif isinstance(action, Announce):
            self._log.info("accusation announced", subject=action.accusation.subject)
        elif isinstance(action, Collect):
            self._log.info("collected from the court")

    def _note_trouble(self, action: Action, trouble: Exception) -> None:
        if not (isinstance(trouble, ContractReverted) and trouble.error_name in FASTER):
            self._log.warning("dispute: trying again", action=type(action).__name__, reason=str(trouble))
        self._sleep(action)

    def _sleep(self, action: Action) -> None:
        """Leave it alone for a while, longer each time it fails."""
        _, pause_s = self._asleep.get(action, (0.0, 0.0))
        pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._asleep[action] = (self._clock() + pause_s, pause_s)


def pad_bond(bond_wei: int) -> int:
    """What is sent for a bond: until it is in, the base fee may rise, and another dispute begin. The rest is repaid."""
    return bond_wei * 9 // 8


def _begun(record: DisputeRecord) -> str:
    """What tells a dispute from one that a re-org gives its number."""
    return record.accusation.transaction_hash[:8].hex()
