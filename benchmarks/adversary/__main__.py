"""The command: `python -m adversary`, with `benchmarks` and `tests` on the path."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import click
from machine import describe as describe_machine

from adversary.attacks import ATTACKS, find_attack
from adversary.playing import Outcome, play
from adversary.report import describe, summarise

CHAINS = ("embedded", "anvil")


@click.command()
@click.option("--attack", "names", multiple=True, help="Only this one; may be given several times.")
@click.option("--chain", "chains", type=click.Choice(CHAINS), multiple=True, help="Only this one; else both.")
@click.option("--block-time", "block_time_s", default=0.2, show_default=True, help="Seconds between blocks.")
@click.option("--folder", type=click.Path(path_type=Path), help="Kept, with every log; else a temporary one.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the table there too.")
def adversary(
    names: tuple[str, ...],
    chains: tuple[str, ...],
    block_time_s: float,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Every way to cheat against real nodes, and who loses how much. Exit 0 if no rule failed, 1 otherwise."""
    try:
        chosen = [find_attack(name) for name in names] or list(ATTACKS)
    except KeyError as unknown:
        raise click.BadParameter(str(unknown.args[0]), param_hint="--attack") from unknown
    home = folder or Path(tempfile.mkdtemp(prefix="cupel-adversary-"))
    outcomes: list[Outcome] = []
    for chain in chains or CHAINS:
        for attack in chosen:
            place = home / chain / attack.name.replace(" ", "-")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            outcomes.append(play(attack, chain, place, block_time_s=block_time_s))
            click.echo(describe(outcomes[-1]), err=True)
    text = f"{summarise(outcomes)}\n{describe_machine()}\n\n" + "\n".join(describe(outcome) for outcome in outcomes)
    click.echo(text, nl=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    failed = any(outcome.failures() for outcome in outcomes)
    if folder is None and not failed:
        shutil.rmtree(home, ignore_errors=True)
    elif failed:
        click.echo(f"logs: {home}", err=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    adversary()
