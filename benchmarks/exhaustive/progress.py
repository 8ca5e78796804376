"""What was checked so far, on disk: one file a subject, replaced whole after every shard, so that any end will do.

A file belongs to the code it was made with; when that changes, it starts anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import gmpy2
import llvmlite
import numpy as np
import torch
from machine import describe

from cupel.protocol import arithmetic
from exhaustive.checking import SHARDS, Outcome
from exhaustive.engines import Subject, llvm_code

_ORACLE = ("mpfr.py", "taylor.py", "oracle.py", "checking.py")
_DEFINITION = ("exact_functions.py", "binary32.py")


@functools.cache
def fingerprint(subject: Subject) -> str:
    """Names what a result depends on but the processor: oracle, libraries, and the code that computes the function.

    Of the cpu engine that is the LLVM code of this one operation, so that a result outlives changes to other kernels.
    """
    arithmetic_folder = Path(arithmetic.__file__).parent
    files = [Path(__file__).parent / name for name in _ORACLE] + [arithmetic_folder / name for name in _DEFINITION]
    if subject.backend != "cpu":
        files += [arithmetic_folder / "torch_backend.py", arithmetic_folder / "reference.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    if subject.backend == "cpu":
        digest.update(llvm_code(subject).encode())
    for module in (gmpy2, llvmlite, np, torch):
        digest.update(str(module.__version__).encode())
    return digest.hexdigest()[:16]


class Progress:
    """The shards of one subject that are done."""

    def __init__(self, folder: Path, subject: Subject) -> None:
        self.subject = subject
        self._path = folder / f"{subject.name}.json"
        self._content: dict[str, Any] = self._read() or {
            "fingerprint": fingerprint(subject),
            "subject": vars(subject),
            "machine": describe(),
            "shards": {},
        }

    def _read(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return content if content.get("fingerprint") == fingerprint(self.subject) else None

    @property
    def machine(self) -> str:
        return str(self._content["machine"])

    def missing(self, wanted: range) -> list[int]:
        return [shard for shard in wanted if str(shard) not in self._content["shards"]]

    def is_complete(self) -> bool:
        return not self.missing(range(SHARDS))

    def note(self, shard: int, outcome: Outcome) -> None:
        self._content["shards"][str(shard)] = outcome.as_json()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(self._content))
        os.replace(beside, self._path)

    def total(self) -> Outcome:
        total = Outcome()
        for shard in sorted(self._content["shards"], key=int):
            total.add(Outcome(**self._content["shards"][shard]))
        return total


def load_all(folder: Path) -> list[Progress]:
    """What is noted in `folder` and still holds for the present code, in order of name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except ValueError:
            continue
        subject = Subject(**content["subject"])
        if content.get("fingerprint") == fingerprint(subject):
            found.append(Progress(folder, subject))
    return found
