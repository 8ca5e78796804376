"""One process in a data folder, and one data folder for a key in a run.

The folder is locked while a process lives; the system lets go of the lock when it dies, however it dies. Which folder
a key plays a run from is written down in the user's data directory: started in another one, whose journal knows nothing
of what was said, a node could contradict itself. Both hold on this machine alone; who takes a key to another machine
takes the journal along (`cupel journal export`, `cupel journal import`).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cupel.chain.paths import get_data_directory
from cupel.network.ipfs.disk import atomic_file, sync_directory_names
from cupel.node.journal import FILE_NAME, Journal
from cupel.protocol.errors import StorageFailed, UsageError

LOCK_NAME = "node.lock"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Be the one process that works in `folder`. Raises UsageError naming the other, StorageFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageFailed(f"cannot write to --data {folder}: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read(100).strip() or "unknown"
            raise UsageError(
                f"--data {folder} is in use by process {holder}: stop that one first, or give this one its own folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def claim_key(journal: Journal, folder: Path) -> str | None:
    """Note that this journal's key plays its run from `folder`; a word of warning where the earlier journal is lost.

    Raises UsageError: the key plays from another folder, or which one it plays from cannot be read
    """
    path = _registry() / f"{journal.identity.chain_id}-{journal.identity.contract}-{journal.identity.address}.json"
    folder = folder.absolute()
    known, warning = _read(path), None
    if known is not None and known.get("journal") != journal.id and not journal.continues(str(known.get("journal"))):
        other = Path(str(known.get("folder")))
        if (other / FILE_NAME).exists() and other != folder:
            raise UsageError(
                f"{journal.identity} plays from --data {other}: use that folder, or take its journal along with "
                f"`cupel journal export --data {other} FILE` and `cupel journal import --data {folder} FILE`"
            )
        warning = f"the journal this key had in {other} is gone: what was said then cannot be checked against"
    elif known is not None and Path(str(known.get("folder"))) != folder and _is_copy(known, journal):
        raise UsageError(
            f"{folder} is a copy of {known['folder']}, from which {journal.identity} plays: use one of them and delete "
            "the other's journal"
        )
    _write(path, {"folder": str(folder), "journal": journal.id})
    return warning


def _is_copy(known: dict[str, Any], journal: Journal) -> bool:
    """Whether the journal's own file also lies, under the same id, where the key played from before."""
    other = Path(str(known.get("folder")))
    if not (other / FILE_NAME).is_file() or journal.continues(str(known.get("journal"))):
        return False
    try:
        with Journal(other, journal.identity, read_only=True) as earlier:
            return bool(earlier.id == journal.id)
    except (UsageError, StorageFailed):
        return False


def _registry() -> Path:
    return get_data_directory() / "nodes"


def _read(path: Path) -> dict[str, Any] | None:
    """What is written down of a key; None if nothing was. Raises UsageError: something was, and cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(content.get(k), str) for k in ("folder", "journal")):
            raise ValueError("not a folder and a journal")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as trouble:
        # Taken for nothing, it would let the key play from a second folder.
        raise UsageError(
            f"{path} says from which folder this key plays, and cannot be read ({trouble}): make sure that no other "
            "--data folder is in use with this key, then delete that file"
        ) from None
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(content).encode())
        sync_directory_names(path.parent.parent)
    except OSError as error:
        raise StorageFailed(f"cannot write {path}: {error.strerror or error}") from error
