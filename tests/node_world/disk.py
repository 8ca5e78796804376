"""Which files and directories were synced: what a power cut would leave, without cutting the power."""

from __future__ import annotations

import os

import pytest


def note_synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers (inodes) of what is synced from now on; it is synced nevertheless."""
    synced: set[int] = set()
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    return synced
