"""`run.json`: where a run is. Whoever takes part needs this file, an RPC URL and a key."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eth_utils.address import is_checksum_address

from cupel.chain.run_contract import Deployment
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address, Height

VERSION = 1
MAX_BYTES = 1 << 20
CREATED = ("run", "beacon", "court")
_OPTIONAL = {"sources", "confirmations", "creation"}
_REQUIRED = {"version", "chain_id", "contract", "token", "beacon", "deploy_block"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """Addresses of one run, checked on construction. Raises UsageError."""

    chain_id: int
    contract: Address
    """The run."""
    token: Address
    beacon: Address
    deploy_block: Height
    """Nothing of the run is in an earlier block."""
    sources: tuple[str, ...] = ()
    """URLs that serve blocks, to begin with; the run's participants announce their own on chain."""
    confirmations: int = 1
    """Blocks a transaction should be in before it counts on this chain, as whoever deployed the run recommends."""
    creation: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the transactions that created `run`, `beacon` and `court`: what they ran shows that no constructor did
    more."""

    def __post_init__(self) -> None:
        for name, least in (("chain_id", 1), ("deploy_block", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"run file: {name} is {value!r}, not a number from {least}")
        for name in ("contract", "token", "beacon"):
            value = getattr(self, name)
            if not isinstance(value, str) or not is_checksum_address(value):
                raise UsageError(f"run file: {name} is {value!r}, not an address with its checksum")
        for source in self.sources:
            check_source(source)
        if type(self.confirmations) is not int or self.confirmations < 1:
            raise UsageError(f"run file: confirmations is {self.confirmations!r}, not a number from 1")
        for name, digest in self.creation.items():
            if name not in CREATED or not isinstance(digest, str) or not re.fullmatch("0x[0-9a-f]{64}", digest):
                raise UsageError(f"run file: creation.{name} is {digest!r}, not the hash of a transaction")

    @staticmethod
    def of(chain_id: int, deployment: Deployment, sources: tuple[str, ...] = (), confirmations: int = 1) -> RunFile:
        """The file of a run just deployed."""
        return RunFile(
            chain_id=chain_id,
            contract=deployment.run,
            token=deployment.token,
            beacon=deployment.beacon,
            deploy_block=deployment.block,
            sources=sources,
            confirmations=confirmations,
            creation=deployment.creation,
        )

    def to_table(self) -> dict[str, Any]:
        """As the file has it."""
        return {"version": VERSION} | dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        """Write or replace the file, whole or not at all. Raises UsageError."""
        temporary = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.to_table(), indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise UsageError(f"cannot write the run file {path}: {error.strerror or error}") from error

    @staticmethod
    def read(path: Path) -> RunFile:
        """Raises UsageError: missing, not JSON, entries missing or unknown, or values that cannot be."""
        content = _read_json(path)
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise UsageError(f"{path} is not a run file of version {VERSION}")
        missing, unknown = _REQUIRED - set(content), set(content) - _REQUIRED - _OPTIONAL
        if missing or unknown:
            raise UsageError(f"{path}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        fields = {name: value for name, value in content.items() if name not in ("version", "sources")}
        sources = content.get("sources", [])
        if not isinstance(sources, list):
            raise UsageError(f"{path}: sources is {sources!r:.80}, not a list of URLs")
        if not isinstance(content.get("creation", {}), dict):
            raise UsageError(f"{path}: creation is {content['creation']!r:.80}, not a table of transactions")
        try:
            return RunFile(**fields, sources=tuple(sources))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None


def check_source(source: object) -> None:
    """Raises UsageError unless it is a URL blocks can be fetched from."""
    if not isinstance(source, str) or urlsplit(source).scheme not in ("http", "https") or not urlsplit(source).netloc:
        raise UsageError(f"run file: source {source!r} is not a URL")


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for a run file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no run file {path}; whoever deployed the run has it") from None
    except OSError as error:
        raise UsageError(f"cannot read the run file {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a run file: {error}") from None
