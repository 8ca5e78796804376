"""The page on bootstrapping says in numbers what the parameters say; here they are computed again."""

from __future__ import annotations

import re
from math import comb

from launch_parameters import NETWORKS, read_preset

from cupel.launch.checking import describe_entry

JURIES = (3, 15, 31, 63)
PAGE = (NETWORKS / "bootstrapping.md").read_text()


def test_what_the_first_members_put_down_and_get() -> None:
    p = read_preset()
    miner, verifier, _, minted = (value for _, value in describe_entry(p))
    assert f"| {miner.split(' to ')[0]} |" in PAGE
    assert f"| {verifier.split(' to ')[0]} |" in PAGE
    assert f"| {minted} |" in PAGE
    # Two units of a target of four, one of them replayed whole, three attestations each paid by the segment, half the
    # merge's part to its proposer.
    pool = p.initial_reward * 2 // p.work_target
    verifiers, merge = pool * p.verifier_share_bps // 10_000, pool * p.merge_share_bps // 10_000
    assert 0 < p.replay_bps <= 5000
    segments = p.segments + 5 * p.segments_per_verifier
    unit, whole, part = (
        amount / 10**18
        for amount in (
            (pool - verifiers - merge) / 2,
            verifiers * p.segments / segments,
            verifiers * p.segments_per_verifier / segments,
        )
    )
    said = f"{unit:g} for each unit, {whole:.2f} for the one replay of a whole unit, {part:.2f} for each of five"
    assert f"{pool // 10**18} tokens: {said}" in PAGE
    assert f"{merge / 2 / 10**18:g} for whoever proposed" in PAGE
    assert f"less than one bond ({p.unit_bond / 10**18} ETH)" in PAGE


def test_what_a_share_of_the_slots_can_do() -> None:
    rows = re.findall(r"^\| (\d+) % \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for share, cells in rows:
        r = int(share) / 100
        chances = [
            r**3,
            *(sum(comb(j, k) * r**k * (1 - r) ** (j - k) for k in range(j // 2 + 1, j + 1)) for j in JURIES),
        ]
        for cell, chance in zip(cells.split(" | "), chances, strict=True):
            said = float(cell.removesuffix(" %"))
            assert abs(said - 100 * chance) <= 0.05 * 100 * chance, (share, cell, chance)
