"""`cupel status`: a run as its folder tells it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from cupel.archive import RoundSummary, RunArchive
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Status
from cupel.node.log import plain
from cupel.node.records import ClaimRecord, History, OutcomeRecord, UnitRecord, VerdictRecord

TOKEN_UNITS = 10**18


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("cupel-demo"), show_default=True,
    help="The run's folder.",
)  # fmt: skip
@click.option("--round", "number", type=click.IntRange(0), help="One round, with its units and verdicts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(folder: Path, number: int | None, as_json: bool) -> None:
    """Show rounds, units, verdicts and roots of a run from disk; no chain and no network is asked."""
    archive = RunArchive(folder)
    archive.check()
    rounds = list(archive.rounds()) if number is None else [archive.get_round(number)]
    if as_json:
        click.echo(json.dumps([plain(dataclasses.asdict(one)) for one in rounds], indent=2))
        return
    console = Console()
    run = RunFile.read(archive.run_file)
    console.print(
        f"Run {run.contract} on chain {run.chain_id}, {len(list(archive.rounds()))} rounds ended", highlight=False
    )
    if number is None:
        _print_rounds(console, rounds)
        _print_nodes(console, folder)
    else:
        _print_round(console, rounds[0])


def _print_rounds(console: Console, rounds: list[RoundSummary]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("round", "held-out loss", "committed", "attested", "merged", "end state"):
        table.add_column(column, justify="left" if column == "end state" else "right")
    for one in rounds:
        attested = sum(u.status == Status.ATTESTED.name for u in one.units)
        table.add_row(
            str(one.round),
            f"{one.held_out_loss:.4f}",
            str(len(one.units)),
            str(attested),
            "yes" if one.merged else "no",
            f"0x{one.end_root.hex()[:16]}…",
        )
    console.print(table, highlight=False)
    if rounds:
        console.print(f"Model 0x{rounds[-1].end_root.hex()}", highlight=False, soft_wrap=True)
        console.print(f"  CID {rounds[-1].end_cid}", highlight=False, soft_wrap=True)


def _print_nodes(console: Console, folder: Path) -> None:
    """What each process wrote of its own work."""
    histories = sorted(folder.glob("*/history.jsonl"))
    if not histories:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in (
        "process",
        "trained",
        "accepted",
        "left out",
        "replayed",
        "rejected",
        "CUP claimed",
    ):
        table.add_column(column, justify="left" if column == "process" else "right")
    for path in histories:
        records = list(History(path))
        outcomes = [r.outcome for r in records if isinstance(r, OutcomeRecord)]
        verdicts = [r for r in records if isinstance(r, VerdictRecord)]
        table.add_row(
            path.parent.name,
            str(sum(isinstance(r, UnitRecord) for r in records)),
            str(outcomes.count("accepted")),
            str(len(outcomes) - outcomes.count("accepted")),
            str(sum(len(v.segments) for v in verdicts)),
            str(len({v.unit for v in verdicts if v.verdict == "rejects"})),
            f"{sum(r.amount for r in records if isinstance(r, ClaimRecord)) / TOKEN_UNITS:.2f}",
        )
    console.print()
    console.print(table, highlight=False)


def _print_round(console: Console, one: RoundSummary) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(f"Round {one.round}, ended at block {one.ended_at}, held-out loss {one.held_out_loss:.4f}")
    say(f"  seed   0x{one.seed.hex()}")
    say(f"  start  0x{one.start_root.hex()}  {one.start_cid}")
    say(f"  end    0x{one.end_root.hex()}  {one.end_cid}{'' if one.merged else '  (not merged)'}")
    for i, unit in enumerate(one.units):
        say(f"  unit {i}  0x{unit.unit.hex()}  {unit.status.lower()}")
        say(f"    miner {unit.miner} (its unit {unit.index}), committed root 0x{unit.root.hex()}")
        for verdict in unit.verdicts:
            word = "agrees" if verdict.agreed else "disagrees" if verdict.did_reveal else "did not answer"
            say(f"    verifier {verdict.verifier} {word}")
