"""What the demo leaves behind: the loss curve and the summary."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cupel.archive import RoundSummary
from cupel.chain.run_values import Status
from cupel.demo.verdicts import Conviction

TOKEN_UNITS = 10**18
WEI_PER_ETH = 10**18
WIDE = 104
"""Columns from which whole addresses fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What one party ended with."""

    name: str
    address: str
    tokens: int
    """Minted to it, in the token's smallest unit."""
    pending: int
    """Earned, not yet mature."""
    free_wei: int
    """Of its deposit, what backs nothing."""
    locked_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished demo."""

    folder: Path
    names: Mapping[str, str]
    """Process names by lower-case address."""
    liars: Sequence[str]
    """Addresses of the miners that were told to fake."""
    genesis_loss: float
    rounds: Sequence[RoundSummary]
    convictions: Sequence[Conviction]
    """What the court found, from the chain."""
    balances: Sequence[Balance]
    supply: int
    skipped: int
    """Empty blocks that were added at the end, so that rewards mature."""
    prompt: str
    sample: str
    seconds: float


def draw_curve(losses: Sequence[float], path: Path) -> None:
    """Held-out loss by round as a PNG; losses[0] is the untrained model's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=130)
    axes.plot(range(len(losses)), losses, marker="o", color="#b8860b", linewidth=2)
    for i, loss in enumerate(losses):
        axes.annotate(f"{loss:.2f}", (i, loss), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8)
    axes.set_xlabel("rounds")
    axes.set_ylabel("held-out loss, nats a token")
    axes.set_title("Every state after 0 was recomputed by verifiers, to the last bit", fontsize=10)
    axes.set_xticks(range(len(losses)))
    axes.set_ylim(top=max(losses) * 1.08)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _print_conviction(c: Conviction, name: Callable[[str], str], console: Console) -> None:
    """One proof, in the contract's terms."""
    step = "" if c.step is None else f", step {c.step}"
    console.print(
        f"  [bold]convicted on chain[/bold] for unit 0x{c.subject.hex()[:8]}…, segment {c.segment}{step}: "
        f"{name(c.finder)} accused it, {c.moves} turns",
        highlight=False,
    )
    if not c.operation:
        console.print(f"    {c.text}", highlight=False)
        return
    console.print(f"    {c.operation}", highlight=False, markup=False)
    console.print(f"    element {c.element}: it said {c.claimed}, right is {c.right}", highlight=False, markup=False)
    console.print(
        f"    {c.prize_wei / WEI_PER_ETH:g} ETH of its bond to {name(c.finder)}, the rest burned", highlight=False
    )


def print_report(report: Report, console: Console) -> None:
    """The summary on stdout."""
    rounds = report.rounds

    def name(address: str) -> str:
        return report.names.get(address.lower(), address)

    table = Table(title="Rounds", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column, side in (
        ("round", "right"),
        ("held-out loss", "right"),
        ("committed", "right"),
        ("merged", "right"),
        ("left out", "left"),
        ("state root", "left"),
    ):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    table.add_row("-", f"{report.genesis_loss:.4f}", "", "", "", "genesis")
    for r in rounds:
        good = [u for u in r.units if u.status == Status.ATTESTED.name]
        bad = [u for u in r.units if u.status != Status.ATTESTED.name]
        table.add_row(
            str(r.round),
            f"{r.held_out_loss:.4f}",
            str(len(r.units)),
            str(len(good) if r.merged else 0),
            ", ".join(f"{name(u.miner)} ({u.status.lower()})" for u in bad) or "-",
            f"0x{r.end_root.hex()[:16]}…",
        )
    console.print(table, highlight=False)
    console.print()

    console.print("[bold]The liar[/bold]", highlight=False)
    for address in report.liars:
        units = [(r, u) for r in rounds for u in r.units if u.miner.lower() == address.lower()]
        caught = [(r, u) for r, u in units if u.status != Status.ATTESTED.name]
        console.print(
            f"  {name(address)} faked a step in every segment: {len(units)} units, {len(caught)} left out",
            highlight=False,
        )
        for r, u in units:
            against = [name(v.verifier) for v in u.verdicts if v.did_reveal and not v.agreed]
            silent = [name(v.verifier) for v in u.verdicts if not v.did_reveal]
            line = f"  round {r.round}, unit 0x{u.unit.hex()[:8]}…: {u.status.lower()}"
            line += f", rejected by {', '.join(against) or 'nobody'}"
            console.print(line + (f"; no answer from {', '.join(silent)}" if silent else ""), highlight=False)
    for c in report.convictions:
        _print_conviction(c, name, console)
    console.print()

    money = Table(title="Balances", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("party", "address", "CUP", "pending", "free ETH", "locked ETH"):
        money.add_column(column, justify="left" if column in ("party", "address") else "right", no_wrap=True)
    for b in report.balances:
        money.add_row(
            b.name,
            b.address if console.width >= WIDE else f"{b.address[:8]}…{b.address[-4:]}",
            f"{b.tokens / TOKEN_UNITS:.2f}",
            f"{b.pending / TOKEN_UNITS:.2f}",
            f"{b.free_wei / WEI_PER_ETH:.3f}",
            f"{b.locked_wei / WEI_PER_ETH:.3f}",
        )
    console.print(money, highlight=False)
    console.print(
        f"Supply {report.supply / TOKEN_UNITS:.2f} CUP, minted only by rounds that are final.", highlight=False
    )
    if report.skipped:
        told = f"{report.skipped:,} empty blocks were skipped at the end: so long a dispute may take, and rewards wait."
    else:
        told = "What is pending waits until nothing of its round can be disputed any more."
    console.print(told, highlight=False)
    console.print()

    last = rounds[-1]
    console.print("[bold]The model[/bold]", highlight=False)
    console.print(f"  root  0x{last.end_root.hex()}", highlight=False, soft_wrap=True)
    console.print(f"  CID   {last.end_cid}", highlight=False, soft_wrap=True)
    console.print(f"  curve {report.folder / 'loss.png'}", highlight=False, soft_wrap=True)
    console.print(f"  it writes, after {report.prompt!r}:", highlight=False)
    console.print()
    for line in (report.prompt + report.sample).splitlines():
        console.print(f"    {line}", highlight=False, markup=False)
    console.print()
    honest = next((i for i, u in enumerate(last.units) if u.status == Status.ATTESTED.name), 0)
    console.print(f"Done in {report.seconds:.0f} s. Everything is in {report.folder}/. Go on with:", highlight=False)
    command = "cupel" if shutil.which("cupel") else sys.argv[0]
    where = "" if str(report.folder) == "cupel-demo" else f" --dir {report.folder}"
    console.print(f"  {command} demo{where} --rounds {len(rounds)}       train on from here", highlight=False)
    console.print(f"  {command} status{where}                show the run from disk", highlight=False)
    console.print(
        f"  {command} replay{where} --round {last.round} --unit {honest}   repeat a unit, bit for bit", highlight=False
    )
