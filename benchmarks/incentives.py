"""What each kind of cheat may expect under a run's rules: played many times, and as a formula beside it.

Money is in ETH. A unit has n segments; V verifiers draw k of them each; a share r of all slots belongs to the cheat's
friends, spread over so many accounts that every draw is one of them with chance r. Formulas are exact for that; the
plays use the same rules without them, so that each checks the other. docs/design/economics.md says what is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import comb

import numpy as np
from numpy.random import Generator

from cupel.chain.court_deployment import BOND_FACTOR
from cupel.launch.court import ATTACK_GAS, DEFENCE_GAS


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the contract fixes, and what an honest unit costs and brings."""

    segments: int
    """n"""
    verifiers: int
    """V, of a unit"""
    drawn: int
    """k, segments a verifier replays"""
    quorum: int
    unit_bond: float
    unavailable_fee: float
    """Lost, with the reward, by a unit that is not opened or ruled unavailable."""
    slot_stake: float
    seal_fee: float
    unit_reward: float
    """A miner's for one attested unit."""
    attestation_reward: float
    """A verifier's for one assignment."""
    unit_cost: float
    """Computing one unit, all segments."""
    gas_price: float
    """ETH a unit of gas."""
    merge_bond: float
    jury: int
    """J, of a round"""
    seats: int
    """Verifiers a round may have."""
    units: int
    """Of a full round."""
    minimum_bond: float
    """Least bond of an accusation."""
    defence_gas: int
    """Of which an accusation's bond pays for ten, if that is more."""
    whole_replays: float = 0.0
    """Share of units whose first verifier is drawn for all segments."""
    watched: float = 0.0
    """Share of units that somebody honest replays whole without being asked."""
    prover_share: float = 0.5
    """Of what is slashed, at most; the rest is burned."""

    @property
    def conviction_loss(self) -> float:
        """What a convicted unit costs its miner: the burned part alone.

        The prize goes to the earliest accusation of the segment that was judged. A liar that accuses itself of another
        segment, and loses there first, by a false trace for instance, takes it home. The gas of that is left out.
        """
        return (1 - self.prover_share) * self.unit_bond

    @property
    def merge_loss(self) -> float:
        """The same of a convicted merge's proposer."""
        return (1 - self.prover_share) * self.merge_bond

    @property
    def segment_cost(self) -> float:
        return self.unit_cost / self.segments

    @property
    def replay_cost(self) -> float:
        """Of one assignment."""
        return self.drawn * self.segment_cost


GAS = {"commit": 90_000, "open": 80_000, "seal": 50_000, "reveal": 50_000, "claim": 60_000}
"""Whole transactions a unit or an assignment, as the contracts are held to (contracts/gas-snapshot.json)."""
TRANSACTION_GAS = 21_000
"""Of every transaction, whatever it does: an account seals and reveals for all its units of a round in one each."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One kind of cheat."""

    name: str
    what: str
    profit: float
    """ETH expected a unit (an assignment, an accusation), against staying away."""
    honest: float
    """The same for who does the work."""
    played: float
    """The mean of the plays."""
    error: float
    """Standard error of that mean."""
    works: bool = False
    """Whether it does most of the honest work: then earning less than the honest is loss enough. Else it must pay."""

    @property
    def loses(self) -> bool:
        return self.profit < self.honest and (self.works or self.profit < 0)

    @property
    def agrees(self) -> bool:
        """Whether formula and plays say the same, as far as so many plays can tell."""
        return abs(self.profit - self.played) <= 5 * self.error + 1e-12 + 1e-9 * abs(self.profit)


def miss_chance(rules: Rules, bad: int) -> float:
    """That one verifier's k of n segments avoid all `bad` ones."""
    good = rules.segments - bad
    return comb(good, rules.drawn) / comb(rules.segments, rules.drawn) if good >= rules.drawn else 0.0


def caught_chance(rules: Rules, bad: int, friends: float, rerolls: int = 0) -> float:
    """That somebody honest replays a bad segment. `rerolls`: draws a proposer of blocks among the cheats may refuse."""
    each = friends + (1 - friends) * miss_chance(rules, bad)
    # Of a unit that is replayed whole, the first verifier sees everything: it helps only as a friend.
    first = (1 - rules.whole_replays) * each + rules.whole_replays * friends
    unseen = first * each ** (rules.verifiers - 1)
    draw_finds = (1 - unseen) ** (1 + rerolls)
    return 1 - (1 - draw_finds) * (1 - rules.watched)


def honest_miner(rules: Rules) -> float:
    return rules.unit_reward - rules.unit_cost - rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])


def honest_verifier(rules: Rules) -> float:
    return rules.attestation_reward - rules.replay_cost - rules.gas_price * (GAS["seal"] + GAS["reveal"])


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


class Plays:
    """Draws as the contract makes them, many units at once."""

    def __init__(self, rules: Rules, count: int, random: Generator) -> None:
        self.rules, self.count, self.random = rules, count, random

    def friends(self, share: float) -> np.ndarray:
        """bool[count, V]: which of a unit's verifiers are the cheat's."""
        return self.random.random((self.count, self.rules.verifiers)) < share

    def finds(self, bad: int) -> np.ndarray:
        """bool[count, V]: whether a verifier's segments hold one of the `bad` ones (segments 0 ... bad - 1)."""
        order = self.random.random((self.count, self.rules.verifiers, self.rules.segments)).argsort(-1)
        return (order[..., : self.rules.drawn] < bad).any(-1)

    def caught(self, bad: int, share: float, rerolls: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """bool[count]; how many of each unit's verifiers are friends; bool[count], whether it is replayed whole."""
        found = np.ones(self.count, dtype=bool)
        for _ in range(1 + rerolls):
            friends = self.friends(share)
            finds = self.finds(bad)
            whole = self.random.random(self.count) < self.rules.whole_replays
            finds[:, 0] |= whole
            found &= (finds & ~friends).any(-1)
        watched = self.random.random(self.count) < self.rules.watched
        return found | watched, friends.sum(-1), whole


def lazy_miner(rules: Rules, plays: Plays, skipped: int, friends: float, *, hides: bool, rerolls: int = 0) -> Outcome:
    """Skips whole segments: skipping half of one is found as often and saves half.

    Who hides sees the draw, and where it would be found opens nothing: the fee for withheld work is lost, not the bond.
    Who does not is convicted, and takes its own prize.
    """
    cost = (rules.segments - skipped) * rules.segment_cost
    lost = rules.unavailable_fee if hides else rules.conviction_loss
    gas = rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])
    chance = caught_chance(rules, skipped, friends, rerolls)
    seen, _, _ = plays.caught(skipped, friends, rerolls)
    played, error = _mean(np.where(seen, -lost, rules.unit_reward) - cost - gas)
    share = skipped / rules.segments
    return Outcome(
        name=f"lazy miner, {share:.0%} skipped" + (", hides" if hides else "") + (", re-rolls" if rerolls else ""),
        what="claims steps it never took" + (", and opens nothing when that would show" if hides else ""),
        profit=(1 - chance) * rules.unit_reward - chance * lost - cost - gas,
        honest=honest_miner(rules),
        played=played,
        error=error,
        works=skipped < rules.segments,
    )


def plagiarist(rules: Rules, plays: Plays, friends: float) -> Outcome:
    """Commits a copy of another's unit: its data order is another, so that every segment is wrong."""
    gas = rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])
    chance = caught_chance(rules, rules.segments, friends)
    seen, _, _ = plays.caught(rules.segments, friends)
    played, error = _mean(np.where(seen, -rules.conviction_loss, rules.unit_reward) - gas)
    return Outcome(
        name="plagiarist",
        what="commits a copy of another miner's states",
        profit=(1 - chance) * rules.unit_reward - chance * rules.conviction_loss - gas,
        honest=honest_miner(rules),
        played=played,
        error=error,
    )


def coalition(rules: Rules, plays: Plays, share: float, *, hides: bool = False) -> Outcome:
    """Miner and a share of the verifiers work together: no work at all, and friends attest whatever is asked.

    Friends that attested a convicted segment lose the pay for it and no stake: honest ones, whose miner let itself be
    convicted, would lose it too. Who hides opens nothing where an honest verifier was drawn: the unit's fee is lost,
    and nobody is convicted.
    """
    gas = rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])
    sworn = rules.gas_price * (GAS["seal"] + GAS["reveal"])
    seen, friends, whole = plays.caught(rules.segments, share)
    # Paid by the segment.
    more = rules.segments / rules.drawn - 1
    won = rules.unit_reward + (friends + whole * more) * rules.attestation_reward
    deposit = rules.unavailable_fee if hides else rules.conviction_loss
    played, error = _mean(np.where(seen, -deposit, won) - gas - friends * sworn)
    expected = share * rules.verifiers
    # Not seen: all V are friends, and no replay of the whole unit, nobody watching.
    unseen = 1 - caught_chance(rules, rules.segments, share)
    unseen_friends = unseen * rules.verifiers
    return Outcome(
        name=f"coalition with {share:.0%} of the slots" + (", hides" if hides else ""),
        what="no work; its verifiers attest",
        profit=unseen * rules.unit_reward
        + (unseen_friends + unseen * rules.whole_replays * more) * rules.attestation_reward
        - (1 - unseen) * deposit
        - gas
        - expected * sworn,
        honest=honest_miner(rules),
        played=played,
        error=error,
    )


def poisoner(rules: Rules, plays: Plays, friends: float, gain: float, *, hides: bool = False) -> Outcome:
    """Does all the work but bends one step; `gain` is what the bent model is worth to it, once, from outside.

    Who hides opens nothing where the draw would find it: the fee is lost, and nobody is convicted. No draw tells who
    watches.
    """
    drawn = replace(rules, watched=0.0)
    chance = caught_chance(drawn, 1, friends)
    seen, _, _ = Plays(drawn, plays.count, plays.random).caught(1, friends)
    watched = plays.random.random(plays.count) < rules.watched
    base = -rules.unit_cost - rules.gas_price * (GAS["commit"] + GAS["open"] + GAS["claim"])
    lost = rules.unavailable_fee if hides else rules.conviction_loss
    won = np.where(watched, -rules.conviction_loss, rules.unit_reward + gain)
    played, error = _mean(np.where(seen, -lost, won) + base)
    unseen = (1 - rules.watched) * (rules.unit_reward + gain) - rules.watched * rules.conviction_loss
    return Outcome(
        name="one-step poisoner" + (", hides" if hides else ""),
        what=f"bends one step; the bent model is worth {gain:g} ETH to it",
        profit=(1 - chance) * unseen - chance * lost + base,
        honest=honest_miner(rules),
        played=played,
        error=error,
        works=True,
    )


def tolerable_gain(rules: Rules, friends: float) -> float:
    """What a bent step may be worth before bending pays: above it only a watcher protects the model.

    What a draw would find is hidden, or convicted where that costs less.
    """
    seen, watched = caught_chance(replace(rules, watched=0.0), 1, friends), rules.watched
    through = (1 - seen) * (1 - watched)
    if through <= 0:
        return float("inf")
    drawn = min(rules.unavailable_fee, rules.conviction_loss)
    lost = seen * drawn + (1 - seen) * watched * rules.conviction_loss
    return (rules.unit_reward + lost) / through - rules.unit_reward


def lazy_verifier(rules: Rules, strategy: str) -> Outcome:
    """Does not replay. Nothing here is left to chance, so there is nothing to play.

    silent    seals nothing: the fee
    withdraws seals something and never reveals it: the stake
    guesses   reveals what it did not compute: a dissent that convicts nobody, the stake
    floods    guesses for every unit of a round with one stake: what that does not back is not heard, and costs nothing
    """
    sealed = rules.gas_price * GAS["seal"]
    profits: Mapping[str, float] = {
        "silent": -rules.seal_fee,
        "withdraws": -rules.slot_stake - sealed,
        "guesses": -rules.slot_stake - sealed - rules.gas_price * GAS["reveal"],
        "floods": -rules.slot_stake / rules.units - sealed - rules.gas_price * GAS["reveal"],
    }
    profit = profits[strategy]
    return Outcome(
        name=f"lazy verifier, {strategy}",
        what="does not replay what it was drawn for",
        profit=profit,
        honest=honest_verifier(rules),
        played=profit,
        error=0.0,
    )


def leaking_miner(rules: Rules) -> Outcome:
    """Tells a verifier the sealed bits to spare it the replay: whoever knows them early takes half of the bond.

    The miner may be the first to disclose them, from another account: then it has that half itself.
    """
    bribe_needed = rules.prover_share * rules.unit_bond
    # Worth most to the verifier of a whole unit, where there is one.
    times = rules.segments / rules.drawn if rules.whole_replays else 1.0
    saved = times * rules.replay_cost
    profit = honest_miner(rules) + saved - rules.conviction_loss
    if bribe_needed <= times * rules.attestation_reward:
        profit = honest_miner(rules) + saved
    return Outcome(
        name="miner that leaks its answers",
        what="shares what a replay would cost with a verifier; disclosing pays that verifier more",
        profit=profit,
        honest=honest_miner(rules),
        played=profit,
        error=0.0,
    )


def withholder(rules: Rules, *, when: str) -> Outcome:
    """Commits to noise and serves nothing: to nobody, or to nobody who accuses it.

    drawn     its verifiers and jury get no state: ruled unavailable
    disputed  its friends alone were drawn and attest; it answers no accusation, and loses by silence, to itself
    """
    gas = {"drawn": GAS["commit"], "disputed": GAS["commit"] + GAS["open"]}[when] * rules.gas_price
    profit = -{"drawn": rules.unavailable_fee, "disputed": rules.conviction_loss}[when] - gas
    return Outcome(
        name="withholder" + (", silent when accused" if when == "disputed" else ""),
        what="commits and serves nothing",
        profit=profit,
        honest=honest_miner(rules),
        played=profit,
        error=0.0,
    )


def spammer(rules: Rules) -> Outcome:
    """Accuses what is right. The defender gets its gas back from the bond, the rest burns."""
    bond = max(rules.minimum_bond, BOND_FACTOR * rules.defence_gas * rules.gas_price)
    profit = -bond - ATTACK_GAS * rules.gas_price
    return Outcome(name="spammer", what="accuses right work", profit=profit, honest=0.0, played=profit, error=0.0)


def self_accuser(rules: Rules) -> Outcome:
    """Cheats and convicts itself before anybody else does, to save the prover's half."""
    profit = -rules.conviction_loss - rules.gas_price * (GAS["commit"] + GAS["open"] + ATTACK_GAS + DEFENCE_GAS)
    return Outcome(
        name="miner that convicts itself",
        what="pays the prover's half to itself",
        profit=profit,
        honest=honest_miner(rules),
        played=profit,
        error=0.0,
    )


def sybil(rules: Rules, plays: Plays, share: float) -> Outcome:
    """A share of all slots split over half of the seats: what an assignment leaves, against accounts of usual size.

    Draws of a unit are of distinct accounts, weighted by slots: small ones are drawn a little oftener than they weigh.
    All of it is work, paid like everybody's; but each account that was drawn sends transactions of its own.
    """
    accounts = rules.seats // 2
    others = rules.seats - accounts
    rounds = max(1, min(plays.count, 100_000) // rules.units)

    def draw(mine: int) -> tuple[int, int]:
        """Assignments of all rounds, and how often an account had some in a round."""
        weights = np.concatenate([np.full(mine, share / mine), np.full(others, (1 - share) / others)])
        # Weighted draws without replacement: the V largest of log(u) / weight.
        keys = np.log(plays.random.random((rounds, rules.units, len(weights)))) / weights
        drawn = np.argsort(-keys, -1)[..., : rules.verifiers].reshape(rounds, -1)
        seen = (drawn[..., None] == np.arange(mine)).any(1)
        return int((drawn < mine).sum()), int(seen.sum())

    work, senders = draw(accounts)
    usual_work, usual_senders = draw(max(1, round(others * share / (1 - share))))
    # What an assignment leaves, but for what a transaction costs however much it holds.
    each = 2 * TRANSACTION_GAS * rules.gas_price
    net = honest_verifier(rules) + each
    profit = net - each * senders / work
    return Outcome(
        name=f"sybil, {accounts} accounts",
        what=f"{share:.0%} of the slots in many accounts: drawn {work / usual_work - 1:+.1%} oftener",
        profit=profit,
        honest=net - each * usual_senders / usual_work,
        played=profit,
        error=0.0,
        works=True,
    )


def false_dissenters(rules: Rules) -> Outcome:
    """Verifiers call right work wrong, so that its miner is not paid: one is enough, and each pays its stake."""
    gas = rules.gas_price * (GAS["seal"] + GAS["reveal"])
    profit = -rules.slot_stake - gas
    return Outcome(
        name="colluding verifiers, dissent",
        what=f"cost a miner its reward of {rules.unit_reward:g} ETH; each verifier that helps loses as much again",
        profit=profit,
        honest=honest_verifier(rules),
        played=profit,
        error=0.0,
    )


def false_merge(rules: Rules, plays: Plays, friends: float, gain: float) -> Outcome:
    """Proposes a false merge where the jury, which the draw names before, has a majority of friends.

    They acknowledge it, and it brings `gain` until whoever merges for itself convicts it. Waiting for such a jury costs
    nothing. Jurors lose their pay for the merge and no stake; the proposer loses what is burned of the merge's bond.
    """
    needed = rules.jury // 2 + 1
    accepted = bought_jury(rules, friends)
    won = gain - rules.merge_loss - rules.gas_price * GAS["commit"]
    seats = (plays.random.random((plays.count, rules.jury)) < friends).sum(-1)
    played, error = _mean(np.where(seats >= needed, won, 0.0))
    return Outcome(
        name=f"false merge, {friends:.0%} of the jury bought",
        what=f"a state that is not the merge, worth {gain:g} ETH until it is convicted",
        profit=accepted * won,
        honest=0.0,
        played=played,
        error=error,
    )


def bought_jury(rules: Rules, friends: float) -> float:
    """Chance that most of a round's jurors are friends."""
    needed = range(rules.jury // 2 + 1, rules.jury + 1)
    return sum(comb(rules.jury, n) * friends**n * (1 - friends) ** (rules.jury - n) for n in needed)


def shared_replays(rules: Rules) -> float:
    """Part of their work that a unit's verifiers spare by telling one another what they replayed.

    Nothing false is attested by it, and every drawn segment is still replayed by one of them; but by one alone.
    """
    n, k, verifiers = rules.segments, rules.drawn, rules.verifiers
    ordinary = 1 - n * (1 - (1 - k / n) ** verifiers) / (verifiers * k)
    whole = 1 - n / (n + (verifiers - 1) * k)
    return (1 - rules.whole_replays) * ordinary + rules.whole_replays * whole


def watching_pays_from(rules: Rules) -> float:
    """Share of units that have to be false for watching all of them to pay for itself, each by its own prize.

    If the watcher gets it. A liar that is accused can take it home (`Rules.conviction_loss`): then nothing pays for
    watching but what the watcher has in the model.
    """
    prize = rules.prover_share * rules.unit_bond - ATTACK_GAS * rules.gas_price
    return rules.unit_cost / prize if prize > 0 else float("inf")


def verification_share(rules: Rules) -> float:
    """What all a unit's verifiers compute, in units."""
    drawn = rules.drawn / rules.segments
    return rules.verifiers * drawn + rules.whole_replays * (1 - drawn)


def pays_verifiers(rules: Rules) -> bool:
    """Whether replaying what was drawn is worth it at all. Where it is not, nobody honest verifies for long."""
    return honest_verifier(rules) > 0


def pay_fairly(rules: Rules) -> Rules:
    """The same with an assignment that brings as many times what it costs, gas included, as a unit does."""
    spent = rules.replay_cost + rules.gas_price * (GAS["seal"] + GAS["reveal"])
    return replace(rules, attestation_reward=spent * rules.unit_reward / rules.unit_cost)


def pick_rules(rules: Rules, friends: float, gain: float, safety: float = 2.0) -> Rules:
    """The least deposits and fees, each a whole hundredth of a unit's cost, with which every cheat of `play_all` loses.

    Verifying has to pay (`pays_verifiers`): where it costs more than it brings, silence is the cheaper loss, and no fee
    that is below a stake makes an honest verifier of anybody.

    friends  the share of slots a cheat may have
    gain     what one bent step is worth to a poisoner, ETH
    safety   what it takes to break even is multiplied by this
    Raises   ValueError where no deposit would do
    """
    step = rules.unit_cost / 100
    fair = replace(rules, unit_bond=0.0, unavailable_fee=0.0, slot_stake=0.0, seal_fee=0.0)
    plays = Plays(fair, 1, np.random.default_rng(0))  # the formulas decide

    def least(loses: Callable[[float], bool]) -> float:
        high = 1
        while not loses(high * step):
            high *= 2
            if high > 1 << 40:
                raise ValueError("no deposit makes this cheat lose: draw more segments or verifiers")
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if loses(middle * step) else (middle, high)
        return high * step * safety

    # The fee for withheld work is what a lazy miner risks, since it sees the draw first; one that makes blocks may
    # have refused a draw, too.
    def lazy_loses(fee: float) -> bool:
        one = replace(fair, unavailable_fee=fee, unit_bond=fee)
        return all(
            lazy_miner(one, plays, skipped, friends, hides=True, rerolls=1).loses
            for skipped in range(1, fair.segments + 1)
        )

    def bond_holds(bond: float) -> bool:
        one = replace(fair, unit_bond=bond)
        return (
            leaking_miner(one).loses  # half of the bond is more than a verifier gets for keeping quiet
            and plagiarist(one, plays, friends).loses
            and coalition(one, plays, friends).loses
            and poisoner(one, plays, friends, gain).loses
        )

    def fee_holds(fee: float) -> bool:
        one = replace(fair, unavailable_fee=fee)
        hiding = coalition(one, plays, friends, hides=True), poisoner(one, plays, friends, gain, hides=True)
        return lazy_loses(fee) and all(play.loses for play in hiding)

    fee = least(fee_holds)
    bond = max(fee, least(bond_holds))
    stake = least(lambda stake: stake > fair.attestation_reward)
    # A miner that hides from its verifiers loses more than all of them together.
    seal_fee = min(stake, (fee + fair.unit_reward) / (safety * fair.verifiers))
    return replace(rules, unit_bond=bond, unavailable_fee=fee, slot_stake=stake, seal_fee=seal_fee)


def play_all(rules: Rules, *, friends: float, gain: float, count: int, random: Generator) -> list[Outcome]:
    """Every cheat under these rules; lazy miners for a few shares up to everything."""
    plays = Plays(rules, count, random)
    n = rules.segments
    outcomes = []
    for skipped in sorted({1, max(1, n // 4), max(1, n // 2), n}):
        for hides in (False, True):
            outcomes.append(lazy_miner(rules, plays, skipped, friends, hides=hides))
    outcomes.append(lazy_miner(rules, plays, 1, friends, hides=True, rerolls=1))
    outcomes.append(plagiarist(rules, plays, friends))
    outcomes.extend(coalition(rules, plays, friends, hides=hides) for hides in (False, True))
    outcomes.extend(poisoner(rules, plays, friends, gain, hides=hides) for hides in (False, True))
    outcomes.extend(lazy_verifier(rules, strategy) for strategy in ("silent", "withdraws", "guesses", "floods"))
    outcomes.append(false_dissenters(rules))
    outcomes.append(false_merge(rules, plays, friends, gain))
    outcomes.append(leaking_miner(rules))
    outcomes.extend(withholder(rules, when=when) for when in ("drawn", "disputed"))
    outcomes.extend((self_accuser(rules), spammer(rules), sybil(rules, plays, 0.2)))
    return outcomes
