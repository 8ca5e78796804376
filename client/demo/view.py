"""The live view: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cupel.archive import RoundSummary
from cupel.chain.run_values import Status

TOKEN_UNITS = 10**18


@dataclass(slots=True, kw_only=True)
class Picture:
    """What the view shows at one moment."""

    rounds_wanted: int
    round: int | None = None
    phase: str = "starting"
    height: int = 0
    genesis_loss: float | None = None
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Newest stat fields by process name."""
    finished: Sequence[RoundSummary] = ()


class View:
    """Shows pictures while it is entered. Messages scroll above the table."""

    def __init__(self, names: Mapping[str, str], console: Console | None = None) -> None:
        """names: process name by address, to show who did what."""
        self._names = names
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._started = time.monotonic()
        self._last_line = ""

    @property
    def is_live(self) -> bool:
        return self._console.is_terminal

    def __enter__(self) -> View:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_live:
            self._live.stop()
        sys.stderr.flush()

    def say(self, message: str) -> None:
        elapsed = time.monotonic() - self._started
        self._console.print(f"[dim]{elapsed:6.1f} s[/dim]  {message}", highlight=False, soft_wrap=not self.is_live)

    def show(self, picture: Picture) -> None:
        if self.is_live:
            self._live.update(self._render(picture))
            return
        line = f"round {picture.round} {picture.phase}"
        if picture.round is not None and line != self._last_line:
            self._last_line = line
            speeds = ", ".join(f"{name} {_speed(stat)}" for name, stat in picture.nodes.items() if stat.get("steps"))
            self.say(f"{line}  {speeds}")

    def name_of(self, address: str) -> str:
        return self._names.get(address.lower(), address)

    def describe_round(self, summary: RoundSummary) -> str:
        """One line on an ended round."""
        parts = []
        for unit in summary.units:
            mark = "[green]✓[/green]" if unit.status == Status.ATTESTED.name else "[red]✗[/red]"
            word = "" if unit.status == Status.ATTESTED.name else f" {unit.status.lower()}"
            parts.append(f"{mark} {self.name_of(unit.miner)}{word}")
        merged = (
            f"merged {sum(u.status == Status.ATTESTED.name for u in summary.units)}" if summary.merged else "not merged"
        )
        return (
            f"[bold]round {summary.round}[/bold] {merged}, held-out loss [bold]{summary.held_out_loss:.4f}[/bold]"
            f"  {'  '.join(parts)}  state 0x{summary.end_root.hex()[:8]}…  {summary.seconds:.0f} s"
        )

    def _render(self, picture: Picture) -> Group:
        elapsed = time.monotonic() - self._started
        shown = "-" if picture.round is None else str(picture.round)
        head = Text.assemble(
            (" Cupel ", "bold reverse"),
            f"  round {shown} ({len(picture.finished)} of {picture.rounds_wanted} done), {picture.phase.lower()}"
            f"  block {picture.height}  {elapsed:.0f} s",
        )
        nodes = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("process", "phase", "steps/s", "loss", "accepted", "rejected", "stale", "pending", "matured"):
            nodes.add_column(column, justify="left" if column in ("process", "phase") else "right")
        for name, stat in picture.nodes.items():
            loss = stat.get("loss")
            nodes.add_row(
                name,
                str(stat.get("phase", "starting")),
                _speed(stat),
                "" if loss is None else f"{loss:.3f}",
                str(stat.get("accepted", 0)),
                str(stat.get("rejected", 0)),
                str(stat.get("stale", 0)),
                f"{stat.get('pending', 0) / TOKEN_UNITS:.1f}",
                f"{stat.get('matured', 0) / TOKEN_UNITS:.1f}",
            )
        losses = [picture.genesis_loss, *(r.held_out_loss for r in picture.finished)]
        curve = " → ".join(f"{loss:.3f}" for loss in losses if loss is not None)
        return Group(head, nodes, Text(f"held-out loss  {curve}"))


def _speed(stat: Mapping[str, Any]) -> str:
    seconds = stat.get("steps_s") or 0.0
    return f"{stat['steps'] / seconds:.1f}" if seconds else "-"
