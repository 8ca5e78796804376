"""What it takes to join: enough that bonds of earlier rounds, still locked, never keep a node from the next one."""

from __future__ import annotations

from cupel.chain.run_values import Parameters
from cupel.protocol.types import Wei


def rounds_within(parameters: Parameters, blocks: int) -> int:
    """Rounds that may end within so many blocks, when rounds are as short as they can be."""
    return 2 + blocks // (2 * parameters.beacon_delay + 6)


def miner_deposit(parameters: Parameters, units: int) -> Wei:
    """Keeps `units` bonded in each round. What is disputed is held for longer, but then something is wrong with it."""
    rounds = rounds_within(parameters, parameters.maturity_blocks)
    return Wei(rounds * (units * parameters.unit_bond + parameters.merge_bond))


def verifier_deposit(parameters: Parameters, slots: int) -> Wei:
    """Keeps `slots` free. A slot's stake is held with each disputed unit, whoever was right: one a round is covered."""
    rounds = rounds_within(parameters, parameters.maturity_blocks)
    return Wei(slots * (1 + rounds) * parameters.slot_stake + rounds * parameters.merge_bond)
