"""A person without a node accuses a liar with one command, which plays to the end; nobody honest is accused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chain_process import ETH
from click.testing import Result
from dispute_files import invoke, refused
from network_world import World, key, open_world

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from adversary.cheaters.steps import forge
from adversary.cheaters.wrong_merge import bend

from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import CourtEvent, DisputeRecord, Reason
from cupel.chain.run_contract import compute_seal
from cupel.chain.run_values import Answer, Phase, Status, UnitView
from cupel.disputes.playing import Hand
from cupel.node.session import open_session
from cupel.node.settings import NodeSettings
from cupel.node.stopping import StopRequest
from cupel.protocol.disputes.game import Defence
from cupel.protocol.hashing import sha256
from cupel.protocol.types import Root, Salt, Wei

LIAR, JUROR, PERSON, POOR = "liar", "juror", "person", "poor"
HERE = Path(__file__).resolve().parent
CHEATER = {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "benchmarks"), str(HERE)])}
# Nothing here waits for a clock to run out by itself: phases end when all have acted, disputes by moves. So all clocks
# are far longer than the slowest machine takes.
LONG = 5_000
CLOCKS = Clocks(clock_blocks=LONG, grace_blocks=100, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
UNIT_BOND, MERGE_BOND, STAKE = ETH // 10_000, ETH // 100_000, ETH // 10_000
RULES: dict[str, int] = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "segments": 2,
    "segments_per_verifier": 2,
    "segment_steps": 2,
    "max_units_per_miner": 2,
    "jury_target": 1,
    "train_blocks": LONG,
    "seal_blocks": LONG,
    "open_blocks": LONG,
    "merge_blocks": LONG,
    "acknowledge_blocks": LONG,
    # Longer than a dispute in which somebody is silent.
    "window_blocks": 10 * LONG,
    "unit_bond": UNIT_BOND,
    "unavailable_fee": UNIT_BOND // 2,
    "slot_stake": STAKE,
    "seal_fee": STAKE // 20,
    "merge_bond": MERGE_BOND,
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One round of two units: one right, the other a copy of it; and a false merge of them, which is the next state.

    The only verifier swore to both units and to the merge, which is its own. It is this test: a node would accuse.
    """
    folder = tmp_path_factory.mktemp("hand")
    with (
        pytest.MonkeyPatch.context() as here,
        open_world(folder, [LIAR, JUROR, PERSON], block_time_s=0.1, court=CLOCKS, **RULES) as opened,  # type: ignore[arg-type]
    ):
        # As for the nodes: what is noted for the user is for this world alone.
        here.setenv("XDG_DATA_HOME", str(folder / "user"))
        # What is put down is bonds of one round: the processor is the disputes' from then on.
        deposit = str(2 * UNIT_BOND + MERGE_BOND)
        liar = opened.add("adversary.cheaters.copied_unit", LIAR, "--units", "2", "--deposit", deposit)
        liar.start(CHEATER)
        play_juror(opened)
        yield opened


@contextmanager
def open_juror(world: World) -> Iterator[Hand]:
    given = world.node(JUROR).arguments
    keystore, password = (Path(given[given.index(one) + 1]) for one in ("--keystore", "--password-file"))
    settings = NodeSettings(
        run=world.folder / "run.json",
        rpc=(world.chain.url,),
        data=world.node(JUROR).data,
        keystore=keystore,
        password_file=password,
    )
    with open_session(settings, "juror", StopRequest()) as session:
        yield Hand(session)


def play_juror(world: World) -> None:
    """Swear to both units and to a merge with one weight an ulp off."""
    world.add("verifier", JUROR)
    with open_juror(world) as hand:
        contract, me, salt = hand.contract, hand.session.address, Salt(sha256(b"salt"))
        contract.stake(hand.session.endpoint, deposit_wei=STAKE + MERGE_BOND)
        wait_for_phase(world, Phase.SEAL)
        hand.session.refresh_participants()
        units, view = contract.get_units(0), contract.get_round(0)
        said = compute_answers(hand, next(unit for unit in units if unit.index == 0))
        ids = [unit.unit_id for unit in units]
        contract.seal(view.draw_seed, ids, [compute_seal(one, me, said, salt) for one in ids])
        wait_for_phase(world, Phase.OPEN)
        contract.reveal(0, ids, [said] * len(ids), [salt] * len(ids))
        wait_for_phase(world, Phase.MERGE)
        false, cid = Root(forge(hand.sides.run_merge(0).hold(), bend).state_tree.root), units[0].cid
        contract.propose_merge(view.draw_seed, state_root=false, cid=cid)
        contract.acknowledge(view.draw_seed, 0, state_root=false, cid=cid)
        assert contract.get_round(0).merged


def defend_merge(world: World) -> DisputeRecord:
    """By hand as well, with the trace that ends in what was proposed."""
    with open_juror(world) as hand:
        defend = hand.sides.defend

        def defend_bent(record: DisputeRecord) -> Defence:
            defence = defend(record)
            return replace(defence, hold=lambda step: forge(defence.hold(step), bend))

        hand.sides.defend = defend_bent  # type: ignore[method-assign]
        world.wait_for("an accusation", lambda: list_disputes(world), timeout_s=100)
        return hand.play_to_end(1)


def wait_for_phase(world: World, phase: Phase) -> None:
    world.wait_for(phase.name, lambda: world.contract.current().phase == phase, timeout_s=200)


def compute_answers(hand: Hand, unit: UnitView) -> list[Answer]:
    """Of every segment of a right unit."""
    states, answers = hand.describe(unit).states, []
    for number, start in enumerate(states[:-1]):
        state = hand.session.states.get("checkpoint", start.cid, start.state_root, f"juror/{number}")
        run = hand.sides.run_segment(unit.unit_id, hand.contract.get_round(0).seed, state, number)
        answers.append(Answer(end_root=run.roots[-1], loss=run.evidence[0], gradient_norm=run.evidence[1]))
    return answers


def unit_of(world: World, index: int) -> UnitView:
    return next(unit for unit in world.contract.get_units(0) if unit.index == index)


def list_disputes(world: World) -> list[CourtEvent]:
    return CourtContract(world.client, world.contract.court()).list_disputes(world.contract.address)


def read_newest(world: World) -> DisputeRecord:
    court = CourtContract(world.client, world.contract.court())
    assert court.credit(key(PERSON).address) == 0  # collected
    return court.get_dispute(int(list_disputes(world)[-1].arguments["dispute"]))


def list_options(world: World, name: str) -> list[str]:
    """What a person types to say who it is and where the run is."""
    node = next((one for one in world.nodes if one.name == name), None) or world.add("cupel", name)
    return [one for one in node.arguments if one not in ("--json-log", "--on-stop", "quit")]


def ask(world: World, command: str, *arguments: str, name: str = PERSON) -> Result:
    """In this process."""
    return invoke(command, *list_options(world, name), *arguments)


def test_right_work_is_not_accused(world: World) -> None:
    right = unit_of(world, 0).unit_id.hex()
    done = ask(world, "accuse", "--round", "0", "--unit", right, "--yes")
    assert (done.exit_code, "nobody is accused" in done.output) == (1, True), done.output
    assert "give --yes" in refused(ask(world, "accuse", "--round", "0", "--unit", right))


def test_what_cannot_be_paid_for_or_is_not_there_is_not_announced(world: World) -> None:
    lie = ("--round", "0", "--unit", unit_of(world, 1).unit_id.hex()[:12], "--segment", "1", "--yes")
    assert "0 ETH; the bond may take" in refused(ask(world, "accuse", *lie, name=POOR))
    budget = ask(world, "accuse", *lie, "--challenge-budget", "0.01")
    assert "--challenge-budget allows 0.01 ETH" in refused(budget)
    for options, why in (
        (("--unit", "ffff"), "no units of round 0 match 'ffff'"),
        (("--merge", "--candidate", "7"), "no candidate 7: 1 merges were proposed in round 0"),
        (("--merge", "--unit", "0"), "give one"),
        (("--merge", "--segment", "0"), "--segment is part of a unit"),
        ((), "give one"),
    ):
        assert why in refused(ask(world, "accuse", "--round", "0", *options, "--yes"))


def test_a_false_merge_that_was_accepted_is_convicted_though_it_is_defended(world: World) -> None:
    with ThreadPoolExecutor(1) as other:
        defended = other.submit(defend_merge, world)
        done = ask(world, "accuse", "--round", "0", "--merge", "--yes")
        assert done.exit_code == 0, done.output
        assert f"WRONG: the merge of round 0 of {key(JUROR).address}: the merge is 0x" in done.output
        record = read_newest(world)
        assert defended.result().ending == record.ending
    assert record.accused == key(JUROR).address
    assert (record.ending.convicted, record.ending.reason) == (True, Reason.ELEMENT)
    assert [one.is_convicted for one in world.contract.candidates(0)] == [True]


def test_one_command_accuses_a_liar_and_plays_to_the_conviction(world: World) -> None:
    # Everybody who looked swore to it.
    assert unit_of(world, 1).status == Status.ATTESTED
    done = ask(world, "accuse", "--round", "0", "--unit", unit_of(world, 1).unit_id.hex(), "--yes")
    assert done.exit_code == 0, done.output
    assert f"of {key(LIAR).address}: segment 0 ends in" in done.output
    assert "convicted: an element was recomputed and is wrong" in done.output
    record = read_newest(world)
    assert record.challenger == key(PERSON).address
    assert record.ending.reason == Reason.ELEMENT
    assert unit_of(world, 1).status == Status.CONVICTED


def test_a_dispute_that_is_over_is_told_and_not_begun_again(world: World) -> None:
    lie = unit_of(world, 1).unit_id.hex()
    assert "cannot be accused now" in refused(ask(world, "accuse", "--round", "0", "--unit", lie, "--yes"))
    over = ask(world, "continue", str(read_newest(world).number))
    assert (over.exit_code, "convicted" in over.output) == (0, True)
    assert "is no party of dispute 99" in refused(ask(world, "continue", "99"))


def test_list_and_show_tell_the_conviction_as_the_run_carried_it_out(world: World) -> None:
    where = ("--run", str(world.folder / "run.json"), "--rpc", world.chain.url)
    unit = unit_of(world, 1)
    one = json.loads(invoke("list", *where, "--json").stdout)["disputes"][-1]
    assert (one["subject"], one["kind"], one["segment"]) == ("0x" + unit.unit_id.hex(), "unit", 0)
    assert (one["accused"], one["challenger"]) == (unit.miner, key(PERSON).address)
    told = invoke("show", str(one["dispute"]), *where, "--json")
    shown = json.loads(told.stdout)
    assert shown["verdict"]["convicted"]
    assert int(shown["verdict"]["prize_wei"]) == UNIT_BOND // 2
    assert shown["verdict"]["finder"] == key(PERSON).address
    assert shown["moves"][-1]["text"].endswith("recomputed: CONVICTED")
