"""The typed bindings are the contracts' ABIs: nothing missing, nothing stale, nothing of another type."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH, KEYS, ChainProcess
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.chain import run_events, run_values
from cupel.chain.abi import load_abi
from cupel.chain.client import ChainClient
from cupel.chain.errors import ContractReverted
from cupel.chain.mapping import get_fields, make_cid, make_reader, split_cid, write_value
from cupel.chain.run_contract import (
    STORAGE_GETTERS,
    BeaconContract,
    RunContract,
    TokenContract,
    compute_seal,
    deploy_run,
    deploy_scripted_beacon,
)
from cupel.chain.run_events import RUN_EVENTS, Event
from cupel.chain.run_values import Answer, Parameters, Phase, Role, Status
from cupel.protocol.errors import MalformedInput
from cupel.protocol.hashing import keccak256, unit_id
from cupel.protocol.types import Address, Cid, Root, Salt, SegmentIndex, UnitId

SOURCES = Path(__file__).resolve().parent.parent / "contracts"
HELPERS = {
    "RunContract": {"get_events", "get_all_events", "read_events", "get_units", "merge_set"},
    "TokenContract": {"bind"},
    "BeaconContract": {"bind"},
}
STRUCTS = {
    "Parameters", "Answer", "Opened", "Current", "RoundView", "UnitState", "UnitName", "Assignment", "CandidateView",
    "MemberView", "Participant", "Claimable", "Commitment", "PostedClaim", "MergedUnit", "Rules",
}  # fmt: skip

OF_THE_COURT = {"disputeOpened", "disputeClosed", "convict", "abandon"}
"""What a run takes from its court's address alone: no node ever calls it."""


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def get_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("kind", "contracts", "left_out"),
    [
        (RunContract, ("Run", "RunLens"), STORAGE_GETTERS - set(load_abi("RunLens").functions) | OF_THE_COURT),
        (TokenContract, ("Token",), set()),
        (BeaconContract, ("PrevrandaoBeacon",), set()),
    ],
)
def test_every_function_is_bound_and_none_is_stale(kind: type, contracts: tuple[str, ...], left_out: set[str]) -> None:
    declared = {name for contract in contracts for name in load_abi(contract).functions} - left_out
    bound = get_methods(kind) - HELPERS[kind.__name__]
    assert bound == {snake(name) for name in declared}


def test_what_is_left_out_is_in_the_contract() -> None:
    assert set(load_abi("Run").functions) >= STORAGE_GETTERS


def test_both_beacons_answer_the_same_questions() -> None:
    scripted, real = (load_abi(name).functions for name in ("ScriptedBeacon", "PrevrandaoBeacon"))
    for name in ("valueAt", "record"):
        assert scripted[name].signature == real[name].signature
        assert [one["type"] for one in scripted[name].outputs] == [one["type"] for one in real[name].outputs]


@pytest.mark.parametrize("contract", ["Run", "RunLens", "Token", "PrevrandaoBeacon"])
def test_methods_take_and_give_what_functions_do(contract: str) -> None:
    kind = {"Run": RunContract, "RunLens": RunContract, "Token": TokenContract}.get(contract, BeaconContract)
    for name, function in load_abi(contract).functions.items():
        if contract == "Run" and name in STORAGE_GETTERS | OF_THE_COURT:
            continue
        method = getattr(kind, snake(name))
        taken = [name for name in inspect.signature(method).parameters if name not in ("self", "at", "deposit_wei")]
        expected = len(function.inputs) - (contract == "RunLens")  # the lens is told which run
        assert len(taken) == expected, name
        asks = "at" in inspect.signature(method).parameters
        assert asks == (function.mutability in ("view", "pure")), name
        assert ("deposit_wei" in inspect.signature(method).parameters) == (function.mutability == "payable"), name


def find_structs(entries: typing.Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[Mapping[str, Any], ...]]]:
    """Name and members of every struct in these ABI parameters, at any depth."""
    for entry in entries:
        for parameter in (*entry.get("inputs", ()), *entry.get("outputs", ()), *entry.get("components", ())):
            if parameter["type"].startswith("tuple"):
                name = parameter["internalType"].split("[")[0].split(" ")[-1].split(".")[-1]
                yield name, tuple(parameter["components"])
            yield from find_structs([parameter])


ALL_STRUCTS = dict(
    found
    for contract in ("Run", "RunLens")
    for entry in load_abi(contract).entries
    if entry.get("name") not in STORAGE_GETTERS or contract == "RunLens"
    for found in find_structs([entry])
    # Made into plainer things: a CID's text, and a pair of numbers.
    if found[0] not in ("Cid", "Void")
)


def test_every_struct_is_bound() -> None:
    assert set(ALL_STRUCTS) == STRUCTS


def check_annotation(annotation: Any, parameter: Mapping[str, Any]) -> None:
    kind, internal = parameter["type"], parameter.get("internalType", "")
    if kind.endswith("]"):
        assert typing.get_origin(annotation) is tuple
        element = {**parameter, "type": kind[: kind.rindex("[")], "internalType": internal[: internal.rindex("[")]}
        check_annotation(typing.get_args(annotation)[0], element)
    elif internal.endswith("Cid"):
        assert annotation is Cid or set(typing.get_args(annotation)) == {Cid, type(None)}
    elif kind == "tuple":
        check_fields(annotation, parameter["components"])
    elif internal.startswith("enum"):
        assert annotation.__name__ == internal.removeprefix("enum ").split(".")[-1]
    else:
        base = getattr(annotation, "__supertype__", annotation)
        expected = {"bool": bool, "string": str, "address": str}.get(kind, int if kind.startswith("uint") else bytes)
        assert (annotation if isinstance(annotation, type) and issubclass(annotation, enum.IntEnum) else base) in (
            expected,
            Status,
        ), (annotation, kind)
        assert kind != "address" or annotation is Address


def check_fields(kind: Any, members: typing.Sequence[Mapping[str, Any]]) -> None:
    assert [name for name, _ in get_fields(kind)] == [snake(member["name"]) for member in members]
    for (_, annotation), member in zip(get_fields(kind), members, strict=True):
        check_annotation(annotation, member)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_struct_is_bound_field_for_field(name: str) -> None:
    check_fields(getattr(run_values, name), ALL_STRUCTS[name])


def test_every_event_is_bound_field_for_field() -> None:
    declared = load_abi("Run").events
    assert {kind.__name__ for kind in RUN_EVENTS} == set(declared)
    common = {field.name for field in dataclasses.fields(Event)}
    for kind in RUN_EVENTS:
        own = [(name, annotation) for name, annotation in get_fields(kind) if name not in common]
        inputs = declared[kind.__name__].inputs
        assert [name for name, _ in own] == [snake(one["name"]) for one in inputs]
        for (_, annotation), one in zip(own, inputs, strict=True):
            check_annotation(annotation, one)
    assert all(kind in RUN_EVENTS for kind in vars(run_events).values() if kind is not Event and is_event(kind))


def is_event(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


@pytest.mark.parametrize("kind", [Role, Phase, Status])
def test_an_enum_has_the_contracts_members_in_order(kind: type[enum.IntEnum]) -> None:
    source = (SOURCES / "interfaces" / "IRun.sol").read_text()
    body = re.search(rf"enum {kind.__name__} \{{(.*?)\}}", source, re.DOTALL)
    assert body is not None
    members = [word.strip() for word in body[1].split(",")]
    assert [member.name for member in kind] == [snake(word).upper() for word in members]
    assert [member.value for member in kind] == list(range(len(members)))


# Values


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([0x55, 0x70]), st.binary(min_size=32, max_size=32))
def test_a_cid_crosses_the_contract_unchanged(codec: int, digest: bytes) -> None:
    cid = make_cid(codec, digest)
    assert split_cid(cid) == (codec, digest)
    assert cid.startswith({0x55: "bafkrei", 0x70: "bafybei"}[codec])
    assert make_reader(Cid | None)((codec, digest)) == cid


@pytest.mark.parametrize(
    "cid",
    [
        "",
        "b",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52z",  # one character short
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zz",  # another last character: spare bits set
        "BAFKREIGH2AKISCAILDCQABSYG3DFR6CHU3FGPREGIYMSCK7E7AQA4S52ZY",
        "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",  # dag-cbor
    ],
)
def test_what_is_no_cid_of_ours_is_refused(cid: str) -> None:
    assert split_cid(Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"))[0] == 0x55
    with pytest.raises(MalformedInput):
        split_cid(Cid(cid))


def test_no_cid_yet_is_none_and_a_wrong_codec_malformed() -> None:
    assert make_reader(Cid | None)((0, bytes(32))) is None
    with pytest.raises(MalformedInput, match="codec 0x71"):
        make_reader(Cid | None)((0x71, bytes(32)))


def test_a_seal_is_what_the_contract_hashes() -> None:
    unit, verifier, salt = UnitId(b"\1" * 32), KEYS[0].address, Salt(b"\2" * 32)
    answers = [Answer(end_root=Root(bytes([n]) * 32), loss=b"loss", gradient_norm=b"norm") for n in (3, 4)]
    kinds = ["bytes32", "address", "(bytes32,bytes4,bytes4)[]", "bytes32"]
    plain = [(bytes([n]) * 32, b"loss", b"norm") for n in (3, 4)]
    assert compute_seal(unit, verifier, answers, salt) == keccak256(encode(kinds, [unit, verifier, plain, salt]))
    assert compute_seal(unit, verifier, answers[::-1], salt) != compute_seal(unit, verifier, answers, salt)


def test_segments_and_answers_are_written_in_order() -> None:
    answer = Answer(end_root=Root(b"\5" * 32), loss=b"\1\2\3\4", gradient_norm=b"\5\6\7\x08")
    opened = run_values.Opened(segment=SegmentIndex(2), answer=answer, salt=Salt(b"\6" * 32))
    written = write_value((opened,), tuple[run_values.Opened, ...])
    assert written == [(2, (b"\5" * 32, b"\1\2\3\4", b"\5\6\7\x08"), b"\6" * 32)]


# A run on a real chain

CID = make_cid(0x55, b"\x09" * 32)
PARAMETERS = Parameters(
    programs_root=Root(b"\1" * 32),
    data_root=Root(b"\2" * 32),
    shards=3,
    shard_tokens=3000,
    genesis_root=Root(b"\3" * 32),
    genesis=CID,
    manifest=CID,
    segments=3,
    segment_steps=2,
    max_units_per_miner=2,
    max_units=4,
    max_merge=4,
    min_miners=1,
    max_miners=4,
    min_verifiers=1,
    max_verifiers=4,
    verifiers_per_unit=1,
    segments_per_verifier=1,
    replay_bps=500,
    quorum=1,
    jury_target=1,
    unit_bond=ETH // 100,
    slot_stake=ETH // 100,
    unavailable_fee=ETH // 1000,
    seal_fee=ETH // 1000,
    merge_bond=ETH // 1000,
    beacon_delay=2,
    train_blocks=1000,
    seal_blocks=1000,
    open_blocks=1000,
    merge_blocks=1000,
    acknowledge_blocks=1000,
    maturity_blocks=5,
    window_blocks=10,
    exit_blocks=5,
    initial_reward=ETH,
    halving_rounds=100,
    work_target=4,
    verifier_share_bps=2000,
    merge_share_bps=500,
)


def test_a_run_is_deployed_joined_and_committed_to(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=0.1) as chain:
        miner, verifier = (ChainClient(chain.url, key, poll_seconds=0.03) for key in KEYS[:2])
        deployment = deploy_run(miner, PARAMETERS)
        run, watch = RunContract(miner, deployment.run), RunContract(verifier, deployment.run)
        assert run.parameters() == dataclasses.replace(PARAMETERS, beacon=deployment.beacon)
        assert (run.token(), run.lens()) == (deployment.token, deployment.lens)
        token = TokenContract(miner, deployment.token)
        assert (token.run(), token.total_supply(), token.symbol()) == (deployment.run, 0, "CUP")
        assert run.current().phase == Phase.WAITING

        with pytest.raises(ContractReverted) as caught:
            run.join_miner(2, "http://127.0.0.1:1", deposit_wei=1)
        assert caught.value.error_name == "DepositTooSmall"
        run.join_miner(2, "http://127.0.0.1:1", deposit_wei=ETH)
        watch.stake("http://127.0.0.1:2", deposit_wei=ETH // 10)
        assert [(one.account, one.role) for one in run.participants()] == [
            (KEYS[0].address, Role.MINER),
            (KEYS[1].address, Role.VERIFIER),
        ]
        assert run.member_of(KEYS[0].address).deposit == ETH
        [opened] = run.get_events(run_events.RoundOpened, first_block=deployment.block)
        beacon = BeaconContract(miner, deployment.beacon)
        miner.wait_for_block(opened.seed_height + 1, timeout_s=20)
        if run.current().phase == Phase.SEED:  # nobody recorded the value in its own block: prove it by its header
            beacon.record_header(miner.get_header(opened.seed_height))
            run.advance()
        assert run.current().phase == Phase.TRAIN
        awaited = miner.get_block(opened.seed_height)
        assert awaited is not None
        assert beacon.value_at(opened.seed_height) == awaited.beacon
        seed = run.get_round(0).seed
        assert len(seed) == 32
        assert run.units_of(KEYS[0].address) == 2
        receipt = run.commit(seed, 1, root=Root(b"\4" * 32), contribution=Root(b"\5" * 32), cid=CID)
        [unit] = run.get_units(0)
        expected = unit_id(31337, deployment.run, 0, KEYS[0].address, 1)
        assert unit.unit_id == expected == run.unit_id_of(0, KEYS[0].address, 1)
        [name], [state] = run.get_unit_names(), run.get_unit_states([expected])
        assert (name.unit_id, name.miner, name.index) == (expected, KEYS[0].address, 1)
        said = keccak256(
            encode(["bytes32", "bytes32", "(uint8,bytes32)"], [b"\4" * 32, b"\5" * 32, (0x55, b"\x09" * 32)])
        )
        assert (state.status, state.commitment) == (Status.COMMITTED, said[:27])
        assert (unit.status, unit.root, unit.cid, unit.miner) == (Status.COMMITTED, b"\4" * 32, CID, KEYS[0].address)
        [committed] = [one for one in run.read_events(receipt.logs) if isinstance(one, run_events.Committed)]
        assert (committed.unit_id, make_cid(committed.codec, committed.digest)) == (expected, CID)
        everything = run.get_all_events(first_block=deployment.block)
        assert everything == sorted(everything, key=lambda event: (event.block_number, event.position))
        assert committed in everything


def test_a_parameter_out_of_range_is_named(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=0.1) as chain:
        client = ChainClient(chain.url, KEYS[0], poll_seconds=0.03)
        beacon = deploy_scripted_beacon(client, b"\7" * 32)
        wrong = dataclasses.replace(PARAMETERS, quorum=2, beacon=beacon)  # of one verifier a unit
        with pytest.raises(ContractReverted, match=r"ParameterOutOfRange\(name=quorum, value=2"):
            deploy_run(client, wrong)
