"""What making other people's rounds void costs, and whom it hurts: a unit or merge that its own author convicts, late.

Whoever answers no accusation, or answers it with a false trace, is convicted, and its claim may have been right all the
same. So a miner convicts its own merged unit from a second account when the window closes, or a proposer its own merge,
and plays both sides slowly: every round since is void. The unit may have a bent step, which makes it dearer and not
worse. Nobody steals anything; miners lose what they computed, and the model the time. docs/design/economics.md says
what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

import numpy as np
from incentives import GAS, Plays, Rules, caught_chance, honest_miner

from cupel.launch.court import ATTACK_GAS, DEFENCE_GAS


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """What is not final yet when a claim is convicted."""

    window: float
    """Rounds that end while it can be accused, after its own."""
    dispute: float
    """Rounds that end while it is disputed, if both sides take all their time."""
    defence: float
    """The same if the accused alone does."""
    patience: float
    """Rounds that end while nodes wait behind an accusation that the saboteur has brought against itself."""
    units: int
    """Attested units a round."""


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """One saboteur's attempts until one succeeds, in ETH."""

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


def self_conviction_gas(rules: Rules) -> float:
    """Both sides of a whole dispute, ETH; silence costs a third of it, and takes less time."""
    return rules.gas_price * (ATTACK_GAS + DEFENCE_GAS)


def sabotage(rules: Rules, friends: float, unsettled: Unsettled, *, rounds: float | None = None) -> Sabotage:
    """What one success by a unit with one bent step costs and does.

    rounds  that become void after the unit's own; None: all that window and dispute allow

    An attempt that a draw would find is hidden: the unit is not opened, and its fee is lost. A convicted unit's bond is
    half burned; the other half goes to an account of the saboteur's, also where somebody else watches
    (`Rules.conviction_loss`).
    """
    found = caught_chance(replace(rules, watched=0.0), 1, friends)
    after = unsettled.window + unsettled.dispute if rounds is None else rounds
    gas = rules.gas_price * (GAS["commit"] + GAS["open"])
    attempts = 1 / (1 - found) if found < 1 else float("inf")
    success = rules.conviction_loss + self_conviction_gas(rules)
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


def convict_right_unit(rules: Rules, unsettled: Unsettled) -> Sabotage:
    """Its own, which no draw and no watcher finds anything wrong with: nobody else can end it sooner."""
    rounds = 1 + unsettled.window + unsettled.dispute
    gas = rules.gas_price * (GAS["commit"] + GAS["open"])
    cost = rules.unit_cost + gas + rules.conviction_loss + self_conviction_gas(rules)
    return Sabotage(found=0.0, cost=cost, harm=(rounds * unsettled.units - 1) * rules.unit_reward, rounds=rounds)


def convict_right_merge(rules: Rules, unsettled: Unsettled) -> Sabotage:
    """Its own, proposed before others propose the same. A merge takes no training: its bond alone is what it costs."""
    rounds = 1 + unsettled.window + unsettled.dispute
    cost = rules.gas_price * GAS["commit"] + rules.merge_loss + self_conviction_gas(rules)
    return Sabotage(found=0.0, cost=cost, harm=rounds * unsettled.units * rules.unit_reward, rounds=rounds)


def bond_that_answers(rules: Rules, unsettled: Unsettled) -> float:
    """The unit bond, ETH, with which convicting one's own right unit costs as much as everybody else loses."""
    found = convict_right_unit(rules, unsettled)
    return rules.unit_bond + max(0.0, found.harm - found.cost) / (1 - rules.prover_share)


@dataclass(frozen=True, kw_only=True)
class Pocket:
    """A miner that skips work in all its units of a round, and may give the round up after the draw. A unit:"""

    without: float
    """Expected of a unit without that, ETH: what is found is hidden."""
    profit: float
    """With it, the round given up wherever that is the smaller loss."""
    honest: float
    pulled: float
    """Of all draws."""

    @property
    def loses(self) -> bool:
        return self.profit < self.honest


def pocket_cost(rules: Rules) -> float:
    """Of one draw refused: a claim of its own, accused by itself and lost at that moment, whichever is cheaper.

    A unit's reward is gone with it; a merge's share is little and left out.
    """
    gas = self_conviction_gas(rules) + rules.gas_price * GAS["commit"]
    return gas + min(rules.conviction_loss + rules.unit_reward, rules.merge_loss)


def _after_draw(rules: Rules, units: int) -> np.ndarray:
    """float[units + 1]: what a round brings once `i` units were found, beyond what was spent before the draw."""
    found = np.arange(units + 1)
    return (units - found) * rules.unit_reward - found * min(rules.unavailable_fee, rules.conviction_loss)


def _before_draw(rules: Rules, skipped: int, units: int) -> float:
    gas = rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])
    return units * ((rules.segments - skipped) * rules.segment_cost + gas)


def pocket(rules: Rules, skipped: int, units: int, friends: float) -> Pocket:
    """A round given up frees the bonds of its units, found or not, and costs what a conviction of one's own costs.

    Every such draw needs another claim that was merged and is not final. The next round comes either way.
    """
    chance = caught_chance(rules, skipped, friends)
    weights = np.array([comb(units, i) * chance**i * (1 - chance) ** (units - i) for i in range(units + 1)])
    brings, spent, cost = _after_draw(rules, units), _before_draw(rules, skipped, units), pocket_cost(rules)
    return Pocket(
        without=(float(weights @ brings) - spent) / units,
        profit=(float(weights @ np.maximum(brings, -cost)) - spent) / units,
        honest=honest_miner(rules),
        pulled=float(weights[brings < -cost].sum()),
    )


def play_pocket(rules: Rules, plays: Plays, skipped: int, units: int, friends: float) -> tuple[float, float]:
    """Mean of a unit by playing rounds; and its standard error."""
    seen, _, _ = plays.caught(skipped, friends)
    found = seen[: len(seen) // units * units].reshape(-1, units).sum(-1)
    kept = (units - found) * rules.unit_reward - found * min(rules.unavailable_fee, rules.conviction_loss)
    profits = np.maximum(kept, -pocket_cost(rules)) - _before_draw(rules, skipped, units)
    return float(profits.mean() / units), float(profits.std() / np.sqrt(len(profits)) / units)


def share_that_finds(rules: Rules, friends: float, wanted: float) -> float | None:
    """Share of units to be replayed whole for one bent step to be found with this chance; None: not even all."""
    unseen_draws = 1 - caught_chance(replace(rules, whole_replays=0.0, watched=0.0), 1, friends)
    unseen_whole = 1 - caught_chance(replace(rules, whole_replays=1.0, watched=0.0), 1, friends)
    if 1 - wanted >= unseen_draws:
        return 0.0
    share = (unseen_draws - (1 - wanted)) / (unseen_draws - unseen_whole)
    return share if share <= 1 else None
