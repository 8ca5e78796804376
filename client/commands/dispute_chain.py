"""`cupel dispute list` and `show`: a run's disputes as its chain tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cupel.node.json_fields import to_fields
from cupel.node.options import Urls
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.chain.court_events import DisputeRecord
    from cupel.disputes.history import CourtReader, DisputeSummary

_PATH = click.Path(path_type=Path)
_ETHER = 10**18
_IN_THE_DATA = "what the run's data has there"
_LONG = "another"
_RUN = click.option("--run", "run_path", type=_PATH, help="The run file.  [default: run.json in --dir]")
_DIR = click.option(
    "--dir", "folder", type=_PATH, default=Path("cupel-demo"), show_default=True, help="A run's folder."
)
_RPC = click.option("--rpc", type=Urls(), envvar="CUPEL_RPC", help="The chain's JSON-RPC URLs.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("list", short_help="List a run's disputes.")
@_DIR
@_RUN
@_RPC
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@click.option("--address", metavar="ADDRESS", help="Only those in which this account accuses or is accused.")
@_JSON
def list_disputes(
    folder: Path,
    run_path: Path | None,
    rpc: tuple[str, ...] | None,
    only_open: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """List a run's disputes: who accuses whom of what, whose turn it is, and how it ended."""
    from cupel.commands.wallet import parse_address
    from cupel.disputes.history import summarise

    party = parse_address(address) if address is not None else None
    with _open_court(folder, run_path, rpc) as court:
        height = court.height
        found = [summarise(record, height) for record in court.list_disputes()]
    shown = [
        one for one in found
        if not (only_open and one.ending) and (party is None or party in (one.accused, one.challenger))
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps({"block": height, "disputes": [to_fields(one) for one in shown]}, indent=2))
        return
    if not shown:
        left_out = f" that is asked for, of {len(found)}" if found else ""
        click.echo(f"No dispute{left_out}, as of block {height}")
        return
    for one in shown:
        click.echo(f"dispute {one.dispute}  {_stands(one)}")
        click.echo(f"  about       {_about(one)}")
        click.echo(f"  accused     {one.accused}")
        click.echo(f"  challenger  {one.challenger}, since block {one.opened_at}")


@click.command("show", short_help="Show a dispute, move by move.")
@click.argument("number", type=click.IntRange(1), metavar="DISPUTE")
@_DIR
@_RUN
@_RPC
@click.option("--save", type=_PATH, help="Write the proof that ended it, for `cupel dispute judge`.")
@_JSON
def show_dispute(
    number: int, folder: Path, run_path: Path | None, rpc: tuple[str, ...] | None, save: Path | None, as_json: bool
) -> None:
    """Show one dispute: every move with its block and transaction, and what it ended with.

    Where an operation's element was judged, its proof is read from the chain and recomputed here.
    """
    from cupel.disputes.files import write_file
    from cupel.disputes.history import summarise, tell_moves

    with _open_court(folder, run_path, rpc) as court:
        record, height = court.get_dispute(number), court.height
        summary, moves = summarise(record, height), tell_moves(record)
        verdict, lines = _tell_verdict(court, record)
        judged = court.find_judged(record) if save is not None else None
    if save is not None:
        if judged is None:
            raise UsageError(f"dispute {number} did not end with an operation's element: there is no proof to save")
        write_file(save, judged.file.to_text())
    if as_json:
        listed = [to_fields(move) for move in moves]
        click.echo(json.dumps(to_fields(summary) | {"block": height, "moves": listed, "verdict": verdict}, indent=2))
        return
    click.echo(f"Dispute {number} about {_about(summary)}, as of block {height}")
    click.echo(f"  accused     {summary.accused}")
    click.echo(f"  challenger  {summary.challenger}, bond {_ether(int(summary.bond_wei))}")
    click.echo(f"  {_stands(summary)}")
    click.echo("Moves")
    for move in moves:
        click.echo(f"  block {move.height}  {move.by:<10}  {move.text}")
        click.echo(f"  {'':<{len(str(move.height)) + 6}}  {'':<10}  0x{move.transaction.hex()}")
    for line in lines:
        click.echo(line)
    if save is not None:
        click.echo(f"The proof is in {save}. Judge it: cupel dispute judge {save}")


@contextmanager
def _open_court(folder: Path, run_path: Path | None, rpc: tuple[str, ...] | None) -> Iterator[CourtReader]:
    from cupel.chain.client import ChainClient
    from cupel.chain.run_file import RunFile
    from cupel.disputes.history import CourtReader

    path = run_path if run_path is not None else folder / "run.json"
    if run_path is None and not path.is_file():
        raise UsageError(f"{folder} holds no run: name its folder as --dir, or its run file as --run")
    if not rpc:
        raise UsageError("disputes are read from the chain: give its --rpc URL")
    run = RunFile.read(path)
    client = ChainClient(rpc, chain_id=run.chain_id)
    try:
        yield CourtReader(client, run)
    finally:
        client.close()


def _about(one: DisputeSummary) -> str:
    return f"{one.kind} 0x{one.subject.hex()}" + (f", segment {one.segment}" if one.kind == "unit" else "")


def _stands(one: DisputeSummary) -> str:
    if one.ending:
        return one.ending
    doing = one.stage.lower().replace("_", " ")
    if one.blocks_left == 0:
        return f"{one.mover}'s turn ({doing}), and its time is out since block {one.until}: anybody may end it"
    blocks = f"{one.blocks_left} block{'' if one.blocks_left == 1 else 's'}"
    return f"{one.mover}'s turn ({doing}): {blocks} left, until block {one.until}"


def _ether(wei: int) -> str:
    return f"{wei / _ETHER:.6g} ETH"


def _tell_verdict(court: CourtReader, record: DisputeRecord) -> tuple[dict[str, Any] | None, list[str]]:
    """What ended the dispute, as JSON and in words; None and nothing while it is open."""
    from cupel.disputes.history import tell_ending
    from cupel.disputes.judging import read_proof
    from cupel.disputes.wording import show_element, show_operation, show_place

    ending = record.ending
    if ending is None:
        return None, []
    facts: dict[str, Any] = {"text": tell_ending(record), "convicted": ending.convicted, "height": ending.block_number}
    lines = ["Verdict", f"  {tell_ending(record)}"]
    judged, opened = court.find_judged(record), court.find_opened(record)
    shown = read_proof(judged.file) if judged is not None else None
    element = court.find_element(record)
    if opened is not None and element is not None:
        place = show_place(opened.type.shape, element)
        found = record.position.found
        value = found.index if found is not None else ending.value
        facts |= {"value": value, "name": opened.name, "type": str(opened.type)}
        facts |= {"element": element, "index": place, "claimed": show_element(opened.type.dtype, opened.claimed)}
        if judged is not None and shown is not None:
            facts |= {"operation": judged.number, "opcode": shown.operation.opcode.name}
            facts["right"] = show_element(opened.type.dtype, shown.right)
            lines.append(f"  value         {value}: operation {judged.number} of the Program")
            lines.append(f"  operation     {show_operation(shown.operation)}")
        else:
            lines.append(f"  value         {value}: {opened.name}, {opened.type}")
            unseen = _LONG if opened.computed else _IN_THE_DATA
            facts["right"] = unseen if ending.convicted else facts["claimed"]
        lines.append(f"  element       {f'{place}, ' if place else ''}number {element}")
        lines.append(f"    claimed     {facts['claimed']}")
        lines.append(f"    right       {facts['right']}")
        decision = court.tell_decision(record)
        if decision:
            facts["decided_by"] = decision
            lines.append(f"    decided by  {decision}")
    money = record.events[-1].arguments
    if ending.convicted:
        facts |= {"prize_wei": str(ending.prize_wei), "finder": ending.finder}
        lines.append(f"  prize         {_ether(ending.prize_wei)} to {ending.finder}, who accused it first")
        lines.append(f"  bond          {_ether(record.bond_wei)} back to {record.challenger}")
    elif not ending.closed:
        facts |= {"repaid_wei": str(money["repaid"]), "burned_wei": str(money["burned"])}
        repaid, burned = _ether(money["repaid"]), _ether(money["burned"])
        lines.append(f"  bond          {repaid} to {record.accused} for its gas, {burned} burned")
    return facts, lines
