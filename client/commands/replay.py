"""`cupel replay`: repeat a unit from disk and compare every root."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from cupel.archive import RoundSummary, RunArchive, UnitSummary, find_unit
from cupel.chain.run_values import Status
from cupel.network.ipfs import BlockStore
from cupel.network.states import check_state_root, decode_state
from cupel.node.descriptions import UnitDescription
from cupel.protocol import merkle, sampling
from cupel.protocol.errors import MalformedInput, RootMismatch
from cupel.protocol.training import unit as units
from cupel.protocol.types import Cid, Root, Seed, UnitId
from cupel.run_data import RunData, open_run, open_stores, read_stored


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("cupel-demo"), show_default=True,
    help="The run's folder.",
)  # fmt: skip
@click.option("--round", "number", type=click.IntRange(0), required=True, help="The unit's round.")
@click.option("--unit", "wanted", required=True, help="Its number in `cupel status --round R`, or the start of its id.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Compute threads.")
@click.option("--backend", type=click.Choice(["auto", "cpu", "torch", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(folder: Path, number: int, wanted: str, threads: int, backend: str, as_json: bool) -> None:
    """Repeat a unit of a finished run, step by step, from the folder alone.

    Every checkpoint's root is compared with the committed one, with zero tolerance. After a difference the replay goes
    on from its own state, as an honest miner would have. Files of the unit's checkpoints and of the round's end state
    that the folder keeps are checked too, and the merge is repeated where its states are kept. Exit 0 if every root
    matches and no file is damaged, else 1.
    """
    torch.set_num_threads(threads)
    archive = RunArchive(folder)
    archive.check()
    summary = archive.get_round(number)
    unit = find_unit(summary, wanted)
    run = open_run(archive)
    stores = open_stores(archive)
    description = _read_description(run, summary, unit)
    kept = [_check_kept(stores, f"checkpoint {j}", s.cid, s.state_root) for j, s in enumerate(description.states)]
    end = _check_kept(stores, f"end of round {number}", Cid(summary.end_cid), Root(summary.end_root))
    state = run.read_state(f"start of round {number}", Cid(summary.start_cid), Root(summary.start_root))
    config = run.programs.config
    length = config.context + 1

    def load_batch(step: int) -> torch.Tensor:
        positions = sampling.batch_positions(
            Seed(summary.seed), UnitId(unit.unit), step, config.batch, len(run.training),
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
                "stored": kept[segment + 1].word,
            }
        )
        if not as_json:
            mark = "same     " if same else "DIFFERENT"
            click.echo(
                f"segment {segment}  steps {segment * segment_steps}-{(segment + 1) * segment_steps - 1}  {mark}"
                f"  committed 0x{committed.hex()[:16]}…  replayed 0x{answer.end_root.hex()[:16]}…"
                f"  file {kept[segment + 1].word}  {seconds:.1f} s"
            )
    merge = _merge_again(run, stores, summary, backend, threads)
    damage = [line for one in (*kept, end) for line in one.damage]
    honest = all(one["same"] for one in results)
    if as_json:
        verdicts = {"status": unit.status, "honest": honest, "merge": merge, "damage": damage}
        click.echo(json.dumps({"unit": "0x" + unit.unit.hex()} | verdicts | {"segments": results}))
    else:
        verdict = "every root matches, to the last bit" if honest else "the miner did not do this work"
        click.echo(f"unit 0x{unit.unit.hex()[:16]}… of {unit.miner}, {unit.status.lower()} on chain: {verdict}")
        click.echo(f"merge of round {number}: {merge}; its end state's file: {end.word}")
        for line in damage:
            click.echo(f"DAMAGED: {line}")
        # What to type next.
        proving = f"cupel dispute prove --dir {folder} --round {number}"
        if not honest:
            click.echo(f"Which operation is wrong, and the proof of it: {proving} --unit {wanted}")
        if merge == "DIFFERENT":
            click.echo(f"Which operation of the merge is wrong, and the proof of it: {proving} --merge")
    sys.exit(0 if honest and not damage and merge != "DIFFERENT" else 1)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the folder holds of one committed state."""

    word: str
    damage: tuple[str, ...]


def _check_kept(stores: Sequence[BlockStore], what: str, cid: Cid, root: Root) -> _Kept:
    data, damaged = read_stored(stores, cid)
    damage = [f"{what} in {folder} is not what its CID {cid} says" for folder in damaged]
    if data is not None:
        try:
            check_state_root(what, decode_state(data), root)
        except (MalformedInput, RootMismatch) as wrong:
            damage.append(str(wrong))
    word = "damaged" if damage else "intact" if data is not None else "not kept"
    return _Kept(word, tuple(damage))


def _read_description(run: RunData, summary: RoundSummary, unit: UnitSummary) -> UnitDescription:
    description = UnitDescription.from_bytes(run.fetcher.fetch(unit.cid))
    description.check(
        UnitId(unit.unit), Root(unit.root), Root(unit.contribution), Root(summary.start_root), run.parameters.segments
    )
    return description


def _merge_again(run: RunData, stores: Sequence[BlockStore], summary: RoundSummary, backend: str, threads: int) -> str:
    """Average the round's attested units anew, if their end states are still kept: same, DIFFERENT, or why not."""
    if not summary.merged:
        return "there was none"
    attested = sorted((u for u in summary.units if u.status == Status.ATTESTED.name), key=lambda u: u.unit)
    states = []
    for unit in attested[: run.parameters.max_merge]:
        end = _read_description(run, summary, unit).states[-1]
        data, _ = read_stored(stores, end.cid)
        if data is None:
            return "not repeated, its units' end states are no longer kept"
        state = decode_state(data)
        check_state_root("contribution", state, end.state_root)
        states.append(state)
    merged = run.programs.run_merge(list(states), backend=backend, threads=threads)
    return "same" if merkle.state_root(merged) == summary.end_root else "DIFFERENT"
