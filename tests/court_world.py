"""A court on py-evm, with a docket of claims posted before it, and a small real training step to dispute.

The shipped Court, Clerk and Evaluator; the docket (contracts/tests/Docket.sol) stands for a run. Two steps a segment,
two segments a unit; a step trains a table and a matrix on tokens with a product, a softmax and an update.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from contract_world import ETH, Account, Receipt, Refused, World, _check, _read_logs, empty_world
from eth.vm.spoof import SpoofTransaction
from eth_utils import to_canonical_address, to_checksum_address

from cupel.chain.abi import ContractAbi, load_abi
from cupel.protocol import merkle
from cupel.protocol.disputes import Prover
from cupel.protocol.disputes.game import Challenge, DataHeld, Defence, SegmentHeld, StepHeld
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import checkpoint_leaf, contribution_leaf, evidence, leaf_hash, proof, tree_root
from cupel.protocol.merkle import tensor_bytes, tensor_root
from cupel.protocol.proceedings import Move, Position, Stage, announcement
from cupel.protocol.program import Program, run, trace
from cupel.protocol.program.traces import Trace, recompute
from cupel.protocol.sampling import batch_positions
from cupel.protocol.types import Address, Salt, Seed, UnitId

CLOCK, GRACE = 60, 8
MINIMUM_BOND = ETH // 10
DEFENCE_GAS = 10_000_000
UNIT_BOND = 4 * ETH
WINDOW = 300
SEGMENTS, STEPS = 2, 2
SHARDS, SHARD_TOKENS, SEQUENCES, LENGTH = 3, 3000, 2, 5
VOCABULARY, WIDTH = 16, 40
SEED = Seed(hashlib.sha256(b"seed of the round").digest())
UNIT = UnitId(hashlib.sha256(b"unit").digest())
MERGE = hashlib.sha256(b"merge").digest()
DOCKET = json.loads((Path(__file__).parent / "vectors" / "docket.json").read_text())
State = Mapping[str, torch.Tensor]


# ---------------------------------------------------------------- what is computed


def train(state: Any, tokens: torch.Tensor) -> Any:
    """A language model of one matrix, and one step of descent with momentum."""
    table = state["weights"]["table"].detach().requires_grad_()
    out = state["weights"]["out"].detach().requires_grad_()
    hidden = table[tokens[:, :-1].long()]
    logits = hidden @ out
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1).long())
    gradients = torch.autograd.grad(loss, [table, out])
    norm = torch.sqrt(sum((g * g).sum() for g in gradients))
    following: Any = {"weights": {}, "momentum": {}, "step": state["step"] + 1, "rate": state["rate"]}
    for name, weight, gradient in zip(("table", "out"), (table, out), gradients, strict=True):
        momentum = state["momentum"][name] * 0.9 + gradient
        following["momentum"][name] = momentum
        following["weights"][name] = (weight - momentum * state["rate"]).detach()
    return following, {"loss": loss.detach(), "grad_norm": norm}


def average(states: Sequence[Any]) -> Any:
    def combine(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: combine([value[name] for value in values]) for name in values[0]}
        if not values[0].is_floating_point():
            return values[0]
        return torch.stack(list(values), dim=-1).sum(dim=-1) / float(len(values))

    return combine(states)


def nest(flat: State) -> Any:
    nested: Any = {}
    for name, tensor in flat.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = tensor
    return nested


def flatten(nested: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    flat: dict[str, torch.Tensor] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def roots_of(state: State) -> dict[str, bytes]:
    return {name: tensor_root(tensor) for name, tensor in state.items()}


@cache
def first_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {"table": (VOCABULARY, WIDTH), "out": (WIDTH, VOCABULARY)}
    weights = {f"weights.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    momentum = {f"momentum.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    return {**weights, **momentum, "step": torch.tensor(0, dtype=torch.int64), "rate": torch.tensor(0.1)}


@cache
def shards() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randint(VOCABULARY, (SHARD_TOKENS,), dtype=torch.int32, generator=generator) for _ in range(SHARDS)]


def batch(step: int) -> torch.Tensor:
    places = batch_positions(SEED, UNIT, step, SEQUENCES, SHARDS, SHARD_TOKENS, LENGTH)
    return torch.stack([shards()[shard][offset : offset + LENGTH] for shard, offset in places])


@cache
def step_program() -> Program:
    return trace(train, (nest(first_state()), batch(0)))


@cache
def merge_program(states: int) -> Program:
    return trace(average, ([nest(first_state())] * states,))


def lengthen(states: Sequence[Any]) -> Any:
    """More values than one move opens, and a tensor of more leaves."""
    x, z = states[0]["x"], states[0]["z"]
    for _ in range(1100):
        z = z * 1.5
    return {"x": -x, "z": z}


@cache
def long_state() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(1030 * 1024, dtype=torch.float32), "z": torch.tensor(1e-30)}


@cache
def long_program() -> Program:
    """Stands where the merge of one state does."""
    return trace(lengthen, ([long_state()],))


@cache
def prover_of_long() -> Prover:
    return Prover(long_program(), ([long_state()],), "torch")


@cache
def program_roots() -> list[bytes]:
    others = [hashlib.sha256(name.encode()).digest() for name in ("evaluate", "sample", "genesis")]
    return [step_program().root, *others, long_program().root, merge_program(2).root]


@cache
def states() -> list[dict[str, torch.Tensor]]:
    """Before every step of the unit, and after the last."""
    states = [first_state()]
    for index in range(SEGMENTS * STEPS):
        following, _ = run(step_program(), (nest(states[-1]), batch(index)), "torch")
        states.append(flatten(following))
    return states


@cache
def prover_of_step(index: int) -> Prover:
    return Prover(step_program(), (nest(states()[index]), batch(index)), "torch")


@cache
def prover_of_merge() -> Prover:
    return Prover(merge_program(2), ([nest(states()[2]), nest(states()[4])],), "torch")


# ---------------------------------------------------------------- what a party holds of it


@dataclass(frozen=True, kw_only=True)
class Lie:
    """What a poster says instead of the truth, in one step."""

    step: int = 0
    """Of the unit."""
    values: Mapping[int, bytes] = field(default_factory=dict)
    """Bytes of trace values."""
    after: Callable[[dict[str, bytes]], dict[str, bytes]] = dict
    """Tensor roots of the state after."""
    end_root: bytes | None = None
    """Of the state after, whatever it holds."""
    loss: bytes | None = None


@cache
def values_of(prover: Prover) -> dict[int, bytes]:
    count = len(prover.trace.trees)
    return {v: tensor_bytes(t) for v, t in recompute(prover.program, prover.inputs, range(count), "torch").items()}


def hold(prover: Prover, place: int, before: Sequence[State], lie: Lie | None) -> StepHeld:
    """The step, with what is said of it."""
    honest = values_of(prover)
    said = lie.values if lie else {}
    trees = tuple(
        tree_root([leaf_hash(said[v][i : i + 4096]) for i in range(0, len(said[v]), 4096)]) if v in said else tree
        for v, tree in enumerate(prover.trace.trees)
    )
    program = prover.program
    names = [name for name in program.output_names if place or name.startswith("0.")]
    outputs = dict(zip(program.output_names, program.graph.outputs, strict=True))
    after = {name.removeprefix("" if place else "0."): prover.trace.roots[outputs[name]] for name in names}
    return StepHeld(
        program_roots=program_roots(),
        program_place=place,
        trace=Trace(program=program, trees=trees),
        read=lambda value: said.get(value, honest[value]),
        before=[roots_of(state) for state in before],
        after=lie.after(after) if lie else after,
    )


def hold_step(index: int, lie: Lie | None = None) -> StepHeld:
    if lie is None or lie.step != index:
        return _hold_honest_step(index)
    return hold(prover_of_step(index), 0, [states()[index]], lie)


@cache
def _hold_honest_step(index: int) -> StepHeld:
    return hold(prover_of_step(index), 0, [states()[index]], None)


def hold_merge(lie: Lie | None = None) -> StepHeld:
    return hold(prover_of_merge(), 5, [states()[2], states()[4]], lie)


def hold_long(lie: Lie | None = None) -> StepHeld:
    return hold(prover_of_long(), 4, [long_state()], lie)


def end_root_of(held: StepHeld, lie: Lie | None) -> bytes:
    return lie.end_root if lie and lie.end_root else held.state_tree.root


@dataclass(frozen=True, eq=False)
class Unit:
    """A unit's commitment, honest but for one step; what follows a lie is honest from the true state."""

    lie: Lie | None = None

    def step_root(self, index: int) -> bytes:
        """After so many steps."""
        if index == 0:
            return merkle.state_root(first_state())
        lie = self.lie if self.lie and self.lie.step == index - 1 else None
        return end_root_of(hold_step(index - 1, lie), lie)

    def metrics(self, segment: int) -> tuple[bytes, bytes, Salt]:
        held = hold_step((segment + 1) * STEPS - 1)
        outputs = dict(zip(held.program.output_names, held.program.graph.outputs, strict=True))
        loss, norm = held.read(outputs["1.loss"]), held.read(outputs["1.grad_norm"])
        if self.lie and self.lie.loss and self.lie.step // STEPS == segment:
            loss = self.lie.loss
        return loss, norm, Salt(hashlib.sha256(b"salt %d" % segment).digest())

    @property
    def leaves(self) -> list[bytes]:
        checkpoints = [
            checkpoint_leaf(self.step_root((j + 1) * STEPS), evidence(*self.metrics(j))) for j in range(SEGMENTS)
        ]
        start = checkpoint_leaf(self.step_root(0), bytes(32))
        return [start, *checkpoints, contribution_leaf(self.step_root(SEGMENTS * STEPS))]

    @property
    def root(self) -> bytes:
        return tree_root(self.leaves)

    def defence(self, segment: int) -> Defence:
        leaves = self.leaves
        loss, norm, salt = self.metrics(segment)
        held = SegmentHeld(
            start_root=self.step_root(segment * STEPS),
            start_evidence=evidence(*self.metrics(segment - 1)) if segment else bytes(32),
            start_proof=proof(leaves, segment),
            end_root=self.step_root((segment + 1) * STEPS),
            loss=loss,
            gradient_norm=norm,
            salt=salt,
            end_proof=proof(leaves, segment + 1),
            inner_roots=[self.step_root(segment * STEPS + 1 + i) for i in range(STEPS - 1)],
        )
        return Defence(segment=held, hold=lambda step: hold_step(segment * STEPS + step, self.lie))


def challenge_of(segment: int) -> Challenge:
    """Of somebody who computed the segment."""
    data = DataHeld(
        seed=SEED,
        unit=UNIT,
        shard_roots=[tensor_root(shard) for shard in shards()],
        shard_tokens=SHARD_TOKENS,
        read_shard=lambda shard: tensor_bytes(shards()[shard]),
        first_step=segment * STEPS,
    )
    return Challenge(
        step_roots=[Unit().step_root(segment * STEPS + 1 + i) for i in range(STEPS)],
        hold=lambda step: hold_step(segment * STEPS + step),
        prover=lambda step: prover_of_step(segment * STEPS + step),
        data=data,
    )


def merge_challenge() -> Challenge:
    return Challenge(step_roots=[], hold=lambda _: hold_merge(), prover=lambda _: prover_of_merge())


# ---------------------------------------------------------------- the chain


@dataclass
class CourtWorld:
    """A chain with a court and a docket."""

    world: World
    court: Address
    docket: Address
    gas_of: dict[str, list[int]] = field(default_factory=dict)

    @property
    def accounts(self) -> list[Account]:
        return self.world.accounts

    @property
    def height(self) -> int:
        return self.world.height

    def fork(self) -> CourtWorld:
        return dataclasses.replace(self, world=self.world.fork(), gas_of={})

    def send(self, account: Account, function: str, *arguments: Any, value: int = 0) -> Receipt:
        """To the court. Raises Refused."""
        return self._send(load_abi("Court"), self.court, account, function, arguments, value)

    def post(self, account: Account, function: str, *arguments: Any, value: int = 0) -> Receipt:
        """To the docket."""
        return self._send(docket_abi(), self.docket, account, function, arguments, value)

    def _send(
        self, abi: ContractAbi, to: Address, account: Account, function: str, arguments: Sequence[Any], value: int
    ) -> Receipt:
        call = abi.bind(to, function, *arguments)
        receipt, computation = self.world.send_raw(account, to, call.data, value)
        _check(computation, abi_of_everything())
        self.gas_of.setdefault(function, []).append(receipt.gas_used)
        return Receipt(gas=receipt.gas_used, contract=None, events=tuple(_read_logs(load_abi("Court"), receipt)))

    def ask(self, function: str, *arguments: Any) -> Any:
        return self.world.call_contract("Court", self.court, function, *arguments)

    def ask_docket(self, function: str, *arguments: Any) -> Any:
        call = docket_abi().bind(self.docket, function, *arguments)
        vm = self.world.chain.get_vm()
        sender = to_canonical_address(self.accounts[0].address)
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(sender), gas_price=10**10, gas=10_000_000, to=to_canonical_address(self.docket),
            value=0, data=call.data,
        )  # fmt: skip
        computation = vm.state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        _check(computation, docket_abi())
        return call.function.decode(computation.output)[0]

    def balance(self, account: Account) -> int:
        return self.world.balance(account.address)

    # ---------------------------------------------------------------- playing

    def post_unit(self, account: Account, unit: Unit, bond: int = UNIT_BOND) -> None:
        self.post(account, "postUnit", UNIT, unit.root, SEED, WINDOW, value=bond)

    def post_merge(
        self, account: Account, root: bytes, inputs: Sequence[State] | None = None, bond: int = UNIT_BOND
    ) -> None:
        merged = [states()[2], states()[4]] if inputs is None else inputs
        roots = [merkle.state_root(state) for state in merged]
        self.post(account, "postMerge", MERGE, root, roots, WINDOW, value=bond)

    def announce(self, account: Account, subject: bytes, segment: int, salt: bytes = bytes(32)) -> None:
        chain_id = self.world.chain.chain_id
        court, run_, sender = (to_canonical_address(a) for a in (self.court, self.docket, account.address))
        self.send(account, "announce", announcement(chain_id, court, run_, subject, segment, sender, salt))

    def accuse(
        self, account: Account, accused: Account, subject: bytes, segment: int = 0, salt: bytes = bytes(32)
    ) -> Dispute:
        self.announce(account, subject, segment, salt)
        bond = self.ask("bondFor", self.docket, accused.address)
        receipt = self.send(account, "accuse", self.docket, subject, segment, salt, value=bond)
        [event] = receipt.named("Accused")
        return Dispute(self, event["dispute"], accused, account, bond).follow(receipt)

    def check_solvent(self, open_bonds: int) -> None:
        """Balance = bonds of open disputes + credits + what is owed to the fire."""
        everybody = [*self.accounts, self.world.deployer]
        credits = sum(self.ask("credit", account.address) for account in everybody)
        assert self.world.balance(self.court) == open_bonds + credits + self.ask("burnOwed")


@dataclass
class Dispute:
    """One dispute, followed by its events."""

    world: CourtWorld
    number: int
    accused: Account
    challenger: Account
    bond: int
    position: Position = field(default_factory=Position)
    moves: list[str] = field(default_factory=list)
    ended: tuple[str, dict[str, Any]] | None = None

    def follow(self, receipt: Receipt) -> Dispute:
        for name, arguments in receipt.events:
            if arguments.get("dispute") == self.number:
                self.position = self.position.after(name, arguments)
                if name in ("Convicted", "Dismissed", "Closed"):
                    self.ended = (name, arguments)
        return self

    def send(self, account: Account, move: Move) -> Receipt:
        receipt = self.world.send(account, move.function, self.number, *move.arguments)
        self.moves.append(move.function)
        self.follow(receipt)
        return receipt

    @property
    def is_accuseds_turn(self) -> bool:
        return self.world.ask("turnOf", self.number)[1] == self.accused.address

    def play(self, defence: Defence, challenge: Challenge) -> str:
        """Both sides as they would; silence where one has no answer. Returns how it ended."""
        while self.ended is None:
            if self.is_accuseds_turn:
                try:
                    self.send(self.accused, defence.move(self.position))
                except (Refused, MalformedInput):
                    self.time_out()
                continue
            move = challenge.move(self.position)
            if move is None:
                self.time_out()
            else:
                self.send(self.challenger, move)
        return self.ended[0]

    def play_to(self, stage: Stage, defence: Defence, challenge: Challenge) -> Dispute:
        """Both sides as they would until the dispute is at this stage."""
        while self.position.stage != stage:
            side, account = (defence, self.accused) if self.is_accuseds_turn else (challenge, self.challenger)
            move = side.move(self.position)
            assert move is not None
            self.send(account, move)
        return self

    def time_out(self) -> Receipt:
        _, _, until = self.world.ask("turnOf", self.number)
        if self.world.height < until:
            self.world.world.mine_to(until + 1)
        receipt = self.world.send(self.world.accounts[-1], "timeout", self.number)
        self.follow(receipt)
        return receipt


@cache
def docket_abi() -> ContractAbi:
    return ContractAbi("Docket", tuple(DOCKET["abi"]), bytes.fromhex(DOCKET["bytecode"].removeprefix("0x")))


@cache
def abi_of_everything() -> ContractAbi:
    """Errors that a transaction to the court may end with: its own, the clerk's, the evaluator's and the docket's."""
    names = ("Court", "Clerk", "Evaluator", "FunctionEvaluator", "TermsEvaluator", "Run")
    entries = [entry for name in names for entry in load_abi(name).entries]
    return ContractAbi("everything", (*entries, *DOCKET["abi"]), b"")


def deploy_court(
    world: World,
    clock: int = CLOCK,
    grace: int = GRACE,
    minimum_bond: int = MINIMUM_BOND,
    defence_gas: int = DEFENCE_GAS,
) -> Address:
    """With the clerk and the evaluators it asks; clocks in blocks."""
    functions, terms = world.deploy("FunctionEvaluator"), world.deploy("TermsEvaluator")
    evaluator, clerk = world.deploy("Evaluator", functions), world.deploy("Clerk", terms)
    return world.deploy("Court", evaluator, clerk, clock, grace, minimum_bond, defence_gas)


@cache
def _deployed(programs: tuple[bytes, ...], minimum_bond: int, defence_gas: int) -> CourtWorld:
    world = empty_world(8).fork()
    court = deploy_court(world, minimum_bond=minimum_bond, defence_gas=defence_gas)
    rules = (
        tree_root([leaf_hash(root) for root in programs]),
        len(programs),
        tree_root([tensor_root(shard) for shard in shards()]),
        SHARDS,
        SHARD_TOKENS,
        SEGMENTS,
        STEPS,
    )
    call = docket_abi().bind_deployment(court, rules)
    _, computation = world.send_raw(world.deployer, "", call.data)
    _check(computation, docket_abi())
    docket = Address(to_checksum_address(computation.msg.storage_address))
    return CourtWorld(world, court, docket)


def make_court(
    programs: Sequence[bytes] | None = None, minimum_bond: int = MINIMUM_BOND, defence_gas: int = DEFENCE_GAS
) -> CourtWorld:
    """programs   roots of the run's Programs, instead of `program_roots`"""
    chosen = tuple(program_roots() if programs is None else programs)
    return _deployed(chosen, minimum_bond, defence_gas).fork()


def flipped_weights(step: int = 1) -> Lie:
    """One bit of one new weight is another, in the trace as in the state after: what a liar shows who took care."""
    program = step_program()
    value = program.graph.outputs[program.output_names.index("0.weights.out")]
    data = bytearray(values_of(prover_of_step(step))[value])
    data[8] ^= 1
    forged = torch.frombuffer(data, dtype=torch.float32).reshape(program.graph.type_of(value).shape)
    root = tensor_root(forged)
    return Lie(step=step, values={value: bytes(data)}, after=lambda after: {**after, "weights.out": root})
