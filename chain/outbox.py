"""What a key has sent and not yet seen final, on disk before the network hears of it.

One entry per nonce, with every version signed for it: a stuck transaction is replaced under its own nonce, and
whichever version gets into a block counts. States of an entry:

    journalled   decided, with nonce and content; maybe signed, but nobody may have seen it
    sent         a node took one of its versions
    mined        a version is in a block that a re-org may still undo; then it is `sent` again
    (gone)       the block is final, or nothing of the entry can ever be in a block

Whatever moment a process is killed at, the entry says what to do: sign the unsigned, send the signed (the same bytes
again are the same transaction), look for receipts of the sent. So there is neither a second transaction for one
decision nor a hole in the nonces.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cupel.chain.fees import Fees
from cupel.chain.storage import explain_storage
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address, Height

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE entries (
    account TEXT NOT NULL, nonce INTEGER NOT NULL, state TEXT NOT NULL, duty TEXT, told INTEGER NOT NULL,
    mined_hash BLOB, block_number INTEGER, block_hash BLOB, succeeded INTEGER,
    PRIMARY KEY (account, nonce)
) WITHOUT ROWID;
CREATE TABLE versions (
    account TEXT NOT NULL, nonce INTEGER NOT NULL, version INTEGER NOT NULL,
    what TEXT NOT NULL, recipient TEXT, data BLOB NOT NULL, value_wei TEXT NOT NULL, gas INTEGER NOT NULL,
    tip_wei TEXT, max_fee_wei TEXT, hash BLOB, raw BLOB,
    PRIMARY KEY (account, nonce, version)
) WITHOUT ROWID;
"""


_DAMAGED = (
    "where `cupel wallet pending` shows nothing under way for the keys that used it, move it away, with the files "
    "beside it that end in -wal and -shm; else wait until that is in a block"
)


def make_account(chain_id: int, genesis: bytes, address: Address) -> str:
    """The account of a key on a chain."""
    return f"{chain_id}-{genesis[:16].hex()}-{address}"


class State(StrEnum):
    JOURNALLED = "journalled"
    SENT = "sent"
    MINED = "mined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a transaction is to do."""

    what: str
    """For people: the contract and function."""
    to: Address | None
    """None creates a contract."""
    data: bytes
    value_wei: int
    gas: int
    """Limit; not part of what makes two contents the same."""

    @property
    def key(self) -> bytes:
        """Equal for calls that do the same."""
        head = f"{(self.to or '').lower()}|{self.value_wei}|".encode()
        return hashlib.sha256(head + self.data).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One transaction of an entry's nonce, decided but not signed."""

    number: int
    """From 0, in the order they were decided."""
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVersion(Version):
    """One that may be in anybody's hands."""

    fees: Fees
    hash: bytes
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One nonce of one key."""

    nonce: int
    state: State
    duty: str | None
    """Name of what this is done for; entries of one duty exclude one another."""
    told: bool
    """Whether a caller learned the outcome. Until then somebody who asks for the same is given it."""
    mined_hash: bytes | None
    """The version that is in a block, and the block, where `state` is `mined`; the version stays after a re-org."""
    block_number: Height | None
    block_hash: bytes | None
    succeeded: bool | None
    versions: tuple[Version, ...]

    @property
    def newest(self) -> Version:
        return self.versions[-1]

    @property
    def is_signed(self) -> bool:
        """Whether nothing of it waits to be signed."""
        return isinstance(self.newest, SignedVersion)

    @property
    def signed(self) -> tuple[SignedVersion, ...]:
        """Every version that may get into a block."""
        return tuple(version for version in self.versions if isinstance(version, SignedVersion))

    @property
    def to_send(self) -> SignedVersion | None:
        """The version nodes should hold: the one a re-org threw out of its block, else the newest."""
        signed = self.signed
        return next((version for version in signed if version.hash == self.mined_hash), signed[-1] if signed else None)

    def find_version(self, transaction_hash: bytes) -> SignedVersion | None:
        return next((version for version in self.signed if version.hash == transaction_hash), None)

    @property
    def mined(self) -> SignedVersion:
        """The version in a block, of an entry that is `mined`."""
        version = None if self.mined_hash is None else self.find_version(self.mined_hash)
        assert version is not None, "a transaction in a block that this outbox did not send"
        return version


def _make_version(row: Sequence[Any]) -> Version:
    _, number, what, recipient, data, value_wei, gas, tip_wei, max_fee_wei, transaction_hash, raw = row
    content = Content(
        what=what, to=None if recipient is None else Address(recipient), data=data, value_wei=int(value_wei), gas=gas
    )
    if raw is None:
        return Version(number=number, content=content)
    fees = Fees(tip_wei=int(tip_wei), max_fee_wei=int(max_fee_wei))
    return SignedVersion(number=number, content=content, fees=fees, hash=transaction_hash, raw=raw)


def _make_entry(row: Sequence[Any], versions: Mapping[int, Sequence[Version]]) -> Entry:
    nonce, state, duty, told, mined_hash, block_number, block_hash, succeeded = row
    return Entry(
        nonce=nonce,
        state=State(state),
        duty=duty,
        told=bool(told),
        mined_hash=mined_hash,
        block_number=None if block_number is None else Height(block_number),
        block_hash=block_hash,
        succeeded=None if succeeded is None else bool(succeeded),
        versions=tuple(versions[nonce]),
    )


class Outbox:
    """The file at `path`, made if missing; in memory where `path` is None. Safe to use from several threads.

    An *account* is a key on a chain, named by whoever uses the outbox; accounts do not see one another.

    Raises   UsageError: the file cannot be used or is not an outbox
             StorageFailed: the disk is full or failing, the file locked or not to be written
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self.path = path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path} cannot be used as an outbox: {error.strerror or error}") from error
        with self._storage():
            self._connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        try:
            with self._storage():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        # The default lets the log grow to forty times what an outbox holds.
        self._connection.execute("PRAGMA wal_autocheckpoint=64")
        (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise UsageError(f"{self.path} is damaged ({found.splitlines()[-1]}): {_DAMAGED}")
        self._prepare_schema()
        with self._write():
            pass  # a file that may not be written is found now, not at the first transaction

    def _prepare_schema(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            return
        if version != 0 or self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UsageError(
                f"{self.path} has layout {version}, this program reads layout {SCHEMA_VERSION}: "
                "use the version that wrote it until its transactions are final"
            )
        self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk at the end. Raises StorageFailed: nothing of it is."""
        with self._lock, self._storage():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk ends some transactions by itself, and leaves others open, whose COMMIT failed.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """SQLite's errors as ours; whoever asked may try again once the disk is well."""
        try:
            yield
        except sqlite3.Error as error:
            explained = explain_storage(self.path, error, undone="nothing was sent", damaged=_DAMAGED)
            if explained is None:
                raise
            raise explained from error

    @contextmanager
    def _sense(self) -> Iterator[None]:
        """Rows that make no entries: the file holds what this program did not write."""
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{self.path} is damaged (an entry makes no sense: {error!r:.100}): {_DAMAGED}") from error

    # Reading

    def list(self, account: str) -> tuple[Entry, ...]:
        """Everything of an account that is not final yet, by nonce."""
        return self._read("account = ?", (account,))

    def get(self, account: str, nonce: int) -> Entry | None:
        found = self._read("account = ? AND nonce = ?", (account, nonce))
        return found[0] if found else None

    def _read(self, condition: str, values: tuple[object, ...]) -> tuple[Entry, ...]:
        with self._lock, self._storage(), self._sense():
            entries = self._connection.execute(
                "SELECT nonce, state, duty, told, mined_hash, block_number, block_hash, succeeded FROM entries "
                f"WHERE {condition} ORDER BY nonce",
                values,
            ).fetchall()
            versions: dict[int, list[Version]] = {}
            for row in self._connection.execute(
                "SELECT nonce, version, what, recipient, data, value_wei, gas, tip_wei, max_fee_wei, hash, raw "
                f"FROM versions WHERE {condition} ORDER BY nonce, version",
                values,
            ):
                versions.setdefault(row[0], []).append(_make_version(row))
            return tuple(_make_entry(row, versions) for row in entries)

    # Writing: each on disk when it returns

    def journal(self, account: str, nonce: int, content: Content, *, duty: str | None) -> None:
        """A new entry, not signed yet."""
        with self._write() as connection:
            connection.execute(
                "INSERT INTO entries (account, nonce, state, duty, told) VALUES (?, ?, ?, ?, 0)",
                (account, nonce, State.JOURNALLED, duty),
            )
            self._insert_version(connection, account, nonce, 0, content)

    def add_version(self, account: str, nonce: int, content: Content) -> int:
        """Another version under the same nonce, not signed yet; its number."""
        with self._write() as connection:
            (number,) = connection.execute(
                "SELECT max(version) + 1 FROM versions WHERE account = ? AND nonce = ?", (account, nonce)
            ).fetchone()
            self._insert_version(connection, account, nonce, number, content)
            connection.execute("UPDATE entries SET told = 0 WHERE account = ? AND nonce = ?", (account, nonce))
        return int(number)

    @staticmethod
    def _insert_version(
        connection: sqlite3.Connection, account: str, nonce: int, number: int, content: Content
    ) -> None:
        connection.execute(
            "INSERT INTO versions (account, nonce, version, what, recipient, data, value_wei, gas) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (account, nonce, number, content.what, content.to, content.data, str(content.value_wei), content.gas),
        )

    def save_signed(self, account: str, nonce: int, number: int, *, fees: Fees, hash: bytes, raw: bytes) -> None:
        """The bytes of a version, before anybody else has them."""
        with self._write() as connection:
            connection.execute(
                "UPDATE versions SET tip_wei = ?, max_fee_wei = ?, hash = ?, raw = ? "
                "WHERE account = ? AND nonce = ? AND version = ?",
                (str(fees.tip_wei), str(fees.max_fee_wei), hash, raw, account, nonce, number),
            )

    def drop_version(self, account: str, nonce: int, number: int) -> None:
        """Forget a version that can never be in a block."""
        with self._write() as connection:
            connection.execute(
                "DELETE FROM versions WHERE account = ? AND nonce = ? AND version = ?", (account, nonce, number)
            )

    def mark_sent(self, account: str, nonce: int) -> None:
        """A node took it, or a re-org threw it out of its block."""
        self._update(account, nonce, "state = ?, block_number = NULL, block_hash = NULL", State.SENT)

    def mark_mined(
        self, account: str, nonce: int, *, hash: bytes, block_number: int, block_hash: bytes, succeeded: bool
    ) -> None:
        assignment = "state = ?, mined_hash = ?, block_number = ?, block_hash = ?, succeeded = ?"
        self._update(account, nonce, assignment, State.MINED, hash, block_number, block_hash, succeeded)

    def mark_told(self, account: str, nonce: int) -> None:
        self._update(account, nonce, "told = ?", True)

    def _update(self, account: str, nonce: int, assignment: str, *values: object) -> None:
        with self._write() as connection:
            connection.execute(
                f"UPDATE entries SET {assignment} WHERE account = ? AND nonce = ?", (*values, account, nonce)
            )

    def forget(self, account: str, nonce: int) -> None:
        """The entry is final, or can never be in a block."""
        with self._write() as connection:
            for table in ("versions", "entries"):
                connection.execute(f"DELETE FROM {table} WHERE account = ? AND nonce = ?", (account, nonce))
