"""Which files are text, which of them are held out, and in what order: the same on every machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cupel.protocol.errors import UsageError

_HELD_OUT_DOMAIN = b"cupel held out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text file."""

    path: Path
    digest: bytes
    """SHA-256 of its bytes."""
    size_bytes: int

    def read(self) -> str:
        """Its text. Raises UsageError if the file is no longer what it was when the corpus was made."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).digest() != self.digest:
            raise UsageError(f"{self.path}: changed while the data was being built; start again")
        return data.decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Text files in their order, and how many were left out for what reason."""

    documents: tuple[Document, ...]
    duplicate_files: int
    undecodable_files: int
    empty_files: int

    @property
    def size_bytes(self) -> int:
        return sum(document.size_bytes for document in self.documents)


def read_corpus(
    paths: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Every text file below `paths`.

    include   patterns; a file is taken if one matches its name or its path below the given one; none takes all
    exclude   the same for files left out, whatever `include` says
    progress  called with files seen and files in all
    Raises    UsageError: a path is not there, or nothing was found
    """
    files = list(_find(paths, include, exclude))
    documents: list[Document] = []
    seen: set[bytes] = set()
    duplicates = undecodable = empty = 0
    for index, path in enumerate(files):
        progress(index, len(files))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}; --exclude leaves it out") from error
        digest = hashlib.sha256(data).digest()
        if not data:
            empty += 1
        elif digest in seen:
            duplicates += 1
        elif not _is_text(data):
            undecodable += 1
        else:
            documents.append(Document(path=path, digest=digest, size_bytes=len(data)))
        seen.add(digest)
    progress(len(files), len(files))
    if not documents:
        given = " ".join(str(path) for path in paths)
        raise UsageError(f"no text in {given}: {len(files)} files looked at, {undecodable} of them not UTF-8")
    return Corpus(
        documents=tuple(documents), duplicate_files=duplicates, undecodable_files=undecodable, empty_files=empty
    )


def split_held_out(documents: Sequence[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    """(training, held out), whole files, both in the given order.

    Files are drawn by hash of their bytes until `fraction` of all bytes is held out; one that would hold out more than
    twice that is passed over. A file's place does not depend on its name, and hardly on which others there are.

    Raises  UsageError: no such split exists
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"held-out fraction {fraction}: from 0 up to, but not, 1")
    target = int(sum(document.size_bytes for document in documents) * fraction)
    held: set[bytes] = set()
    held_bytes = 0
    for document in sorted(documents, key=lambda one: hashlib.sha256(_HELD_OUT_DOMAIN + one.digest).digest()):
        if held_bytes < target and held_bytes + document.size_bytes <= 2 * target:
            held.add(document.digest)
            held_bytes += document.size_bytes
    if fraction > 0 and not held:
        raise UsageError(
            f"{len(documents)} files are too few or too uneven to hold out {fraction:.0%} as whole files; "
            "give more files, a larger --held-out, or --held-out 0"
        )
    training = [document for document in documents if document.digest not in held]
    return training, [document for document in documents if document.digest in held]


def _find(paths: Sequence[Path], include: Sequence[str], exclude: Sequence[str]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path  # named outright, so no pattern applies
        elif path.is_dir():
            for relative in sorted(_below(path), key=lambda one: one.as_posix().encode("utf-8", "surrogateescape")):
                if (not include or _matches(relative, include)) and not _matches(relative, exclude):
                    yield path / relative
        else:
            raise UsageError(f"{path}: no such file or directory")


def _below(directory: Path) -> Iterator[Path]:
    """Regular files below a directory, as relative paths; hidden ones and linked directories are not entered."""
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(directory)


def _matches(relative: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(relative.as_posix(), one) or fnmatchcase(relative.name, one) for one in patterns)


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
