"""Trouble in a real network: a miner nobody can reach, processes that are killed and come back."""

from __future__ import annotations

import functools
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from chain_process import ETH
from network_world import World, key, open_world

from cupel.chain.run_events import Burned, Judged, Redrawn
from cupel.chain.run_values import Phase, Status
from cupel.network.ipfs.blockstore import BlockStore
from cupel.node.descriptions import UnitDescription
from cupel.node.records import OutcomeRecord, UnitRecord, VerdictRecord
from cupel.protocol.types import Cid, Wei

ALONE = {
    "min_miners": 1,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "seal_blocks": 40,
    "segments": 4,
}


def end_all(world: World) -> None:
    for node in world.nodes:
        node.ask_to_end()
    for node in world.nodes:
        assert node.wait() == 0


def test_a_unit_nobody_serves_is_reported_by_the_jury_and_not_merged(tmp_path: Path) -> None:
    with open_world(tmp_path, ["hermit", "verifier"], **ALONE) as world:
        # Nothing listens on the discard port: the miner works, but announces an address that leads nowhere.
        hermit = world.add("miner", "hermit", "--endpoint", "http://127.0.0.1:9")
        verifier = world.add("verifier", "verifier")
        for node in world.nodes:
            node.start()
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)
        world.wait_for("verdict", lambda: [r for r in verifier.history if isinstance(r, VerdictRecord)])
        world.wait_for("outcome", lambda: [r for r in hermit.history if isinstance(r, OutcomeRecord)])
        end_all(world)

        (unit,) = world.contract.get_units(0)
        assert unit.status == Status.UNAVAILABLE
        assert world.contract.get_state(1) == world.contract.get_state(0)
        verdict = next(r for r in verifier.history if isinstance(r, VerdictRecord))
        assert (verdict.verdict, verdict.miner, verdict.segments) == ("unavailable", key("hermit").address, ())
        assert "http://127.0.0.1:9: cannot be reached" in verdict.reason
        assert next(r for r in hermit.history if isinstance(r, OutcomeRecord)).outcome == "unavailable"
        # The miner pays for it, and the verifier, which could not seal, does not.
        fee = world.contract.parameters().unavailable_fee
        burned = world.contract.get_events(Burned, first_block=0)
        assert [(one.account, one.amount) for one in burned] == [(key("hermit").address, fee)]


@contextmanager
def withholding(target: Callable[[], str], withheld: Callable[[], str]) -> Iterator[str]:
    """A door in front of a node's blocks that lets everything through but one block; its URL."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if f"/ipfs/{withheld()}" in self.path:
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            answer = httpx.get(target() + self.path, headers=headers, timeout=30, trust_env=False)
            self.send_response(answer.status_code)
            for name in ("content-type", "retry-after"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_unit_whose_end_alone_is_withheld_is_not_sealed_and_holds_no_merge_up(tmp_path: Path) -> None:
    listen, miners_store = f"127.0.0.1:{free_port()}", tmp_path / "miner" / "data" / "store"

    @functools.cache
    def find_end(cid: str) -> str:
        with BlockStore(miners_store, read_only=True) as store:
            return UnitDescription.from_bytes(store.read(Cid(cid))).states[-1].cid

    with open_world(tmp_path, ["miner", "verifier"], **ALONE) as world:

        def end_of_unit() -> str:
            (unit,) = world.contract.get_units(0)
            assert unit.cid is not None
            return find_end(unit.cid)

        with withholding(lambda: f"http://{listen}", end_of_unit) as door:
            world.add("miner", "miner", "--listen", listen, "--endpoint", door).start()
            verifier = world.add("verifier", "verifier")
            verifier.start()
            world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)
            world.wait_for("verdict", lambda: [r for r in verifier.history if isinstance(r, VerdictRecord)])
            end_all(world)

        (unit,) = world.contract.get_units(0)
        assert unit.status == Status.UNAVAILABLE
        assert world.contract.get_state(1) == world.contract.get_state(0)
        verdict = next(r for r in verifier.history if isinstance(r, VerdictRecord))
        assert verdict.verdict == "unavailable"
        assert end_of_unit() in verdict.reason


def test_an_end_state_that_its_miner_lost_is_trained_again_and_attested(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], **ALONE) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start()
        world.wait_for("a segment", lambda: miner.events("segment"), timeout_s=120)
        # Held still while the state disappears, so that it cannot have fetched it before.
        assert verifier.process is not None
        verifier.process.send_signal(signal.SIGSTOP)
        (unit,) = world.wait_for("commitment", lambda: world.contract.get_units(0), timeout_s=120)
        assert unit.cid is not None
        with BlockStore(miner.data / "store", read_only=True) as store:
            end = UnitDescription.from_bytes(store.read(unit.cid)).states[-1].cid
        (block,) = (miner.data / "store" / "blocks").glob(f"*/{end}")
        block.unlink()
        verifier.process.send_signal(signal.SIGCONT)
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)
        end_all(world)

        (unit,) = world.contract.get_units(0)
        assert unit.status == Status.ATTESTED
        assert world.result(0).merge_set == (unit.unit_id,)


def test_killed_processes_go_on_where_they_were_and_a_chain_that_was_away_is_waited_for(tmp_path: Path) -> None:
    with open_world(tmp_path, ["miner", "verifier"], block_time_s=0.5, chain="embedded", **ALONE) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        miner.start()
        verifier.start()
        world.wait_for("two segments", lambda: len(miner.events("segment")) >= 2, timeout_s=120)
        miner.kill()
        world.chain.kill()
        miner.start()
        time.sleep(1.0)
        world.chain.start(fund=[])
        world.wait_for("seal", lambda: verifier.events("sealed"), timeout_s=120)
        verifier.kill()
        verifier.start()
        world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=120)
        world.wait_for("outcome", lambda: [r for r in miner.history if isinstance(r, OutcomeRecord)])
        (unit,) = world.contract.get_units(0)
        served = world.fetcher.client.get_json(miner.events("ready")[-1]["endpoint"], f"/units/0x{unit.unit_id.hex()}")
        assert served == {"unit": f"0x{unit.unit_id.hex()}", "cid": unit.cid}
        end_all(world)

        assert unit.status == Status.ATTESTED
        trained = [e["segment"] for e in miner.events("segment") if e["round"] == 0]
        assert trained == [0, 1, 2, 3]
        records = [r for r in miner.history if isinstance(r, UnitRecord) and r.round == 0]
        assert [r.root for r in records] == [unit.root]
        assert world.contract.get_round(0).phase == Phase.ENDED
        assert world.contract.get_state(1)[0] == unit.contribution


def test_who_never_seals_is_replaced_and_who_replays_a_whole_unit_is_paid_for_it(tmp_path: Path) -> None:
    """Every unit is replayed whole by its first verifier here; one of the three seats belongs to nobody alive."""
    seats = ALONE | {
        "min_verifiers": 3,
        "verifiers_per_unit": 2,
        "quorum": 2,
        "segments": 3,
        "segments_per_verifier": 1,
        "replay_bps": 10_000,
        "jury_target": 2,
        "acknowledge_blocks": 20,
        "verifier_share_bps": 5000,
        "merge_share_bps": 0,
    }
    with open_world(tmp_path, ["gone", "one", "two", "miner"], **seats) as world:
        for name in ("gone", "one", "two"):
            world.start_node("verifier", name)
        world.kill("gone")
        world.start_node("miner", "miner")
        [redrawn] = world.wait_for("a replacement", lambda: world.contract.get_events(Redrawn, first_block=0)[:1], 120)
        round_ = redrawn.round
        world.wait_for("end of that round", lambda: world.contract.current().round > round_, timeout_s=120)
        burned = [b for b in world.contract.get_events(Burned, first_block=0) if b.round == round_]
        verdicts = {
            name: next(r for r in world.node(name).history if isinstance(r, VerdictRecord) and r.round == round_)
            for name in ("one", "two")
        }
        units = [u for u in world.contract.get_events(Judged, first_block=0) if u.round == round_]
        earned = {
            name: {c.round: c.tokens for c in world.contract.claimable(key(name).address, round_, round_ + 1)}[round_]
            for name in ("one", "two")
        }
        for name in ("one", "two", "miner"):
            assert world.stop(name) == 0

    assert [(b.account, b.amount) for b in burned] == [(key("gone").address, Wei(ETH // 20))]
    assert [unit.status for unit in units] == [Status.ATTESTED]
    assert sorted(len(verdict.segments) for verdict in verdicts.values()) == [1, 3]
    # A unit's pay is by the segment, whoever replays it.
    whole, part = sorted(("one", "two"), key=lambda name: -len(verdicts[name].segments))
    assert earned[whole] == 3 * earned[part] > 0
