"""How an operator ends a node: asked once it finishes its duties, asked twice it ends with the step under way."""

from __future__ import annotations

import threading
from enum import StrEnum


class OnStop(StrEnum):
    """What the first request to stop means."""

    FINISH = "finish"
    """Carry out what this round already asks of the node, begin nothing new, then end. The seat is kept."""
    LEAVE = "leave"
    """Give up the seat, serve the round out, then end: nothing is asked of the node afterwards."""
    QUIT = "quit"
    """End after the step under way. A restart goes on where it was."""


class StopRequest:
    """Set by signals, looked at by the node's thread."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        """The operator wants the node to end in an orderly way."""
        self.quit = threading.Event()
        """The operator wants it to end now."""

    def ask(self) -> None:
        """The first time to finish, the second time to quit."""
        (self.quit if self.finish.is_set() else self.finish).set()

    def wait(self, seconds: float) -> bool:
        """Pause, shortened by a wish to quit; True if there is one."""
        return self.quit.wait(seconds)
