"""Both sides of disputes about a run's units and merges, put together from what a node of that run keeps.

A unit is shown by its miner from checkpoints and data; its challenger trains the segment again from the checkpoint
before it, which the commitment fixes. A merge is recomputed by either side from the units' end states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cupel.chain.abi import Call, load_abi
from cupel.chain.court_events import DisputeRecord
from cupel.chain.mapping import write_value
from cupel.chain.run_contract import RunContract
from cupel.chain.run_values import ClaimKind, Commitment, MergedUnit, Status, UnitView
from cupel.node.descriptions import UnitDescription
from cupel.node.disputes.holding import MergeRun, Recent, SegmentRun
from cupel.node.journal import Journal
from cupel.node.session import Session
from cupel.protocol.disputes.game import Challenge, DataHeld, Defence
from cupel.protocol.errors import MalformedInput, Unavailable
from cupel.protocol.merkle import tensor_bytes
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import Step
from cupel.protocol.types import Address, Height, RoundIndex, UnitId

KIND = "subject"
"""What the documents are called that say what a subject is."""
SIDES_KEPT = 4
"""Disputes of which what was computed stays in memory, of each about three states: with more at once, each move trains
its segment anew. For so many and more the court lengthens the clock of who is accused (court.md)."""
_JUDGED = frozenset({Status.DISPUTED, Status.UNVERIFIED, Status.ATTESTED})


class Keeper(Protocol):
    """The node whose claims these are."""

    session: Session
    contract: RunContract
    step: Step

    def describe(self, unit: UnitView) -> UnitDescription: ...

    def fetch_contribution(self, unit: UnitView) -> NamedState: ...

    def checkpoint_pin(self, unit: UnitView, segment: int) -> str:
        """What keeps the start of a segment here."""

    def defend_unit(self, unit: UnitView, segment: int) -> Defence:
        """Raises Unavailable: none of this node's."""


class RunSides:
    """`Sides` of a run (node/disputes/player.py)."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper, self._session, self._contract = keeper, keeper.session, keeper.contract
        self._made = Recent[bytes, Any](SIDES_KEPT)
        """Sides of the disputes that were played last, each with what was computed for it."""

    @property
    def _journal(self) -> Journal:
        return self._session.journal

    # What a subject is

    def name_unit(self, unit: UnitView) -> bytes:
        """The subject of a unit, kept so that it can be found again."""
        self._journal.put(KIND, unit.unit_id, unit.round, {"candidate": None, "round": unit.round})
        return unit.unit_id

    def name_candidate(self, round_: int, candidate: int) -> bytes:
        """The subject of a merge candidate, likewise."""
        subject = self._contract.subject_of(round_, candidate)
        self._journal.put(KIND, subject, round_, {"candidate": candidate, "round": round_})
        return subject

    def find(self, subject: bytes) -> tuple[RoundIndex, int | None]:
        """Round, and candidate if it is one. Raises Unavailable."""
        known = self._journal.get(KIND, subject)
        if known is not None:
            return RoundIndex(int(known["round"])), known["candidate"]
        claim = self._contract.claim_of(subject)
        if claim.kind == ClaimKind.UNIT:
            return claim.round, None
        for number in range(len(self._contract.candidates(claim.round)) if claim.kind == ClaimKind.MERGE else 0):
            if self._contract.subject_of(claim.round, number) == subject:
                return claim.round, number
        raise Unavailable(f"subject 0x{subject.hex()} was not put before the court")

    def _find_unit(self, subject: bytes, round_: RoundIndex) -> UnitView:
        for unit in self._contract.get_units(round_):
            if unit.unit_id == subject:
                return unit
        raise Unavailable(f"unit 0x{subject.hex()} is not committed in round {round_}")

    def get_window_end(self, round_: RoundIndex | int) -> Height:
        """The last block in which the round's claims may be accused; of a round that is played, an estimate."""
        parameters, view = self._session.run.parameters, self._contract.get_round(round_)
        if view.mature_at:
            return Height(view.mature_at - parameters.maturity_blocks + parameters.window_blocks)
        merging = parameters.merge_blocks + parameters.acknowledge_blocks
        return Height(self._session.chain.head().number + merging + parameters.window_blocks)

    # For the player

    def is_contestable(self, subject: bytes) -> bool:
        claim = self._contract.claim_of(subject)
        if claim.kind != ClaimKind.NONE:
            return claim.contestable
        round_, candidate = self.find(subject)
        if self._session.chain.head().number + 1 > self.get_window_end(round_):
            return False
        if candidate is None:
            return self._find_unit(subject, round_).status in _JUDGED
        return candidate < len(self._contract.candidates(round_))

    def get_accused(self, subject: bytes) -> Address:
        round_, candidate = self.find(subject)
        if candidate is None:
            return self._find_unit(subject, round_).miner
        return self._contract.candidates(round_)[candidate].proposer

    def present(self, subject: bytes) -> Call | None:
        """The run keeps hashes of commitments: whoever accuses shows what they are of."""
        if self._contract.claim_of(subject).kind != ClaimKind.NONE:
            return None
        round_, candidate = self.find(subject)
        run = load_abi("Run")
        if candidate is None:
            unit = self._find_unit(subject, round_)
            shown = write_value(_commitment(unit), Commitment)
            return run.bind(self._contract.address, "presentUnit", round_, unit.miner, unit.index, shown)
        merged = [
            write_value(MergedUnit(miner=unit.miner, index=unit.index, commitment=_commitment(unit)), MergedUnit)
            for unit in self._list_merged(round_)
        ]
        return run.bind(self._contract.address, "presentMerge", round_, candidate, merged)

    def find_first_block(self) -> Height | None:
        """When the first round that is not final was judged: of those before it nothing is before the court."""
        first, current = self._contract.finality().settled, self._contract.current().round
        for round_ in range(first, current + 1):
            judged_at = self._contract.get_round(RoundIndex(round_)).judged_at
            if judged_at:
                return judged_at
        return None

    def defend(self, record: DisputeRecord) -> Defence:
        side: Defence = self._make(record, self._make_defence)
        return side

    def challenge(self, record: DisputeRecord) -> Challenge:
        side: Challenge = self._make(record, self._make_challenge)
        return side

    def _make(self, record: DisputeRecord, make: Callable[[DisputeRecord], Any]) -> Any:
        """What it takes to compute is kept while disputes go on in turn; each stands at a step of its own."""
        key = record.subject + bytes([record.segment]) + record.challenger.encode()
        return self._made.get(key, lambda: make(record))

    def _make_defence(self, record: DisputeRecord) -> Defence:
        round_, candidate = self.find(record.subject)
        if candidate is not None:
            return Defence(segment=None, hold=self.run_merge(round_).hold)
        return self._keeper.defend_unit(self._find_unit(record.subject, round_), record.segment)

    def _make_challenge(self, record: DisputeRecord) -> Challenge:
        round_, candidate = self.find(record.subject)
        if candidate is not None:
            merge = self.run_merge(round_)
            return Challenge(step_roots=[], hold=merge.hold, prover=merge.prover)
        unit = self._find_unit(record.subject, round_)
        seed = self._contract.get_round(round_).seed
        state = self.fetch_checkpoint(unit, record.segment)
        segment = self.run_segment(unit.unit_id, seed, state, record.segment)
        run = self._session.run
        data = DataHeld(
            seed=seed,
            unit=unit.unit_id,
            shard_roots=[shard.root for shard in run.data.training],
            shard_tokens=run.data.shard_tokens,
            read_shard=lambda shard: tensor_bytes(run.shards.shard(shard)),
            first_step=record.segment * run.parameters.segment_steps,
        )
        return Challenge(
            step_roots=segment.roots,
            hold=segment.hold,
            prover=segment.prover,
            data=data,
            evidence=segment.evidence,
        )

    # Computing

    def fetch_checkpoint(self, unit: UnitView, segment: int) -> NamedState:
        """The state a segment of a unit starts from, kept from now on.

        One that is here by its root, because this node computed it, is taken from here, and a round's first from
        whoever has it: so no miner keeps a watcher, or a challenger, from going on by giving nobody one state.

        Raises Unavailable, MalformedInput or RootMismatch
        """
        start, pin = self._keeper.describe(unit).states[segment], self._keeper.checkpoint_pin(unit, segment)
        root, cid, pins = start.state_root, start.cid, [pin]
        if segment == 0:
            if root == self._session.run.parameters.genesis_root:
                return self._session.run.genesis
            pins, cid = [pin, f"start/{root.hex()}"], self._contract.get_state(unit.round)[1] or cid
        what, states = f"checkpoint {segment} of unit 0x{unit.unit_id.hex()}", self._session.states
        own = states.find(what, root, pins)
        return own if own is not None else states.get(what, cid, root, pin)

    def run_segment(self, unit: UnitId, seed: Any, state: NamedState, segment: int) -> SegmentRun:
        """A segment computed again, honestly, from the state before it."""
        run = self._session.run
        load = run.load_batch(seed, unit)
        return SegmentRun(run.programs, self._keeper.step, state, load, segment, run.parameters.segment_steps)

    def _list_merged(self, round_: RoundIndex | int) -> list[UnitView]:
        units = {unit.unit_id: unit for unit in self._contract.get_units(round_)}
        return [units[one] for one in self._contract.merge_set(round_)]

    def run_merge(self, round_: RoundIndex | int) -> MergeRun:
        """A round's merge computed again, from its units' end states. Raises MalformedInput: it has no units."""
        states = [self._keeper.fetch_contribution(unit) for unit in self._list_merged(round_)]
        if not states:
            raise MalformedInput(f"round {round_} has no units to merge")
        return MergeRun(self._session.run.programs, states)


def _commitment(unit: UnitView) -> Commitment:
    if unit.cid is None:
        raise Unavailable(f"unit 0x{unit.unit_id.hex()} names no description")
    return Commitment(root=unit.root, contribution=unit.contribution, cid=unit.cid)
