"""The command: `python -m exhaustive`, with `benchmarks` on the path."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click

from cupel.protocol.arithmetic.cpu import isa as instruction_sets
from cupel.protocol.errors import UsageError
from exhaustive.checking import SHARDS, Outcome, check_shard
from exhaustive.engines import BACKENDS, FUNCTIONS, Subject, best_isa
from exhaustive.progress import Progress, load_all
from exhaustive.report import render, show

FOLDER = Path("build/exhaustive")


class ShardRange(click.ParamType):
    """`7` or `0-63`."""

    name = "range"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        parts = re.fullmatch(r"(\d+)(?:-(\d+))?", str(value), re.ASCII)
        first, last = (int(parts[1]), int(parts[2] or parts[1])) if parts else (0, SHARDS)
        if not first <= last < SHARDS:
            self.fail(f"{value!r} is no range of shards; take one like 0-{SHARDS - 1}, or a single number", param, ctx)
        return range(first, last + 1)


@click.command()
@click.option("--function", "functions", multiple=True, type=click.Choice(list(FUNCTIONS)), help="Default: every one.")
@click.option("--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True)
@click.option("--isa", "isas", multiple=True, type=click.Choice(instruction_sets.NAMES), help="Default: the best here.")
@click.option("--shards", type=ShardRange(), default=f"0-{SHARDS - 1}", show_default=True, help="Of 2^24 arguments.")
@click.option("--every", type=click.IntRange(1, 64), default=1, show_default=True, help="Only one chunk of 2^18 in n.")
@click.option("--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Keeps progress.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the table of all that is noted there too.")
def exhaustive(
    functions: tuple[str, ...],
    backend: str,
    isas: tuple[str, ...],
    shards: range,
    every: int,
    processes: int,
    folder: Path,
    output: Path | None,
) -> None:
    """Check an engine's functions at every float32 argument. Ended at any point, it goes on from there.

    Exit 0 if every result is right, 1 if one is not.
    """
    names = functions or tuple(FUNCTIONS)
    if isas and backend != "cpu":
        raise click.UsageError(f"--isa is of the cpu engine, not of {backend}")
    sets = (isas or (_best_isa(),)) if backend == "cpu" else ("",)
    subjects = [Subject(function=name, backend=backend, isa=chosen) for chosen in sets for name in names]
    noted = folder if every == 1 else folder / f"every-{every}"
    runs = [Progress(noted, subject) for subject in subjects]
    for run in runs:
        _finish(run, run.missing(shards), every, processes)
    text = render(load_all(noted))
    click.echo(text, nl=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    sys.exit(1 if any(run.total().mismatches for run in runs) else 0)


def _best_isa() -> str:
    try:
        return best_isa()
    except UsageError as error:
        raise click.UsageError(str(error)) from None


def _finish(run: Progress, missing: list[int], every: int, processes: int) -> None:
    began, seen = time.monotonic(), 0
    for shard, outcome in _check(run.subject, missing, every, processes):
        run.note(shard, outcome)
        seen += outcome.inputs
        left = (len(missing) * outcome.inputs - seen) / seen * (time.monotonic() - began)
        state = run.total()
        line = (
            f"{run.subject.name}: {state.inputs / (1 << 32):.1%}, {state.mismatches} wrong, {state.decided:,} by MPFR, "
            f"{state.slow:,} slow, {seen / (time.monotonic() - began) / 1e6:.0f} M/s, {left:.0f} s left"
        )
        click.echo(f"\r{line:110}" if sys.stderr.isatty() else line, err=True, nl=not sys.stderr.isatty())
        for argument, got, right in outcome.wrong:
            click.echo(f"\nwrong: {run.subject.name} of {show(argument)}: {show(got)}, not {show(right)}", err=True)
    if missing and sys.stderr.isatty():
        click.echo(err=True)


def _check(subject: Subject, shards: list[int], every: int, processes: int) -> Iterator[tuple[int, Outcome]]:
    if processes == 1 or len(shards) < 2:
        for shard in shards:
            yield shard, check_shard(subject, shard, every)
        return
    # Fresh processes: PyTorch's threads do not outlive a fork.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(check_shard, subject, shard, every): shard for shard in shards}
        try:
            for done in as_completed(pending):
                yield pending[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    exhaustive()
