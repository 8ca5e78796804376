"""What the run's contracts announce, one frozen value per event of `EventsLib.sol`; a test compares.

Every event also carries the block it is in and its position there.
"""

from __future__ import annotations

from dataclasses import dataclass

from cupel.chain.run_values import Status
from cupel.protocol.types import Address, Height, Root, RoundIndex, Seed, UnitId, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event."""

    block_number: Height
    position: int
    """Index in the block."""
    transaction_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerJoined(Event):
    miner: Address
    units: int
    deposit: Wei
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierStaked(Event):
    verifier: Address
    deposit: Wei
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving(Event):
    account: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatFreed(Event):
    account: Address
    exit_at: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Event):
    account: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    round: RoundIndex
    state_root: Root
    miners: int
    verifiers: int
    seed_height: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class BeaconMissed(Event):
    round: RoundIndex
    missed_height: Height
    next_height: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded(Event):
    round: RoundIndex
    seed: Seed
    units: int
    train_until: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    round: RoundIndex
    unit_id: UnitId
    miner: Address
    index: int
    root: Root
    contribution: Root
    codec: int
    """With `digest` the CID: `make_cid(codec, digest)`."""
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn(Event):
    round: RoundIndex
    draw_seed: Seed
    assignments: int
    seal_until: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrawn(Event):
    """Missing seals were drawn anew."""

    round: RoundIndex
    seed: Seed
    replaced: int
    seal_until: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended(Event):
    round: RoundIndex
    phase: int
    until: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedUnavailable(Event):
    round: RoundIndex
    unit_id: UnitId
    juror: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed(Event):
    round: RoundIndex
    unit_id: UnitId
    discloser: Address
    segment: int
    prize: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Event):
    round: RoundIndex
    unit_id: UnitId
    verifier: Address
    seal_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOpened(Event):
    round: RoundIndex
    unit_id: UnitId
    miner: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed(Event):
    round: RoundIndex
    unit_id: UnitId
    verifier: Address
    answers_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Dissent(Event):
    round: RoundIndex
    unit_id: UnitId
    verifier: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Event):
    round: RoundIndex
    unit_id: UnitId
    miner: Address
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Burned(Event):
    round: RoundIndex
    account: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Event):
    round: RoundIndex
    account: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeProposed(Event):
    round: RoundIndex
    candidate: int
    proposer: Address
    state_root: Root
    codec: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged(Event):
    round: RoundIndex
    candidate: int
    juror: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded(Event):
    round: RoundIndex
    merged: bool
    next_state_root: Root
    ended_at: Height


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Event):
    round: RoundIndex
    account: Address
    tokens: int
    bonds: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented(Event):
    subject: bytes
    round: RoundIndex
    accused: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Convicted(Event):
    round: RoundIndex
    subject: bytes
    accused: Address
    prize: Wei
    burned: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Voided(Event):
    first: RoundIndex
    last: RoundIndex
    state_root: Root


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    rounds: RoundIndex


RUN_EVENTS: tuple[type[Event], ...] = (
    MinerJoined,
    VerifierStaked,
    Leaving,
    SeatFreed,
    Withdrawn,
    RoundOpened,
    BeaconMissed,
    Seeded,
    Committed,
    Drawn,
    Redrawn,
    Extended,
    ReportedUnavailable,
    Disclosed,
    Sealed,
    UnitOpened,
    Revealed,
    Dissent,
    Judged,
    Burned,
    Held,
    MergeProposed,
    Acknowledged,
    RoundEnded,
    Claimed,
    Presented,
    Convicted,
    Voided,
    Settled,
)
