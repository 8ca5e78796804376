"""`cupel replay`: repeat a unit from disk and compare every root."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from cupel.archive import RunArchive, find_unit
from cupel.node.descriptions import UnitDescription
from cupel.protocol import sampling
from cupel.protocol.errors import UsageError
from cupel.protocol.training import unit as units
from cupel.protocol.types import Cid, Root, Seed, UnitId
from cupel.run_data import open_run


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("cupel-demo"), show_default=True,
    help="The run's folder.",
)  # fmt: skip
@click.option("--round", "number", type=click.IntRange(0), required=True, help="The unit's round.")
@click.option("--unit", "wanted", required=True, help="Its number in `cupel status --round R`, or the start of its id.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Compute threads.")
@click.option("--backend", type=click.Choice(["auto", "cpu", "torch"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(folder: Path, number: int, wanted: str, threads: int, backend: str, as_json: bool) -> None:
    """Repeat a unit of a finished run, step by step, from the folder alone.

    Every checkpoint's root is compared with the committed one, with zero tolerance. After a difference the replay goes
    on from its own state, as an honest miner would have. Exit 0 if every root matches, 1 if one does not.
    """
    torch.set_num_threads(threads)
    archive = RunArchive(folder)
    archive.check()
    summary = archive.get_round(number)
    unit = find_unit(summary, wanted)
    run = open_run(archive)
    description = UnitDescription.from_bytes(run.fetcher.fetch(unit.cid))
    description.check(
        UnitId(unit.unit), Root(unit.root), Root(unit.contribution), Root(summary.start_root), run.parameters.segments
    )
    if not summary.start_cid:
        raise UsageError(f"round {number} has no start state in {folder}")
    state = run.read_state(f"start of round {number}", Cid(summary.start_cid), Root(summary.start_root))
    config = run.programs.config
    length = config.model.context + 1

    def load_batch(step: int) -> torch.Tensor:
        positions = sampling.batch_positions(
            Seed(summary.seed), UnitId(unit.unit), step, config.training.batch, len(run.training),
            run.training.shard_tokens, length,
        )  # fmt: skip
        return run.training.batch(positions, length)

    def step(state: units.State, tokens: torch.Tensor) -> units.Stepped:
        return run.programs.run_step(state, tokens, backend=backend, threads=threads)

    results: list[dict[str, Any]] = []
    segment_steps = run.parameters.segment_steps
    for segment in range(run.parameters.segments):
        started = time.perf_counter()
        result = units.train_segment(step, state, load_batch, segment, segment_steps)
        seconds = time.perf_counter() - started
        state = dict(result.state)
        answer = units.answer_of(result)
        committed = description.states[segment + 1].state_root
        same = answer.end_root == committed
        results.append(
            {
                "segment": segment,
                "committed": "0x" + committed.hex(),
                "replayed": "0x" + answer.end_root.hex(),
                "same": same,
            }
        )
        if not as_json:
            mark = "same     " if same else "DIFFERENT"
            click.echo(
                f"segment {segment}  steps {segment * segment_steps}-{(segment + 1) * segment_steps - 1}  {mark}"
                f"  committed 0x{committed.hex()[:16]}…  replayed 0x{answer.end_root.hex()[:16]}…  {seconds:.1f} s"
            )
    honest = all(one["same"] for one in results)
    if as_json:
        click.echo(
            json.dumps({"unit": "0x" + unit.unit.hex(), "status": unit.status, "honest": honest, "segments": results})
        )
    else:
        verdict = "every root matches, to the last bit" if honest else "the miner did not do this work"
        click.echo(f"unit 0x{unit.unit.hex()[:16]}… of {unit.miner}, {unit.status.lower()} on chain: {verdict}")
    sys.exit(0 if honest else 1)
