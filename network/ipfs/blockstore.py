"""Blocks on disk: one file for each, named by its CID and believed only after hashing.

    DIR/blocks/<two characters>/<cid>   written beside, synced, renamed into place
    DIR/pins.json                       names and CIDs of what garbage collection must keep (pins.py)
    DIR/writer.lock                     held by the one process that may write
    DIR/reserve                         room that is given up when the disk is full, so that tidying up can write pins

Readers of other processes need no lock: a block file appears whole or not at all, and what was damaged since does not
match its name. Threads of the writing process share one `BlockStore`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

from cupel.network.ipfs.cid import MAX_BLOCK_BYTES, CidLike, Codec, ParsedCid, check_block, parse_cid
from cupel.network.ipfs.dagpb import FileNode
from cupel.network.ipfs.disk import (
    FileBatch,
    SharedUse,
    UnsyncedNames,
    atomic_file,
    storage_failed,
)
from cupel.network.ipfs.pins import PinFile
from cupel.network.ipfs.unixfs import MAX_FILE_BYTES, Walk, build_file, chunks_of, chunks_of_file, walk_file
from cupel.protocol.errors import MalformedBlock, MalformedInput, StorageFailed, Unavailable, UsageError
from cupel.protocol.types import Cid

__all__ = ["RESERVE_BYTES", "BlockMissing", "BlockStore", "Usage", "atomic_file"]

RESERVE_BYTES = 1 << 20

log = logging.getLogger(__name__)


class BlockMissing(Unavailable):
    """A block is not in the local store, or what stands there under its name is damaged."""

    def __init__(self, cid: ParsedCid) -> None:
        super().__init__(f"{cid}: not in the local blockstore")
        self.cid = cid


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the store holds."""

    blocks: int
    size_bytes: int
    """Sum of the blocks' lengths, without the file system's overhead."""


class BlockStore:
    """A directory of blocks.

    directory  made if it is not there, unless `read_only`
    read_only  take no lock and write nothing; any number of processes may

    Raises  UsageError: another process writes to it, or it cannot be written
    """

    def __init__(self, directory: str | Path, *, read_only: bool = False) -> None:
        self.directory = Path(directory)
        self.read_only = read_only
        self._blocks = self.directory / "blocks"
        self._temporary = self.directory / "temporary"
        self._pin_file = PinFile(self.directory, self._temporary)
        self._pins: dict[str, Cid] = {}
        """What the file says, kept by the one process that writes it: what happens to the file meanwhile is no loss."""
        self._reserve = self.directory / "reserve"
        self._pins_lock = threading.Lock()
        self._use = SharedUse()
        self._unsynced = UnsyncedNames()
        self._lock_file: IO[str] | None = None
        self.damaged: set[Cid] = set()
        """Names under which damaged bytes were found since this object was made."""
        self.losses = 0
        """Times a block that had been here was found gone or damaged: whoever answers for blocks looks again."""
        self._held: set[ParsedCid] = set()
        """Blocks that were here when they were last written or read."""
        self._lost: set[ParsedCid] = set()
        """Blocks found gone or damaged, and not written again since."""
        self.pins_changed = 0
        """Times pins changed through this object: who keeps something made from them can tell that it is stale."""
        self.full = 0
        """Times something could not be written for want of room."""
        if read_only:
            if not self._blocks.is_dir():
                raise UsageError(f"{self.directory}: no blockstore here")
        else:
            self._lock_file = self._take_lock()
            self._keep_reserve()
            self._pins = self._repair_pins()

    # Blocks

    def put(self, block: bytes, codec: Codec = Codec.RAW) -> Cid:
        """Store one block and return its name. It is on disk when this returns."""
        cid = ParsedCid.of(block, codec)
        self._write(cid, block)
        return cid.text

    def put_checked(self, cid: CidLike, block: bytes) -> None:
        """Store a block that came from elsewhere. Raises MalformedBlock if it is not what `cid` names."""
        parsed = parse_cid(cid)
        check_block(parsed, block)
        self._write(parsed, block)

    def get(self, cid: CidLike) -> bytes | None:
        """The block, or None if it is absent. A damaged one is reported in the log and counts as absent."""
        parsed = parse_cid(cid)
        path = self._path(parsed)
        try:
            with path.open("rb") as file:
                block = file.read(MAX_BLOCK_BYTES + 1)
            check_block(parsed, block)
        except FileNotFoundError:
            if parsed in self._held:
                log.warning("block %s is gone", path)
                self._note_loss(parsed)
            return None
        except (MalformedBlock, OSError) as error:
            log.warning("damaged block %s: %s", path, error)
            self.damaged.add(parsed.text)
            self._note_loss(parsed)
            return None
        self._held.add(parsed)
        return block

    def _note_loss(self, cid: ParsedCid) -> None:
        self._held.discard(cid)
        if cid not in self._lost:
            self._lost.add(cid)
            self.losses += 1

    def require(self, cid: CidLike) -> bytes:
        """The block. Raises BlockMissing if it is absent or damaged."""
        parsed = parse_cid(cid)
        block = self.get(parsed)
        if block is None:
            raise BlockMissing(parsed)
        return block

    def has(self, cid: CidLike) -> bool:
        """Whether an intact block of this name is here. Reads and hashes it."""
        return self.get(cid) is not None

    def block_size(self, cid: CidLike) -> int | None:
        """Length of the stored block without reading it; None if there is none."""
        try:
            return self._path(parse_cid(cid)).stat().st_size
        except FileNotFoundError:
            return None

    def __iter__(self) -> Iterator[ParsedCid]:
        """Names of all blocks, intact or not, in order within each directory."""
        return (cid for cid, _ in self._entries())

    def usage(self) -> Usage:
        sizes = [entry.stat().st_size for _, entry in self._entries()]
        return Usage(blocks=len(sizes), size_bytes=sum(sizes))

    # Files

    def add_bytes(self, data: bytes | bytearray | memoryview, *, pin: str | None = None) -> Cid:
        """Store a file's bytes and return its CID, that of `cid_of`. `pin` keeps it under that name."""
        return self.add_chunks(chunks_of(data), pin=pin)

    def add_file(self, path: str | Path, *, pin: str | None = None) -> Cid:
        """As `add_bytes` for a file of any length, reading it in pieces. Raises UsageError if it cannot be read."""
        try:
            with Path(path).open("rb") as file:
                return self.add_stream(file, pin=pin)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error

    def add_stream(self, file: BinaryIO, *, pin: str | None = None) -> Cid:
        return self.add_chunks(chunks_of_file(file), pin=pin)

    def add_chunks(self, chunks: Iterable[bytes], *, pin: str | None = None) -> Cid:
        """Store a file given as its leaves, in order. It is on disk when this returns."""
        self._check_writable()
        begun: dict[Path, ParsedCid] = {}

        with self.no_collection():
            with FileBatch(self._temporary, self._unsynced) as batch:

                def write(cid: ParsedCid, block: bytes) -> None:
                    path = self._path(cid)
                    if path in begun or self._is_intact(path, cid, block):
                        return
                    begun[path] = cid
                    with self._saying_what_is_full():
                        batch.write(path, block)

                try:
                    root = build_file(chunks, write)
                    with self._saying_what_is_full():
                        batch.finish()
                finally:
                    for path in batch.placed:
                        self._note_written(begun[path])
            if pin is not None:
                self.pin(root, pin)
        return root.text

    def read(self, cid: CidLike, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of a file that is here. Raises as `read_buffer`."""
        parsed = parse_cid(cid)
        if parsed.codec == Codec.RAW:
            return self._read_leaf(parsed, max_bytes)
        return bytes(self.read_buffer(parsed, max_bytes=max_bytes))

    def read_buffer(self, cid: CidLike, *, max_bytes: int = MAX_FILE_BYTES) -> bytearray:
        """The bytes of a file in a buffer of the caller's own, for tensors that should not be copied again.

        Raises  BlockMissing: a block is absent or damaged; MalformedBlock: not a file, or longer than `max_bytes`
        """
        parsed = parse_cid(cid)
        walk = Walk(parsed, max_bytes=max_bytes)
        waiting = [walk.root]
        out, at = bytearray(), 0
        while waiting:
            part = waiting.pop()
            block = self.require(part.cid)
            waiting.extend(reversed(walk.open(part, block)))
            if walk.size is not None and not out:
                out = bytearray(walk.size)
            if part.cid.codec == Codec.RAW:
                out[at : at + len(block)] = block
                at += len(block)
        return out

    def write_to(self, cid: CidLike, path: str | Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Write a file that is here to `path`, which appears whole or not at all. Raises as `read_buffer`."""
        with atomic_file(Path(path)) as file:
            for part, block in walk_file(cid, self.require, max_bytes=max_bytes):
                if part.codec == Codec.RAW:
                    file.write(block)

    def _read_leaf(self, cid: ParsedCid, max_bytes: int) -> bytes:
        block = self.require(cid)
        if len(block) > max_bytes:
            raise MalformedBlock(f"{cid}: a file of {len(block):,} bytes where at most {max_bytes:,} are taken")
        return block

    # Pins and garbage

    def pin(self, cid: CidLike, name: str) -> None:
        """Keep everything below `cid` under `name`, in place of what that name kept before."""
        self.change_pins({name: cid})

    def unpin(self, name: str) -> None:
        """Let go of what `name` kept. Raises UsageError if there is no such pin."""
        if name not in self.pins():
            raise UsageError(f"{self.directory}: no pin named {name!r}")
        self.change_pins({name: None})

    def change_pins(self, changes: Mapping[str, CidLike | None]) -> None:
        """Pin many names at once, or unpin those given None; all of it happens or nothing does."""
        if "" in changes:
            raise UsageError("a pin needs a name")
        with self._pins_lock:
            pins = self.pins()
            for name, cid in changes.items():
                if cid is None:
                    pins.pop(name, None)
                else:
                    pins[name] = parse_cid(cid).text
            self._write_pins(pins)

    def pins(self) -> dict[str, Cid]:
        """Roots by the names they are kept under. Raises MalformedInput: read only, and the file is damaged."""
        return self._pin_file.read() if self.read_only else dict(self._pins)

    @property
    def pins_lost(self) -> bool:
        """Whether names were lost to damage, and with them the difference between what is kept and garbage."""
        return self._pin_file.is_lost

    def pins_restored(self) -> None:
        """The owner has pinned again what it needs: garbage may be collected."""
        self._check_writable()
        self._pin_file.note_restored()

    def collect_garbage(self) -> Usage:
        """Delete every block no pin reaches, and return what that freed. Nothing while pins are lost.

        Waits until no file is being added or fetched, since those blocks are not pinned yet.

        Raises  BlockMissing: an interior node below a pin is absent or damaged, so that its children cannot be told
                from garbage. Nothing is deleted then; fetch it again, or unpin.
        """
        self._check_writable()
        with self._use.alone(), self._pins_lock:
            if self.pins_lost:
                return Usage(blocks=0, size_bytes=0)
            keep: set[ParsedCid] = set()
            for root in self.pins().values():
                self._mark(parse_cid(root), keep)
            freed = [(cid, entry.stat().st_size) for cid, entry in self._entries() if cid not in keep]
            for cid, _ in freed:
                self._held.discard(cid)
                self._path(cid).unlink()
            self._keep_reserve()
        return Usage(blocks=len(freed), size_bytes=sum(size for _, size in freed))

    def no_collection(self) -> AbstractContextManager[None]:
        """While inside, nothing is collected. Nests within a thread; any number of threads may be inside."""
        return self._use.shared()

    def _mark(self, root: ParsedCid, keep: set[ParsedCid]) -> None:
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            if cid in keep:
                continue
            keep.add(cid)
            if cid.codec == Codec.DAG_PB:
                waiting.extend(link.cid for link in FileNode.decode(self.require(cid)).links)

    # Files and directories

    def close(self) -> None:
        """Let another process write. Safe to call twice."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, cid: ParsedCid) -> Path:
        # The characters before the last, as Kubo shards: the last carries only three bits.
        name = cid.text
        return self._blocks / name[-3:-1] / name

    def _entries(self) -> Iterator[tuple[ParsedCid, os.DirEntry[str]]]:
        for directory in sorted(self._blocks.iterdir()):
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=lambda found: found.name):
                    with suppress(MalformedInput):
                        yield parse_cid(entry.name), entry

    def _write(self, cid: ParsedCid, block: bytes) -> None:
        """Put the bytes in place, or see that they and their name are there, on disk."""
        self._check_writable()
        path = self._path(cid)
        intact = self._is_intact(path, cid, block)
        with self._saying_what_is_full():
            if not intact:
                self._unsynced.make_folder(path.parent)
                self._unsynced.note(path.parent)
                with atomic_file(path, beside=self._temporary, sync_directory=False) as file:
                    file.write(block)
            self._unsynced.sync_noted(path.parent, self._blocks, self.directory)
        if not intact:
            self._note_written(cid)

    def _is_intact(self, path: Path, cid: ParsedCid, block: bytes) -> bool:
        """Whether this block need not be written to its path. Raises MalformedBlock if it may not be."""
        if len(block) > MAX_BLOCK_BYTES:
            raise MalformedBlock(f"{cid}: {len(block):,} bytes, above the limit of {MAX_BLOCK_BYTES:,} bytes a block")
        return path.exists() and self.get(cid) is not None

    def _note_written(self, cid: ParsedCid) -> None:
        self._held.add(cid)
        self._lost.discard(cid)

    def _write_pins(self, pins: dict[str, Cid]) -> None:
        self._check_writable()
        try:
            with self._saying_what_is_full():
                self._pin_file.write(pins)
        except StorageFailed:
            # Letting go of something takes a write as well.
            self._reserve.unlink(missing_ok=True)
            with self._saying_what_is_full():
                self._pin_file.write(pins)
        self._pins = pins
        self.pins_changed += 1

    def _repair_pins(self) -> dict[str, Cid]:
        try:
            with self._saying_what_is_full():
                return self._pin_file.repair()
        except StorageFailed:
            self.close()
            raise

    def _keep_reserve(self) -> None:
        """Set room aside, where there is some."""
        with suppress(OSError), self._reserve.open("ab") as file:
            if file.tell() < RESERVE_BYTES:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    @contextmanager
    def _saying_what_is_full(self) -> Iterator[None]:
        """Turns what a full or failing disk raises into StorageFailed with the folder's name."""
        try:
            yield
        except OSError as error:
            self.full += 1
            raise storage_failed(self.directory, error) from error

    def _check_writable(self) -> None:
        if self._lock_file is None:
            raise UsageError(f"{self.directory}: opened for reading only, or already closed")

    def _take_lock(self) -> IO[str]:
        try:
            self._blocks.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            lock = (self.directory / "writer.lock").open("a")
        except OSError as error:
            raise UsageError(f"{self.directory}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UsageError(
                f"{self.directory}: another process writes to this blockstore; stop it or use another directory"
            ) from None
        for left_over in self._temporary.iterdir():  # of a writer that died
            left_over.unlink()
        # Nor did it say which names it had not synced.
        for folder in (self.directory, self._blocks, *(one for one in self._blocks.iterdir() if one.is_dir())):
            self._unsynced.note(folder)
        return lock
