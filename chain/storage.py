"""What SQLite's errors mean for whoever runs us: a full disk, one that may not be written, a lock, or damage."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cupel.protocol.errors import CupelError, StorageFailed, UsageError

_ADVICE = {
    sqlite3.SQLITE_FULL: "make room on that disk",
    sqlite3.SQLITE_IOERR: "the disk fails or is full: make room on it, or look into the system's log",
    sqlite3.SQLITE_READONLY: "it may not be written: is the disk mounted read-only, are file and folder this user's?",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: is the folder there, and may this user write it?",
    sqlite3.SQLITE_PERM: "it may not be written: are file and folder this user's?",
    sqlite3.SQLITE_BUSY: "another process has it locked: end that one (`fuser` names it), or wait for it",
    sqlite3.SQLITE_LOCKED: "another process has it locked: end that one (`fuser` names it), or wait for it",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""The last: a table is missing, for the statements are ours."""


def explain_storage(path: Path | None, error: sqlite3.Error, *, undone: str, damaged: str) -> CupelError | None:
    """An error of a database as ours; None where it is a mistake in our own code.

    undone    what did not happen therefore: "nothing was sent"
    damaged   what to do about a damaged file
    """
    code = getattr(error, "sqlite_errorcode", None)
    kind = None if code is None else code & 0xFF
    if kind in _DAMAGE:
        return UsageError(f"{path} is damaged ({error}): {damaged}")
    if kind in _ADVICE:
        return StorageFailed(f"{path}: {error}; {undone}: {_ADVICE[kind]}")
    return None
