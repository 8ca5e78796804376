"""The court of a run that is launched or checked: which one, whether its time fits the run's, and what a careful member
asks about it (docs/design/court.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cupel.chain.court_deployment import BOND_FACTOR, Clocks
from cupel.chain.fees import GWEI
from cupel.chain.run_values import Parameters
from cupel.launch.units import format_amount, format_blocks
from cupel.protocol.types import Address, Wei

SHORTEST_CLOCK_S = 600.0
"""For all moves of one side, beside computing the segment again: a trace of a slow machine, and every transaction
sent twice. At 30 s a machine with other work to do has lost a dispute in which it was right."""
SHORTEST_MOVE_S = 60.0
"""In which a machine that is late can compute one move, send it, and try again once."""
SEGMENTS_COMPUTED = 2
"""How long a defender may need for a segment, in segments of a miner that trains through the whole train phase."""
DEFENCE_GAS = 2_000_000
"""Of a defence about an element that is recomputed at once: 1.7 million on anvil with a small GPT, whose trace has 900
values; 1,024 are the most that one transaction posts."""
SUMS_GAS, PARTS_GAS = 2_300_000, 1_700_000
"""What the largest list of sums adds, and each of the two largest lists of their parts."""
LONGEST_DEFENCE_GAS = DEFENCE_GAS + SUMS_GAS + 2 * PARTS_GAS
ATTACK_GAS = 1_400_000
"""Of all that a challenger sends, from the announcement to the collected prize: 1.2 million in that dispute, and the
dearest element of the demo's step is 0.2 million dearer to judge (benchmarks/results/gas_disputes.txt)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourtChoice:
    """What a parameter file says of the court. All None: the run has none, and nobody is ever convicted."""

    clocks: Clocks | None = None
    """Of a new court."""
    address: Address | None = None
    """Of one that is there already."""
    transaction: str | None = None
    """Hash of the transaction that created that one."""


def find_court_oddities(
    clocks: Clocks, p: Parameters, block_seconds: float, gas_price: Wei
) -> Iterator[tuple[str, str]]:
    """What a court allows and a careful member asks about.

    block_seconds   0: not known, nothing is said of time
    gas_price       a unit of gas costs now, base fee and tip
    """
    if block_seconds:
        segment_s = p.train_blocks * block_seconds / p.segments
        needed_s = SHORTEST_CLOCK_S + SEGMENTS_COMPUTED * segment_s
        if clocks.clock_blocks * block_seconds < needed_s:
            shown = format_blocks(clocks.clock_blocks, block_seconds)
            yield (
                "court.clock",
                f"{shown} for all moves of one side: a slow machine needs {needed_s:,.0f} s to compute a segment again "
                "and answer, and loses disputes in which it is right",
            )
        if clocks.grace_blocks * block_seconds < SHORTEST_MOVE_S:
            shown = format_blocks(clocks.grace_blocks, block_seconds)
            yield "court.grace", f"{shown} for a move: too short to send a transaction twice when the chain is busy"
    if clocks.defence_gas < LONGEST_DEFENCE_GAS:
        factor = BOND_FACTOR * clocks.defence_gas / LONGEST_DEFENCE_GAS
        yield (
            "court.defence_gas",
            f"{clocks.defence_gas:,}: a defence about the longest element takes {LONGEST_DEFENCE_GAS:,}, so that false "
            f"accusations cost {factor:.3g} times the harm they do and not ten times",
        )
    prize = p.unit_bond // 2
    if prize < ATTACK_GAS * gas_price:
        yield (
            "unit_bond",
            f"half of it, {format_amount(prize)}, is the prize of a conviction, whose {ATTACK_GAS:,} gas costs "
            f"{format_amount(Wei(ATTACK_GAS * gas_price))} at the {show_gwei(gas_price)} gwei of now: accusing does "
            f"not pay for itself above {show_gwei(Wei(prize // ATTACK_GAS))} gwei",
        )
    if p.merge_bond < p.unit_bond:
        yield (
            "merge_bond",
            f"{format_amount(p.merge_bond)}: whoever lets its own right merge be convicted loses half of it and makes "
            f"unsettled rounds void; from {format_amount(p.unit_bond)} up, the unit_bond, a unit is no dearer for that",
        )
    if p.window_blocks < p.train_blocks:
        yield "window_blocks", "shorter than a unit's training: who watches cannot repeat a whole one in time to accuse"


def show_gwei(price: Wei) -> str:
    """A price of gas, to three digits."""
    return f"{price / GWEI:.3g}"


_SHOWN = ("clock", "grace", "minimum_bond", "defence_gas", "longest_dispute")


def describe_court(
    clocks: Clocks | None, p: Parameters, block_seconds: float, base_fee: Wei
) -> Iterator[tuple[str, str]]:
    """Name and value, in human units; what an accusation puts down at this base fee, and what it brings, come last.
    The same names where there is no court, for who reads them by name."""
    if clocks is None:
        money = ("an accuser puts down", "a conviction brings")
        yield from ((name, "no court") for name in (*(f"court.{shown}" for shown in _SHOWN), *money))
        return
    yield "court.clock", format_blocks(clocks.clock_blocks, block_seconds)
    yield "court.grace", format_blocks(clocks.grace_blocks, block_seconds)
    yield "court.minimum_bond", format_amount(clocks.minimum_bond_wei)
    yield "court.defence_gas", f"{clocks.defence_gas:,}"
    yield "court.longest_dispute", format_blocks(clocks.longest_dispute, block_seconds)
    bond = max(clocks.minimum_bond_wei, BOND_FACTOR * clocks.defence_gas * base_fee)
    yield "an accuser puts down", f"{format_amount(bond)} at the base fee of now, back with a win"
    prize = p.unit_bond // 2
    ceiling = show_gwei(Wei(prize // ATTACK_GAS))
    yield "a conviction brings", f"{format_amount(Wei(prize))}, more than its gas costs up to {ceiling} gwei"
