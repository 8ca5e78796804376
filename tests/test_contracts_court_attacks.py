"""What somebody could try against a court besides lying: places in the line for the prize, and gas that is repaid."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache

import pytest
from contract_world import Account, Refused
from court_world import (
    CLOCK,
    DEFENCE_GAS,
    GRACE,
    MINIMUM_BOND,
    STEPS,
    UNIT,
    UNIT_BOND,
    CourtWorld,
    Dispute,
    Lie,
    Unit,
    challenge_of,
    docket_abi,
    hold_step,
    make_court,
    prover_of_step,
    step_program,
    values_of,
)
from eth_utils import to_canonical_address, to_checksum_address

from cupel.chain.abi import load_abi
from cupel.protocol.disputes.game import Challenge
from cupel.protocol.hashing import checkpoint_leaf, contribution_leaf, evidence, proof, tree_root
from cupel.protocol.proceedings import Stage, announcement
from cupel.protocol.types import Address, Salt

WRONG = hashlib.sha256(b"wrong").digest()
BATCH = len(step_program().graph.inputs) - 1
OPERATION = len(step_program().graph.inputs) + len(step_program().graph.constants)
# A root of nothing at the second step: it cannot be opened, and silence convicts.
LIAR = Unit(Lie(step=1, end_root=hashlib.sha256(b"nothing").digest()))


@cache
def _lied() -> CourtWorld:
    world = make_court()
    world.post_unit(world.accounts[0], LIAR)
    return world


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0)])
def test_the_prize_is_the_next_accuser_s_whatever_order_the_earlier_ones_were_dismissed_in(
    order: tuple[int, ...],
) -> None:
    world = _lied().fork()
    earlier = [world.accuse(world.accounts[1 + i], world.accounts[0], UNIT, salt=bytes([i]) * 32) for i in range(3)]
    for dispute in earlier:
        dispute.send(world.accounts[0], LIAR.defence(0).move(dispute.position))
    for i in order:
        earlier[i].time_out()
        assert earlier[i].ended is not None
        assert earlier[i].ended[0] == "Dismissed"
    last = world.accuse(world.accounts[4], world.accounts[0], UNIT)
    assert last.play(LIAR.defence(0), challenge_of(0)) == "Convicted"
    assert last.ended is not None
    assert last.ended[1]["finder"] == last.challenger.address
    assert world.ask("credit", last.challenger.address) == last.bond + UNIT_BOND // 2
    world.check_solvent(0)


# ---------------------------------------------------------------- padded moves


def test_gas_repaid_to_a_faster_copier_leaves_the_finder_half_of_the_prize() -> None:
    """A liar's friend may pad its own moves as it likes, at the liar's expense and not at the finder's."""
    world, bond = make_court(), 1000
    world.post_unit(world.accounts[0], LIAR, bond)
    finder = world.accuse(world.accounts[1], world.accounts[0], UNIT)
    friend = world.accuse(world.accounts[2], world.accounts[0], UNIT, salt=bytes([2]) * 32)
    assert friend.play(LIAR.defence(0), challenge_of(0)) == "Convicted"
    credit = [world.ask("credit", world.accounts[i].address) for i in (1, 2)]
    assert credit == [bond // 4, friend.bond + bond // 4]
    world.send(finder.challenger, "close", finder.number)
    world.check_solvent(0)


def test_gas_repaid_to_the_accused_leaves_half_of_a_lost_bond_to_burn() -> None:
    """However dear its moves: else accusing oneself, to make others' bonds dearer, would cost next to nothing."""
    world = make_court(minimum_bond=1000, defence_gas=1)
    world.post_unit(world.accounts[0], Unit())
    dispute = world.accuse(world.accounts[1], world.accounts[0], UNIT)
    assert dispute.play(Unit().defence(0), challenge_of(0)) == "Dismissed"
    assert world.ask("credit", world.accounts[0].address) == dispute.bond // 2
    assert world.ask("burnOwed") == dispute.bond - dispute.bond // 2
    world.check_solvent(0)


# ---------------------------------------------------------------- the wrong judge


def false_challenge(lie: Lie) -> Challenge:
    """Of a challenger who says that an honest step gave what the lie gives."""
    true = challenge_of(0)
    return dataclasses.replace(
        true,
        step_roots=[Unit(lie).step_root(1 + i) for i in range(STEPS)],
        hold=lambda step: hold_step(step, lie),
    )


def contested(value: int) -> Dispute:
    """An honest unit, at the judgement of one value of its second step."""
    world = make_court()
    world.post_unit(world.accounts[0], Unit())
    honest = values_of(prover_of_step(1))[value]
    lie = Lie(step=1, values={value: bytes([honest[0] ^ 1]) + honest[1:]}, end_root=WRONG)
    dispute = world.accuse(world.accounts[1], world.accounts[0], UNIT)
    return dispute.play_to(Stage.ELEMENT, Unit().defence(0), false_challenge(lie))


def judge_batch(dispute: Dispute, element: int) -> None:
    data = dispute.position.data
    dispute.world.send(
        dispute.challenger, "judgeBatch", dispute.number, element, (b"", []), data, WRONG, [], b"", []
    )  # fmt: skip


def test_an_operation_is_not_compared_with_the_data() -> None:
    """It would differ, whatever it is, and an honest poster would lose."""
    dispute = contested(OPERATION)
    with pytest.raises(Refused) as caught:
        judge_batch(dispute, 0)
    caught.value.must_be("NotTheBatch")
    assert caught.value.numbers["value"] == OPERATION


def test_the_batch_is_not_recomputed_and_is_compared_only_within_the_leaf_that_was_opened() -> None:
    dispute = contested(BATCH)
    world, number = dispute.world, dispute.number
    with pytest.raises(Refused) as caught:
        world.send(dispute.challenger, "judge", number, 0, bytes(32))
    caught.value.must_be("NotAnOperation")
    item = hold_step(1).item(1 + BATCH)
    tokens = len(dispute.position.data) // 4
    for element in (tokens, tokens + 1, 2**40):
        with pytest.raises(Refused) as caught:
            world.send(
                dispute.challenger, "judgeBatch", number, element, item, dispute.position.data, WRONG, [], b"", []
            )  # fmt: skip
        caught.value.must_be("ElementOutOfRange")
        assert (caught.value.numbers["first"], caught.value.numbers["end"]) == (0, tokens)


# ---------------------------------------------------------------- announcements


def test_announcing_again_neither_renews_nor_delays_an_announcement_that_stands() -> None:
    """Else whoever repeats another's announcement could keep it from ever being ripe."""
    world = _lied().fork()
    one, other = world.accounts[1], world.accounts[2]
    world.announce(one, UNIT, 0)
    announced = world.height
    said = announcement_of(world, one)
    for _ in range(3):
        [event] = world.send(other, "announce", said).named("Announced")
        assert event["expiresAt"] == announced + 256
    world.world.mine_to(announced + 257)
    [event] = world.send(one, "announce", said).named("Announced")
    assert event["expiresAt"] == world.height + 256


def announcement_of(world: CourtWorld, account: Account) -> bytes:
    court, run, sender = (to_canonical_address(a) for a in (world.court, world.docket, account.address))
    return announcement(world.world.chain.chain_id, court, run, UNIT, 0, sender, bytes(32))


# ---------------------------------------------------------------- parameters


GOOD = {"clockBlocks": CLOCK, "graceBlocks": GRACE, "minimumBond": MINIMUM_BOND, "defenceGas": DEFENCE_GAS}
LIMITS = {"clockBlocks": 1 << 20, "graceBlocks": 1 << 16, "minimumBond": 1 << 80, "defenceGas": 1 << 32}


@pytest.mark.parametrize("name", LIMITS)
def test_a_court_of_clocks_or_money_out_of_range_is_not_made(name: str) -> None:
    world = make_court()
    referees = [world.ask("EVALUATOR"), world.ask("CLERK")]
    for value in (1, LIMITS[name]):
        world.world.deploy("Court", *referees, *(GOOD | {name: value}).values())
    for value in (0, LIMITS[name] + 1):
        with pytest.raises(Refused) as caught:
            world.world.deploy("Court", *referees, *(GOOD | {name: value}).values())
        caught.value.must_be("ParameterOutOfRange")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_court_without_code_behind_its_judges_is_not_made(missing: int) -> None:
    """A call to no code succeeds, and its answer would be read as anything."""
    world = make_court()
    referees = [world.ask("EVALUATOR"), world.ask("CLERK")]
    referees[missing] = world.accounts[0].address
    with pytest.raises(Refused) as caught:
        world.world.deploy("Court", *referees, *GOOD.values())
    caught.value.must_be("ParameterOutOfRange")


# ---------------------------------------------------------------- the largest transactions


TRANSACTION_GAS = 1 << 24
TRANSACTION_BYTES = 128 * 1024


def test_the_longest_segment_there_can_be_is_opened_and_chosen_from_in_one_transaction_each() -> None:
    """1,024 steps: 1,023 inner states. What fits no transaction could be neither defended nor contested."""
    steps = 1024
    world = make_court()
    start, *inner, end = (hashlib.sha256(b"state %d" % i).digest() for i in range(steps + 1))
    loss, norm, salt = bytes(4), bytes(4), Salt(bytes(32))
    leaves = [
        checkpoint_leaf(start, bytes(32)),
        checkpoint_leaf(end, evidence(loss, norm, salt)),
        contribution_leaf(end),
    ]
    call = docket_abi().bind_deployment(world.court, (WRONG, 5, WRONG, 1, 1, 1, steps))
    _, computation = world.world.send_raw(world.world.deployer, "", call.data)
    world.docket = Address(to_checksum_address(computation.msg.storage_address))
    miner, challenger = world.accounts[:2]
    world.post(miner, "postUnit", UNIT, tree_root(leaves), WRONG, 300, value=UNIT_BOND)
    dispute = world.accuse(challenger, miner, UNIT)
    opening = ((start, bytes(32), proof(leaves, 0)), end, loss, norm, salt, proof(leaves, 1), inner)
    for account, function, arguments in (
        (miner, "openSegment", opening),
        (challenger, "chooseStep", (steps - 1, inner)),
    ):
        data = load_abi("Court").bind(world.court, function, dispute.number, *arguments).data
        receipt = world.send(account, function, dispute.number, *arguments)
        assert len(data) < TRANSACTION_BYTES // 3
        assert receipt.gas < TRANSACTION_GAS // 8
    assert world.ask("turnOf", dispute.number)[0] == Stage.TRACE
