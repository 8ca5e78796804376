"""The run's contract, its lens and its token as typed methods; `deploy_run` makes new ones.

Every function, view and event of the shipped ABIs is here and nothing else (a test compares), but for the getters of
`Run`'s storage, which the lens reads. Functions send a
transaction and wait until it is in; views answer as of `at`, a height or a tag: `pending` asks about the next block.
What is refused raises `ContractReverted` with the name of `ErrorsLib.sol`'s error. docs/design/round.md says what the
contract does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from eth_abi.abi import encode as abi_encode

from cupel.chain.abi import Call, ContractAbi, load_abi
from cupel.chain.client import ChainClient
from cupel.chain.mapping import get_fields, make_cid, make_reader, write_value
from cupel.chain.run_events import RUN_EVENTS, Committed, Event, Judged
from cupel.chain.run_values import (
    ZERO_ADDRESS,
    Answer,
    Assignment,
    CandidateView,
    Claimable,
    Commitment,
    Current,
    Finality,
    MemberView,
    MergedUnit,
    Opened,
    Parameters,
    Participant,
    Phase,
    PostedClaim,
    Role,
    RoundView,
    Rules,
    Status,
    UnitName,
    UnitState,
    UnitView,
)
from cupel.chain.values import Log, Receipt
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address, Cid, Height, Root, RoundIndex, Salt, Seed, SegmentIndex, UnitId, Wei

At = Height | int | str
"""A height, or `latest`, `pending`, `finalized`."""
E_ = TypeVar("E_", bound=Event)


CLAIMABLE_PAGE_ROUNDS = 256
"""Rounds looked through in one call: some 12,000 gas for an empty one, 28,000 for one that holds something."""
CLAIM_ROUNDS = 32
"""Rounds claimed in one transaction: some 65,000 gas each."""
STORAGE_GETTERS = frozenset(
    {
        "accountOf",
        "candidates",
        "endpoints",
        "entries",
        "frozenSlots",
        "frozenUnits",
        "members",
        "minerSeats",
        "places",
        "rounds",
        "seatCounts",
        "settled",
        "subjects",
        "units",
        "verifierSeats",
        "voids",
    }
)
"""Views of `Run` that are its raw storage (`IRunState.sol`), for the lens; nodes ask the lens."""


class _Contract:
    """A contract at an address."""

    def __init__(self, client: ChainClient, address: Address, abi: ContractAbi) -> None:
        self._client, self.address, self._abi = client, address, abi

    def _ask(self, at: At, function: str, *arguments: Any) -> Any:
        """The only output, or all of them."""
        values = self._client.call(self._abi.bind(self.address, function, *arguments), block=at)
        return values[0] if len(values) == 1 else values

    def bind(self, function: str, *arguments: Any) -> Call:
        """A call for `ChainClient.send_many` or `submit`; arguments in eth-abi's form."""
        return self._abi.bind(self.address, function, *arguments)

    def _send(self, function: str, *arguments: Any, value_wei: int = 0, duty: str | None = None) -> Receipt:
        return self._client.send(self.bind(function, *arguments), value_wei=value_wei, duty=duty)


class RunContract:
    """One run at an address. Raises MalformedInput on first use if no run is there."""

    def __init__(self, client: ChainClient, address: Address) -> None:
        self.address = address
        self._client = client
        self._run = _Contract(client, address, load_abi("Run"))

    @cached_property
    def _lens(self) -> _Contract:
        return _Contract(self._client, self.lens(), load_abi("RunLens"))

    def _look(self, at: At, function: str, *arguments: Any) -> Any:
        """An answer of the lens about this run."""
        return self._lens._ask(at, function, self.address, *arguments)

    def _read(self, kind: Any, at: At, function: str, *arguments: Any) -> Any:
        return make_reader(kind)(self._look(at, function, *arguments))

    # Membership

    def join_miner(self, units: int, endpoint: str, *, deposit_wei: int = 0) -> Receipt:
        """Take or keep a miner's seat from the next round on, adding to the deposit."""
        return self._run._send("joinMiner", units, endpoint, value_wei=deposit_wei)

    def stake(self, endpoint: str, *, deposit_wei: int = 0) -> Receipt:
        """Take or keep a verifier's seat from the next round on, adding to the deposit."""
        return self._run._send("stake", endpoint, value_wei=deposit_wei)

    def retire(self) -> Receipt:
        """Stop from the next round on; duties of the current one remain."""
        return self._run._send("retire")

    def withdraw(self) -> Receipt:
        """Take the unlocked deposit home, once out of the seat."""
        return self._run._send("withdraw")

    # Rounds

    def advance(self) -> Receipt:
        """Move every phase that is due; doing nothing is not an error."""
        return self._run._send("advance")

    def commit(self, seed: Seed, index: int, *, root: Root, contribution: Root, cid: Cid) -> Receipt:
        """Commit one of the caller's drawn units. Locks a unit bond.

        seed   the one the unit was trained for; where a re-org changed it, `WrongSeed` and no bond is at stake
        """
        # Decided anew after a re-org, it takes the place of the one that still waits: see `ChainClient.send`.
        duty = f"commit {index} of {seed.hex()}"
        return self._run._send("commit", seed, index, root, contribution, write_value(cid, Cid), duty=duty)

    def seal(self, draw_seed: Seed, unit_ids: Sequence[UnitId], seals: Sequence[bytes]) -> Receipt:
        """Post seals (`compute_seal`) for units the caller was drawn for by this draw."""
        duty = f"seal {unit_ids[0].hex() if unit_ids else 'nothing'}"
        return self._run._send("seal", draw_seed, list(unit_ids), list(seals), duty=duty)

    def open(
        self,
        round_: RoundIndex | int,
        index: int,
        *,
        commitment: Commitment,
        leaves: Sequence[Opened],
        proof: Sequence[bytes],
    ) -> Receipt:
        """Open the caller's unit: leaf 0, the contribution leaf, the last segment and every drawn one, ascending.

        proof   `proof_of_several` of those leaves
        """
        said, opened = write_value(commitment, Commitment), write_value(leaves, Sequence[Opened])
        return self._run._send("open", round_, index, said, opened, list(proof))

    def reveal(
        self,
        round_: RoundIndex | int,
        unit_ids: Sequence[UnitId],
        answers: Sequence[Sequence[Answer]],
        salts: Sequence[Salt],
    ) -> Receipt:
        """Reveal what was sealed, in the order of each unit's assigned segments."""
        written = write_value(answers, Sequence[Sequence[Answer]])
        return self._run._send("reveal", round_, list(unit_ids), written, list(salts))

    def report_unavailable(self, draw_seed: Seed, unit_ids: Sequence[UnitId]) -> Receipt:
        """As a drawn juror, say of units of the current round that their data is not to be had."""
        return self._run._send("reportUnavailable", draw_seed, list(unit_ids))

    def disclose(
        self,
        round_: RoundIndex | int,
        miner: Address,
        index: int,
        *,
        commitment: Commitment,
        leaf: Opened,
        proof: Sequence[bytes],
    ) -> Receipt:
        """Prove that a unit's evidence is known before it is to be opened, for half of its bond.

        proof   the leaf's siblings, from the leaf up: `proof_of_several` of it alone
        """
        said, shown = write_value(commitment, Commitment), write_value(leaf, Opened)
        return self._run._send("disclose", round_, miner, index, said, shown, list(proof))

    def extend(self) -> Receipt:
        """Move the end of the current phase by a quarter, where fees keep members from acting: see `extension`."""
        return self._run._send("extend")

    def propose_merge(self, draw_seed: Seed, *, state_root: Root, cid: Cid) -> Receipt:
        """Propose the merged state of the current round's `merge_set`. Locks a merge bond."""
        duty = f"propose for {draw_seed.hex()}"
        return self._run._send("proposeMerge", draw_seed, state_root, write_value(cid, Cid), duty=duty)

    def acknowledge(self, draw_seed: Seed, candidate: int, *, state_root: Root, cid: Cid) -> Receipt:
        """As a drawn juror: "I hold this state and it is the merge of that set". Root and CID: that candidate's."""
        duty = f"acknowledge for {draw_seed.hex()}"
        arguments = (draw_seed, candidate, state_root, write_value(cid, Cid))
        return self._run._send("acknowledge", *arguments, duty=duty)

    def present_unit(self, round_: RoundIndex | int, miner: Address, index: int, commitment: Commitment) -> Receipt:
        """Put a unit before the court: its unit id is then what is accused."""
        return self._run._send("presentUnit", round_, miner, index, write_value(commitment, Commitment))

    def present_merge(self, round_: RoundIndex | int, candidate: int, units: Sequence[MergedUnit]) -> Receipt:
        """Put a merge candidate before the court, with the whole merge set in unit id order."""
        shown = [write_value(unit, MergedUnit) for unit in units]
        return self._run._send("presentMerge", round_, candidate, shown)

    def settle(self) -> Receipt:
        """Settle rounds that are due, a few at once; `claim` does so too."""
        return self._run._send("settle")

    def claim(self, rounds: Sequence[RoundIndex | int]) -> Receipt:
        """Mint the caller's rewards and unlock its bonds of these rounds."""
        return self._run._send("claim", list(rounds))

    # Questions

    def token(self, *, at: At = "latest") -> Address:
        """Address of the run's token."""
        return Address(self._run._ask(at, "token"))

    def lens(self, *, at: At = "latest") -> Address:
        """Address of the contract that answers questions."""
        return Address(self._run._ask(at, "lens"))

    def rules(self, *, at: At = "latest") -> Address:
        """Address of the other half of the run's code."""
        return Address(self._run._ask(at, "rules"))

    def parameters_at(self, *, at: At = "latest") -> Address:
        """The account whose code, after a zero byte, is the ABI encoding of the parameters."""
        return Address(self._run._ask(at, "parametersAt"))

    def current_round(self, *, at: At = "latest") -> RoundIndex:
        return RoundIndex(self._run._ask(at, "currentRound"))

    def reward_of(self, round_: RoundIndex | int, account: Address, *, at: At = "latest") -> int:
        """What an account's part in a round earns, in the token's smallest unit; 0 until the round has ended."""
        return int(self._run._ask(at, "rewardOf", round_, account))

    def parameters(self, *, at: At = "latest") -> Parameters:
        parameters: Parameters = self._read(Parameters, at, "parameters")
        return parameters

    def current(self, *, at: At = "latest") -> Current:
        """Where the run stands. `at="pending"` tells whether a phase is due in the next block."""
        current: Current = self._read(Current, at, "current")
        return current

    def get_round(self, round_: RoundIndex | int, *, at: At = "latest") -> RoundView:
        view: RoundView = self._read(RoundView, at, "getRound", round_)
        return view

    def get_state(self, round_: RoundIndex | int, *, at: At = "latest") -> tuple[Root, Cid | None]:
        """Root and CID of the state a round starts from; of the next round's as soon as it is known."""
        root, cid = self._look(at, "getState", round_)
        return Root(root), make_reader(Cid | None)(cid)

    def unit_id_of(self, round_: RoundIndex | int, miner: Address, index: int, *, at: At = "latest") -> UnitId:
        """`cupel.protocol.hashing.unit_id` computes the same without asking."""
        return UnitId(self._look(at, "unitIdOf", round_, miner, index))

    def get_unit_states(self, unit_ids: Sequence[UnitId], *, at: At = "latest") -> tuple[UnitState, ...]:
        """What became of units of any round, in this order; status NONE of one that is not committed."""
        states: tuple[UnitState, ...] = self._read(tuple[UnitState, ...], at, "getUnitStates", list(unit_ids))
        return states

    def get_unit_names(self, *, at: At = "latest") -> tuple[UnitName, ...]:
        """Committed units of the current round in the order of their commits."""
        names: tuple[UnitName, ...] = self._read(tuple[UnitName, ...], at, "getUnitNames")
        return names

    def get_units(self, round_: RoundIndex | int, *, at: At = "latest") -> tuple[UnitView, ...]:
        """Committed units of a round in the order of their commits.

        What was committed is in the events alone: three questions, and a unit that a re-org takes back between them is
        left out.
        """
        view = self.get_round(round_, at=at)
        if not view.committed:
            return ()
        events = self._run._abi.events["Committed"]
        logs = self._client.get_logs(
            address=self.address,
            topics=[[events.topic], [int(round_).to_bytes(32, "big")]],
            first_block=view.seeded_at,
            last_block=view.drawn_at or (at if isinstance(at, int) else None),
        )
        said = [_read_event(Committed, log) for log in logs]
        states = self.get_unit_states([one.unit_id for one in said], at=at) if said else ()
        return tuple(
            _make_unit(one, state) for one, state in zip(said, states, strict=True) if state.status != Status.NONE
        )

    def merge_set(self, round_: RoundIndex | int, *, at: At = "latest") -> tuple[UnitId, ...]:
        """Units that a judged round attested, in unit id order: a conviction takes none of them out.

        A candidate is the merge of what was attested when it was proposed, and is presented to the court as that.
        """
        units = self.get_units(round_, at=at)
        attested = {unit.unit_id for unit in units if unit.status == Status.ATTESTED}
        convicted = {unit.unit_id for unit in units if unit.status == Status.CONVICTED}
        if convicted:
            attested |= convicted & self._list_attested(round_, at)
        return tuple(sorted(attested)[: self._max_merge])

    def _list_attested(self, round_: RoundIndex | int, at: At) -> set[UnitId]:
        """Units that were attested when the round was judged: at this height, or when somebody next moved phases."""
        judged_at = self.get_round(round_, at=at).judged_at
        logs = self._client.get_logs(
            address=self.address,
            topics=[[self._run._abi.events["Judged"].topic], [int(round_).to_bytes(32, "big")]],
            first_block=judged_at,
            last_block=at if isinstance(at, int) else None,
        )
        judged = [_read_event(Judged, log) for log in logs]
        return {one.unit_id for one in judged if one.status == Status.ATTESTED}

    @cached_property
    def _max_merge(self) -> int:
        return self.parameters().max_merge

    def assigned_verifiers(self, unit_id: UnitId, *, at: At = "latest") -> tuple[Address, ...]:
        return tuple(Address(one) for one in self._look(at, "assignedVerifiers", unit_id))

    def assigned_segments(
        self, round_: RoundIndex | int, unit_id: UnitId, verifier: Address, *, at: At = "latest"
    ) -> tuple[SegmentIndex, ...]:
        """Segments drawn for a verifier of a round's unit, ascending."""
        return tuple(SegmentIndex(one) for one in self._look(at, "assignedSegments", round_, unit_id, verifier))

    def assignments_of(
        self, round_: RoundIndex | int, verifier: Address, *, at: At = "latest"
    ) -> tuple[Assignment, ...]:
        """Everything a verifier was drawn for in a round, if it is the current one; nothing where it is not."""
        drawn: tuple[Assignment, ...] = self._read(tuple[Assignment, ...], at, "assignmentsOf", round_, verifier)
        return drawn

    def units_of(self, miner: Address, *, at: At = "latest") -> int:
        """Units drawn for a miner in the current round; 0 before the seed."""
        return int(self._look(at, "unitsOf", miner))

    def jury(self, *, at: At = "latest") -> tuple[Address, ...]:
        """The current round's jury; empty before the draw."""
        return tuple(Address(one) for one in self._look(at, "jury"))

    def reported_by(self, juror: Address, *, at: At = "latest") -> tuple[UnitId, ...]:
        """Units of the current round of which a juror has said that their data is not to be had."""
        return tuple(UnitId(one) for one in self._look(at, "reportedBy", juror))

    def extension(self, *, at: At = "latest") -> tuple[Height, Wei]:
        """From which height and above which base fee `extend` is taken; height 0: the phase is extended no more."""
        first, above = self._look(at, "extension")
        return Height(first), Wei(above)

    def acknowledged_by(self, round_: RoundIndex | int, juror: Address, *, at: At = "latest") -> int | None:
        """The candidate a juror acknowledged in a round."""
        number = int(self._look(at, "acknowledgedBy", round_, juror))
        return number - 1 if number else None

    def candidates(self, round_: RoundIndex | int, *, at: At = "latest") -> tuple[CandidateView, ...]:
        listed: tuple[CandidateView, ...] = self._read(tuple[CandidateView, ...], at, "candidates", round_)
        return listed

    def member_of(self, account: Address, *, at: At = "latest") -> MemberView:
        member: MemberView = self._read(MemberView, at, "memberOf", account)
        return member

    def participants(self, *, at: At = "latest") -> tuple[Participant, ...]:
        """All seats, miners first."""
        seated: tuple[Participant, ...] = self._read(tuple[Participant, ...], at, "participants")
        return seated

    def claimable(
        self, account: Address, first: RoundIndex | int, end: RoundIndex | int, *, at: At = "latest"
    ) -> tuple[Claimable, ...]:
        """The account's entries of rounds first <= r < end that still hold something.

        Asked in pages: a node answers a call only up to a limit of gas, and a run may have any number of rounds.
        """
        entries: list[Claimable] = []
        for start in range(int(first), int(end), CLAIMABLE_PAGE_ROUNDS):
            until = min(start + CLAIMABLE_PAGE_ROUNDS, int(end))
            entries += self._read(tuple[Claimable, ...], at, "claimable", account, start, until)
        return tuple(entries)

    def finality(self, *, at: At = "latest") -> Finality:
        """Which rounds are final, and which are void."""
        settled, settling, voids = self._look(at, "finality")
        return Finality(
            settled=RoundIndex(settled),
            settling=RoundIndex(settling),
            voids=tuple((RoundIndex(first), RoundIndex(last)) for first, last in voids),
        )

    def subject_of(self, round_: RoundIndex | int, candidate: int, *, at: At = "latest") -> bytes:
        """What the court calls a merge candidate."""
        return bytes(self._look(at, "subjectOf", round_, candidate))

    def court(self, *, at: At = "latest") -> Address:
        """The court whose judgements the run carries out; address zero where there is none."""
        return Address(self._run._ask(at, "court"))

    def claim_rules(self, *, at: At = "latest") -> Rules:
        """What every claim of the run is measured by."""
        rules: Rules = make_reader(Rules)(self._run._ask(at, "claimRules"))
        return rules

    def claim_of(self, subject: bytes, *, at: At = "latest") -> PostedClaim:
        """What was put before the court under this name."""
        claim: PostedClaim = make_reader(PostedClaim)(self._run._ask(at, "claimOf", subject))
        return claim

    def merge_inputs(self, subject: bytes, *, at: At = "latest") -> tuple[Root, ...]:
        """The states that a presented merge candidate averages."""
        return tuple(Root(one) for one in self._run._ask(at, "mergeInputs", subject))

    def burn_owed(self, *, at: At = "latest") -> Wei:
        """Wei burned and not yet sent away."""
        return Wei(self._run._ask(at, "burnOwed"))

    # Events

    def get_events(
        self, kind: type[E_], *, first_block: Height | int, last_block: Height | int | None = None
    ) -> list[E_]:
        """Events of one kind, in order; `last_block` None: up to the head."""
        topic = self._run._abi.events[kind.__name__].topic
        logs = self._client.get_logs(
            address=self.address, topics=[[topic]], first_block=first_block, last_block=last_block
        )
        return [_read_event(kind, log) for log in logs]

    def get_all_events(self, *, first_block: Height | int, last_block: Height | int | None = None) -> list[Event]:
        """Every event of the run, in order."""
        logs = self._client.get_logs(address=self.address, first_block=first_block, last_block=last_block)
        return self.read_events(logs)

    def read_events(self, logs: Sequence[Log] | Any) -> list[Event]:
        """The run's own events among these logs, as of a receipt."""
        kinds = {self._run._abi.events[kind.__name__].topic: kind for kind in RUN_EVENTS}
        return [
            _read_event(kinds[log.topics[0]], log)
            for log in logs
            if log.address == self.address and log.topics and log.topics[0] in kinds
        ]


def _read_event(kind: type[E_], log: Log) -> E_:
    values = load_abi("Run").events[kind.__name__].decode(log)
    common = {one.name for one in dataclasses.fields(Event)}
    declared: Any = kind
    own = [(name, annotation) for name, annotation in get_fields(declared) if name not in common]
    fields = {name: make_reader(annotation)(value) for (name, annotation), value in zip(own, values, strict=True)}
    return kind(block_number=log.block_number, position=log.position, transaction_hash=log.transaction_hash, **fields)


def _make_unit(said: Committed, state: UnitState) -> UnitView:
    return UnitView(
        unit_id=said.unit_id,
        round=said.round,
        miner=said.miner,
        index=said.index,
        status=state.status,
        opened=state.opened,
        root=said.root,
        contribution=said.contribution,
        cid=make_cid(said.codec, said.digest),
        verifiers=state.verifiers,
        sealed_mask=state.sealed_mask,
        revealed_mask=state.revealed_mask,
        agreed_mask=state.agreed_mask,
    )


class TokenContract(_Contract):
    """The run's ERC-20."""

    def __init__(self, client: ChainClient, address: Address) -> None:
        super().__init__(client, address, load_abi("Token"))

    def name(self, *, at: At = "latest") -> str:
        return str(self._ask(at, "name"))

    def symbol(self, *, at: At = "latest") -> str:
        return str(self._ask(at, "symbol"))

    def decimals(self, *, at: At = "latest") -> int:
        return int(self._ask(at, "decimals"))

    def total_supply(self, *, at: At = "latest") -> int:
        return int(self._ask(at, "totalSupply"))

    def balance_of(self, account: Address, *, at: At = "latest") -> int:
        return int(self._ask(at, "balanceOf", account))

    def allowance(self, owner: Address, spender: Address, *, at: At = "latest") -> int:
        return int(self._ask(at, "allowance", owner, spender))

    def run(self, *, at: At = "latest") -> Address:
        """The run that alone mints."""
        return Address(self._ask(at, "run"))

    def transfer(self, to: Address, amount: int) -> Receipt:
        return self._send("transfer", to, amount)

    def approve(self, spender: Address, amount: int) -> Receipt:
        return self._send("approve", spender, amount)

    def transfer_from(self, owner: Address, to: Address, amount: int) -> Receipt:
        return self._send("transferFrom", owner, to, amount)

    def mint(self, account: Address, amount: int) -> Receipt:
        """Refused to everybody but the run."""
        return self._send("mint", account, amount)


class BeaconContract(_Contract):
    """Randomness of fixed heights; `record_header` is `PrevrandaoBeacon`'s alone."""

    def __init__(self, client: ChainClient, address: Address) -> None:
        super().__init__(client, address, load_abi("PrevrandaoBeacon"))

    def value_at(self, height: Height | int, *, at: At = "latest") -> Seed | None:
        """The value of a height, once it is known here."""
        value, known = self._ask(at, "valueAt", height)
        return Seed(value) if known else None

    def record(self) -> Receipt:
        """Record the value of the block this lands in."""
        return self._send("record")

    def record_header(self, header: bytes) -> Receipt:
        """Record the value in the RLP header of one of the last 256 blocks."""
        return self._send("recordHeader", header)


def compute_seal(unit_id: UnitId, verifier: Address, answers: Sequence[Answer], salt: Salt) -> bytes:
    """keccak256(abi.encode(unitId, verifier, answers, salt)): what `seal` posts and `reveal` must match."""
    written = write_value(answers, Sequence[Answer])
    return keccak256(
        abi_encode(["bytes32", "address", "(bytes32,bytes4,bytes4)[]", "bytes32"], [unit_id, verifier, written, salt])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where a new run is."""

    run: Address
    lens: Address
    token: Address
    beacon: Address
    court: Address
    """Zero: it has none."""
    block: Height
    """The block that created it: nothing of it is earlier."""
    creation: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the transactions that created `run` and, where they are known, `beacon` and `court`."""


def deploy_run(
    client: ChainClient,
    parameters: Parameters,
    *,
    beacon: Address | None = None,
    lens: Address | None = None,
    token_name: str = "Cupel",
    token_symbol: str = "CUP",
) -> Deployment:
    """Create a run with its token.

    beacon   None, and none in the parameters: a new `PrevrandaoBeacon` first
    lens     None: a new one first; it knows nothing of its own and serves any number of runs

    Raises   ContractReverted: ParameterOutOfRange says which parameter and its bounds
    """
    creation: dict[str, str] = {}
    chosen = beacon or (parameters.beacon if parameters.beacon != ZERO_ADDRESS else None)
    if chosen is None:
        chosen, created = client.deploy(load_abi("PrevrandaoBeacon").bind_deployment())
        creation["beacon"] = f"0x{created.transaction_hash.hex()}"
    if lens is None:
        lens, _ = client.deploy(load_abi("RunLens").bind_deployment())
    written = write_value(dataclasses.replace(parameters, beacon=chosen), Parameters)
    rules, _ = client.deploy(load_abi("RunRules").bind_deployment(written))
    call = load_abi("Run").bind_deployment(written, rules, lens, token_name, token_symbol)
    address, receipt = client.deploy(call)
    token = RunContract(client, address).token()
    creation["run"] = f"0x{receipt.transaction_hash.hex()}"
    return Deployment(
        run=address,
        lens=lens,
        token=token,
        beacon=chosen,
        court=parameters.court,
        block=receipt.block_number,
        creation=creation,
    )


def deploy_scripted_beacon(client: ChainClient, seed: bytes) -> Address:
    """A beacon whose values follow from `seed`: for tests that repeat a run root for root."""
    if len(seed) != 32:
        raise MalformedInput(f"a beacon's seed is 32 bytes, not {len(seed)}")
    address, _ = client.deploy(load_abi("ScriptedBeacon").bind_deployment(seed))
    return address


__all__ = [
    "Answer",
    "Assignment",
    "BeaconContract",
    "CandidateView",
    "Claimable",
    "Commitment",
    "Current",
    "Deployment",
    "Event",
    "MemberView",
    "Opened",
    "Parameters",
    "Participant",
    "Phase",
    "Role",
    "RoundView",
    "RunContract",
    "Status",
    "TokenContract",
    "UnitName",
    "UnitState",
    "UnitView",
    "compute_seal",
    "deploy_run",
    "deploy_scripted_beacon",
]
