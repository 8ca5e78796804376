"""Following a chain: where the run stands now, and what the chain said, for as long as it can be true.

So that waiting costs two small requests a block, every answer is kept until the phase moves, the round ends, this node
acts, or a re-org takes back the blocks that it came from.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from cupel.chain.run_values import Current, MemberView, Phase, UnitView
from cupel.node.session import Session
from cupel.protocol.errors import ProtocolError
from cupel.protocol.types import Cid, Height, Root, Seed, UnitId

POLL_S = 0.25
"""Pause between looks at the chain's height."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Pauses before trying again what failed: each twice the one before."""
T = TypeVar("T")


class OutOfDate(ProtocolError):
    """The chain changed, by a re-org for the most part, between looking and acting: look again."""


class Follower(ABC):
    """Looks at the chain for one node. One thread."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.log, self.contract, self.stats = session.log, session.contract, session.stats
        self.parameters = session.run.parameters
        self.height = Height(0)
        self.base_fee_wei = 0
        """Of the newest block, per gas."""
        self._seen: Current | None = None
        self._of_phase: dict[Any, Any] = {}
        self._of_round: dict[Any, Any] = {}
        self._asleep: dict[object, tuple[float, float]] = {}
        """Until when to leave alone what nobody served, and the last pause."""
        self._is_due = self._beacon_missed = False
        self._phase_since = self._due_since = time.monotonic()

    # Looking

    def look(self) -> bool:
        """Bring `current` up to date; whether there is anything new."""
        look = self.session.heads.look()
        if look.reorg_depth:
            self.log.warning("the chain replaced its newest blocks", depth=look.reorg_depth)
            self.stats.reorgs += 1
            self.forget_all()
            self._seen = None
            self._on_reorg()
        elif self._seen is not None and look.head.number == self.height:
            return False
        before, now = self._seen, self.contract.current()
        self.height, self._seen, self.base_fee_wei = look.head.number, now, look.head.base_fee_wei
        if before is None or (before.round, before.phase) != (now.round, now.phase):
            self._phase_since = time.monotonic()
            self.forget()
            if before is None or before.round != now.round or before.phase == Phase.WAITING:
                self.forget_all()
            self.stats.round, self.stats.phase = now.round, now.phase.name.lower()
        elif before.until != now.until:
            # Of one phase only the end moved, or it is another of the same name: seals are asked for twice.
            self.forget()
        was_due, (self._is_due, self._beacon_missed) = self._is_due, self._compute_due(now)
        if not was_due:
            self._due_since = time.monotonic()
        return True

    @abstractmethod
    def _on_reorg(self) -> None:
        """Other blocks took the place of the newest: nothing read from those may be relied on."""

    def _compute_due(self, current: Current) -> tuple[bool, bool]:
        """Whether the phase is over in the next block, and whether that is for want of a recorded beacon value."""
        following = self.height + 1
        if current.phase == Phase.WAITING:
            return current.due, False
        if current.phase not in (Phase.SEED, Phase.DRAW):
            return following > current.until, False
        # `advance` records the value of the very block it is in; that of an earlier one has to be proved.
        missed = following > current.until and not current.due
        return following >= current.until, missed

    def wait_for_block(self) -> None:
        """Until the chain is higher; a little longer each time it is not, so that slow chains cost little."""
        pause_s = POLL_S
        while not self.session.stop.wait(pause_s):
            if self.session.chain.head().number != self.height:
                return
            pause_s = min(pause_s * 1.2, 1.0)
            if self._is_impatient():
                return

    def _is_impatient(self) -> bool:
        """Whether time alone may bring something to do: a merge to propose or a phase to move in somebody's stead."""
        return self._is_due or self.current.phase in (Phase.MERGE, Phase.ACKNOWLEDGE) or bool(self._asleep)

    # What is known

    @property
    def current(self) -> Current:
        """Where the run stood when the chain was last looked at."""
        if self._seen is None:
            raise AssertionError("the chain has not been looked at yet")
        return self._seen

    def keep(self, name: object, read: Callable[[], T]) -> T:
        """`read()`, asked once until the phase moves or this node acts: what its own actions change."""
        value: T = _keep(self._of_phase, name, read)
        return value

    def keep_for_round(self, name: object, read: Callable[[], T]) -> T:
        """`read()`, asked once a round: what only the end of a round changes, or an action that then names it."""
        value: T = _keep(self._of_round, name, read)
        return value

    def forget(self, *names: object) -> None:
        """Ask the chain again for what a phase may change, and for these facts of the round."""
        self._of_phase.clear()
        for name in names:
            self._of_round.pop(name, None)

    def forget_all(self) -> None:
        """Ask the chain again for everything."""
        self._of_phase.clear()
        self._of_round.clear()

    def is_asleep(self, name: object) -> bool:
        """Whether fetching this failed so recently that it is not tried yet."""
        until, _ = self._asleep.get(name, (0.0, 0.0))
        return time.monotonic() < until

    def put_to_sleep(self, name: object) -> None:
        """Leave it alone for a while, longer each time it fails within a round."""
        _, pause_s = self._asleep.get(name, (0.0, 0.0))
        pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._asleep[name] = (time.monotonic() + pause_s, pause_s)
        # Whoever has it may have come back under another endpoint.
        self.forget("seats")

    def get_units(self) -> tuple[UnitView, ...]:
        """Committed units of the current round."""
        return self.keep("units", lambda: self.contract.get_units(self.current.round))

    def find_unit(self, unit_id: UnitId) -> UnitView:
        """A committed unit of the current round. Raises OutOfDate: a re-org undid it while this turn was decided."""
        for unit in self.get_units():
            if unit.unit_id == unit_id:
                return unit
        raise OutOfDate(f"unit 0x{unit_id.hex()} is no longer committed in round {self.current.round}")

    def get_member(self) -> MemberView:
        """This node's own seat and deposit."""
        return self.keep_for_round("member", lambda: self.contract.member_of(self.session.address))

    def get_start(self) -> tuple[Root, Cid | None]:
        """Root and CID of the state the current round starts from."""
        return self.keep_for_round("start", lambda: self.contract.get_state(self.current.round))

    def get_draw_seed(self) -> Seed:
        """What this round's draw followed from; zero before it. Seals and merges name it."""
        round_ = self.current.round
        return self.keep_for_round("draw seed", lambda: self.contract.get_round(round_).draw_seed)


def _keep(kept: dict[Any, Any], name: object, read: Callable[[], Any]) -> Any:
    if name not in kept:
        kept[name] = read()
    return kept[name]
