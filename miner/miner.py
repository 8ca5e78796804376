"""The miner: trains its units, commits to them, serves them, opens what is drawn, and takes what it earned."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial

from cupel.chain.run_values import Answer as OpenedAnswer
from cupel.chain.run_values import Commitment as Committed
from cupel.chain.run_values import Finality, MemberView, Opened, Phase, Status, UnitView
from cupel.miner.checkpoints import Checkpoint, CheckpointWriter
from cupel.miner.devices import WorkerGroup
from cupel.miner.devices.fallback import with_fallback
from cupel.miner.devices.fitness import check_workers
from cupel.miner.faults import check_chain, forge_last, perturb
from cupel.miner.settings import MinerSettings
from cupel.miner.work import KIND, UnitWork
from cupel.node.decisions import Commit, MinerFacts, Open, Train, decide_miner
from cupel.node.deposits import find_addition, miner_deposit, miner_round
from cupel.node.following import OutOfDate
from cupel.node.journal import Duty, question_of
from cupel.node.participant import Participant
from cupel.node.records import Outcome, OutcomeRecord, UnitRecord, float_of_bits
from cupel.node.session import Session, Stopped, open_session
from cupel.node.stopping import StopRequest
from cupel.protocol import merkle
from cupel.protocol.disputes.game import Defence, SegmentHeld, StepHeld
from cupel.protocol.errors import CupelError, MalformedInput, RootMismatch, Unavailable, UsageError
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import Commitment, State, train_segment
from cupel.protocol.types import Cid, RoundIndex, Seed, SegmentIndex, UnitId


def run_miner(settings: MinerSettings, stop: StopRequest) -> None:
    """Mine until `stop` is set. Raises as `open_session`, and UsageError for a fault where it may do harm."""
    with suppress(Stopped), open_session(settings, "miner", stop) as session:
        if settings.fault is not None:
            check_chain(settings.fault, session.chain.chain_id)
            session.log.warning("wrong on purpose", fault=settings.fault)
        with closing(Miner(session, settings)) as miner:
            miner.run()


class Miner(Participant):
    """One miner of one run."""

    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session)
        self.settings = settings
        self._work: dict[int, UnitWork] = {}
        """This round's units by index."""
        self._checkpoints = CheckpointWriter(session.states.put)
        self._making: tuple[UnitWork, Checkpoint] | None = None
        """The end state that is being hashed and stored, and the unit it belongs to."""
        self._workers: WorkerGroup | None = None
        if settings.nproc > 1:
            folder = settings.data / "workers"
            check_workers(
                size=settings.nproc,
                backend=session.backend,
                threads=settings.threads,
                check=session.check_stop,
                folder=folder,
            )
            self._workers = WorkerGroup(
                session.run.programs.step,
                size=settings.nproc,
                backend=session.backend,
                threads=settings.threads,
                check=session.check_stop,
                folder=folder,
            )
            alone = partial(session.run.programs.run_step, backend=session.backend, threads=settings.threads)
            self.step = session.step(with_fallback(self._workers, alone, self._note_fallback))

    def _note_fallback(self) -> None:
        self.log.error("workers keep failing: training in one process until the miner is started again")

    def close(self) -> None:
        """Keep what is in the making, and end the worker processes, if there are any."""
        try:
            with suppress(CupelError):  # what could not be stored is trained again
                self._keep_checkpoint()
        finally:
            self._checkpoints.close()
            if self._workers is not None:
                self._workers.close()

    # Deciding

    def _turn(self) -> bool:
        action = decide_miner(self._gather())
        if isinstance(action, Train):
            self._train(action.index)
            return True
        self._keep_checkpoint()
        if isinstance(action, Commit):
            self._commit(action.index)
        elif isinstance(action, Open):
            self._open(action.index)
        else:
            return self.act(action)
        return True

    def _gather(self) -> MinerFacts:
        facts = self.gather()
        if facts.phase not in (Phase.SEED, Phase.TRAIN, Phase.DRAW, Phase.SEAL, Phase.OPEN):
            return MinerFacts(round=facts)
        if facts.phase == Phase.SEED:
            # Drawn by lot later where there are too many; until then what was asked for counts.
            member = self.get_member()
            return MinerFacts(round=facts, units=member.units if member.joined_round <= self.current.round else 0)
        units = self.keep_for_round("my units", lambda: self.contract.units_of(self.session.address))
        mine = [u for u in self.get_units() if u.miner == self.session.address]
        for unit in mine:
            self._record_unit(unit.index)
            if not unit.opened:
                # Asked once a phase, and whenever a block was found lost: what is committed must be servable.
                checked = ("checked", unit.index, self.session.store.losses)
                self.keep(checked, partial(self._check_committed, unit))
        return MinerFacts(
            round=facts,
            units=units,
            ready=frozenset(i for i in range(units) if self._trained_segments(i) == self.parameters.segments),
            committed=frozenset(u.index for u in mine),
            opened=frozenset(u.index for u in mine if u.opened),
            refused=frozenset(i for i in range(units) if (Duty.COMMIT, self._unit_id(i)) in self.refused),
        )

    def _check_committed(self, unit: UnitView) -> None:
        """Forget the segments from the first whose end state is no longer on disk: they are trained again.

        The description is written again where it is gone, and files that lost their names have them again: without
        one a file is not served, and let go of.
        """
        index, work = unit.index, self._unit_work(unit.index)
        if work is None:
            return
        for segment, cid in enumerate(work.cids):
            if not self.session.states.is_whole(cid):
                self.log.warning("checkpoint lost: training its segment again", unit=index, segment=segment)
                del work.answers[segment:], work.cids[segment:]
                work.state = None
                work.save(self.session.journal)
                return
        self._name_again(work)
        is_trained = len(work.answers) == self.parameters.segments
        if is_trained and unit.cid is not None and not self.session.store.has(unit.cid):
            self.log.warning("description lost: writing it again", unit=index)
            self._describe(work)
        elif is_trained and unit.cid is not None:
            pin = self._description_pin(work)
            if self.session.states.held(pin) != unit.cid:
                self.session.store.pin(unit.cid, pin)

    def _name_again(self, work: UnitWork) -> None:
        held = self.session.store.pins()
        wanted = {self._pin(work, segment + 1): cid for segment, cid in enumerate(work.cids)}
        lost = {pin: cid for pin, cid in wanted.items() if held.get(pin) != cid and self.session.states.is_whole(cid)}
        if lost:
            self.log.warning("checkpoints had lost their names", round=work.round, unit=work.index, files=len(lost))
            self.session.store.change_pins(lost)

    def _restore_pins(self) -> None:
        super()._restore_pins()
        for name in self.session.journal.names(KIND, last_round=self.current.round):
            work = UnitWork.load(self.session.journal, UnitId(name))
            if work is not None and work.round >= self.get_first_kept():
                self._name_again(work)
                if len(work.answers) == self.parameters.segments:
                    self._describe(work)

    def _trained_segments(self, index: int) -> int:
        work = self._unit_work(index)
        return 0 if work is None else len(work.answers)

    # Joining

    def _join(self) -> None:
        p = self.parameters
        if self.settings.units > p.max_units_per_miner:
            raise UsageError(f"--units is {self.settings.units}; this run takes {p.max_units_per_miner} of one miner")
        wanted = self.settings.deposit_wei
        if wanted is None:
            wanted = miner_deposit(p, self.settings.units)
        deposit = self.compute_deposit("join as a miner", wanted, self.settings.units * p.unit_bond)
        self.contract.join_miner(self.settings.units, self.session.endpoint, deposit_wei=deposit)
        self.log.info("joined", units=self.settings.units, deposit_eth=deposit / 10**18, endpoint=self.session.endpoint)

    def _wanted_addition(self, member: MemberView) -> int:
        if self.settings.deposit_wei is not None:
            return 0
        a_round = miner_round(self.parameters, self.settings.units)
        return find_addition(self.parameters, a_round, kept_wei=0, deposit_wei=member.deposit, locked_wei=member.locked)

    # Working

    def _unit_id(self, index: int) -> UnitId:
        run = self.session.run_file
        return merkle.unit_id(run.chain_id, run.contract, self.current.round, self.session.address, index)

    def _get_seed(self) -> Seed:
        """What this round's data order follows from, and what commits name."""
        return self.keep_for_round("seed", lambda: self.contract.get_round(self.current.round).seed)

    def _unit_work(self, index: int) -> UnitWork | None:
        """Work on this unit that is of use: a re-org may have given the round another seed or start state."""
        work = self._work.get(index)
        if work is None or work.unit != self._unit_id(index):
            work = UnitWork.load(self.session.journal, self._unit_id(index))
        if work is None or (work.seed, work.start_root) != (self._get_seed(), self.get_start()[0]):
            return None
        self._work[index] = work
        return work

    def _train(self, index: int) -> None:
        """The next segment of one unit, while the one before it is hashed and stored."""
        work = self._unit_work(index)
        if work is None:
            work = self._begin(index)
        if not self._is_making(work, len(work.answers)):
            self._keep_checkpoint()
        computed, segment = self.stats.steps_s, len(work.answers)
        state: State | None
        if self._making is not None:
            state, segment = self._making[1].result.state, segment + 1
        else:
            state = work.state if work.state is not None else self._read_checkpoint(work, segment)
        if state is None or segment == self.parameters.segments:
            self._keep_checkpoint()
            return
        load = self.session.run.load_batch(work.seed, work.unit)
        steps = self.parameters.segment_steps
        step = perturb(self.step, steps) if self.settings.fault == "perturb" else self.step
        result = train_segment(step, state, load, segment, steps)
        work.train_s += self.stats.steps_s - computed
        self._keep_checkpoint()
        self._making = work, self._checkpoints.begin(segment, result, self._pin(work, segment + 1))
        if segment + 1 == self.parameters.segments:
            self._keep_checkpoint()

    def _is_making(self, work: UnitWork, segment: int) -> bool:
        """Whether the end state of this segment of this unit is still being stored."""
        if self._making is None:
            return False
        making, checkpoint = self._making
        return making is work and checkpoint.segment == segment and not checkpoint.is_done

    def _keep_checkpoint(self) -> None:
        """Wait for the end state in the making, if there is one, and note it in its unit.

        Raises what storing it raised: the segment is trained again then, from the state before it.
        """
        if self._making is None:
            return
        (work, checkpoint), self._making = self._making, None
        began = time.perf_counter()
        answer, cid = checkpoint.wait()
        work.commit_s += time.perf_counter() - began
        self.session.points.reach("checkpoint/stored")
        if len(work.answers) != checkpoint.segment:
            return  # an earlier one was found lost meanwhile, and this one is made again after it
        work.answers.append(answer)
        work.cids.append(cid)
        work.state = dict(checkpoint.result.state)
        work.save(self.session.journal)
        self.session.points.reach("work/saved")
        self.stats.loss = float_of_bits(answer.loss)
        self.log.info(
            "segment",
            round=work.round,
            unit=work.index,
            segment=checkpoint.segment,
            loss=self.stats.loss,
            state=answer.end_root,
        )

    def _read_checkpoint(self, work: UnitWork, segment: int) -> NamedState | None:
        """The state before a segment, from disk. None where it is lost: the segment before it is trained again."""
        if segment == 0:
            return self.start
        last = work.answers[-1].end_root
        try:
            return self.session.states.get("own checkpoint", work.cids[-1], last, self._pin(work, segment))
        except (Unavailable, MalformedInput, RootMismatch) as trouble:
            self.log.warning("checkpoint lost", round=work.round, unit=work.index, reason=str(trouble))
            work.answers.pop()
            work.cids.pop()
            work.save(self.session.journal)
            return None

    def _begin(self, index: int) -> UnitWork:
        root, _ = self.get_start()
        if self.start is None:
            raise AssertionError("training is decided on only with the start state in hand")
        cid = self._hold_start(self.start, root)  # its name may have been lost with the round, in a re-org
        work = UnitWork(
            unit=self._unit_id(index),
            round=self.current.round,
            seed=self._get_seed(),
            index=index,
            start_root=root,
            start_cid=cid,
            state=self.start,
        )
        self._work[index] = work
        return work

    @staticmethod
    def _pin(work: UnitWork, leaf: int) -> str:
        return f"unit/{work.round}/{work.unit.hex()}/{leaf}"

    @staticmethod
    def _description_pin(work: UnitWork) -> str:
        return f"unit/{work.round}/{work.unit.hex()}/description"

    def _commit(self, index: int) -> None:
        work = self._work[index]
        began = time.perf_counter()
        commitment, cid = self._describe(work)
        work.commit_s += time.perf_counter() - began
        content = commitment.root + commitment.contribution + cid.encode()
        self.session.journal.state(Duty.COMMIT, work.unit, question_of(work.seed, work.start_root), content)
        self.session.points.reach("commit/stated")
        self.contract.commit(work.seed, index, root=commitment.root, contribution=commitment.contribution, cid=cid)
        work.state = None
        self.forget()
        self.log.info("committed", round=work.round, unit=work.index, root=commitment.root)

    def _describe(self, work: UnitWork) -> tuple[Commitment, Cid]:
        """The unit's commitment, and its description, stored."""
        commitment = work.commit(self.session.signer.derive_secret)
        description = work.describe(commitment).to_bytes()
        cid = self.session.store.add_bytes(description, pin=self._description_pin(work))
        self.session.points.reach("description/stored")
        return commitment, cid

    def _record_unit(self, index: int) -> None:
        """A unit that the chain shows committed, once; also where the process died right after committing it."""
        work = self._unit_work(index)
        if work is None or work.is_recorded or len(work.answers) < self.parameters.segments:
            return
        commitment, cid = self._describe(work)
        self.session.history.append(
            UnitRecord(
                time_s=time.time(),
                round=work.round,
                index=work.index,
                unit=work.unit,
                miner=self.session.address,
                steps=self.session.run.steps_per_unit,
                train_s=round(work.train_s, 3),
                commit_s=round(work.commit_s, 3),
                root=commitment.root,
                contribution=commitment.contribution,
                cid=cid,
                losses=tuple(float_of_bits(a.loss) for a in work.answers),
            )
        )
        self.session.points.reach("unit/recorded")
        work.is_recorded = True
        work.save(self.session.journal)

    def _open(self, index: int) -> None:
        """Show leaf 0, the contribution, the last segment and every segment anybody drew."""
        work = self._work[index]
        commitment = work.commit(self.session.signer.derive_secret)
        unit = self.find_unit(work.unit)
        if unit.cid is None:
            raise OutOfDate(f"unit 0x{work.unit.hex()} was committed without a CID of ours")
        drawn = {self.parameters.segments - 1}
        for verifier in unit.verifiers:
            drawn.update(self.contract.assigned_segments(work.round, work.unit, verifier))
        segments = sorted(drawn)
        self.contract.open(
            self.current.round,
            index,
            commitment=Committed(root=unit.root, contribution=unit.contribution, cid=unit.cid),
            leaves=[self._opened(commitment, segment) for segment in segments],
            proof=commitment.proof_of_segments(segments),
        )
        self.forget()
        self.log.info("opened", round=work.round, unit=index, segments=segments)

    @staticmethod
    def _opened(commitment: Commitment, segment: int) -> Opened:
        answer = commitment.answers[segment]
        return Opened(
            segment=SegmentIndex(segment),
            answer=OpenedAnswer(end_root=answer.end_root, loss=answer.loss, gradient_norm=answer.gradient_norm),
            salt=commitment.salts[segment],
        )

    # Defending

    def _challenge_budget(self, session: Session) -> int | None:
        return session.settings.challenge_budget_wei or 0

    def defend_unit(self, unit: UnitView, segment: int) -> Defence:
        """A segment of a unit of this miner, from its checkpoint; nothing else of it was kept."""
        work = UnitWork.load(self.session.journal, unit.unit_id)
        if work is None or len(work.answers) != self.parameters.segments:
            return super().defend_unit(unit, segment)
        commitment = work.commit(self.session.signer.derive_secret)
        if commitment.root != unit.root:
            raise RootMismatch("what is on disk of an accused unit", expected=unit.root, got=commitment.root)
        start, answer = commitment.state_roots()[segment], work.answers[segment]
        cid = (work.start_cid, *work.cids)[segment]
        pin = self._pin(work, segment) if segment else f"start/{start.hex()}"
        state = self.session.states.get("checkpoint of an accused unit", cid, start, pin)
        replayed = self.disputes.sides.run_segment(work.unit, work.seed, state, segment)
        hold: Callable[[int], StepHeld] = replayed.hold
        if self.settings.fault is not None:
            hold = forge_last(hold, self.parameters.segment_steps)
        held = SegmentHeld(
            start_root=start,
            start_evidence=commitment.evidence()[segment],
            start_proof=commitment.proof(segment),
            end_root=answer.end_root,
            loss=answer.loss,
            gradient_norm=answer.gradient_norm,
            salt=commitment.salts[segment],
            end_proof=commitment.proof(segment + 1),
            inner_roots=replayed.roots[:-1],
        )
        return Defence(segment=held, hold=hold)

    # Afterwards

    def _settle(self, ended: RoundIndex) -> None:
        """Count and record what became of a round's units; again if a re-org made it something else."""
        self._keep_checkpoint()
        self._work.clear()
        journal = self.session.journal
        for name in journal.names(KIND, last_round=ended):
            work = UnitWork.load(journal, UnitId(name))
            if work is None or work.round < self.get_first_kept():
                journal.drop(KIND, name)
            elif work.round == ended or work.outcome is None or self._is_overturned(work):
                self._settle_unit(work)

    def _is_overturned(self, work: UnitWork) -> bool:
        """Whether the court has changed what became of a unit since that was recorded."""
        if work.outcome in ("accepted", "unmerged") and self._get_finality().is_void(work.round):
            return True
        return work.outcome != "convicted" and self.disputes.is_convicted(work.unit)

    def _get_finality(self) -> Finality:
        return self.keep_for_round("finality", self.contract.finality)

    def _settle_unit(self, work: UnitWork) -> None:
        outcome = self._outcome(work)
        if outcome == work.outcome:
            return
        if outcome == "accepted":
            self.stats.accepted += 1
        elif outcome in ("rejected", "disputed", "unavailable", "disclosed", "convicted"):
            self.stats.rejected += 1
        else:
            self.stats.stale += 1
        (self.log.info if outcome == "accepted" else self.log.warning)(
            f"unit {outcome}", round=work.round, unit=work.index
        )
        self.session.history.append(
            OutcomeRecord(time_s=time.time(), round=work.round, index=work.index, unit=work.unit, outcome=outcome)
        )
        self.session.points.reach("unit/settled")
        work.outcome = outcome
        work.save(self.session.journal)

    def _outcome(self, work: UnitWork) -> Outcome:
        unit = next((u for u in self.contract.get_units(work.round) if u.unit_id == work.unit), None)
        if unit is None:
            return "stale"
        if unit.status == Status.ATTESTED:
            if self._get_finality().is_void(work.round):
                return "void"
            is_merged = self.contract.get_round(work.round).merged and work.unit in self.contract.merge_set(work.round)
            return "accepted" if is_merged else "unmerged"
        if unit.status not in _OUTCOMES:
            raise OutOfDate(f"unit 0x{work.unit.hex()} is not judged: a re-org took back the end of round {work.round}")
        return _OUTCOMES[unit.status]


_OUTCOMES: dict[Status, Outcome] = {
    Status.REJECTED: "rejected",
    Status.DISPUTED: "disputed",
    Status.UNVERIFIED: "unverified",
    Status.UNAVAILABLE: "unavailable",
    Status.DISCLOSED: "disclosed",
    Status.CONVICTED: "convicted",
    Status.ABANDONED: "void",
}
