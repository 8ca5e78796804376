"""The court's rules: who may move when, what it costs, and that every dispute ends. docs/design/court.md."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract_world import BURN, ETH, Refused
from court_world import (
    CLOCK,
    DEFENCE_GAS,
    GRACE,
    MERGE,
    MINIMUM_BOND,
    UNIT,
    UNIT_BOND,
    WINDOW,
    CourtWorld,
    Dispute,
    Lie,
    Unit,
    challenge_of,
    hold_merge,
    make_court,
    merge_challenge,
    states,
)
from eth_utils import to_canonical_address

from cupel.chain.abi import load_abi
from cupel.protocol import merkle
from cupel.protocol.disputes.game import Defence
from cupel.protocol.proceedings import Move, Stage

WRONG = hashlib.sha256(b"wrong").digest()
LIAR = Unit(Lie(step=1, end_root=WRONG))


def refused(
    name: str, world: CourtWorld, account: int, function: str, *arguments: object, value: int = 0
) -> dict[str, object]:
    with pytest.raises(Refused) as caught:
        world.send(world.accounts[account], function, *arguments, value=value)
    caught.value.must_be(name)
    return caught.value.numbers


@pytest.fixture
def court() -> CourtWorld:
    """An honest unit of account 0 stands on the docket."""
    world = make_court()
    world.post_unit(world.accounts[0], Unit())
    return world


@pytest.fixture
def lied() -> CourtWorld:
    """A unit of account 0 whose second step ends in a root of nothing."""
    world = make_court()
    world.post_unit(world.accounts[0], LIAR)
    return world


def accuse(world: CourtWorld, by: int = 1, segment: int = 0, salt: bytes = bytes(32)) -> Dispute:
    return world.accuse(world.accounts[by], world.accounts[0], UNIT, segment, salt)


ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.node
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not os.environ.get("CI") and not (ROOT / "contracts" / "node_modules" / "solc").is_dir(),
    reason="needs Node.js and `npm install` in contracts/",
)
def test_the_docket_is_what_its_source_gives() -> None:
    script = ROOT / "tests" / "vectors" / "generate_docket.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- accusing


def test_an_accusation_that_was_not_announced_is_refused(court: CourtWorld) -> None:
    refused("NotAnnounced", court, 1, "accuse", court.docket, UNIT, 0, bytes(32), value=ETH)


def test_an_accusation_of_another_segment_or_by_another_was_not_announced(court: CourtWorld) -> None:
    court.announce(court.accounts[1], UNIT, 0)
    refused("NotAnnounced", court, 1, "accuse", court.docket, UNIT, 1, bytes(32), value=ETH)
    refused("NotAnnounced", court, 2, "accuse", court.docket, UNIT, 0, bytes(32), value=ETH)


def test_an_announcement_serves_once_and_for_256_blocks(court: CourtWorld) -> None:
    late = court.fork()
    accuse(court)
    refused("NotAnnounced", court, 1, "accuse", court.docket, UNIT, 0, bytes(32), value=ETH)
    late.announce(late.accounts[1], UNIT, 0)
    late.world.mine(256)
    refused("AnnouncementExpired", late, 1, "accuse", late.docket, UNIT, 0, bytes(32), value=ETH)
    late.announce(late.accounts[1], UNIT, 0)
    late.send(late.accounts[1], "accuse", late.docket, UNIT, 0, bytes(32), value=ETH)


def test_what_nobody_posted_or_is_past_its_window_cannot_be_accused(court: CourtWorld) -> None:
    for subject in (WRONG, UNIT):
        if subject == UNIT:
            court.world.mine(WINDOW)
        court.announce(court.accounts[1], subject, 0)
        refused("NotContestable", court, 1, "accuse", court.docket, subject, 0, bytes(32), value=ETH)


def test_a_segment_that_a_unit_does_not_have_is_refused(court: CourtWorld) -> None:
    court.announce(court.accounts[1], UNIT, 2)
    refused("SegmentOutOfRange", court, 1, "accuse", court.docket, UNIT, 2, bytes(32), value=ETH)


def test_a_run_that_names_another_court_is_refused(court: CourtWorld) -> None:
    other = court.world.deploy("Court", court.ask("EVALUATOR"), court.ask("CLERK"), 1, 1, 1, 1)
    court.court, first = other, court.court
    court.announce(court.accounts[1], UNIT, 0)
    numbers = refused("NotThisCourt", court, 1, "accuse", court.docket, UNIT, 0, bytes(32), value=ETH)
    assert numbers["court"] == first


def test_the_bond_is_ten_defences_at_the_base_fee_and_grows_with_every_open_dispute(court: CourtWorld) -> None:
    court.announce(court.accounts[1], UNIT, 0)
    needed = court.ask("bondFor", court.docket, court.accounts[0].address)
    base_fee = court.world.chain.header.base_fee_per_gas
    assert base_fee is not None
    assert needed == max(MINIMUM_BOND, 10 * DEFENCE_GAS * base_fee)
    refused("BondTooSmall", court, 1, "accuse", court.docket, UNIT, 0, bytes(32), value=needed // 2)
    for count in range(1, 4):
        dispute = accuse(court, by=count)
        assert dispute.bond == count * needed
    # Another's claims cost no more for it.
    assert court.ask("bondFor", court.docket, court.accounts[5].address) == needed


def test_what_is_sent_above_the_bond_is_credited_back(court: CourtWorld) -> None:
    court.announce(court.accounts[1], UNIT, 0)
    needed = court.ask("bondFor", court.docket, court.accounts[0].address)
    court.send(court.accounts[1], "accuse", court.docket, UNIT, 0, bytes(32), value=needed + 77)
    assert court.ask("credit", court.accounts[1].address) == 77
    court.check_solvent(needed)


# ---------------------------------------------------------------- turns


def test_every_move_is_refused_at_every_other_stage(lied: CourtWorld) -> None:
    dispute = accuse(lied)
    defence, challenge = LIAR.defence(0), challenge_of(0)
    shown: list[Move] = []
    probe = Dispute(lied.fork(), dispute.number, dispute.accused, dispute.challenger, dispute.bond, dispute.position)
    while probe.position.stage not in (Stage.STATE_NODES, Stage.CLOSED):
        side, account = (defence, probe.accused) if probe.is_accuseds_turn else (challenge, probe.challenger)
        move = side.move(probe.position)
        assert move is not None
        probe.send(account, move)
        shown.append(move)
    assert [move.function for move in shown] == ["openSegment", "chooseStep", "postTrace", "contestState"]
    for stage, right in enumerate(shown):
        for move in shown:
            if move.function == right.function:
                continue
            for account in (0, 1):
                refused("WrongStage", lied, account, move.function, dispute.number, *move.arguments)
        account = dispute.accused if dispute.is_accuseds_turn else dispute.challenger
        dispute.send(account, right)
        # Nor twice.
        number = 0 if account == dispute.accused else 1
        refused("WrongStage", lied, number, right.function, dispute.number, *right.arguments)
        assert stage < len(shown)


def test_a_move_by_another_account_is_refused(court: CourtWorld) -> None:
    dispute = accuse(court)
    move = Unit().defence(0).move(dispute.position)
    for other in (1, 2):
        refused("NotYourTurn", court, other, move.function, dispute.number, *move.arguments)
    dispute.send(court.accounts[0], move)
    following = challenge_of(0).move(dispute.position)
    assert following is not None
    for other in (0, 2):
        refused("NotYourTurn", court, other, following.function, dispute.number, *following.arguments)


def test_a_move_after_its_time_is_refused_though_nobody_has_ended_the_dispute(court: CourtWorld) -> None:
    dispute = accuse(court)
    move = Unit().defence(0).move(dispute.position)
    _, mover, until = court.ask("turnOf", dispute.number)
    assert (mover, until) == (court.accounts[0].address, court.height + CLOCK)
    late = court.fork()
    court.world.mine_to(until)
    court.send(court.accounts[0], move.function, dispute.number, *move.arguments)
    late.world.mine_to(until + 1)
    refused("TimeIsOut", late, 0, move.function, dispute.number, *move.arguments)


def test_timeout_is_refused_while_time_remains(court: CourtWorld) -> None:
    dispute = accuse(court)
    until = court.height + CLOCK
    assert refused("TimeRemains", court, 5, "timeout", dispute.number)["until"] == until
    refused("UnknownDispute", court, 5, "timeout", 99)


def test_a_clock_runs_only_on_its_own_turn_and_leaves_the_grace(court: CourtWorld) -> None:
    dispute = accuse(court)
    start = court.height
    court.world.mine_to(start + CLOCK)  # the accused takes all it has
    dispute.send(court.accounts[0], Unit().defence(0).move(dispute.position))
    _, mover, until = court.ask("turnOf", dispute.number)
    assert (mover, until) == (court.accounts[1].address, court.height + CLOCK)
    move = challenge_of(0).move(dispute.position)
    assert move is not None
    dispute.send(court.accounts[1], move)
    # Nothing is left of its clock, and it has the grace.
    assert court.ask("turnOf", dispute.number)[2] == court.height + GRACE


def test_a_clock_is_longer_for_every_dispute_already_open(court: CourtWorld) -> None:
    for already in range(3):
        dispute = accuse(court, by=1 + already)
        assert court.ask("turnOf", dispute.number)[2] == court.height + CLOCK + already * GRACE


@pytest.mark.parametrize("last", ["accused", "challenger"])
def test_a_dispute_that_both_drag_out_ends_within_the_stated_blocks(last: str) -> None:
    """Each move comes in the last block allowed; the side named falls silent at the end."""
    world = make_court()
    world.post_unit(world.accounts[0], LIAR if last == "accused" else Unit())
    dispute = accuse(world)
    start = world.height
    unit = LIAR if last == "accused" else Unit()
    while dispute.ended is None:
        _, mover, until = world.ask("turnOf", dispute.number)
        side = unit.defence(0) if mover == dispute.accused.address else challenge_of(0)
        world.world.mine_to(until)
        try:
            move = side.move(dispute.position)
            assert move is not None
            dispute.send(dispute.accused if mover == dispute.accused.address else dispute.challenger, move)
        except Refused:
            dispute.time_out()
    assert dispute.ended[0] == ("Convicted" if last == "accused" else "Dismissed")
    assert 2 * CLOCK < world.height - start <= world.ask("longestDispute")


# ---------------------------------------------------------------- openings that do not fit


def test_what_does_not_hash_to_what_stands_is_refused(court: CourtWorld) -> None:
    dispute = accuse(court)
    defence, challenge = Unit().defence(0), challenge_of(0)
    move = defence.move(dispute.position)
    (start, *rest) = move.arguments
    refused("NotInTree", court, 0, "openSegment", dispute.number, (WRONG, *start[1:]), *rest)
    refused("NotInTree", court, 0, "openSegment", dispute.number, start, WRONG, *rest[1:])
    refused("WrongLength", court, 0, "openSegment", dispute.number, start, *rest[:-1], [])
    dispute.send(court.accounts[0], move)
    refused("HashMismatch", court, 1, "chooseStep", dispute.number, 0, [WRONG])
    refused("StepOutOfRange", court, 1, "chooseStep", dispute.number, 2, list(dispute.position.inner_roots))
    dispute.play_to(Stage.TRACE, defence, challenge)
    program, path, header, nodes = defence.move(dispute.position).arguments
    refused("NotInTree", court, 0, "postTrace", dispute.number, WRONG, path, header, nodes)
    refused("NotInTree", court, 0, "postTrace", dispute.number, program, path, (header[0] + b"x", header[1]), nodes)
    refused("WrongLength", court, 0, "postTrace", dispute.number, program, path, header, nodes[:-1])
    dispute.send(court.accounts[0], defence.move(dispute.position))
    refused("NotInTree", court, 1, "chooseNode", dispute.number, 0, WRONG, [])
    refused("NodeOutOfRange", court, 1, "chooseNode", dispute.number, len(nodes), WRONG, [])


def test_a_merge_is_disputed_without_a_segment() -> None:
    world = make_court()
    world.post_merge(world.accounts[0], hold_merge().state_tree.root)
    dispute = world.accuse(world.accounts[1], world.accounts[0], MERGE)
    assert dispute.position.stage == Stage.TRACE
    defence = Defence(segment=None, hold=lambda _: hold_merge())
    dispute.play_to(Stage.CONTEST, defence, merge_challenge())
    # A merge has neither loss nor gradient norm.
    refused("NotTheLastStep", world, 1, "contestEvidence", dispute.number)
    refused("SegmentOutOfRange", world, 1, "accuse", *_announced(world, MERGE, 1), value=5 * ETH)


def _announced(world: CourtWorld, subject: bytes, segment: int) -> tuple[object, ...]:
    world.announce(world.accounts[1], subject, segment)
    return world.docket, subject, segment, bytes(32)


def test_evidence_is_contested_only_at_the_last_step(court: CourtWorld) -> None:
    dispute = accuse(court)
    defence = Unit().defence(0)
    dispute.send(court.accounts[0], defence.move(dispute.position))
    dispute.send(court.accounts[1], Move("chooseStep", (0, list(dispute.position.inner_roots))))
    dispute.send(court.accounts[0], defence.move(dispute.position))
    numbers = refused("NotTheLastStep", court, 1, "contestEvidence", dispute.number)
    assert numbers == {"step": 0, "steps": 2}


# ---------------------------------------------------------------- money


def test_a_conviction_returns_the_bond_with_half_of_what_was_slashed(lied: CourtWorld) -> None:
    dispute = accuse(lied)
    lied.check_solvent(dispute.bond)
    assert dispute.play(LIAR.defence(0), challenge_of(0)) == "Convicted"
    assert lied.ask("credit", lied.accounts[1].address) == dispute.bond + UNIT_BOND // 2
    assert lied.ask("credit", lied.accounts[0].address) == 0
    assert (lied.ask_docket("burned"), lied.world.balance(lied.docket)) == (UNIT_BOND // 2, UNIT_BOND // 2)
    assert lied.ask("isConvicted", lied.docket, UNIT)
    lied.check_solvent(0)


def test_a_lost_challenge_repays_the_defence_and_burns_the_rest(court: CourtWorld) -> None:
    dispute = accuse(court)
    assert dispute.play(Unit().defence(0), challenge_of(0)) == "Dismissed"
    repaid = court.ask("credit", court.accounts[0].address)
    spent = sum(court.gas_of[move][0] for move in ("openSegment", "postTrace", "openEvidence"))
    base_fee = court.world.chain.header.base_fee_per_gas
    assert base_fee is not None
    # What it repays is about what was paid: gas measured within, and a base fee that falls a little in empty blocks.
    assert 0.9 * spent * base_fee < repaid < 1.6 * spent * base_fee
    assert court.ask("burnOwed") == dispute.bond - repaid > 9 * repaid
    assert court.ask("credit", court.accounts[1].address) == 0
    court.check_solvent(0)
    before = court.world.balance(BURN)
    court.send(court.accounts[4], "burn")
    assert court.world.balance(BURN) == before + dispute.bond - repaid
    court.check_solvent(0)


def test_a_lost_challenge_protects_nobody(lied: CourtWorld) -> None:
    """The liar's friend challenges first and gives up; the next one wins."""
    friend = accuse(lied, by=2)
    friend.send(lied.accounts[0], LIAR.defence(0).move(friend.position))
    friend.time_out()
    assert friend.ended is not None
    assert friend.ended[0] == "Dismissed"
    assert accuse(lied).play(LIAR.defence(0), challenge_of(0)) == "Convicted"


def test_the_prize_is_the_earliest_open_accusation_s_of_that_segment(lied: CourtWorld) -> None:
    """Three accuse: one another segment, the finder, and one that copies and is faster, and is repaid its gas alone."""
    other = accuse(lied, by=2, segment=1)
    finder = accuse(lied, by=1)
    copier = accuse(lied, by=3)
    assert copier.play(LIAR.defence(0), challenge_of(0)) == "Convicted"
    credit = [lied.ask("credit", account.address) for account in lied.accounts[:4]]
    assert copier.ended is not None
    assert copier.ended[1]["finder"] == lied.accounts[1].address
    gas = credit[3] - copier.bond
    assert 0 < gas < UNIT_BOND // 100
    assert credit[:3] == [0, UNIT_BOND // 2 - gas, 0]
    # The others have their bonds back, once each.
    for dispute in (finder, other):
        refused("AlreadyConvicted", lied, 0, "timeout", dispute.number)
        dispute.follow(lied.send(lied.accounts[5], "close", dispute.number))
        refused("WrongStage", lied, 5, "close", dispute.number)
    assert lied.ask("credit", lied.accounts[1].address) == finder.bond + UNIT_BOND // 2 - gas
    assert lied.ask("credit", lied.accounts[2].address) == other.bond
    assert lied.ask_docket("openOf", UNIT) == 0
    lied.check_solvent(0)


def test_a_closed_accusation_is_no_longer_the_earliest(lied: CourtWorld) -> None:
    first = accuse(lied, by=2)
    first.send(lied.accounts[0], LIAR.defence(0).move(first.position))
    second, third = accuse(lied, by=1), accuse(lied, by=3)
    first.time_out()
    third.play(LIAR.defence(0), challenge_of(0))
    assert third.ended is not None
    assert third.ended[1]["finder"] == second.challenger.address


def test_a_claim_that_nobody_convicted_cannot_be_closed(court: CourtWorld) -> None:
    refused("NotConvicted", court, 1, "close", accuse(court).number)


def test_a_convicted_claim_cannot_be_accused_again(lied: CourtWorld) -> None:
    accuse(lied).play(LIAR.defence(0), challenge_of(0))
    refused("NotContestable", lied, 2, "accuse", *_announced_by(lied, 2), value=9 * ETH)


def _announced_by(world: CourtWorld, by: int) -> tuple[object, ...]:
    world.announce(world.accounts[by], UNIT, 0)
    return world.docket, UNIT, 0, bytes(32)


@pytest.mark.parametrize("unit", [LIAR, Unit()], ids=["convicted", "dismissed"])
def test_accusing_oneself_loses_money(unit: Unit) -> None:
    world = make_court()
    liar = world.accounts[0]
    start = world.world.balance(liar.address)
    world.post_unit(liar, unit)
    dispute = world.accuse(liar, liar, UNIT)
    dispute.play(unit.defence(0), challenge_of(0))
    if world.ask("credit", liar.address):
        world.send(liar, "collect")
    if unit is not LIAR:
        world.world.mine(WINDOW)
        world.post(liar, "withdraw", UNIT)
    lost = start - world.world.balance(liar.address)
    assert lost > (UNIT_BOND // 2 if unit is LIAR else 9 * dispute.bond // 10)


def test_a_claim_is_not_finished_while_a_dispute_is_open(court: CourtWorld) -> None:
    dispute = accuse(court)
    court.world.mine(WINDOW - 1)
    with pytest.raises(Refused) as caught:
        court.post(court.accounts[0], "withdraw", UNIT)
    caught.value.must_be("NotYet")
    # Its owner was silent all the while; a silent challenger would have freed it.
    dispute.time_out()
    assert dispute.ended is not None
    assert dispute.ended[0] == "Convicted"


def test_only_the_court_changes_a_claim(court: CourtWorld) -> None:
    for function, *arguments in (("disputeOpened", UNIT), ("disputeClosed", UNIT), ("convict", UNIT, 0)):
        with pytest.raises(Refused) as caught:
            court.post(court.accounts[3], function, *arguments)
        caught.value.must_be("NotTheCourt")


def test_ether_that_comes_unasked_is_refused_and_forced_ether_changes_nothing(court: CourtWorld) -> None:
    sender = court.accounts[3]
    _, computation = court.world.send_raw(sender, court.court, b"", 5)
    assert computation.is_error
    # A contract that destroys itself while it is made forces its value on whom it names.
    code = b"\x73" + to_canonical_address(court.court) + b"\xff"
    _, computation = court.world.send_raw(sender, "", code, 3 * ETH)
    assert not computation.is_error
    assert court.world.balance(court.court) == 3 * ETH
    dispute = accuse(court)
    dispute.play(Unit().defence(0), challenge_of(0))
    owed = court.ask("credit", court.accounts[0].address) + court.ask("burnOwed")
    assert owed == dispute.bond
    court.send(court.accounts[0], "collect")
    court.send(court.accounts[0], "burn")
    assert court.world.balance(court.court) == 3 * ETH


def test_nobody_collects_twice_or_what_is_another_s(lied: CourtWorld) -> None:
    dispute = accuse(lied)
    dispute.play(LIAR.defence(0), challenge_of(0))
    refused("NothingToCollect", lied, 2, "collect")
    before = lied.balance(lied.accounts[1])
    lied.send(lied.accounts[1], "collect")
    paid = dispute.bond + UNIT_BOND // 2
    assert 0 < before + paid - lied.balance(lied.accounts[1]) < 10**16  # but for the transaction's own cost
    refused("NothingToCollect", lied, 1, "collect")
    lied.check_solvent(0)


def test_no_selector_is_privileged() -> None:
    """Nothing that an owner would call; and whoever deployed may do no more than anybody."""
    suspicious = ("owner", "admin", "pause", "upgrade", "set", "role", "grant", "init", "govern", "treasury", "rescue")
    for name in ("Court", "Clerk"):
        for function in load_abi(name).functions:
            assert not function.lower().startswith(suspicious), function
    assert set(load_abi("Court").functions) == {
        "announce", "accuse", "bondFor", "openSegment", "chooseStep", "postTrace", "openNodes", "chooseNode",
        "openValue", "openLeaf", "contestState", "contestEvidence", "openStateLeaf", "openEvidence", "proveOmission",
        "judge", "judgeBatch", "judgeOrder", "askSums", "postSums", "chooseSum", "postParts", "judgeBlock",
        "judgeWitness", "timeout", "close", "collect", "burn", "longestDispute", "turnOf", "isConvicted",
        "credit", "burnOwed", "disputesCount", "EVALUATOR", "CLERK", "CLOCK_BLOCKS", "GRACE_BLOCKS", "MINIMUM_BOND",
        "DEFENCE_GAS",
    }  # fmt: skip


def test_the_merge_s_inputs_are_the_contributions(court: CourtWorld) -> None:
    court.post_merge(court.accounts[0], WRONG)
    assert list(court.ask_docket("mergeInputs", MERGE)) == [merkle.state_root(states()[i]) for i in (2, 4)]


def test_a_dispute_costs_what_the_snapshot_says() -> None:
    spec = importlib.util.spec_from_file_location("gas_court_benchmark", ROOT / "benchmarks" / "gas_court.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    snapshot = json.loads((ROOT / "contracts" / "gas-snapshot-court.json").read_text())
    assert module.measure() == snapshot, "run benchmarks/gas_court.py --write and look at the change"
