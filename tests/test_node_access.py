"""Who gets which block of a node: checkpoints are for drawn verifiers until the round is judged, the rest is public."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from network_world import key, make_parameters

from cupel.chain.errors import ChainUnreachable
from cupel.chain.run_values import Assignment, Current, Parameters, Phase, Status, UnitView
from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, GatewayServer, NobodyServed, parse_cid
from cupel.node.access import NodeAccess
from cupel.node.passes import LIFETIME_S, RENEWED_S, SKEW_S, PassBook, authority_of
from cupel.protocol.types import Address, Cid, Height, Root, RoundIndex, SegmentIndex, UnitId

CHAIN_ID, RUN = 31337, Address("0x" + "5A" * 20)
MINER, DRAWN, OTHER, STRANGER = key("miner"), key("drawn"), key("other"), key("stranger")
JUROR = key("juror")
ROUND, UNIT = 3, UnitId(b"\x07" * 32)
SEGMENTS = 4
NOW = 1_800_000_000.0


@dataclass
class Told:
    """What the chain would say, and how often it was asked."""

    phase: Phase = Phase.SEAL
    round: int = ROUND
    is_silent: bool = False
    asked: list[str] = field(default_factory=list)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.is_silent:
            raise ChainUnreachable("http://chain", "nothing answers")

    def parameters(self) -> Parameters:
        self._ask("parameters")
        return PARAMETERS

    def current(self) -> Current:
        self._ask("current")
        return Current(round=RoundIndex(self.round), phase=self.phase, until=Height(900), due=False)

    def get_units(self, round_: int) -> tuple[UnitView, ...]:
        self._ask("units")
        is_drawn = self.phase >= Phase.SEAL
        unit = UnitView(
            unit_id=UNIT, round=RoundIndex(round_), miner=MINER.address, index=0, status=Status.COMMITTED,
            opened=False, root=Root(bytes(32)), contribution=Root(bytes(32)), cid=None,
            verifiers=(DRAWN.address, OTHER.address) if is_drawn else (),
            sealed_mask=0, revealed_mask=0, agreed_mask=0,
        )  # fmt: skip
        return (unit,) if round_ == self.round else ()

    def jury(self) -> tuple[Address, ...]:
        self._ask("jury")
        return (JUROR.address,) if self.phase >= Phase.SEAL else ()

    def assignments_of(self, round_: int, verifier: Address) -> tuple[Assignment, ...]:
        self._ask(f"assignments {verifier}")
        segments = {DRAWN.address: (1, 3), OTHER.address: (2,)}[verifier]
        drawn = tuple(SegmentIndex(s) for s in segments)
        return (Assignment(unit_id=UNIT, segments=drawn, is_sealed=False, is_revealed=False),)


class _Programs:
    root = Root(bytes(32))


PARAMETERS = make_parameters(
    _Programs(),  # type: ignore[arg-type]
    {},
    segments=SEGMENTS,
    data_root=Root(bytes(32)),
    shards=1,
    shard_tokens=1,
    genesis=Cid(""),
    manifest=Cid(""),
)


@dataclass
class Node:
    """One node's store and server, with what the chain tells it."""

    store: BlockStore
    told: Told
    server: GatewayServer
    clock: list[float]
    """Seconds by the node's clock since 1970, in a list so that tests may turn it."""
    waited: list[float]
    """Seconds by the clock that never goes back."""

    def get(self, cid: str, headers: dict[str, str] | None = None, kind: str = "raw") -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.get(f"{self.server.url}/ipfs/{cid}?format={kind}", headers=headers)

    def signed(self, signer: object, **changes: object) -> dict[str, str]:
        book = make_book(signer, lambda: self.clock[0], **changes)
        return dict(book.introduce(self.server.url))


def make_book(signer: object, now: object, *, chain_id: int = CHAIN_ID, run: Address = RUN) -> PassBook:
    return PassBook(signer, chain_id=chain_id, run=run, names=tuple, now=now)  # type: ignore[arg-type]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with open_node(tmp_path / "store") as found:
        yield found


class open_node:
    """A node over a folder; entered again, it is the same node after a restart."""

    def __init__(self, folder: Path) -> None:
        self.store = BlockStore(folder)
        told, clock, waited = Told(), [NOW], [0.0]
        urls: list[str] = []
        book = PassBook(MINER, chain_id=CHAIN_ID, run=RUN, names=lambda: tuple(urls), now=lambda: clock[0])
        self.access = NodeAccess(self.store, told, book, now=lambda: waited[0])
        server = GatewayServer(self.store, access=self.access)
        self.node = Node(self.store, told, server, clock, waited)
        self._urls = urls

    def __enter__(self) -> Node:
        self.node.server.start()
        self._urls.append(self.node.server.url)
        return self.node

    def __exit__(self, *_: object) -> None:
        self.node.server.stop()
        self.store.close()


def checkpoint(node: Node, leaf: int, kind: str = "unit", round_: int = ROUND) -> str:
    return node.store.add_bytes(os.urandom(3 * CHUNK_BYTES), pin=f"{kind}/{round_}/{UNIT.hex()}/{leaf}")


# The rule


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.DRAW, Phase.SEAL, Phase.OPEN])
@pytest.mark.parametrize("pin", ["run/manifest", "start/00ff", f"unit/{ROUND}/{'07' * 32}/description", "shard/x"])
def test_what_belongs_to_everybody_is_served_to_anybody_at_any_time(node: Node, phase: Phase, pin: str) -> None:
    node.told.phase = phase
    data = os.urandom(2 * CHUNK_BYTES)
    cid = node.store.add_bytes(data, pin=pin)
    with Fetcher(BlockStore(node.store.directory.parent / "mine"), [node.server.url]) as fetcher:
        assert fetcher.fetch(cid) == data
    assert node.told.asked == []


@pytest.mark.parametrize("kind", ["unit", "replay"])
@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.DRAW])
def test_nobody_gets_a_checkpoint_before_the_draw(node: Node, phase: Phase, kind: str) -> None:
    node.told.phase = phase
    cid = checkpoint(node, 1, kind)
    assert node.get(cid).status_code == 401
    answer = node.get(cid, node.signed(DRAWN))
    assert (answer.status_code, "before its draw" in answer.text) == (403, True)


@pytest.mark.parametrize("kind", ["unit", "replay"])
@pytest.mark.parametrize("phase", [Phase.SEAL, Phase.OPEN])
def test_a_drawn_verifier_gets_the_starts_of_its_segments_and_the_end(node: Node, phase: Phase, kind: str) -> None:
    node.told.phase = phase
    cids = {leaf: checkpoint(node, leaf, kind) for leaf in range(SEGMENTS + 1)}
    drawn = {leaf for leaf, cid in cids.items() if node.get(cid, node.signed(DRAWN)).status_code == 200}
    other = {leaf for leaf, cid in cids.items() if node.get(cid, node.signed(OTHER)).status_code == 200}
    anybody = {leaf for leaf, cid in cids.items() if node.get(cid).status_code == 200}
    assert (drawn, other, anybody) == ({0, 1, 3, SEGMENTS}, {0, 2, SEGMENTS}, {0})
    juror = {leaf for leaf, cid in cids.items() if node.get(cid, node.signed(JUROR)).status_code == 200}
    assert juror == drawn | other
    refused = node.get(cids[2], node.signed(DRAWN))
    assert refused.text == f"{DRAWN.address} was not drawn for checkpoint 2 of unit 0x{UNIT.hex()}\n"
    assert node.get(cids[1], node.signed(STRANGER)).status_code == 403


@pytest.mark.parametrize("phase", [Phase.MERGE, Phase.ACKNOWLEDGE])
def test_once_a_round_is_judged_everybody_gets_everything(node: Node, phase: Phase) -> None:
    node.told.phase = phase
    cids = [checkpoint(node, leaf, kind) for leaf in range(SEGMENTS + 1) for kind in ("unit", "replay")]
    assert {node.get(cid).status_code for cid in cids} == {200}


def test_rounds_that_are_over_are_public_and_later_ones_are_not(node: Node) -> None:
    assert node.get(checkpoint(node, 1, round_=ROUND - 1)).status_code == 200
    later = checkpoint(node, 1, round_=ROUND + 1)
    assert node.get(later).status_code == 401
    assert node.get(later, node.signed(DRAWN)).status_code == 403


def test_every_block_below_a_withheld_root_is_withheld_and_its_archive_too(node: Node) -> None:
    cid = checkpoint(node, 2)
    blocks = [block.text for block in node.store]
    assert len(blocks) == 4
    assert {node.get(block).status_code for block in blocks} == {401}
    assert {node.get(block, node.signed(OTHER)).status_code for block in blocks} == {200}
    assert node.get(cid, kind="car").status_code == 401
    assert node.get(cid, node.signed(OTHER), kind="car").status_code == 200


def test_a_block_that_is_also_part_of_a_public_file_stays_public(node: Node) -> None:
    shared, own = os.urandom(CHUNK_BYTES), os.urandom(CHUNK_BYTES)
    node.store.add_bytes(shared + os.urandom(9), pin="start/0a")
    node.store.add_bytes(shared + own, pin=f"unit/{ROUND}/{UNIT.hex()}/1")
    assert node.get(node.store.put(shared)).status_code == 200
    assert node.get(node.store.put(own)).status_code == 401


def test_what_has_no_name_yet_is_not_served_and_shards_need_none(tmp_path: Path) -> None:
    opened = open_node(tmp_path / "store")
    with opened as node:
        unnamed = node.store.add_bytes(os.urandom(2 * CHUNK_BYTES))
        shard = node.store.add_bytes(os.urandom(2 * CHUNK_BYTES))
        assert {node.get(cid).status_code for cid in (unnamed, shard)} == {404}
        opened.access.publish([shard])
        assert (node.get(shard).status_code, node.get(unnamed).status_code) == (200, 404)
        node.waited[0] += 2
        assert {node.get(block.text).status_code for block in node.store} == {200, 404}
        node.store.pin(unnamed, "run/late")
        assert {node.get(block.text).status_code for block in node.store} == {200}
        node.store.unpin("run/late")
        assert node.get(unnamed).status_code == 404


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    with open_node(tmp_path / "store") as node:
        cid = checkpoint(node, 1)
    with open_node(tmp_path / "store") as again:
        assert again.get(cid).status_code == 401
        assert again.get(cid, again.signed(DRAWN)).status_code == 200


# Passes


def test_a_pass_is_for_one_machine_one_run_one_chain_and_one_key(node: Node) -> None:
    cid = checkpoint(node, 1)
    good = node.signed(DRAWN)
    assert node.get(cid, good).status_code == 200
    elsewhere = make_book(DRAWN, lambda: NOW).introduce("http://elsewhere:8700")
    forged = good["Authorization"].replace(DRAWN.address, OTHER.address)
    for headers in (
        dict(elsewhere),
        node.signed(DRAWN, chain_id=1),
        node.signed(DRAWN, run=Address("0x" + "5B" * 20)),
        {"Authorization": forged},
        {"Authorization": good["Authorization"][:-130] + "f" * 130},
    ):
        answer = node.get(cid, headers)
        assert (answer.status_code, "signed by another key" in answer.text) == (401, True)
    assert "not written as" in node.get(cid, {"Authorization": "Bearer x"}).text


def test_clocks_that_disagree_are_told_by_how_much(node: Node) -> None:
    cid, good = checkpoint(node, 1), node.signed(DRAWN)
    for change, status, says in (
        (LIFETIME_S + SKEW_S, 200, ""),
        (LIFETIME_S + SKEW_S + 1, 401, "signed 361 s ago by this node's clock; set the clock that is wrong"),
        (-SKEW_S, 200, ""),
        (-SKEW_S - 1, 401, "signed 61 s in the future"),
    ):
        node.clock[0] = NOW + change
        answer = node.get(cid, good)
        assert (answer.status_code, says in answer.text or status == 200) == (status, True)


def test_a_pass_is_signed_once_and_again_before_it_is_too_old() -> None:
    now = [NOW]
    book = make_book(DRAWN, lambda: now[0])
    first = book.introduce("http://peer:1/")
    now[0] += RENEWED_S - 1
    assert book.introduce("http://PEER:1") == first
    now[0] += 1
    assert book.introduce("http://peer:1") != first


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://Host", "host:80"),
        ("https://host/", "host:443"),
        ("http://[::1]:8700", "::1:8700"),
        ("http://h:x", "http://h:x"),
    ],
)
def test_both_sides_spell_a_machine_alike(url: str, authority: str) -> None:
    assert authority_of(url) == authority


# What it costs


def test_a_flood_of_requests_does_not_flood_the_chain(node: Node) -> None:
    cids = [checkpoint(node, leaf) for leaf in (1, 2)]
    for headers in (node.signed(DRAWN), node.signed(STRANGER), None):
        for cid in cids * 20:
            node.get(cid, headers)
    assert sorted(node.told.asked) == sorted(
        ["current", "units", "parameters", "jury", f"assignments {DRAWN.address}", f"assignments {OTHER.address}"]
    )
    node.waited[0] += 1.5
    assert node.get(cids[0], node.signed(DRAWN)).status_code == 200
    assert node.told.asked.count("current") == 2
    assert node.told.asked.count("units") == 1


def test_a_draw_that_a_reorg_changed_is_read_again(node: Node) -> None:
    cid = checkpoint(node, 1)
    assert node.get(cid, node.signed(DRAWN)).status_code == 200
    node.told.phase = Phase.TRAIN
    node.waited[0] += 1.5
    assert node.get(cid, node.signed(DRAWN)).status_code == 403
    node.told.phase = Phase.SEAL
    node.waited[0] += 11
    assert node.get(cid, node.signed(DRAWN)).status_code == 200
    assert node.told.asked.count("units") == 2


def test_while_the_chain_is_silent_only_what_is_withheld_waits(node: Node) -> None:
    node.told.is_silent = True
    cid, public = checkpoint(node, 1), node.store.add_bytes(b"for all", pin="run/x")
    for _ in range(5):
        answer = node.get(cid, node.signed(DRAWN))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert node.told.asked == ["current"]
    assert node.get(public).status_code == 200
    node.told.is_silent = False
    node.waited[0] += 2.5
    assert node.get(cid, node.signed(DRAWN)).status_code == 200


def test_who_is_refused_says_by_whom_and_why(node: Node, tmp_path: Path) -> None:
    cid = checkpoint(node, 2)
    book = make_book(DRAWN, lambda: NOW)
    for introduce, reason in ((None, "sign the request"), (book.introduce, "was not drawn for checkpoint 2")):
        with (
            BlockStore(tmp_path / "mine") as mine,
            Fetcher(mine, [node.server.url], introduce=introduce) as fetcher,
            pytest.raises(NobodyServed, match=reason) as caught,
        ):
            fetcher.fetch(cid)
        assert list(caught.value.failures) == [node.server.url]


def test_a_served_checkpoint_is_not_left_in_shared_caches(node: Node) -> None:
    answer = node.get(checkpoint(node, 1), node.signed(DRAWN))
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert "Authorization" in answer.headers["Vary"]


def test_known_callers_are_told_apart_behind_one_address(tmp_path: Path) -> None:
    opened = open_node(tmp_path / "store")
    with opened as node:
        passes = {signer: node.signed(signer)["Authorization"] for signer in (DRAWN, OTHER, STRANGER)}
        for header in passes.values():
            node.get(checkpoint(node, 1), {"Authorization": header})
        assert [opened.access.known(passes[s]) for s in (DRAWN, OTHER, STRANGER)] == [
            DRAWN.address,
            OTHER.address,
            None,
        ]
        assert opened.access.known(dataclasses.replace(parse_cid(checkpoint(node, 1))).text) is None
