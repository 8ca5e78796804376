"""`cupel status`: a run as its folder, or its chain, tells it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from cupel.archive import RoundSummary, RunArchive
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Status
from cupel.node.json_fields import to_fields
from cupel.node.options import Urls
from cupel.node.records import ClaimRecord, History, OutcomeRecord, UnitRecord, VerdictRecord
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.chain_status import RunStatus

TOKEN_UNITS = 10**18


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("cupel-demo"), show_default=True,
    help="The run's folder.",
)  # fmt: skip
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="Ask the chain of this run file instead.")
@click.option("--rpc", type=Urls(), envvar="CUPEL_RPC", help="With --run: the chain's JSON-RPC URLs.")
@click.option("--address", "addresses", multiple=True, metavar="ADDRESS", help="With --run: show what it has there.")
@click.option("--keystore", type=click.Path(path_type=Path), help="With --run: show what this key has there.")
@click.option(
    "--rounds",
    "last_rounds",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="With --run: so many of the newest rounds.",
)
@click.option("--round", "number", type=click.IntRange(0), help="One round, with its units and verdicts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(
    folder: Path,
    run_path: Path | None,
    rpc: tuple[str, ...] | None,
    addresses: tuple[str, ...],
    keystore: Path | None,
    last_rounds: int,
    number: int | None,
    as_json: bool,
) -> None:
    """Show rounds, units, rewards and roots of a run.

    From the run's folder, without any network; or, with --run and --rpc, from its chain: phase, seats, rounds, and what
    an account has put down and earned.
    """
    if run_path is not None:
        _show_chain(run_path, rpc, addresses, keystore, last_rounds, number, as_json)
        return
    if addresses or keystore is not None:
        raise UsageError("--address and --keystore ask the chain: give --run and --rpc too")
    archive = RunArchive(folder)
    archive.check()
    rounds = list(archive.rounds()) if number is None else [archive.get_round(number)]
    run = RunFile.read(archive.run_file)
    if as_json:
        listed = [to_fields(one) for one in rounds]
        about = {"chain_id": run.chain_id, "contract": run.contract}
        click.echo(json.dumps(about | {"rounds": listed}, indent=2))
        return
    console = Console()
    console.print(
        f"Run {run.contract} on chain {run.chain_id}, {len(list(archive.rounds()))} rounds ended", highlight=False
    )
    if number is None:
        _print_rounds(console, rounds)
        _print_nodes(console, folder)
    else:
        _print_round(console, rounds[0])


def _show_chain(
    run_path: Path,
    rpc: tuple[str, ...] | None,
    addresses: tuple[str, ...],
    keystore: Path | None,
    last_rounds: int,
    number: int | None,
    as_json: bool,
) -> None:
    """Status from the chain."""
    from cupel.chain.client import ChainClient
    from cupel.chain.keys import read_keystore_address
    from cupel.chain_status import read_status
    from cupel.commands.wallet import parse_address

    if not rpc:
        raise UsageError("--run asks the chain: give its --rpc URL too")
    run = RunFile.read(run_path)
    wanted = [parse_address(one) for one in addresses]
    if keystore is not None:
        wanted.append(read_keystore_address(keystore))
    with closing(ChainClient(rpc, chain_id=run.chain_id)) as client:
        found = read_status(client, run, last_rounds=last_rounds, number=number, addresses=wanted)
    if as_json:
        click.echo(json.dumps(to_fields(found), indent=2))
    else:
        _print_chain(Console(), found)


def _print_chain(console: Console, found: RunStatus) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(f"Run {found.contract} on chain {found.chain_id}, block {found.block}")
    say(f"Round {found.round}, phase {found.phase}{f', until block {found.until}' if found.until else ''}")
    say(f"Supply {int(found.token_supply) / TOKEN_UNITS:.2f} CUP")
    _print_table(
        console,
        ("round", "units", "committed", "attested", "merged", "ended at", "start state"),
        [
            (
                str(one.round),
                str(one.units),
                str(one.committed),
                str(one.attested),
                "yes" if one.merged else "no",
                str(one.ended_at or "-"),
                f"0x{one.start_root.hex()[:16]}…",
            )
            for one in found.rounds
        ],
    )
    units = [unit for one in found.rounds for unit in one.list_of_units]
    if units:
        _print_table(
            console,
            ("unit", "status", "opened", "sealed", "agreed", "miner"),
            [
                (
                    f"0x{unit.unit.hex()[:8]}…",
                    unit.status,
                    "yes" if unit.opened else "no",
                    f"{unit.sealed}/{unit.verifiers}",
                    str(unit.agreed),
                    unit.miner,
                )
                for unit in units
            ],
        )
    _print_table(
        console,
        ("seat", "drawn", "leaving", "endpoint", "account"),
        [
            (one.role, str(one.frozen), "yes" if one.leaving else "no", one.endpoint or "-", one.account)
            for one in found.seats
        ],
    )
    for account in found.accounts:
        say("")
        say(f"{account.address}  {account.role}")
        put_down, locked = int(account.deposit_wei) / TOKEN_UNITS, int(account.locked_wei) / TOKEN_UNITS
        say(f"  deposit {put_down:.3f} ETH, locked {locked:.3f}")
        say(f"  wallet  {int(account.balance_wei) / TOKEN_UNITS:.3f} ETH, {int(account.tokens) / TOKEN_UNITS:.2f} CUP")
        say(
            f"  rewards {int(account.pending_tokens) / TOKEN_UNITS:.2f} CUP pending, "
            f"{int(account.claimable_tokens) / TOKEN_UNITS:.2f} claimable"
        )


def _print_table(console: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Numbers to the right; the last column, which is long, to the left."""
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[-1] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table, highlight=False)


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
