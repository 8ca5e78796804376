"""`cupel chain`, gone as by `kill -9` right after a chosen write to its file.

    python chain_failpoints.py OPERATION:NUMBER chain --data ... --port ...
    python chain_failpoints.py record:FILE chain ...

An operation is one call of a method of the chain's store, as named in `_OPERATIONS`; NUMBER counts what it makes SQLite
do that may write: 0 is before the first, and the count itself is after the last, when the method returned. `record`
kills nobody and writes down, an operation a line, how many statements it took. Production code knows nothing of this.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OPERATIONS: dict[str, tuple[str, Callable[..., bool]]] = {
    "schema": ("_prepare_schema", lambda store: True),
    "genesis": ("commit", lambda store, new, **meta: new.block.number == 0),
    "block": ("commit", lambda store, new, **meta: bool(new.transactions)),
    "save": ("save_waiting", lambda store, waiting, replaced: replaced is None),
    "replace": ("save_waiting", lambda store, waiting, replaced: replaced is not None),
    "forget": ("forget_waiting", lambda store, hashes: bool(hashes)),
    "reorg": ("replace", lambda store, news, **rest: True),
}
"""Name, the store's method, and which of its calls are meant."""
_READING = ("SELECT", "PRAGMA user_version;", "PRAGMA user_version")


class _Counter:
    """Which operation is under way, and how many statements it made."""

    def __init__(self, wanted: str, number: int, record: Path | None) -> None:
        self._wanted, self._number, self._record = wanted, number, record
        self._operation: str | None = None
        self._count = 0

    def enter(self, operation: str) -> None:
        self._operation, self._count = operation, 0
        self._reach()

    def count(self, statement: str) -> None:
        if self._operation is not None and not statement.lstrip().startswith(_READING):
            self._count += 1
            self._reach()

    def leave(self) -> None:
        if self._record is not None:
            with self._record.open("a") as file:
                file.write(json.dumps([self._operation, self._count]) + "\n")
        self._operation = None

    def _reach(self) -> None:
        if self._operation == self._wanted and self._count == self._number:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    wanted, _, detail = sys.argv[1].partition(":")
    is_recording = wanted == "record"
    counter = _Counter(wanted, -1 if is_recording else int(detail), Path(detail) if is_recording else None)

    class Counting(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().execute(statement, *arguments)
            counter.count(statement)
            return cursor

        def executemany(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().executemany(statement, *arguments)
            counter.count(statement)
            return cursor

        def executescript(self, script: str) -> sqlite3.Cursor:
            cursor = super().executescript(script)
            counter.count(script)
            return cursor

    sqlite3.connect = functools.partial(sqlite3.connect, factory=Counting)  # type: ignore[assignment]  # on purpose

    from cupel.chain.node.store import ChainStore

    def watch(operation: str, method: str, is_meant: Callable[..., bool]) -> None:
        original = getattr(ChainStore, method)

        @functools.wraps(original)
        def watched(*arguments: Any, **named: Any) -> Any:
            if not is_meant(*arguments, **named):
                return original(*arguments, **named)
            counter.enter(operation)
            result = original(*arguments, **named)
            counter.leave()
            return result

        setattr(ChainStore, method, watched)

    for operation, (method, is_meant) in _OPERATIONS.items():
        watch(operation, method, is_meant)

    from cupel.cli import main as run_command

    sys.argv = ["cupel", *sys.argv[2:]]
    run_command()


if __name__ == "__main__":
    main()
