"""A run's Programs, traced once for all test processes: tracing takes six seconds, reading a tenth of one."""

from __future__ import annotations

import fcntl
import functools
import hashlib
from pathlib import Path

import torch

from cupel.protocol.training.programs import RunConfig, RunPrograms

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build" / "programs"


def trace_or_read(config: RunConfig) -> RunPrograms:
    """As `RunPrograms.build`; kept in build/ under a hash of everything that decides what it gives."""
    folder = FOLDER / _key(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several workers come here at once: one traces, and the others have a core less to share while they wait.
    with (FOLDER / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = folder / ".whole"
        if whole.exists():
            return RunPrograms.from_files({path.name: path.read_bytes() for path in folder.glob("[!.]*")})
        programs = RunPrograms.build(config)
        folder.mkdir(exist_ok=True)
        for name, content in programs.to_files().items():
            (folder / name).write_bytes(content)
        whole.touch()
        return programs


def _key(config: RunConfig) -> str:
    return hashlib.sha256(_sources() + repr((config, torch.__version__)).encode()).hexdigest()[:16]


@functools.cache
def _sources() -> bytes:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "protocol").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()
