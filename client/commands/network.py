"""`cupel network`: prepare a run, deploy it on any chain, check one that somebody else deployed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cupel.node.options import Ether, Gwei, Urls
from cupel.protocol.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)

# Imports of torch and of the chain's parts wait until a command needs them: they take seconds.


@click.group()
def network() -> None:
    """Prepare a run, deploy it on any chain, check one that somebody else deployed.

    A run is decided by one parameter file; docs/networks/parameters.example.toml explains every key.
    """


@network.command()
@click.argument("parameters", type=_FILE)
@click.option("--from-state", metavar="CID/ROOT", help="Begin with an earlier run's state instead of a fresh one.")
@click.option("--peers", type=Urls(), default=(), help="Whom to fetch that state from.")
@click.option("--backend", default="auto", show_default=True, help="Engine that computes the first state.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prepare(parameters: Path, from_state: str | None, peers: tuple[str, ...], backend: str, as_json: bool) -> None:
    """Trace the Programs of the model in PARAMETERS and store everything the contract will name.

    Needs the data of `cupel data build` in data/ of the run's folder. Afterwards `cupel data serve FOLDER/data` serves
    all that members of the run fetch.
    """
    from cupel.launch.parameter_file import read_parameter_file
    from cupel.launch.preparation import parse_from_state
    from cupel.launch.preparation import prepare as prepare_run

    chosen = read_parameter_file(parameters)
    start = chosen.genesis_seed if from_state is None else parse_from_state(from_state, peers or chosen.sources)
    prepared, _ = prepare_run(chosen.folder, chosen.config, start, _say, source=chosen.source, backend=backend)
    table = {
        "folder": str(chosen.folder),
        "programs_root": f"0x{prepared.programs_root.hex()}",
        "data_root": f"0x{prepared.data_root.hex()}",
        "genesis_root": f"0x{prepared.genesis_root.hex()}",
        "genesis": prepared.genesis,
        "manifest": prepared.manifest,
    }
    click.echo(json.dumps(table) if as_json else "\n".join(f"{name:<15}{value}" for name, value in table.items()))
    _say(f"serve it with: cupel data serve {chosen.folder / 'data'}")


def _key_options(function: Command) -> Command:
    options = (
        click.option("--keystore", type=_FILE, required=True, help="Encrypted key file of whoever pays."),
        click.option("--password-file", type=_FILE, help="Holds the key's password. [default: ask on the terminal]"),
        click.option("--password-fd", type=int, help="Read the password from this open file descriptor."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@network.command()
@click.argument("parameters", type=_FILE)
@click.option("--rpc", type=Urls(), required=True, help="The chain's JSON-RPC URL; several, and one may fail.")
@_key_options
@click.option(
    "--max-fee", "max_fee_wei", type=Gwei(), default="500", show_default=True, help="Most to pay per gas, in gwei."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the run file as one JSON object.")
def deploy(
    parameters: Path,
    rpc: tuple[str, ...],
    keystore: Path,
    password_file: Path | None,
    password_fd: int | None,
    max_fee_wei: int,
    yes: bool,
    as_json: bool,
) -> None:
    """Deploy the run PARAMETERS decides and write run.json, the file others join by.

    Looks at the chain first, says what it will cost at the current gas price, and asks. Killed at any moment, it goes
    on where it was when it is started again. Whoever deploys has no rights in the run.
    """
    from cupel.launch.deploying import deploy_network
    from cupel.launch.parameter_file import read_parameter_file

    chosen = read_parameter_file(parameters)
    if not yes and not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: look at the cost on one, or give --yes")
    confirm = None if yes else (lambda question: click.confirm(question, abort=True, err=True))
    run_file = deploy_network(
        chosen, rpc, keystore, (password_file, password_fd), max_fee_wei=max_fee_wei, say=_say, confirm=confirm
    )
    path = chosen.folder / "run.json"
    click.echo(json.dumps(run_file.to_table()) if as_json else str(path))
    _say(f"others join with {path} and an RPC URL; check it with: cupel network check {path} --rpc {rpc[0]}")


@network.command()
@click.argument("run_file", type=_FILE)
@click.option("--rpc", type=Urls(), required=True, help="The chain's JSON-RPC URL; best your own node's.")
@click.option("--offline-data", is_flag=True, help="Do not fetch manifest, programs, data and first state.")
@click.option(
    "--unit-cost",
    "unit_cost_wei",
    type=Ether(),
    help="ETH that computing one unit costs you: warns where the fee for hidden work is too small for it.",
)
@click.option("--accept-beacon", metavar="ADDRESS", help="A beacon that is none of ours and that you have read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    run_file: Path,
    rpc: tuple[str, ...],
    offline_data: bool,
    unit_cost_wei: int | None,
    accept_beacon: str | None,
    as_json: bool,
) -> None:
    """Check a run that somebody else deployed: bytecode, parameters, wiring, no privilege, files.

    Exit 0 if nothing failed, 1 if something did: one line each. Warnings are for you to judge.
    """
    from cupel.chain.client import ChainClient
    from cupel.chain.run_file import RunFile
    from cupel.launch.checking import describe_entry, describe_parameters, inspect
    from cupel.launch.court import describe_court
    from cupel.protocol.types import Address, Wei

    described = RunFile.read(run_file)
    client = ChainClient(rpc, chain_id=described.chain_id)
    accepted = None if accept_beacon is None else Address(accept_beacon)
    try:
        cost = None if unit_cost_wei is None else Wei(unit_cost_wei)
        found = inspect(client, described, with_data=not offline_data, accepted_beacon=accepted, unit_cost=cost)
    finally:
        client.close()
    shown = []
    if found.parameters is not None:
        shown = [*describe_parameters(found.parameters, found.block_seconds), *describe_entry(found.parameters)]
        shown += describe_court(found.court, found.parameters, found.block_seconds, found.base_fee_wei)
    if as_json:
        table = {
            "run": described.contract,
            "checks": [{"name": c.name, "verdict": c.verdict, "what": c.what} for c in found.checks],
            "failed": len(found.failed),
            "parameters": dict(shown),
            "round": found.round,
            "state": found.state,
        }
        click.echo(json.dumps(table))
    else:
        for name, value in shown:
            click.echo(f"  {name:<22}{value}")
        if found.state is not None:
            click.echo(f"  {'round':<22}{found.round}\n  {'state':<22}{found.state}")
        for one in found.checks:
            click.echo(f"{one.verdict:<8}{one.name}: {one.what}")
    sys.exit(1 if found.failed else 0)


def _say(line: str) -> None:
    click.echo(line, err=True)
