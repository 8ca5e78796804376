"""Clocks that wait where transactions cost many times what they usually do, and no longer than twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from contract_world import ACKNOWLEDGE, MERGE, OPEN, SEAL, SEED, TRAIN, Stage, World, stage_at
from eth.vm.forks.london import LondonVM

GWEI = 10**9
LENGTHS = {TRAIN: 30, SEAL: 30, OPEN: 40, MERGE: 20, ACKNOWLEDGE: 15}


@pytest.fixture(autouse=True)
def any_base_fee(monkeypatch: pytest.MonkeyPatch) -> None:
    """py-evm takes no other base fee than the blocks before lead to, and a spike takes hundreds of full ones."""
    monkeypatch.setattr(LondonVM, "validate_gas", classmethod(lambda *_: None))


def set_base_fee(world: World, fee: int) -> None:
    """Of the block to come."""
    world.chain.header = world.chain.header.copy(base_fee_per_gas=fee)


def mine_to_last_quarter(world: World) -> int:
    """So that the next transaction is in the first block in which the phase may be extended. Returns its end."""
    current = world.ask("current")
    first, _ = world.ask("extension")
    assert first == current["until"] - LENGTHS[current["phase"]] // 4 + 1
    world.mine_to(first)
    return int(current["until"])


@pytest.mark.parametrize("phase", LENGTHS)
def test_a_spike_of_fees_moves_a_phase_by_a_quarter(phase: int) -> None:
    stage = stage_at(phase)
    world = stage.world
    until = mine_to_last_quarter(world)
    set_base_fee(world, 5 * GWEI)
    receipt = world.send(stage.outsider, "extend")
    assert receipt.named("Extended") == [{"round": 0, "phase": phase, "until": until + LENGTHS[phase] // 4}]
    assert world.ask("current")["until"] == until + LENGTHS[phase] // 4


def test_a_phase_is_never_longer_than_twice() -> None:
    stage = stage_at(TRAIN)
    world = stage.world
    world.commit(stage.miners[0], world.honest_work(stage.miners[0]))
    until = world.ask("current")["until"]
    for _ in range(4):
        mine_to_last_quarter(world)
        set_base_fee(world, 5 * GWEI)
        world.send(stage.outsider, "extend")
    assert world.ask("current")["until"] == until + 4 * 7
    assert world.ask("extension")[0] == 0
    world.mine_to(until + 4 * 7)
    set_base_fee(world, 5 * GWEI)
    assert stage.refused("NoMoreExtensions", lambda: world.send(stage.outsider, "extend")) == {"extensions": 4}
    # The next phase has its own four.
    world.pass_to(SEAL)
    mine_to_last_quarter(world)
    set_base_fee(world, 5 * GWEI)
    world.send(stage.outsider, "extend")


def extended_at(fee: int) -> Callable[[Stage], object]:
    def act(stage: Stage) -> object:
        set_base_fee(stage.world, fee)
        return stage.world.send(stage.outsider, "extend")

    return act


def test_usual_fees_and_those_nobody_minds_are_no_reason() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    mine_to_last_quarter(world)
    _, above = world.ask("extension")
    numbers = stage.refused("FeesAreUsual", lambda: extended_at(above)(stage))
    assert numbers == {"baseFee": above, "above": above}
    extended_at(above + 1)(stage)


def test_a_reference_above_the_floor_counts_four_times() -> None:
    stage = stage_at(SEED)
    world = stage.world
    world.mine_to(world.ask("current")["until"])
    set_base_fee(world, GWEI)
    world.advance()
    assert world.phase == TRAIN
    assert world.ask("extension")[1] == 4 * GWEI


def test_what_is_usual_follows_an_eighth_of_the_way_each_round() -> None:
    stage = stage_at(SEED)
    world = stage.world
    fees = []
    for _ in range(3):
        world.mine_to(world.ask("current")["until"])
        set_base_fee(world, 8 * GWEI if fees else GWEI)
        world.advance()
        fees.append(world.ask("extension")[1] // 4)
        world.pass_phase()
    assert fees[0] == GWEI
    assert fees[1] == (7 * GWEI + 8 * GWEI) // 8
    assert fees[2] == (7 * fees[1] + 8 * GWEI) // 8


def test_only_its_last_quarter_extends_a_phase() -> None:
    stage = stage_at(OPEN)
    world = stage.world
    first, _ = world.ask("extension")
    world.mine_to(first - 1)
    numbers = stage.refused("TooEarlyToExtend", lambda: extended_at(5 * GWEI)(stage))
    assert numbers == {"height": first - 1, "from": first}


def test_a_phase_that_everybody_ended_is_not_extended() -> None:
    stage = stage_at(SEAL)
    world = stage.world
    # All three seals in one block, and the extension behind them, would need a block of several transactions: the
    # mark that the last seal leaves says the same.
    for verifier in stage.verifiers:
        world.seal(verifier, stage.works)
    assert world.ask("current")["due"]
    assert world.ask("extension")[0] == 0


def test_waiting_for_the_beacon_is_not_extended() -> None:
    stage = stage_at(SEED)
    assert stage.world.ask("extension")[0] == 0
    stage.refused("WrongPhase", lambda: extended_at(5 * GWEI)(stage))
