"""Writing files whole or not at all, and saying plainly when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cupel.protocol.errors import StorageFailed

_SYNCS_AT_ONCE = 4
_FILES_AT_ONCE = 64
"""Written files that wait for the disk before the first gets its name: 16 MiB of blocks, and as many descriptors."""


@contextmanager
def atomic_file(path: Path, *, beside: Path | None = None, sync_directory: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears at `path` whole and on disk when the block ends well, and not at all when it raises.

    beside  directory of the same file system for the unfinished file; that of `path` by default
    """
    descriptor, unfinished = tempfile.mkstemp(dir=beside or path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    if sync_directory:
        sync_directory_names(path.parent)


def storage_failed(folder: Path, error: OSError) -> StorageFailed:
    """What a person has to know when something cannot be written in `folder`."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFailed(f"{folder}: cannot be written: {error.strerror or error}")
    try:
        left = f"{shutil.disk_usage(folder).free:,} bytes are free"
    except OSError:
        left = "how much is free is not known"
    return StorageFailed(
        f"{folder}: no room left on this disk ({error.strerror}; {left}). Free some, or move the folder to a larger "
        "disk; what is written stays as it is"
    )


def sync_directory_names(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class UnsyncedNames:
    """Folders that may hold names which are not on disk yet, whoever put them there and whatever became of that.

    A file that stands in such a folder is not safe: who finds it there and relies on it syncs the folder as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[Path, int] = {}
        self._notes = 0

    def note(self, folder: Path) -> None:
        """To be called before the name is there, so that nobody can see it and miss this."""
        with self._lock:
            self._notes += 1
            self._folders[folder] = self._notes

    def list(self) -> dict[Path, int]:
        with self._lock:
            return dict(self._folders)

    def sync(self, folder: Path, noted: int) -> None:
        """Put its names on disk; what was noted since stays noted. Raises OSError."""
        with suppress(FileNotFoundError):
            sync_directory_names(folder)
        with self._lock:
            if self._folders.get(folder) == noted:
                del self._folders[folder]

    def sync_noted(self, *folders: Path) -> None:
        """Those of these folders that need it."""
        noted = self.list()
        for folder in folders:
            if folder in noted:
                self.sync(folder, noted[folder])

    def make_folder(self, folder: Path) -> None:
        """Make a folder whose parent is there; nothing if it is there. Raises OSError."""
        if not folder.is_dir():
            self.note(folder.parent)
            folder.mkdir(exist_ok=True)


class FileBatch:
    """Files that appear at their paths whole and on disk, as one of `atomic_file`, but wait for the disk together.

    A file gets its name only after its bytes are on disk, and when `finish` returns all bytes and names are, those of
    earlier batches that failed or of others that are under way included. A disk
    takes many small files in little more time than one, so the syncs overlap, each other and whatever the caller does
    in between. Left without `finish`, files that have no name yet are removed.

    Raises  OSError
    """

    def __init__(self, beside: Path, unsynced: UnsyncedNames) -> None:
        """beside: folder of the same file system for unfinished files; `unsynced` is shared by all its batches."""
        self._beside, self._unsynced = beside, unsynced
        self._waiting: list[_Unfinished] = []
        self._pool = ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="cupel-sync")
        self.placed: list[Path] = []
        """Files that have their names."""

    def write(self, path: Path, data: bytes) -> None:
        """Begin one file. Its folder is made if only that is missing."""
        self._unsynced.make_folder(path.parent)
        descriptor, unfinished = tempfile.mkstemp(dir=self._beside, prefix=".unfinished-")
        file = os.fdopen(descriptor, "wb", buffering=0)
        one = _Unfinished(path, Path(unfinished), file)
        self._waiting.append(one)
        _write_all(file, data)
        os.fchmod(file.fileno(), 0o644)
        one.synced = self._pool.submit(os.fsync, file.fileno())
        if len(self._waiting) >= _FILES_AT_ONCE:
            self._place()

    def finish(self) -> None:
        """Return once everything is on disk."""
        self._place()
        _wait_for([self._pool.submit(self._unsynced.sync, *one) for one in self._unsynced.list().items()])

    def _place(self) -> None:
        _wait_for([one.synced for one in self._waiting if one.synced is not None])
        for one in self._waiting:
            one.file.close()
        while self._waiting:
            self._unsynced.note(self._waiting[-1].path.parent)
            os.replace(self._waiting[-1].unfinished, self._waiting[-1].path)
            self.placed.append(self._waiting.pop().path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)  # no thread may sync a descriptor that is closed
        for one in self._waiting:
            one.file.close()
            with suppress(FileNotFoundError):
                one.unfinished.unlink()


@dataclass(slots=True)
class _Unfinished:
    path: Path
    unfinished: Path
    file: IO[bytes]
    synced: Future[None] | None = None


def _wait_for(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        future.result()


def _write_all(file: IO[bytes], data: bytes) -> None:
    """A write may take only part, where there is a limit or little room; the next one then says why."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class SharedUse:
    """Many may use the store at once, or one may collect it; who waits to collect lets no new user in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._collecting = False
        self._depth = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        depth: int = getattr(self._depth, "value", 0)
        with self._changed:
            # A thread already inside goes on in, or it would wait for a collector that waits for it.
            self._changed.wait_for(lambda: depth > 0 or not self._collecting)
            self._users += 1
        self._depth.value = depth + 1
        try:
            yield
        finally:
            self._depth.value = depth
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        if getattr(self._depth, "value", 0):
            raise AssertionError("a thread that is using the store cannot collect it")
        with self._changed:
            self._changed.wait_for(lambda: not self._collecting)
            self._collecting = True
            self._changed.wait_for(lambda: self._users == 0)
        try:
            yield
        finally:
            with self._changed:
                self._collecting = False
                self._changed.notify_all()
