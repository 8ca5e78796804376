"""The parameter file: every mistake is answered with the file, the line, the key and what is taken there."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from cupel.chain.bytecode import load_runtime_code
from cupel.chain.deployment import MEASURED_GAS
from cupel.chain.run_values import Parameters
from cupel.chain.suitability import BeaconView, find_beacon_problem
from cupel.launch.court import CourtChoice
from cupel.launch.parameter_file import read_parameter_file
from cupel.launch.units import format_amount, format_blocks, parse_amount, parse_blocks, parse_share
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "docs" / "networks").glob("*.toml"))
EXAMPLE = ROOT / "docs" / "networks" / "parameters.example.toml"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_complete_and_leave_only_the_files_to_be_named(path: Path) -> None:
    chosen = read_parameter_file(path)
    fields = {field.name for field in dataclasses.fields(Parameters)}
    named_by_preparation = {
        "programs_root",
        "data_root",
        "shards",
        "shard_tokens",
        "genesis_root",
        "genesis",
        "manifest",
    }
    assert set(chosen.contract) == fields - named_by_preparation - {"beacon", "court"}
    assert all(type(value) is int for value in chosen.contract.values())


def test_an_example_says_what_it_says() -> None:
    chosen = read_parameter_file(EXAMPLE)
    assert (chosen.chain_id, chosen.block_seconds, chosen.beacon) == (11155111, 12.0, None)
    assert chosen.folder == EXAMPLE.parent / "my-run"
    expected = {"unit_bond": 15 * 10**14, "train_blocks": 300, "window_blocks": 3600, "beacon_delay": 2}
    expected |= {"verifier_share_bps": 3200, "replay_bps": 500, "initial_reward": 10**21}
    assert {name: chosen.contract[name] for name in expected} == expected


MISTAKES = {
    "unit_bond = 5": ('unit_bond = "0.0015 ETH"', r"money.unit_bond is '5'; it takes an amount with its unit"),
    'unit_bond = "5 apples"': ('unit_bond = "0.0015 ETH"', r"money.unit_bond is '5 apples'; it takes an amount"),
    'unit_bond = "0 ETH"': ('unit_bond = "0.0015 ETH"', "money.unit_bond is 0 or beyond"),
    'unit_bond = "0.5 wei"': ('unit_bond = "0.0015 ETH"', "money.unit_bond is '0.5 wei'"),
    'unitbond = "1 ETH"': ('unit_bond = "0.0015 ETH"', r"money.unitbond is not a parameter; did you mean unit_bond\?"),
    "quorum = 9": ("quorum = 2", "checking.quorum is '9'; it takes a whole number from 1 to 8"),
    "quorum = true": ("quorum = 2", "checking.quorum is 'True'; it takes a whole number"),
    "quorum = 4": ("quorum = 2", "checking.quorum is above checking.verifiers_per_unit"),
    "max_miners = 1": ("max_miners = 16", "seats.min_miners is above seats.max_miners"),
    'seal = "30"': ('seal = "60 min"', "clocks.seal is '30'; it takes a duration"),
    'seal = "0 min"': ('seal = "60 min"', "clocks.seal is 0 blocks of 12 s; from 1 to"),
    'beacon_delay = "2 h"': ('beacon_delay = "2 blocks"', "clocks.beacon_delay is 600 blocks of 12 s; from 1 to 256"),
    'verifier_share = "25"': ('verifier_share = "32 %"', "reward.verifier_share is '25'; it takes a share"),
    'verifier_share = "99 %"': ('verifier_share = "32 %"', "together are more than 100 %"),
    "width = 97": ("width = 96", "model.width cannot be: model.width 97 is no multiple"),
    'width = "96"': ("width = 96", "model.width is '96'; it takes a whole number"),
    "total_steps = 3": ("total_steps = 1000", "training.*total_steps above"),
    "top_k = 4000": ("top_k = 40", "merging.top_k cannot be"),
    'beacon = "0x12"': ('beacon = "prevrandao"', "run.beacon is '0x12'; it takes"),
    'sources = ["ftp://a"]': ('sources = ["http://127.0.0.1:8080"]', "run.sources is .*it takes a list of URLs"),
    'genesis_seed = "00"': ("genesis_seed =", "run.genesis_seed is '00'; it takes 64 hexadecimal digits"),
    "chain_id = 0": ("chain_id = 11155111", "run.chain_id is '0'; it takes a whole number from 1"),
    "": ("chain_id = 11155111", "run lacks chain_id: it takes a whole number"),
    "[clock]": ("[clocks]", r"clock is not a part of a parameter file; did you mean clocks\?"),
    "version = 2": ("version = 1", "version is 2; this program reads version = 1"),
    'clock = "0 min"': ('clock = "4 h"', "court.clock is 0 blocks of 12 s; from 1 to 1,048,576"),
    'grace = "30 d"': ('grace = "10 min"', "court.grace is 216,000 blocks of 12 s; from 1 to 65,536"),
    'grace = "20 min"': ('grace = "10 min"', "clocks.maturity and .court. do not fit.*it takes 15,200 blocks"),
    'exit = "35 h"': ('exit = "36 h"', "clocks.exit and .court. do not fit: exit is 10,500 blocks, less than maturity"),
    'minimum_bond = "0 ETH"': ('minimum_bond = "0.01 ETH"', "court.minimum_bond is 0 or beyond"),
    'defence_gas = "7"': ("defence_gas = 8_000_000", "court.defence_gas is '7'; it takes a whole number from 1 to"),
    'adress = "none"': ('clock = "4 h"', "court.adress is not a parameter"),
    "initial_reward = -1": ("initial_reward = 1000", "reward.initial_reward is '-1'; it takes a number of tokens"),
}


@pytest.mark.parametrize("spoilt", MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, spoilt: str) -> None:
    right, complaint = MISTAKES[spoilt]
    lines = EXAMPLE.read_text().splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith(right)]
    lines[place] = spoilt
    path = tmp_path / "network.toml"
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=complaint) as caught:
        read_parameter_file(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    named = re.search(r"line (\d+)", message)
    if spoilt and "above" not in complaint and "do not fit" not in complaint and spoilt != "max_miners = 1":
        assert named is not None
        if "training" not in complaint:
            assert int(named[1]) == place + 1


STANDING = "0x" + "00" * 19 + "01"
COURTS = {
    'address = "none"': (CourtChoice(), None),
    f'address = "{STANDING}"': (CourtChoice(address=Address(STANDING)), None),
    f'address = "{STANDING}"\ntransaction = "0x{"ab" * 32}"': (
        CourtChoice(address=Address(STANDING), transaction=f"0x{'ab' * 32}"),
        None,
    ),
    f'address = "none"\ntransaction = "0x{"ab" * 32}"': (
        None,
        'court.transaction is of no use beside address = "none"',
    ),
    'address = "0x12"': (None, "court.address is '0x12'; it takes the address of a court with its checksum"),
    f'address = "{STANDING}"\nclock = "4 h"': (
        None,
        "court.clock is a new court.s, and court.address names one that stands",
    ),
    f'address = "{STANDING}"\ntransaction = "0x12"': (None, "court.transaction is '0x12'; it takes the hash"),
    "": (None, "court lacks clock"),
}


@pytest.mark.parametrize("said", COURTS)
def test_a_court_that_stands_or_none_is_said_explicitly(tmp_path: Path, said: str) -> None:
    chosen, complaint = COURTS[said]
    text, count = re.subn(r"(?s)\[court\]\n.*?\n(?=\[reward\])", f"[court]\n{said}\n", EXAMPLE.read_text())
    assert count == 1
    path = tmp_path / "network.toml"
    path.write_text(text)
    if complaint is None:
        assert read_parameter_file(path).court == chosen
    else:
        with pytest.raises(UsageError, match=complaint):
            read_parameter_file(path)
    path.write_text(text.replace(f"[court]\n{said}\n", ""))
    with pytest.raises(UsageError, match=r'court is missing.*address = "none" for a run in which nobody'):
        read_parameter_file(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("a = [", "is not TOML"), ("", "version is None"), ("version = 1\nrun = 3", "run is 3; it takes a table")],
)
def test_what_is_no_parameter_file_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "network.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=complaint):
        read_parameter_file(path)
    with pytest.raises(UsageError, match="cannot read the parameter file"):
        read_parameter_file(tmp_path / "nowhere.toml")


def test_units_read_and_show_the_same() -> None:
    assert parse_amount("0.05 ETH") == 5 * 10**16
    assert parse_amount("30gwei") == 3 * 10**10
    assert format_amount(parse_amount("1234.5 ETH")) == "1,234.5 ETH"
    # Durations last at least as long as they say.
    assert [parse_blocks(text, 12) for text in ("1 min", "61 s", "2 h", "7 d", "5 blocks")] == [5, 6, 600, 50_400, 5]
    assert parse_blocks("1 s", 0.25) == 4
    assert format_blocks(300, 12) == "300 blocks (1 h)"
    assert parse_share("2.5 %") == 250
    for wrong in ("101 %", "1", "1.001 %", "-1 %", "", None, 5):
        with pytest.raises(ValueError, match=r"^not a "):
            parse_share(wrong)


# The chain


def view(blocks: int = 32, distinct: int = 32, longest_copy: int = 1, *, has_zero: bool = False) -> BeaconView:
    return BeaconView(blocks=blocks, distinct=distinct, longest_copy=longest_copy, has_zero=has_zero)


@pytest.mark.parametrize(
    ("seen", "delay", "complaint"),
    [
        (view(), 1, None),
        (view(distinct=1, longest_copy=32), 256, "is the same in the last 32 blocks"),
        (view(distinct=31, has_zero=True), 256, "is zero in the last 32 blocks"),
        # A rollup that copies its parent chain's value for six blocks each.
        (view(distinct=6, longest_copy=6), 59, "stays the same for 6 blocks.*60 blocks are the least"),
        (view(distinct=6, longest_copy=6), 60, None),
    ],
)
def test_randomness_that_is_constant_or_known_early_is_refused(
    seen: BeaconView, delay: int, complaint: str | None
) -> None:
    problem = find_beacon_problem(seen, delay)
    if complaint is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.search(complaint, problem)


def test_the_gas_that_is_asked_for_is_what_was_measured() -> None:
    snapshot = json.loads((ROOT / "contracts" / "gas-snapshot.json").read_text())["demo"]
    snapshot |= json.loads((ROOT / "contracts" / "gas-snapshot-court.json").read_text())
    measured = {name: snapshot[f"deploy {name}"] for name in MEASURED_GAS}
    assert measured == pytest.approx(MEASURED_GAS, rel=0.01)


def test_code_is_recognised_whatever_its_immutables_and_only_then() -> None:
    shipped = load_runtime_code("Token")
    word = bytes(12) + b"\x11" * 20
    code = bytearray(shipped.code)
    for offset in shipped.immutables[0]:
        code[offset : offset + 32] = word
    assert shipped.read_immutables(bytes(code)) == (word,)
    # One place says something else, one bit elsewhere is off, a byte is missing.
    split = bytearray(code)
    split[shipped.immutables[0][0] + 31] ^= 1
    off = bytearray(code)
    off[5] ^= 1
    for spoilt in (split, off, code[:-1], b""):
        assert shipped.read_immutables(bytes(spoilt)) is None
