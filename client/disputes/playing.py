"""Disputes of a person without a node: accuse what was computed to be wrong, and play to the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, partial

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_events import DisputeRecord
from cupel.chain.errors import ChainUnreachable
from cupel.chain.openings import read_opened
from cupel.chain.run_values import ZERO_ADDRESS, UnitView
from cupel.node.descriptions import MAX_DESCRIPTION_BYTES, UnitDescription
from cupel.node.disputes.player import DisputePlayer, pad_bond
from cupel.node.disputes.run_sides import RunSides
from cupel.node.session import Session
from cupel.protocol.disputes.game import Defence
from cupel.protocol.errors import ProtocolError, Unavailable, UsageError
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import answer_of, train_segment
from cupel.protocol.types import Address

PAUSE_S = 0.5
"""Between looks while the other side, or a block, is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A claim that is wrong by what was computed here."""

    subject: bytes
    round: int
    segment: int
    """0 for a merge."""
    accused: Address
    reason: str


class Hand:
    """What a node keeps of a run, as far as accusing takes it (`run_sides.Keeper`)."""

    def __init__(self, session: Session) -> None:
        if session.run.parameters.court == ZERO_ADDRESS:
            raise UsageError("the run was deployed without a court: nothing in it can be disputed")
        self.session, self.contract, self.step = session, session.contract, session.step()
        self.sides = RunSides(self)
        self.court = CourtContract(session.chain, session.run.parameters.court)

    @cached_property
    def player(self) -> DisputePlayer:
        session = self.session
        return DisputePlayer(
            chain=session.chain,
            court=self.court,
            run=session.run_file.contract,
            sides=self.sides,
            journal=session.journal,
            log=session.log,
            first_block=session.run_file.deploy_block,
            budget_wei=session.settings.challenge_budget_wei,
        )

    def describe(self, unit: UnitView) -> UnitDescription:
        """Raises Unavailable, MalformedInput, or RootMismatch: it is not what was committed."""
        if unit.cid is None:
            raise Unavailable(f"unit 0x{unit.unit_id.hex()} names no description")
        start, _ = self.contract.get_state(unit.round)
        segments = self.session.run.parameters.segments
        description = UnitDescription.from_bytes(self.session.fetcher.fetch(unit.cid, max_bytes=MAX_DESCRIPTION_BYTES))
        description.check(unit.unit_id, unit.root, unit.contribution, start, segments)
        return description

    def fetch_contribution(self, unit: UnitView) -> NamedState:
        last = self.describe(unit).states[-1]
        what, pin = f"contribution of unit 0x{unit.unit_id.hex()}", f"hand/{unit.round}/{unit.unit_id.hex()}"
        return self.session.states.get(what, last.cid, last.state_root, pin)

    def checkpoint_pin(self, unit: UnitView, segment: int) -> str:
        return f"hand/{unit.round}/{unit.unit_id.hex()}/{segment}"

    def defend_unit(self, unit: UnitView, segment: int) -> Defence:
        raise Unavailable(f"unit 0x{unit.unit_id.hex()} is defended by its `miner`, which has its key and checkpoints")

    # Looking

    def find_unit(self, round_: int, wanted: str) -> UnitView:
        """By its place among the round's units, or the start of its id. Raises UsageError."""
        units = self.contract.get_units(round_)
        if wanted.isdigit() and int(wanted) < len(units):
            return units[int(wanted)]
        prefix = wanted.lower().removeprefix("0x")
        found = [unit for unit in units if prefix and unit.unit_id.hex().startswith(prefix)]
        if len(found) != 1:
            listed = ", ".join(f"{i}: 0x{unit.unit_id.hex()[:16]}…" for i, unit in enumerate(units)) or "none"
            raise UsageError(f"{len(found) or 'no'} units of round {round_} match {wanted!r}; units there: {listed}")
        return found[0]

    def find_wrong_segment(self, unit: UnitView, segment: int | None) -> Wrong | None:
        """The first segment (or this one) whose posted end does not follow from its posted start; None: all do.

        The loss and gradient norm of a segment are compared where the miner opened them: nobody knows the others.

        Raises   UsageError: the unit has no such segment; Unavailable: nobody serves what it takes
        """
        states = self.describe(unit).states
        if segment is not None and not 0 <= segment < len(states) - 1:
            raise UsageError(f"no segment {segment}: a unit has segments 0 to {len(states) - 2}")
        seed = self.contract.get_round(unit.round).seed
        evidence = [state.evidence for state in states]
        opened = read_opened(self.session.chain, self.contract, unit.round, unit.unit_id, evidence)
        wrong = partial(Wrong, subject=self.sides.name_unit(unit), round=unit.round, accused=unit.miner)
        load, steps = self.session.run.load_batch(seed, unit.unit_id), self.session.run.parameters.segment_steps
        for number in range(len(states) - 1) if segment is None else [segment]:
            result = train_segment(self.step, self.sides.fetch_checkpoint(unit, number), load, number, steps)
            answer, posted = answer_of(result), states[number + 1].state_root
            right = answer.end_root
            if right != posted:
                reason = f"segment {number} ends in 0x{right.hex()[:16]}, not in 0x{posted.hex()[:16]}"
                return wrong(segment=number, reason=reason)
            shown = opened.get(number)
            if shown is not None and (shown.loss, shown.gradient_norm) != (answer.loss, answer.gradient_norm):
                return wrong(
                    segment=number, reason=f"segment {number} has another loss or gradient norm than was opened"
                )
            # The next segment starts from it, whether its miner gives it to anybody or not.
            self.session.states.put(result.state, self.checkpoint_pin(unit, number + 1))
        return None

    def find_wrong_candidate(self, round_: int, candidate: int | None) -> Wrong | None:
        """The first proposed merge of a round (or this one) that is not what its units give; None: all are.

        Raises   UsageError: there is no such candidate; Unavailable: nobody serves a unit's end state
        """
        candidates = self.contract.candidates(round_)
        if candidate is not None and candidate >= len(candidates):
            raise UsageError(f"no candidate {candidate}: {len(candidates)} merges were proposed in round {round_}")
        wanted = range(len(candidates)) if candidate is None else [candidate]
        right = self.sides.run_merge(round_).root if candidates else None
        for number in wanted:
            one = candidates[number]
            # One that is convicted already is nobody's to accuse.
            if right is not None and one.state_root != right and (candidate is not None or not one.is_convicted):
                reason = f"the merge is 0x{right.hex()[:16]}, not 0x{one.state_root.hex()[:16]}"
                subject = self.sides.name_candidate(round_, number)
                return Wrong(subject=subject, round=round_, segment=0, accused=one.proposer, reason=reason)
        return None

    # Playing

    def bond_for(self, accused: Address) -> int:
        """Wei to have at hand for accusing somebody; what the court does not need comes back."""
        return pad_bond(self.court.bond_for(self.session.run_file.contract, accused))

    def accuse(self, wrong: Wrong) -> DisputeRecord:
        """Announce, accuse, and play to the end.

        Raises   UsageError: it cannot be accused (any more), or the bond is more than account or budget have
        """
        if not self.sides.is_contestable(wrong.subject):
            raise UsageError(f"0x{wrong.subject.hex()} cannot be accused now: not judged yet, convicted, or too late")
        self._check_funds(wrong.accused)
        since, until = self.session.chain.head().number, self.sides.get_window_end(wrong.round)
        self.player.accuse(wrong.subject, wrong.segment, since=since, until=until, reason=wrong.reason)
        while True:
            self._play()
            for record in self.player.disputes.values():
                if record.subject == wrong.subject and record.challenger == self.session.address:
                    return self.play_to_end(record.number)
            if not self.sides.is_contestable(wrong.subject):
                raise UsageError(f"0x{wrong.subject.hex()} was not accused in time, or somebody else convicted it")

    def play_to_end(self, number: int) -> DisputeRecord:
        """Every move of this key's side of a dispute; what it won is collected. Raises UsageError: it has no side."""
        self._play()
        if number not in self.player.disputes:
            raise UsageError(f"{self.session.address} is no party of dispute {number}: `cupel dispute show` names them")
        while self.player.disputes[number].ending is None:
            self._play()
        while self.player.play():  # collects
            pass
        return self.player.disputes[number]

    def _check_funds(self, accused: Address) -> None:
        """Before anything is announced. A player waits for money that is missing, and says so only in its log."""
        needed = self.bond_for(accused)
        budget = self.session.settings.challenge_budget_wei
        if budget is not None and budget < needed:
            raise UsageError(f"the bond may take {_ether(needed)}, and --challenge-budget allows {_ether(budget)}")
        balance = int(self.session.chain.get_balance(self.session.address))
        if balance < needed:
            raise UsageError(
                f"{self.session.address} has {_ether(balance)}; the bond may take {_ether(needed)}, and moves cost gas"
            )

    def _play(self) -> None:
        """One look, and a pause where there is nothing to do."""
        try:
            if self.player.play():
                return
        except (ProtocolError, ChainUnreachable) as trouble:
            self.session.log.warning("disputes not looked at", reason=str(trouble))
        time.sleep(PAUSE_S)


def _ether(wei: int) -> str:
    return f"{wei / 10**18:.6g} ETH"
