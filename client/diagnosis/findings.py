"""What one look found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """A node would work, but not as well, or not for long."""
    WRONG = "wrong"
    """A node would not work."""
    SKIPPED = "skipped"
    """Not looked at; what was found says what is missing for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One point of the diagnosis."""

    check: str
    """Its name, stable: `disk.space`."""
    verdict: Verdict
    found: str
    """One line."""
    fix: str = ""
    """What to do, for a warning or what is wrong."""


def ok(check: str, found: str) -> Finding:
    return Finding(check=check, verdict=Verdict.OK, found=found)


def warning(check: str, found: str, fix: str) -> Finding:
    return Finding(check=check, verdict=Verdict.WARNING, found=found, fix=fix)


def wrong(check: str, found: str, fix: str) -> Finding:
    return Finding(check=check, verdict=Verdict.WRONG, found=found, fix=fix)


def skipped(check: str, found: str) -> Finding:
    return Finding(check=check, verdict=Verdict.SKIPPED, found=found)
