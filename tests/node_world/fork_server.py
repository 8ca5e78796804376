"""A process that has imported what nodes need, and forks one each time it is asked: a start in milliseconds.

Run as a script with the number of an inherited socket. Each request is one line of JSON:

    {"program": "miner", "arguments": [...], "environment": {...}, "output": path, "network": path or null}

and is answered by `{"pid": ...}` with a pidfd beside it. A program with a dot in its name is a module, looked for on
the environment's PYTHONPATH too. The child is a process like any other: it runs the command's own `main()` with that
command line, environment and output. When it ends, `{"pid": ..., "code": ...}` follows, the code as `subprocess`
counts it. When the socket closes, every child is killed and the server ends.

Nothing here starts a thread before a fork, and one thread is all that torch may use.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

from cupel.protocol.arithmetic import choose_backend

PRELOADED = ("cupel.cli", "cupel.miner.miner", "cupel.verifier.verifier")
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The loop; a child leaves it by `serve` returning what the child is to do."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._children: dict[int, int] = {}
        """pidfd by pid."""

    def serve(self) -> dict[str, Any] | None:
        """In a child, the request to carry out; None in the server, at the end."""
        pending = b""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._connection:
                    self._report(int(key.data))
                    continue
                received = self._connection.recv(1 << 16)
                if not received:
                    self._end()
                    return None
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    request: dict[str, Any] = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        return request
                    self._adopt(pid)

    def _adopt(self, pid: int) -> None:
        handle = os.pidfd_open(pid)
        self._children[pid] = handle
        self._selector.register(handle, selectors.EVENT_READ, pid)
        socket.send_fds(self._connection, [json.dumps({"pid": pid}).encode() + b"\n"], [handle])

    def _report(self, pid: int) -> None:
        handle = self._children.pop(pid)
        self._selector.unregister(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._connection.sendall(json.dumps({"pid": pid, "code": code}).encode() + b"\n")

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def close_in_child(self) -> None:
        self._selector.close()
        self._connection.close()
        for handle in self._children.values():
            os.close(handle)


def become(request: dict[str, Any]) -> None:
    """Take on what a new process would have been started with, and run the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    # No node outlives the server, which no test outlives.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if request["network"] is not None:
        with open(request["network"]) as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns", request["network"])
    os.environ.clear()
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    sys.argv = [request["program"], *request["arguments"]]
    # What Python reads when it starts.
    paths = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path += [path for path in paths if path and path not in sys.path]
    importlib.import_module(find_module(request["program"])).main()


def find_module(program: str) -> str:
    """The module whose `main()` is the program."""
    if "." in program:
        return program
    return "cupel.cli" if program == "cupel" else f"cupel.{program}.main"


def main() -> None:
    # Where this script lies is no place to import from.
    del sys.path[0]
    for module in PRELOADED:
        importlib.import_module(module)
    # The verdict on the engines is kept for the life of a process; a child has this one's memory.
    choose_backend("auto")
    tasks = os.listdir("/proc/self/task")
    if len(tasks) != 1:
        raise AssertionError(f"{len(tasks)} threads after importing: a fork would copy one of them")
    # What is imported stays shared between the children, instead of being copied when the collector marks it.
    gc.collect()
    gc.freeze()
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    server._connection.sendall(b'{"ready": true}\n')
    request = server.serve()
    if request is not None:
        server.close_in_child()
        become(request)


if __name__ == "__main__":
    main()
