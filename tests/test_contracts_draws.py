"""Draws and the beacon: the contract's choices repeated in Python, and randomness nobody can pick."""

from __future__ import annotations

import itertools

import pytest
import rlp  # type: ignore[import-untyped]
from contract_world import DRAW, ETH, SEAL, SEED, TRAIN, Account, Refused, World, make_world, sha, stage_at
from eth_abi.abi import encode as abi_encode

from cupel.chain.abi import load_abi
from cupel.protocol.hashing import keccak256


def word(seed: bytes, item: bytes, i: int) -> int:
    return int.from_bytes(keccak256(abi_encode(["bytes32", "bytes32", "uint256"], [seed, item, i])), "big")


def place_of(weights: list[int], x: int) -> int:
    return next(place for place, end in enumerate(itertools.accumulate(weights)) if x < end)


def draw_weighted(seed: bytes, item: bytes, weights: list[int], take: int) -> list[int]:
    left, drawn = list(weights), []
    for i in range(min(take, sum(weight > 0 for weight in weights))):
        drawn.append(place_of(left, word(seed, item, i) % sum(left)))
        left[drawn[-1]] = 0
    return drawn


def draw_lot(seed: bytes, asked: list[int], take: int) -> list[int]:
    left, drawn = list(asked), [0] * len(asked)
    for i in range(take):
        place = place_of(left, word(seed, keccak256(b"cupel lot"), i) % sum(left))
        left[place] -= 1
        drawn[place] += 1
    return drawn


def draw_segments(seed: bytes, unit: bytes, member: int, count: int, take: int) -> list[int]:
    item = keccak256(abi_encode(["bytes32", "uint256"], [unit, member]))
    left = list(range(count))
    return sorted(left.pop(word(seed, item, i) % len(left)) for i in range(take))


def compute_seed(world: World, beacon_value: bytes, round_: int, kind: int) -> bytes:
    start = world.ask("getRound", round_)["stateRoot"]
    return keccak256(abi_encode(["bytes32", "uint64", "uint256", "bytes32"], [beacon_value, round_, kind, start]))


def test_units_verifiers_segments_and_jury_are_drawn_as_written_down() -> None:
    world = make_world(maxUnits=5, juryTarget=2, verifiersPerUnit=2)
    miners, verifiers = world.accounts[:4], world.accounts[4:9]
    for number, miner in enumerate(miners):
        world.send(miner, "joinMiner", number + 1, "", value=20 * ETH)
        if number == 0:
            # The round must not open before everybody is seated.
            for slots, verifier in zip((1, 2, 3, 7), verifiers, strict=False):
                world.send(verifier, "stake", "", value=slots * 2 * ETH)
    # Two miners opened round 0; everybody plays round 1.
    world.send(verifiers[4], "stake", "", value=40 * 2 * ETH)
    world.pass_to(TRAIN)
    world.pass_phase()
    assert world.round == 1
    world.pass_to(TRAIN)

    script = keccak256(abi_encode(["string", "bytes32"], ["cupel scripted beacon", sha("script")]))
    view = world.ask("getRound", 1)
    assert view["seed"] == compute_seed(world, script, 1, 0)
    assert [world.ask("unitsOf", miner.address) for miner in miners] == draw_lot(view["seed"], [1, 2, 3, 4], 5)
    assert view["units"] == 5

    world.play_commits(miners)
    world.pass_to(SEAL)
    view = world.ask("getRound", 1)
    assert view["drawSeed"] == compute_seed(world, script, 1, 1)
    slots = [1, 2, 3, 7, 40]
    for unit in world.ask("getUnits", 1):
        drawn = draw_weighted(view["drawSeed"], unit["unitId"], slots, 2)
        assert unit["verifiers"] == [verifiers[place].address for place in drawn]
        for verifier in unit["verifiers"]:
            segments = draw_segments(view["drawSeed"], unit["unitId"], world.ask("members", verifier)["id"], 5, 2)
            assert world.assigned_segments(unit["unitId"], verifier) == segments
    jurors = draw_weighted(view["drawSeed"], keccak256(b"cupel jury"), slots, 2)
    assert sorted(world.ask("jury")) == sorted(verifiers[place].address for place in jurors)


def test_a_verifier_that_was_not_drawn_has_no_segments() -> None:
    stage = stage_at(SEAL)
    unit = stage.work_of(stage.miners[0]).unit
    stage.refused("NotAssigned", lambda: stage.world.assigned_segments(unit, stage.outsider.address))
    assert stage.world.ask("assignmentsOf", 0, stage.outsider.address) == []


# ---------------------------------------------------------------- the chain's own beacon


def seated_world(beacon_delay: int = 2) -> tuple[World, list[Account], list[Account]]:
    world = make_world(scripted=False, beaconDelay=beacon_delay)
    miners, verifiers = world.accounts[:2], world.accounts[2:5]
    world.seat(miners, verifiers)
    assert world.phase == SEED
    return world, miners, verifiers


def header_of(world: World, height: int) -> bytes:
    return bytes(rlp.encode(world.chain.get_canonical_block_header_by_number(height)))  # type: ignore[arg-type]


def prevrandao(world: World, height: int) -> bytes:
    return world.chain.get_canonical_block_header_by_number(height).mix_hash  # type: ignore[arg-type]


def record_header(world: World, header: bytes) -> None:
    call = load_abi("PrevrandaoBeacon").bind(world.beacon, "recordHeader", header)
    _, computation = world.send_raw(world.deployer, world.beacon, call.data)
    if computation.is_error:
        raise Refused(*load_abi("PrevrandaoBeacon").decode_error(computation.error.args[0]))


def test_the_awaited_block_itself_gives_the_seed_without_a_transaction_more() -> None:
    world, _, _ = seated_world()
    height = world.ask("current")["until"]
    world.mine_to(height)
    assert world.ask("current")["due"]
    world.advance()
    assert world.phase == TRAIN
    assert world.ask("getRound", 0)["seed"] == compute_seed(world, prevrandao(world, height), 0, 0)


def test_a_header_proves_the_value_of_the_awaited_height() -> None:
    world, _, _ = seated_world()
    height = world.ask("current")["until"]
    world.mine_to(height + 20)
    assert not world.ask("current")["due"]
    world.advance()
    assert world.phase == SEED
    record_header(world, header_of(world, height))
    assert world.ask("current")["due"]
    world.advance()
    assert world.ask("getRound", 0)["seed"] == compute_seed(world, prevrandao(world, height), 0, 0)
    # Late seeds cost no training time.
    assert world.ask("current")["until"] == world.height + 30


def test_a_header_of_another_height_moves_nothing() -> None:
    world, _, _ = seated_world()
    height = world.ask("current")["until"]
    world.mine_to(height + 3)
    record_header(world, header_of(world, height + 1))
    world.advance()
    assert world.phase == SEED


def test_a_missed_value_moves_the_height_on_by_a_fixed_step() -> None:
    world, _, _ = seated_world()
    height = world.ask("current")["until"]
    world.mine_to(height + 256)
    world.advance()
    assert (world.phase, world.ask("current")["until"]) == (SEED, height)  # the last block it can be proved in
    receipt = world.advance()
    assert receipt.named("BeaconMissed") == [
        {"round": 0, "missedHeight": height, "nextHeight": height + 256},
    ]
    assert world.ask("current")["until"] == height + 256
    record_header(world, header_of(world, height + 256))
    world.advance()
    assert world.ask("getRound", 0)["seed"] == compute_seed(world, prevrandao(world, height + 256), 0, 0)


def test_after_a_long_sleep_the_height_is_the_one_that_can_still_be_proved() -> None:
    world, _, _ = seated_world()
    height = world.ask("current")["until"]
    world.mine_to(height + 3 * 256 + 100)
    world.advance()
    assert world.ask("current")["until"] == height + 3 * 256


def test_the_draw_waits_for_a_height_after_the_last_commit() -> None:
    world, miners, _ = seated_world()
    world.mine_to(world.ask("current")["until"])
    world.advance()
    world.play_commits(miners)
    last = world.height
    world.mine_to(last + 2)
    world.advance()
    assert world.phase == SEAL
    assert world.ask("getRound", 0)["drawSeed"] == compute_seed(world, prevrandao(world, last + 2), 0, 1)


def test_false_headers_are_refused() -> None:
    world, _, _ = seated_world()
    height = world.height - 1
    good = header_of(world, height)
    spoilt = good.replace(prevrandao(world, height), sha("a better number"))
    assert spoilt != good
    with pytest.raises(Refused) as caught:
        record_header(world, spoilt)
    assert caught.value.name == "HeaderMismatch"
    assert caught.value.numbers["height"] == height
    world.mine(260)
    with pytest.raises(Refused) as caught:
        record_header(world, good)
    assert caught.value.name == "HeightOutOfReach"


def test_headers_that_are_not_headers_are_refused() -> None:
    world, _, _ = seated_world()
    for junk in (b"", b"\xc0", header_of(world, 3)[:-1], bytes(600)):
        with pytest.raises(Refused):
            record_header(world, junk)


def test_recording_twice_changes_nothing() -> None:
    world, _, _ = seated_world()
    height = world.height
    for _ in range(2):
        record_header(world, header_of(world, height))
    value, known = world.call_contract("PrevrandaoBeacon", world.beacon, "valueAt", height)
    assert (value, known) == (prevrandao(world, height), True)
    assert world.call_contract("PrevrandaoBeacon", world.beacon, "valueAt", height + 1)[1] is False


def test_the_scripted_beacon_repeats_the_seeds_of_a_run_whatever_the_heights() -> None:
    seeds = []
    for pause in (0, 37):
        world = make_world()
        world.mine(pause)
        world.seat(world.accounts[:2], world.accounts[2:5])
        world.pass_to(TRAIN)
        world.play_commits(world.accounts[:2])
        assert world.phase == TRAIN
        world.pass_to(DRAW) if pause else world.pass_to(SEAL)
        world.pass_to(SEAL)
        view = world.ask("getRound", 0)
        seeds.append((view["seed"], view["drawSeed"]))
    assert seeds[0] == seeds[1]
    assert seeds[0][0] != seeds[0][1]


def test_a_chain_whose_prevrandao_is_zero_still_moves() -> None:
    world, _, _ = seated_world()
    world.mine_to(world.ask("current")["until"])
    world.chain.header = world.chain.header.copy(mix_hash=bytes(32))
    world.advance()
    assert world.phase == TRAIN
    assert world.ask("getRound", 0)["seed"] == compute_seed(world, bytes(32), 0, 0)
