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
    bought_jury,
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
    plagiarist,
    play_all,
    poisoner,
    shared_replays,
    spammer,
    sybil,
    tolerable_gain,
    verification_share,
    watching_pays_from,
)
from sabotage import (
    Unsettled,
    bond_that_answers,
    convict_right_merge,
    convict_right_unit,
    play_pocket,
    play_sabotage,
    pocket,
    sabotage,
    share_that_finds,
)

from cupel.launch.court import DEFENCE_GAS
from cupel.protocol.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
FRIENDS, GAIN = 1 / 3, 0.0002
UNSETTLED = Unsettled(window=4.0, dispute=6.0, defence=2.0, patience=1.0, units=4)
SHIPPED = ["testnet", "l2", "parameters.example"]


def read_shipped(network: str) -> Rules:
    return read_rules(read_options(["--parameters", str(ROOT / "docs" / "networks" / f"{network}.toml")]))


@pytest.fixture
def rules() -> Rules:
    return read_shipped("testnet")


def plays(rules: Rules, count: int = 40_000) -> Plays:
    return Plays(rules, count, np.random.default_rng(7))


@pytest.mark.parametrize("network", SHIPPED)
def test_every_cheat_loses_under_the_parameters_we_ship_and_verifying_pays(network: str) -> None:
    shipped = read_shipped(network)
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
        plagiarist(rules, played, friends),
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


def test_watchers_and_whole_replays_make_sabotage_by_a_bent_unit_dearer_or_smaller(rules: Rules) -> None:
    usual = sabotage(rules, 0.0, UNSETTLED)
    watched = sabotage(rules, 0.0, UNSETTLED, rounds=UNSETTLED.defence)
    waiting = sabotage(rules, 0.0, UNSETTLED, rounds=UNSETTLED.defence + UNSETTLED.patience)
    assert watched.rounds < waiting.rounds < usual.rounds
    assert sabotage(replace(rules, watched=1.0), 0.0, UNSETTLED).cost == usual.cost, (
        "it takes its own prize all the same"
    )
    assert sabotage(replace(rules, whole_replays=0.5), 0.0, UNSETTLED).factor < usual.factor


def test_convicting_what_is_right_destroys_more_than_it_costs_and_a_bond_that_answers_is_known(rules: Rules) -> None:
    for found in (convict_right_unit(rules, UNSETTLED), convict_right_merge(rules, UNSETTLED)):
        assert found.factor > 1, "docs/design/economics.md says so"
        assert found.rounds == 1 + UNSETTLED.window + UNSETTLED.dispute
    answered = replace(rules, unit_bond=bond_that_answers(rules, UNSETTLED))
    assert convict_right_unit(answered, UNSETTLED).factor == pytest.approx(1.0)
    bent = sabotage(replace(rules, whole_replays=0.0, segments=10**6), 0.0, UNSETTLED)
    assert convict_right_unit(rules, UNSETTLED).cost == pytest.approx(bent.cost, rel=1e-4), "a step that no draw finds"


@pytest.mark.parametrize("network", SHIPPED)
def test_a_void_by_one_s_own_right_merge_is_no_cheaper_than_by_a_unit(network: str) -> None:
    shipped = read_shipped(network)
    unit = convict_right_unit(shipped, UNSETTLED).cost
    assert shipped.merge_bond >= shipped.unit_bond
    assert convict_right_merge(shipped, UNSETTLED).cost >= unit
    assert convict_right_merge(replace(shipped, merge_bond=0.0001), UNSETTLED).cost < unit / 4


@pytest.mark.parametrize("units", [1, 4, 16])
@pytest.mark.parametrize("skipped", [1, 5, 10, 20])
def test_a_conviction_in_the_pocket_lessens_what_skipping_loses_and_never_makes_it_pay(
    rules: Rules, skipped: int, units: int
) -> None:
    one = pocket(rules, skipped, units, FRIENDS)
    assert one.without <= one.profit < one.honest
    played, error = play_pocket(rules, plays(rules), skipped, units, FRIENDS)
    assert abs(one.profit - played) <= 5 * error + 1e-6 * rules.unit_cost
    # Were it free, whoever holds many units would not be held by anything.
    free = replace(rules, merge_bond=0.0, gas_price=0.0)
    assert pocket(free, skipped, units, FRIENDS).profit > one.profit


def test_a_convicted_liar_loses_what_is_burned_and_whoever_attested_it_no_stake(rules: Rules) -> None:
    some = plays(rules, 10)
    for cheat in (lambda one: plagiarist(one, some, 0.0), lambda one: lazy_miner(one, some, 20, 0.0, hides=False)):
        dearer = replace(rules, unit_bond=rules.unit_bond + 0.001)
        found = caught_chance(rules, 20, 0.0)
        assert cheat(rules).profit - cheat(dearer).profit == pytest.approx(0.0005 * found)
    assert coalition(rules, some, FRIENDS).profit == coalition(replace(rules, slot_stake=1.0), some, FRIENDS).profit


def test_guesses_that_no_stake_backs_cost_less_and_lose_all_the_same(rules: Rules) -> None:
    flood, guess = lazy_verifier(rules, "floods"), lazy_verifier(rules, "guesses")
    assert guess.profit < flood.profit < 0
    assert flood.loses


def test_the_share_replayed_whole_that_finds_a_bent_step_does(rules: Rules) -> None:
    share = share_that_finds(rules, 0.0, 0.9)
    assert share is not None
    assert caught_chance(replace(rules, whole_replays=share), 1, 0.0) == pytest.approx(0.9)
    assert share_that_finds(rules, 0.0, 0.1) == 0.0
    assert share_that_finds(rules, FRIENDS, 0.99) is None


@pytest.mark.parametrize("watched", [0.0, 0.3])
@pytest.mark.parametrize("fee", [0.5, 1.0, 2.0])
def test_bending_a_step_pays_from_the_tolerable_gain_on_and_never_before(
    rules: Rules, fee: float, watched: float
) -> None:
    rules = replace(rules, unavailable_fee=fee * rules.conviction_loss, watched=watched)
    gain, some = tolerable_gain(rules, FRIENDS), plays(rules, 10)
    below, above = (
        [poisoner(rules, some, FRIENDS, gain * near, hides=hides).loses for hides in (False, True)]
        for near in (0.999, 1.001)
    )
    assert all(below)
    assert not all(above)


def test_a_bought_jury_pays_where_its_merge_is_worth_more_than_half_of_the_merge_s_bond(rules: Rules) -> None:
    some = plays(rules, 10)
    assert false_merge(rules, some, FRIENDS, GAIN).loses
    assert not false_merge(rules, some, FRIENDS, rules.merge_bond).loses
    assert false_merge(replace(rules, merge_bond=3 * rules.merge_bond), some, FRIENDS, rules.merge_bond).loses
    assert bought_jury(rules, 1 / 3) == pytest.approx(7 / 27)


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
