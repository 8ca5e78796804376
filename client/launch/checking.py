"""Checking a run that somebody else deployed: what its contracts are, what they were told, and what they point at.

A check passes, fails or warns. A run whose code is the shipped one and whose creating transactions ran the shipped
constructors has no privilege in it: the artifacts have none.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from cupel.chain import suitability
from cupel.chain.abi import load_abi
from cupel.chain.bytecode import (
    PROXY_SLOTS,
    TOKEN_NONCE,
    bind_run,
    compute_created,
    find_creation,
    find_difference,
    get_code,
    get_creation,
    is_creation_of,
    load_runtime_code,
    read_slot,
)
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import (
    Clocks,
    CourtParts,
    find_court_creation_problem,
    find_court_differences,
    find_time_problem,
    read_court,
)
from cupel.chain.errors import WrongChain
from cupel.chain.fees import GWEI
from cupel.chain.run_code import find_run_differences
from cupel.chain.run_contract import BeaconContract, RunContract, TokenContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import ZERO_ADDRESS, Parameters
from cupel.launch.court import find_court_oddities
from cupel.launch.hiding import find_cost_held
from cupel.launch.preparation import STATE_OVERHEAD_BYTES, check_data, state_bytes
from cupel.launch.units import format_amount, format_blocks, format_decimal
from cupel.network.data import load_manifest
from cupel.network.ipfs import BlockStore, Fetcher
from cupel.network.states import check_state_root, decode_state
from cupel.node.deposits import miner_deposit, verifier_deposit
from cupel.node.manifest import MAX_MANIFEST_BYTES, MAX_PROGRAM_BYTES, RunManifest
from cupel.protocol.errors import ChainRefused, CupelError, MalformedInput
from cupel.protocol.training.programs import RunPrograms
from cupel.protocol.types import Address, Wei

Verdict = Literal["ok", "warning", "failed"]
TOKEN = 10**18
SHORTEST_WINDOW_S = 60.0
"""In which an operator's node can compute, send, and try again once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found of a run."""

    checks: tuple[Check, ...]
    parameters: Parameters | None
    """None: no run is there."""
    block_seconds: float
    court: Clocks | None
    """None: the run has none, or no court answers."""
    base_fee_wei: Wei
    """Per gas, of the newest block."""
    state: str | None
    """`CID/ROOT` of the state the current round starts from."""
    round: int | None

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "failed")


class _Checks:
    def __init__(self) -> None:
        self.list: list[Check] = []

    def add(self, name: str, problem: str | None, fine: str, *, warning: bool = False) -> bool:
        """`problem` None: it passed. Whether it did."""
        verdict: Verdict = "ok" if problem is None else "warning" if warning else "failed"
        self.list.append(Check(name=name, verdict=verdict, what=problem or fine))
        return problem is None

    def attempt(self, name: str, look: Callable[[], str]) -> bool:
        """`look` says what is fine, or raises."""
        try:
            return self.add(name, None, look())
        except CupelError as problem:
            return self.add(name, str(problem), "")


def inspect(
    client: ChainClient,
    run_file: RunFile,
    *,
    with_data: bool,
    accepted_beacon: Address | None = None,
    unit_cost: Wei | None = None,
) -> Inspection:
    """Everything that can be known of a run from its file and the chain; with_data: and from whoever serves its files.

    unit_cost   what computing a unit costs whoever asks; None: nothing is said of it
    Raises   ChainUnreachable, WrongChain
    """
    if client.chain_id != run_file.chain_id:
        raise WrongChain(client.url, expected=run_file.chain_id, got=client.chain_id)
    checks = _Checks()
    block_seconds, base_fee = _measure_block_seconds(client), client.head().base_fee_wei
    gas_price = Wei(base_fee + client.suggest_tip(base_fee))
    run = RunContract(client, run_file.contract)
    try:
        parameters = run.parameters()
        current = run.current()
        root, cid = run.get_state(current.round)
    except (MalformedInput, ChainRefused) as error:
        problem = f"no run answers at {run_file.contract}: {error}"
        if get_code(client, run_file.contract) == b"":
            problem = f"no contract is at {run_file.contract}"
        checks.add("run", problem, "")
        return Inspection(
            checks=tuple(checks.list),
            parameters=None,
            block_seconds=block_seconds,
            court=None,
            base_fee_wei=base_fee,
            state=None,
            round=None,
        )
    _check_code(checks, client, run_file, run, parameters)
    _check_creation(checks, client, run_file, run, parameters)
    _check_beacon(checks, client, run_file, parameters, accepted_beacon)
    court = _check_court(checks, client, run_file, parameters)
    _check_privilege(checks, client, run_file, run, court)
    for name, oddity in find_oddities(parameters, block_seconds, unit_cost):
        checks.add(name, oddity, "", warning=True)
    if court is not None:
        for name, oddity in find_court_oddities(court.clocks, parameters, block_seconds, gas_price):
            checks.add(name, oddity, "", warning=True)
    if with_data:
        peers = [*run_file.sources, *(p.endpoint for p in run.participants() if p.endpoint)]
        _check_files(checks, parameters, peers)
    return Inspection(
        checks=tuple(checks.list),
        parameters=parameters,
        block_seconds=block_seconds,
        court=None if court is None else court.clocks,
        base_fee_wei=base_fee,
        state=f"{cid}/0x{root.hex()}",
        round=current.round,
    )


def _measure_block_seconds(client: ChainClient) -> float:
    """Of the newest blocks."""
    head = client.head()
    earlier = client.get_block(max(0, head.number - suitability.BLOCKS_LOOKED_AT))
    if earlier is None or earlier.number == head.number:
        return 0.0
    return (head.timestamp - earlier.timestamp) / (head.number - earlier.number)


def _check_code(
    checks: _Checks, client: ChainClient, run_file: RunFile, run: RunContract, parameters: Parameters
) -> None:
    """Bytecode against the artifacts, addresses against the file."""
    token, lens, rules = compute_created(run.address, TOKEN_NONCE), run.lens(), run.rules()
    differences = dict(find_run_differences(client, run, parameters))
    for name, address in (("run", run.address), ("rules", rules), ("lens", lens)):
        artifact = {"run": "Run", "rules": "RunRules", "lens": "RunLens"}[name]
        checks.add(name, differences.get(name), f"{address} is {artifact} of this version")
    problem = differences.get("token")
    if run.token() != token or run_file.token != token:
        problem = f"the run created {token}; it names {run.token()}, the run file {run_file.token}"
    if problem is None and TokenContract(client, token).run() != run.address:
        problem = f"{token} obeys {TokenContract(client, token).run()}"
    checks.add("token", problem, f"{token} is Token of this version, and only the run mints")


def _check_creation(
    checks: _Checks, client: ChainClient, run_file: RunFile, run: RunContract, parameters: Parameters
) -> None:
    """What the constructors left in storage: exactly what the shipped ones leave, or nobody knows."""
    digest = run_file.creation.get("run")
    created = get_creation(client, digest) if digest else find_creation(client, run.address, run_file.deploy_block)
    if created is None or compute_created(created.creator, created.nonce) != run.address:
        where = digest or f"in block {run_file.deploy_block}"
        problem: str | None = (
            f"no transaction {where} created it, as far as this node knows; what its constructor did cannot be checked "
            "(ask a node that keeps old blocks)"
        )
        checks.add("creation", problem, "")
        return
    token = TokenContract(client, run.token())
    arguments = bind_run(parameters, run.rules(), run.lens(), token.name(), token.symbol())
    problem = None if created.input == arguments.data else "the run was not created by the shipped constructor alone"
    if problem is None and created.height != run_file.deploy_block:
        problem = f"it was created in block {created.height}, the run file says {run_file.deploy_block}"
    checks.add("creation", problem, f"the shipped constructor with these parameters, in block {created.height}")


def _check_beacon(
    checks: _Checks, client: ChainClient, run_file: RunFile, parameters: Parameters, accepted: Address | None
) -> None:
    beacon = parameters.beacon
    if run_file.beacon != beacon:
        checks.add("beacon", f"the run draws from {beacon}, the run file says {run_file.beacon}", "")
        return
    code = get_code(client, beacon)
    if find_difference(code, "PrevrandaoBeacon") is None:
        digest = run_file.creation.get("beacon")
        created = get_creation(client, digest) if digest else None
        if created is None:
            problem: str | None = "the run file does not name its creating transaction: its first values may be planted"
            checks.add("beacon", problem, "", warning=True)
        else:
            made_here = compute_created(created.creator, created.nonce) == beacon
            alone = made_here and is_creation_of(created, load_abi("PrevrandaoBeacon"))
            problem = None if alone else f"{beacon} was not created by the shipped constructor alone"
            checks.add("beacon", problem, f"{beacon} is PrevrandaoBeacon of this version")
        view = suitability.look_at_beacon(client)
        problem = suitability.find_beacon_problem(view, parameters.beacon_delay)
        checks.add("randomness", problem, f"{view.distinct} different values in the last {view.blocks} blocks")
        checks.add("chain", suitability.find_chain_problem(client), "takes headers as proofs, counts its own blocks")
        return
    scripted = is_scripted(code)
    what = "not a shipped beacon: whoever controls it chooses every draw"
    if scripted:
        what = "a scripted beacon: every draw is known in advance"
    if accepted != beacon or scripted:
        checks.add("beacon", f"{beacon} is {what}", "")
        return
    try:
        BeaconContract(client, beacon).value_at(client.head().number)
        checks.add("beacon", f"{beacon} is {what}; accepted, because you named it", "", warning=True)
    except (ChainRefused, MalformedInput) as error:
        checks.add("beacon", f"{beacon} does not answer as a beacon does: {error}", "")


def _check_court(checks: _Checks, client: ChainClient, run_file: RunFile, parameters: Parameters) -> CourtParts | None:
    """Its code and that of the four contracts it asks, its constructor's work, and its time against the run's."""
    if parameters.court == ZERO_ADDRESS:
        problem = "the run has none: nobody is ever convicted, and a majority of the verifiers' stake is believed"
        checks.add("court", problem, "", warning=True)
        return None
    try:
        parts = read_court(client, parameters.court)
    except (ChainRefused, MalformedInput) as error:
        checks.add("court", f"{parameters.court} does not answer as a court does: {error}", "")
        return None
    differences = "; ".join(find_court_differences(client, parts))
    fine = f"{parts.court} is Court of this version, and so are its clerk and evaluators"
    checks.add("court", differences or None, fine)
    digest = run_file.creation.get("court")
    if digest is None:
        problem = "the run file does not name its creating transaction: verdicts and credits may be planted"
        checks.add("court_creation", problem, "", warning=True)
    else:
        made = find_court_creation_problem(get_creation(client, digest), parts)
        checks.add("court_creation", made, "the shipped constructor with these clocks")
    late = find_time_problem(
        parts.clocks,
        maturity_blocks=parameters.maturity_blocks,
        window_blocks=parameters.window_blocks,
        exit_blocks=parameters.exit_blocks,
    )
    checks.add(
        "court_time", late, f"every dispute ends within {parts.clocks.longest_dispute:,} blocks, before bonds go"
    )
    return parts


def is_scripted(code: bytes) -> bool:
    """Whether it is the tests' beacon, whatever its value."""
    return load_runtime_code("ScriptedBeacon").read_immutables(code) is not None


def _check_privilege(
    checks: _Checks, client: ChainClient, run_file: RunFile, run: RunContract, court: CourtParts | None
) -> None:
    """Nobody behind the contracts: no proxy's slots are set."""
    contracts = {
        "run": run.address,
        "rules": run.rules(),
        "lens": run.lens(),
        "token": run.token(),
        "beacon": run_file.beacon,
    }
    if court is not None:
        contracts |= {name: getattr(court, name) for name in ("court", "clerk", "evaluator", "functions", "terms")}
    found = [
        f"{name} at {address} obeys 0x{value:040x} ({slot} slot of a proxy)"
        for name, address in contracts.items()
        for slot, number in PROXY_SLOTS.items()
        if (value := read_slot(client, address, number))
    ]  # fmt: skip
    checks.add("privilege", "; ".join(found) or None, "no owner, no proxy: the code has none, and no slot is set")


def find_oddities(p: Parameters, block_seconds: float, unit_cost: Wei | None = None) -> Iterator[tuple[str, str]]:
    """Parameters a contract allows and a careful member asks about."""
    if p.quorum == 1:
        yield "quorum", "one verifier's word attests a unit: a miner and a verifier of one owner mint as they like"
    if p.verifiers_per_unit > p.min_verifiers:
        yield "min_verifiers", f"{p.min_verifiers} open a round, and a unit is to have {p.verifiers_per_unit} verifiers"
    if p.jury_target < 3:
        yield "jury_target", f"{p.jury_target} of {p.jury_target} jurors decide what the next state is"
    if p.min_miners == 1:
        yield "min_miners", "one miner alone can play rounds and mint"
    clocks = ("train_blocks", "seal_blocks", "open_blocks", "merge_blocks", "acknowledge_blocks")
    for name in clocks:
        seconds = getattr(p, name) * block_seconds
        if block_seconds and seconds < SHORTEST_WINDOW_S:
            shown = format_blocks(getattr(p, name), block_seconds)
            yield name, f"{shown}: too short to send a transaction twice; a busy chain costs honest members their fees"
    longest = p.open_blocks + p.merge_blocks + p.acknowledge_blocks
    if p.maturity_blocks < longest:
        yield "maturity_blocks", f"{p.maturity_blocks} blocks: rewards are out before a wrong merge can be noticed"
    if p.unavailable_fee * 10 < p.unit_bond:
        yield "unavailable_fee", "less than a tenth of the bond: hiding bad work costs little"
    held = find_cost_held(p)
    if unit_cost is not None and held < unit_cost:
        least = Decimal(math.ceil(p.unavailable_fee * unit_cost / max(held, 1) / GWEI)) * GWEI / TOKEN
        yield (
            "unavailable_fee",
            f"{format_amount(p.unavailable_fee)} outweighs skipped and hidden work while a unit costs at most "
            f"{show_ether(held)} to compute; at your {format_amount(unit_cost)} it takes {format_decimal(least)} ETH",
        )
    if p.verifier_share_bps == 0:
        yield "verifier_share_bps", "verifiers are paid nothing"
    whole = -(-p.work_target * p.replay_bps // 10_000) / p.work_target
    computed = p.verifiers_per_unit * p.segments_per_verifier / p.segments
    computed += whole * (1 - p.segments_per_verifier / p.segments)
    fair = computed / (1 + computed)
    if 0 < p.verifier_share_bps < 9_000 * fair:
        paid = p.verifier_share_bps / 10_000
        yield (
            "segments_per_verifier",
            f"verifiers compute {fair:.0%} of everything and get {paid:.0%} of what is minted: let them repeat fewer "
            "segments, cut units into more, or pay them more",
        )
    if p.replay_bps == 0:
        yield "replay", "no unit is repeated whole: one bent step among many is found by luck or by a watcher"
    if p.replay_bps and p.seal_blocks < p.train_blocks / p.max_units_per_miner:
        yield "seal_blocks", "shorter than a unit's training: who repeats one whole pays the seal fee"
    if p.max_merge < p.max_units:
        yield "max_merge", f"of {p.max_units} units a round at most {p.max_merge} enter the model"
    if p.initial_reward == 0:
        yield "initial_reward", "nothing is ever minted"


def _check_files(checks: _Checks, parameters: Parameters, peers: Sequence[str]) -> None:
    """What the contract names, from whoever serves it, down to the roots."""
    with tempfile.TemporaryDirectory() as folder, BlockStore(folder) as store, Fetcher(store, list(peers)) as fetcher:
        found: dict[str, Any] = {}

        def manifest() -> str:
            data = fetcher.fetch(parameters.manifest, max_bytes=MAX_MANIFEST_BYTES)
            found["manifest"] = RunManifest.from_bytes(data)
            return f"{parameters.manifest}"

        def programs() -> str:
            named = found["manifest"].programs
            files = {name: fetcher.fetch(cid, max_bytes=MAX_PROGRAM_BYTES) for name, cid in named.items()}
            found["programs"] = RunPrograms.from_files(files, parameters.programs_root)
            return f"{len(files)} files, root 0x{parameters.programs_root.hex()}"

        def data() -> str:
            held = load_manifest(fetcher, found["manifest"].data, expected_root=parameters.data_root)
            check_data(held, found["programs"].config)
            first = held.training[0]
            fetcher.fetch(first.cid)
            return f"{len(held.training)} shards, root 0x{held.root.hex()}; the first one is served"

        def genesis() -> str:
            limit = state_bytes(found["programs"]) + STATE_OVERHEAD_BYTES
            state = decode_state(fetcher.fetch_buffer(parameters.genesis, max_bytes=limit))
            check_state_root("the first state", state, parameters.genesis_root)
            found["programs"].check_state("the first state", state)
            return f"root 0x{parameters.genesis_root.hex()}"

        if checks.attempt("manifest", manifest) and checks.attempt("programs", programs):
            checks.attempt("data", data)
            checks.attempt("genesis", genesis)


_CLOCKS = frozenset(
    {"beacon_delay", "train_blocks", "seal_blocks", "open_blocks", "merge_blocks", "acknowledge_blocks",
     "maturity_blocks", "window_blocks", "exit_blocks"}
)  # fmt: skip
_MONEY = frozenset({"unit_bond", "slot_stake", "unavailable_fee", "seal_fee", "merge_bond"})


def show_ether(amount: Wei) -> str:
    """An amount that is an estimate, to three digits."""
    return f"{Decimal(f'{amount / TOKEN:.3g}'):f} ETH"


def describe_parameters(parameters: Parameters, block_seconds: float) -> Iterator[tuple[str, str]]:
    """Name and value, in human units."""
    for field in dataclasses.fields(parameters):
        value: Any = getattr(parameters, field.name)
        if isinstance(value, bytes):
            yield field.name, f"0x{value.hex()}"
        elif field.name in _MONEY:
            yield field.name, format_amount(value)
        elif field.name in _CLOCKS:
            yield field.name, format_blocks(value, block_seconds)
        elif field.name.endswith("_bps"):
            yield field.name.removesuffix("_bps"), f"{value / 100:g} %"
        elif field.name == "initial_reward":
            yield field.name, f"{value / 10**18:,g} tokens a round"
        else:
            yield field.name, f"{value:,}" if isinstance(value, int) else str(value)


def describe_entry(p: Parameters) -> Iterator[tuple[str, str]]:
    """What somebody who joins puts down, by default, and what a full round pays: three lines of a bootstrap's sums."""
    yield "a miner puts down", f"{format_amount(miner_deposit(p, 1))} to have one unit in every round"
    yield "a verifier puts down", f"{format_amount(verifier_deposit(p, 1))} to keep one slot"
    verifiers, merge = p.initial_reward * p.verifier_share_bps, p.initial_reward * p.merge_share_bps
    parts = (10_000 * p.initial_reward - verifiers - merge, verifiers, merge)
    miners, checked, merged = (format_decimal(Decimal(part) / 10_000 / TOKEN) for part in parts)
    cost = show_ether(find_cost_held(p))
    yield "skipping work loses", f"if a unit costs up to {cost} to compute, whatever its reward is worth"
    yield "a full round mints", f"{miners} tokens to miners, {checked} to verifiers, {merged} for the merge"
