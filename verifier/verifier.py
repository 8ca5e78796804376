"""The verifier: replays what the draw gives it, says sealed what it found, and takes part in the merge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from cupel.chain.openings import read_opened
from cupel.chain.run_contract import compute_seal
from cupel.chain.run_values import Answer as PostedAnswer
from cupel.chain.run_values import Assignment, MemberView, Phase, Status, UnitView
from cupel.node.decisions import (
    DrawnUnit,
    Probe,
    Replay,
    ReportUnavailable,
    Reveal,
    Seal,
    VerifierFacts,
    Wait,
    decide_verifier,
)
from cupel.node.deposits import find_addition, verifier_deposit, verifier_round
from cupel.node.descriptions import UnitDescription
from cupel.node.following import OutOfDate
from cupel.node.journal import Duty, question_of, round_subject
from cupel.node.participant import ROUNDS_KEPT, Participant
from cupel.node.records import SegmentVerdict, Verdict, VerdictRecord, float_of_bits
from cupel.node.session import Session, Stopped, open_session
from cupel.node.stopping import StopRequest
from cupel.protocol.errors import ProtocolError
from cupel.protocol.training.unit import Answer, answer_of, train_segment
from cupel.protocol.types import RoundIndex, Salt, Seed, SegmentIndex, UnitId
from cupel.verifier.replay import KIND, UnitReplay, choose_segments
from cupel.verifier.settings import VerifierSettings


def run_verifier(settings: VerifierSettings, stop: StopRequest) -> None:
    """Verify until `stop` is set. Raises as `open_session`."""
    with suppress(Stopped), open_session(settings, "verifier", stop) as session:
        Verifier(session, settings).run()


SEAL_MARGIN_BLOCKS = 3
"""With so few blocks left, what is replayed is sealed, whatever else is missing."""
FAILURES_TO_REPORT = 3
"""So often in a row a unit's data could not be had, before a juror says so: a peer may have been away for a moment."""
MERGE_KIND = "merge to check"
"""What the documents are called that name rounds whose merge this node has still to find out about."""


class Verifier(Participant):
    """One verifier of one run."""

    def __init__(self, session: Session, settings: VerifierSettings) -> None:
        super().__init__(session)
        self.settings = settings
        self._replays: dict[UnitId, UnitReplay] = {}
        self._unavailable: dict[UnitId, str] = {}
        """Why a unit cannot be replayed, as of the last attempt."""
        self._failures: dict[UnitId, int] = {}
        """How often in a row."""
        self._had: set[UnitId] = set()
        """Units whose data was there when this node looked."""
        self._backlog: dict[UnitId, UnitView] = {}
        """Units left to replay for `--watch all`, for as long as they can be accused."""
        self._has_recalled = False
        """Whether those of rounds before this process are among them."""

    # Deciding

    def _turn(self) -> bool:
        action = decide_verifier(self._gather())
        is_free = isinstance(action, Wait) or (isinstance(action, Replay) and not action.drawn)
        if is_free and (self._check_merges() or self.disputes.end_stale()):
            return True
        if isinstance(action, Replay):
            self._replay(UnitId(action.unit), action.segment, drawn=action.drawn)
        elif isinstance(action, Seal):
            self._seal(action.units)
        elif isinstance(action, Reveal):
            self._reveal(action.units)
        elif isinstance(action, Probe):
            self._probe(UnitId(action.unit))
        elif isinstance(action, ReportUnavailable):
            self._report_unavailable(action.units)
        else:
            return self.act(action)
        return True

    def _gather(self) -> VerifierFacts:
        facts, is_drawn = self.gather(), self.current.phase in (Phase.SEAL, Phase.OPEN)
        if self.current.phase in (Phase.OPEN, Phase.MERGE, Phase.ACKNOWLEDGE):
            self.keep_for_round("merge to check", self._note_merge)
        if self.settings.watch == "all":
            if is_drawn:
                self._watch(self.get_units())
            if not self._has_recalled and self.disputes.accuses:
                self._recall()
                self._has_recalled = True
        return VerifierFacts(
            round=facts,
            drawn=tuple(self._drawn_unit(one) for one in self._assignments()) if is_drawn else (),
            watched=self._watched(),
            withheld=self._withheld() if is_drawn else (),
            unprobed=self._unprobed() if is_drawn else (),
            seal_soon=self.height + SEAL_MARGIN_BLOCKS >= self.current.until,
            frozen=self.keep_for_round("frozen", self._is_frozen),
        )

    def _is_frozen(self) -> bool:
        """Whether this verifier's stake is in the current round's draw."""
        return any(p.account == self.session.address and p.frozen for p in self.contract.participants())

    # As a juror

    def _reported(self) -> frozenset[UnitId] | None:
        """Units that this juror has reported; None where it is none."""
        me = self.session.address
        if me not in self.keep_for_round("jury", self.contract.jury):
            return None
        return self.keep("reported", lambda: frozenset(self.contract.reported_by(me)))

    def _is_late(self) -> bool:
        """Whether a miner that meant to serve its unit would have done so by now."""
        left = self.current.until - self.height
        return self.current.phase == Phase.OPEN or left <= self.parameters.seal_blocks // 3

    def _withheld(self) -> tuple[bytes, ...]:
        failed = [unit for unit, times in self._failures.items() if times >= FAILURES_TO_REPORT]
        if not failed or not self._is_late():
            return ()
        reported = self._reported()
        if reported is None:
            return ()
        known = {unit.unit_id for unit in self.get_units() if unit.status in (Status.COMMITTED, Status.OPENED)}
        return tuple(unit for unit in failed if unit in known and unit not in reported)

    def _unprobed(self) -> tuple[bytes, ...]:
        if self.current.phase != Phase.SEAL or not self._is_late() or self._reported() is None:
            return ()
        units = self.keep("late units", lambda: self.contract.get_units(self.current.round))
        return tuple(
            unit.unit_id
            for unit in units
            if unit.status == Status.COMMITTED
            and any(not unit.has_sealed(verifier) for verifier in unit.verifiers)
            and unit.unit_id not in self._had
            and self._failures.get(unit.unit_id, 0) < FAILURES_TO_REPORT
            and not self.is_asleep(unit.unit_id)
        )

    def _probe(self, unit_id: UnitId) -> None:
        """Get what the verifiers that have not sealed need: a seal missing for another reason is their fault."""
        unit = self.find_unit(unit_id)
        try:
            description = self.describe(unit)
            self._hold_end(unit, description)
            for verifier in unit.verifiers:
                if not unit.has_sealed(verifier):
                    for segment in self.contract.assigned_segments(unit.round, unit_id, verifier):
                        self.disputes.sides.fetch_checkpoint(unit, segment)
        except ProtocolError as trouble:
            self._note_failure(unit, trouble)
        else:
            self._had.add(unit_id)

    def _note_failure(self, unit: UnitView, trouble: ProtocolError) -> None:
        self._unavailable[unit.unit_id] = str(trouble)
        self._failures[unit.unit_id] = self._failures.get(unit.unit_id, 0) + 1
        self.put_to_sleep(unit.unit_id)
        self.log.warning("unit unavailable", miner=unit.miner, unit=unit.index, reason=str(trouble))

    def _report_unavailable(self, units: tuple[bytes, ...]) -> None:
        ids = [UnitId(unit) for unit in units]
        self.contract.report_unavailable(self.get_draw_seed(), ids)
        self.forget()
        for unit in ids:
            self.log.warning("reported as unavailable", unit=unit, reason=self._unavailable.get(unit, ""))

    def _assignments(self) -> tuple[Assignment, ...]:
        return self.keep("mine", lambda: self.contract.assignments_of(self.current.round, self.session.address))

    def _drawn_unit(self, drawn: Assignment) -> DrawnUnit:
        unit = self.find_unit(drawn.unit_id)
        known = self._replay_of(unit).answers
        is_refused = (Duty.SEAL, drawn.unit_id) in self.refused
        return DrawnUnit(
            unit=drawn.unit_id,
            missing=tuple(s for s in drawn.segments if s not in known),
            asleep=self.is_asleep(drawn.unit_id),
            is_sealed=drawn.is_sealed or is_refused,
            is_revealed=drawn.is_revealed or (is_refused and not drawn.is_sealed),
        )

    def _watch(self, units: tuple[UnitView, ...]) -> None:
        self._backlog |= {u.unit_id: u for u in units if "all" not in self._replay_of(u).reported}

    def _watched(self) -> tuple[tuple[bytes, int], ...]:
        """The next segment of each unit, in order: each starts from the end of the one before, as computed here.

        The newest round first: who cannot keep up is of use where there is time left to accuse.
        """
        last = self.parameters.segments - 1
        return tuple(
            (unit_id, next((s for s in range(last) if s not in self._replay_of(unit).answers), last))
            for unit_id, unit in sorted(self._backlog.items(), key=lambda one: -one[1].round)
            if not self.is_asleep(unit_id) and self._is_judged(unit.round)
        )

    def _recall(self) -> None:
        """Go on with the units of earlier rounds that can still be accused: what is left to replay is in no file."""
        for round_ in range(self.current.round - 1, -1, -1):
            if self.height > self._get_window_end(round_):
                break
            units = self.contract.get_units(RoundIndex(round_))
            self._watch(tuple(unit for unit in units if unit.status in _JUDGED))

    def _get_window_end(self, round_: int) -> int:
        """The last block in which a unit of an earlier round can be accused."""
        return self.keep_for_round(("window", round_), lambda: self.disputes.sides.get_window_end(round_))

    def _is_judged(self, round_: int) -> bool:
        """Whether a round's checkpoints are there for everybody; before, a verifier gets what it was drawn for."""
        return round_ < self.current.round or self.current.phase in (Phase.MERGE, Phase.ACKNOWLEDGE)

    # Joining

    def _join(self) -> None:
        p = self.parameters
        wanted = self.settings.deposit_wei
        if wanted is None:
            wanted = verifier_deposit(p, self.settings.slots)
        deposit = self.compute_deposit("stake as a verifier", wanted, p.slot_stake)
        self.contract.stake(self.session.endpoint, deposit_wei=deposit)
        self.log.info("staked", slots=self.settings.slots, deposit_eth=deposit / 10**18, endpoint=self.session.endpoint)

    def _wanted_addition(self, member: MemberView) -> int:
        if self.settings.deposit_wei is not None:
            return 0
        a_round = verifier_round(self.parameters, self.settings.slots)
        kept = self.settings.slots * self.parameters.slot_stake
        return find_addition(
            self.parameters, a_round, kept_wei=kept, deposit_wei=member.deposit, locked_wei=member.locked
        )

    # Replaying

    def _get_seed(self, round_: int) -> Seed:
        return self.keep_for_round(("seed", round_), lambda: self.contract.get_round(round_).seed)

    def _replay_of(self, unit: UnitView) -> UnitReplay:
        """What is known of this unit as it stands on chain: after a re-org it may be another one of the same id."""
        seed, replay = self._get_seed(unit.round), self._replays.get(unit.unit_id)
        if replay is None:
            replay = UnitReplay.load(self.session.journal, unit.unit_id)
        if replay is None or (replay.seed, replay.root) != (seed, unit.root):
            replay = UnitReplay(unit=unit.unit_id, round=unit.round, seed=seed, root=unit.root)
        self._replays[unit.unit_id] = replay
        return replay

    def _replay(self, unit_id: UnitId, segment: int, *, drawn: bool) -> None:
        """One segment. What nobody serves, or is not what was committed, is unavailable; it is asked for again."""
        unit = self._backlog.get(unit_id) or self.find_unit(unit_id)
        replay = self._replay_of(unit)
        began, computed = time.perf_counter(), self.stats.steps_s
        try:
            description = self.describe(unit)
            if drawn:
                self._hold_end(unit, description)
            elif _is_wrong(replay, description) or segment in replay.answers:
                self._report(unit, description)
                return
            answer = self._compute(unit, description, segment)
        except ProtocolError as trouble:
            self._note_failure(unit, trouble)
            return
        self._unavailable.pop(unit_id, None)
        self._failures.pop(unit_id, None)
        self._had.add(unit_id)
        replay.answers[segment] = answer
        replay.replay_s += self.stats.steps_s - computed
        replay.fetch_s += time.perf_counter() - began - (self.stats.steps_s - computed)
        replay.save(self.session.journal)
        self.session.points.reach("replay/saved")
        self.stats.loss = float_of_bits(answer.loss)
        self._report(unit, description)

    def _hold_end(self, unit: UnitView, description: UnitDescription) -> None:
        """Keep the unit's end state before anything is said of the unit, so that there is somebody to merge it from.

        Its miner may keep back that one state alone: attested, the unit would be in everybody's merge set, and nobody
        could merge. Raises Unavailable, MalformedInput or RootMismatch
        """
        if self.session.states.held(self.contribution_pin(unit)) != description.states[-1].cid:
            self.fetch_contribution(unit)
            self.session.points.reach("contribution/held")

    def _compute(self, unit: UnitView, description: UnitDescription, segment: int) -> Answer:
        state = self.disputes.sides.fetch_checkpoint(unit, segment)
        self.session.points.reach("replay/fetched")
        load = self.session.run.load_batch(self._get_seed(unit.round), unit.unit_id)
        result = train_segment(self.step, state, load, segment, self.parameters.segment_steps)
        answer, following = answer_of(result), segment + 1
        is_next = unit.unit_id in self._backlog and following < self.parameters.segments
        if is_next and answer.end_root == description.states[following].state_root:
            # The next segment starts from it, whether its miner gives it to anybody or not.
            self.session.states.put(result.state, self.checkpoint_pin(unit, following))
        return answer

    # Saying what was found

    def _report(self, unit: UnitView, description: UnitDescription) -> None:
        """Log and record a verdict once all drawn segments, or all there are, are replayed."""
        known = self._replay_of(unit).answers
        drawn: tuple[SegmentIndex, ...] = ()
        if unit.round == self.current.round:
            drawn = next((a.segments for a in self._assignments() if a.unit_id == unit.unit_id), ())
        if drawn and all(s in known for s in drawn):
            self._report_once(unit, description, drawn, drawn=True)
        is_done = len(known) == self.parameters.segments or _is_wrong(self._replay_of(unit), description)
        if unit.unit_id in self._backlog and is_done:
            self._report_once(unit, description, sorted(known), drawn=False)
            del self._backlog[unit.unit_id]
            if self._is_judged(unit.round):
                self._accuse_if_wrong(self._refresh(unit))

    def _report_once(
        self, unit: UnitView, description: UnitDescription, segments: Sequence[int], *, drawn: bool
    ) -> None:
        replay, which = self._replay_of(unit), "drawn" if drawn else "all"
        if which in replay.reported:
            return
        found = tuple(_compare(s, description, replay.answers[s]) for s in segments)
        wrong = [v for v in found if not v.agrees]
        reason = "; ".join(
            f"segment {v.segment}: expected 0x{v.expected_root.hex()}, got 0x{v.got_root.hex()}" for v in wrong
        )
        self._record(unit, "rejects" if wrong else "attests", reason, found, drawn=drawn)
        for v in wrong:
            self.log.warning(
                "unit rejected",
                miner=unit.miner,
                unit=unit.index,
                segment=v.segment,
                expected=v.expected_root,
                got=v.got_root,
            )
        if not wrong:
            self.log.info("unit agrees", miner=unit.miner, unit=unit.index, segments=segments)
        replay.reported.add(which)
        replay.save(self.session.journal)
        self.session.points.reach("verdict/recorded")

    def _record(
        self, unit: UnitView, verdict: Verdict, reason: str, segments: tuple[SegmentVerdict, ...], *, drawn: bool
    ) -> None:
        if drawn:
            self.stats.accepted += verdict == "attests"
            self.stats.rejected += verdict == "rejects"
            self.stats.stale += verdict == "unavailable"
        replay = self._replay_of(unit)
        self.session.history.append(
            VerdictRecord(
                time_s=time.time(),
                round=unit.round,
                unit=unit.unit_id,
                miner=unit.miner,
                index=unit.index,
                verifier=self.session.address,
                verdict=verdict,
                reason=reason,
                drawn=drawn,
                segments=segments,
                replay_s=round(replay.replay_s, 3),
                fetch_s=round(replay.fetch_s, 3),
            )
        )

    # Sealing and revealing

    def _answers(self, unit: UnitView) -> list[PostedAnswer]:
        segments = next((a.segments for a in self._assignments() if a.unit_id == unit.unit_id), ())
        known = self._replay_of(unit).answers
        if not segments or any(segment not in known for segment in segments):
            raise OutOfDate(f"other segments of unit 0x{unit.unit_id.hex()} are drawn now")
        return [
            PostedAnswer(end_root=a.end_root, loss=a.loss, gradient_norm=a.gradient_norm)
            for a in (known[s] for s in segments)
        ]

    def _salt(self, unit: UnitId) -> Salt:
        return Salt(self.session.signer.derive_secret(b"cupel seal" + unit))

    def _views(self, units: tuple[bytes, ...]) -> list[UnitView]:
        return [self.find_unit(UnitId(unit)) for unit in units]

    def _seal(self, units: tuple[bytes, ...]) -> None:
        views, draw = self._views(units), self.get_draw_seed()
        ids = [view.unit_id for view in views]
        seals = [compute_seal(v.unit_id, self.session.address, self._answers(v), self._salt(v.unit_id)) for v in views]
        stated = [
            (view.unit_id, question_of(draw, self._get_seed(view.round), view.root), seal)
            for view, seal in zip(views, seals, strict=True)
        ]
        self.session.journal.state_all(Duty.SEAL, stated)
        self.session.points.reach("seal/stated")
        self.contract.seal(draw, ids, seals)
        self.forget()
        self.log.info("sealed", round=self.current.round, units=len(ids))

    def _reveal(self, units: tuple[bytes, ...]) -> None:
        views = self._views(units)
        ids = [view.unit_id for view in views]
        self.contract.reveal(self.current.round, ids, [self._answers(v) for v in views], [self._salt(u) for u in ids])
        self.forget()
        self.log.info("revealed", round=self.current.round, units=len(ids))

    # Afterwards

    def _settle(self, ended: RoundIndex) -> None:
        """Record what could not be replayed, and dissent that shows in the evidence alone."""
        units, me = self.contract.get_units(ended), self.session.address
        for unit in units:
            if me in unit.verifiers and not unit.has_sealed(me):
                if "unsealed" in self._replay_of(unit).reported:
                    continue
                reason = self._unavailable.get(unit.unit_id, "not replayed before the seal phase ended")
                self._record(unit, "unavailable", reason, (), drawn=True)
                self._mark_reported(unit, "unsealed")
                self.log.warning("not sealed", miner=unit.miner, unit=unit.index, reason=reason)
            elif unit.status == Status.DISPUTED and unit.has_revealed(me) and not unit.has_agreed(me):
                self._settle_dissent(unit)
            self._accuse_if_wrong(unit)
        if self.settings.watch == "all":
            self._watch(units)
        for unit in [u for u in self._backlog.values() if self._is_too_late(u, ended)]:
            reason = self._unavailable.get(unit.unit_id, "there was no time to replay it")
            self._record(unit, "unavailable", reason, (), drawn=False)
            del self._backlog[unit.unit_id]
        self._let_go(ended)

    def _is_too_late(self, unit: UnitView, ended: RoundIndex) -> bool:
        """Whether nothing comes of replaying a unit any more."""
        if unit.status in _JUDGED and self.disputes.accuses:
            return self.height > self._get_window_end(unit.round)
        return unit.round <= ended - ROUNDS_KEPT

    def _note_merge(self) -> None:
        """A juror, and who watches all, finds out about this round's merge, be it after it was accepted."""
        round_ = self.current.round
        is_juror = self.session.address in self.keep_for_round("jury", self.contract.jury)
        if self.disputes.accuses and (is_juror or self.settings.watch == "all"):
            self.session.journal.put(MERGE_KIND, round_subject(round_), round_, {"round": round_})
            self.forget("merges to check")

    def _list_unchecked(self) -> list[RoundIndex]:
        """Rounds that have ended and whose merges are still to be computed."""
        journal = self.session.journal
        found = [journal.get(MERGE_KIND, name) for name in journal.names(MERGE_KIND, last_round=self.current.round - 1)]
        return [RoundIndex(int(body["round"])) for body in found if body is not None]

    def _check_merges(self) -> bool:
        """Compute a merge that was accepted before this node could: a bought jury is faster than an honest one."""
        for round_ in self.keep_for_round("merges to check", self._list_unchecked):
            if self.is_asleep(("merge of", round_)):
                continue
            try:
                candidates = self.contract.candidates(round_)
                if candidates and self.height < self.disputes.sides.get_window_end(round_):
                    self.accuse_wrong_merges(round_, candidates, self.compute_merged_root(round_))
            except ProtocolError as trouble:
                self.log.warning("merge not checked", round=round_, reason=str(trouble))
                self.put_to_sleep(("merge of", round_))
            else:
                self.session.journal.drop(MERGE_KIND, round_subject(round_))
                self.forget("merges to check")
                return True
        return False

    def _refresh(self, unit: UnitView) -> UnitView:
        """A unit as it stands now; what was seen of it may be from before its judgement."""
        [now] = self.contract.get_unit_states([unit.unit_id])
        return replace(
            unit,
            status=now.status,
            opened=now.opened,
            verifiers=now.verifiers,
            sealed_mask=now.sealed_mask,
            revealed_mask=now.revealed_mask,
            agreed_mask=now.agreed_mask,
        )

    def _accuse_if_wrong(self, unit: UnitView) -> None:
        """Have the court find out about a judged unit of which a segment ended otherwise here.

        In a state, a loss or a gradient norm: whatever makes this node dissent makes it accuse, or a miner whose
        evidence alone is false would cost it a stake.
        """
        known, description = self._replay_of(unit).answers, self._descriptions.get(unit.root)
        if not known or unit.status not in _JUDGED:
            return
        if description is None:
            description = self.describe(unit)
        wrong = next((s for s in sorted(known) if not _compare(s, description, known[s]).agrees), None)
        if wrong is not None:
            self.disputes.accuse_unit(unit, [wrong], "the segment ends in another state")
            return
        segments = self._find_false_evidence(unit, description)
        if segments:
            self.disputes.accuse_unit(unit, segments, "the segment has another loss or gradient norm")

    def _find_false_evidence(self, unit: UnitView, description: UnitDescription) -> list[int]:
        """Segments to accuse of a unit whose states are right."""
        me, replayed = self.session.address, self._replay_of(unit).answers
        drawn: tuple[SegmentIndex, ...] = ()
        if me in unit.verifiers:
            drawn = self.contract.assigned_segments(unit.round, unit.unit_id, me)
        if unit.has_agreed(me) and set(replayed) <= set(drawn):
            return []
        evidence = [leaf.evidence for leaf in description.states]
        opened = read_opened(self.session.chain, self.contract, unit.round, unit.unit_id, evidence)
        is_dissent = unit.has_revealed(me) and not unit.has_agreed(me)
        return choose_segments(replayed, opened, drawn if is_dissent else ())

    def _mark_reported(self, unit: UnitView, what: str) -> None:
        replay = self._replay_of(unit)
        replay.reported.add(what)
        replay.save(self.session.journal)

    def _let_go(self, ended: RoundIndex) -> None:
        """Forget replays of rounds that are long over, but not those still to be finished."""
        self._replays = {unit: replay for unit, replay in self._replays.items() if unit in self._backlog}
        self._unavailable = {unit: reason for unit, reason in self._unavailable.items() if unit in self._backlog}
        self._failures.clear()
        self._had.clear()
        # Of what can still be accused it is remembered that it was replayed.
        for name in self.session.journal.names(KIND, last_round=min(ended - ROUNDS_KEPT, self.get_first_kept() - 1)):
            if UnitId(name) not in self._backlog:
                self.session.journal.drop(KIND, name)

    def _settle_dissent(self, unit: UnitView) -> None:
        """A miner whose states are right may still have opened another loss or norm; only the contract saw that."""
        replay = self._replay_of(unit)
        description, known = self._descriptions.get(unit.root), replay.answers
        if (
            description is None
            or "dissent" in replay.reported
            or any(not _compare(s, description, a).agrees for s, a in known.items())
        ):
            return
        reason = "the states agree, but the miner opened another loss or gradient norm"
        self._record(unit, "rejects", reason, (), drawn=True)
        self._mark_reported(unit, "dissent")
        self.log.warning("unit rejected", miner=unit.miner, unit=unit.index, reason=reason)


_JUDGED = frozenset({Status.DISPUTED, Status.UNVERIFIED, Status.ATTESTED})


def _is_wrong(replay: UnitReplay, description: UnitDescription) -> bool:
    """Whether a replayed segment ends in another state: then nothing more has to be known of the unit."""
    return any(not _compare(segment, description, answer).agrees for segment, answer in replay.answers.items())


def _compare(segment: int, description: UnitDescription, answer: Answer) -> SegmentVerdict:
    expected = description.states[segment + 1].state_root
    return SegmentVerdict(
        segment=segment,
        expected_root=expected,
        got_root=answer.end_root,
        loss=answer.loss,
        gradient_norm=answer.gradient_norm,
        agrees=answer.end_root == expected,
    )
