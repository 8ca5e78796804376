"""A network of our own: every node in a network namespace, joined by a bridge, each cable to be pulled by itself.

The soak enters namespaces of its own first, so that nothing of it is seen or reached from outside, and nothing of the
machine's network or mounts is touched. Needs Linux with `unshare`, `nsenter`, `ip` and `mount`, as root or where users
may make namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INSIDE = "CUPEL_SOAK_INSIDE"
HUB = "10.77.0.1"
_TOOLS = ("unshare", "nsenter", "ip", "mount", "sleep")


def can_isolate() -> bool:
    """Whether namespaces can be made here."""
    if any(shutil.which(tool) is None for tool in _TOOLS):
        return False
    return subprocess.run([*_unshare(), "true"], capture_output=True).returncode == 0


def is_inside() -> bool:
    return os.environ.get(INSIDE) == "1"


def enter(command: Sequence[str]) -> int:
    """Run a command in namespaces of its own; its exit code."""
    return subprocess.run([*_unshare(), *command], env=os.environ | {INSIDE: "1"}).returncode


def _unshare() -> list[str]:
    # Not a namespace of process numbers: `/proc` would have to be mounted anew for little gain.
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")


def open_hub() -> None:
    """The bridge, and this process's own address on it."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "hub", "type", "bridge")
    _run("ip", "address", "add", f"{HUB}/24", "dev", "hub")
    _run("ip", "link", "set", "hub", "up")


class Cable:
    """A namespace with one address, and its cable to the hub."""

    def __init__(self, number: int) -> None:
        """number: from 2 to 254"""
        self.address = f"10.77.0.{number}"
        self._end = f"cable{number}"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.namespace = f"/proc/{self._holder.pid}/ns/net"
        self._wait_for_namespace()
        inside = ("nsenter", f"--net={self.namespace}")
        _run("ip", "link", "add", self._end, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        _run("ip", "link", "set", self._end, "master", "hub")
        _run("ip", "link", "set", self._end, "up")
        _run(*inside, "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run(*inside, "ip", "link", "set", device, "up")

    def _wait_for_namespace(self) -> None:
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(self.namespace) == ours:
            if self._holder.poll() is not None:
                raise AssertionError("unshare ended: no namespace to be had")

    def pull(self) -> None:
        """Nothing passes any more."""
        _run("ip", "link", "set", self._end, "down")

    def plug(self) -> None:
        _run("ip", "link", "set", self._end, "up")

    def is_plugged(self) -> bool:
        """What the system says of the cable."""
        shown = subprocess.run(["ip", "-o", "link", "show", "dev", self._end], capture_output=True, text=True).stdout
        return "state UP" in shown

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class SmallDisk:
    """A file system in memory, mounted over a folder: what a node's disk is when it fills."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._filling = folder / "filling"
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "soak", str(folder))

    def fill(self) -> bool:
        """Take all the room there is; whether none is left."""
        with self._filling.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue
        state = os.statvfs(self._filling)
        return state.f_bavail == 0

    def free(self) -> None:
        self._filling.unlink(missing_ok=True)


def command_line() -> list[str]:
    """This very command, to run it inside."""
    return [sys.executable, "-m", "soak", *sys.argv[1:]]
