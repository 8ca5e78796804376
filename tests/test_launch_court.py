"""What `cupel network check` says of a court: each warning comes from what it is about, and from nothing else."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from launch_parameters import NETWORKS, read_preset

from cupel.chain.court_deployment import Clocks, find_time_problem
from cupel.chain.run_values import Parameters
from cupel.launch.checking import find_oddities
from cupel.launch.court import ATTACK_GAS, LONGEST_DEFENCE_GAS, describe_court, find_court_oddities
from cupel.launch.hiding import FRIENDS, find_cost_held, found_chance
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
    "merge_bond": ({}, {"merge_bond": read_preset().unit_bond - 1}, 12, GWEI // 2),
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


def test_an_accuser_is_told_what_it_takes_and_brings_and_names_are_the_same_without_a_court() -> None:
    (clocks, seconds), run = read_clocks("testnet"), read_preset()
    calm, busy = (dict(describe_court(clocks, run, seconds, Wei(fee))) for fee in (1, GWEI))
    assert calm["an accuser puts down"].startswith("0.01 ETH")
    assert busy["an accuser puts down"].startswith("0.08 ETH")
    assert calm["a conviction brings"] == "0.00075 ETH, more than its gas costs up to 0.536 gwei"
    assert set(dict(describe_court(None, run, seconds, Wei(1)))) == set(calm)


def test_a_prize_is_compared_with_what_gas_costs_in_all_and_the_warning_names_the_price_at_which_it_begins() -> None:
    (clocks, seconds), run = read_clocks("testnet"), read_preset()
    ceiling = run.unit_bond // 2 // ATTACK_GAS
    assert not list(find_court_oddities(clocks, run, seconds, Wei(ceiling)))
    ((name, oddity),) = find_court_oddities(clocks, run, seconds, Wei(ceiling + 1))
    assert name == "unit_bond"
    assert "above 0.536 gwei" in oddity


# The fee for hidden work


def play(p: Parameters, bad: int, random: np.random.Generator, plays: int = 20_000) -> float:
    """How often somebody honest repeats one of the segments 0 to bad - 1, drawn as the contract draws; the cheat
    refuses the first draw that would find it."""
    found = np.zeros((2, plays), dtype=bool)
    for attempt in found:
        whole = random.random(plays) < p.replay_bps / 10_000
        for place in range(p.verifiers_per_unit):
            order = random.random((plays, p.segments)).argsort(axis=1)[:, : p.segments_per_verifier]
            sees = (order < bad).any(axis=1) | (whole & (place == 0))
            attempt |= sees & (random.random(plays) >= FRIENDS)
    return float(found.all(axis=0).mean())


def test_the_chance_of_being_found_is_that_of_draws_as_they_are_made() -> None:
    run, random = read_preset(), np.random.default_rng(5)
    for bad in (1, 3, run.segments):
        assert play(run, bad, random) == pytest.approx(found_chance(run, bad), abs=0.01)


def test_the_fee_of_the_files_we_ship_outweighs_the_work_that_it_was_sized_for() -> None:
    run = read_preset()
    held = find_cost_held(run)
    # benchmarks/economics.py takes a unit to cost 0.0002 ETH.
    assert 2 * 10**14 < held < run.unavailable_fee
    worst = max(bad / run.segments * held / found_chance(run, bad) for bad in range(1, run.segments + 1))
    assert worst == pytest.approx(run.unavailable_fee)


def test_a_fee_that_is_too_small_for_what_a_unit_costs_is_pointed_out_with_the_one_that_is_not() -> None:
    run = read_preset()
    held = find_cost_held(run)

    def found(p: Parameters, cost: int | None) -> dict[str, str]:
        return dict(find_oddities(p, 12, None if cost is None else Wei(cost)))

    assert "unavailable_fee" not in found(run, None) | found(run, held)
    said = found(run, 3 * held)["unavailable_fee"]
    wanted = re.search(r"it takes ([0-9.]+) ETH", said)
    assert wanted is not None
    enough = dataclasses.replace(run, unavailable_fee=int(Decimal(wanted[1]) * 10**18))
    assert "unavailable_fee" not in found(enough, 3 * held)
