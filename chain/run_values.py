"""What the run's contracts speak of, as frozen values: field for field `IRun.sol` and `IRunLens.sol`; a test compares.

Amounts are wei, clocks and heights blocks. A CID is `None` where the contract has none yet.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cupel.protocol.types import Address, Cid, Height, Root, RoundIndex, Salt, Seed, SegmentIndex, UnitId, Wei

ZERO_ADDRESS = Address("0x0000000000000000000000000000000000000000")


class Role(enum.IntEnum):
    NONE = 0
    MINER = 1
    VERIFIER = 2


class Phase(enum.IntEnum):
    """Where a round stands. WAITING: too few members to open it. ENDED: only past rounds."""

    WAITING = 0
    SEED = 1
    TRAIN = 2
    DRAW = 3
    SEAL = 4
    OPEN = 5
    MERGE = 6
    ACKNOWLEDGE = 7
    ENDED = 8


class Status(enum.IntEnum):
    """What became of a unit.

    NONE: not committed. OPENED: by its miner, not judged yet. UNAVAILABLE: most of the jury could not get its data.
    DISCLOSED: its evidence was shown before its time. CONVICTED: proved false. ABANDONED: its round was given up.
    """

    NONE = 0
    COMMITTED = 1
    REJECTED = 2
    DISPUTED = 3
    UNVERIFIED = 4
    ATTESTED = 5
    OPENED = 6
    UNAVAILABLE = 7
    DISCLOSED = 8
    CONVICTED = 9
    ABANDONED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Everything a run is deployed with; nothing of it can change."""

    programs_root: Root
    """Merkle root over the program roots: step, evaluate, sample, genesis, merge 1...max_merge."""
    data_root: Root
    """Merkle root over the shards' tensor roots."""
    shards: int
    """Leaves of that tree."""
    shard_tokens: int
    """Of every shard."""
    genesis_root: Root
    """State root S_0."""
    genesis: Cid
    """Where S_0 can be fetched; it can also be computed from the genesis program."""
    manifest: Cid
    """Programs, shards, tokenizer and training configuration."""
    segments: int
    """Per unit: n."""
    segment_steps: int
    """S; a unit is n S steps."""
    max_units_per_miner: int
    max_units: int
    """Per round; above, units are drawn by lot."""
    max_merge: int
    """Units averaged at most."""
    min_miners: int
    """With units; fewer, and no round opens."""
    max_miners: int
    min_verifiers: int
    """With slots; fewer, and no round opens."""
    max_verifiers: int
    verifiers_per_unit: int
    """V."""
    segments_per_verifier: int
    """k."""
    replay_bps: int
    """Ten-thousandths of the units, rounded up, that their first verifier replays whole."""
    quorum: int
    """q: equal answers that attest."""
    jury_target: int
    """J."""
    unit_bond: Wei
    slot_stake: Wei
    unavailable_fee: Wei
    """At most `unit_bond`."""
    seal_fee: Wei
    """At most `slot_stake`."""
    merge_bond: Wei
    beacon_delay: int
    train_blocks: int
    seal_blocks: int
    open_blocks: int
    merge_blocks: int
    acknowledge_blocks: int
    maturity_blocks: int
    window_blocks: int
    """After a round, in which its units and merges can be disputed."""
    exit_blocks: int
    initial_reward: int
    """R0, in the token's smallest unit."""
    halving_rounds: int
    work_target: int
    """Committed units for a full reward."""
    verifier_share_bps: int
    merge_share_bps: int
    beacon: Address = ZERO_ADDRESS
    """Address zero: `deploy_run` deploys one."""
    court: Address = ZERO_ADDRESS
    """Carries disputes out on this run. Address zero: there are none, and nobody is ever convicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a verifier says about one segment."""

    end_root: Root
    loss: bytes
    """Bits of the last step's loss: binary32, 4 bytes little-endian."""
    gradient_norm: bytes
    """Bits of the last step's gradient norm, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One checkpoint leaf, opened: leaf `segment + 1` of the unit's commitment."""

    segment: SegmentIndex
    answer: Answer
    salt: Salt


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """What a miner said of a unit in `commit`, and says again when it opens it."""

    root: Root
    contribution: Root
    cid: Cid


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """Where the run stands."""

    round: RoundIndex
    phase: Phase
    until: Height
    """The last block in which the phase's actions are accepted. In SEED and DRAW the height whose beacon value is
    awaited. In WAITING 0."""
    due: bool
    """Whether `advance` would move the run in the block this is asked in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """One round. Counters stay after it has ended."""

    phase: Phase
    seed: Seed
    draw_seed: Seed
    state_root: Root
    """The state the round starts from."""
    state: Cid | None
    miners: int
    verifiers: int
    units: int
    """Units that may be committed."""
    committed: int
    opened: int
    attested: int
    assignments: int
    """Pairs of a unit and a verifier."""
    seals: int
    reveals: int
    jurors: int
    candidates: int
    merged: bool
    """Whether a candidate was accepted: number `accepted`."""
    accepted: int
    judged_at: Height
    """Height of the judgement, 0 before."""
    ended_at: Height
    """0 before the end."""
    mature_at: Height
    """At this height the round can be settled: no earlier do its bonds and rewards unlock."""
    seeded_at: Height
    """Block of the seed, 0 before."""
    drawn_at: Height
    """Block of the draw, 0 before: the `Committed` events of the round are in the blocks between."""
    disputes: int
    """Open ones about its units and candidates: until they are closed, nothing of the round is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """What became of a unit so far. Bit v of the masks speaks of `verifiers[v]`."""

    status: Status
    opened: bool
    """By its miner, or not to be opened any more."""
    commitment: bytes
    """First 27 bytes of the hash of its `Commitment`."""
    verifiers: tuple[Address, ...]
    sealed_mask: int
    revealed_mask: int
    agreed_mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitName:
    """A committed unit of the current round."""

    unit_id: UnitId
    miner: Address
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitView:
    """One committed unit, from its event and its state. Bit v of the masks speaks of `verifiers[v]`."""

    unit_id: UnitId
    round: RoundIndex
    miner: Address
    index: int
    status: Status
    opened: bool
    root: Root
    """Root of the unit's commitment."""
    contribution: Root
    cid: Cid | None
    verifiers: tuple[Address, ...]
    sealed_mask: int
    revealed_mask: int
    agreed_mask: int

    def has_sealed(self, verifier: Address) -> bool:
        return self._has(self.sealed_mask, verifier)

    def has_revealed(self, verifier: Address) -> bool:
        return self._has(self.revealed_mask, verifier)

    def has_agreed(self, verifier: Address) -> bool:
        return self._has(self.agreed_mask, verifier)

    def _has(self, mask: int, verifier: Address) -> bool:
        return verifier in self.verifiers and bool(mask >> self.verifiers.index(verifier) & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One unit a verifier was drawn for."""

    unit_id: UnitId
    segments: tuple[SegmentIndex, ...]
    """Ascending; answers are given in this order."""
    is_sealed: bool
    is_revealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A proposed result of the merge."""

    proposer: Address
    state_root: Root
    cid: Cid | None
    acknowledgements: int
    is_convicted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberView:
    """A member or former member."""

    account: Address
    role: Role
    leaving: bool
    units: int
    """Units a miner asks for per round."""
    joined_round: RoundIndex
    deposit: Wei
    """Owned by the member here; `locked` of it backs units, merges and disputes."""
    locked: Wei
    exit_at: Height
    """Height at which `withdraw` opens; 0 while seated."""
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A seated member and what was frozen for the current round."""

    account: Address
    role: Role
    leaving: bool
    frozen: int
    """Units drawn for a miner, slots of a verifier."""
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimable:
    """What an account has in one round."""

    round: RoundIndex
    tokens: int
    """Reward in the token's smallest unit, minted by `claim` once the round is settled; 0 once claimed."""
    bonds: Wei
    """Unlocked by `claim` likewise."""
    held: Wei
    """What a dispute among its answers holds, unlocked likewise but for a slot stake for each dissent that convicted
    nobody."""
    mature_at: Height
    """Height the round can be settled at: later, while a dispute or an earlier round keeps it. 0 while it is played."""
    claimable_now: bool
    """Whether `claim` would do something in this block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finality:
    """Which rounds are final, and which rest on something false."""

    settled: RoundIndex
    """All rounds below are final."""
    settling: RoundIndex
    """The same once a claim has settled what is due."""
    voids: tuple[tuple[RoundIndex, RoundIndex], ...]
    """First and last of each row of void rounds, ascending."""

    def is_void(self, round_: int) -> bool:
        return any(first <= round_ <= last for first, last in self.voids)


class ClaimKind(enum.IntEnum):
    """What a subject names. NONE: nothing was presented under it."""

    NONE = 0
    UNIT = 1
    MERGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedClaim:
    """A posted result as a court needs it."""

    kind: ClaimKind
    contestable: bool
    accused: Address
    round: RoundIndex
    root: Root
    seed: Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What every claim of a run is measured by."""

    programs_root: Root
    programs: int
    """Leaves of that tree."""
    data_root: Root
    shards: int
    shard_tokens: int
    segments: int
    segment_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedUnit:
    """A unit of a merge set as its miner committed it."""

    miner: Address
    index: int
    commitment: Commitment
