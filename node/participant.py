"""What miner and verifier have in common: taking part in the rounds, merging, claiming, keeping order on disk.

One thread looks at the chain (following.py), gathers facts, decides (decisions.py) and acts, one action at a time.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cupel.chain.errors import ChainUnreachable, ContractReverted
from cupel.chain.run_contract import BeaconContract
from cupel.chain.run_values import CandidateView, Claimable, MemberView, Phase, Role, RoundView, UnitView
from cupel.chain.run_values import Participant as Seated
from cupel.network.ipfs.blockstore import BlockMissing
from cupel.node.decisions import (
    Acknowledge,
    Advance,
    Claim,
    ComputeMerge,
    Extend,
    Facts,
    FetchStart,
    Finish,
    Join,
    MergedState,
    MergeFacts,
    ProposeMerge,
    RecordBeacon,
    Retire,
    Wait,
)
from cupel.node.descriptions import MAX_DESCRIPTION_BYTES, UnitDescription
from cupel.node.disputes.desk import DisputeDesk
from cupel.node.ending import Ending
from cupel.node.following import FIRST_PAUSE_S, LONGEST_PAUSE_S, Follower, OutOfDate
from cupel.node.journal import Contradiction, Duty, question_of, round_subject
from cupel.node.records import ClaimRecord, MergeRecord, RoundRecord
from cupel.node.rewards import Rewards
from cupel.node.session import Session, Stopped
from cupel.protocol import merkle
from cupel.protocol.disputes.game import Defence
from cupel.protocol.errors import ProtocolError, StorageFailed, Unavailable, UsageError
from cupel.protocol.training.state import NamedState
from cupel.protocol.types import Cid, Root, RoundIndex, UnitId

FASTER = frozenset(
    {
        "AlreadyAccepted",
        "AlreadyProposed",
        "FeesAreUsual",
        "TooEarlyToExtend",
        "WrongPhase",
        "WrongRound",
        "WrongSeed",
    }
)
"""Refusals that only say that somebody else did it, or moved the phase, in the meantime."""
LEAST_SPIKE_WEI = 10**9
"""Per gas: below, the contract extends nothing, so it is not asked."""
GAS_KEPT = 2_000_000
"""What a node leaves in its account when it adds to its deposit: a few rounds' transactions."""
ROUNDS_KEPT = 4
"""Rounds whose states and work are kept; whoever wants earlier ones computes them again."""
ENDING = "ending"
"""What the documents are called that say how the last rounds ended."""
CLOSED = b"closed"
"""Name of the document that says which rounds are closed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """The merge of one round's set, computed here."""

    root: Root
    cid: Cid
    state: NamedState
    units: tuple[UnitId, ...]
    contributions: tuple[Root, ...]
    """Of these units: what the merge is of."""

    @property
    def content(self) -> bytes:
        """As a statement has it."""
        return self.root + self.cid.encode()


class Participant(Follower):
    """A node that plays rounds until it is told to stop."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.start: NamedState | None = None
        """State the current round starts from, or an earlier one where this was not fetched yet."""
        self._start_root: Root | None = None
        self.step = session.step()
        self._descriptions: dict[Root, UnitDescription] = {}
        """By the root their unit was committed under."""
        self._merged: dict[int, Merged] = {}
        self._starts: dict[int, Root] = {}
        """Of earlier rounds: the state each began with."""
        self.refused: set[tuple[Duty, bytes]] = set()
        """Duties and subjects of this round about which the journal says something else."""
        self._full_seen, self._was_refused_room = 0, False
        """Of the store's `full`; and whether journal, outbox or history could not be written."""
        self._rewards = Rewards(session.contract, session.journal, session.address)
        self.disputes = DisputeDesk(self, self._challenge_budget(session))
        self._ending = Ending(session, self.disputes)
        session.between_steps = self.disputes.play_between

    def _challenge_budget(self, session: Session) -> int | None:
        """Wei for bonds of accusations; None: whatever the account has."""
        return session.settings.challenge_budget_wei

    def defend_unit(self, unit: UnitView, segment: int) -> Defence:
        """What this node holds of a unit of its own. Raises Unavailable: it is none of its."""
        raise Unavailable(f"unit 0x{unit.unit_id.hex()} is none that this node trained")

    # The loop

    def run(self) -> None:
        """Play until the operator ends it."""
        try:
            self._play()
        finally:
            if self.disputes.counts.open:
                self.log.warning("ended amid disputes: silence loses them", open=self.disputes.counts.open)

    def _play(self) -> None:
        trouble_s = 0.0
        while not self.session.stop.quit.is_set():
            try:
                self._make_room()
                if self.look():
                    self._close_rounds()
                    self._update_rewards()
                    self.session.stat_line.tick()
                self._ending.notice(self.current)
                if not self.disputes.play() and not self._turn():
                    self.wait_for_block()
                trouble_s = 0.0
            except Stopped:
                return
            except ContractReverted as refused:
                if refused.error_name not in FASTER:
                    self.log.warning("refused", reason=str(refused))
                self.forget_all()
                self.wait_for_block()
            except Contradiction as refused:
                # Something computed twice came out differently, or another process spoke for this key: a person must
                # look. What was said stands, nothing is added to it, and everything else goes on.
                self.log.error("not signed", reason=str(refused))
                self.refused.add((refused.statement.duty, refused.statement.subject))
                self.forget_all()
            except (ProtocolError, ChainUnreachable) as trouble:
                self.log.warning("trouble, going on", reason=str(trouble))
                self._was_refused_room |= isinstance(trouble, StorageFailed)
                # Whatever the reason, what was known of the chain may be out of date.
                self.forget_all()
                trouble_s = min(max(2 * trouble_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                self.session.stop.wait(trouble_s)

    def _make_room(self) -> None:
        """Where something could not be written for want of room: say so, and let go of what is not needed."""
        if self._seen is None:
            return  # what is needed follows from the round, and that has to be asked first
        full = self.session.store.full
        if full != self._full_seen or self._was_refused_room:
            self._full_seen, self._was_refused_room = full, False
            self.log.error("disk full", folder=str(self.session.store.directory))
            self._prune()

    @abstractmethod
    def _turn(self) -> bool:
        """Decide and act once; False if there was nothing to do."""

    @abstractmethod
    def _join(self) -> None:
        """Take a seat."""

    @abstractmethod
    def _settle(self, ended: RoundIndex) -> None:
        """Record what became of this node's work of a round that has ended."""

    def _on_reorg(self) -> None:
        """Rounds that ended may have ended otherwise, or not yet.

        What was computed is kept under the seed, start state or commitment it belongs to, and used if these are the
        same on the new blocks.
        """
        self._descriptions.clear()
        self._starts.clear()
        closed = self._closed_through()
        self._set_closed(min(closed, max(closed - ROUNDS_KEPT, -1)))

    def gather(self) -> Facts:
        """What every party knows of the current round."""
        now, current = time.monotonic(), self.current
        is_merging = current.phase in (Phase.MERGE, Phase.ACKNOWLEDGE) and not self._is_due
        root, _ = self.get_start()
        held = self.start is not None and self._start_root == root
        member = self.get_member()
        is_seated = member.role != Role.NONE
        stakes = self._read_stakes() if self._ending.is_asked else ()
        ending = self._ending.compute(current, member, stakes, self.height)
        return Facts(
            phase=current.phase,
            phase_for_s=now - self._phase_since,
            due=self._is_due,
            due_for_s=now - self._due_since,
            extendable=not self._is_due and self._is_extendable(),
            beacon_missed=self._beacon_missed,
            rank=self._rank(),
            member=is_seated,
            announce=is_seated and not self.is_asleep("announce") and self._is_seat_stale(member, ending.finishing),
            claimable=self._rewards.find_ripe(self.height),
            merge=self._gather_merge() if is_merging else MergeFacts(wanted=False),
            start_held=held,
            start_asleep=self.is_asleep("start"),
            finishing=ending.finishing,
            round_over=ending.round_over,
            answerable=ending.answerable,
            retire=ending.retire,
        )

    def _read_stakes(self) -> tuple[Claimable, ...]:
        """Rounds in which something of this node is at stake before the run's court; none where it has no court."""

        def read() -> tuple[Claimable, ...]:
            self._rewards.read(self.current.round, self.height)
            return self._rewards.list_at_stake()

        return self.keep("stakes", read) if self.disputes.has_court else ()

    def _is_extendable(self) -> bool:
        """Whether `extend` would be taken in the next block."""
        phases = (Phase.TRAIN, Phase.SEAL, Phase.OPEN, Phase.MERGE, Phase.ACKNOWLEDGE)
        if self.current.phase not in phases or self.base_fee_wei <= LEAST_SPIKE_WEI:
            return False
        first, above = self.keep("extension", self.contract.extension)
        return 0 < first <= self.height + 1 and self.base_fee_wei > above

    def _is_seat_stale(self, member: MemberView, finishing: bool) -> bool:
        """Whether others look for this node elsewhere, no longer count on it, or cannot: its deposit is locked up."""
        if member.leaving:
            return not finishing
        return member.endpoint != self.session.endpoint or (not finishing and self.get_addition() > 0)

    @abstractmethod
    def _wanted_addition(self, member: MemberView) -> int:
        """Wei that the deposit of this node's seat lacks for the rounds to come (deposits.py)."""

    def get_addition(self) -> int:
        """The same, once a round, and 0 where the account cannot pay it."""
        return self.keep_for_round("addition", self._find_addition)

    def _find_addition(self) -> int:
        wanted_wei = self._wanted_addition(self.get_member())
        if wanted_wei == 0:
            return 0
        balance = self.session.chain.get_balance(self.session.address)
        if balance <= wanted_wei + GAS_KEPT * max(self.base_fee_wei, 1):
            self.log.warning(
                "most of the deposit is locked until its rounds are mature, and the account cannot add to it: fewer "
                "units or slots until then",
                wanted_eth=wanted_wei / 10**18,
                balance_eth=balance / 10**18,
            )
            return 0
        return wanted_wei

    def _seats(self) -> tuple[Seated, ...]:
        """Who takes part; also whom to fetch from."""
        return self.keep_for_round("seats", self.session.refresh_participants)

    def _rank(self) -> int:
        """This node's turn in moving a due phase; turns rotate with the rounds."""
        accounts = [p.account for p in self._seats()]
        if self.session.address not in accounts:
            return len(accounts)
        return (accounts.index(self.session.address) - self.current.round) % len(accounts)

    def _gather_merge(self) -> MergeFacts:
        round_, me = self.current.round, self.session.address
        merge_set = self.keep_for_round("merge set", lambda: self.contract.merge_set(round_))
        # Others move these two, so they are read at each height.
        view: RoundView = self.keep(("round", self.height), lambda: self.contract.get_round(round_))
        candidates = self.keep(("candidates", self.height), lambda: self.contract.candidates(round_))
        jury = self.keep_for_round("jury", self.contract.jury)
        acknowledged = self.keep("acknowledged", lambda: self.contract.acknowledged_by(round_, me))
        member = self.get_member()
        order = [*jury, *(p.account for p in reversed(self._seats()) if p.account not in jury)]
        merged = self._merged.get(round_)
        if merged is not None and (merged.units, merged.contributions) != self._merge_inputs(merge_set):
            merged = None
        if merged is not None:
            self.accuse_wrong_merges(round_, candidates, merged.root)
        return MergeFacts(
            wanted=bool(merge_set) and not view.merged,
            candidates=tuple(MergedState(c.state_root, c.cid) for c in candidates),
            computed=MergedState(merged.root, merged.cid) if merged is not None else None,
            compute=not self.is_asleep("merge"),
            juror=me in jury,
            acknowledged=acknowledged is not None or (Duty.ACKNOWLEDGE, round_subject(round_)) in self.refused,
            proposed=any(c.proposer == me for c in candidates)
            or (Duty.PROPOSE, round_subject(round_)) in self.refused
            or member.role == Role.NONE
            or member.deposit - member.locked < self.parameters.merge_bond,
            order=order.index(me) if me in order else len(order),
        )

    def accuse_wrong_merges(self, round_: RoundIndex, candidates: Sequence[CandidateView], root: Root) -> None:
        """Those that are another state than the one with this root, which was computed here."""
        for number, candidate in enumerate(candidates):
            # Under another CID it may be a mistake, which costs nobody anything but the merge.
            if candidate.state_root != root and candidate.proposer != self.session.address:
                self.keep_for_round(
                    ("accused", round_, number, candidate.state_root),
                    partial(
                        self.disputes.accuse_candidate, round_, number, "the merge of these units is another state"
                    ),
                )

    def _merge_inputs(self, merge_set: tuple[UnitId, ...]) -> tuple[tuple[UnitId, ...], tuple[Root, ...]]:
        """The merge set and the end states it is merged from."""
        return merge_set, tuple(self.find_unit(unit_id).contribution for unit_id in merge_set)

    # Acting

    def act(self, action: object) -> bool:
        """Carry out an action that both roles know; False for `Wait`, unless somebody else's dispute is to be ended."""
        if isinstance(action, Wait):
            return self.disputes.end_stale()
        if isinstance(action, Finish):
            self._ending.warn(self.current, self.get_member(), self._read_stakes(), self.height)
            raise Stopped
        if isinstance(action, Retire):
            self.contract.retire()
            self.log.info("seat given up", round=self.current.round)
            self.forget("member")
        elif isinstance(action, Join):
            self._take_seat()
        elif isinstance(action, Advance):
            self.contract.advance()
        elif isinstance(action, Extend):
            self.contract.extend()
            self.log.info("phase extended: fees are a spike", round=self.current.round, base_fee_wei=self.base_fee_wei)
        elif isinstance(action, RecordBeacon):
            self._record_beacon()
        elif isinstance(action, Claim):
            self._claim(action.rounds)
        elif isinstance(action, FetchStart):
            self._fetch_start()
        elif isinstance(action, ComputeMerge):
            self._compute_merge()
        elif isinstance(action, ProposeMerge):
            self._propose()
        elif isinstance(action, Acknowledge):
            self._acknowledge(action)
        else:
            raise AssertionError(f"nobody carries out {action}")
        self.forget()
        return True

    def _take_seat(self) -> None:
        """Join, or say under which endpoint this node is now. Raises UsageError: it cannot have a seat."""
        try:
            self._join()
        except (ContractReverted, UsageError) as refused:
            if self.get_member().role == Role.NONE:
                raise
            # The duties of the seat that it has go on, under whatever endpoint is known.
            self.log.error("endpoint not announced", endpoint=self.session.endpoint, reason=str(refused))
            self.put_to_sleep("announce")
        self.forget("member", "seats", "addition")

    def _record_beacon(self) -> None:
        beacon = BeaconContract(self.session.chain, self.session.run_file.beacon)
        beacon.record_header(self.session.chain.get_header(self.current.until))
        self.log.info("beacon recorded", height=self.current.until)
        self.contract.advance()

    def _fetch_start(self) -> None:
        """Hold the round's first state: computed here as a merge, on disk already, or fetched."""
        round_ = self.current.round
        root, cid = self.get_start()
        merged = self._merged.get(round_ - 1)
        if root == self.parameters.genesis_root:
            self._hold_start(self.session.run.genesis, root)
        elif merged is not None and merged.root == root:
            self._hold_start(merged.state, root)
        else:
            try:
                if cid is None:
                    raise Unavailable(f"round {round_} names no file of its start state")
                state = self.session.states.get(f"start state of round {round_}", cid, root, f"start/{root.hex()}")
                self._hold_start(state, root)
            except ProtocolError as trouble:
                self.log.warning("start state not held", round=round_, reason=str(trouble))
                self.put_to_sleep("start")

    def _hold_start(self, state: NamedState, root: Root) -> Cid:
        """Have a state as the round's first, on disk under its name and in hand."""
        pin = f"start/{root.hex()}"
        cid = self.session.states.held(pin)
        if cid is None:
            cid = self.session.states.put(state, pin)
        self.session.points.reach("start/stored")
        self.start, self._start_root = state, root
        return cid

    def describe(self, unit: UnitView) -> UnitDescription:
        """What a committed unit consists of, checked against the commitment.

        Raises Unavailable, MalformedInput, or RootMismatch: it is not what was committed
        """
        if unit.root not in self._descriptions:
            if unit.cid is None:
                raise Unavailable(f"unit 0x{unit.unit_id.hex()} names no description")
            start, _ = self.keep_for_round(("state", unit.round), lambda: self.contract.get_state(unit.round))
            data = self.session.fetcher.fetch(unit.cid, max_bytes=MAX_DESCRIPTION_BYTES)
            description = UnitDescription.from_bytes(data)
            description.check(unit.unit_id, unit.root, unit.contribution, start, self.parameters.segments)
            self.session.store.pin(unit.cid, f"unit/{unit.round}/{unit.unit_id.hex()}/description")
            self.session.points.reach("description/held")
            self._descriptions[unit.root] = description
        return self._descriptions[unit.root]

    def _compute_merge(self) -> None:
        round_ = self.current.round
        merge_set, contributions = self._merge_inputs(self.contract.merge_set(round_))
        if not merge_set:
            raise OutOfDate(f"round {round_} has no units to merge any more")
        units = [self.find_unit(unit_id) for unit_id in merge_set]
        try:
            states = [self.fetch_contribution(unit) for unit in units]
        except ProtocolError as trouble:
            self.log.warning("contribution not held", round=round_, reason=str(trouble))
            self.put_to_sleep("merge")
            return
        state = self._run_merge(states)
        root = merkle.state_root(state)
        cid = self.session.states.put(state, f"start/{root.hex()}")
        self.session.points.reach("merge/stored")
        self._merged[round_] = Merged(root=root, cid=cid, state=state, units=merge_set, contributions=contributions)
        self.log.info("merged", round=round_, units=len(merge_set), root=root)

    def _run_merge(self, states: Sequence[NamedState]) -> NamedState:
        return self.session.run.programs.run_merge(
            list(states), backend=self.session.backend, threads=self.session.settings.threads
        )

    def compute_merged_root(self, round_: RoundIndex) -> Root:
        """Of the merge of any judged round. Raises Unavailable, MalformedInput or RootMismatch."""
        units = {unit.unit_id: unit for unit in self.contract.get_units(round_)}
        merge_set = self.contract.merge_set(round_)
        contributions = tuple(units[unit_id].contribution for unit_id in merge_set)
        merged = self._merged.get(round_)
        if merged is not None and (merged.units, merged.contributions) == (merge_set, contributions):
            return merged.root
        return merkle.state_root(self._run_merge([self.fetch_contribution(units[one]) for one in merge_set]))

    def fetch_contribution(self, unit: UnitView) -> NamedState:
        """A unit's end state, kept from now on. Raises Unavailable, MalformedInput or RootMismatch."""
        last = self.describe(unit).states[-1]
        pin = self.contribution_pin(unit)
        return self.session.states.get(f"contribution of unit 0x{unit.unit_id.hex()}", last.cid, last.state_root, pin)

    def checkpoint_pin(self, unit: UnitView, segment: int) -> str:
        """What keeps the start of a segment at whoever replays it."""
        return f"replay/{unit.round}/{unit.unit_id.hex()}/{segment}"

    def contribution_pin(self, unit: UnitView) -> str:
        """What keeps a unit's end state here, at its miner and at whoever fetched it."""
        return f"unit/{unit.round}/{unit.unit_id.hex()}/{self.parameters.segments}"

    def _propose(self) -> None:
        merged = self._state_merge(Duty.PROPOSE)
        self.contract.propose_merge(self.get_draw_seed(), state_root=merged.root, cid=merged.cid)
        self.forget("member")
        self._record_merge(merged, "proposed")

    def _acknowledge(self, action: Acknowledge) -> None:
        # Named by what was computed here, so that the number alone can stand for no other candidate.
        merged = self._state_merge(Duty.ACKNOWLEDGE)
        self.contract.acknowledge(self.get_draw_seed(), action.candidate, state_root=merged.root, cid=merged.cid)
        self._record_merge(merged, "acknowledged")

    def _state_merge(self, duty: Duty) -> Merged:
        """Write down what is about to be said of this round's merge. Raises Contradiction."""
        merged = self._merged[self.current.round]
        question = question_of(self.get_draw_seed(), *merged.units, *merged.contributions)
        self.session.journal.state(duty, round_subject(self.current.round), question, merged.content)
        self.session.points.reach(f"{duty}/stated")
        return merged

    def _record_merge(self, merged: Merged, what: Any) -> None:
        self.log.info(f"merge {what}", round=self.current.round, root=merged.root)
        self.session.history.append(
            MergeRecord(
                time_s=time.time(),
                round=self.current.round,
                state_root=merged.root,
                cid=merged.cid,
                units=merged.units,
                action=what,
            )
        )

    # Rewards

    def _update_rewards(self) -> None:
        """Count what is owed. A chain that does not tell is no reason to leave a duty undone."""
        try:
            self.keep_for_round("claims", lambda: self._rewards.read(self.current.round, self.height))
            balance = self.keep_for_round("balance", lambda: self.session.token.balance_of(self.session.address))
        except ProtocolError as trouble:
            self.log.warning("rewards not read", reason=str(trouble))
            return
        self.stats.pending, mature = self._rewards.count(self.height)
        self.stats.matured = mature + balance

    def _claim(self, rounds: tuple[int, ...]) -> None:
        amount = self._rewards.count_tokens(rounds)
        receipt = self.contract.claim(rounds)
        self._rewards.note_claim(rounds, receipt.block_number)
        self.forget("member", "claims", "balance")
        self.session.history.append(
            ClaimRecord(time_s=time.time(), rounds=rounds, amount=amount, transaction=receipt.transaction_hash)
        )
        self.log.info("claimed", rounds=rounds, tokens=amount / 10**18)

    def compute_deposit(self, what: str, wanted_wei: int, least_wei: int) -> int:
        """What is left to put down of a wanted deposit; of a seat taken earlier, what it lacks of the least or for the
        rounds to come.

        Raises UsageError if the account cannot put it down and pay for the transaction
        """
        held = self.contract.member_of(self.session.address)
        if held.role != Role.NONE:
            deposit_wei = max(least_wei - held.deposit, self.get_addition(), 0)
        else:
            deposit_wei = max(wanted_wei - (held.deposit - held.locked), 0)
        balance = self.session.chain.get_balance(self.session.address)
        if balance <= deposit_wei:
            raise UsageError(
                f"to {what}, {self.session.address} needs {deposit_wei / 10**18:g} ETH and gas; it has "
                f"{balance / 10**18:g}: send it some, or ask for less"
            )
        return deposit_wei

    # Between rounds

    def _closed_through(self) -> int:
        """The last round that was settled and recorded; on disk, so that a round that ended meanwhile is not missed."""
        known = self.session.journal.get("rounds", CLOSED)
        return -1 if known is None else int(known["through"])

    def _set_closed(self, round_: int) -> None:
        self.session.journal.put("rounds", CLOSED, 0, {"through": round_})

    def _close_rounds(self) -> None:
        """Settle and record what ended since this was last done."""
        last = self.current.round - 1
        closed = self.keep_for_round("closed", self._closed_through)
        if closed == last:
            return
        if closed > last:
            # A re-org took the ends of these rounds back.
            self._set_closed(last)
            self.forget("closed")
            return
        # Of a run this node was not in before, or long ago, there is nothing to settle in earlier rounds.
        for ended in range(max(closed + 1, last + 1 - ROUNDS_KEPT), last + 1):
            self._close_round(RoundIndex(ended))
            self._set_closed(ended)
            self.session.points.reach("round/recorded")
        self._descriptions.clear()
        self._asleep.clear()
        self.refused.clear()
        for old in [r for r in self._merged if r < last]:
            del self._merged[old]
        self.forget("closed")
        self._prune()

    def _prune(self) -> None:
        """Let go of what no rule keeps (docs/design/nodes.md)."""
        if self.session.store.pins_lost:
            self._restore_pins()
            self.session.store.pins_restored()
        first = self.get_first_kept()
        kept = {self._get_start_of(r) for r in range(first, self.current.round + 1)}
        kept |= {self.parameters.genesis_root, *(merged.root for merged in self._merged.values())}
        if self._start_root is not None:
            kept.add(self._start_root)  # trained from now, whatever a chain that reorganises meanwhile answered above
        names = frozenset(f"start/{root.hex()}" for root in kept)
        try:
            freed = self.session.prune(lambda pin: _is_needed(pin, names, first))
        except BlockMissing as missing:
            self.log.warning("nothing pruned: a file that is kept is damaged", reason=str(missing))
        else:
            if freed:
                self.log.info("pruned", bytes=freed)
        self.session.points.reach("pruned")

    def get_first_kept(self) -> int:
        """The earliest round of which everything is kept.

        What is not final may have to be shown to a court, and the run may have to go on from it.
        """
        settled = self.keep_for_round("settled", lambda: self.contract.finality().settled)
        return max(min(self.current.round - ROUNDS_KEPT + 1, settled), 0)

    def _get_start_of(self, round_: int) -> Root:
        if round_ not in self._starts:
            self._starts[round_] = self.contract.get_state(RoundIndex(round_))[0]
        return self._starts[round_]

    def _restore_pins(self) -> None:
        """Names of kept files were lost to damage: name again what is needed, before anything is let go of."""
        for round_ in range(self.get_first_kept(), self.current.round + 1):
            root, cid = self.contract.get_state(RoundIndex(round_))
            if cid and self.session.store.block_size(cid) is not None:
                self.session.store.pin(cid, f"start/{root.hex()}")

    def _close_round(self, ended: RoundIndex) -> None:
        view = self.contract.get_round(ended)
        start, _ = self.contract.get_state(ended)
        end, cid = self.contract.get_state(RoundIndex(ended + 1))
        self._settle(ended)
        ending = {"start": start.hex(), "end": end.hex(), "committed": view.committed, "attested": view.attested}
        if self.session.journal.get(ENDING, round_subject(ended)) == ending:
            return  # looked at again after a re-org that changed nothing here
        self.session.history.append(
            RoundRecord(
                time_s=time.time(),
                round=ended,
                start_root=start,
                end_root=end,
                end_cid=(cid or "") if end != start else "",
                units_committed=view.committed,
                units_attested=view.attested,
            )
        )
        self.session.journal.put(ENDING, round_subject(ended), ended, ending)
        for old in self.session.journal.names(ENDING, last_round=ended - 2 * ROUNDS_KEPT):
            self.session.journal.drop(ENDING, old)
        self.log.info(
            "round ended", round=ended, committed=view.committed, attested=view.attested, merged=view.merged, state=end
        )


def _is_needed(pin: str, starts: frozenset[str], first_round: int) -> bool:
    kind, _, rest = pin.partition("/")
    if kind == "start":
        return pin in starts
    if kind not in ("unit", "replay"):
        return True
    return int(rest.partition("/")[0]) >= first_round
