"""The command: `python -m adversary`, with `benchmarks` and `tests` on the path."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from machine import describe as describe_machine

from adversary.attacks import ATTACKS, Attack
from adversary.disputes import playing as disputing
from adversary.disputes.playing import DISPUTE_ATTACKS, Parties
from adversary.playing import play
from adversary.report import Table, describe

CHAINS = ("embedded", "anvil")


@click.command()
@click.option("--attack", "names", multiple=True, help="Only this one; may be given several times.")
@click.option("--chain", "chains", type=click.Choice(CHAINS), multiple=True, help="Only this one; else both.")
@click.option("--block-time", "block_time_s", default=0.2, show_default=True, help="Seconds between blocks.")
@click.option("--folder", type=click.Path(path_type=Path), help="Kept, with every log; else a temporary one.")
@click.option("--output", type=click.Path(path_type=Path), help="Put what comes of it into the table there.")
def adversary(
    names: tuple[str, ...],
    chains: tuple[str, ...],
    block_time_s: float,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Every way to cheat against real nodes, and who loses how much. Exit 0 if no rule failed, 1 otherwise."""
    named = {attack.name: attack for attack in (*ATTACKS, *DISPUTE_ATTACKS)}
    unknown = [name for name in names if name not in named]
    if unknown:
        raise click.BadParameter(f"no attack is called {unknown[0]!r}; there are {', '.join(named)}")
    chosen = names or tuple(named)
    home = folder or Path(tempfile.mkdtemp(prefix="cupel-adversary-"))
    kept = output.read_text() if output is not None and output.exists() else ""
    table, machine, failed = Table(kept), describe_machine(), False
    with ExitStack() as stack:
        parties: Parties | None = None
        for chain in chains or CHAINS:
            for name in chosen:
                place = home / chain / name.replace(" ", "-").replace(",", "")
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                attack = named[name]
                try:
                    if isinstance(attack, Attack):
                        outcome = play(attack, chain, place, block_time_s=block_time_s)
                    else:
                        parties = parties or stack.enter_context(Parties())
                        outcome = disputing.play(attack, chain, place, parties, block_time_s=block_time_s / 2)
                except AssertionError as trouble:  # the others are worth playing all the same
                    if parties is not None:
                        parties.stop_all()
                    table.add_broken(name, chain, str(trouble).splitlines()[0], machine)
                    click.echo(f"{name}, {chain} chain: DID NOT END: {trouble}", err=True)
                    failed = True
                else:
                    table.add(outcome, machine)
                    click.echo(describe(outcome), err=True)
                    failed = failed or bool(outcome.failures())
                if output is not None:  # whatever becomes of the rest
                    output.parent.mkdir(parents=True, exist_ok=True)
                    output.write_text(table.to_text(tuple(named), CHAINS))
    click.echo(table.to_text(tuple(named), CHAINS), nl=False)
    if folder is None and not failed:
        shutil.rmtree(home, ignore_errors=True)
    elif failed:
        click.echo(f"logs: {home}", err=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    adversary()
