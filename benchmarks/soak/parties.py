"""The nodes of the soak: each a process with a cable, two proxies and sometimes a small disk, and what befalls it."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from network_world import NodeProcess

from soak.ledger import Ledger
from soak.partitions import Cable, SmallDisk
from soak.proxies import Proxy


class Health(StrEnum):
    """How a party is, as far as we made it so."""

    ABSENT = "absent"
    """A guest that is not there."""
    UP = "up"
    PAUSED = "paused"
    STOPPING = "stopping"
    """Asked to end, not there yet."""
    DOWN = "down"
    LEAVING = "leaving"


@dataclass(slots=True, kw_only=True, eq=False)
class Party:
    """One node and everything around it."""

    node: NodeProcess
    rpc: Proxy
    blocks: Proxy
    cable: Cable | None
    disk: SmallDisk | None = None
    veteran: bool = False
    """Never killed, so that its memory tells of a long life."""
    liar: bool = False
    guest: bool = False
    """Comes and goes."""
    health: Health = Health.ABSENT
    kill_at: str | None = None
    """The point it was told to die at."""
    up_since: float = 0.0
    log_from: int = 0
    """Where its log began when it was last started."""
    is_cut_off: bool = False
    is_full: bool = False
    joined_round: int = -1
    free_round: int = 0
    """A guest comes again in this round."""
    ended: list[str] = field(default_factory=list)
    """When it ended by itself: code, and its last words."""

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def role(self) -> str:
        return self.node.program

    @property
    def is_settled(self) -> bool:
        """Whether it is up and nothing befalls it now."""
        return self.health == Health.UP and not self.is_cut_off and not self.is_full

    def start(self, kill_at: str | None = None) -> None:
        self.kill_at, self.log_from = kill_at, len(self.node.text())
        self.node.start({"CUPEL_KILL_AT": kill_at} if kill_at else None)
        self.health, self.up_since = Health.UP, time.monotonic()

    def kill(self, ledger: Ledger) -> bool:
        """As `kill -9`; whether it lived and died of it."""
        process = self.node.process
        if process is None or process.poll() is not None:
            return False
        process.kill()
        code = process.wait(30)
        self.health = Health.DOWN
        if code == -9:
            ledger.hit("process killed", self.name)
        return code == -9

    def look(self, ledger: Ledger) -> None:
        """Notice that the process ended by itself."""
        process = self.node.process
        if process is None or self.health not in (Health.UP, Health.PAUSED, Health.STOPPING, Health.LEAVING):
            return
        code = process.poll()
        if code is None:
            return
        if self.kill_at is not None and code == -9:
            ledger.hit("process killed at a point", self.name, self.kill_at)
            self.health = Health.DOWN
        elif self.health == Health.STOPPING and (code == 0 or self._was_over(code)):
            ledger.hit("process stopped", self.name)
            self.health = Health.DOWN
        elif self.health == Health.LEAVING and code == 0:
            # Asked while it was still starting, a node may have ended without having done what the round asks.
            has_finished = "nothing is left to do" in self.node.text()[self.log_from :]
            self.health = Health.ABSENT if has_finished else Health.DOWN
        else:
            words = [line for line in self.node.text().splitlines() if line.strip()][-3:]
            self.ended.append(f"{self.name} ended with {code} while {self.health}: {' | '.join(words)[-300:]}")
            self.health = Health.DOWN

    def _was_over(self, code: int) -> bool:
        """Whether the second SIGTERM reached an interpreter that had done everything and was shutting down."""
        return code == -signal.SIGTERM and '"stopped"' in self.node.text()[self.log_from :]

    def block_files(self) -> list[Path]:
        return [path for path in (self.node.data / "store" / "blocks").glob("*/*") if path.is_file()]


def spoil_block(path: Path, rng: random.Random) -> bool:
    """Flip one bit of a file in place; whether it is otherwise now."""
    try:
        with path.open("r+b") as file:
            content = file.read()
            if not content:
                return False
            at = rng.randrange(len(content))
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << rng.randrange(8)]))
        return True
    except OSError:
        return False


def delete_block(path: Path) -> bool:
    try:
        path.unlink()
        return True
    except OSError:
        return False
