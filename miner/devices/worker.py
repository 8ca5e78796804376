"""A worker process of a miner: holds its pieces of the state, and takes its part in every step.

It reads from its standard input and ends when that ends, so it never outlives the miner.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import torch

from cupel.miner.devices.distributed import meet_through_file
from cupel.miner.devices.messages import ALIVE, Message, read_message, write_message
from cupel.protocol.parallel import Communicator, ParallelStep
from cupel.protocol.program import Program


class _Worker:
    """Answers the miner, one message at a time."""

    def __init__(self, inbox: queue.SimpleQueue[Message], out: BinaryIO) -> None:
        self._inbox, self._out, self._speaking = inbox, out, threading.Lock()
        self._state: dict[str, torch.Tensor] = {}

    def run(self) -> None:
        opening = self._inbox.get()
        facts = opening.facts
        signs = threading.Thread(target=self._show_life, args=(facts["sign_s"],), name="cupel-signs", daemon=True)
        signs.start()
        torch.set_num_threads(facts["threads"])
        if facts["backend"] == "cuda" and torch.cuda.is_available():
            torch.cuda.set_device(facts["rank"] % torch.cuda.device_count())
        program = Program.from_bytes(opening.tensors["program"].numpy().tobytes())
        path = Path(facts["meeting"])
        with meet_through_file(path, rank=facts["rank"], size=facts["size"]) as communicator:
            step = ParallelStep(program, communicator, backend=facts["backend"], threads=facts["threads"])
            self._say("ready")
            while True:
                self._answer(self._inbox.get(), step, communicator)

    def _show_life(self, every_s: float) -> None:
        """Beside the computation: a thread of a stopped process does not run."""
        try:
            while True:
                self.say(Message(ALIVE))
                time.sleep(every_s)
        except OSError:
            return  # the miner is gone, which whoever reads notices

    def say(self, message: Message) -> None:
        with self._speaking:
            write_message(self._out, message)

    def _say(self, what: str, tensors: dict[str, torch.Tensor] | None = None) -> None:
        self.say(Message(what, {}, tensors or {}))

    def _answer(self, message: Message, step: ParallelStep, communicator: Communicator) -> None:
        if message.what == "state":
            self._state = dict(message.tensors)
        elif message.what == "step":
            self._state, metrics = step.run(self._state, message.tensors["tokens"])
            self._say("stepped", metrics if communicator.rank == 0 else None)
        elif message.what == "fetch":
            # What is whole on every worker is told once.
            told = self._state if communicator.rank == 0 else {n: self._state[n] for n in step.layout.state}
            self._say("state", dict(told))
        else:
            raise AssertionError(message.what)


def main() -> None:
    # What asks a whole group of processes to end is meant for the miner, which finishes what it is at.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Whatever a library prints must not come between the messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                inbox.put(read_message(sys.stdin.buffer))
        except (EOFError, OSError):
            # The miner is gone, or wants no more; a step under way is of no use to anybody.
            os._exit(0)
        except BaseException as failure:
            # Without this thread nobody would notice that the miner is gone.
            print(f"worker process: {type(failure).__name__}: {failure}", file=sys.stderr, flush=True)
            os._exit(1)

    threading.Thread(target=listen, name="cupel-miner", daemon=True).start()
    worker = _Worker(inbox, out)
    try:
        worker.run()
    except BaseException as failure:
        try:
            worker.say(Message("failed", {"reason": f"{type(failure).__name__}: {failure}"}))
        finally:
            # Neither the thread that listens nor the others' connections are waited for.
            os._exit(1)


if __name__ == "__main__":
    main()
