"""`cupel leave`: out of a run, with everything that is one's own."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from cupel.node.options import Gwei, Urls

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--run", "run_path", type=_FILE, required=True, envvar="CUPEL_RUN", help="The run file.")
@click.option("--rpc", type=Urls(), required=True, envvar="CUPEL_RPC", help="The chain's JSON-RPC URLs.")
@click.option("--keystore", type=_FILE, required=True, envvar="CUPEL_KEYSTORE", help="Encrypted key file.")
@click.option("--password-file", type=_FILE, envvar="CUPEL_PASSWORD_FILE", help="Holds the key's password.")
@click.option("--password-fd", type=int, help="Read the password from this open file descriptor.")
@click.option("--max-fee", "max_fee_wei", type=Gwei(), default="500", show_default=True, help="Most per gas, in gwei.")
@click.option("--wait", is_flag=True, help="Stay until nothing is left in the run.")
@click.option("--look", "look_only", is_flag=True, help="Only say what there is; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def leave(
    run_path: Path,
    rpc: tuple[str, ...],
    keystore: Path,
    password_file: Path | None,
    password_fd: int | None,
    max_fee_wei: int,
    wait: bool,
    look_only: bool,
    as_json: bool,
) -> None:
    """Give up the key's seat, claim what is mature and withdraw the deposit; say what has to wait, and for which block.

    A miner or verifier that still runs is ended first, with --on-stop leave: it serves its last round out. May be
    repeated; it does what has become possible. Exit 0 once nothing is left in the run, 1 while something is.
    """
    from cupel.chain.client import ChainClient, FeePolicy
    from cupel.chain.keys import load_account
    from cupel.chain.outbox import Outbox
    from cupel.chain.paths import get_outbox_path
    from cupel.chain.run_contract import RunContract
    from cupel.chain.run_file import RunFile
    from cupel.leaving import look, take_home
    from cupel.node.signers import get_password

    run = RunFile.read(run_path)
    signer = load_account(keystore, get_password(password_file, password_fd))
    fees = FeePolicy(max_fee_wei=max_fee_wei)
    with (
        closing(Outbox(get_outbox_path())) as outbox,
        closing(ChainClient(rpc, signer, chain_id=run.chain_id, fees=fees, outbox=outbox)) as client,
        client.hold_key("cupel leave"),
    ):
        client.recover()
        contract = RunContract(client, run.contract)

        def say(done: str) -> None:
            click.echo(done, err=as_json)

        left = look(contract, signer.address) if look_only else take_home(client, contract, signer.address, say)
        while wait and not look_only and not left.is_done:
            client.wait_for_block(max(client.head().number + 1, left.next_block))
            left = take_home(client, contract, signer.address, say)
    if as_json:
        click.echo(json.dumps(asdict(left) | {"done": left.is_done}))
    elif left.is_done:
        click.echo("nothing of this key is left in the run")
    else:
        for reason in left.reasons:
            click.echo(f"waiting: {reason}")
    if not left.is_done:
        raise SystemExit(1)
