"""The demo from start to end."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence

import torch
from rich.console import Console

from cupel.archive import RunArchive
from cupel.chain.client import ChainClient
from cupel.chain.run_contract import RunContract, TokenContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Phase, Status
from cupel.demo.maturing import hold_round, let_mature
from cupel.demo.observer import Observer
from cupel.demo.preparation import Party, build_text, deploy, make_parties, prepare_programs
from cupel.demo.processes import Fleet, ManagedProcess
from cupel.demo.report import Balance, Report, draw_curve, print_report
from cupel.demo.settings import DemoSettings
from cupel.demo.verdicts import Conviction, read_convictions, wait_for_verdicts
from cupel.demo.view import Picture, View
from cupel.protocol.arithmetic.cuda_backend import find_device
from cupel.protocol.errors import ChainRefused, Unavailable, UsageError
from cupel.protocol.training.generation import generate
from cupel.protocol.training.state import weights_of

START_TIMEOUT_S = 90.0
LOOK_S = 0.5
VERDICTS_TIMEOUT_S = 240.0
"""For disputes about the last round's units: each takes some twenty blocks, and on a busy machine minutes."""
FUNDING_ETH = 1000
CONTESTED = frozenset({Status.DISPUTED.name, Status.CONVICTED.name})


def run_demo(settings: DemoSettings) -> Report:
    """Play the demo and print its report.

    Raises  UsageError, BackendUnfit, ProcessDied; the processes are stopped whatever happens
    """
    if settings.backend == "cuda":
        find_device()  # before a folder and a chain are made for nothing
    began = time.monotonic()
    torch.set_num_threads(1)
    settings.folder.mkdir(parents=True, exist_ok=True)
    archive = RunArchive(settings.folder)
    deployer, parties, password_file = make_parties(settings)
    view = View({party.signer.address.lower(): party.name for party in parties})
    # What nodes note for their user, such as the folder a key plays from, is the demo's own and made anew: a copied
    # folder is another demo, with another chain.
    user = settings.folder / "user"
    shutil.rmtree(user, ignore_errors=True)
    with view, Fleet(settings.folder / "logs", {"XDG_DATA_HOME": str(user)}) as fleet:
        goes_on = archive.run_file.exists()
        _check_parties(archive, settings, goes_on)
        accounts = [deployer.address, *(party.signer.address for party in parties)]
        chain = fleet.start(
            "chain", "cupel", "chain", "--data", str(settings.folder / "chain"), "--port", _port_of(archive, "chain"),
            "--block-time", str(settings.block_time_s), "--allow-skip",
            *(part for account in accounts for part in ("--fund", f"{account}={FUNDING_ETH}")),
        )  # fmt: skip
        data = build_text(settings, view.say)
        if not goes_on:
            prepared = prepare_programs(settings, view.say)
        rpc = chain.read_line(START_TIMEOUT_S)
        source = fleet.start("source", "cupel", "data", "serve", str(data.path), "--port", _port_of(archive, "source"))
        source_url = _url_in(source.read_line(START_TIMEOUT_S))
        client = ChainClient(rpc, deployer)
        if goes_on:
            run = RunFile.read(archive.run_file)
            view.say(f"Going on with run {run.contract} after {len(list(archive.rounds()))} rounds")
        else:
            run = deploy(settings, archive, prepared, client, source_url, view.say)
        nodes = [_start_node(fleet, settings, party, rpc, source_url, str(password_file), archive) for party in parties]
        view.say(f"Started {len(fleet.processes)} processes: {', '.join(p.name for p in fleet.processes)}")
        contract = RunContract(client, run.contract)
        observer = Observer(settings, archive, contract)
        _watch(settings, view, fleet, nodes, client, contract, observer)
        honest = [
            node for node, party in zip(nodes, parties, strict=True) if party.program == "miner" and not party.lies
        ]
        hold_round(contract, honest, settings.block_time_s)
        lies = [u.unit for r in observer.finished for u in r.units if u.status in CONTESTED]
        view.say(f"Waiting for the court about {len(lies)} units that were left out ...")
        wait_for_verdicts(client, run, lies, VERDICTS_TIMEOUT_S)
        convictions = read_convictions(client, run)
        skipped = let_mature(fleet, client, run, parties, view.say)
        report = _report(
            settings, parties, contract, TokenContract(client, run.token), observer, convictions, skipped, began
        )
        client.close()
    draw_curve([report.genesis_loss, *(one.held_out_loss for one in report.rounds)], settings.folder / "loss.png")
    console = Console(width=max(110, Console().width)) if not Console().is_terminal else Console()
    print_report(report, console)
    with (settings.folder / "summary.txt").open("w", encoding="utf-8") as file:
        print_report(report, Console(file=file, width=120))
    return report


def _check_parties(archive: RunArchive, settings: DemoSettings, goes_on: bool) -> None:
    if goes_on:
        parameters = archive.read_parameters()
        if settings.miners < parameters.min_miners or settings.verifiers < parameters.min_verifiers:
            raise UsageError(
                f"the run in {settings.folder} was made for {parameters.min_miners} miners and "
                f"{parameters.min_verifiers} verifiers; with fewer no round opens"
            )


def _port_of(archive: RunArchive, what: str) -> str:
    """Any free port for a new run; the run file's own when going on, because members find the source there."""
    if what == "source" and archive.run_file.exists():
        match = re.search(r":(\d+)$", RunFile.read(archive.run_file).sources[0])
        if match is not None:
            return match[1]
    return "0"


def _url_in(line: str) -> str:
    match = re.search(r"http://\S+", line)
    assert match is not None, f"no URL in {line!r}"
    return match[0].rstrip("/.,")


def _start_node(
    fleet: Fleet, settings: DemoSettings, party: Party, rpc: str, source: str, password_file: str, archive: RunArchive
) -> ManagedProcess:
    arguments = [
        "--run", str(archive.run_file), "--rpc", rpc, "--keystore", str(party.keystore),
        "--password-file", password_file, "--data", str(settings.folder / party.name), "--peers", source,
        "--backend", settings.backend, "--json-log", "--on-stop", "quit",
    ]  # fmt: skip
    if party.lies:
        arguments += ["--fault", "perturb"]
    if party.name == "verifier-1":
        arguments += ["--watch", "all"]
    return fleet.start(party.name, party.program, *arguments)


def _watch(
    settings: DemoSettings,
    view: View,
    fleet: Fleet,
    nodes: Sequence[ManagedProcess],
    client: ChainClient,
    contract: RunContract,
    observer: Observer,
) -> None:
    """Show the run until the wanted rounds have ended."""
    seen_before = len(observer.finished)
    wanted = seen_before + settings.rounds
    picture = Picture(rounds_wanted=wanted, genesis_loss=observer.genesis_loss, finished=observer.finished)
    view.say(f"Held-out loss before training {observer.genesis_loss:.4f} nats a token")
    next_round = observer.finished[-1].round + 1 if observer.finished else 0
    while len(observer.finished) < wanted:
        fleet.check()
        try:
            current = contract.current()
            while current.round > next_round or (current.round == next_round and current.phase == Phase.ENDED):
                peers = [p.endpoint for p in contract.participants() if p.endpoint]
                summary = observer.collect(next_round, peers)
                view.say(view.describe_round(summary))
                if not summary.units:
                    # Nobody was there to work: its time was skipped at the end of an earlier demo.
                    wanted += 1
                    picture.rounds_wanted = wanted
                next_round += 1
                if len(observer.finished) >= wanted:
                    break
        except (Unavailable, ChainRefused) as trouble:
            view.say(f"[yellow]{trouble}[/yellow]")
            time.sleep(LOOK_S)
            continue
        picture.round, picture.phase = current.round, current.phase.name
        picture.height = client.head().number
        picture.nodes = {node.name: node.read_stat() for node in nodes}
        view.show(picture)
        time.sleep(LOOK_S)


def _report(
    settings: DemoSettings,
    parties: Sequence[Party],
    contract: RunContract,
    token: TokenContract,
    observer: Observer,
    convictions: Sequence[Conviction],
    skipped: int,
    began: float,
) -> Report:
    run = observer.run
    end = observer.finished[-1].round + 2
    balances = []
    for party in parties:
        address = party.signer.address
        member = contract.member_of(address)
        balances.append(
            Balance(
                name=f"{party.name}{' (liar)' if party.lies else ''}",
                address=address,
                tokens=token.balance_of(address),
                pending=sum(entry.tokens for entry in contract.claimable(address, 0, end)),
                free_wei=member.deposit - member.locked,
                locked_wei=member.locked,
            )
        )
    weights = weights_of(observer.read_final_state())
    prompt = run.encode_text(settings.prompt)
    tokens = list(
        generate(
            run.programs.sample, weights, prompt, settings.sample_tokens,
            seed=observer.finished[-1].end_root, temperature=settings.temperature, backend=settings.backend,
        )
    )  # fmt: skip
    return Report(
        folder=settings.folder,
        names={party.signer.address.lower(): party.name for party in parties},
        liars=[party.signer.address for party in parties if party.lies],
        genesis_loss=observer.genesis_loss,
        rounds=observer.finished,
        convictions=convictions,
        balances=balances,
        supply=token.total_supply(),
        skipped=skipped,
        prompt=settings.prompt,
        sample=run.decode_tokens(prompt + tokens)[len(run.decode_tokens(prompt)) :],
        seconds=time.monotonic() - began,
    )
