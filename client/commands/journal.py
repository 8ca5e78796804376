"""`cupel journal`: what a node has said, to look at and to take to another machine."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import click

from cupel.chain.keys import write_private_file
from cupel.node.journal import FILE_NAME, Journal, Statement, exported_identity, read_export, read_identity
from cupel.node.ownership import hold_folder
from cupel.protocol.errors import UsageError

_DATA = click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="The miner's or verifier's folder (its --data)."
)


@click.group()
def journal() -> None:
    """What a node has said: one answer to each question, written down before it was signed.

    Take it along when a key moves to another machine: without it the node could contradict itself there.
    """


@journal.command()
@_DATA
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(data: Path, as_json: bool) -> None:
    """List the journal's statements, oldest first."""
    with Journal(data, read_identity(data), read_only=True) as opened:
        if as_json:
            click.echo(json.dumps(opened.export(), indent=2))
            return
        statements = opened.statements()
        click.echo(f"{opened.identity}: {len(statements)} statements in {opened.path}")
        for one in statements:
            click.echo(_line(one))


def _line(one: Statement) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.time_s))
    about = f"round {int.from_bytes(one.subject, 'big')}" if len(one.subject) == 8 else f"unit 0x{one.subject.hex()}"
    return f"{when}  {one.duty:<11}  {about}  0x{one.content.hex()[:64]}"


@journal.command(name="export")
@_DATA
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export_(data: Path, file: Path) -> None:
    """Write all statements to FILE (JSON, a new file). Stop the node first, so that nothing is added afterwards."""
    with hold_folder(data), Journal(data, read_identity(data), read_only=True) as opened:
        content = opened.export()
        write_private_file(file, json.dumps(content, indent=2).encode() + b"\n")
        click.echo(f"{len(content['statements'])} statements of {opened.identity} written to {file}")


@journal.command(name="import")
@_DATA
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def import_(data: Path, file: Path) -> None:
    """Add FILE's statements to the journal in --data, or begin one there. All or none; a contradiction is refused."""
    exported = read_export(file)
    with ExitStack() as stack:
        stack.enter_context(hold_folder(data))
        whose = read_identity(data) if (data / FILE_NAME).exists() else exported_identity(exported)
        if whose != exported_identity(exported):
            raise UsageError(f"{file} is of {exported_identity(exported)}, the journal in {data} of {whose}")
        opened = stack.enter_context(Journal(data, whose))
        new = opened.import_(exported)
        click.echo(f"{new} statements added, {opened.count()} in all, to the journal of {opened.identity} in {data}")
