"""A node that is asked to end leaves nothing undone, and whoever leaves a run takes home what is theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from network_world import PASSWORD, World, key, open_world

from cupel.chain.run_events import Burned
from cupel.chain.run_values import Phase, Role, Status

SEATS = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "segments": 2,
    "segments_per_verifier": 1,
}


def test_asked_once_a_miner_finishes_its_unit_and_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **SEATS, segment_steps=40) as world:
        miner = world.start_node("miner", "miner", "--on-stop", "finish")
        world.start_node("verifier", "verifier")
        world.wait_for("training", lambda: world.contract.current().phase == Phase.TRAIN)
        round_ = world.contract.current().round
        miner.ask_to_end()
        assert miner.wait() == 0
        (unit,) = world.contract.get_units(round_)
        assert unit.opened
        assert miner.events("finishing what this round asks of this node; asked again, it ends at once")
        world.wait_for("end of the round", lambda: world.contract.current().round > round_)
        assert world.contract.get_units(round_)[0].status == Status.ATTESTED
        assert not world.contract.get_units(world.contract.current().round)

        miner.start()
        world.wait_for("the next round's training", lambda: len(miner.events("joined")) > 1, timeout_s=60)
        miner.ask_to_end()
        miner.ask_to_end()
        began = time.monotonic()
        assert miner.wait() == 0
        assert time.monotonic() - began < 25


def test_a_second_request_does_not_cut_off_a_node_that_is_ending_already(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner"], **SEATS) as world:
        miner = world.start_node("miner", "miner", "--on-stop", "quit")
        miner.ask_to_end()
        world.wait_for("the end", lambda: miner.events("stopped") or miner.process is None, timeout_s=30)
        miner.ask_to_end()
        assert miner.wait() == 0


def leave(world: World, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    keystore = next((world.folder / name / "keys").iterdir())
    code = "from cupel.cli import main; main()"
    command = [
        sys.executable, "-c", code, "leave", "--run", str(world.folder / "run.json"), "--rpc", world.chain.url,
        "--keystore", str(keystore), "--password-file", str(world.folder / "password"), *arguments,
    ]  # fmt: skip
    environment = os.environ | {"XDG_DATA_HOME": str(world.folder / "user")}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def test_whoever_leaves_serves_the_round_out_and_takes_everything_home(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **SEATS, segment_steps=4) as world:
        nodes = [
            world.start_node("miner", "miner", "--on-stop", "leave"),
            world.start_node("verifier", "verifier", "--on-stop", "leave"),
        ]
        world.wait_for("a round", lambda: world.contract.current().round >= 2, timeout_s=120)
        refused = leave(world, "miner")
        assert refused.returncode == 2
        assert "in use" in refused.stderr or "holds" in refused.stderr
        for node in nodes:
            node.ask_to_end()
        for node in nodes:
            assert node.wait() == 0
            assert node.events("seat given up")
        shown = leave(world, "miner", "--look", "--json")
        assert json.loads(shown.stdout)["done"] is False
        assert shown.returncode == 1
        for name in ("miner", "verifier"):
            done = leave(world, name, "--wait")
            assert done.returncode == 0, done.stderr
            assert "nothing of this key is left" in done.stdout
            assert PASSWORD not in done.stdout + done.stderr
            member = world.contract.member_of(key(name).address)
            assert (member.role, member.deposit, member.locked) == (Role.NONE, 0, 0)
            assert not world.contract.claimable(key(name).address, 0, world.contract.current().round + 1)
            assert world.token.balance_of(key(name).address) > 0
        assert world.contract.get_events(Burned, first_block=0) == []


def test_a_node_that_waits_for_its_chain_can_be_ended(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner"], chain="embedded", **SEATS) as world:
        world.chain.kill()
        miner = world.add("miner", "miner")
        miner.start()
        world.wait_for("a wait", lambda: miner.events("the chain: asking again"))
        miner.ask_to_end()
        assert miner.wait() == 0
        world.chain.start(fund=[])
