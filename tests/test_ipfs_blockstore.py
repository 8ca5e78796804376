"""Blocks on disk: whole or absent, kept while pinned, written by one process."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cupel.network.ipfs import CHUNK_BYTES, MAX_BLOCK_BYTES, BlockMissing, BlockStore, Codec, ParsedCid, cid_of
from cupel.network.ipfs.unixfs import build_file
from cupel.protocol.errors import MalformedBlock, MalformedInput, StorageFailed, UsageError

DATA = os.urandom(3 * CHUNK_BYTES + 17)


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "store")


def path_of(store: BlockStore, cid: str) -> Path:
    (path,) = store.directory.glob(f"blocks/*/{cid}")
    return path


def leaf(index: int) -> str:
    return cid_of(DATA[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def test_a_file_comes_back_under_its_cid(store: BlockStore, tmp_path: Path) -> None:
    cid = store.add_bytes(DATA)
    assert cid == cid_of(DATA)
    assert store.read(cid) == store.read_buffer(cid) == DATA
    (tmp_path / "copy").write_bytes(DATA)
    assert store.add_file(tmp_path / "copy") == cid
    store.write_to(cid, tmp_path / "written")
    assert (tmp_path / "written").read_bytes() == DATA
    assert store.usage().blocks == 5
    assert store.usage().size_bytes == len(DATA) + (store.block_size(cid) or 0)
    assert {str(one) for one in store} == {cid, *(leaf(i) for i in range(4))}


def test_a_file_of_one_chunk_and_an_empty_one_are_single_blocks(store: BlockStore) -> None:
    for data in (b"", b"x", bytes(CHUNK_BYTES)):
        assert store.read(store.add_bytes(data)) == data
    assert store.usage().blocks == 3


def test_a_damaged_block_counts_as_absent_and_is_reported(store: BlockStore, caplog: pytest.LogCaptureFixture) -> None:
    cid = store.add_bytes(DATA)
    path = path_of(store, leaf(1))
    spoilt = bytearray(path.read_bytes())
    spoilt[1000] ^= 1
    path.write_bytes(spoilt)
    assert store.get(leaf(1)) is None
    assert not store.has(leaf(1))
    assert store.damaged == {leaf(1)}
    assert "damaged block" in caplog.text
    with pytest.raises(BlockMissing, match=leaf(1)):
        store.read(cid)
    store.add_bytes(DATA)
    assert store.read(cid) == DATA, "adding it again repairs it"


def test_a_block_cut_short_counts_as_absent(store: BlockStore) -> None:
    store.add_bytes(DATA)
    path = path_of(store, leaf(0))
    path.write_bytes(path.read_bytes()[:-1])
    assert store.get(leaf(0)) is None


def test_a_file_longer_than_asked_for_is_refused(store: BlockStore) -> None:
    for data in (DATA, b"four"):
        cid = store.add_bytes(data)
        with pytest.raises(MalformedBlock, match="at most"):
            store.read(cid, max_bytes=len(data) - 1)
        assert store.read(cid, max_bytes=len(data)) == data


def test_a_block_that_is_not_the_one_named_is_not_stored(store: BlockStore) -> None:
    with pytest.raises(MalformedBlock):
        store.put_checked(cid_of(b"one"), b"two")
    with pytest.raises(MalformedBlock):
        store.put(bytes(MAX_BLOCK_BYTES + 1))
    assert store.usage().blocks == 0


def test_a_file_that_fails_half_way_appears_nowhere(store: BlockStore, tmp_path: Path) -> None:
    cid = store.add_bytes(DATA)
    path_of(store, leaf(2)).unlink()
    with pytest.raises(BlockMissing):
        store.write_to(cid, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_what_a_dead_writer_left_unfinished_is_cleared(tmp_path: Path) -> None:
    BlockStore(tmp_path).close()
    (tmp_path / "temporary" / ".unfinished-x").write_bytes(b"half")
    with BlockStore(tmp_path) as store:
        assert list((tmp_path / "temporary").iterdir()) == []
        assert store.usage().blocks == 0


# Crashes: no name before the bytes, no return before both


def watch_the_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Every file or folder that is synced, and every name that is given, in their order."""
    seen: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
        seen.append(("synced", path))

    def watched_replace(source: Path | str, target: Path | str) -> None:
        seen.append((f"named {Path(target)}", Path(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell a descriptor's file")
def test_a_block_has_its_name_only_after_its_bytes_are_on_disk_and_a_file_is_there_only_after_both(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_the_disk(monkeypatch)
    cid = store.add_bytes(b"".join(os.urandom(CHUNK_BYTES) for _ in range(80)))
    assert ("synced", store.directory / "blocks") in seen, "the names of new folders are not on disk"
    store.put(b"alone")
    named = {path: (at, Path(what.removeprefix("named "))) for at, (what, path) in enumerate(seen) if what != "synced"}
    assert len(named) == 82
    assert cid in {target.name for _, target in named.values()}
    synced = {path: at for at, (what, path) in enumerate(seen) if what == "synced"}
    for unfinished, (at, target) in named.items():
        assert synced[unfinished] < at, "named before its bytes were on disk"
        assert synced[target.parent] > at, "its name is not on disk"


def fail_to_sync_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell a descriptor's file")
@pytest.mark.parametrize("is_opened_anew", [False, True])
def test_whoever_relies_on_a_block_whose_name_was_never_synced_syncs_it(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch, is_opened_anew: bool
) -> None:
    with monkeypatch.context() as failing:
        fail_to_sync_folders(failing)
        with pytest.raises(StorageFailed):
            store.add_bytes(DATA)
        with pytest.raises(StorageFailed):
            store.put(b"alone")
    there = {path_of(store, str(cid)).parent for cid in store}
    assert len(list(store)) == 6, "the bytes are there, and their names, until the power fails"
    if is_opened_anew:
        store.close()
        store = BlockStore(store.directory)
    seen = watch_the_disk(monkeypatch)
    store.put(b"alone")
    assert ("synced", path_of(store, cid_of(b"alone")).parent) in seen
    store.add_bytes(DATA)
    assert {path for what, path in seen if what == "synced"} >= {store.directory / "blocks", *there}
    seen.clear()
    store.add_bytes(DATA)
    assert not seen, "what is on disk is not synced again"


def test_a_disk_that_fails_to_sync_leaves_no_block_and_nothing_unfinished(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.add_bytes(b"before", pin="before")
    calls, fsync = iter(range(100)), os.fsync

    def failing(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageFailed, match="Input/output error"):
        store.add_bytes(DATA, pin="data")
    monkeypatch.undo()
    assert [str(cid) for cid in store] == [before]
    assert not list((store.directory / "temporary").iterdir())
    assert store.pins() == {"before": before}
    assert store.read(store.add_bytes(DATA, pin="data")) == DATA


_KILLED = """
import os, signal, sys
from cupel.network.ipfs import BlockStore
replace, names = os.replace, iter(range(1000))
def dying(source, target):
    if next(names) == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
with BlockStore(sys.argv[1]) as store:
    store.add_bytes(b"".join(i.to_bytes(2, "little") * (128 << 10) for i in range(100)), pin="large")
"""


def test_a_writer_that_is_killed_while_it_names_blocks_leaves_only_whole_ones(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with BlockStore(tmp_path) as store:
        blocks = list(store)
        assert len(blocks) == 70
        assert all(store.has(cid) for cid in blocks)
        assert store.pins() == {}
        assert not list((tmp_path / "temporary").iterdir())


def test_a_file_of_equal_leaves_is_stored_once(store: BlockStore) -> None:
    cid = store.add_bytes(bytes(100 * CHUNK_BYTES))
    assert store.usage().blocks == 2
    assert store.read(cid) == bytes(100 * CHUNK_BYTES)


# Pins and garbage


def test_garbage_is_what_no_pin_reaches(store: BlockStore) -> None:
    shared = DATA[:CHUNK_BYTES]
    kept = store.add_bytes(DATA, pin="kept")
    other = store.add_bytes(shared + bytes(100), pin="other")
    store.add_bytes(b"loose")
    assert store.collect_garbage().blocks == 1
    store.unpin("other")
    freed = store.collect_garbage()
    assert freed.blocks == 2, "the shared leaf stays"
    assert store.get(other) is None
    assert store.read(kept) == DATA
    store.unpin("kept")
    store.collect_garbage()
    assert store.usage().blocks == store.usage().size_bytes == 0


def test_a_name_moved_to_another_root_lets_the_first_go(store: BlockStore) -> None:
    first = store.add_bytes(b"first", pin="head")
    second = store.add_bytes(b"second", pin="head")
    store.collect_garbage()
    assert store.get(first) is None
    assert store.get(second) == b"second"


def test_a_root_pinned_under_two_names_needs_both_to_go(store: BlockStore) -> None:
    cid = store.add_bytes(b"data", pin="a")
    store.pin(cid, "b")
    store.unpin("a")
    assert store.collect_garbage().blocks == 0
    store.unpin("b")
    assert store.collect_garbage().blocks == 1


def test_pins_outlive_the_process(store: BlockStore) -> None:
    cid = store.add_bytes(DATA, pin="state 3")
    store.close()
    with BlockStore(store.directory) as again:
        assert again.pins() == {"state 3": cid}
        assert again.collect_garbage().blocks == 0


def test_many_pins_change_at_once_or_not_at_all(store: BlockStore) -> None:
    cid = store.add_bytes(b"data", pin="old")
    with pytest.raises(MalformedInput):
        store.change_pins({"new": cid, "bad": "not a cid", "old": None})
    assert store.pins() == {"old": cid}
    store.change_pins({"new": cid, "old": None})
    assert store.pins() == {"new": cid}
    with pytest.raises(UsageError, match="no pin named"):
        store.unpin("old")


def test_nothing_is_deleted_while_a_pinned_tree_has_a_hole(store: BlockStore) -> None:
    cid = store.add_bytes(DATA, pin="kept")
    path_of(store, cid).unlink()
    with pytest.raises(BlockMissing, match=cid):
        store.collect_garbage()
    assert store.usage().blocks == 4


def test_a_block_that_is_lost_is_noticed_once_and_again_after_it_was_repaired(store: BlockStore) -> None:
    store.add_bytes(DATA)
    assert not store.has(cid_of(b"never here"))
    assert store.losses == 0
    for times in (1, 2):
        path_of(store, leaf(1)).unlink()
        for _ in range(3):
            assert store.get(leaf(1)) is None
        assert store.losses == times
        store.add_bytes(DATA)
    path_of(store, leaf(1)).write_bytes(b"else")
    assert store.get(leaf(1)) is store.get(leaf(1)) is None
    assert store.losses == 3


def test_what_is_collected_is_not_lost(store: BlockStore) -> None:
    store.add_bytes(DATA)
    store.collect_garbage()
    assert store.get(leaf(1)) is None
    assert store.losses == 0


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x04
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["pins.json", "pins.json.copy"])
def test_one_damaged_pin_file_is_made_good_by_the_other(store: BlockStore, name: str) -> None:
    root = store.add_bytes(DATA, pin="kept")
    path = store.directory / name
    for at in range(0, path.stat().st_size, 7):
        store.close()
        flip(path, at)
        with BlockStore(store.directory, read_only=True) as reader:
            assert reader.pins() == {"kept": root}
        store = BlockStore(store.directory)
        assert store.pins() == {"kept": root}
        assert store.collect_garbage().blocks == 0
        assert path.read_bytes() == (store.directory / "pins.json").read_bytes()
    assert not store.pins_lost
    store.close()


def test_damage_to_the_pins_while_they_are_in_use_is_no_loss(store: BlockStore) -> None:
    root = store.add_bytes(DATA, pin="kept")
    for name in ("pins.json", "pins.json.copy"):
        (store.directory / name).write_text("{")
    assert store.collect_garbage().blocks == 0
    assert store.pins() == {"kept": root}


def test_when_both_pin_files_are_damaged_nothing_is_let_go_of_until_the_owner_says_so(store: BlockStore) -> None:
    root = store.add_bytes(DATA, pin="kept")
    store.close()
    for name in ("pins.json", "pins.json.copy"):
        flip(store.directory / name, 5)
    with BlockStore(store.directory, read_only=True) as reader, pytest.raises(MalformedInput, match=r"pins.json is"):
        reader.pins()
    for _ in range(2):  # and after a restart
        with BlockStore(store.directory) as store:
            assert store.pins_lost
            assert store.pins() == {}
            store.put(b"garbage")
            assert store.collect_garbage().blocks == 0
    assert (store.directory / "pins.json.damaged").exists()
    with BlockStore(store.directory) as store:
        store.pin(root, "kept")
        store.pins_restored()
        assert store.collect_garbage().blocks == 1
        assert store.read(root) == DATA


def test_pins_written_before_there_was_a_copy_are_read(store: BlockStore) -> None:
    root = store.add_bytes(DATA, pin="kept")
    store.close()
    (store.directory / "pins.json.copy").unlink()
    (store.directory / "pins.json").write_text(f'{{"kept": "{root}"}}')
    with BlockStore(store.directory) as store:
        assert store.pins() == {"kept": root}


def test_collection_waits_for_files_being_added(store: BlockStore) -> None:
    collected = threading.Event()

    def collect() -> None:
        store.collect_garbage()
        collected.set()

    with store.no_collection():
        cid = store.add_bytes(DATA)
        thread = threading.Thread(target=collect)
        thread.start()
        assert not collected.wait(0.2)
        with store.no_collection():  # a waiting collector must not shut out who is inside already
            assert store.read(cid) == DATA
            store.pin(cid, "kept")
    assert collected.wait(10)
    thread.join()
    assert store.read(cid) == DATA
    with store.no_collection(), pytest.raises(AssertionError, match="cannot collect"):
        store.collect_garbage()


# Several threads and processes


def test_threads_may_write_the_same_blocks_at_once(store: BlockStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: store.add_bytes(DATA), range(16))) == {cid_of(DATA)}
        assert all(pool.map(lambda _: store.read(cid_of(DATA)) == DATA, range(16)))
    assert store.usage().blocks == 5
    assert list((store.directory / "temporary").iterdir()) == []


def test_a_second_writer_is_refused_until_the_first_closes(store: BlockStore) -> None:
    program = "import sys; from cupel.network.ipfs import BlockStore; BlockStore(sys.argv[1])"
    second = [sys.executable, "-c", program, str(store.directory)]
    refused = subprocess.run(second, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert "another process writes to this blockstore" in refused.stderr
    store.close()
    assert subprocess.run(second, timeout=60, check=False).returncode == 0


def test_a_reader_needs_no_lock_and_cannot_write(store: BlockStore) -> None:
    cid = store.add_bytes(DATA)
    reader = BlockStore(store.directory, read_only=True)
    assert reader.read(cid) == DATA
    later = store.add_bytes(b"later")
    assert reader.get(later) == b"later"
    for forbidden in (lambda: reader.put(b"x"), lambda: reader.pin(cid, "x"), reader.collect_garbage):
        with pytest.raises(UsageError, match="reading only"):
            forbidden()


def test_a_directory_without_blocks_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no blockstore"):
        BlockStore(tmp_path, read_only=True)


def test_nodes_keep_their_codec(store: BlockStore) -> None:
    blocks: dict[ParsedCid, bytes] = {}
    root = build_file([b"a", b"b"], blocks.__setitem__)
    assert store.put(blocks[root], Codec.DAG_PB) == root.text
    assert store.get(ParsedCid.of(blocks[root], Codec.RAW)) is None
