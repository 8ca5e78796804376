"""A real network among bad peers: what a miner's server does to its blocks costs its own units and nobody else."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ipfs_peers import Answer, head, peer
from network_world import NodeProcess, World, key, open_world

from cupel.chain.run_values import Phase, Status
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.cid import parse_cid
from cupel.node.descriptions import UnitDescription
from cupel.node.passes import PassBook
from cupel.node.records import VerdictRecord

ALONE = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "segments": 4,
    "segments_per_verifier": 2,
    "train_blocks": 400,
}


def end_all(world: World) -> None:
    for node in world.nodes:
        node.ask_to_end()
    for node in world.nodes:
        assert node.wait() == 0


def wrong(block: bytes, connection: socket.socket) -> None:
    connection.sendall(head(len(block)) + bytes([block[0] ^ 1]) + block[1:])


def truncated(block: bytes, connection: socket.socket) -> None:
    connection.sendall(head(len(block)) + block[: len(block) // 2])


def slow(block: bytes, connection: socket.socket) -> None:
    connection.sendall(head(len(block)))
    for byte in block:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


def endless(block: bytes, connection: socket.socket) -> None:
    connection.sendall(head() + block)
    while True:
        connection.sendall(bytes(1 << 16))


Fault = Callable[[bytes, socket.socket], None]
FAULTS: list[tuple[Fault, str]] = [
    (wrong, "sent wrong bytes"),
    (truncated, "broke off"),
    (slow, "not done within"),
    (endless, "sent more than the 2,097,152 bytes"),
]


def in_front_of(store: Path, spoil: Fault) -> Answer:
    """Serves a miner's own blocks, its checkpoints spoilt: whatever is not the description."""

    def answer(connection: socket.socket, path: str) -> None:
        cid = path.removeprefix("/ipfs/").partition("?")[0]
        with BlockStore(store, read_only=True) as blocks:
            block = blocks.get(parse_cid(cid))
        if block is None:
            connection.sendall(head(0, "404 Not Found"))
        elif block.startswith(b'{"'):
            connection.sendall(head(len(block)) + block)
        else:
            spoil(block, connection)

    return answer


@pytest.mark.parametrize(("spoil", "reason"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_miner_whose_server_spoils_its_blocks_loses_its_unit_and_is_named(
    tmp_path: Path, spoil: Fault, reason: str
) -> None:
    with (
        open_world(tmp_path, ["spoiler", "verifier"], **(ALONE | {"seal_blocks": 60})) as world,
        peer(in_front_of(tmp_path / "spoiler" / "data" / "store", spoil)) as url,
    ):
        world.add("miner", "spoiler", "--endpoint", url).start()
        verifier = world.add("verifier", "verifier")
        verifier.start()
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=200)
        verdict = world.wait_for("verdict", lambda: verdicts(verifier))[0]
        end_all(world)

        (unit,) = world.contract.get_units(0)
        # The jury says so where it gives up in time; else the only seal is missing, to the same end.
        assert unit.status in (Status.UNAVAILABLE, Status.UNVERIFIED)
        assert (verdict.verdict, verdict.miner) == ("unavailable", key("spoiler").address)
        assert f"{url}: {reason}" in verdict.reason
        with BlockStore(verifier.data / "store") as store:
            assert all(store.has(cid) for cid in store)


def verdicts(node: NodeProcess) -> list[VerdictRecord]:
    return [r for r in node.history if isinstance(r, VerdictRecord)]


@pytest.mark.parametrize("spoil", [slow, endless])
def test_a_bad_peer_beside_an_honest_one_changes_nothing(tmp_path: Path, spoil: Fault) -> None:
    with (
        open_world(tmp_path, ["miner", "verifier"], **(ALONE | {"seal_blocks": 200})) as world,
        peer(in_front_of(tmp_path / "miner" / "data" / "store", spoil)) as url,
    ):
        world.add("miner", "miner").start()
        verifier = world.add("verifier", "verifier", "--peers", url)
        verifier.start()
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=200)
        end_all(world)
        (unit,) = world.contract.get_units(0)
        assert unit.status == Status.ATTESTED
        assert world.contract.get_state(1)[0] == unit.contribution


@contextmanager
def frozen(node: NodeProcess) -> Iterator[None]:
    """The process held still."""
    import signal

    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


def test_until_a_round_is_judged_its_checkpoints_are_for_drawn_verifiers_alone(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **(ALONE | {"seal_blocks": 200})) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start()
        world.wait_for("a segment", lambda: miner.events("segment"), timeout_s=180)
        endpoint = miner.events("ready")[-1]["endpoint"]

        def passes(name: str) -> dict[str, str]:
            book = PassBook(key(name), chain_id=world.client.chain_id, run=world.contract.address, names=tuple)
            return dict(book.introduce(endpoint))

        def get(cid: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
            with httpx.Client(trust_env=False, timeout=30) as http:
                answer = http.get(f"{endpoint}/ipfs/{cid}?format=raw", headers=headers)
                return answer.status_code, "" if answer.status_code == 200 else answer.text

        with frozen(verifier):
            world.wait_for("draw", lambda: world.contract.current().phase == Phase.SEAL, timeout_s=180)
            (unit,) = world.contract.get_units(0)
            assert unit.cid is not None
            with BlockStore(miner.data / "store", read_only=True) as store:
                states = UnitDescription.from_bytes(store.read(unit.cid)).states
            drawn = set(world.contract.assigned_segments(0, unit.unit_id, key("verifier").address))
            assert get(unit.cid)[0] == get(states[0].cid)[0] == 200
            for leaf in range(1, 5):
                assert get(states[leaf].cid)[0] == 401
                assert get(states[leaf].cid, passes("nobody")) == (
                    403,
                    f"{key('nobody').address} was not drawn for checkpoint {leaf} of unit 0x{unit.unit_id.hex()}\n",
                )
                allowed = leaf in drawn or leaf == 4
                assert get(states[leaf].cid, passes("verifier"))[0] == (200 if allowed else 403)
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=200)
        assert {get(state.cid)[0] for state in states} == {200}
        assert world.contract.get_units(0)[0].status == Status.ATTESTED
        end_all(world)


def test_a_block_that_is_damaged_on_a_verifiers_disk_is_fetched_again(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **(ALONE | {"seal_blocks": 200})) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start({"CUPEL_KILL_AT": "replay/fetched"})  # has the checkpoint, and has not replayed from it
        assert verifier.process is not None
        assert verifier.process.wait(timeout=180) == -signal.SIGKILL
        start = start_block(verifier)
        assert start is not None
        start.write_bytes(b"\x00" + start.read_bytes()[1:])
        verifier.start()
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=200)
        end_all(world)
        assert world.contract.get_units(0)[0].status == Status.ATTESTED
        with BlockStore(verifier.data / "store") as store:
            assert all(store.has(cid) for cid in store)


def start_block(node: NodeProcess) -> Path | None:
    """Where a checkpoint's block lies that the verifier fetched."""
    store = node.data / "store"
    if not (store / "blocks").is_dir():
        return None
    with BlockStore(store, read_only=True) as blocks:
        pinned = [cid for name, cid in blocks.pins().items() if name.startswith("replay/0/")]
    return next((path for cid in pinned for path in (store / "blocks").glob(f"*/{cid}")), None)
