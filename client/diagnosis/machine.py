"""This machine: its arithmetic, its speed, its disk."""

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
from cupel.protocol import arithmetic
from cupel.protocol.arithmetic import cpu
from cupel.protocol.arithmetic.engines import self_test
from cupel.protocol.errors import BackendUnfit, UsageError

GIGABYTE = 1 << 30
LEAST_FREE_BYTES, GOOD_FREE_BYTES = GIGABYTE, 10 * GIGABYTE
SLOW_SYNC_S = 0.25
"""A round writes and syncs a few dozen times; slower than that, and the disk decides the pace."""


def check_arithmetic() -> Iterator[Finding]:
    """Every engine against the stored vectors."""
    yield ok("machine", f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, "
             f"{os.cpu_count()} processors")  # fmt: skip
    for backend in ("torch", "cpu"):
        try:
            name = f"{backend}, {cpu.isa.choose().name} kernels" if backend == "cpu" else backend
            self_test(backend)
        except BackendUnfit as unfit:
            fix = "use --backend torch" if backend == "cpu" else "reinstall torch in the version Cupel asks for"
            yield wrong(f"arithmetic.{backend}", f"not the stored bits: {unfit}", f"{fix}, and report this")
        except UsageError as error:
            yield wrong(f"arithmetic.{backend}", str(error), "unset CUPEL_ISA")
        else:
            yield ok(f"arithmetic.{backend}", f"engine {name}: every stored vector reproduced")


def check_speed(size: int = 768, repeats: int = 9) -> Finding:
    """A square float32 product, exact against torch: medians of interleaved runs on one thread, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        exact, usual = [], []
        for _ in range(repeats + 1):
            exact.append(_seconds(lambda: arithmetic.matmul(a, b, backend="cpu")))
            usual.append(_seconds(lambda: torch.mm(a, b)))
    finally:
        torch.set_num_threads(threads)
    ours, theirs = statistics.median(exact[1:]), statistics.median(usual[1:])
    found = (
        f"product {size}^3, one thread: {2 * size**3 / ours / 1e9:.0f} GFLOP/s exact, {theirs / ours:.1f}x torch fp32"
    )
    if ours > 4 * theirs:
        return warning("speed", found, "expect units to take long; a processor with AVX2 or better is faster")
    return ok("speed", found)


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
