"""Players of court_world's disputes, each in a process that a test kills wherever it likes.

Run as a script it imports and computes once, then forks a player for each line of JSON it reads, one after the other:

    {"side": "accused", "folder": path, "url": ..., "court": ..., "docket": ..., "block": 0, "kill_at": name or null}

and answers with the exit code: -9 where the player died at the point, 0 where its dispute was over.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from chain_process import KEYS
from court_world import SEED, UNIT, Unit, challenge_of, docket_abi, flipped_weights
from line_server import LineServer

from cupel.chain.abi import Call
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_events import DisputeRecord
from cupel.chain.keys import LocalSigner
from cupel.node.disputes.player import DisputePlayer
from cupel.node.journal import Identity, Journal
from cupel.node.log import Log
from cupel.node.points import Points
from cupel.protocol.disputes.game import Challenge, Defence
from cupel.protocol.types import Address, Height

SIDES = {"accused": KEYS[0], "challenger": KEYS[1], "other": KEYS[2]}
LIAR = Unit(flipped_weights())
"""One element of the step's last operation is another, and the state after says so too: the game goes to `judge`."""


class DocketSides:
    """What court_world's parties hold."""

    def __init__(self, chain: ChainClient, docket: Address, unit: Unit = LIAR) -> None:
        self._chain, self._docket, self._unit = chain, docket, unit

    def defend(self, record: DisputeRecord) -> Defence:
        return self._unit.defence(record.segment)

    def challenge(self, record: DisputeRecord) -> Challenge:
        return challenge_of(record.segment)

    def _claim(self, subject: bytes) -> Any:
        return self._chain.call(docket_abi().bind(self._docket, "claimOf", subject))[0]

    def is_contestable(self, subject: bytes) -> bool:
        return bool(self._claim(subject)[1])

    def get_accused(self, subject: bytes) -> Address:
        return Address(self._claim(subject)[2])

    def find_first_block(self) -> Height | None:
        return None

    def present(self, subject: bytes) -> Call | None:
        return None  # a docket knows what is posted on it


class Player:
    """One side's folder, opened: everything a process has of a dispute."""

    def __init__(
        self, name: str, folder: Path, *, url: str, court: str, docket: str, block: int, key: LocalSigner | None = None,
        make_sides: Callable[[ChainClient, Address], DocketSides] = DocketSides, points: Points | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        """key: None: the one that SIDES has under this name."""
        self._points = points or Points()
        key, folder = key or SIDES[name], folder / name
        folder.mkdir(parents=True, exist_ok=True)
        identity = Identity(chain_id=31337, contract=Address(docket), address=key.address)
        self._outbox = Outbox(folder / "outbox.sqlite3")
        self.journal = Journal(folder, identity)
        self.chain = ChainClient(
            url, key, poll_seconds=0.02, outbox=self._outbox, observe=self._points.observe, notify=lambda _: None
        )
        self.chain.recover()
        contract = CourtContract(self.chain, Address(court))
        self.sides = make_sides(self.chain, Address(docket))
        self.player = DisputePlayer(
            chain=self.chain, court=contract, run=Address(docket), sides=self.sides, journal=self.journal,
            log=Log(name, as_json=False), first_block=block, observe=self._points.reach, **settings,
        )  # fmt: skip

    def play_until(self, is_over: Callable[[DisputePlayer], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_over(self.player):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.player.counts} after {timeout_s:g} s")
            if not self.player.play():
                time.sleep(0.02)

    def close(self) -> None:
        self.chain.close()
        self._outbox.close()
        self.journal.close()


def has_ended(player: DisputePlayer) -> bool:
    return bool(player.disputes) and all(record.ending is not None for record in player.disputes.values())


def play(request: dict[str, Any]) -> None:
    side, kill_at = request.pop("side"), request.pop("kill_at")
    opened = Player(side, Path(request.pop("folder")), points=Points(kill_at), **request)
    if side == "challenger":
        opened.player.accuse(UNIT, 0, until=10**9, reason="another end state")
    opened.play_until(has_ended)
    if side == "challenger":
        opened.play_until(lambda player: not player.play())


class PlayerServer(LineServer):
    """Starts players in processes of their own, in milliseconds."""

    def __init__(self) -> None:
        super().__init__([sys.executable, __file__])

    def play(self, **request: Any) -> int:
        """Run one player until it ends; its exit code."""
        return int(self.ask(**request))


def main() -> None:
    # A child has none of the threads that its parent computed with, and would wait for them.
    torch.set_num_threads(1)
    # Computed here, it is there in every child.
    assert LIAR.root
    assert Unit().root
    assert SEED
    challenge_of(0).prover(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(120)
            request = json.loads(line)
            log = os.open(
                Path(request["folder"], f"{request['side']}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
            )
            os.dup2(log, 1)
            play(request)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
