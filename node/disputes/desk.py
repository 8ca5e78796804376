"""A node's disputes beside its work, and between the steps of it: a clock runs in each."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cupel.chain.court_contract import CourtContract
from cupel.chain.errors import ChainUnreachable
from cupel.chain.run_values import ZERO_ADDRESS, UnitView
from cupel.node.disputes.counts import DisputeCounts
from cupel.node.disputes.player import DisputePlayer
from cupel.node.disputes.run_sides import Keeper, RunSides
from cupel.protocol.errors import ProtocolError
from cupel.protocol.hashing import sha256
from cupel.protocol.types import Address, Height

LOOK_S = 1.0
"""Between looks while a node computes."""
TURN_BLOCKS = 3
"""Between one who knows of a lie and the next: an announcement and an accusation are seen by then."""
CROWD = 8
TROUBLE_S = 2.0
"""After a look that failed."""


class DisputeDesk:
    """A node's disputes in its run; nothing happens where the run has no court.

    budget_wei  bonds for accusations together; None: what the account has; 0: this node accuses nobody
    """

    def __init__(self, keeper: Keeper, budget_wei: int | None) -> None:
        session = keeper.session
        self.sides = RunSides(keeper)
        self._session = session
        self._log, self._accuses = session.log, budget_wei != 0
        self._player: DisputePlayer | None = None
        self._next_look = 0.0
        self._is_playing = False
        court = session.run.parameters.court
        if court != ZERO_ADDRESS:
            self._player = DisputePlayer(
                chain=session.chain,
                court=CourtContract(session.chain, court),
                run=session.run_file.contract,
                sides=self.sides,
                journal=session.journal,
                log=session.log,
                first_block=session.run_file.deploy_block,
                budget_wei=budget_wei,
                counts=session.disputes,
                observe=session.points.reach,
            )

    @property
    def counts(self) -> DisputeCounts:
        return self._session.disputes

    @property
    def accuses(self) -> bool:
        """Whether this node accuses anybody at all."""
        return self._player is not None and self._accuses

    @property
    def has_court(self) -> bool:
        """Whether this run's claims can be disputed at all."""
        return self._player is not None

    @property
    def is_to_accuse(self) -> bool:
        """Whether a dispute of this node's is still to be begun, and can be."""
        return self._player is not None and self._player.is_to_accuse

    def is_convicted(self, subject: bytes) -> bool:
        """Whether the court convicted this, as of the last look."""
        return self._player is not None and subject in self._player.convicted

    def play(self) -> bool:
        """Do what there is to do now; whether anything was sent. What fails is said, and tried again later."""
        if self._player is None or self._is_playing or time.monotonic() < self._next_look:
            return False
        self._is_playing = True
        try:
            return self._player.play()
        except (ProtocolError, ChainUnreachable) as trouble:
            self._log.warning("disputes not looked at", reason=str(trouble))
            self._next_look = time.monotonic() + TROUBLE_S
            return False
        finally:
            self._is_playing = False

    def end_stale(self) -> bool:
        """End a dispute of other people's that nobody ends, where this node has nothing else to do; whether it did."""
        if self._player is None or self._is_playing or time.monotonic() < self._next_look:
            return False
        try:
            return self._player.end_stale()
        except (ProtocolError, ChainUnreachable) as trouble:
            self._log.warning("disputes not ended", reason=str(trouble))
            return False

    def play_between(self) -> None:
        """The same between two steps of a computation: a move is not kept waiting by work, but work by a move."""
        while self.play():
            pass
        self._next_look = max(self._next_look, time.monotonic() + LOOK_S)

    def accuse_unit(self, unit: UnitView, segments: Sequence[int], reason: str) -> None:
        """Accuse a judged unit that this node trained to another end, in these segments, if it accuses at all."""
        if self._player is not None and self._accuses and not self._player.means_to_accuse(unit.unit_id):
            subject = self.sides.name_unit(unit)
            until, since = self.sides.get_window_end(unit.round), self._wait_turn(subject, unit.verifiers)
            for segment in segments:
                self._player.accuse(subject, segment, since=since, until=until, reason=reason)

    def accuse_candidate(self, round_: int, candidate: int, reason: str) -> None:
        """Accuse a proposed merge that is not what this node computed, likewise."""
        if self._player is not None and self._accuses:
            subject = self.sides.name_candidate(round_, candidate)
            if not self._player.means_to_accuse(subject):
                until, since = self.sides.get_window_end(round_), self._wait_turn(subject, ())
                self._player.accuse(subject, 0, since=since, until=until, reason=reason)

    def _wait_turn(self, subject: bytes, drawn: Sequence[Address]) -> Height:
        """Who was drawn for a unit accuses it in that order, then everybody else in one by lot."""
        session = self._session
        if session.address in drawn:
            place = drawn.index(session.address)
        else:
            place = len(drawn) + sha256(session.address.encode() + subject)[0] % CROWD
        return Height(session.chain.head().number + place * TURN_BLOCKS)
