"""Cheating does not pay under the parameters we ship, and the tables that say so can say otherwise."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from economics import main, read_options, read_rules
from incentives import (
    Plays,
    Rules,
    caught_chance,
    coalition,
    false_merge,
    lazy_miner,
    lazy_verifier,
    leaking_miner,
    miss_chance,
    pay_fairly,
    pays_verifiers,
    pick_rules,
    play_all,
    poisoner,
    shared_replays,
    spammer,
    sybil,
    tolerable_gain,
    verification_share,
    watching_pays_from,
)
from sabotage import Unsettled, bond_that_answers, play_sabotage, sabotage, share_that_finds

from cupel.launch.court import DEFENCE_GAS
from cupel.protocol.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
FRIENDS, GAIN = 1 / 3, 0.0002
UNSETTLED = Unsettled(window=4.0, dispute=6.0, defence=2.0, units=4)


@pytest.fixture
def rules() -> Rules:
    return read_rules(read_options(["--parameters", str(ROOT / "docs" / "networks" / "testnet.toml")]))


def plays(rules: Rules, count: int = 40_000) -> Plays:
    return Plays(rules, count, np.random.default_rng(7))


@pytest.mark.parametrize("network", ["testnet", "l2", "parameters.example"])
def test_every_cheat_loses_under_the_parameters_we_ship_and_verifying_pays(network: str) -> None:
    shipped = read_rules(read_options(["--parameters", str(ROOT / "docs" / "networks" / f"{network}.toml")]))
    assert pays_verifiers(shipped)
    outcomes = play_all(shipped, friends=FRIENDS, gain=GAIN, count=20_000, random=np.random.default_rng(1))
    assert [one.name for one in outcomes if not one.loses] == []
    assert [one.name for one in outcomes if not one.agrees] == []


@pytest.mark.parametrize("draws", [(5, 3, 2), (20, 3, 2), (20, 5, 2), (50, 5, 1)])
def test_every_cheat_loses_with_the_deposits_that_are_picked(rules: Rules, draws: tuple[int, int, int]) -> None:
    segments, verifiers, drawn = draws
    rules = pay_fairly(replace(rules, segments=segments, verifiers=verifiers, drawn=drawn))
    assert pays_verifiers(rules)
    picked = pick_rules(rules, FRIENDS, GAIN)
    outcomes = play_all(picked, friends=FRIENDS, gain=GAIN, count=20_000, random=np.random.default_rng(1))
    assert [one.name for one in outcomes if not one.loses] == []


@pytest.mark.parametrize(("deposit", "drawn"), [("unit_bond", 2), ("unavailable_fee", 1)])
def test_somebody_gains_where_a_deposit_is_taken_away(rules: Rules, deposit: str, drawn: int) -> None:
    picked = pick_rules(replace(rules, drawn=drawn), FRIENDS, GAIN)
    bare = replace(picked, **{deposit: 0.0})
    outcomes = play_all(bare, friends=FRIENDS, gain=GAIN, count=2_000, random=np.random.default_rng(1))
    assert [one.name for one in outcomes if not one.loses]


def test_a_draw_misses_as_often_as_counting_all_draws_says(rules: Rules) -> None:
    rules = replace(rules, segments=7, drawn=3)
    for bad in range(8):
        all_draws = list(combinations(range(7), 3))
        missed = sum(1 for draw in all_draws if all(segment >= bad for segment in draw))
        assert miss_chance(rules, bad) == pytest.approx(missed / len(all_draws))


@pytest.mark.parametrize("friends", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("bad", [1, 4, 20])
def test_formulas_and_plays_agree(rules: Rules, bad: int, friends: float) -> None:
    rules = replace(rules, whole_replays=0.2, watched=0.1)
    played = plays(rules)
    for one in (
        lazy_miner(rules, played, bad, friends, hides=True, rerolls=1),
        coalition(rules, played, friends),
        coalition(rules, played, friends, hides=True),
        false_merge(rules, played, friends, GAIN),
        poisoner(rules, played, friends, GAIN),
        poisoner(rules, played, friends, GAIN, hides=True),
    ):
        assert one.agrees, one


def test_more_draws_more_watchers_or_fewer_friends_find_more(rules: Rules) -> None:
    found = caught_chance(rules, 1, FRIENDS)
    assert caught_chance(replace(rules, drawn=rules.drawn + 1), 1, FRIENDS) > found
    assert caught_chance(replace(rules, watched=0.1), 1, FRIENDS) > found
    assert caught_chance(rules, 1, FRIENDS / 2) > found
    assert caught_chance(rules, 1, FRIENDS, rerolls=1) < found
    assert caught_chance(replace(rules, watched=1.0), 1, 1.0) == 1.0


def test_a_whole_replay_is_the_first_verifier_s_and_nobody_s_besides(rules: Rules) -> None:
    alone = replace(rules, verifiers=1, whole_replays=1.0)
    assert caught_chance(alone, 1, 0.0) == 1.0
    assert caught_chance(alone, 1, FRIENDS) == pytest.approx(1 - FRIENDS)
    assert verification_share(alone) == 1.0
    assert verification_share(replace(rules, whole_replays=0.0)) == pytest.approx(3 * 2 / 20)


def test_where_verifying_costs_more_than_it_brings_silence_is_the_smaller_loss(rules: Rules) -> None:
    """Why deposits are picked for verifiers that are paid: none of them makes others work."""
    mean = replace(rules, segments=5)
    assert not pays_verifiers(mean)
    picked = pick_rules(mean, FRIENDS, GAIN)
    assert not lazy_verifier(picked, "silent").loses
    assert lazy_verifier(pick_rules(pay_fairly(mean), FRIENDS, GAIN), "silent").loses


@pytest.mark.parametrize("friends", [0.0, FRIENDS])
def test_what_sabotage_costs_is_what_playing_it_costs(rules: Rules, friends: float) -> None:
    cost, error = play_sabotage(rules, plays(rules), friends)
    assert abs(sabotage(rules, friends, UNSETTLED).cost - cost) <= 5 * error


def test_watchers_whole_replays_and_larger_bonds_make_sabotage_dearer_or_smaller(rules: Rules) -> None:
    usual = sabotage(rules, 0.0, UNSETTLED)
    assert usual.factor > 1, "it destroys more than it costs: docs/design/economics.md says so"
    watched = sabotage(replace(rules, watched=1.0), 0.0, UNSETTLED, rounds=UNSETTLED.defence)
    assert watched.rounds < usual.rounds
    assert watched.cost - usual.cost == pytest.approx(rules.unit_bond / 2)
    assert sabotage(replace(rules, whole_replays=0.5), 0.0, UNSETTLED).factor < usual.factor
    answered = replace(rules, unit_bond=bond_that_answers(rules, 0.0, UNSETTLED))
    assert sabotage(answered, 0.0, UNSETTLED).factor == pytest.approx(1.0)


def test_the_share_replayed_whole_that_finds_a_bent_step_does(rules: Rules) -> None:
    share = share_that_finds(rules, 0.0, 0.9)
    assert share is not None
    assert caught_chance(replace(rules, whole_replays=share), 1, 0.0) == pytest.approx(0.9)
    assert share_that_finds(rules, 0.0, 0.1) == 0.0
    assert share_that_finds(rules, FRIENDS, 0.99) is None


def test_bending_a_step_pays_from_the_tolerable_gain_on_and_never_before(rules: Rules) -> None:
    for one in (rules, replace(rules, watched=0.3)):
        gain = tolerable_gain(one, FRIENDS)
        assert poisoner(one, plays(one, 10), FRIENDS, gain * 0.999, hides=True).loses
        assert not poisoner(one, plays(one, 10), FRIENDS, gain * 1.001, hides=True).loses
        assert poisoner(one, plays(one, 10), FRIENDS, gain * 1.001).loses, "who does not hide loses more"


def test_a_bought_jury_pays_where_its_merge_is_worth_more_than_the_stakes_that_swear_to_it(rules: Rules) -> None:
    some = plays(rules, 10)
    assert false_merge(rules, some, FRIENDS, GAIN).loses
    assert not false_merge(rules, some, FRIENDS, 100 * rules.slot_stake).loses
    assert false_merge(replace(rules, slot_stake=50 * rules.slot_stake), some, FRIENDS, 100 * rules.slot_stake).loses


def test_many_accounts_earn_less_on_what_they_compute_since_each_sends_its_own_transactions(rules: Rules) -> None:
    split = sybil(rules, plays(rules), 0.2)
    assert split.loses
    free = sybil(replace(rules, gas_price=0.0), plays(rules), 0.2)
    assert free.profit == free.honest > split.honest


def test_verifiers_that_share_replays_spare_what_their_draws_have_in_common(rules: Rules) -> None:
    assert shared_replays(replace(rules, verifiers=1)) == pytest.approx(0)
    assert shared_replays(replace(rules, drawn=rules.segments)) == pytest.approx(1 - 1 / rules.verifiers)
    drawn = plays(replace(rules, verifiers=3), 20_000).random.random((20_000, 3, rules.segments)).argsort(-1)[..., :2]
    replayed = np.mean([len(set(one.ravel())) for one in drawn[:5_000]])
    assert shared_replays(replace(rules, whole_replays=0.0)) == pytest.approx(1 - replayed / 6, abs=0.01)


def test_accusing_right_work_costs_ten_defences_or_the_least_bond(rules: Rules) -> None:
    # At these prices the least bond is more: without it what is lost grows with the gas that is paid for.
    assert spammer(rules).profit < -rules.minimum_bond
    priced = replace(rules, minimum_bond=0.0)
    assert spammer(priced).profit < -10 * DEFENCE_GAS * rules.gas_price
    assert spammer(replace(priced, defence_gas=2 * rules.defence_gas)).profit < spammer(priced).profit


def test_watching_pays_for_itself_only_where_much_is_false(rules: Rules) -> None:
    share = watching_pays_from(rules)
    assert 0 < share < 1
    assert watching_pays_from(replace(rules, unit_bond=2 * rules.unit_bond)) < share
    assert watching_pays_from(replace(rules, unit_bond=0.0)) == float("inf")


def test_a_file_whose_court_says_no_clocks_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "networks" / "testnet.toml").read_text()
    begin, end = text.index("[court]"), text.index("[reward]")
    path = tmp_path / "none.toml"
    path.write_text(f'{text[:begin]}[court]\naddress = "none"\n\n{text[end:]}')
    with pytest.raises(UsageError, match="what a dispute costs is not known"):
        read_rules(read_options(["--parameters", str(path)]))


def test_a_leak_costs_more_than_silence_is_worth_only_if_half_a_bond_does(rules: Rules) -> None:
    assert leaking_miner(rules).loses
    assert not leaking_miner(replace(rules, unit_bond=rules.attestation_reward)).loses


def test_parameters_under_which_verifying_costs_more_than_it_brings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "networks" / "testnet.toml").read_text()
    path = tmp_path / "mean.toml"
    path.write_text(text.replace("segments = 20\n", "segments = 5\n"))
    assert main(["--units", "1000", "--parameters", str(path)]) == 1
    assert "an honest verifier earns -" in capsys.readouterr().err
