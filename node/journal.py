"""What a node has said, and what it is working on, on disk before anything of it is signed.

A statement is one answer to one question: what a miner commits to for a unit, what a verifier seals about one, which
merge a member proposes or acknowledges in a round. A second, different answer to the same question is refused for
ever; the same one may be signed again as often as needed. That is what EIP-3076 asks of validators, and for the same
reason: a process that was killed, restored from a backup or started twice must not contradict itself.

A question is named by the duty, the unit (or round) and what the answer follows from: the round's seed and start state
for a commitment, the draw and the commitment for a seal, the draw and the merge set for a merge. A re-org may change
these: then it is another question, and the old answer is of no use on the new fork, because transactions name the seed
as well (docs/design/round.md).

SQLite in write-ahead mode with `synchronous=FULL`: when a call returns, what it wrote survives `kill -9` and power
cuts.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cupel.chain.storage import explain_storage
from cupel.protocol.errors import ProtocolError, StorageFailed, UsageError
from cupel.protocol.types import Address

FILE_NAME = "journal.sqlite3"
SCHEMA = 1
EXPORT_FORMAT = "cupel journal"
MAX_IMPORT_BYTES = 256 << 20
MAX_CONTENT_BYTES = 1 << 16
_BUSY_S = 10.0
_TABLES = """
create table if not exists identity (name text primary key, value text not null);
create table if not exists statements (
    duty text not null, subject blob not null, question blob not null, content blob not null, time_s real not null,
    primary key (duty, subject, question)
) without rowid;
create table if not exists documents (
    kind text not null, name blob not null, round integer not null, body text not null,
    primary key (kind, name)
) without rowid;
"""


class Duty(StrEnum):
    """What a node answers, once for each question."""

    COMMIT = "commit"
    """A miner, for a unit: root, contribution root and CID."""
    SEAL = "seal"
    """A verifier, for a unit: the seal over its answers."""
    PROPOSE = "propose"
    """A member, for a round: root and CID of the merge."""
    ACKNOWLEDGE = "acknowledge"
    """A juror, for a round: root and CID of the merge it holds."""


class Contradiction(ProtocolError):
    """This node has answered the question before, and differently. Nothing is signed."""

    def __init__(self, statement: Statement, content: bytes) -> None:
        super().__init__(
            f"refusing to {statement.duty} 0x{statement.subject.hex()[:16]}… a second time with another answer: "
            f"journalled 0x{statement.content.hex()[:24]}…, now 0x{content.hex()[:24]}…"
        )
        self.statement, self.content = statement, content


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One answer, as it was given."""

    duty: Duty
    subject: bytes
    """Unit id, or the round as 8 bytes, big-endian."""
    question: bytes
    """32 bytes: `question_of` everything the answer follows from."""
    content: bytes
    """The answer itself."""
    time_s: float
    """Unix time of its first writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose journal it is: one key in one run."""

    chain_id: int
    contract: Address
    address: Address

    def __str__(self) -> str:
        return f"{self.address} in run {self.contract} on chain {self.chain_id}"


_DAMAGED = (
    "put back an exported copy with `cupel journal import`, or move the file away and start when no round of this node "
    "is under way"
)


class Journal:
    """The journal of one data folder. One process has it open (node/ownership.py); threads may share it.

    Raises   UsageError: it is another key's or run's, of a later version, or damaged
             StorageFailed: the disk is full or failing
    """

    def __init__(self, folder: Path, identity: Identity, *, read_only: bool = False) -> None:
        self.path = folder / FILE_NAME
        self.identity = identity
        self._lock = threading.Lock()
        with self._storage():
            if read_only:
                self._database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        try:
            with self._storage():
                self._open(read_only)
        except BaseException:
            self._database.close()
            raise

    def _open(self, read_only: bool) -> None:
        if not read_only:
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            # The default lets the log grow to 4 MB, most of it long since in the file.
            self._database.execute("pragma wal_autocheckpoint = 64")
        version = self._database.execute("pragma user_version").fetchone()[0]
        if version > SCHEMA:
            raise UsageError(f"{self.path} was written by a later version of Cupel; use that version, or its export")
        if not read_only:
            with self._database:
                self._database.executescript(_TABLES)
                self._database.execute(f"pragma user_version = {SCHEMA}")
        found = self._database.execute("pragma quick_check(1)").fetchone()[0]
        if found != "ok":
            raise UsageError(self._damage(found.splitlines()[-1]))
        known = dict(self._database.execute("select name, value from identity"))
        mine = {
            "chain_id": str(self.identity.chain_id),
            "contract": self.identity.contract,
            "address": self.identity.address,
        }
        if known and {name: known.get(name) for name in mine} != mine and not read_only and self._is_empty():
            # Somebody began with a wrong run file or key, and nothing was said: no reason to be tied to it.
            with self._database:
                self._database.execute("delete from identity")
            known = {}
        if known and {name: known.get(name) for name in mine} != mine:
            raise UsageError(
                f"{self.path} is the journal of {known.get('address')} in run {known.get('contract')} on chain "
                f"{known.get('chain_id')}, not of {self.identity}: give every key and run a --data folder of its own"
            )
        if not known and not read_only:
            with self._database:
                fresh = mine | {"id": str(uuid.uuid4())}
                self._database.executemany("insert into identity values (?, ?)", fresh.items())
            known = fresh
        self.id = known.get("id", "")
        """Tells this journal from a fresh one of the same key."""

    def _is_empty(self) -> bool:
        return not any(
            self._database.execute(f"select 1 from {table} limit 1").fetchone() for table in ("statements", "documents")
        )

    def _damage(self, what: str) -> str:
        return f"{self.path} is damaged ({what}): {_DAMAGED}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.DatabaseError as trouble:
            explained = explain_storage(self.path, trouble, undone="nothing was signed", damaged=_DAMAGED)
            raise explained or UsageError(self._damage(str(trouble))) from trouble
        except OSError as trouble:
            raise StorageFailed(f"{self.path}: {trouble.strerror or trouble}; nothing was signed") from trouble

    # Statements

    def state(self, duty: Duty, subject: bytes, question: bytes, content: bytes) -> bool:
        """Put an answer on disk, before it is signed; False if this very answer stands there already.

        Raises Contradiction, StorageFailed
        """
        return self.state_all(duty, [(subject, question, content)]) == 1

    def state_all(self, duty: Duty, answers: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        """`state` for several answers (subject, question, content), all or none; how many are new."""
        with self._lock, self._storage(), self._database:
            new = 0
            for subject, question, content in answers:
                assert len(content) <= MAX_CONTENT_BYTES, "an answer is small: roots, a CID, a seal"
                found = self._find(duty, subject, question)
                if found is None:
                    row = (str(duty), subject, question, content, time.time())
                    self._database.execute("insert into statements values (?, ?, ?, ?, ?)", row)
                    new += 1
                elif found.content != content:
                    raise Contradiction(found, content)
            return new

    def find(self, duty: Duty, subject: bytes, question: bytes) -> Statement | None:
        """What was answered to this question, if anything."""
        with self._lock, self._storage():
            return self._find(duty, subject, question)

    def _find(self, duty: Duty, subject: bytes, question: bytes) -> Statement | None:
        query = "select content, time_s from statements where duty = ? and subject = ? and question = ?"
        row = self._database.execute(query, (str(duty), subject, question)).fetchone()
        if row is None:
            return None
        return Statement(duty=duty, subject=subject, question=question, content=bytes(row[0]), time_s=row[1])

    def statements(self) -> list[Statement]:
        """Everything ever said, oldest first."""
        with self._lock, self._storage():
            rows = self._database.execute(
                "select duty, subject, question, content, time_s from statements order by time_s, duty, subject"
            ).fetchall()
        return [
            Statement(
                duty=Duty(duty), subject=bytes(subject), question=bytes(question), content=bytes(content), time_s=time_s
            )
            for duty, subject, question, content, time_s in rows
        ]

    def count(self) -> int:
        with self._lock, self._storage():
            return int(self._database.execute("select count(*) from statements").fetchone()[0])

    # Documents: work under way

    def put(self, kind: str, name: bytes, round_: int, body: Mapping[str, Any]) -> None:
        """Write or replace a document."""
        with self._lock, self._storage(), self._database:
            row = (kind, name, round_, json.dumps(body))
            self._database.execute("insert or replace into documents values (?, ?, ?, ?)", row)

    def get(self, kind: str, name: bytes) -> dict[str, Any] | None:
        with self._lock, self._storage():
            query = "select body from documents where kind = ? and name = ?"
            row = self._database.execute(query, (kind, name)).fetchone()
        return None if row is None else json.loads(row[0])

    def names(self, kind: str, *, last_round: int) -> list[bytes]:
        """Documents of that kind up to a round, oldest round first."""
        with self._lock, self._storage():
            query = "select name from documents where kind = ? and round <= ? order by round, name"
            return [bytes(row[0]) for row in self._database.execute(query, (kind, last_round))]

    def drop(self, kind: str, name: bytes) -> None:
        with self._lock, self._storage(), self._database:
            self._database.execute("delete from documents where kind = ? and name = ?", (kind, name))

    # Moving to another machine

    def export(self) -> dict[str, Any]:
        """All statements as JSON knows them; work under way is not among them, it can be computed again."""
        return {
            "format": EXPORT_FORMAT,
            "version": SCHEMA,
            "journal": self.id,
            "chain_id": self.identity.chain_id,
            "contract": self.identity.contract,
            "address": self.identity.address,
            "statements": [
                {
                    "duty": str(one.duty),
                    "subject": f"0x{one.subject.hex()}",
                    "question": f"0x{one.question.hex()}",
                    "content": f"0x{one.content.hex()}",
                    "time_s": one.time_s,
                }
                for one in self.statements()
            ],
        }

    def import_(self, exported: object) -> int:
        """Add another journal's statements, all or none; how many were new. Both journals then forbid the same.

        Raises   UsageError: not an export, or another key's or run's
                 Contradiction: it says something else than this journal does
        """
        statements, journal = _read_export(exported, self.identity)
        with self._lock, self._storage(), self._database:
            new = 0
            for one in statements:
                found = self._find(one.duty, one.subject, one.question)
                if found is not None and found.content != one.content:
                    raise Contradiction(found, one.content)
                if found is None:
                    row = (str(one.duty), one.subject, one.question, one.content, one.time_s)
                    self._database.execute("insert into statements values (?, ?, ?, ?, ?)", row)
                    new += 1
            self._database.execute(
                "insert or replace into identity values (?, ?)", (f"continues {journal}", str(time.time()))
            )
        return new

    def continues(self, journal: str) -> bool:
        """Whether that journal's statements were imported here."""
        with self._lock, self._storage():
            query = "select 1 from identity where name = ?"
            return self._database.execute(query, (f"continues {journal}",)).fetchone() is not None


def question_of(*parts: bytes) -> bytes:
    """What an answer follows from, as 32 bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def round_subject(round_: int) -> bytes:
    """How a round stands for itself in a statement."""
    return round_.to_bytes(8, "big")


def read_identity(folder: Path) -> Identity:
    """Whose journal lies in a folder. Raises UsageError if there is none."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise UsageError(f"there is no journal in {folder}: --data names a miner's or verifier's folder")
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        try:
            known = dict(database.execute("select name, value from identity"))
        finally:
            database.close()
        return Identity(
            chain_id=int(known["chain_id"]), contract=Address(known["contract"]), address=Address(known["address"])
        )
    except (sqlite3.Error, KeyError, ValueError) as trouble:
        raise UsageError(f"{path} is not a journal, or damaged ({trouble})") from None


def read_export(path: Path) -> dict[str, Any]:
    """An exported journal. Raises UsageError."""
    try:
        if path.stat().st_size > MAX_IMPORT_BYTES:
            raise UsageError(f"{path} is too large for an exported journal")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not an exported journal: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not an exported journal: a JSON object should stand there")
    return content


def exported_identity(exported: Mapping[str, Any]) -> Identity:
    """Whose journal was exported. Raises UsageError."""
    try:
        return Identity(
            chain_id=int(exported["chain_id"]),
            contract=Address(str(exported["contract"])),
            address=Address(str(exported["address"])),
        )
    except (KeyError, TypeError, ValueError) as wrong:
        raise UsageError(f"not an exported journal: it does not say whose it is ({wrong!r})") from None


def _read_export(exported: object, identity: Identity) -> tuple[list[Statement], str]:
    if not isinstance(exported, dict) or exported.get("format") != EXPORT_FORMAT:
        raise UsageError(f"not an exported journal: its format should be {EXPORT_FORMAT!r}")
    if exported.get("version") != SCHEMA:
        raise UsageError(f"an exported journal of version {exported.get('version')!r:.20}; this Cupel reads {SCHEMA}")
    if (whose := exported_identity(exported)) != identity:
        raise UsageError(f"it is the journal of {whose}, not of {identity}")
    try:
        return [_read_statement(one) for one in exported["statements"]], str(exported["journal"])
    except (KeyError, TypeError, ValueError, OverflowError) as wrong:
        raise UsageError(f"not an exported journal: a statement is malformed ({wrong!r:.200})") from None


def _read_statement(one: Mapping[str, Any]) -> Statement:
    duty, time_s = Duty(one["duty"]), float(one["time_s"])
    if not (math.isfinite(time_s) and time_s >= 0):
        raise ValueError(f"time_s is {time_s}, which is no time")
    subject_bytes = 32 if duty in (Duty.COMMIT, Duty.SEAL) else 8
    return Statement(
        duty=duty,
        subject=_bytes(one, "subject", subject_bytes, subject_bytes),
        question=_bytes(one, "question", 32, 32),
        content=_bytes(one, "content", 0, MAX_CONTENT_BYTES),
        time_s=time_s,
    )


def _bytes(one: Mapping[str, Any], name: str, least: int, most: int) -> bytes:
    text = one[name]
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"{name} is not 0x and hexadecimal digits")
    value = bytes.fromhex(text[2:])
    if not least <= len(value) <= most:
        raise ValueError(f"{name} is of {len(value):,} bytes; {most:,} " + ("at most" if least < most else "expected"))
    return value
