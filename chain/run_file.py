"""`run.json`: where a run is. Whoever takes part needs this file, an RPC URL and a key."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eth_utils.address import is_checksum_address

from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address, Height

VERSION = 1
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """Addresses of one run, checked on construction. Raises UsageError."""

    chain_id: int
    run: Address
    token: Address
    beacon: Address
    deploy_block: Height
    """Nothing of the run is in an earlier block."""
    peers: tuple[str, ...] = ()
    """URLs that serve blocks, to begin with; the run's participants announce their own on chain."""

    def __post_init__(self) -> None:
        for name in ("chain_id", "deploy_block"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UsageError(f"run file: {name} is {value!r}, not a number from 0")
        for name in ("run", "token", "beacon"):
            value = getattr(self, name)
            if not isinstance(value, str) or not is_checksum_address(value):
                raise UsageError(f"run file: {name} is {value!r}, not an address with its checksum")
        for peer in self.peers:
            if not isinstance(peer, str) or urlsplit(peer).scheme not in ("http", "https"):
                raise UsageError(f"run file: peer {peer!r} is not a URL")


def write_run_file(path: Path, run: RunFile) -> None:
    """Write or replace the file, whole or not at all. Raises UsageError."""
    content = {
        "version": VERSION,
        "chain_id": run.chain_id,
        "run": run.run,
        "token": run.token,
        "beacon": run.beacon,
        "deploy_block": run.deploy_block,
        "peers": list(run.peers),
    }
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write the run file {path}: {error.strerror or error}") from error


def read_run_file(path: Path) -> RunFile:
    """Raises UsageError: missing, not JSON, unknown or missing entries, or wrong values."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for a run file")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no run file {path}; whoever deployed the run has it") from None
    except OSError as error:
        raise UsageError(f"cannot read the run file {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a run file: {error}") from None
    names = {"version", "chain_id", "run", "token", "beacon", "deploy_block"}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UsageError(f"{path} is not a run file of version {VERSION}")
    missing, unknown = names - set(content), set(content) - names - {"peers"}
    if missing or unknown:
        raise UsageError(f"{path}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    peers = content.get("peers", [])
    if not isinstance(peers, list):
        raise UsageError(f"{path}: peers is not a list")
    return RunFile(
        chain_id=content["chain_id"],
        run=content["run"],
        token=content["token"],
        beacon=content["beacon"],
        deploy_block=content["deploy_block"],
        peers=tuple(peers),
    )
