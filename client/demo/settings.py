"""What the demo is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cupel.protocol.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Checked on construction; raises UsageError."""

    folder: Path
    """Everything the demo writes is in here."""
    rounds: int = 6
    """Rounds to wait for."""
    miners: int = 3
    liars: int = 1
    """Miners, counted from the last, that fake a step in every segment."""
    verifiers: int = 3
    segments: int = 5
    segment_steps: int = 30
    """A unit is segments x segment_steps optimiser steps."""
    verifiers_per_unit: int = 2
    segments_per_verifier: int = 2
    block_time_s: float = 0.5
    text: tuple[Path, ...] = ()
    """Files or folders to train on; empty takes Python's standard library."""
    shard_tokens: int = 65_536
    held_out: float = 0.03
    """Share of the text that measures the loss."""
    prompt: str = "def "
    sample_tokens: int = 160
    temperature: float = 0.7
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; take 1 or more")
        if not 1 <= self.miners <= 16 or not 1 <= self.verifiers <= 16:
            raise UsageError("--miners and --verifiers are from 1 to 16 on one machine")
        if not 0 <= self.liars < self.miners:
            raise UsageError(f"--liars is {self.liars}; leave at least one of {self.miners} miners honest")
        if self.segments < 1 or self.segment_steps < 1:
            raise UsageError("--segments and --segment-steps are 1 or more")
        if self.block_time_s <= 0:
            raise UsageError(f"--block-time is {self.block_time_s}; it is above 0")
        for path in self.text:
            if not path.exists():
                raise UsageError(f"there is no {path} to train on")
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file; --dir names a folder")
        if self.folder.is_dir() and not (self.folder / "keys").is_dir() and any(self.folder.iterdir()):
            raise UsageError(f"{self.folder} holds other files; --dir names a new folder or one with a run in it")
