"""`cupel dispute prove`, `judge` and `trace`: what a person does from files."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cupel.node.options import Urls
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.disputes.archived import ArchivedRound
    from cupel.disputes.files import ProofFile
    from cupel.disputes.inputs import Draw, Work
    from cupel.disputes.judging import Verdict

_PATH = click.Path(path_type=Path)
_BACKENDS = click.Choice(["auto", "cpu", "torch", "cuda"])
_Command = TypeVar("_Command", bound=Callable[..., Any])

_FROM_FOLDER = (
    click.option("--dir", "folder", type=_PATH, default=Path("cupel-demo"), show_default=True, help="A run's folder."),
    click.option("--round", "number", type=click.IntRange(0), help="From the folder: the round."),
    click.option("--unit", help="Its number in `cupel status --round R`, or the start of its id."),
    click.option("--step", type=click.IntRange(0), help="A step of the unit, counted from 0."),
)
_FROM_FILES = (
    click.option("--program", type=_PATH, help="From files: the Program."),
    click.option("--state", "states", type=_PATH, multiple=True, help="State it starts from; of a merge, one each."),
    click.option("--batch", type=_PATH, help="A file of one tensor: the batch."),
    click.option("--data", type=_PATH, help="Instead of --batch: the run's data; with --seed, --unit and --step."),
    click.option("--seed", help="The round's seed, 0x and 64 digits."),
    click.option("--inputs", type=_PATH, help="A file of tensors named as the Program's inputs are."),
)


def _with(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command(short_help="Find the first wrong element of a result, and prove it.")
@_with(*_FROM_FOLDER)
@click.option("--segment", type=click.IntRange(0), help="Of the unit; the first wrong one if it is not given.")
@click.option("--merge", is_flag=True, help="The round's merge instead of a unit.")
@_with(*_FROM_FILES)
@click.option("--claimed", type=_PATH, help="The state (or other outputs) that is said to come out.")
@click.option("--trace", "trace_path", type=_PATH, help="Or the trace that was posted, as a trace file.")
@click.option("--values", type=_PATH, help="With --trace: tensors of it as they were posted, called by their numbers.")
@click.option("--out", type=_PATH, default=Path("proof.json"), show_default=True, help="Where the proof goes.")
@click.option("--check", is_flag=True, help="Judge the proof at once, as `cupel dispute judge` does.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Compute threads.")
@click.option("--backend", type=_BACKENDS, default="auto", show_default=True, help="Engine that repeats the steps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prove(
    folder: Path,
    number: int | None,
    unit: str | None,
    step: int | None,
    segment: int | None,
    merge: bool,
    program: Path | None,
    states: tuple[Path, ...],
    batch: Path | None,
    data: Path | None,
    seed: str | None,
    inputs: Path | None,
    claimed: Path | None,
    trace_path: Path | None,
    values: Path | None,
    out: Path,
    check: bool,
    threads: int,
    backend: str,
    as_json: bool,
) -> None:
    """Find the first wrong operation and element of a posted result, and write the proof of it.

    From a run's folder, `--round R --unit U` looks at the unit's segments and `--round R --merge` at the merge. From
    files, --program and what it reads say what should have been computed, --claimed or --trace what is said to have
    come out. Exit 0 if a proof was written, 1 if nothing is wrong or one element does not prove it.
    """
    from cupel.disputes.files import TraceFile, write_file
    from cupel.disputes.inputs import read_tensors
    from cupel.disputes.proving import Compared
    from cupel.disputes.telling import describe_finding, verdict_fields, verdict_line

    say = _progress(as_json)
    assumed = ""
    if claimed is not None and trace_path is not None:
        raise UsageError("--claimed and --trace are two ways to say what was posted: give one")
    if values is not None and trace_path is None:
        raise UsageError("--values holds what was posted of a trace: give its --trace too")
    if merge and (unit is not None or segment is not None):
        raise UsageError("--merge looks at the round's merge, --unit and --segment at a unit: give one")
    if (claimed is not None or trace_path is not None) and (merge or segment is not None):
        raise UsageError("--merge and --segment compare what the folder holds: not with --claimed or --trace")
    _check_place(out)
    if claimed is None and trace_path is None:
        if program is not None or step is not None:
            raise UsageError("nothing is claimed: give --claimed, a file of outputs, or --trace, a posted trace")
        archived = _open_round(folder, number, backend, threads, say)
        posted = archived.read_merge() if merge else archived.read_segment(_need_unit(unit, merge), segment)
        if posted is None:
            _end_unproved(as_json, None, "every segment that was looked at ends where it should: nothing is wrong")
            return
        assumed, work = posted.assumed, posted.work
        say(f"repeating {work.what}, every operation ...")
        compared = Compared(work)
        finding = compared.compare_outputs(posted.claimed, posted.source)
    else:
        work = _read_work(
            folder, number, unit, step, program, states, batch, data, seed, inputs, backend, threads, say
        )  # fmt: skip
        tensors = read_tensors(claimed) if claimed is not None else read_tensors(values) if values is not None else {}
        posted_trace = TraceFile.read(trace_path) if trace_path is not None else None
        say(f"repeating {work.what}, every operation ...")
        compared = Compared(work)
        if posted_trace is None:
            finding = compared.compare_outputs(tensors, str(claimed))
        else:
            finding = compared.compare_trace(posted_trace, tensors, str(values))
    if finding is None:
        _end_unproved(as_json, None, "nothing is wrong: every bit is what the Program gives")
        return
    facts, lines = describe_finding(compared, finding, work.what, assumed)
    if finding.file is None:
        _end_unproved(as_json, facts, f"no proof of one element: {finding.obstacle}", lines)
        return
    write_file(out, finding.file.to_text())
    verdicts = _judge_here(finding.file) if check else []
    size = len(finding.file.proof.to_bytes())
    if as_json:
        click.echo(json.dumps(facts | {"proof": str(out), "proof_bytes": size} | verdict_fields(verdicts), indent=2))
    else:
        for line in lines:
            click.echo(line)
        for verdict in verdicts:
            click.echo(verdict_line(verdict))
        click.echo(f"The proof is in {out} ({size:,} bytes). Judge it: cupel dispute judge {out}")
    sys.exit(0 if all(verdict.right is False for verdict in verdicts) else 1)


@click.command(short_help="Judge a proof, in Python and by the contract.")
@click.argument("file", type=_PATH)
@click.option("--rpc", type=Urls(), envvar="CUPEL_RPC", help="Ask the contract on this chain too.")
@click.option("--evaluator", metavar="ADDRESS", help="With --rpc: the Evaluator's address.")
@click.option("--run", "run_path", type=_PATH, help="With --rpc: this run's court says which Evaluator it asks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def judge(file: Path, rpc: tuple[str, ...] | None, evaluator: str | None, run_path: Path | None, as_json: bool) -> None:
    """Judge a proof: recompute its one element in Python and by the contract, executed in this process.

    With --rpc the deployed contract is asked as well, without a transaction. Nothing is believed but hashes: what the
    proof is about is read from the proof. Exit 0 if all find the claimed element wrong, so that the proof convicts;
    else 1.
    """
    from cupel.commands.wallet import parse_address
    from cupel.disputes.files import ProofFile
    from cupel.disputes.telling import describe_proof, sum_up, verdict_fields, verdict_line

    proved = ProofFile.read(file)
    if evaluator is not None:
        parse_address(evaluator)
    verdicts = _judge_here(proved)
    if evaluator is not None or run_path is not None:
        if rpc is None:
            raise UsageError("--evaluator and --run ask a chain: give --rpc too")
        verdicts.append(_judge_there(proved, rpc, evaluator, run_path))
    elif click.get_current_context().get_parameter_source("rpc") == ParameterSource.COMMANDLINE:
        # CUPEL_RPC alone asks for nothing: it is set for other commands.
        raise UsageError("--rpc: which contract? Give its run's file as --run, or its address as --evaluator")
    facts, lines = describe_proof(proved)
    if as_json:
        click.echo(json.dumps(facts | verdict_fields(verdicts), indent=2))
    else:
        for line in [*lines, *map(verdict_line, verdicts)]:
            click.echo(line)
        click.echo(sum_up(verdicts))
    sys.exit(0 if all(verdict.right is False for verdict in verdicts) else 1)


@click.command(short_help="Run a Program and write its trace.")
@_with(*_FROM_FOLDER, *_FROM_FILES)
@click.option("--out", type=_PATH, default=Path("trace.json"), show_default=True, help="Where the trace goes.")
@click.option("--value", "wanted", type=click.IntRange(0), multiple=True, help="Write this value too; repeatable.")
@click.option("--values", type=_PATH, help="Where values go.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Compute threads.")
@click.option("--backend", type=_BACKENDS, default="auto", show_default=True, help="Engine that repeats the steps.")
def trace(
    folder: Path,
    number: int | None,
    unit: str | None,
    step: int | None,
    program: Path | None,
    states: tuple[Path, ...],
    batch: Path | None,
    data: Path | None,
    seed: str | None,
    inputs: Path | None,
    out: Path,
    wanted: tuple[int, ...],
    values: Path | None,
    threads: int,
    backend: str,
) -> None:
    """Run a Program and write its trace: what every value hashes to.

    Two machines that disagree find the first operation that differs by `cupel dispute prove --trace`.
    """
    from cupel.disputes.files import TraceFile, write_file
    from cupel.disputes.proving import Compared
    from cupel.network.states import encode_state

    _check_place(out)
    if bool(wanted) != (values is not None):
        raise UsageError("--value says which values are written, --values where: give both or neither")
    say = _progress(False)
    work = _read_work(
        folder, number, unit, step, program, states, batch, data, seed, inputs, backend, threads, say
    )  # fmt: skip
    say(f"running {work.what}, every operation ...")
    compared = Compared(work)
    made = TraceFile(program=compared.program.root, leaves=compared.trace.tree.levels[0])
    beyond = [value for value in wanted if value >= len(made.leaves)]
    if beyond:
        raise UsageError(f"--value {beyond[0]}: the Program has values 0 to {len(made.leaves) - 1}")
    write_file(out, made.to_text())
    if values is not None:
        try:
            values.write_bytes(encode_state({str(value): compared.read(value) for value in wanted}))
        except OSError as error:
            raise UsageError(f"{values}: {error.strerror}") from error
    click.echo(f"{len(made.leaves)} values, trace 0x{made.root.hex()}, in {out}")


# Reading what was asked for


def _progress(quiet: bool) -> Callable[[str], None]:
    return (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))


def _check_place(path: Path) -> None:
    """Before minutes of computing, that there is a folder to write the result to. Raises UsageError."""
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(
            f"{path} cannot be written: {'it' if path.is_dir() else path.parent} is "
            f"{'a folder' if path.is_dir() else 'no folder'}"
        )


def _open_round(
    folder: Path, number: int | None, backend: str, threads: int, say: Callable[[str], None]
) -> ArchivedRound:
    import torch

    from cupel.disputes.archived import ArchivedRound

    if number is None:
        raise UsageError("say what was posted: --round with --unit or --merge, from a run's folder; or --program, ...")
    torch.set_num_threads(threads)
    return ArchivedRound(folder, number, backend=backend, threads=threads, say=say)


def _need_unit(unit: str | None, merge: bool = False) -> str:
    if unit is None:
        raise UsageError("which unit of the round? `cupel status --round R` lists them; or --merge for the merge")
    return unit


def _read_work(
    folder: Path, number: int | None, unit: str | None, step: int | None, program: Path | None,
    states: tuple[Path, ...], batch: Path | None, data: Path | None, seed: str | None, inputs: Path | None,
    backend: str, threads: int, say: Callable[[str], None],
) -> Work:  # fmt: skip
    """What should have been computed: a step from a run's folder, or a Program with its inputs."""
    from cupel.disputes.inputs import read_work

    if program is not None:
        draw = _read_draw(data, seed, unit, step)
        return read_work(program, states=states, batch=batch, inputs=inputs, draw=draw)
    if states or batch is not None or inputs is not None or data is not None:
        raise UsageError("--state, --batch, --data and --inputs are what a Program reads: give --program too")
    if step is None:
        raise UsageError("say which work: --program with what it reads; or --round, --unit and --step of a folder")
    return _open_round(folder, number, backend, threads, say).read_step(_need_unit(unit), step)


def _read_draw(data: Path | None, seed: str | None, unit: str | None, step: int | None) -> Draw | None:
    from cupel.disputes.inputs import Draw
    from cupel.protocol.types import Seed, UnitId

    if data is None:
        return None
    if seed is None or unit is None or step is None:
        raise UsageError("--data: which batch of it? Give the round's --seed, the --unit's whole id and the --step")
    return Draw(data=data, seed=Seed(_hash("--seed", seed)), unit=UnitId(_hash("--unit", unit)), step=step)


def _hash(option: str, text: str) -> bytes:
    if re.fullmatch("(0x)?[0-9a-fA-F]{64}", text) is None:
        raise UsageError(f"{option} {text[:80]}: expected 0x and 64 hexadecimal digits")
    return bytes.fromhex(text.removeprefix("0x"))


# Answering


def _end_unproved(as_json: bool, facts: dict[str, Any] | None, reason: str, lines: list[str] | None = None) -> None:
    if as_json:
        click.echo(json.dumps((facts or {}) | {"proof": None, "reason": reason}, indent=2))
    else:
        for line in lines or []:
            click.echo(line)
        click.echo(reason[0].upper() + reason[1:])
    sys.exit(1)


def _judge_here(file: ProofFile) -> list[Verdict]:
    from cupel.disputes.judging import judge_in_evm, judge_in_python

    return [judge_in_python(file), judge_in_evm(file)]


def _judge_there(file: ProofFile, rpc: tuple[str, ...], evaluator: str | None, run_path: Path | None) -> Verdict:
    from cupel.chain.client import ChainClient
    from cupel.chain.run_file import RunFile
    from cupel.commands.wallet import parse_address
    from cupel.disputes.history import find_court
    from cupel.disputes.judging import judge_on_chain

    if evaluator is not None and run_path is not None:
        raise UsageError("--evaluator and --run both name the contract to ask: give one")
    run = RunFile.read(run_path) if run_path is not None else None
    with closing(ChainClient(rpc, chain_id=run.chain_id if run is not None else None)) as client:
        address = find_court(client, run).evaluator() if run is not None else parse_address(evaluator or "")
        return judge_on_chain(file, client, address)
