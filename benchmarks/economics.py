"""Whether cheating pays: every kind of cheat played against a run's parameters, and the least deposits that stop it.

    python benchmarks/economics.py [--parameters FILE.toml] [--unit-cost 0.0002] [--reward 1.2] [--friends 0.33]
        [--gas-gwei 0.05] [--whole-replays FILE'S] [--watched 0] [--gain 0.0002] [--units 200000] [--plots] [--write]

Exit 1 if a cheat gains anything under the file's parameters. docs/design/economics.md says what the numbers rest on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from incentives import (
    GAS,
    Outcome,
    Plays,
    Rules,
    bought_jury,
    caught_chance,
    coalition,
    honest_miner,
    honest_verifier,
    lazy_miner,
    pay_fairly,
    pays_verifiers,
    pick_rules,
    play_all,
    shared_replays,
    tolerable_gain,
    verification_share,
    watching_pays_from,
)
from machine import find_commit
from sabotage import (
    Unsettled,
    bond_that_answers,
    convict_right_merge,
    convict_right_unit,
    pocket,
    pocket_cost,
    sabotage,
    share_that_finds,
)
from tables import publish, table

from cupel.chain.court_deployment import BOND_FACTOR, Clocks
from cupel.launch.court import DEFENCE_GAS, LONGEST_DEFENCE_GAS
from cupel.launch.parameter_file import LaunchParameters, read_parameter_file
from cupel.protocol.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "whitepaper" / "figures"
ETHER = 10**18
MOST_MOVES = 28
"""Of a dispute, half of them the accused's (docs/design/court.md)."""
PATIENCE = 0.25
"""Of the window: nodes wait so long behind somebody else's open dispute about the same claim (docs/design/nodes.md)."""
SEED = 2026


def whole_share(contract: Mapping[str, Any], units: int | None = None) -> float:
    """Share of a round's units that are replayed whole, which the contract rounds up to units; of a full round if None.

    Payments are divided by it. What is found rests on the share in the file: rounds of many units come down to that.
    """
    count: int = contract["work_target"] if units is None else units
    return -(-count * contract["replay_bps"] // 10_000) / count


def round_hours(file: LaunchParameters) -> float:
    """A round's length if every phase takes all its time."""
    clocks = ("train_blocks", "seal_blocks", "open_blocks", "merge_blocks", "acknowledge_blocks")
    return sum(file.contract[name] for name in clocks) * file.block_seconds / 3600


def find_clocks(file: LaunchParameters) -> Clocks:
    """Of the run's court. Raises UsageError: the file does not say."""
    if file.court.clocks is None:
        raise UsageError("the file has no [court] with clocks and money of its own: what a dispute costs is not known")
    return file.court.clocks


def find_unsettled(file: LaunchParameters) -> Unsettled:
    """In rounds that take all their time."""
    contract, clocks = file.contract, find_clocks(file)
    round_blocks = round_hours(file) * 3600 / file.block_seconds
    alone = clocks.clock_blocks + MOST_MOVES // 2 * clocks.grace_blocks
    return Unsettled(
        window=contract["window_blocks"] / round_blocks,
        dispute=clocks.longest_dispute / round_blocks,
        defence=alone / round_blocks,
        patience=PATIENCE * contract["window_blocks"] / round_blocks,
        units=contract["work_target"],
    )


def read_rules(options: argparse.Namespace) -> Rules:
    """A full round's rules from a parameter file; what a unit costs and a token brings is the caller's assumption."""
    file = read_parameter_file(options.parameters)
    contract, clocks = file.contract, find_clocks(file)
    shares = contract["verifier_share_bps"] + contract["merge_share_bps"]
    reward = options.unit_cost * options.reward
    # A unit's and an assignment's part of what is minted stand in the ratio the file gives.
    pool = reward / (1 - shares / 10_000)
    # Whole units are paid by the segment, out of the same share.
    segments, drawn = contract["segments"], contract["segments_per_verifier"]
    replayed = contract["verifiers_per_unit"] * drawn + whole_share(contract) * (segments - drawn)
    attestation = pool * contract["verifier_share_bps"] / 10_000 * drawn / replayed
    return Rules(
        segments=contract["segments"],
        verifiers=contract["verifiers_per_unit"],
        drawn=contract["segments_per_verifier"],
        quorum=contract["quorum"],
        unit_bond=contract["unit_bond"] / ETHER,
        unavailable_fee=contract["unavailable_fee"] / ETHER,
        slot_stake=contract["slot_stake"] / ETHER,
        seal_fee=contract["seal_fee"] / ETHER,
        unit_reward=reward,
        attestation_reward=attestation,
        unit_cost=options.unit_cost,
        gas_price=options.gas_gwei / 1e9,
        merge_bond=contract["merge_bond"] / ETHER,
        jury=contract["jury_target"],
        seats=contract["max_verifiers"],
        units=contract["work_target"],
        minimum_bond=clocks.minimum_bond_wei / ETHER,
        defence_gas=clocks.defence_gas,
        whole_replays=contract["replay_bps"] / 10_000 if options.whole_replays is None else options.whole_replays,
        watched=options.watched,
    )


def outcome_table(outcomes: list[Outcome], unit_cost: float) -> str:
    def row(one: Outcome) -> list[str]:
        values = (one.profit, one.played, one.honest, one.profit - one.honest)
        return [one.name, *(f"{value / unit_cost:+.3f}" for value in values), "loses" if one.loses else "GAINS"]

    return table(["cheat", "expected", "played", "honest", "by cheating", ""], [row(one) for one in outcomes])


def deposits_table(rules: Rules, picked: Rules) -> str:
    names = {
        "unit_bond": "unit bond",
        "unavailable_fee": "fee, withheld",
        "slot_stake": "slot stake",
        "seal_fee": "seal fee",
    }
    rows = [
        [
            text,
            f"{getattr(rules, name):.6f}",
            f"{getattr(picked, name):.6f}",
            f"{getattr(picked, name) / rules.unit_cost:.2f}",
        ]
        for name, text in names.items()
    ]
    return table(["ETH", "in the file", "least, times two", "in unit costs"], rows)


def draws_table(rules: Rules, friends: float, gain: float) -> str:
    """What other draws would cost and find, miners and verifiers earning the same on what they spend."""
    rows = []
    drawings = ((5, 3, 2), (10, 3, 2), (20, 3, 1), (20, 3, 2), (20, 5, 2), (50, 3, 2), (50, 5, 2))
    for segments, verifiers, drawn in ((rules.segments, rules.verifiers, rules.drawn), *drawings):
        one = replace(rules, segments=segments, verifiers=verifiers, drawn=drawn)
        fair = pay_fairly(one)
        paid = fair.attestation_reward / drawn * (verifiers * drawn + one.whole_replays * (segments - drawn))
        share = paid / (fair.unit_reward + paid)
        picked = pick_rules(fair, friends, gain)
        rows.append(
            [
                f"{verifiers} x {drawn} of {segments}",
                f"{verification_share(one):.0%}",
                f"{share:.0%}",
                f"{caught_chance(one, 1, friends):.3f}",
                f"{caught_chance(one, segments, friends):.3f}",
                f"{picked.unit_bond / rules.unit_cost:.2f}",
                f"{picked.unavailable_fee / rules.unit_cost:.2f}",
            ]
        )
    head = ["draws", "computing", "fair share", "one segment found", "all", "unit bond", "fee, withheld"]
    return table(head, rows)


def bounds_table(rules: Rules, friends: float) -> str:
    """How likely one bent step is found, and what it may be worth before bending pays."""
    rows = []
    bare = replace(rules, whole_replays=0.0)
    for label, one in (
        ("draws alone", bare),
        (f"as in the file: {rules.whole_replays:.0%} of the units replayed whole", rules),
        ("a tenth of them", replace(rules, whole_replays=0.1)),
        ("a quarter", replace(rules, whole_replays=0.25)),
        ("all", replace(rules, whole_replays=1.0)),
        ("as in the file, and one watcher of every unit", replace(rules, watched=1.0)),
    ):
        gain = tolerable_gain(one, friends)
        shown = "any" if gain == float("inf") else f"{gain / rules.unit_cost:.2f}"
        rows.append([label, *(f"{caught_chance(one, 1, friends, rerolls):.3f}" for rerolls in (0, 1, 3)), shown])
    return table(["one bent step", "found", "after one re-roll", "three", "may be worth, unit costs"], rows)


def small_rounds_table(rules: Rules, contract: Mapping[str, Any], pool: float) -> str:
    """What an assignment brings in rounds of few units, of which one is replayed whole however few they are."""
    rows = []
    for units in range(1, contract["work_target"] + 1):
        whole = whole_share(contract, units)
        replayed = rules.verifiers * rules.drawn + whole * (rules.segments - rules.drawn)
        paid = pool * contract["verifier_share_bps"] / 10_000
        one = replace(rules, attestation_reward=paid * rules.drawn / replayed)
        cost = one.replay_cost + rules.gas_price * (GAS["seal"] + GAS["reveal"])
        values = (one.attestation_reward, cost, honest_verifier(one))
        rows.append([f"{units}", f"{whole:.0%}", *(f"{value / rules.unit_cost:+.3f}" for value in values)])
    return table(["units", "replayed whole", "an assignment brings", "costs", "leaves"], rows)


def sabotage_table(rules: Rules, unsettled: Unsettled) -> str:
    """A claim its author convicts late: right ones, and a bent unit by how much is replayed whole and who watches."""
    found = {"its own right unit": convict_right_unit(rules, unsettled)}
    found["its own right merge"] = convict_right_merge(rules, unsettled)
    for label, share, friends in (
        ("a bent unit, draws alone", 0.0, 0.0),
        ("a bent unit, as in the file", rules.whole_replays, 0.0),
        ("  a third of the slots its friends", rules.whole_replays, 1 / 3),
        ("  a quarter replayed whole", 0.25, 0.0),
        ("  half", 0.5, 0.0),
        ("  nine tenths", 0.9, 0.0),
    ):
        found[label] = sabotage(replace(rules, whole_replays=share), friends, unsettled)
    # A watcher finds what is false, and nothing else; behind an accusation of the saboteur's own it waits.
    found["  as in the file, and a watcher"] = sabotage(rules, 0.0, unsettled, rounds=unsettled.defence)
    late = unsettled.patience + unsettled.defence
    found["  a watcher that was kept waiting"] = sabotage(rules, 0.0, unsettled, rounds=late)
    rows = []
    for label, one in found.items():
        money = [f"{value / rules.unit_cost:.1f}" for value in (one.cost, one.harm)]
        rows.append([label, f"{one.found:.2f}", f"{one.rounds:.1f}", *money, f"{one.factor:.1f}"])
    return table(["", "found by a draw", "rounds void", "costs", "others lose", "ratio"], rows)


def pocket_table(rules: Rules, friends: float, most: int) -> str:
    """Skipped work with a conviction in the pocket; per unit, by how many units of a round are one owner's."""
    rows = []
    for units in (1, rules.units, most):
        for skipped in (1, rules.segments // 4, rules.segments):
            one = pocket(rules, skipped, units, friends)
            values = (one.without, one.profit, one.honest)
            money = [f"{value / rules.unit_cost:+.3f}" for value in values]
            rows.append([f"{units}", f"{skipped / rules.segments:.0%}", f"{one.pulled:.1%}", *money])
    return table(["units", "skipped", "pulled", "without", "with it", "honest"], rows)


def bond_margins_table(rules: Rules) -> str:
    """By how much the base fee may rise in a dispute before the accused is not repaid its gas in full."""
    rows = []
    for gwei in (0.001, 0.01, 0.05, 0.5, 5.0):
        bond = max(rules.minimum_bond, BOND_FACTOR * rules.defence_gas * gwei / 1e9)
        defences = (LONGEST_DEFENCE_GAS, DEFENCE_GAS)
        shown = [f"{bond / 2 / (gas * gwei / 1e9):.0f}" for gas in defences]
        rows.append([f"{gwei:g}", f"{bond:.4f}", *shown])
    head = ["base fee, gwei", "bond, ETH", "longest defence repaid up to a rise by", "an ordinary one"]
    return table(head, rows)


def draw_plots(rules: Rules, picked: Rules, friends: float, folder: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "cupel"  # the same picture, the same bytes
    folder.mkdir(parents=True, exist_ok=True)
    random, cost = np.random.default_rng(SEED), rules.unit_cost
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    shares = [skipped / rules.segments for skipped in range(1, rules.segments + 1)]
    for label, fee in (
        ("nothing", 0.0),
        ("the least fee", picked.unavailable_fee / 2),
        ("twice that", picked.unavailable_fee),
    ):
        one = replace(rules, unavailable_fee=fee)
        plays = Plays(one, 1, random)
        profits = [
            lazy_miner(one, plays, skipped, friends, hides=True).profit / cost
            for skipped in range(1, rules.segments + 1)
        ]
        axes.plot(shares, profits, marker="o", label=f"losing {label} when it hides")
    axes.axhline(honest_miner(rules) / cost, color="#4a4a4a", linestyle="--", linewidth=1, label="honest")
    axes.axhline(0, color="#4a4a4a", linewidth=0.6)
    axes.set_xlabel("share of a unit's segments skipped")
    axes.set_ylabel("expected profit, unit costs")
    axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.92))
    figure.savefig(folder / "economics-lazy.svg", metadata={"Date": None})

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    slots = np.linspace(0, 1, 41)
    for label, one in (
        ("draws alone", replace(picked, whole_replays=0.0)),
        ("one unit in ten replayed whole", replace(picked, whole_replays=0.1)),
        ("one unit in ten watched", replace(picked, whole_replays=0.0, watched=0.1)),
        ("half of all units watched", replace(picked, whole_replays=0.0, watched=0.5)),
    ):
        plays = Plays(one, 1, random)
        axes.plot(slots, [coalition(one, plays, float(share)).profit / cost for share in slots], label=label)
    axes.axhline(0, color="#4a4a4a", linewidth=0.6)
    axes.set_xlabel("share of the verifiers' slots that the coalition holds")
    axes.set_ylabel("expected profit of a unit, unit costs")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(folder / "economics-coalition.svg", metadata={"Date": None})


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=Path, default=ROOT / "docs" / "networks" / "testnet.toml")
    parser.add_argument("--unit-cost", type=float, default=0.0002, help="ETH that computing one unit costs")
    parser.add_argument("--reward", type=float, default=1.5, help="a unit's reward, in unit costs")
    parser.add_argument("--friends", type=float, default=1 / 3, help="share of all slots that works with a cheat")
    parser.add_argument("--gas-gwei", type=float, default=0.05)
    parser.add_argument("--whole-replays", type=float, help="share of units replayed whole, if not the file's")
    parser.add_argument("--watched", type=float, default=0.0, help="share of units somebody replays unasked")
    parser.add_argument("--gain", type=float, default=0.0002, help="ETH a bent step is worth to who bends it")
    parser.add_argument("--units", type=int, default=200_000, help="plays of each cheat")
    parser.add_argument("--plots", action="store_true", help=f"draw {FIGURES.relative_to(ROOT)}/economics-*.svg")
    parser.add_argument("--write", action="store_true", help="add the tables to benchmarks/results/economics.txt")
    options = parser.parse_args(arguments)
    for name in ("friends", "whole_replays", "watched"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            parser.error(f"--{name.replace('_', '-')} is a share: from 0 to 1, not {value}")
    for name in ("unit_cost", "reward", "units"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is above 0, not {getattr(options, name)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    rules = read_rules(options)
    picked = pick_rules(rules, options.friends, options.gain)
    file = read_parameter_file(options.parameters)
    contract, hours, unsettled = file.contract, round_hours(file), find_unsettled(file)
    pool = rules.unit_reward / (1 - (contract["verifier_share_bps"] + contract["merge_share_bps"]) / 10_000)
    dear = bond_that_answers(rules, unsettled)
    by_unit, by_merge = convict_right_unit(rules, unsettled), convict_right_merge(rules, unsettled)
    cycle = (unsettled.window + unsettled.dispute) * hours
    random = np.random.default_rng(SEED)
    found = {
        "in the file": play_all(rules, friends=options.friends, gain=options.gain, count=options.units, random=random),
        "least, times two": play_all(
            picked, friends=options.friends, gain=options.gain, count=options.units, random=random
        ),
    }
    parts = [
        f"{options.parameters.name}, commit {find_commit()}: {rules.segments} segments, {rules.verifiers} verifiers "
        f"of {rules.drawn}; a unit costs {rules.unit_cost:g} ETH and brings {options.reward:g} times that, "
        f"an assignment {rules.attestation_reward / rules.unit_cost:.3f}; gas {options.gas_gwei:g} gwei; "
        f"{options.friends:.0%} of the slots help a cheat; {rules.whole_replays:.0%} of the units are replayed whole, "
        f"{whole_share(contract):.0%} in a full round of {contract['work_target']}; {options.units:,} plays",
        deposits_table(rules, picked),
        *(
            f"deposits {name}; profit of a unit, in unit costs\n{outcome_table(outcomes, rules.unit_cost)}"
            for name, outcomes in found.items()
        ),
        "one segment skipped or one step bent, deposits in the file\n" + bounds_table(rules, options.friends),
        f"watching every unit pays for itself where {watching_pays_from(rules):.0%} of them are false, if no liar "
        "takes its own prize",
        f"most jurors are friends in {bought_jury(rules, options.friends):.0%} of the rounds; then they may rule right "
        "units unavailable, which costs them nothing and each unit's miner "
        f"{(rules.unavailable_fee + rules.unit_reward) / rules.unit_cost:.2f} unit costs",
        f"verifiers of a unit that share their replays spare {shared_replays(rules):.0%} of them",
        "rounds of fewer units than the target, in unit costs\n" + small_rounds_table(rules, contract, pool),
        "sabotage: a merged unit's miner, or a merge's proposer, convicts it late; "
        f"{unsettled.units} units a round of {hours:g} h, window "
        f"{unsettled.window * hours:.3g} h, a dispute {unsettled.dispute * hours:.3g} h if both sides are slow, "
        f"{unsettled.defence * hours:.3g} h if the accused alone is; in unit costs\n"
        + sabotage_table(rules, unsettled),
        f"kept up, it stops the model for {min(by_unit.cost, by_merge.cost):.5f} ETH every {cycle:.0f} h; bond with "
        f"which it costs what it destroys: {dear / rules.unit_cost:.0f} unit costs, "
        f"{dear / rules.unit_bond:.1f} times the file's; "
        "share of units replayed whole with which a draw finds one bent step, nobody's friends drawn: "
        + ", ".join(
            f"{share_that_finds(rules, 0.0, wanted):.0%} for {wanted:.0%}" for wanted in (0.5, 0.75, 0.9, 0.99)
        ),
        "a conviction in the pocket: a miner accuses its own right claim, and loses when the draw does not suit it; "
        f"{pocket_cost(rules) / rules.unit_cost:.2f} unit costs a draw refused; profit of a unit, in unit costs\n"
        + pocket_table(rules, options.friends, contract["max_units"]),
        "a base fee that rises after the accusation\n" + bond_margins_table(rules),
        "other draws; computing and fair share are the verifiers', deposits in unit costs\n"
        + draws_table(rules, options.friends, options.gain),
    ]
    publish("economics.txt", "\n\n".join(parts), write=options.write)
    if options.plots:
        draw_plots(rules, picked, options.friends, FIGURES)
    disagreeing = [one.name for outcomes in found.values() for one in outcomes if not one.agrees]
    if disagreeing:
        print(f"formula and plays disagree: {', '.join(disagreeing)}", file=sys.stderr)
        return 2
    if not pays_verifiers(rules):
        print(
            f"under {options.parameters.name} an honest verifier earns {honest_verifier(rules) / rules.unit_cost:+.3f} "
            f"unit costs an assignment: raise verifier_share, or draw less (the draws compute "
            f"{verification_share(rules):.0%} of a unit again)",
            file=sys.stderr,
        )
        return 1
    gaining = [one.name for one in found["in the file"] if not one.loses]
    if gaining:
        print(f"under {options.parameters.name} these gain: {', '.join(gaining)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
