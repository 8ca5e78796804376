"""Names of kept files on disk, twice: a damaged `pins.json` would otherwise let everything go.

DIR/pins.json        {"pins": {name: cid}, "sha256": hash of the former}
DIR/pins.json.copy   the same, written after it
DIR/pins.json.lost   there while names were lost and not yet given again
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from cupel.network.ipfs.cid import parse_cid
from cupel.network.ipfs.disk import atomic_file, sync_directory_names
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Cid

log = logging.getLogger(__name__)


class PinFile:
    """The two files of one store."""

    def __init__(self, directory: Path, temporary: Path) -> None:
        self.path, self._temporary = directory / "pins.json", temporary
        self._copy = directory / "pins.json.copy"
        self._lost = directory / "pins.json.lost"

    @property
    def is_lost(self) -> bool:
        """Whether names were lost, so that what no name keeps may still be needed."""
        return self._lost.exists()

    def read(self) -> dict[str, Cid]:
        """What either file says. Raises MalformedInput if none can be read."""
        damage: MalformedInput | None = None
        for path in (self.path, self._copy):
            try:
                found = _read(path)
            except MalformedInput as error:
                damage = damage or error
            else:
                if found is not None:
                    return found
        if damage is not None:
            raise damage
        return {}

    def repair(self) -> dict[str, Cid]:
        """`read` for the writer: damaged files are set aside; where both are, no name is left. Raises OSError."""
        try:
            pins, is_lost = self.read(), False
        except MalformedInput as error:
            log.error("%s; nothing is let go of until its owner has named again what to keep", error)
            pins, is_lost = {}, True
            self._lost.touch()
            sync_directory_names(self._lost.parent)
        damaged = [path for path in (self.path, self._copy) if _is_damaged(path)]
        for path in damaged:
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            if not is_lost:
                log.warning("%s was damaged: set aside as %s and written anew", path, aside.name)
        if damaged or (pins and not (self.path.exists() and self._copy.exists())):
            self.write(pins)
        return pins

    def write(self, pins: Mapping[str, Cid]) -> None:
        """Put them on disk, in both files. Raises OSError."""
        content = json.dumps({"pins": pins, "sha256": _hash(pins)}, sort_keys=True, indent=1).encode()
        for path in (self.path, self._copy):
            with atomic_file(path, beside=self._temporary) as file:
                file.write(content)

    def note_restored(self) -> None:
        self._lost.unlink(missing_ok=True)


def _hash(pins: Mapping[str, Cid]) -> str:
    return hashlib.sha256(json.dumps(pins, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Cid] | None:
    """None if there is no such file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise MalformedInput(f"{path} is damaged ({error})") from None
    if isinstance(content, dict) and content.keys() == {"pins", "sha256"} and isinstance(content["pins"], dict):
        pins = content["pins"]
        if _hash(pins) != content["sha256"]:
            raise MalformedInput(f"{path} is damaged: it is not what its hash says")
    else:
        pins = content  # as written before there was a hash
    if not isinstance(pins, dict) or not all(isinstance(cid, str) for cid in pins.values()):
        raise MalformedInput(f"{path} is damaged: not names and CIDs")
    return {name: parse_cid(cid).text for name, cid in pins.items()}


def _is_damaged(path: Path) -> bool:
    try:
        _read(path)
    except MalformedInput:
        return True
    return False
