"""A new run that begins with an old one's merged state trains on from there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from network_world import CONFIG, open_world

from cupel.chain.run_contract import RunContract, deploy_run
from cupel.chain.run_file import RunFile
from cupel.launch.checking import inspect
from cupel.launch.preparation import parse_from_state, prepare
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.gateway import GatewayServer
from cupel.network.states import decode_state

pytestmark = pytest.mark.timeout(400)
ALONE = {"verifiers_per_unit": 1, "quorum": 1, "jury_target": 1, "max_units_per_miner": 1}


def list_merged(run: RunContract) -> list[int]:
    """Rounds that ended with a merge."""
    return [number for number in range(run.current_round()) if run.get_round(number).merged]


def test_a_successor_trains_on_from_the_old_runs_state(tmp_path: Path) -> None:
    # On the chain that slows down with its machine: the old run must not forget its state while the next is traced.
    with open_world(tmp_path, ["miner", "verifier", "heir", "watcher"], chain="embedded", **ALONE) as world:
        world.start_node("miner", "miner")
        world.start_node("verifier", "verifier")
        world.wait_for("a merged round", lambda: list_merged(world.contract), timeout_s=120)
        old = inspect(world.client, RunFile.read(tmp_path / "run.json"), with_data=False)
        assert old.state is not None
        start = parse_from_state(old.state, [next(e for e in (p.endpoint for p in world.contract.participants()) if e)])
        old_parameters = world.contract.parameters()
        assert start.root != old_parameters.genesis_root

        # Prepared in a folder that has nothing of the old run but its data; the state comes from a member.
        folder = tmp_path / "next"
        shutil.copytree(tmp_path / "data", folder / "data")
        prepared, programs = prepare(folder, CONFIG, start, lambda line: None)
        assert (prepared.genesis_root, prepared.genesis) == (start.root, start.cid)
        for node in world.nodes:
            node.kill()

        with BlockStore(folder / "data" / "blockstore", read_only=True) as store, GatewayServer(store) as gateway:
            begun = decode_state(store.read_buffer(start.cid))
            fields = {name: getattr(old_parameters, name) for name in old_parameters.__dataclass_fields__}
            own = {field.name for field in dataclasses.fields(prepared)}
            kept = {name: value for name, value in fields.items() if isinstance(value, int) or name == "beacon"}
            contract = {name: value for name, value in kept.items() if name not in own}
            deployment = deploy_run(world.client, prepared.make_parameters(**contract))
            RunFile.of(world.client.chain_id, deployment, (gateway.url,)).write(tmp_path / "run.json")
            successor = world.contract = RunContract(world.client, deployment.run)
            assert successor.token() != world.token.address
            world.start_node("miner", "heir")
            world.start_node("verifier", "watcher")
            [merged] = world.wait_for("a merged round", lambda: list_merged(successor)[:1], timeout_s=120)
            assert successor.get_state(0) == (start.root, start.cid)
            root, cid = successor.get_state(merged + 1)
            assert cid is not None
            peers = [p.endpoint for p in successor.participants() if p.endpoint]
            with BlockStore(tmp_path / "reading") as reading, Fetcher(reading, peers) as fetcher:
                reached = decode_state(fetcher.fetch_buffer(cid))
        assert root != start.root
        steps = old_parameters.segments * old_parameters.segment_steps
        assert int(begun["step"]) > 0
        assert int(reached["step"]) == int(begun["step"]) + steps
        programs.check_state("the state reached", reached)
