"""What `cupel network check` says of a court: each warning comes from what it is about, and from nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from launch_parameters import NETWORKS, read_preset

from cupel.chain.court_deployment import Clocks, find_time_problem
from cupel.launch.court import LONGEST_DEFENCE_GAS, describe_court, find_court_oddities
from cupel.launch.parameter_file import read_parameter_file
from cupel.protocol.types import Wei

GWEI = 10**9


def read_clocks(name: str) -> tuple[Clocks, float]:
    chosen = read_parameter_file(NETWORKS / f"{name}.toml")
    assert chosen.court.clocks is not None
    return chosen.court.clocks, chosen.block_seconds


@pytest.mark.parametrize("name", ["testnet", "l2"])
def test_the_files_we_ship_give_honest_defenders_time_and_no_reason_to_warn(name: str) -> None:
    clocks, seconds = read_clocks(name)
    assert list(find_court_oddities(clocks, read_preset(name), seconds, Wei(GWEI // 2))) == []


ODD: dict[str, tuple[dict[str, Any], dict[str, Any], float, int]] = {
    # The clock of 150 blocks of 0.2 s with which an honest defender was too slow.
    "court.clock": ({"clock_blocks": 150}, {}, 0.2, GWEI // 2),
    "court.grace": ({"grace_blocks": 4}, {}, 12, GWEI // 2),
    "court.defence_gas": ({"defence_gas": LONGEST_DEFENCE_GAS - 1}, {}, 12, GWEI // 2),
    "unit_bond": ({}, {}, 12, GWEI),
    "window_blocks": ({}, {"window_blocks": 299}, 12, GWEI // 2),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_court_is_pointed_out(name: str) -> None:
    of_court, of_run, seconds, base_fee = ODD[name]
    clocks = dataclasses.replace(read_clocks("testnet")[0], **of_court)
    parameters = dataclasses.replace(read_preset(), **of_run)
    found = {oddity for oddity, _ in find_court_oddities(clocks, parameters, seconds, Wei(base_fee))}
    assert found - {"court.grace"} == {name} - {"court.grace"}
    assert name in found


def test_bonds_must_outlast_the_longest_dispute_and_deposits_the_bonds() -> None:
    clocks, _ = read_clocks("testnet")
    least = 3600 + clocks.longest_dispute
    assert find_time_problem(clocks, maturity_blocks=least, window_blocks=3600, exit_blocks=least) is None
    early = find_time_problem(clocks, maturity_blocks=least - 1, window_blocks=3600, exit_blocks=least)
    assert early is not None
    assert f"it takes {least:,} blocks" in early
    left = find_time_problem(clocks, maturity_blocks=least, window_blocks=3600, exit_blocks=least - 1)
    assert left is not None
    assert left.startswith("exit is")


def test_an_accuser_is_told_what_it_takes_now_and_names_are_the_same_without_a_court() -> None:
    clocks, seconds = read_clocks("testnet")
    calm, busy = (dict(describe_court(clocks, seconds, Wei(fee))) for fee in (1, GWEI))
    assert calm["an accuser puts down"].startswith("0.01 ETH")
    assert busy["an accuser puts down"].startswith("0.07 ETH")
    assert set(dict(describe_court(None, seconds, Wei(1)))) == set(calm)
