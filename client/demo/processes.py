"""Starting, watching and stopping the demo's processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cupel.protocol.errors import CupelError

ENTRY_POINTS = {
    "cupel": "cupel.cli",
    "miner": "cupel.miner.main",
    "verifier": "cupel.verifier.main",
}
# One compute thread each: seven processes share the machine, and idle workers of a thread pool would spin on it.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "0",
}


class ProcessDied(CupelError):
    """A process of the demo ended by itself."""


class ManagedProcess:
    """One child process; its stderr goes to a log file that is also read for its latest stat line."""

    def __init__(
        self, name: str, program: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name, self.program, self.arguments, self.log = name, program, tuple(arguments), log
        self._read_bytes = log.stat().st_size if log.exists() else 0
        self._stat: dict[str, Any] = {}
        log.parent.mkdir(parents=True, exist_ok=True)
        # The interpreter that runs us starts them too, whether or not its scripts are on the PATH.
        code = f"import sys; sys.argv[0] = {program!r}; from {ENTRY_POINTS[program]} import main; main()"
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                [sys.executable, "-c", code, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=os.environ | ONE_THREAD | dict(environment),
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops the others in order
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def read_line(self, timeout_s: float) -> str:
        """First line on stdout: what a server prints once it answers. Raises ProcessDied."""
        deadline = time.monotonic() + timeout_s
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdout.fileno(), False)
        received = b""
        while b"\n" not in received:
            received += self._child.stdout.read() or b""
            self.check()
            if time.monotonic() > deadline:
                raise ProcessDied(f"{self.name} did not start within {timeout_s:g} s; see {self.log}")
            time.sleep(0.02)
        return received.split(b"\n")[0].decode()

    def is_running(self) -> bool:
        return self._child.poll() is None

    def check(self) -> None:
        """Raise ProcessDied with the end of its log if it is gone."""
        if not self.is_running():
            tail = self.log.read_text(errors="replace").splitlines()[-5:]
            raise ProcessDied(
                f"{self.name} ended with code {self._child.returncode}; {self.log} ends:\n" + "\n".join(tail)
            )

    def read_stat(self) -> Mapping[str, Any]:
        """Fields of the newest stat line in the log; empty before the first."""
        with self.log.open("rb") as file:
            file.seek(self._read_bytes)
            fresh = file.read()
        complete = fresh[: fresh.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for line in complete.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") == "stat":
                self._stat = entry
        return self._stat

    def ask_to_stop(self) -> None:
        if self.is_running():
            self._child.terminate()
            self.go_on()

    def pause(self) -> None:
        """Until `go_on` or `ask_to_stop`."""
        if self.is_running():
            self._child.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self.is_running():
            self._child.send_signal(signal.SIGCONT)

    def wait(self, timeout_s: float) -> None:
        """Wait for the end after `ask_to_stop`; kill what does not heed it."""
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


class Fleet:
    """All processes of the demo. Leaving the context stops them, last started first."""

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        """environment: added to this process's own"""
        self._logs, self._environment = logs, environment or {}
        self.processes: list[ManagedProcess] = []

    def start(self, name: str, program: str, *arguments: str) -> ManagedProcess:
        process = ManagedProcess(name, program, arguments, self._logs / f"{name}.log", self._environment)
        self.processes.append(process)
        return process

    def check(self) -> None:
        for process in self.processes:
            process.check()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Nodes first, all at once, then what they depend on (the first started) in turn."""
        self.stop_nodes(timeout_s)
        for process in reversed([p for p in self.processes if p.program == "cupel"]):
            process.ask_to_stop()
            process.wait(timeout_s)
        self.processes.clear()

    def stop_nodes(self, timeout_s: float = 10.0) -> None:
        """Those of the run, all at once; chain and source go on."""
        nodes = [p for p in self.processes if p.program != "cupel"]
        for process in nodes:
            process.ask_to_stop()
        for process in nodes:
            process.wait(timeout_s)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
