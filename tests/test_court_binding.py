"""The typed court is the contract's ABI, and what it says of a dispute is what the chain says, re-orgs included."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_process import ETH
from chain_worlds import undo_from
from court_chain import ACCUSED, CHALLENGER, CLOCKS, OTHER, CourtChain, open_court
from court_world import UNIT, Lie, Unit, challenge_of
from rpc_faults import wait_until

from cupel.chain.abi import load_abi
from cupel.chain.client import ChainClient
from cupel.chain.court_contract import CourtContract, CourtFollower, is_move
from cupel.chain.court_events import Reason
from cupel.chain.errors import ContractReverted
from cupel.protocol.errors import Unavailable
from cupel.protocol.proceedings import Move, Stage

SOURCES = Path(__file__).resolve().parent.parent / "contracts"
HELPERS = {
    "bind", "bind_move", "clocks", "compute_announcement", "get_dispute", "get_events", "list_disputes", "move",
    "read_events",
}  # fmt: skip
CONSTANTS = {"CLOCK_BLOCKS", "GRACE_BLOCKS", "MINIMUM_BOND", "DEFENCE_GAS"}
SALT = b"\7" * 32


def snake(name: str) -> str:
    return name.lower() if name.isupper() else re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def test_every_function_is_bound_or_a_move() -> None:
    methods = {name for name, _ in inspect.getmembers(CourtContract, inspect.isfunction) if not name.startswith("_")}
    declared = {name for name in load_abi("Court").functions if not is_move(name)} - CONSTANTS
    assert methods - HELPERS == {snake(name) for name in declared}


def test_the_game_s_moves_are_the_court_s() -> None:
    game, long = (
        (SOURCES.parent / "protocol" / "disputes" / f"{name}.py").read_text() for name in ("game", "reducing")
    )
    named = set(re.findall(r'Move\(\s*"(\w+)"', game)) | {"contestState", "contestEvidence"}
    named |= set(re.findall(r'return "(\w+)", \(', long))
    assert named == {name for name in load_abi("Court").functions if is_move(name)}


@pytest.mark.parametrize(("kind", "file"), [(Reason, "ICourt.sol"), (Stage, "ICourt.sol")])
def test_an_enum_has_the_contract_s_members_in_order(kind: type, file: str) -> None:
    source = (SOURCES / "interfaces" / file).read_text()
    body = re.search(rf"enum {kind.__name__} \{{(.*?)\}}", source, re.DOTALL)
    assert body is not None
    members = [re.sub("//.*", "", line).strip(" ,\n") for line in body[1].splitlines()]
    assert [snake(one).upper() for one in members if one] == [one.name for one in kind]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CourtChain]:
    """On whose docket a unit stands of which the second step lies."""
    with open_court(tmp_path_factory.mktemp("court")) as opened:
        opened.post_unit(Unit(Lie(step=1, end_root=b"\1" * 32)))
        yield opened


@pytest.fixture
def challenger(world: CourtChain) -> Iterator[ChainClient]:
    client = world.connect(CHALLENGER)
    yield client
    client.close()


def accuse(world: CourtChain, client: ChainClient, salt: bytes = SALT) -> int:
    court = world.bind_court(client)
    court.announce(court.compute_announcement(world.docket, UNIT, 0, client.address, salt))
    bond = court.bond_for(world.docket, ACCUSED.address)
    receipt = court.accuse(world.docket, UNIT, 0, salt, bond_wei=bond)
    number = next(event.dispute for event in court.read_events(receipt.logs) if event.name == "Accused")
    assert number is not None
    return number


def test_a_dispute_is_read_move_by_move(world: CourtChain, challenger: ChainClient) -> None:
    court = world.bind_court(challenger)
    assert court.clocks() == CLOCKS
    assert challenger.has_code(court.evaluator())
    assert challenger.has_code(court.clerk())
    with pytest.raises(ContractReverted) as caught:
        court.accuse(world.docket, UNIT, 0, SALT, bond_wei=ETH)
    assert caught.value.error_name == "NotAnnounced"

    number = accuse(world, challenger)
    follower = CourtFollower(challenger, court, world.docket, first_block=world.block)
    assert follower.look()
    record = follower.disputes[number]
    assert (record.accused, record.challenger, record.subject, record.segment) == (
        ACCUSED.address,
        CHALLENGER.address,
        UNIT,
        0,
    )
    assert record.turn == court.turn_of(number)
    assert record.bond_wei == CLOCKS.minimum_bond_wei
    assert court.get_dispute(number, first_block=world.block) == record
    assert court.bond_for(world.docket, ACCUSED.address) == 2 * record.bond_wei

    poster = world.connect(ACCUSED)
    unit = Unit(Lie(step=1, end_root=b"\1" * 32))
    world.bind_court(poster).move(number, unit.defence(0).move(record.position))
    assert follower.look()
    record = follower.disputes[number]
    assert record.position.stage == Stage.STEP
    move = challenge_of(0).move(record.position)
    assert move == Move("chooseStep", (1, list(record.position.inner_roots)))
    court.move(number, move)
    assert follower.look()
    assert follower.disputes[number].turn == court.turn_of(number)
    poster.close()


def test_what_the_clerk_refuses_is_named(world: CourtChain, challenger: ChainClient) -> None:
    number = accuse(world, challenger, b"\5" * 32)
    poster = world.connect(ACCUSED)
    record = world.bind_court(poster).get_dispute(number)
    with pytest.raises(ContractReverted) as caught:
        world.bind_court(poster).move(number, Unit().defence(0).move(record.position))
    assert caught.value.error_name == "NotInTree"
    with pytest.raises(ValueError, match="no move"):
        world.bind_court(poster).move(number, Move("burn", ()))
    with pytest.raises(Unavailable, match="no dispute 99"):
        world.bind_court(poster).get_dispute(99)
    poster.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_disputes_of_blocks_that_are_gone_are_forgotten(world: CourtChain, challenger: ChainClient, depth: int) -> None:
    """And come back where their transactions do; one that does not is gone for whoever follows, too."""
    court = world.bind_court(challenger)
    other = world.connect(OTHER)
    follower = CourtFollower(
        challenger, court, world.docket, first_block=world.block,
        concerns=lambda accused: accused.arguments["challenger"] == OTHER.address,
    )  # fmt: skip
    follower.look()
    before = dict(follower.disputes)
    number = accuse(world, other, bytes([depth]) * 32)
    other.close()  # nobody sends again what is thrown out
    challenger.wait_for_block(challenger.head().number + depth - 1)
    follower.look()
    assert set(follower.disputes) == {*before, number}
    assert number not in {record.number for record in before.values()}
    [accused] = [e for e in follower.disputes[number].events if e.name == "Accused"]
    undo_from(world.chain, accused.block_number)
    wait_until(lambda: follower.look() and set(follower.disputes) == set(before), what="the re-org")
    assert follower.disputes == before
