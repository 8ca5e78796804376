"""What this node means to accuse, on disk from before anything of it is announced until it is settled."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cupel.node.journal import Journal
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Height

KIND = "accusation"
"""What these documents are called in the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accusation:
    """One segment of one unit, or one merge (segment 0), that this node knows to be wrong."""

    subject: bytes
    segment: int
    salt: bytes
    """Of the announcement. Without it what was announced cannot be said."""
    since: Height
    """When to begin, so that not everybody who found it puts down a bond at once."""
    until: Height
    """The last block in which the run takes an accusation, as far as is known."""
    reason: str
    """For people: what is wrong."""

    @property
    def key(self) -> tuple[bytes, int]:
        return self.subject, self.segment


class Accusations:
    """Those of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, subject: bytes, segment: int, *, since: Height, until: Height, reason: str) -> bool:
        """Mean to accuse; False if that was meant before, then only the last block is brought up to date."""
        known = self._load(_name(subject, segment))
        if known is None:
            salt = secrets.token_bytes(32)
            self._save(Accusation(subject=subject, segment=segment, salt=salt, since=since, until=until, reason=reason))
        elif known.until != until:
            self._save(replace(known, until=until))
        return known is None

    def drop(self, one: Accusation) -> None:
        self._journal.drop(KIND, _name(*one.key))

    def __iter__(self) -> Iterator[Accusation]:
        """Raises MalformedInput for a document that `add` does not write."""
        for name in self._journal.names(KIND, last_round=0):
            found = self._load(name)
            if found is not None:
                yield found

    def _save(self, one: Accusation) -> None:
        body = {"salt": one.salt.hex(), "since": one.since, "until": one.until, "reason": one.reason}
        self._journal.put(KIND, _name(*one.key), 0, body)

    def _load(self, name: bytes) -> Accusation | None:
        table = self._journal.get(KIND, name)
        if table is None:
            return None
        try:
            return Accusation(
                subject=name[:-1],
                segment=name[-1],
                salt=bytes.fromhex(table["salt"]),
                since=Height(int(table["since"])),
                until=Height(int(table["until"])),
                reason=str(table["reason"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as wrong:
            raise MalformedInput(f"{self._journal.path}: accusation 0x{name.hex()} is damaged ({wrong!r})") from wrong


def _name(subject: bytes, segment: int) -> bytes:
    return subject + bytes([segment])
