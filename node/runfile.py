"""The run file: the little an operator needs to find a run. Everything else is read from the contract and checked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """One run, by where it lives."""

    chain_id: int
    contract: Address
    """The `Run` contract."""
    sources: tuple[str, ...] = ()
    """URLs that serve the manifest and what it names, before any participant does."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> RunFile:
        """Raises UsageError naming what is wrong with the file."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is not a run file: {error}") from None
        if not isinstance(table, dict):
            raise UsageError(f"{path} is not a run file: no JSON object")
        chain_id, contract, sources = table.get("chain_id"), table.get("contract"), table.get("sources", [])
        if type(chain_id) is not int or chain_id < 1:
            raise UsageError(f"{path}: chain_id is {chain_id!r}, not a positive integer")
        if not isinstance(contract, str) or not contract.startswith("0x") or len(contract) != 42:
            raise UsageError(f"{path}: contract is {contract!r}, not an address")
        if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
            raise UsageError(f"{path}: sources is {sources!r}, not a list of URLs")
        return RunFile(chain_id=chain_id, contract=Address(contract), sources=tuple(sources))
