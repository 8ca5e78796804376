"""Writing files whole or not at all, and saying plainly when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cupel.protocol.errors import StorageFailed


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
