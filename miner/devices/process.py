"""One worker process, seen from the miner: told and heard by threads, so that no pipe ever holds the miner up."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from cupel.miner.devices.distributed import keep_to_this_machine
from cupel.miner.devices.messages import ALIVE, Message, read_message, write_message

ENDING_S = 5.0
"""How long a process has to end by itself."""


class WorkerProcess:
    """Answers go to the inbox, with the worker's rank; None once there will be no more."""

    def __init__(self, rank: int, inbox: queue.SimpleQueue[tuple[int, Message | None]]) -> None:
        self.rank = rank
        environment = dict(os.environ)
        keep_to_this_machine(environment)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cupel.miner.devices.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # Popen's types say less than what its pipes are: buffered binary files.
        into: BinaryIO = self.process.stdin  # type: ignore[assignment]  # as above
        out: BinaryIO = self.process.stdout  # type: ignore[assignment]  # as above
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._heard = False
        self._has_started = False

        def listen() -> None:
            try:
                while True:
                    message = read_message(out)
                    self._heard = self._has_started = True
                    if message.what != ALIVE:
                        inbox.put((rank, message))
            except (EOFError, OSError, ValueError):
                return
            finally:
                # Whatever ended it: nobody must wait for this worker any more.
                inbox.put((rank, None))

        def write() -> None:
            try:
                # If it is gone, its listener notices, and whoever waits for the answer hears of it.
                with suppress(OSError):
                    while (message := self._outbox.get()) is not None:
                        write_message(into, message)
            finally:
                with suppress(OSError):  # what was buffered for it
                    into.close()

        names = f"cupel-worker-{rank}-out", f"cupel-worker-{rank}-in"
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in zip((listen, write), names, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, message: Message) -> None:
        """At once, whether the worker reads or not."""
        self._outbox.put(message)

    def has_spoken(self) -> bool:
        """Whether it gave a sign of life since this was last asked; one that is still starting need not."""
        heard, self._heard = self._heard, False
        return heard or not self._has_started

    def end(self) -> None:
        """Ask it to."""
        self._outbox.put(None)

    def wait(self) -> None:
        """Until it has ended; after a while, end it."""
        try:
            self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self._threads:
            thread.join(ENDING_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
