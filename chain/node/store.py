"""What the embedded chain remembers: one SQLite file, written once per block and once per accepted transaction.

A block, its transactions, its logs and every new node of the state trie enter in one SQLite transaction with
`synchronous=FULL`: after a kill or a power cut the file holds whole blocks only, and none that was announced is
missing. Trie nodes are addressed by their hash and never change, so old states stay readable for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth.abc import BlockHeaderAPI
from eth.db.backends.base import BaseDB
from eth.vm.forks.prague.blocks import PragueBlockHeader
from lru import LRU

from cupel.chain.node.pool import Waiting
from cupel.protocol.errors import UsageError

SCHEMA_VERSION = 1
_CACHED_NODES = 65_536
"""Trie nodes kept in memory; a node is a few hundred bytes."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (hash BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, header BLOB NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE transactions (
    hash BLOB PRIMARY KEY, block INTEGER NOT NULL, position INTEGER NOT NULL, sender BLOB NOT NULL, raw BLOB NOT NULL,
    status INTEGER NOT NULL, gas_used INTEGER NOT NULL, cumulative_gas_used INTEGER NOT NULL,
    effective_gas_price TEXT NOT NULL, created BLOB, first_log INTEGER NOT NULL, bloom BLOB NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX transactions_by_block ON transactions (block, position);
CREATE TABLE logs (
    block INTEGER NOT NULL, position INTEGER NOT NULL,
    transaction_hash BLOB NOT NULL, transaction_position INTEGER NOT NULL,
    address BLOB NOT NULL, topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
    PRIMARY KEY (block, position)
) WITHOUT ROWID;
CREATE INDEX logs_by_address ON logs (address, block);
CREATE TABLE pool (hash BLOB PRIMARY KEY, sequence INTEGER NOT NULL, raw BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLog:
    """One event of one transaction."""

    block_number: int
    position: int
    """Index in the block, from 0."""
    transaction_hash: bytes
    transaction_position: int
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTransaction:
    """A transaction with what became of it."""

    hash: bytes
    block_number: int
    position: int
    """Index in the block, from 0."""
    sender: bytes
    raw: bytes
    status: int
    """1 succeeded, 0 reverted."""
    gas_used: int
    cumulative_gas_used: int
    effective_gas_price: int
    """Wei per gas."""
    created: bytes | None
    """The address of the contract it created."""
    first_log: int
    bloom: bytes


def get_base_fee(header: BlockHeaderAPI) -> int:
    fee: int | None = header.base_fee_per_gas
    assert fee is not None, "a header from before EIP-1559"
    return fee


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlock:
    number: int
    hash: bytes
    header: BlockHeaderAPI
    size: int
    """Bytes of the RLP encoding."""

    @property
    def base_fee_wei(self) -> int:
        """Wei per gas that is burned."""
        return get_base_fee(self.header)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBlock:
    """Everything one commit writes."""

    block: StoredBlock
    transactions: Sequence[StoredTransaction]
    logs: Sequence[StoredLog]
    nodes: Mapping[bytes, bytes]
    """New trie nodes and contract code by their hash."""


class DirectoryLock:
    """One process per data directory, held by the operating system so that a killed process leaves no stale lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._handle, 32).decode(errors="replace").strip()
            os.close(self._handle)
            raise UsageError(
                f"another chain process{f' (pid {owner})' if owner else ''} is using {directory}: "
                "stop it, or give this one another directory with --data"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._handle)


class ChainStore:
    """The file `chain.sqlite3` in `directory`, created when missing.

    Raises   UsageError: another process holds the directory, or the file is not one of ours
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(directory)
        except OSError as error:
            raise UsageError(f"cannot use {directory} as the chain's data directory: {error}") from error
        self.path = directory / "chain.sqlite3"
        self._cache: LRU[bytes, bytes] = LRU(_CACHED_NODES)
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._prepare_schema()
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise UsageError(f"{self.path} is not a chain this program can read: {error}") from error
        except UsageError:
            self._lock.release()
            raise

    def _prepare_schema(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == SCHEMA_VERSION:
            return
        if version != 0 or self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UsageError(
                f"{self.path} has layout {version}, this program reads layout {SCHEMA_VERSION}: "
                "use the version that wrote it, or another directory"
            )
        self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def get_size(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.name}*"))

    def close(self) -> None:
        self._connection.close()
        self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # Settings fixed at genesis

    def get_meta(self, key: str) -> Any:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    # State

    def get_node(self, key: bytes) -> bytes:
        """The trie node or code with hash `key`. Raises KeyError."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        row = self._connection.execute("SELECT value FROM nodes WHERE hash = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        value: bytes = row[0]
        self._cache[key] = value
        return value

    # Blocks

    def commit(self, new: NewBlock, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write a block and all that belongs to it, or nothing; its transactions leave the pool."""
        with self._transaction():
            self._insert(new)
            self._insert_meta(meta or {})
        self._remember(new)

    def extend(self, news: Sequence[NewBlock]) -> None:
        """Write blocks without transactions, all of them or none."""
        with self._transaction():
            for new in news:
                self._insert(new)
        for new in news:
            self._remember(new)

    def replace(self, news: Sequence[NewBlock], *, pool: Sequence[Waiting], meta: Mapping[str, Any]) -> None:
        """Put `news` in place of all blocks from the first one's height on, and `pool` in place of what waits: all of
        it or nothing. Trie nodes stay; others may share them."""
        with self._transaction():
            for table, column in (("blocks", "number"), ("transactions", "block"), ("logs", "block")):
                self._connection.execute(f"DELETE FROM {table} WHERE {column} >= ?", (news[0].block.number,))
            self._connection.execute("DELETE FROM pool")
            for new in news:
                self._insert(new)
            self._connection.executemany(
                "INSERT INTO pool VALUES (?, ?, ?)", [(one.hash, one.sequence, one.raw) for one in pool]
            )
            self._insert_meta(meta)
        for new in news:
            self._remember(new)

    def _insert_meta(self, meta: Mapping[str, Any]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in meta.items()]
        )

    def _remember(self, new: NewBlock) -> None:
        for key, value in new.nodes.items():
            self._cache[key] = value

    def _insert(self, new: NewBlock) -> None:
        execute, executemany = self._connection.execute, self._connection.executemany
        executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?)", new.nodes.items())
        block = new.block
        execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (block.number, block.hash, rlp.encode(block.header), block.size),
        )
        executemany(
            "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    entry.hash,
                    entry.block_number,
                    entry.position,
                    entry.sender,
                    entry.raw,
                    entry.status,
                    entry.gas_used,
                    entry.cumulative_gas_used,
                    str(entry.effective_gas_price),  # may exceed SQLite's 64 bits
                    entry.created,
                    entry.first_log,
                    entry.bloom,
                )
                for entry in new.transactions
            ],
        )
        executemany(
            "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    log.block_number,
                    log.position,
                    log.transaction_hash,
                    log.transaction_position,
                    log.address,
                    *(log.topics + (None,) * (4 - len(log.topics))),
                    log.data,
                )
                for log in new.logs
            ],
        )
        executemany("DELETE FROM pool WHERE hash = ?", [(entry.hash,) for entry in new.transactions])

    def get_head(self) -> StoredBlock | None:
        return self._block("ORDER BY number DESC LIMIT 1", ())

    def get_block(self, number: int) -> StoredBlock | None:
        return self._block("WHERE number = ?", (number,)) if number < 2**63 else None

    def get_block_by_hash(self, block_hash: bytes) -> StoredBlock | None:
        return self._block("WHERE hash = ?", (block_hash,))

    def _block(self, condition: str, values: tuple[Any, ...]) -> StoredBlock | None:
        row = self._connection.execute(f"SELECT number, hash, header, size FROM blocks {condition}", values).fetchone()
        if row is None:
            return None
        header = rlp.decode(row[2], sedes=PragueBlockHeader)
        return StoredBlock(number=row[0], hash=row[1], header=header, size=row[3])

    def get_recent_hashes(self, head: int, count: int) -> list[bytes]:
        """Hashes of blocks head, head - 1, ..., at most `count`."""
        rows = self._connection.execute(
            "SELECT hash FROM blocks WHERE number <= ? ORDER BY number DESC LIMIT ?", (head, count)
        )
        return [row[0] for row in rows]

    def get_transaction(self, transaction_hash: bytes) -> StoredTransaction | None:
        return next(self._transactions("WHERE hash = ?", (transaction_hash,)), None)

    def get_transactions(self, block_number: int) -> list[StoredTransaction]:
        return list(self._transactions("WHERE block = ? ORDER BY position", (block_number,)))

    def _transactions(self, condition: str, values: tuple[Any, ...]) -> Iterator[StoredTransaction]:
        for row in self._connection.execute(f"SELECT * FROM transactions {condition}", values):
            yield StoredTransaction(
                hash=row[0],
                block_number=row[1],
                position=row[2],
                sender=row[3],
                raw=row[4],
                status=row[5],
                gas_used=row[6],
                cumulative_gas_used=row[7],
                effective_gas_price=int(row[8]),
                created=row[9],
                first_log=row[10],
                bloom=row[11],
            )

    def count_transactions(self) -> int:
        count: int = self._connection.execute("SELECT count(*) FROM transactions").fetchone()[0]
        return count

    def get_logs(
        self,
        *,
        first_block: int,
        last_block: int,
        addresses: Sequence[bytes] = (),
        topics: Sequence[Sequence[bytes]] = (),
        limit: int,
    ) -> list[StoredLog]:
        """Events of blocks first...last in order; empty `addresses`, or an empty entry of `topics`, means any.

        A log needs a topic in each position of `topics`, empty entries included, as in eth_getLogs.
        """
        conditions, values = ["block BETWEEN ? AND ?"], [first_block, min(last_block, 2**63 - 1)]
        parameters: list[Any] = list(values)
        if addresses:
            conditions.append(f"address IN ({', '.join('?' * len(addresses))})")
            parameters += addresses
        for position, accepted in enumerate(topics):
            if accepted:
                conditions.append(f"topic{position} IN ({', '.join('?' * len(accepted))})")
                parameters += accepted
            else:
                conditions.append(f"topic{position} IS NOT NULL")
        query = f"SELECT * FROM logs WHERE {' AND '.join(conditions)} ORDER BY block, position LIMIT ?"
        return [self._log(row) for row in self._connection.execute(query, [*parameters, limit])]

    def get_transaction_logs(self, entry: StoredTransaction) -> list[StoredLog]:
        rows = self._connection.execute(
            "SELECT * FROM logs WHERE block = ? AND position >= ? AND transaction_position = ? ORDER BY position",
            (entry.block_number, entry.first_log, entry.position),
        )
        return [self._log(row) for row in rows]

    @staticmethod
    def _log(row: Sequence[Any]) -> StoredLog:
        return StoredLog(
            block_number=row[0],
            position=row[1],
            transaction_hash=row[2],
            transaction_position=row[3],
            address=row[4],
            topics=tuple(topic for topic in row[5:9] if topic is not None),
            data=row[9],
        )

    # Transactions that wait

    def get_pool(self) -> list[bytes]:
        """Raw transactions that waited when the process ended, oldest first."""
        return [row[0] for row in self._connection.execute("SELECT raw FROM pool ORDER BY sequence")]

    def save_waiting(self, waiting: Waiting, replaced: Waiting | None) -> None:
        """Keep one instead of the one it replaces: at no moment neither."""
        with self._transaction():
            if replaced is not None:
                self._connection.execute("DELETE FROM pool WHERE hash = ?", (replaced.hash,))
            row = waiting.hash, waiting.sequence, waiting.raw
            self._connection.execute("INSERT OR REPLACE INTO pool VALUES (?, ?, ?)", row)

    def forget_waiting(self, transaction_hashes: Iterable[bytes]) -> None:
        with self._transaction():
            self._connection.executemany("DELETE FROM pool WHERE hash = ?", [(key,) for key in transaction_hashes])


class Overlay(BaseDB):
    """A view of the stored state whose writes stay in memory until a block takes them (`written`)."""

    def __init__(self, get_node: Callable[[bytes], bytes]) -> None:
        self._get_node = get_node
        self.written: dict[bytes, bytes] = {}

    def __getitem__(self, key: bytes) -> bytes:
        value = self.written.get(key)
        return self._get_node(key) if value is None else value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.written[key] = value

    def __delitem__(self, key: bytes) -> None:
        # Only nodes of this very block may go: what is stored belongs to earlier states.
        self.written.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True
