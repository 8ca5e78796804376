"""Whether cheating pays: every kind of cheat played against a run's parameters, and the least deposits that stop it.

    python benchmarks/economics.py [--parameters FILE.toml] [--unit-cost 0.0002] [--reward 1.2] [--friends 0.33]
        [--gas-gwei 0.05] [--whole-replays 0] [--watched 0] [--gain 0.0002] [--units 200000] [--plots] [--write]

Exit 1 if a cheat gains anything under the file's parameters. docs/design/economics.md says what the numbers rest on.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from incentives import (
    Outcome,
    Plays,
    Rules,
    caught_chance,
    coalition,
    honest_miner,
    honest_verifier,
    lazy_miner,
    pays_verifiers,
    pick_rules,
    play_all,
    tolerable_gain,
    verification_share,
)
from machine import find_commit
from tables import publish, table

from cupel.launch.parameter_file import read_parameter_file

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "whitepaper" / "figures"
ETHER = 10**18
SEED = 2026


def read_rules(options: argparse.Namespace) -> Rules:
    """A run's rules from its parameter file; what a unit costs and a token brings is the caller's assumption."""
    contract = read_parameter_file(options.parameters).contract
    shares = contract["verifier_share_bps"] + contract["merge_share_bps"]
    reward = options.unit_cost * options.reward
    # A unit's and an assignment's part of what is minted stand in the ratio the file gives.
    pool = reward / (1 - shares / 10_000)
    attestation = pool * contract["verifier_share_bps"] / 10_000 / contract["verifiers_per_unit"]
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
        whole_replays=options.whole_replays,
        watched=options.watched,
    )


def outcome_table(outcomes: list[Outcome], unit_cost: float) -> str:
    def row(one: Outcome) -> list[str]:
        values = (one.profit, one.played, one.honest)
        shown = [f"{value:+.1%}" if one.is_share else f"{value / unit_cost:+.3f}" for value in values]
        return [one.name, *shown, "loses" if one.loses else "GAINS"]

    return table(["cheat", "expected", "played", "honest", ""], [row(one) for one in outcomes])


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
        fair = replace(one, attestation_reward=one.replay_cost * rules.unit_reward / rules.unit_cost)
        share = verifiers * fair.attestation_reward / (fair.unit_reward + verifiers * fair.attestation_reward)
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
    for label, one in (
        ("as drawn", rules),
        ("and a tenth of units replayed whole", replace(rules, whole_replays=0.1)),
        ("and all units replayed whole", replace(rules, whole_replays=1.0)),
        ("and one watcher of every unit", replace(rules, watched=1.0)),
    ):
        gain = tolerable_gain(one, friends)
        shown = "any" if gain == float("inf") else f"{gain / rules.unit_cost:.2f}"
        rows.append([label, f"{caught_chance(one, 1, friends):.3f}", f"{caught_chance(one, 1, friends, 1):.3f}", shown])
    return table(["one bent step", "found", "after one re-roll", "may be worth, unit costs"], rows)


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
        ("draws alone", picked),
        ("one unit in ten replayed whole", replace(picked, whole_replays=0.1)),
        ("one unit in ten watched", replace(picked, watched=0.1)),
        ("half of all units watched", replace(picked, watched=0.5)),
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
    parser.add_argument("--whole-replays", type=float, default=0.0, help="share of units drawn to be replayed whole")
    parser.add_argument("--watched", type=float, default=0.0, help="share of units somebody replays unasked")
    parser.add_argument("--gain", type=float, default=0.0002, help="ETH a bent step is worth to who bends it")
    parser.add_argument("--units", type=int, default=200_000, help="plays of each cheat")
    parser.add_argument("--plots", action="store_true", help=f"draw {FIGURES.relative_to(ROOT)}/economics-*.svg")
    parser.add_argument("--write", action="store_true", help="add the tables to benchmarks/results/economics.txt")
    options = parser.parse_args(arguments)
    for name in ("friends", "whole_replays", "watched"):
        if not 0 <= getattr(options, name) <= 1:
            parser.error(f"--{name.replace('_', '-')} is a share: from 0 to 1, not {getattr(options, name)}")
    for name in ("unit_cost", "reward", "units"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} is above 0, not {getattr(options, name)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    rules = read_rules(options)
    picked = pick_rules(rules, options.friends, options.gain)
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
        f"{options.friends:.0%} of the slots help a cheat; {options.units:,} plays",
        deposits_table(rules, picked),
        *(
            f"deposits {name}; profit of a unit, in unit costs\n{outcome_table(outcomes, rules.unit_cost)}"
            for name, outcomes in found.items()
        ),
        "one segment skipped or one step bent, deposits least, times two\n" + bounds_table(picked, options.friends),
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
