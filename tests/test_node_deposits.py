"""What a node puts down: little at first, more as bonds are really locked, never more than rounds could lock."""

from __future__ import annotations

import dataclasses

import pytest
from launch_parameters import read_preset

from cupel.chain.run_values import Parameters
from cupel.node.deposits import (
    ROUNDS_AHEAD,
    find_addition,
    miner_deposit,
    miner_round,
    rounds_within,
    verifier_deposit,
    verifier_round,
)
from cupel.protocol.types import Wei

UNITS, SLOTS = 2, 3


@pytest.fixture
def parameters() -> Parameters:
    """A testnet's, with a maturity in which a thousand rounds fit."""
    found = read_preset()
    assert rounds_within(found, found.maturity_blocks) > 1000
    return found


def test_a_deposit_does_not_grow_with_maturity(parameters: Parameters) -> None:
    later = dataclasses.replace(parameters, maturity_blocks=100 * parameters.maturity_blocks)
    for of in (miner_deposit, verifier_deposit):
        assert of(later, 1) == of(parameters, 1)
    assert miner_deposit(parameters, UNITS) == ROUNDS_AHEAD * miner_round(parameters, UNITS)


def test_where_few_rounds_fit_into_maturity_no_more_are_covered_and_nothing_is_ever_added(
    parameters: Parameters,
) -> None:
    short = dataclasses.replace(parameters, maturity_blocks=3 * (2 * parameters.beacon_delay + 6))
    a_round, deposit = miner_round(short, UNITS), miner_deposit(short, UNITS)
    assert deposit == 5 * a_round
    for locked in range(0, deposit + 1, a_round):
        assert find_addition(short, a_round, kept_wei=0, deposit_wei=deposit, locked_wei=locked) == 0


def play(parameters: Parameters, a_round: Wei, kept: int, deposit: int, rounds: int) -> tuple[int, int]:
    """The deposit after rounds that each lock all they may, none mature; and rounds for which too little was free."""
    locked, missed = 0, 0
    for _ in range(rounds):
        addition = find_addition(parameters, a_round, kept_wei=kept, deposit_wei=deposit, locked_wei=locked)
        missed += deposit - locked < a_round
        locked = min(locked + a_round, deposit)
        # Added while the round runs, it counts when the next one is frozen.
        deposit += addition
    return deposit, missed


@pytest.mark.parametrize("is_miner", [True, False])
def test_bonds_that_are_locked_never_keep_a_node_out_and_no_more_is_put_down_than_they_can_be(
    parameters: Parameters, is_miner: bool
) -> None:
    a_round = miner_round(parameters, UNITS) if is_miner else verifier_round(parameters, SLOTS)
    kept = 0 if is_miner else SLOTS * parameters.slot_stake
    first = miner_deposit(parameters, UNITS) if is_miner else verifier_deposit(parameters, SLOTS)
    fits = rounds_within(parameters, parameters.maturity_blocks)
    reached, missed = play(parameters, a_round, kept, first, fits)
    assert missed == 0
    assert reached == kept + fits * a_round
    assert play(parameters, a_round, kept, first, ROUNDS_AHEAD - 2) == (first, 0)


def test_what_was_burned_is_not_replaced(parameters: Parameters) -> None:
    a_round, first = miner_round(parameters, UNITS), miner_deposit(parameters, UNITS)
    locked = first - a_round
    added = find_addition(parameters, a_round, kept_wei=0, deposit_wei=first, locked_wei=locked)
    assert added == first
    assert find_addition(parameters, a_round, kept_wei=0, deposit_wei=first - 1, locked_wei=locked) == 0
