"""Other implementations of IPFS, from npm, as processes on 127.0.0.1 (tests/interop). Installed on first use."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "interop"
INSTALL_TIMEOUT_S = 900
ANSWER_TIMEOUT_S = 120


@functools.cache
def node_binary() -> Path:
    """Node.js 22 with everything in package.json beside it. Skips the test where npm is not on this machine."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail("Node.js and npm are needed here: other implementations of IPFS are installed with them")
        pytest.skip("Node.js and npm are missing: other implementations of IPFS cannot be installed")
    wanted = hashlib.sha256((FOLDER / "package.json").read_bytes()).hexdigest()
    modules = FOLDER / "node_modules"
    done = modules / ".installed"
    # Test processes may start at the same time.
    with (FOLDER / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != wanted:
            # Of all packages only Node.js itself needs its install script, which puts the binary in place.
            _npm("install", "--ignore-scripts", "--no-save", "--no-package-lock")
            _npm("rebuild", "node")
            done.write_text(wanted)
    return modules / ".bin" / "node"


def _npm(*arguments: str) -> None:
    command = ["npm", *arguments, "--no-audit", "--no-fund", "--loglevel=error"]
    ended = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    assert ended.returncode == 0, f"{' '.join(command)} in {FOLDER}:\n{ended.stderr[-2000:]}"


class NodeScript:
    """A script of tests/interop, running while it is entered; ends when its input is closed."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._command = [str(node_binary()), str(FOLDER / script), *arguments]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> NodeScript:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def read_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        # Who hangs is ended, and then there is no line.
        watchdog = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline().strip()
        watchdog.cancel()
        assert line, f"{self._command[1]} ended with {self._process.wait(timeout=20)}"
        return line

    def ask(self, **question: Any) -> dict[str, Any]:
        """One line of JSON for another."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.read_line())
        assert "error" not in answer, answer
        return answer


def made_up_bytes(seed: str, size: int) -> bytes:
    """Bytes both sides can make: the SHA-256 of seed and counter, each filling 64 KiB."""
    parts = (hashlib.sha256(f"{seed}:{number}".encode()).digest() * 2048 for number in range(-(-size // 65_536)))
    return b"".join(parts)[:size]
