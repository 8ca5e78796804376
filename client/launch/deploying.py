"""`cupel network deploy`: look at the chain, say what it costs, deploy, and write the file others join by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from cupel.archive import RunArchive
from cupel.chain.bytecode import get_creation
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import (
    find_court_creation_problem,
    find_court_differences,
    find_time_problem,
    read_court,
)
from cupel.chain.deployment import Cost, Deployer, Plan, Progress
from cupel.chain.fees import GWEI, FeePolicy
from cupel.chain.keys import load_account
from cupel.chain.outbox import Outbox
from cupel.chain.run_contract import BeaconContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import ZERO_ADDRESS, Parameters
from cupel.chain.suitability import find_beacon_problem, find_chain_problem, look_at_beacon
from cupel.launch.court import find_court_oddities
from cupel.launch.parameter_file import LaunchParameters
from cupel.launch.preparation import Prepared
from cupel.launch.units import format_amount, format_decimal
from cupel.node.signers import get_password
from cupel.protocol.errors import ChainRefused, MalformedInput, UsageError
from cupel.protocol.types import Wei

Say = Callable[[str], None]


def deploy_network(
    chosen: LaunchParameters,
    rpc: Sequence[str],
    keystore: Path,
    password: tuple[Path | None, int | None],
    *,
    max_fee_wei: int,
    say: Say,
    confirm: Callable[[str], object] | None,
) -> RunFile:
    """Deploy, or go on deploying, the run a parameter file decides; `run.json` is in its folder afterwards.

    password   file and descriptor to read the key's password from
    confirm    asks, and raises to end it; None: nobody is asked

    Raises   UsageError: the chain is unsuitable or another one, the key has too little, a run is there already
             WrongChain, ChainUnreachable, ChainRefused, DeploymentDiffers
    """
    archive = RunArchive(chosen.folder)
    if archive.run_file.exists():
        raise UsageError(
            f"{archive.run_file} is there already: this folder's run is deployed. Another run takes another run.folder"
        )
    prepared = Prepared.read(chosen.folder, chosen.config, None if chosen.source is None else chosen.source.text)
    addresses = {"beacon": chosen.beacon or ZERO_ADDRESS, "court": chosen.court.address or ZERO_ADDRESS}
    plan = Plan(
        parameters=prepared.make_parameters(**chosen.contract, **addresses),
        token_name=chosen.token_name,
        token_symbol=chosen.token_symbol,
        brings_beacon=chosen.beacon is not None,
        court=chosen.court.clocks,
        court_creation=chosen.court.transaction,
    )
    # Questions that need no key come first: nobody types a password for nothing.
    with closing(ChainClient(rpc, chain_id=chosen.chain_id)) as reader:
        check_chain(reader, chosen, say)
        check_court(reader, chosen, plan.parameters, say)
    signer = load_account(keystore, get_password(*password, what=f"Password of {keystore}"))
    outbox = Outbox(chosen.folder / "deployment" / "outbox.sqlite3")
    client = ChainClient(
        rpc,
        signer,
        chain_id=chosen.chain_id,
        receipt_depth=chosen.confirmations,
        receipt_timeout_s=max(180.0, 20 * chosen.confirmations * chosen.block_seconds),
        fees=FeePolicy(max_fee_wei=max_fee_wei),
        outbox=outbox,
        notify=say,
    )
    try:
        with client.hold_key(f"cupel network deploy in {chosen.folder}"):
            client.recover()
            progress = Progress.open(chosen.folder / "deployment" / "progress.json", client.chain_id, client.address)
            deployer = Deployer(client, plan, progress, say)
            cost = deployer.estimate()
            say(describe_cost(cost))
            if cost.missing_wei:
                raise UsageError(
                    f"{client.address} has {format_amount(cost.balance_wei)} on chain {client.chain_id}: "
                    f"{format_amount(cost.missing_wei)} are missing. Send them there and start again"
                )
            if confirm is not None:
                confirm(f"Deploy from {client.address} on chain {client.chain_id}?")
            deployment = deployer.deploy()
    finally:
        client.close()
        outbox.close()
    run_file = RunFile.of(chosen.chain_id, deployment, chosen.sources, chosen.confirmations)
    archive.write_parameters(dataclasses.replace(plan.parameters, beacon=deployment.beacon, court=deployment.court))
    run_file.write(archive.run_file)
    return run_file


def describe_cost(cost: Cost) -> str:
    """One line."""
    price = format_decimal(Decimal(cost.price_wei) / GWEI)
    return (
        f"About {cost.gas:,} gas at {price} gwei: {format_amount(cost.expected_wei)}. "
        f"Nodes want {format_amount(cost.needed_wei)} to be there, in case it gets dearer"
    )


def check_court(client: ChainClient, chosen: LaunchParameters, parameters: Parameters, say: Say) -> None:
    """Raises UsageError where the court that is named is none of ours or its disputes may outlast the bonds; says what
    a careful member would ask about any."""
    clocks, address = chosen.court.clocks, chosen.court.address
    if clocks is None and address is None:
        say("The run has no court: nobody is ever convicted, and the verifiers' majority is believed")
        return
    if address is not None:
        at = f"{chosen.path}: court.address {address}"
        try:
            parts = read_court(client, address)
        except (ChainRefused, MalformedInput) as error:
            raise UsageError(f"{at} does not answer as a court does: {error}") from None
        clocks = parts.clocks
        problem = next(find_court_differences(client, parts), None) or find_time_problem(
            clocks,
            maturity_blocks=parameters.maturity_blocks,
            window_blocks=parameters.window_blocks,
            exit_blocks=parameters.exit_blocks,
        )
        digest = chosen.court.transaction
        if problem is None and digest is not None:
            problem = find_court_creation_problem(get_creation(client, digest), parts)
        if problem is not None:
            raise UsageError(f"{at}: {problem}")
        if digest is None:
            say("court.transaction is not given: members will be told that nobody knows what created this court")
    assert clocks is not None
    base = client.head().base_fee_wei
    price = Wei(base + client.suggest_tip(base))
    for name, oddity in find_court_oddities(clocks, parameters, chosen.block_seconds, price):
        say(f"{name}: {oddity}")


def check_chain(client: ChainClient, chosen: LaunchParameters, say: Say) -> None:
    """Raises UsageError where a run could not live there."""
    problem = find_chain_problem(client)
    if problem is None and chosen.beacon is None:
        problem = find_beacon_problem(look_at_beacon(client), chosen.contract["beacon_delay"])
    if problem is not None:
        raise UsageError(f"chain {client.chain_id} at {client.url}: {problem}")
    if chosen.beacon is not None:
        try:
            BeaconContract(client, chosen.beacon).value_at(client.head().number)
        except (ChainRefused, MalformedInput) as error:
            raise UsageError(f"run.beacon {chosen.beacon} does not answer as a beacon does: {error}") from None
        say(
            f"Every draw will come from {chosen.beacon}, which is none of ours. Members will ask who controls it: "
            "`cupel network check` fails until they accept it by name"
        )
