"""Whether the fee for withheld work is sized like cheating: docs/design/economics.md, "Skipping work"."""

from __future__ import annotations

from math import comb

from cupel.chain.run_values import Parameters
from cupel.protocol.types import Wei

FRIENDS = 1 / 3
"""Share of all slots that is on the cheat's side."""
REFUSED = 1
"""Draws that a cheat among the proposers of blocks can refuse."""


def found_chance(p: Parameters, bad: int) -> float:
    """That somebody honest repeats one of `bad` segments of a unit, whichever of the draws the cheat takes."""
    good = p.segments - bad
    drawn = p.segments_per_verifier
    missed = comb(good, drawn) / comb(p.segments, drawn) if good >= drawn else 0.0
    each = FRIENDS + (1 - FRIENDS) * missed
    # The first verifier of a unit that is repeated whole misses nothing, unless it is a friend.
    whole = p.replay_bps / 10_000
    first = (1 - whole) * each + whole * FRIENDS
    return float((1 - first * each ** (p.verifiers_per_unit - 1)) ** (1 + REFUSED))


def find_cost_held(p: Parameters) -> Wei:
    """What a unit may cost to compute, in wei, before skipping a part of it and hiding that pays.

    Who skips a share f saves f of the cost C and is found with chance P; then its reward R and the fee S are lost: it
    gains where P (R + S) < f C. What R is worth nobody knows before there is a price: nothing is taken.
    """
    dearest = max(bad / p.segments / found_chance(p, bad) for bad in range(1, p.segments + 1))
    return Wei(int(p.unavailable_fee / dearest))
