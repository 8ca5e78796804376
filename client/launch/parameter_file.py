"""The file a run is deployed from: everything that is decided about it, in TOML, in units people think in.

docs/networks/parameters.example.toml has every key with what it means. A mistake is answered with the file, the line,
the key and what is taken there; nothing has a default that would decide something unseen.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from eth_utils.address import is_checksum_address

from cupel.chain.court_deployment import (
    MOST_BOND_WEI,
    MOST_CLOCK_BLOCKS,
    MOST_DEFENCE_GAS,
    MOST_GRACE_BLOCKS,
    Clocks,
    find_time_problem,
)
from cupel.chain.run_file import check_source
from cupel.launch.court import CourtChoice
from cupel.launch.model_source import ModelSource
from cupel.launch.units import AMOUNT, DURATION, SHARE, parse_amount, parse_blocks, parse_share
from cupel.node.config_file import find_lines
from cupel.protocol.errors import UsageError
from cupel.protocol.training.brought import BroughtConfig
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.programs import AnyConfig, RunConfig
from cupel.protocol.training.step import TrainingConfig
from cupel.protocol.types import Address, Seed, Wei

VERSION = 1
MAX_BYTES = 1 << 16
TOKEN = 10**18
"""The smallest unit's share of a token."""
MAX_BLOCKS = (1 << 32) - 1
At = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchParameters:
    """A parameter file, read and checked."""

    path: Path
    folder: Path
    """The run's: `data/` of `cupel data build`, `prepared.json`, `run.json`."""
    chain_id: int
    block_seconds: float
    """What durations are converted to blocks by."""
    sources: tuple[str, ...]
    """URLs that serve the run's files, for the run file."""
    confirmations: int
    """Blocks a transaction should be in before it counts, as the run file recommends."""
    token_name: str
    token_symbol: str
    beacon: Address | None
    """A beacon somebody brings; None: the chain's own prevrandao."""
    court: CourtChoice
    config: AnyConfig
    source: ModelSource | None
    """Of a brought model."""
    genesis_seed: Seed
    contract: Mapping[str, int]
    """The fields of `Parameters` that are numbers: all but roots, CIDs, the beacon and the court."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a value is read; `parse` raises ValueError or TypeError for what is not `wanted`."""

    parse: Callable[[Any], Any]
    wanted: str


def _fail() -> NoReturn:
    raise ValueError


def _whole(low: int, high: int) -> _Kind:
    def parse(value: Any) -> int:
        return value if type(value) is int and low <= value <= high else _fail()

    return _Kind(parse, f"a whole number from {low:,} to {high:,}")


def _number(least: float) -> _Kind:
    def parse(value: Any) -> float:
        return float(value) if type(value) in (int, float) and least < value < float("inf") else _fail()

    return _Kind(parse, f"a number above {least:g}")


def _text(most: int) -> _Kind:
    return _Kind(lambda v: v if isinstance(v, str) and 0 < len(v) <= most else _fail(), f"text of 1 to {most} letters")


def _parse_tokens(value: Any) -> int:
    try:
        units = Decimal(str(value)) * TOKEN
    except InvalidOperation:
        raise ValueError from None
    is_number = type(value) in (int, float, str) and units.is_finite()
    return int(units) if is_number and 0 <= units < 1 << 128 and units == int(units) else _fail()


def _parse_seed(value: Any) -> Seed:
    raw = bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else b""
    return Seed(raw) if len(raw) == 32 else _fail()


def _parse_beacon(value: Any) -> Address | None:
    if value == "prevrandao":
        return None
    return Address(value) if isinstance(value, str) and is_checksum_address(value) else _fail()


def _parse_court(value: Any) -> Address | None:
    if value == "none":
        return None
    return Address(value) if isinstance(value, str) and is_checksum_address(value) else _fail()


def _parse_transaction(value: Any) -> str:
    return value if isinstance(value, str) and re.fullmatch("0x[0-9a-f]{64}", value) else _fail()


def _parse_sources(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        _fail()
    try:
        for source in value:
            check_source(source)
    except UsageError:
        _fail()
    return tuple(value)


_AMOUNT, _SHARE = _Kind(parse_amount, AMOUNT), _Kind(parse_share, SHARE)
_RUN: dict[str, _Kind] = {
    "folder": _Kind(lambda v: Path(v) if isinstance(v, str) and v else _fail(), "a folder's name in quotes"),
    "chain_id": _whole(1, 1 << 53),
    "block_seconds": _number(0),
    "sources": _Kind(_parse_sources, 'a list of URLs, like ["http://203.0.113.5:8080"]'),
    "confirmations": _whole(1, 10_000),
    "token_name": _text(64),
    "token_symbol": _text(16),
    "beacon": _Kind(_parse_beacon, '"prevrandao", or the address of a beacon contract with its checksum'),
    "genesis_seed": _Kind(_parse_seed, "64 hexadecimal digits"),
}
_BROUGHT_MODEL = {"module": _text(1024), "vocabulary": _whole(1, 1 << 24), "context": _whole(1, 1 << 20)}
_BROUGHT_TRAINING = {"batch": _whole(1, 1 << 20), "digits": _whole(1, 3)}
_WORK = {
    "segments": _whole(1, 254),
    "segment_steps": _whole(1, MAX_BLOCKS),
    "max_units_per_miner": _whole(1, 32),
    "max_units": _whole(1, 64),
}
_MERGING = {"max_merge": _whole(1, 64), "top_k": _whole(1, 1 << 24)}
_SEATS = {name: _whole(1, 64) for name in ("min_miners", "max_miners", "min_verifiers", "max_verifiers")}
_CHECKING = {
    "verifiers_per_unit": _whole(1, 8),
    "segments_per_verifier": _whole(1, 254),
    "replay": _SHARE,
    "quorum": _whole(1, 8),
    "jury_target": _whole(1, 64),
}
_MONEY = dict.fromkeys(("unit_bond", "slot_stake", "unavailable_fee", "seal_fee", "merge_bond"), _AMOUNT)
_CLOCKS = (
    "beacon_delay", "train_blocks", "seal_blocks", "open_blocks", "merge_blocks", "acknowledge_blocks",
    "maturity_blocks", "window_blocks", "exit_blocks",
)  # fmt: skip
_CLOCK_KEYS = {name: name.removesuffix("_blocks") for name in _CLOCKS}
_MAY_BE_ZERO = {"maturity_blocks", "exit_blocks"}
_REWARD = {
    "initial_reward": _Kind(_parse_tokens, "a number of tokens, like 1000"),
    "halving_rounds": _whole(1, MAX_BLOCKS),
    "work_target": _whole(1, 65_535),
    "verifier_share": _SHARE,
    "merge_share": _SHARE,
}
_STANDING_COURT = {
    "address": _Kind(_parse_court, 'the address of a court with its checksum, or "none" for a run without disputes'),
    "transaction": _Kind(_parse_transaction, "the hash of the transaction that created that court"),
}
_FIELD_OF = {"replay": "replay_bps", "verifier_share": "verifier_share_bps", "merge_share": "merge_share_bps"}
_SECTIONS = {
    "run", "model", "training", "merging", "work", "seats", "checking", "money", "clocks", "court", "reward",
}  # fmt: skip


class _File:
    """A TOML table with its lines: every refusal says where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size > MAX_BYTES:
                raise UsageError(f"{path} is too large for a parameter file: at most {MAX_BYTES:,} bytes are read")
            text = path.read_text(encoding="utf-8")
            self.table: dict[str, Any] = tomllib.loads(text)
        except OSError as error:
            raise UsageError(f"cannot read the parameter file {path}: {error.strerror or error}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from None
        self.lines = find_lines(text)

    def refuse(self, at: At, problem: str) -> NoReturn:
        line = f", line {self.lines[at]}" if at in self.lines else ""
        raise UsageError(f"{self.path}{line}: {'.'.join(at)} {problem}")

    def section(self, name: str, known: Mapping[str, _Kind], optional: frozenset[str] = frozenset()) -> dict[str, Any]:
        """A table's values, parsed; none missing, none unknown."""
        table = self.table.get(name)
        if table is None:
            self.refuse((name,), f"is missing: a table with {', '.join(known)}")
        if not isinstance(table, dict):
            self.refuse((name,), f"is {table!r}; it takes a table: [{name}]")
        for key in table:
            if key not in known:
                self.refuse((name, key), f"is not a parameter{_near(key, list(known))}")
        for key in known:
            if key not in table and key not in optional:
                self.refuse((name,), f"lacks {key}: it takes {known[key].wanted}")
        return {key: self.parse((name, key), table[key], known[key]) for key in known if key in table}

    def parse(self, at: At, value: Any, kind: _Kind) -> Any:
        try:
            return kind.parse(value)
        except (ValueError, TypeError, ArithmeticError):
            self.refuse(at, f"is {str(value)[:80]!r}; it takes {kind.wanted}")


def _near(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(words)}"


def read_parameter_file(path: Path) -> LaunchParameters:
    """Raises UsageError naming file, line, key and what is allowed there."""
    file = _File(path)
    for name in file.table:
        if name != "version" and name not in _SECTIONS:
            file.refuse((name,), f"is not a part of a parameter file{_near(name, sorted(_SECTIONS))}")
    if file.table.get("version") != VERSION:
        file.refuse(("version",), f"is {file.table.get('version')!r}; this program reads version = {VERSION}")
    run = file.section("run", _RUN)
    merging = file.section("merging", _MERGING)
    work, seats = (file.section(name, kinds) for name, kinds in (("work", _WORK), ("seats", _SEATS)))
    checking = {_FIELD_OF.get(key, key): value for key, value in file.section("checking", _CHECKING).items()}
    money = file.section("money", _MONEY)
    clocks = _read_clocks(file, run["block_seconds"])
    reward = {_FIELD_OF.get(key, key): value for key, value in file.section("reward", _REWARD).items()}
    contract = {**work, "max_merge": merging["max_merge"], **seats, **checking, **money, **clocks, **reward}
    _check_together(file, contract)
    court = _read_court(file, run["block_seconds"])
    if court.clocks is not None:
        times = {name: contract[name] for name in ("maturity_blocks", "window_blocks", "exit_blocks")}
        problem = find_time_problem(court.clocks, **times)
        if problem is not None:
            file.refuse(("clocks", problem.split()[0]), f"and [court] do not fit: {problem}")
    config, source = _read_config(file, merging)
    return LaunchParameters(
        path=path,
        folder=path.parent / run["folder"],
        chain_id=run["chain_id"],
        block_seconds=run["block_seconds"],
        sources=run["sources"],
        confirmations=run["confirmations"],
        token_name=run["token_name"],
        token_symbol=run["token_symbol"],
        beacon=run["beacon"],
        court=court,
        config=config,
        source=source,
        genesis_seed=run["genesis_seed"],
        contract=contract,
    )


def _read_clocks(file: _File, block_seconds: float) -> dict[str, int]:
    kinds = {key: _Kind(lambda v: parse_blocks(v, block_seconds), DURATION) for key in _CLOCK_KEYS.values()}
    values = file.section("clocks", kinds)
    clocks = {name: values[key] for name, key in _CLOCK_KEYS.items()}
    for name, blocks in clocks.items():
        most = 256 if name == "beacon_delay" else MAX_BLOCKS
        least = 0 if name in _MAY_BE_ZERO else 1
        if not least <= blocks <= most:
            at = ("clocks", _CLOCK_KEYS[name])
            file.refuse(at, f"is {blocks:,} blocks of {block_seconds:g} s; from {least} to {most:,} are possible")
    return clocks


def _read_court(file: _File, block_seconds: float) -> CourtChoice:
    """A new court's clocks and money, or one that stands, or none because the file says so."""
    table = file.table.get("court")
    if isinstance(table, dict) and "address" in table:
        own = [key for key in ("clock", "grace", "minimum_bond", "defence_gas") if key in table]
        if own:
            file.refuse(
                ("court", own[0]), "is a new court's, and court.address names one that stands: one of the two has to go"
            )
        standing = file.section("court", _STANDING_COURT, frozenset({"transaction"}))
        if standing["address"] is None and "transaction" in standing:
            file.refuse(("court", "transaction"), 'is of no use beside address = "none"')
        return CourtChoice(address=standing["address"], transaction=standing.get("transaction"))
    duration = _Kind(lambda v: parse_blocks(v, block_seconds), DURATION)
    known = {"clock": duration, "grace": duration, "minimum_bond": _AMOUNT, "defence_gas": _whole(1, MOST_DEFENCE_GAS)}
    if table is None:
        file.refuse(
            ("court",),
            f'is missing: a table with {", ".join(known)}, or with address = "0x..." of a court that stands, or with '
            'address = "none" for a run in which nobody is ever convicted',
        )
    new = file.section("court", known)
    for key, most in (("clock", MOST_CLOCK_BLOCKS), ("grace", MOST_GRACE_BLOCKS)):
        if not 1 <= new[key] <= most:
            file.refuse(
                ("court", key), f"is {new[key]:,} blocks of {block_seconds:g} s; from 1 to {most:,} are possible"
            )
    if not 1 <= new["minimum_bond"] <= MOST_BOND_WEI:
        file.refuse(("court", "minimum_bond"), "is 0 or beyond all ETH there is; it takes what a false accuser loses")
    return CourtChoice(
        clocks=Clocks(
            clock_blocks=new["clock"],
            grace_blocks=new["grace"],
            minimum_bond_wei=Wei(new["minimum_bond"]),
            defence_gas=new["defence_gas"],
        )
    )


def _read_config(file: _File, merging: Mapping[str, int]) -> tuple[AnyConfig, ModelSource | None]:
    """The model and its training, checked by the types that use them."""
    model_table = file.table.get("model")
    if isinstance(model_table, dict) and "module" in model_table:
        return _read_brought(file, merging)

    def read(name: str, kind: Any) -> Any:
        fields = dataclasses.fields(kind)
        types = {f.name: str(f.type) for f in fields}
        optional = frozenset(f.name for f in fields if f.default is not dataclasses.MISSING)
        values = file.section(name, {key: _of_type(types[key]) for key in types}, optional)
        try:
            return kind(**values)
        except UsageError as error:
            key = str(error).split()[0].removeprefix(f"{name}.")
            file.refuse((name, key) if key in types else (name,), f"cannot be: {error}")

    model, training = read("model", ModelConfig), read("training", TrainingConfig)
    try:
        config = RunConfig(model=model, training=training, max_merge=merging["max_merge"], top_k=merging["top_k"])
    except UsageError as error:
        file.refuse(("merging", str(error).split()[0]), f"cannot be: {error}")
    return config, None


def _read_brought(file: _File, merging: Mapping[str, int]) -> tuple[BroughtConfig, ModelSource]:
    """Of a model that somebody brings: what its code does not say."""
    model, training = file.section("model", _BROUGHT_MODEL), file.section("training", _BROUGHT_TRAINING)
    try:
        source = ModelSource(model.pop("module"), file.path.parent)
    except UsageError as error:
        file.refuse(("model", "module"), str(error))
    try:
        return BroughtConfig(**model, **training, **merging), source
    except UsageError as error:
        key = str(error).split()[0]
        tables = {"model": model, "training": training, "merging": merging}
        file.refuse((next(name for name, table in tables.items() if key in table), key), f"cannot be: {error}")


def _of_type(name: str) -> _Kind:
    if name == "float":
        return _Kind(lambda v: float(v) if type(v) in (int, float) else _fail(), "a number")
    if name == "bool":
        return _Kind(lambda v: v if type(v) is bool else _fail(), "true or false")
    return _Kind(lambda v: v if type(v) is int else _fail(), "a whole number")


def _check_together(file: _File, contract: Mapping[str, int]) -> None:
    """What the contract demands of parameters in pairs."""
    pairs = (
        ("seats.min_miners", "seats.max_miners"),
        ("seats.min_verifiers", "seats.max_verifiers"),
        ("checking.quorum", "checking.verifiers_per_unit"),
        ("checking.segments_per_verifier", "work.segments"),
        ("money.unavailable_fee", "money.unit_bond"),
        ("money.seal_fee", "money.slot_stake"),
    )
    for key in ("unit_bond", "slot_stake"):
        if not 1 <= contract[key] <= (1 << 96) // 64 - 1:
            file.refuse(("money", key), "is 0 or beyond all ETH there is; it takes what nobody likes to lose")
    if contract["merge_bond"] >= 1 << 96:
        file.refuse(("money", "merge_bond"), "is beyond all ETH there is")
    for low, high in pairs:
        (section, key), other = low.split("."), high.split(".")[1]
        if contract[key] > contract[other]:
            file.refuse((section, key), f"is above {high}; it takes at most as much")
    if contract["verifier_share_bps"] + contract["merge_share_bps"] > 10_000:
        file.refuse(("reward", "verifier_share"), "and reward.merge_share together are more than 100 %")
