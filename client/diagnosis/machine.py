"""This machine and its disk. What it computes with: engine.py."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cupel.diagnosis.findings import Finding, ok, warning, wrong

GIGABYTE = 1 << 30
LEAST_FREE_BYTES, GOOD_FREE_BYTES = GIGABYTE, 10 * GIGABYTE
SLOW_SYNC_S = 0.25
"""A round writes and syncs a few dozen times; slower than that, and the disk decides the pace."""


def check_machine() -> Finding:
    """What this is."""
    return ok(
        "machine",
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} processors",
    )


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def check_disk(folder: Path) -> Iterator[Finding]:
    """Room and speed where a node's folder is, or will be."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        yield wrong("disk.space", f"{existing} is a file, not a folder", "give --data another folder")
        return
    free = shutil.disk_usage(existing).free
    found = f"{free / GIGABYTE:.1f} GB free for {folder}"
    if free < LEAST_FREE_BYTES:
        yield wrong("disk.space", found, f"make room: a node needs {LEAST_FREE_BYTES // GIGABYTE} GB at least")
    elif free < GOOD_FREE_BYTES:
        yield warning("disk.space", found, "large models' states take gigabytes; make room before it runs out")
    else:
        yield ok("disk.space", found)
    yield _check_writing(existing)


def _check_writing(folder: Path, megabytes: int = 16) -> Finding:
    block = os.urandom(1 << 20)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".cupel-doctor-") as file:
            write_s = _seconds(lambda: _write_synced(file.fileno(), block * megabytes))
            sync_s = statistics.median(_seconds(lambda: _write_synced(file.fileno(), b"x")) for _ in range(5))
    except OSError as error:
        return wrong(
            "disk.write", f"cannot write to {folder}: {error.strerror}", "make it yours, or take another --data"
        )
    found = f"{megabytes / write_s:.0f} MB/s written through to the disk, {1000 * sync_s:.1f} ms a sync"
    if sync_s > SLOW_SYNC_S:
        return warning("disk.write", found, "put --data on a faster disk: everything signed is synced first")
    return ok("disk.write", found)


def _write_synced(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data)
    os.fsync(descriptor)
