"""What it costs to make other people's rounds void, and whom it hurts: a false unit that its own miner convicts, late.

A unit with one bent step that no draw finds is merged, and the rounds after it are built on the merge. Its miner
convicts it from a second account when the window closes, and plays both sides slowly: every round since is void. Nobody
steals anything; miners lose what they computed, and the model the time. docs/design/economics.md says what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from incentives import GAS, Plays, Rules, caught_chance

from cupel.launch.court import ATTACK_GAS, DEFENCE_GAS


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """What is not final yet when a false unit is convicted."""

    window: float
    """Rounds that end while it can be accused, after its own."""
    dispute: float
    """Rounds that end while it is disputed, if both sides take all their time."""
    defence: float
    """The same if the accused alone does."""
    units: int
    """Attested units a round."""


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """One miner's attempts until one succeeds, in ETH."""

    found: float
    """Chance that a draw finds the bent step, so that the unit is not merged."""
    cost: float
    """Expected, of all attempts that one success takes."""
    harm: float
    """What miners of the void rounds, the saboteur's own unit left out, had computed and gained for nothing."""
    rounds: float
    """That become void."""

    @property
    def factor(self) -> float:
        """Lost by others for each ETH that the saboteur loses."""
        return self.harm / self.cost


def sabotage(rules: Rules, friends: float, unsettled: Unsettled, *, rounds: float | None = None) -> Sabotage:
    """What one success costs and does.

    rounds  that become void after the unit's own; None: all that window and dispute allow

    An attempt that a draw would find is hidden: the unit is not opened, and its fee is lost. A convicted unit's bond is
    half burned; the other half goes to the accuser, who is the saboteur again, unless somebody watches.
    """
    found = caught_chance(replace(rules, watched=0.0), 1, friends)
    after = unsettled.window + unsettled.dispute if rounds is None else rounds
    gas = rules.gas_price * (GAS["commit"] + GAS["open"])
    kept = (1 - rules.watched) * rules.prover_share * rules.unit_bond
    success = rules.unit_bond - kept + rules.gas_price * (ATTACK_GAS + DEFENCE_GAS)
    attempts = 1 / (1 - found) if found < 1 else float("inf")
    cost = attempts * (rules.unit_cost + gas) + (attempts - 1) * rules.unavailable_fee + success
    harm = ((1 + after) * unsettled.units - 1) * rules.unit_reward
    return Sabotage(found=found, cost=cost, harm=harm, rounds=1 + after)


def play_sabotage(rules: Rules, plays: Plays, friends: float) -> tuple[float, float]:
    """Mean cost of one success, by playing: attempts until one is not found; and its standard error."""
    seen, _, _ = plays.caught(1, friends)
    gas = rules.gas_price * (GAS["commit"] + GAS["open"])
    ends = np.flatnonzero(~seen)
    attempts = np.diff(ends, prepend=-1)
    half = rules.prover_share * rules.unit_bond
    success = rules.unit_bond - half + rules.gas_price * (ATTACK_GAS + DEFENCE_GAS)
    costs = attempts * (rules.unit_cost + gas) + (attempts - 1) * rules.unavailable_fee + success
    return float(costs.mean()), float(costs.std() / np.sqrt(len(costs)))


def bond_that_answers(rules: Rules, friends: float, unsettled: Unsettled) -> float:
    """The unit bond, ETH, with which one success costs its miner as much as everybody else loses."""
    found = sabotage(rules, friends, unsettled)
    return rules.unit_bond + max(0.0, found.harm - found.cost) / (1 - rules.prover_share)


def share_that_finds(rules: Rules, friends: float, wanted: float) -> float | None:
    """Share of units to be replayed whole for one bent step to be found with this chance; None: not even all."""
    unseen_draws = 1 - caught_chance(replace(rules, whole_replays=0.0, watched=0.0), 1, friends)
    unseen_whole = 1 - caught_chance(replace(rules, whole_replays=1.0, watched=0.0), 1, friends)
    if 1 - wanted >= unseen_draws:
        return 0.0
    share = (unseen_draws - (1 - wanted)) / (unseen_draws - unseen_whole)
    return share if share <= 1 else None
