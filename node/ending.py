"""How a node ends that was asked to: what it still does, and what it stays for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel.chain.run_values import Claimable, Current, MemberView, Parameters, Role
from cupel.node.disputes.desk import DisputeDesk
from cupel.node.session import Session, Stopped
from cupel.node.stopping import OnStop
from cupel.protocol.types import RoundIndex

MARGIN_BLOCKS = 12
"""A re-org may yet bring an accusation into the window's last blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """What a node does not end for, though it was asked to."""

    why: str
    """For people."""
    until: int | None = None
    """The block that it is about, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingFacts:
    """As `Facts` has them."""

    finishing: bool = False
    round_over: bool = False
    answerable: bool = False
    retire: bool = False


def find_reason(
    parameters: Parameters,
    *,
    is_leaving: bool,
    open_disputes: int,
    is_to_accuse: bool,
    stakes: Sequence[Claimable],
    height: int,
) -> Stay | None:
    """Why a node is not to end yet; None: it may. Who is silent before a court loses, be it right or wrong.

    Who keeps the seat is back soon, and stays only for what is before the court now. Who leaves stays until nothing can
    be accused any more that a bond or a stake of this node answers for.

    is_leaving    whether it gives up its seat
    is_to_accuse  whether it means to accuse somebody, and still can
    stakes        rounds in which something of this node is at stake
    height        of the newest block
    """
    if open_disputes:
        return Stay(why="in a dispute: staying until it is over")
    if not is_leaving:
        return None
    if is_to_accuse:
        return Stay(why="means to accuse: staying until that is done")
    ends = list_window_ends(parameters, stakes)
    if None in ends:
        return Stay(why="the round is not over: staying until what was done in it can be accused no more")
    last = max((end for end in ends if end is not None), default=-MARGIN_BLOCKS)
    if height < last + MARGIN_BLOCKS:
        return Stay(why="what was done can be accused: staying until it can no more", until=last + MARGIN_BLOCKS)
    return None


def compute_facts(
    *, is_leaving: bool, is_staying: bool, asked_in: RoundIndex, current: RoundIndex, member: MemberView
) -> EndingFacts:
    """What follows from the wish to end, asked for in the round `asked_in`.

    Who has to stay and keeps the seat works on as if it had not been asked, because its seat is counted on.
    """
    is_seated = member.role != Role.NONE
    if is_staying and is_seated and not is_leaving:
        return EndingFacts()
    return EndingFacts(
        finishing=True,
        round_over=current > asked_in,
        answerable=is_staying,
        retire=is_leaving and is_seated and not member.leaving,
    )


def list_window_ends(parameters: Parameters, stakes: Sequence[Claimable]) -> list[int | None]:
    """The last block in which each of these rounds can be accused; None while it is played."""
    after = parameters.maturity_blocks - parameters.window_blocks
    return [stake.mature_at - after if stake.mature_at else None for stake in stakes]


class Ending:
    """One node's."""

    def __init__(self, session: Session, disputes: DisputeDesk) -> None:
        self._session, self._log, self._disputes = session, session.log, disputes
        self._is_leaving = session.settings.on_stop == OnStop.LEAVE
        self._asked_in: RoundIndex | None = None
        """The round in which the operator asked the node to end, or, where it had to stay, could have it end."""
        self._stay: Stay | None = None

    @property
    def is_asked(self) -> bool:
        return self._asked_in is not None

    def notice(self, current: Current) -> None:
        """Remember in which round the operator asked for the end. Raises Stopped: it is to end now."""
        stop = self._session.stop
        if stop.finish.is_set() and self._asked_in is None:
            if self._session.settings.on_stop == OnStop.QUIT:
                stop.quit.set()
                raise Stopped
            self._asked_in = current.round
            self._log.info(
                "finishing what this round asks of this node; asked again, it ends at once",
                round=current.round,
                phase=current.phase.name.lower(),
                until_block=current.until,
            )

    def compute(self, current: Current, member: MemberView, stakes: Sequence[Claimable], height: int) -> EndingFacts:
        """What the decisions are made on. `stakes` and `height` as in `find_reason`."""
        if self._asked_in is None:
            return EndingFacts()
        self._stay = self._find_stay(stakes, height)
        facts = compute_facts(
            is_leaving=self._is_leaving,
            is_staying=self._stay is not None,
            asked_in=self._asked_in,
            current=current.round,
            member=member,
        )
        if not facts.finishing:
            self._asked_in = current.round
        return facts

    def _find_stay(self, stakes: Sequence[Claimable], height: int) -> Stay | None:
        if not self._disputes.has_court:
            return None
        stay = find_reason(
            self._session.run.parameters,
            is_leaving=self._is_leaving,
            open_disputes=self._disputes.counts.open,
            is_to_accuse=self._disputes.is_to_accuse,
            stakes=stakes,
            height=height,
        )
        if stay is not None and stay != self._stay:
            until = {} if stay.until is None else {"until_block": stay.until}
            self._log.warning(f"{stay.why}; asked again, it ends at once", **until)
        return stay

    def warn(self, current: Current, member: MemberView, stakes: Sequence[Claimable], height: int) -> None:
        """Of what a node that ends now has to be back for."""
        self._log.info("nothing is left to do: ending", round=current.round)
        if member.role != Role.NONE and not member.leaving:
            self._log.warning(
                "the seat is kept: whoever is drawn and away pays for it; back soon, or `cupel leave`",
                round=current.round,
            )
        if self._disputes.has_court:
            ends = list_window_ends(self._session.run.parameters, stakes)
            last = max((end for end in ends if end is not None), default=0)
            if height < last:
                self._log.warning("what was done can be accused, and silence loses: back soon", until_block=last)
