"""Machine code on disk, by the hash of everything that decides it."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

_HASH_BYTES = 32


def directory() -> Path:
    """CUPEL_CACHE, else the user's cache folder."""
    named = os.environ.get("CUPEL_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cupel"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cupel"


def key(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.encode())
    return digest.hexdigest()


def load(name: str) -> bytes | None:
    """What was stored, or None: never stored, unreadable, or changed since."""
    try:
        data = (directory() / name).read_bytes()
    except OSError:
        return None
    body = data[_HASH_BYTES:]
    return body if hashlib.sha256(body).digest() == data[:_HASH_BYTES] else None


def store(name: str, body: bytes) -> None:
    """Whole or not at all; a cache that cannot be written only costs time."""
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=folder)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(path, folder / name)
    except OSError:
        Path(path).unlink(missing_ok=True)
