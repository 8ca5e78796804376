"""Seats and deposits: who gets in, what is frozen, and when money comes back."""

from __future__ import annotations

from typing import Any

import pytest
from contract_world import (
    ETH,
    MERGE,
    MINER,
    NO_ROLE,
    OPEN,
    PARAMETERS,
    SEAL,
    SEED,
    TRAIN,
    VERIFIER,
    WAITING,
    Account,
    Refused,
    World,
    make_world,
    sha,
    stage_at,
)
from eth_utils import to_canonical_address

from cupel.chain.abi import load_abi
from cupel.protocol.types import Address


def member(world: World, account: Account) -> Any:
    return world.ask("memberOf", account.address)


def test_the_lens_answers_with_the_parameters_of_the_deployment() -> None:
    world = stage_at(WAITING).world
    answer = world.ask("parameters")
    assert list(answer) == list(PARAMETERS)
    for name, value in world.parameters.items():
        expected = {"codec": value[0], "digest": value[1]} if isinstance(value, tuple) else value
        assert answer[name] == expected


OUT_OF_RANGE: dict[str, Any] = {
    "segments": 0,
    "segmentSteps": 0,
    "maxUnitsPerMiner": 33,
    "maxUnits": 65,
    "maxMerge": 0,
    "maxMiners": 65,
    "minMiners": 9,
    "maxVerifiers": 65,
    "minVerifiers": 0,
    "verifiersPerUnit": 9,
    "segmentsPerVerifier": 6,
    "quorum": 4,
    "juryTarget": 0,
    "unitBond": 0,
    "slotStake": 0,
    "unavailableFee": ETH + 1,
    "sealFee": 2 * ETH + 1,
    "beaconDelay": 257,
    "trainBlocks": 0,
    "sealBlocks": 0,
    "openBlocks": 0,
    "mergeBlocks": 0,
    "acknowledgeBlocks": 0,
    "halvingRounds": 0,
    "workTarget": 0,
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_parameter_out_of_range_is_named(name: str) -> None:
    with pytest.raises(Refused) as caught:
        make_world(**{name: OUT_OF_RANGE[name]})
    assert caught.value.name == "ParameterOutOfRange"
    assert caught.value.numbers["name"] == name
    assert caught.value.numbers["value"] == OUT_OF_RANGE[name]


def test_other_parameters_no_run_can_have() -> None:
    for name, overrides in (
        ("EmptyRoot", {"genesisRoot": bytes(32)}),
        ("UnknownCodec", {"manifest": (0x71, sha("cid"))}),
        ("ParameterOutOfRange", {"verifierShareBps": 9000, "mergeShareBps": 1001}),
        ("ParameterOutOfRange", {"beacon": "0x" + "11" * 20}),
    ):
        with pytest.raises(Refused) as caught:
            make_world(**overrides)
        assert caught.value.name == name


def test_no_round_opens_before_enough_members_are_there() -> None:
    stage = stage_at(WAITING)
    world = stage.world
    world.seat(stage.miners, stage.verifiers[:2])
    assert world.phase == WAITING
    assert not world.ask("current")["due"]
    world.seat([], stage.verifiers[2:])
    assert world.phase == SEED
    assert world.ask("current")["until"] == world.height + 2


def test_members_are_listed_with_endpoint_and_what_was_frozen() -> None:
    stage = stage_at(SEED)
    listed = stage.world.ask("participants")
    assert [(one["account"], one["role"], one["frozen"]) for one in listed] == [
        *((miner.address, MINER, 1) for miner in stage.miners),
        *((verifier.address, VERIFIER, 10) for verifier in stage.verifiers),
    ]
    assert listed[0]["endpoint"] == f"http://{stage.miners[0].address}"


def test_a_newcomer_plays_from_the_next_round_on() -> None:
    stage = stage_at(TRAIN)
    world, newcomer = stage.world, stage.outsider
    world.send(newcomer, "joinMiner", 2, "", value=5 * ETH)
    assert member(world, newcomer)["joinedRound"] == 1
    assert world.ask("unitsOf", newcomer.address) == 0
    works = world.play_commits(stage.miners)
    world.pass_to(SEAL)
    assert len(world.ask("getUnits", 0)) == len(works) == 2
    world.mine_to(world.ask("current")["until"] + 500)
    world.advance()
    world.pass_to(TRAIN)
    assert world.ask("unitsOf", newcomer.address) == 2


def test_a_newcomer_does_not_inherit_the_units_of_the_seat_it_takes() -> None:
    world = make_world()
    miners, verifiers, newcomer = world.accounts[:3], world.accounts[3:6], world.accounts[6]
    world.seat(miners, verifiers)
    world.pass_to(TRAIN)
    world.pass_phase()
    world.pass_to(TRAIN)
    assert (world.round, world.ask("unitsOf", miners[2].address)) == (1, 1)
    world.send(miners[2], "retire")
    world.pass_phase()
    world.pass_to(TRAIN)
    world.send(newcomer, "joinMiner", 1, "", value=ETH)  # the third seat, whose units were of another round
    assert world.ask("unitsOf", newcomer.address) == 0
    with pytest.raises(Refused) as caught:
        world.commit(newcomer, world.honest_work(newcomer))
    assert caught.value.numbers == {"index": 0, "drawn": 0}


def test_units_and_endpoint_can_be_changed_by_joining_again() -> None:
    stage = stage_at(SEED)
    world, miner = stage.world, stage.miners[0]
    world.send(miner, "joinMiner", 3, "http://new", value=ETH)
    view = member(world, miner)
    assert (view["units"], view["endpoint"], view["deposit"]) == (3, "http://new", 21 * ETH)
    assert len(world.ask("participants")) == 5
    world.pass_to(TRAIN)
    assert world.ask("unitsOf", miner.address) == 1


def test_refusals_at_the_door() -> None:
    stage = stage_at(WAITING)
    world, account = stage.world, stage.outsider
    for units in (0, 5):
        numbers = stage.refused("UnitsOutOfRange", lambda units=units: world.send(account, "joinMiner", units, ""))
        assert numbers == {"units": units, "maximum": 4}
    numbers = stage.refused("DepositTooSmall", lambda: world.send(account, "joinMiner", 2, "", value=ETH))
    assert numbers == {"deposit": ETH, "needed": 2 * ETH}
    stage.refused("DepositTooSmall", lambda: world.send(account, "stake", "", value=2 * ETH - 1))
    stage.refused("EndpointTooLong", lambda: world.send(account, "stake", "x" * 257, value=2 * ETH))
    stage.refused("NotAMember", lambda: world.send(account, "retire"))
    stage.refused("NothingToWithdraw", lambda: world.send(account, "withdraw"))
    world.send(account, "stake", "x" * 256, value=2 * ETH)
    numbers = stage.refused("AlreadyMember", lambda: world.send(account, "joinMiner", 1, "", value=ETH))
    assert numbers == {"account": account.address, "role": VERIFIER}


def test_seats_are_limited_and_a_freed_one_is_free() -> None:
    world = make_world(maxMiners=1, minMiners=1)
    first, second = world.accounts[:2]
    world.send(first, "joinMiner", 1, "", value=ETH)
    with pytest.raises(Refused) as caught:
        world.send(second, "joinMiner", 1, "", value=ETH)
    assert (caught.value.name, caught.value.numbers) == ("SeatsTaken", {"seats": 1})
    world.send(first, "retire")
    world.send(second, "joinMiner", 1, "", value=ETH)


def test_one_that_never_served_gets_its_deposit_back_at_once() -> None:
    stage = stage_at(WAITING)
    world, account = stage.world, stage.outsider
    world.send(account, "stake", "", value=5 * ETH)
    stage.refused("StillSeated", lambda: world.send(account, "withdraw"))
    world.send(account, "retire")
    assert member(world, account)["role"] == NO_ROLE
    assert world.send(account, "withdraw").named("Withdrawn") == [{"account": account.address, "amount": 5 * ETH}]
    stage.refused("NothingToWithdraw", lambda: world.send(account, "withdraw"))
    assert world.balance(world.run) == 0


def test_one_that_retires_in_a_round_still_plays_it_and_waits_for_its_money() -> None:
    stage = stage_at(TRAIN)
    world, leaving = stage.world, stage.miners[0]
    world.send(leaving, "retire")
    stage.refused("AlreadyLeaving", lambda: world.send(leaving, "retire"))
    stage.refused("StillSeated", lambda: world.send(leaving, "withdraw"))
    world.play_to_merge(stage.miners, stage.verifiers)
    world.play_merge(stage.miners[1], stage.verifiers)
    world.pass_phase()
    assert (world.phase, member(world, leaving)["role"]) == (WAITING, NO_ROLE)
    ended = world.ask("getRound", 0)
    # Behind the last block of a dispute: in it a withdrawal might be the first transaction, the conviction the second.
    exit_at = ended["endedAt"] + world.parameters["exitBlocks"] + 1
    assert member(world, leaving)["exitAt"] == exit_at
    world.mine_to(exit_at - 1)
    numbers = stage.refused("WithdrawalTooEarly", lambda: world.send(leaving, "withdraw"))
    assert numbers["exitAt"] == exit_at
    # The bond is mature by now but not claimed: it stays.
    assert world.send(leaving, "withdraw").named("Withdrawn")[0]["amount"] == 19 * ETH
    world.claim(leaving, 0)
    assert world.send(leaving, "withdraw").named("Withdrawn")[0]["amount"] == ETH
    world.check_solvent()


def test_sitting_down_for_a_moment_does_not_shorten_the_exit_delay() -> None:
    stage = stage_at(TRAIN)
    world, leaving = stage.world, stage.miners[0]
    world.send(leaving, "retire")
    world.mine_to(world.ask("current")["until"] + 1)
    world.advance()
    assert world.phase == WAITING
    exit_at = member(world, leaving)["exitAt"]
    assert exit_at > world.height
    world.send(stage.miners[1], "retire")
    world.send(leaving, "joinMiner", 1, "")
    world.send(leaving, "retire")
    assert member(world, leaving)["exitAt"] == exit_at
    stage.refused("WithdrawalTooEarly", lambda: world.send(leaving, "withdraw"))


def test_taking_a_retirement_back_keeps_the_seat() -> None:
    stage = stage_at(TRAIN)
    world, miner = stage.world, stage.miners[0]
    world.send(miner, "retire")
    world.send(miner, "joinMiner", 1, "")
    world.pass_phase()
    assert (world.round, member(world, miner)["role"]) == (1, MINER)


def test_a_former_miner_may_become_a_verifier() -> None:
    stage = stage_at(WAITING)
    world, account = stage.world, stage.outsider
    world.send(account, "joinMiner", 1, "", value=3 * ETH)
    world.send(account, "retire")
    world.send(account, "stake", "")
    assert member(world, account)["role"] == VERIFIER


def test_a_deposit_that_falls_short_gives_fewer_units_until_bonds_are_claimed() -> None:
    world = make_world(minMiners=1, maturityBlocks=5)
    miner, verifiers = world.accounts[0], world.accounts[2:5]
    world.send(miner, "joinMiner", 3, "", value=4 * ETH)
    for verifier in verifiers:
        world.send(verifier, "stake", "", value=20 * ETH)
    world.play_to_merge([miner], verifiers)
    assert world.ask("getRound", 0)["units"] == 3
    world.play_merge(verifiers[0], verifiers)
    world.pass_phase()
    world.pass_to(TRAIN)
    assert world.ask("unitsOf", miner.address) == 1  # three bonds of round 0 are locked
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    world.claim(miner, 0)
    assert world.ask("unitsOf", miner.address) == 1  # a round that is open stays as it was frozen
    world.pass_phase()
    world.pass_to(TRAIN)
    assert (world.round, world.ask("unitsOf", miner.address)) == (2, 3)


def test_a_round_waits_for_bonds_and_opens_with_the_claim_that_frees_them() -> None:
    world = make_world(minMiners=1)
    miner, verifiers = world.accounts[0], world.accounts[2:5]
    world.send(miner, "joinMiner", 1, "", value=ETH)
    for verifier in verifiers:
        world.send(verifier, "stake", "", value=20 * ETH)
    world.play_to_merge([miner], verifiers)
    world.play_merge(verifiers[0], verifiers)
    world.pass_phase()
    assert (world.phase, world.round) == (WAITING, 1)
    world.mine_to(world.ask("getRound", 0)["matureAt"])
    world.claim(miner, 0)
    assert world.phase == SEED


def test_a_verifier_burned_below_one_slot_loses_its_seat_and_never_blocks_a_judgement() -> None:
    world = make_world(minMiners=1, maxUnitsPerMiner=4, minVerifiers=1, verifiersPerUnit=1, quorum=1)
    miner, verifier = world.accounts[:2]
    world.send(miner, "joinMiner", 3, "", value=20 * ETH)
    world.send(verifier, "stake", "", value=4 * ETH)  # two slots, and three units to lose one on
    world.pass_to(TRAIN)
    works = world.play_commits([miner])
    world.pass_to(SEAL)
    world.seal(verifier, works)
    world.pass_to(OPEN)
    world.play_opens([miner], works)
    world.mine_to(world.ask("current")["until"] + 1)
    world.advance()
    view = member(world, verifier)
    assert (view["deposit"], view["role"], world.phase) == (0, NO_ROLE, WAITING)
    world.check_solvent()


def test_plain_ether_is_refused() -> None:
    world = stage_at(WAITING).world
    assert world.send_raw(world.accounts[0], world.run, b"", ETH)[1].is_error
    assert world.balance(world.run) == 0


# ---------------------------------------------------------------- contracts as members


WITHDRAW = load_abi("Run").functions["withdraw"].selector
_FORWARD = bytes.fromhex(
    # No data: jump to RECEIVE at 0x23. Else call the address in the first word with the rest, and pass a failure on.
    "3615602357602036038060205f375f5f915f345f355af16021573d5f5f3e3d5ffd5b005b"
)
REENTERS = _FORWARD + bytes.fromhex("63") + WITHDRAW + bytes.fromhex("60e01b5f525f5f60045f5f335af16001015f5500")
"""Calls `withdraw` again when it is paid; slot 0 then holds 1 if that failed, 2 if it went through."""
REFUSES = _FORWARD + bytes.fromhex("5f5ffd")
"""Reverts when it is paid."""


def deploy_code(world: World, code: bytes) -> Address:
    creation = bytes.fromhex("61") + len(code).to_bytes(2, "big") + bytes.fromhex("80600a3d393df3") + code
    _, computation = world.send_raw(world.deployer, "", creation)
    assert not computation.is_error
    return Address("0x" + computation.msg.storage_address.hex())


def send_through(world: World, contract: Address, function: str, *arguments: Any, value: int = 0) -> Any:
    call = load_abi("Run").bind(world.run, function, *arguments)
    data = to_canonical_address(world.run).rjust(32, b"\0") + call.data
    return world.send_raw(world.deployer, contract, data, value)[1]


def test_a_withdrawal_that_calls_back_gets_nothing_twice() -> None:
    world = stage_at(WAITING).world
    thief = deploy_code(world, REENTERS)
    assert not send_through(world, thief, "stake", "", value=3 * ETH).is_error
    world.send(world.accounts[5], "stake", "", value=7 * ETH)
    assert not send_through(world, thief, "retire").is_error
    assert not send_through(world, thief, "withdraw").is_error
    assert world.balance(thief) == 3 * ETH
    assert world.balance(world.run) == 7 * ETH
    assert world.chain.get_vm().state.get_storage(to_canonical_address(thief), 0) == 1


def test_a_receiver_that_refuses_harms_only_itself() -> None:
    world = stage_at(WAITING).world
    refuser = deploy_code(world, REFUSES)
    send_through(world, refuser, "stake", "", value=3 * ETH)
    send_through(world, refuser, "retire")
    computation = send_through(world, refuser, "withdraw")
    assert load_abi("Run").decode_error(computation.error.args[0])[0] == "TransferFailed"
    assert world.balance(world.run) == 3 * ETH


def test_the_run_has_no_function_for_a_privileged_caller() -> None:
    """Whatever changes state is listed here, and each is open to whoever has a seat, a draw or a deposit, or to the
    court, a contract that nobody owns: its judgements come from moves that anybody may make."""
    changing = {
        name for name, function in load_abi("Run").functions.items() if function.mutability not in ("view", "pure")
    }
    assert changing == {
        "joinMiner",
        "stake",
        "retire",
        "withdraw",
        "advance",
        "settle",
        "presentUnit",
        "presentMerge",
        *("disputeOpened", "disputeClosed", "convict", "abandon"),
        "commit",
        "seal",
        "open",
        "reveal",
        "proposeMerge",
        "acknowledge",
        "claim",
        "reportUnavailable",
        "disclose",
        "extend",
    }
    assert not [f for f in load_abi("RunLens").functions.values() if f.mutability not in ("view", "pure")]


def test_only_the_run_mints() -> None:
    stage = stage_at(MERGE)
    world = stage.world
    assert world.ask_token("run") == world.run
    assert world.ask_token("totalSupply") == 0
    call = load_abi("Token").bind(world.token, "mint", stage.outsider.address, 1)
    _, computation = world.send_raw(stage.outsider, world.token, call.data)
    assert load_abi("Token").decode_error(computation.error.args[0]) == (
        "NotTheRun",
        {"caller": stage.outsider.address, "run": world.run},
    )


# ---------------------------------------------------------------- a run's two halves


def test_a_run_takes_no_rules_for_other_parameters() -> None:
    world = make_world()
    other = world.deploy("RunRules", tuple({**world.parameters, "unitBond": 1, "unavailableFee": 1}.values()))
    with pytest.raises(Refused) as caught:
        world.deploy("Run", tuple(world.parameters.values()), other, world.lens, "Test run", "TEST")
    caught.value.must_be("OtherParameters")
    assert world.ask("rules") == world.rules


def test_the_rules_have_no_run_of_their_own() -> None:
    stage = stage_at(WAITING)
    world, abi = stage.world, load_abi("RunRules")
    call = abi.bind(world.rules, "joinMiner", 1, "")
    _, computation = world.send_raw(stage.miners[0], world.rules, call.data, 5 * ETH)
    assert abi.decode_error(computation.error.args[0]) == ("NotARun", {"code": world.rules})
    assert world.balance(world.rules) == 0


def test_wei_without_a_call_is_refused() -> None:
    stage = stage_at(WAITING)
    _, computation = stage.world.send_raw(stage.outsider, stage.world.run, b"", ETH)
    assert load_abi("Run").decode_error(computation.error.args[0])[0] == "NoPlainTransfers"
    _, computation = stage.world.send_raw(stage.outsider, stage.world.run, b"\1\2\3\4", 0)
    assert computation.is_error
    assert stage.world.balance(stage.world.run) == 0
