"""A run on py-evm, in this process: the shipped artifacts, accounts, and honest work to play whole rounds with.

Every transaction is a block of its own, so that heights are easy to count. What is refused raises `Refused` with the
error's name and numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from eth.abc import MiningChainAPI
from eth.db.atomic import AtomicDB
from eth.db.backends.memory import MemoryDB
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import encode as abi_encode
from eth_keys import keys
from eth_tester import EthereumTester, PyEVMBackend  # type: ignore[attr-defined]
from eth_utils import to_canonical_address, to_checksum_address

from cupel.chain.abi import ContractAbi, load_abi
from cupel.chain.values import Log
from cupel.protocol.hashing import (
    checkpoint_leaf,
    contribution_leaf,
    evidence,
    keccak256,
    proof_of_several,
    tree_root,
    unit_id,
)
from cupel.protocol.types import Address, RoundIndex, Salt, UnitId

ETH = 10**18
ZERO = bytes(32)
GAS = 16_700_000
"""What any transaction may use: below 2^24, the limit of EIP-7825."""
CALL_GAS = 29_000_000
WAITING, SEED, TRAIN, DRAW, SEAL, OPEN, MERGE, ACKNOWLEDGE, ENDED = range(9)
COMMITTED, REJECTED, DISPUTED, UNVERIFIED, ATTESTED, OPENED, UNAVAILABLE, DISCLOSED, CONVICTED, ABANDONED = range(1, 11)
NO_ROLE, MINER, VERIFIER = range(3)
NOWHERE = Address("")
BURN = "0x000000000000000000000000000000000000dEaD"


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


GENESIS = sha("genesis")
PARAMETERS: dict[str, Any] = {
    "programsRoot": sha("programs"),
    "dataRoot": sha("data"),
    "shards": 3,
    "shardTokens": 3000,
    "genesisRoot": GENESIS,
    "genesis": (0x70, sha("genesis cid")),
    "manifest": (0x55, sha("manifest cid")),
    "segments": 5,
    "segmentSteps": 10,
    "maxUnitsPerMiner": 4,
    "maxUnits": 16,
    "maxMerge": 8,
    "minMiners": 2,
    "maxMiners": 8,
    "minVerifiers": 3,
    "maxVerifiers": 8,
    "verifiersPerUnit": 3,
    "segmentsPerVerifier": 2,
    "replayBps": 0,
    "quorum": 2,
    "juryTarget": 3,
    "unitBond": ETH,
    "slotStake": 2 * ETH,
    "unavailableFee": ETH // 2,
    "sealFee": ETH // 10,
    "mergeBond": ETH // 4,
    "beaconDelay": 2,
    "trainBlocks": 30,
    "sealBlocks": 30,
    "openBlocks": 40,
    "mergeBlocks": 20,
    "acknowledgeBlocks": 15,
    "maturityBlocks": 50,
    "windowBlocks": 200,
    "exitBlocks": 60,
    "initialReward": 1_000_000 * ETH,
    "halvingRounds": 2,
    "workTarget": 2,
    "verifierShareBps": 2000,
    "mergeShareBps": 500,
    "beacon": "0x" + "00" * 20,
    "court": "0x" + "00" * 20,
}


class Refused(Exception):
    """A transaction or a call reverted."""

    def __init__(self, name: str, numbers: dict[str, Any]) -> None:
        super().__init__(f"{name} {numbers}")
        self.name, self.numbers = name, numbers

    def must_be(self, *names: str) -> None:
        """Raises AssertionError unless it is one of these."""
        if self.name not in names:
            raise AssertionError(f"expected {' or '.join(names)}") from self


@dataclass(frozen=True, slots=True)
class Account:
    key: keys.PrivateKey

    @property
    def address(self) -> Address:
        return Address(self.key.public_key.to_checksum_address())


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    gas: int
    contract: Address | None
    events: tuple[tuple[str, dict[str, Any]], ...]
    """Names and arguments of the run's events."""

    def named(self, name: str) -> list[dict[str, Any]]:
        return [arguments for event, arguments in self.events if event == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a miner has of one unit: states that are made up, committed as docs/design/roots.md says."""

    unit: UnitId
    start: bytes
    ends: tuple[bytes, ...]
    losses: tuple[bytes, ...]
    norms: tuple[bytes, ...]
    salts: tuple[bytes, ...]
    contribution: bytes

    @classmethod
    def honest(cls, unit: UnitId, start: bytes, segments: int) -> Work:
        """The one right result of a unit: whoever computes it gets the same, but for the salts."""
        name = unit.hex()
        ends = tuple(sha(f"end {name} {j}") for j in range(segments))
        return cls(
            unit=unit,
            start=start,
            ends=ends,
            losses=tuple(sha(f"loss {name} {j}")[:4] for j in range(segments)),
            norms=tuple(sha(f"norm {name} {j}")[:4] for j in range(segments)),
            salts=tuple(sha(f"salt {name} {j}") for j in range(segments)),
            contribution=ends[-1],
        )

    @property
    def leaves(self) -> list[bytes]:
        checkpoints = [
            checkpoint_leaf(end, evidence(loss, norm, Salt(salt)))
            for end, loss, norm, salt in zip(self.ends, self.losses, self.norms, self.salts, strict=True)
        ]
        return [checkpoint_leaf(self.start, ZERO), *checkpoints, contribution_leaf(self.contribution)]

    @property
    def root(self) -> bytes:
        return tree_root(self.leaves)

    def answers(self, segments: Iterable[int]) -> list[tuple[bytes, bytes, bytes]]:
        return [(self.ends[j], self.losses[j], self.norms[j]) for j in segments]

    @property
    def cid(self) -> tuple[int, bytes]:
        """Where the unit's states are said to be."""
        return 0x70, sha(f"cid {self.root.hex()}")

    @property
    def commitment(self) -> tuple[Any, ...]:
        return self.root, self.contribution, self.cid

    def opened(self, segments: Iterable[int]) -> list[tuple[Any, ...]]:
        return [(j, self.answers([j])[0], self.salts[j]) for j in sorted(segments)]

    def proof(self, segments: Iterable[int]) -> list[bytes]:
        """Of these segments' leaves with the first and the last leaf of the tree."""
        leaves = self.leaves
        return proof_of_several(leaves, [0, *(j + 1 for j in sorted(segments)), len(leaves) - 1])


def spoil(work: Work, segment: int) -> Work:
    """The same work with another end of one segment, and so another everything after it."""
    ends = tuple(end if j < segment else sha(f"wrong {end.hex()}") for j, end in enumerate(work.ends))
    return dataclasses.replace(work, ends=ends, contribution=ends[-1])


def compute_seal(unit: bytes, verifier: str, answers: Sequence[tuple[bytes, bytes, bytes]], salt: bytes) -> bytes:
    kinds = ["bytes32", "address", "(bytes32,bytes4,bytes4)[]", "bytes32"]
    return keccak256(abi_encode(kinds, [unit, verifier, answers, salt]))


def _as_object(parameter: Any, value: Any) -> Any:
    """Structs as dictionaries, in lists too."""
    kind = parameter["type"]
    if kind.endswith("]"):
        return [_as_object({**parameter, "type": kind[: kind.rindex("[")]}, one) for one in value]
    if kind == "tuple":
        return {m["name"]: _as_object(m, v) for m, v in zip(parameter["components"], value, strict=True)}
    return value


@dataclass
class World:
    """A chain with a run on it."""

    chain: MiningChainAPI
    accounts: list[Account]
    deployer: Account
    parameters: dict[str, Any]
    beacon: Address = NOWHERE
    lens: Address = NOWHERE
    rules: Address = NOWHERE
    run: Address = NOWHERE
    token: Address = NOWHERE
    branch: str = ""
    """Of which of several forks the beacon's values are."""
    gas_of: dict[str, list[int]] = field(default_factory=dict)
    """Gas of every transaction that went through, by function."""
    committed: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    """By unit id, in order, what the `Committed` events say."""
    _asked: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _asked_at: int = -1
    """Height of the head they were given at."""

    # ---------------------------------------------------------------- chain

    @property
    def height(self) -> int:
        return self.chain.get_canonical_head().block_number

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.chain.mine_block()
            self._set_prevrandao()

    def _set_prevrandao(self) -> None:
        """py-evm leaves it at zero in blocks that are being made; a real chain never does."""
        header = self.chain.header
        mix = sha(f"prevrandao {self.branch}{header.block_number}")
        self.chain.header = header.copy(mix_hash=mix)

    def mine_to(self, height: int) -> None:
        """So that the next transaction is in block `height`."""
        assert height > self.height, f"block {height} is past: the head is {self.height}"
        self.mine(height - 1 - self.height)

    def fork(self, branch: str | None = None) -> World:
        """The same world, going its own way from here; a `branch` has beacon values of its own, as after a re-org."""
        stored = self.chain.chaindb.db.wrapped_db.kv_store  # type: ignore[attr-defined]
        chain = type(self.chain)(AtomicDB(MemoryDB(dict(stored))))
        named = self.branch if branch is None else branch
        forked = dataclasses.replace(
            self, chain=chain, gas_of={}, branch=named, _asked_at=-1, committed=dict(self.committed)
        )
        forked._set_prevrandao()
        return forked

    def balance(self, address: str) -> int:
        return self.chain.get_vm().state.get_balance(to_canonical_address(address))

    def send_raw(self, account: Account, to: str, data: bytes, value: int = 0) -> tuple[Any, Any]:
        """In a block of its own. Returns receipt and computation."""
        vm = self.chain.get_vm()
        price = 10**10
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(to_canonical_address(account.address)),
            gas_price=price,
            gas=GAS,
            to=to_canonical_address(to) if to else b"",
            value=value,
            data=data,
        )
        signed = unsigned.as_signed_transaction(account.key, chain_id=self.chain.chain_id)  # type: ignore[call-arg]
        _, receipt, computation = self.chain.apply_transaction(signed)
        self.mine()
        return receipt, computation

    def deploy(self, name: str, *arguments: Any) -> Address:
        call = load_abi(name).bind_deployment(*arguments)
        receipt, computation = self.send_raw(self.deployer, "", call.data)
        _check(computation, load_abi(name))
        self.gas_of.setdefault(f"deploy {name}", []).append(receipt.gas_used)
        return Address(to_checksum_address(computation.msg.storage_address))

    def call_contract(self, name: str, address: str, function: str, *arguments: Any) -> Any:
        """Ask in the block to come."""
        call = load_abi(name).bind(Address(address), function, *arguments)
        vm = self.chain.get_vm()
        sender = to_canonical_address(self.deployer.address)
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(sender),
            gas_price=10**10,
            gas=CALL_GAS,
            to=to_canonical_address(address),
            value=0,
            data=call.data,
        )
        # This machine's state is its own: nothing of it is kept.
        computation = vm.state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        _check(computation, load_abi(name))
        values = call.function.decode(computation.output)
        objects = [_as_object(kind, value) for kind, value in zip(call.function.outputs, values, strict=True)]
        return objects[0] if len(objects) == 1 else objects

    # ---------------------------------------------------------------- run

    def send(self, account: Account, function: str, *arguments: Any, value: int = 0) -> Receipt:
        abi = load_abi("Run")
        call = abi.bind(self.run, function, *arguments)
        receipt, computation = self.send_raw(account, self.run, call.data, value)
        _check(computation, abi)
        gas = receipt.gas_used
        self.gas_of.setdefault(function, []).append(gas)
        events = tuple(_read_logs(abi, receipt))
        self.committed |= {one["unitId"]: one for name, one in events if name == "Committed"}
        return Receipt(gas=gas, contract=None, events=events)

    def ask(self, function: str, *arguments: Any) -> Any:
        """The lens, or the run for what is its own. Asked once a block: py-evm takes its time."""
        if self._asked_at != self.height:
            self._asked, self._asked_at = {}, self.height
        key = (function, *arguments)
        if key not in self._asked:
            if function in ("getUnit", "getUnits", "mergeSet"):
                answer = getattr(self, f"_{function}")(*arguments)
            elif function in load_abi("RunLens").functions:
                answer = self.call_contract("RunLens", self.lens, function, self.run, *arguments)
            else:
                answer = self.call_contract("Run", self.run, function, *arguments)
            self._asked[key] = answer
        return copy.deepcopy(self._asked[key])

    def _getUnits(self, round_: int) -> list[dict[str, Any]]:
        """A round's units, with what the events say: in the order of their commits."""
        self.ask("getRound", round_)
        return self._units([unit for unit, one in self.committed.items() if one["round"] == round_])

    def _getUnit(self, unit: bytes) -> dict[str, Any]:
        return self._units([unit])[0]

    def _units(self, units: list[bytes]) -> list[dict[str, Any]]:
        states = self.ask("getUnitStates", tuple(units))
        said = [self.committed[unit] for unit in units]
        cids = [{"codec": one["codec"], "digest": one["digest"]} for one in said]
        return [one | state | {"cid": cid} for one, state, cid in zip(said, states, cids, strict=True)]

    def _mergeSet(self, round_: int) -> list[bytes]:
        attested = [unit["unitId"] for unit in self.ask("getUnits", round_) if unit["status"] == ATTESTED]
        return sorted(attested)[: self.parameters["maxMerge"]]

    def assigned_segments(self, unit: bytes, verifier: str) -> list[int]:
        return list(self.ask("assignedSegments", self.committed[unit]["round"], unit, verifier))

    def ask_token(self, function: str, *arguments: Any) -> Any:
        return self.call_contract("Token", self.token, function, *arguments)

    @property
    def phase(self) -> int:
        return int(self.ask("current")["phase"])

    @property
    def round(self) -> int:
        return int(self.ask("currentRound"))

    @property
    def seed(self) -> bytes:
        """The current round's, zero before it is drawn; `draw_seed` likewise."""
        return bytes(self.ask("getRound", self.round)["seed"])

    @property
    def draw_seed(self) -> bytes:
        return bytes(self.ask("getRound", self.round)["drawSeed"])

    def advance(self) -> Receipt:
        return self.send(self.deployer, "advance")

    def pass_phase(self) -> None:
        """Mine until the phase is over, and advance in the first block after it."""
        current = self.ask("current")
        first = current["until"] + (0 if current["phase"] in (SEED, DRAW) else 1)
        if first > self.height + 1:
            self.mine_to(first)
        self.advance()

    def pass_to(self, phase: int) -> None:
        for _ in range(12):
            if self.phase == phase:
                return
            self.pass_phase()
        raise AssertionError(f"phase {phase} is not reached: {self.ask('current')}")

    def seat(self, miners: Sequence[Account], verifiers: Sequence[Account], units: int = 1) -> None:
        for miner in miners:
            self.send(miner, "joinMiner", units, f"http://{miner.address}", value=20 * ETH)
        for verifier in verifiers:
            self.send(verifier, "stake", f"http://{verifier.address}", value=20 * ETH)

    # ---------------------------------------------------------------- work

    def unit_id(self, miner: Account, index: int = 0, round_: int | None = None) -> UnitId:
        number = RoundIndex(self.round if round_ is None else round_)
        return unit_id(self.chain.chain_id, self.run, number, miner.address, index)

    def honest_work(self, miner: Account, index: int = 0) -> Work:
        start, _ = self.ask("getState", self.round)
        return Work.honest(self.unit_id(miner, index), start, self.parameters["segments"])

    def commit(self, miner: Account, work: Work, index: int = 0) -> Receipt:
        return self.send(miner, "commit", self.seed, index, *work.commitment)

    def seal(
        self, verifier: Account, works: dict[bytes, Work], judge: Callable[[Work], Work] = lambda work: work
    ) -> Receipt:
        """Seal what of `works` the verifier was drawn for; `judge` makes of a unit's work what it answers."""
        units, seals = [], []
        for unit, answers, salt in self._answers(verifier, works, judge):
            units.append(unit)
            seals.append(compute_seal(unit, verifier.address, answers, salt))
        return self.send(verifier, "seal", self.draw_seed, units, seals)

    def reveal(
        self, verifier: Account, works: dict[bytes, Work], judge: Callable[[Work], Work] = lambda work: work
    ) -> Receipt:
        units, answers, salts = zip(*self._answers(verifier, works, judge), strict=True)
        return self.send(verifier, "reveal", self.round, units, answers, salts)

    def _answers(
        self, verifier: Account, works: dict[bytes, Work], judge: Callable[[Work], Work]
    ) -> list[tuple[bytes, list[tuple[bytes, bytes, bytes]], bytes]]:
        return [
            (
                one["unitId"],
                judge(works[one["unitId"]]).answers(one["segments"]),
                sha(f"salt {verifier.address} {one['unitId'].hex()}"),
            )
            for one in self.ask("assignmentsOf", self.round, verifier.address)
            if one["unitId"] in works
        ]

    def drawn_segments(self, unit: bytes) -> set[int]:
        """What the miner has to open: every drawn segment and the last."""
        verifiers = self.ask("assignedVerifiers", unit)
        drawn = {j for verifier in verifiers for j in self.assigned_segments(unit, verifier)}
        return drawn | {self.parameters["segments"] - 1}

    def open(self, miner: Account, work: Work, index: int = 0) -> Receipt:
        drawn = self.drawn_segments(work.unit)
        return self.send(miner, "open", self.round, index, work.commitment, work.opened(drawn), work.proof(drawn))

    def claim(self, account: Account, *rounds: int) -> Receipt:
        return self.send(account, "claim", list(rounds))

    # ---------------------------------------------------------------- whole phases, honestly

    def play_commits(self, miners: Sequence[Account]) -> dict[bytes, Work]:
        """Everybody commits every drawn unit. Returns the work by unit id."""
        works: dict[bytes, Work] = {}
        for miner in miners:
            for index in range(self.ask("unitsOf", miner.address)):
                work = self.honest_work(miner, index)
                self.commit(miner, work, index)
                works[work.unit] = work
        return works

    def play_opens(self, miners: Sequence[Account], works: dict[bytes, Work]) -> None:
        for unit in self.ask("getUnits", self.round):
            for miner in miners:
                if miner.address == unit["miner"]:
                    self.open(miner, works[unit["unitId"]], unit["index"])

    def play_merge(self, proposer: Account, verifiers: Sequence[Account]) -> bytes:
        """The proposer proposes, the jury acknowledges. Returns the next state root."""
        root = sha(f"merge {self.round} {[one.hex() for one in self.ask('mergeSet', self.round)]}")
        cid = (0x55, sha(f"cid {root.hex()}"))
        self.send(proposer, "proposeMerge", self.draw_seed, root, cid)
        jury = self.ask("jury")
        for verifier in verifiers:
            if verifier.address in jury and not self.ask("getRound", self.round)["merged"]:
                self.send(verifier, "acknowledge", self.draw_seed, 0, root, cid)
        return root

    def play_to_merge(self, miners: Sequence[Account], verifiers: Sequence[Account]) -> dict[bytes, Work]:
        """From seats taken to the merge phase, everybody honest."""
        self.pass_to(TRAIN)
        works = self.play_commits(miners)
        self.pass_to(SEAL)
        for verifier in verifiers:
            self.seal(verifier, works)
        self.pass_to(OPEN)
        for verifier in verifiers:
            self.reveal(verifier, works)
        self.play_opens(miners, works)
        self.pass_to(MERGE)
        return works

    def play_round(self, miners: Sequence[Account], verifiers: Sequence[Account]) -> bytes:
        """A whole honest round; the next one is open afterwards. Returns its start state."""
        round_ = self.round
        self.play_to_merge(miners, verifiers)
        root = self.play_merge(miners[0], verifiers)
        self.pass_phase()
        assert self.round == round_ + 1
        return root

    # ---------------------------------------------------------------- what must always hold

    def check_solvent(self) -> None:
        """Balance = deposits + what is owed to the fire; nobody has more locked than deposited."""
        views = [self.ask("memberOf", account.address) for account in self.accounts]
        assert self.balance(self.run) == sum(view["deposit"] for view in views) + self.ask("burnOwed")
        assert all(view["locked"] <= view["deposit"] for view in views)


def _check(computation: Any, abi: ContractAbi) -> None:
    if computation.is_error:
        data = computation.error.args[0] if computation.error.args else b""
        if isinstance(data, bytes):
            raise Refused(*abi.decode_error(data))
        raise Refused("Failed", {"reason": repr(computation.error)})


def _read_logs(abi: ContractAbi, receipt: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    by_topic = {event.topic: event for event in abi.events.values()}
    for entry in receipt.logs:
        topics = tuple(topic.to_bytes(32, "big") for topic in entry.topics)
        event = by_topic.get(topics[0])
        if event is None:
            continue
        log = _make_log(topics, entry)
        yield event.name, dict(zip((one["name"] for one in event.inputs), event.decode(log), strict=True))


def _make_log(topics: tuple[bytes, ...], entry: Any) -> Log:
    known = {"topics": topics, "data": entry.data, "address": Address(to_checksum_address(entry.address))}
    defaults: dict[str, Any] = {one.name: b"" if "hash" in one.name else 0 for one in dataclasses.fields(Log)}
    return Log(**{**defaults, **known})


def make_world(*, accounts: int = 12, scripted: bool = True, base: World | None = None, **overrides: Any) -> World:
    """Deploy beacon, lens and run. `overrides` replace PARAMETERS.

    base   a world to deploy them in, with its accounts; else an empty one

    Raises   Refused: the constructor reverted
    """
    base = base or empty_world(accounts)
    world = dataclasses.replace(base.fork(), parameters={**PARAMETERS, **overrides})
    unknown = set(overrides) - set(PARAMETERS)
    assert not unknown, f"no such parameters: {unknown}"
    world.beacon = world.deploy("ScriptedBeacon", sha("script")) if scripted else world.deploy("PrevrandaoBeacon")
    if "beacon" not in overrides:
        world.parameters["beacon"] = world.beacon
    given = tuple(world.parameters.values())
    world.rules = world.deploy("RunRules", given)
    world.run = world.deploy("Run", given, world.rules, world.lens, "Test run", "TEST")
    world.token = world.ask("token")
    return world


@cache
def empty_world(accounts: int) -> World:
    """Accounts with funds, and the lens: it serves any run."""
    people = [Account(keys.PrivateKey(number.to_bytes(32, "big"))) for number in range(1, accounts + 2)]
    state = {
        person.key.public_key.to_canonical_address(): {
            "balance": 10_000 * ETH,
            "nonce": 0,
            "code": b"",
            "storage": {},
        }
        for person in people
    }
    tester = EthereumTester(PyEVMBackend(genesis_state=state), auto_mine_transactions=False)
    world = World(chain=tester.backend.chain, accounts=people[:-1], deployer=people[-1], parameters={})
    world._set_prevrandao()
    world.lens = world.deploy("RunLens")
    return world


# A standard cast, played once up to each phase; tests go on from forks of it.


@dataclass(frozen=True, slots=True)
class Stage:
    """Two miners with a unit each and three verifiers, in round 0."""

    world: World
    miners: list[Account]
    verifiers: list[Account]
    outsider: Account
    works: dict[bytes, Work]
    """Honest work by unit id; what has been committed, if it has been."""

    def work_of(self, miner: Account) -> Work:
        return self.works[self.world.unit_id(miner, 0, 0)]

    def refused(self, name: str, act: Callable[[], Any]) -> dict[str, Any]:
        """`act` must be refused with this error; returns its numbers."""
        try:
            act()
        except Refused as refused:
            refused.must_be(name)
            return refused.numbers
        raise AssertionError(f"expected {name}, but it went through")


def stage_at(phase: int) -> Stage:
    """The cast at the beginning of a phase of round 0, everybody honest so far."""
    world, works = _played_to(phase)
    fork = world.fork()
    return Stage(fork, fork.accounts[:2], fork.accounts[2:5], fork.accounts[5], dict(works))


@cache
def _played_to(phase: int) -> tuple[World, dict[bytes, Work]]:
    if phase == WAITING:
        return make_world(), {}
    before = stage_at(phase - 1)
    world, works = before.world, before.works
    if phase == SEED:
        world.seat(before.miners, before.verifiers)
    elif phase == DRAW:
        works = world.play_commits(before.miners)
    elif phase == OPEN:
        for verifier in before.verifiers:
            world.seal(verifier, works)
    elif phase == MERGE:
        for verifier in before.verifiers:
            world.reveal(verifier, works)
        world.play_opens(before.miners, works)
    elif phase == ACKNOWLEDGE:
        world.send(before.miners[0], "proposeMerge", world.draw_seed, sha("merged"), (0x55, sha("merged cid")))
    if phase != SEED:
        world.pass_to(phase)
    assert world.phase == phase
    return world, works
