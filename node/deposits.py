"""What it takes to join, and to stay in: bonds of earlier rounds are locked until these are mature.

How many rounds that is depends on how fast the run plays, which nobody knows when joining: as many as can end in a
maturity of a day and a half would ask for a thousand bonds. So a node puts down enough for a few rounds, and more once
bonds are really locked; what comes free is used again. It never puts down more than the fastest rounds could lock.
"""

from __future__ import annotations

from cupel.chain.run_values import Parameters
from cupel.protocol.types import Wei

ROUNDS_AHEAD = 16
"""What a deposit is for, and what is added to it at a time: seldom a transaction, and little that lies idle."""


def rounds_within(parameters: Parameters, blocks: int) -> int:
    """Rounds that may end within so many blocks, when rounds are as short as they can be."""
    return 2 + blocks // (2 * parameters.beacon_delay + 6)


def rounds_covered(parameters: Parameters) -> int:
    """That a default deposit lasts for, if nothing comes free meanwhile."""
    return min(ROUNDS_AHEAD, rounds_within(parameters, parameters.maturity_blocks))


def miner_round(parameters: Parameters, units: int) -> Wei:
    """What one round may lock of a miner's deposit."""
    return Wei(units * parameters.unit_bond + parameters.merge_bond)


def verifier_round(parameters: Parameters, slots: int) -> Wei:
    """What one round may lock of a verifier's: a slot's stake is held with a disputed unit, whoever was right."""
    return Wei(slots * parameters.slot_stake + parameters.merge_bond)


def miner_deposit(parameters: Parameters, units: int) -> Wei:
    """Keeps `units` bonded in each round. What is disputed is held for longer, but then something is wrong with it."""
    return Wei(rounds_covered(parameters) * miner_round(parameters, units))


def verifier_deposit(parameters: Parameters, slots: int) -> Wei:
    """Keeps `slots` free, one disputed unit a round covered."""
    return Wei(slots * parameters.slot_stake + rounds_covered(parameters) * verifier_round(parameters, slots))


def find_addition(parameters: Parameters, a_round_wei: Wei, *, kept_wei: int, deposit_wei: int, locked_wei: int) -> Wei:
    """What to add to a seat's deposit, so that the rounds to come find enough of it free; 0 while they do.

    0 too of a deposit below the first one: something was burned, and a person has to look before more is at stake.


    a_round_wei   what one round may lock
    kept_wei      what is to stay free besides: a verifier's slots
    """
    first = kept_wei + rounds_covered(parameters) * a_round_wei
    if deposit_wei < first or deposit_wei - locked_wei >= kept_wei + 2 * a_round_wei:
        return Wei(0)
    most = kept_wei + rounds_within(parameters, parameters.maturity_blocks) * a_round_wei
    return Wei(max(0, min(first - kept_wei, most - deposit_wei)))
