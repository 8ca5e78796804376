"""What a node does next, as pure functions of what it knows. The processes gather the facts and carry the answer out.

Phases and their meaning: docs/design/round.md. A phase that is due has ended for everybody, though no transaction has
moved it yet: nothing may be done in it any more but to move it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel.chain.run_values import Phase
from cupel.protocol.types import Cid, Root

ADVANCE_STAGGER_S = 0.4
"""One party moves a due phase; the next takes over after this long, so that not everybody pays for it."""
PROPOSE_STAGGER_S = 2.5
"""The same for proposing a merge, which also costs computing it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until the chain moves."""


@dataclass(frozen=True, slots=True)
class Join:
    """Take a seat."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Give up the seat from the next round on."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do for a node that was asked to end."""


@dataclass(frozen=True, slots=True)
class Claim:
    rounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """Move a phase that is due."""


@dataclass(frozen=True, slots=True)
class Extend:
    """Move the end of the phase: fees are a spike, and this node is not done."""


@dataclass(frozen=True, slots=True)
class RecordBeacon:
    """Prove the awaited beacon value, which nobody recorded in its own block, by that block's header."""


@dataclass(frozen=True, slots=True)
class FetchStart:
    """Get hold of the state the round starts from, before it is needed."""


@dataclass(frozen=True, slots=True)
class Train:
    """The next segment of one unit."""

    index: int


@dataclass(frozen=True, slots=True)
class Commit:
    index: int


@dataclass(frozen=True, slots=True)
class Open:
    index: int


@dataclass(frozen=True, slots=True)
class Replay:
    """One segment of one unit."""

    unit: bytes
    segment: int
    drawn: bool


@dataclass(frozen=True, slots=True)
class Seal:
    units: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """As a juror: whether a unit's data is to be had."""

    unit: bytes


@dataclass(frozen=True, slots=True)
class ReportUnavailable:
    """As a juror: data that is not to be had."""

    units: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    units: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ComputeMerge:
    """Average the merge set, and hold the result."""


@dataclass(frozen=True, slots=True)
class MergedState:
    """A state and where it is to be had. States are encoded in one way, so a true root has one true CID."""

    root: Root
    cid: Cid | None


@dataclass(frozen=True, slots=True)
class ProposeMerge:
    """What this node computed."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The candidate that is what this node computed, by its number."""

    candidate: int


MergeAction = ComputeMerge | ProposeMerge | Acknowledge
CommonAction = Wait | Join | Retire | Finish | Claim | Advance | Extend | RecordBeacon | FetchStart | MergeAction
MinerAction = CommonAction | Train | Commit | Open
VerifierAction = CommonAction | Replay | Seal | Reveal | Probe | ReportUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFacts:
    """What there is to merge, and who has done it."""

    wanted: bool
    """Whether there is a merge set in this round."""
    candidates: tuple[MergedState, ...] = ()
    """What was proposed, by candidate number."""
    computed: MergedState | None = None
    """What this node got by merging the set."""
    compute: bool = True
    """False where computing failed a moment ago, for want of a contribution."""
    juror: bool = False
    acknowledged: bool = False
    proposed: bool = False
    """Whether this node has its one candidate already, or cannot bond one."""
    order: int = 0
    """Place in the order of proposing: jurors first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What every party knows of the current round."""

    phase: Phase
    phase_for_s: float
    """Seconds since this node first saw the round in this phase."""
    due: bool
    """Whether the phase is over in the next block, so that somebody has to move it."""
    due_for_s: float
    extendable: bool = False
    """Whether the contract would move the phase's end: it is near, and transactions cost many times the usual."""
    beacon_missed: bool = False
    """Whether the beacon value that the phase waits for was not recorded in its own block."""
    rank: int
    """Place in the order of moving due phases, different for each party and rotating with the rounds."""
    member: bool
    """Whether the party has, or has asked for, a seat, be it one it is about to leave."""
    announce: bool = False
    """Whether the seat is to be taken anew: the endpoint is another one now, or it was given up before."""
    claimable: tuple[int, ...] = ()
    merge: MergeFacts = MergeFacts(wanted=False)
    start_held: bool = True
    """Whether this node has the state the round starts from."""
    start_asleep: bool = False
    """Whether asking for it failed a moment ago."""
    finishing: bool = False
    """Whether the operator asked the node to end: duties that are begun are carried out, nothing new is begun."""
    round_over: bool = False
    """Whether the round in which that was asked has ended."""
    answerable: bool = False
    """Whether a court may still ask this node for what it did: it stays until then, with nothing else to do."""
    retire: bool = False
    """Whether the seat is to be given up and is not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerFacts:
    round: Facts
    units: int = 0
    """Units drawn for this miner, indices from 0."""
    ready: frozenset[int] = frozenset()
    """Trained whole, here."""
    committed: frozenset[int] = frozenset()
    opened: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    """Of which the journal says something else than what was computed now: a person has to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnUnit:
    """One unit this verifier was drawn for."""

    unit: bytes
    missing: tuple[int, ...]
    """Drawn segments not replayed yet."""
    asleep: bool
    """Its data could not be fetched a moment ago."""
    is_sealed: bool
    is_revealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierFacts:
    round: Facts
    drawn: tuple[DrawnUnit, ...] = ()
    watched: tuple[tuple[bytes, int], ...] = ()
    """Segments left that were not drawn, for `--watch all`."""
    withheld: tuple[bytes, ...] = ()
    """Units of which this node, a juror, could get nothing again and again, and has not said so yet."""
    unprobed: tuple[bytes, ...] = ()
    """Units of which seals are missing late in the phase, for this juror to look whether their data is to be had."""
    seal_soon: bool = False
    """The seal phase ends in a few blocks: post what there is."""
    frozen: bool = True
    """Whether the node's stake is in this round's draw."""


_WORKING = (Phase.SEED, Phase.TRAIN, Phase.DRAW, Phase.SEAL, Phase.OPEN)
"""Phases in which units are drawn, trained, committed, or opened."""


def decide_miner(facts: MinerFacts) -> MinerAction:
    """The most urgent thing to do."""
    common = _decide_common(facts.round)
    if common is not None:
        return common
    phase = facts.round.phase
    unopened = sorted(facts.committed - facts.opened)
    uncommitted = [i for i in range(facts.units) if i not in facts.committed | facts.refused]
    # What can be said is said before anything else: it has a deadline, and money on it.
    if phase == Phase.TRAIN:
        for index in uncommitted:
            if index in facts.ready:
                return Commit(index)
    if phase == Phase.OPEN:
        for index in unopened:
            if index in facts.ready:
                return Open(index)
    if facts.round.extendable and {Phase.TRAIN: uncommitted, Phase.OPEN: unopened}.get(phase):
        return Extend()
    if facts.round.announce:
        return Join()
    if phase == Phase.TRAIN and facts.round.start_held and uncommitted:
        return Train(uncommitted[0])
    if phase in (Phase.DRAW, Phase.SEAL, Phase.OPEN) and facts.round.start_held:
        # Lost with the disk: training is exact, so the committed unit can be had again, and be opened.
        lost = [i for i in unopened if i not in facts.ready]
        if lost:
            return Train(lost[0])
    # The round waits for every unit that was drawn for this miner, so these are finished before it ends.
    is_awaited = {Phase.SEED: facts.units > 0, Phase.TRAIN: bool(uncommitted or unopened)}.get(phase, bool(unopened))
    if _is_ending(facts.round) and not (is_awaited and phase in _WORKING):
        return Finish()
    return _decide_rest(facts.round)


def decide_verifier(facts: VerifierFacts) -> VerifierAction:
    """The most urgent thing to do."""
    common = _decide_common(facts.round)
    if common is not None:
        return common
    urgent = {Phase.SEAL: _decide_seal, Phase.OPEN: _decide_reveal}.get(facts.round.phase)
    action = urgent(facts) if urgent is not None else None
    if isinstance(action, (Seal, Reveal)):
        return action
    if facts.withheld:
        return ReportUnavailable(facts.withheld)
    if facts.round.extendable and _is_verifier_due(facts):
        return Extend()
    if facts.round.announce:
        return Join()
    if action is not None:
        return action
    if facts.unprobed:
        return Probe(facts.unprobed[0])
    if _is_ending(facts.round) and _is_verifier_done(facts):
        return Finish()
    rest = _decide_rest(facts.round)
    if isinstance(rest, Wait) and facts.watched and not facts.round.finishing:
        unit, segment = facts.watched[0]
        return Replay(unit, segment, drawn=False)
    return rest


def _is_verifier_due(facts: VerifierFacts) -> bool:
    """Whether this verifier still has to say something in this phase."""
    if facts.round.phase == Phase.SEAL:
        return any(not unit.is_sealed for unit in facts.drawn)
    if facts.round.phase == Phase.OPEN:
        return any(unit.is_sealed and not unit.is_revealed for unit in facts.drawn)
    return _is_juror_waiting(facts.round)


def _is_verifier_done(facts: VerifierFacts) -> bool:
    """Whether nothing more can be asked of this verifier in the round in which it was asked to end."""
    phase = facts.round.phase
    if phase == Phase.SEAL:
        return not facts.drawn and not facts.frozen
    if phase == Phase.OPEN:
        return all(u.is_revealed or not u.is_sealed for u in facts.drawn) and not facts.frozen
    if phase in (Phase.SEED, Phase.TRAIN, Phase.DRAW):
        return not facts.frozen
    return not _is_juror_waiting(facts.round)


def _is_juror_waiting(facts: Facts) -> bool:
    """Whether this node's word on a merge is still awaited."""
    merging = facts.phase in (Phase.MERGE, Phase.ACKNOWLEDGE)
    return merging and facts.merge.wanted and facts.merge.juror and not facts.merge.acknowledged


def _decide_common(facts: Facts) -> CommonAction | None:
    if facts.retire:
        return Retire()
    is_out = facts.finishing and (facts.round_over or not facts.member)
    if is_out and _is_ending(facts):
        return Finish()
    if not facts.member and not facts.finishing:
        return Join()
    if facts.due:
        if facts.due_for_s < facts.rank * ADVANCE_STAGGER_S:
            return Wait()
        return RecordBeacon() if facts.beacon_missed else Advance()
    if is_out:
        return Claim(facts.claimable) if facts.claimable else Wait()
    return None


def _is_ending(facts: Facts) -> bool:
    """Whether the node ends once its duties in the round are done."""
    return facts.finishing and not facts.answerable


def _decide_seal(facts: VerifierFacts) -> Seal | Replay | None:
    waiting = [u for u in facts.drawn if not u.is_sealed]
    answered = tuple(u.unit for u in waiting if not u.missing)
    left = [u for u in waiting if u.missing and not u.asleep]
    # One transaction for all of them, unless the deadline is near; the unfetchable hold nobody else up.
    if answered and (facts.seal_soon or not left):
        return Seal(answered)
    # A unit to be replayed whole comes last: the others are ready to be sealed whatever becomes of it.
    for unit in sorted(left, key=lambda one: len(one.missing)):
        return Replay(unit.unit, unit.missing[0], drawn=True)
    return None


def _decide_reveal(facts: VerifierFacts) -> Reveal | Replay | None:
    waiting = [u for u in facts.drawn if u.is_sealed and not u.is_revealed]
    # After a restart sealed answers may have to be computed again.
    for unit in waiting:
        if unit.missing and not unit.asleep:
            return Replay(unit.unit, unit.missing[0], drawn=True)
    answered = tuple(u.unit for u in waiting if not u.missing)
    return Reveal(answered) if answered else None


def _decide_rest(facts: Facts) -> MergeAction | FetchStart | Claim | Wait:
    if facts.phase in (Phase.MERGE, Phase.ACKNOWLEDGE):
        action = _decide_merge(facts.merge, facts.phase_for_s, facts.phase == Phase.MERGE)
        if action is not None:
            return action
    if not facts.start_held and not facts.start_asleep:
        return FetchStart()
    return Claim(facts.claimable) if facts.claimable else Wait()


def _decide_merge(facts: MergeFacts, waited_s: float, proposing: bool) -> MergeAction | None:
    """Jurors merge at once, since they must know the answer; the rest only if nobody has proposed for a while."""
    my_turn = proposing and not facts.proposed and waited_s >= facts.order * PROPOSE_STAGGER_S
    if not facts.wanted or not (facts.juror or (my_turn and not facts.candidates)):
        return None
    if facts.computed is None:
        return ComputeMerge() if facts.compute else None
    if facts.computed in facts.candidates:
        if facts.juror and not facts.acknowledged:
            return Acknowledge(facts.candidates.index(facts.computed))
        return None
    # A candidate with another root, or a CID under which nobody finds it, is a mistake or a lie: ours stands beside it.
    return ProposeMerge() if my_turn else None
