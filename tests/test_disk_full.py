"""A full disk is named, corrupts nothing, and work goes on once there is room. On a real small file system."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from network_world import open_world

from cupel.chain.run_values import Status
from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, GatewayServer
from cupel.network.ipfs.disk import storage_failed
from cupel.node.records import ClaimRecord, History
from cupel.protocol.errors import StorageFailed

MIB = 1 << 20


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of so many bytes. Skips the test where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave not one free byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def test_a_full_disk_is_named_and_what_is_stored_stays_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 6 * MIB) as disk, BlockStore(disk / "store") as store:
        small = os.urandom(2 * CHUNK_BYTES)
        kept = store.add_bytes(small, pin="kept")
        with pytest.raises(StorageFailed, match="no room left on this disk") as caught:
            store.add_bytes(os.urandom(9 * MIB), pin="large")
        assert str(disk / "store") in str(caught.value)
        assert store.full == 1
        assert store.pins() == {"kept": kept}
        assert store.read(kept) == small
        assert all(store.has(cid) for cid in store)
        assert not list((disk / "store" / "temporary").iterdir())


def test_tidying_up_works_on_a_disk_without_a_free_byte(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 * MIB) as disk, BlockStore(disk / "store") as store:
        store.add_bytes(os.urandom(2 * MIB), pin="old")
        kept = store.add_bytes(b"kept", pin="kept")
        ballast = fill(disk)
        with pytest.raises(StorageFailed):
            store.add_bytes(os.urandom(CHUNK_BYTES))
        store.unpin("old")
        assert store.collect_garbage().size_bytes > 2 * MIB
        assert store.pins() == {"kept": kept}
        cid = store.add_bytes(os.urandom(CHUNK_BYTES), pin="new")
        assert store.has(cid)
        assert (disk / "store" / "reserve").stat().st_size == MIB
        ballast.unlink()


def test_a_fetch_that_filled_the_disk_blames_nobody_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    with (
        small_disk(tmp_path / "disk", 8 * MIB) as disk,
        BlockStore(tmp_path / "source") as source,
        GatewayServer(source) as server,
        BlockStore(disk / "store") as store,
        Fetcher(store, [server.url]) as fetcher,
    ):
        cid = source.add_bytes(data)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(5 * MIB))
        with pytest.raises(StorageFailed, match="no room left"):
            fetcher.fetch(cid)
        had = {block for block in store if store.has(block)}
        assert had
        ballast.unlink()
        assert fetcher.fetch(cid) == data
        assert had <= set(store)
        assert fetcher.counts.failures == dict.fromkeys(fetcher.counts.failures, 0)


def test_a_history_on_a_full_disk_loses_no_line(tmp_path: Path) -> None:
    def record(number: int) -> ClaimRecord:
        return ClaimRecord(time_s=0.0, rounds=tuple(range(number)), amount=number, transaction=bytes(32))

    with small_disk(tmp_path / "disk", MIB) as disk:
        history = History(disk / "history.jsonl")
        for number in range(10):
            history.append(record(number))
        ballast = fill(disk)
        written = 10

        def go_on() -> None:
            nonlocal written
            while True:
                history.append(record(written))
                written += 1

        with pytest.raises(StorageFailed, match=str(disk)):
            go_on()
        ballast.unlink()
        assert [r.amount for r in history if isinstance(r, ClaimRecord)] == list(range(written))
        history.append(record(written))
        assert [r.amount for r in history if isinstance(r, ClaimRecord)] == list(range(written + 1))


_LIMITED = """
import resource, sys
from pathlib import Path
from cupel.network.ipfs import BlockStore
from cupel.protocol.errors import StorageFailed
store = BlockStore(Path(sys.argv[1]))
kept = store.add_bytes(b"kept", pin="kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
try:
    store.add_bytes(bytes(200_000))
except StorageFailed as error:
    print(error)
assert store.read(kept) == b"kept" and not list((store.directory / "temporary").iterdir())
"""


def test_a_limit_on_file_sizes_is_said_likewise(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "store")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / 'store'}: no room left on this disk (File too large" in ended.stdout


def test_a_disk_that_fails_otherwise_is_not_called_full(tmp_path: Path) -> None:
    failed = storage_failed(tmp_path, OSError(errno.EIO, "Input/output error"))
    assert str(failed) == f"{tmp_path}: cannot be written: Input/output error"


def test_a_verifier_whose_disk_is_full_says_so_and_attests_once_there_is_room(tmp_path: Path) -> None:
    alone = {
        "min_miners": 1, "min_verifiers": 1, "verifiers_per_unit": 1, "quorum": 1, "jury_target": 1,
        "train_blocks": 400, "seal_blocks": 400, "segments": 4,
    }  # fmt: skip
    with open_world(tmp_path, ["miner", "verifier"], **alone) as world:
        miner, verifier = world.add("miner", "miner"), world.add("verifier", "verifier")
        with small_disk(verifier.data, 64 * MIB):
            verifier.start()
            miner.start()
            world.wait_for("a segment", lambda: miner.events("segment"), timeout_s=180)
            ballast = fill(verifier.data)
            said = world.wait_for("complaint", lambda: verifier.events("disk full"), timeout_s=180)
            assert said[0]["folder"] == str(verifier.data / "store")
            reasons = [e.get("reason", "") for e in map_lines(verifier.text())]
            assert any("no room left on this disk" in reason for reason in reasons)
            ballast.unlink()
            world.wait_for("end of the round", lambda: world.contract.current().round >= 1, timeout_s=180)
            (unit,) = world.contract.get_units(0)
            assert unit.status == Status.ATTESTED
            verifier.kill()
            with BlockStore(verifier.data / "store") as store:
                assert all(store.has(cid) for cid in store)
            assert len(list(verifier.history)) > 0
        miner.kill()


def map_lines(text: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
