"""Nodes as real processes that start in milliseconds, forked from one that has imported everything (fork_server.py)."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Process(Protocol):
    """What `subprocess.Popen` and `ForkedProcess` have in common."""

    pid: int

    returncode: Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class ForkedProcess:
    """One child of the server, held by its pidfd, so that no signal can ever reach another process."""

    def __init__(self, server: ForkServer, pid: int, handle: int) -> None:
        self._server, self.pid, self._handle = server, pid, handle
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self._is_over(0):
            self.returncode = self._server.take_code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not self._is_over(timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = self._server.take_code(self.pid)
        return self.returncode

    def _is_over(self, timeout: float | None) -> bool:
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def send_signal(self, sig: int) -> None:
        """As `Popen`: nothing happens to a process that has ended."""
        if self.poll() is None:
            try:
                signal.pidfd_send_signal(self._handle, sig)
            except ProcessLookupError:
                return

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._handle)


class ForkServer:
    """Started once; any thread may ask it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        script = Path(__file__).with_name("fork_server.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
            # An interrupt from the keyboard is for the tests to answer, which end it then.
            start_new_session=True,
        )
        theirs.close()
        self._pending = b""
        self._handles: list[int] = []
        self._codes: dict[int, int] = {}
        self._read(time.monotonic() + 120, lambda message: "ready" in message)

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        output: Path,
        environment: Mapping[str, str] | None = None,
        network: str | None = None,
    ) -> ForkedProcess:
        """A new process of `miner`, `verifier` or `cupel`, or of a module named with its package.

        output   file that its stdout and stderr are appended to
        network  path of the network namespace it lives in; None: this process's own
        """
        request = {
            "program": program,
            "arguments": list(arguments),
            "environment": dict(os.environ) | ONE_THREAD | dict(environment or {}),
            "output": str(output),
            "network": network,
        }
        with self._lock:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer = self._read(time.monotonic() + 60, lambda message: "pid" in message and "code" not in message)
            return ForkedProcess(self, answer["pid"], self._handles.pop(0))

    def take_code(self, pid: int) -> int:
        """The exit code of a child that has ended, once: its number may be another's later."""
        with self._lock:
            if pid not in self._codes:
                self._read(time.monotonic() + 60, lambda message: message.get("pid") == pid and "code" in message)
            return self._codes.pop(pid)

    def _read(self, deadline: float, is_wanted: Any) -> dict[str, Any]:
        """Messages up to the first wanted one; those of ended children are noted on the way."""
        while True:
            line, separator, rest = self._pending.partition(b"\n")
            if separator:
                self._pending = rest
                message: dict[str, Any] = json.loads(line)
                if "code" in message:
                    self._codes[message["pid"]] = message["code"]
                if is_wanted(message):
                    return message
                continue
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            received, handles, _, _ = socket.recv_fds(self._socket, 1 << 16, 64)
            if not received:
                raise AssertionError(f"the fork server ended with {self._process.wait()}")
            self._handles += handles
            self._pending += received

    def close(self) -> None:
        """End it and all its children."""
        self._socket.close()
        self._process.wait(30)


@functools.cache
def get_fork_server() -> ForkServer | None:
    """The one of this test session, started when it is first needed; None where the system has no pidfd."""
    if not hasattr(os, "pidfd_open"):
        return None
    server = ForkServer()
    atexit.register(server.close)
    return server


def start_process(
    program: str,
    arguments: Sequence[str],
    *,
    output: Path,
    environment: Mapping[str, str] | None = None,
    network: str | None = None,
) -> Process:
    """A process of `miner` or `verifier`, or of a module with a `main`; see `ForkServer.start`."""
    server = get_fork_server()
    if server is not None:
        return server.start(program, arguments, output=output, environment=environment, network=network)
    if network is not None:
        raise AssertionError("network namespaces are Linux's alone")
    module = program if "." in program else f"cupel.{program}.main"
    code = f"import sys; sys.argv[0] = {program!r}; from {module} import main; main()"
    with output.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=sink,
            stderr=sink,
            env=os.environ | ONE_THREAD | dict(environment or {}),
        )
