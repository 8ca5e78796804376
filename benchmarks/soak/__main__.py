"""The command: `python -m soak`, with `benchmarks` and `tests` on the path."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
from machine import describe
from network_world import World, open_world

from soak import partitions
from soak.calm import recompute
from soak.ledger import Ledger
from soak.losses import count_losses
from soak.observer import Observer
from soak.parties import Party
from soak.partitions import Cable, SmallDisk
from soak.proxies import Proxy, ProxyServer
from soak.report import Report
from soak.running import Plan, Soak
from soak.wire import Wire

MINERS, VERIFIERS = ("miner-1", "miner-2", "miner-3"), ("verifier-1", "verifier-2", "verifier-3")
VETERANS = frozenset({"miner-3", "verifier-3"})
SMALL_DISKS = frozenset({"miner-2", "verifier-2"})
GUEST, LIAR = "guest", "liar"
DISK_BYTES = 96 << 20
ROOM_BYTES = 2 << 30
PORT = 8700
PARAMETERS = {
    "min_miners": 3,
    "max_miners": 8,
    "min_verifiers": 3,
    "segments": 3,
    "max_units": 8,
    "max_merge": 4,
    "train_blocks": 120,
    "seal_blocks": 400,
    "open_blocks": 400,
    "merge_blocks": 400,
    "acknowledge_blocks": 400,
    "maturity_blocks": 20,
    "window_blocks": 24,
    "exit_blocks": 10,
    "work_target": 4,
    "halving_rounds": 100,
}
"""Windows of 400 blocks: whoever is back within them has lost nothing. Training has fewer, because a round waits there
for the work of a guest that has left."""


@click.command()
@click.option("--rounds", default=50, show_default=True, help="At least so many rounds under faults.")
@click.option("--faults", default=1000, show_default=True, help="At least so many faults that hit.")
@click.option("--seed", default=1, show_default=True, help="Of the schedule.")
@click.option("--block-time", "block_time_s", default=0.25, show_default=True, help="Seconds between blocks.")
@click.option("--pause", "pause_s", default=0.8, show_default=True, help="Seconds between faults, on average.")
@click.option(
    "--limit", "limit_s", default=3600.0, show_default=True, help="Seconds after which no more faults are tried."
)
@click.option("--folder", type=click.Path(path_type=Path), help="Kept, with every log; else a temporary one.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the table there too.")
def soak(
    rounds: int,
    faults: int,
    seed: int,
    block_time_s: float,
    pause_s: float,
    limit_s: float,
    folder: Path | None,
    output: Path | None,
) -> None:
    """A whole network under random faults; a table of what it lost. Exit 0 if that is nothing, 1 otherwise."""
    if not partitions.is_inside() and partitions.can_isolate():
        sys.exit(partitions.enter([sys.executable, "-m", "soak", *sys.argv[1:]]))
    home = folder or Path(tempfile.mkdtemp(prefix="cupel-soak-", dir=find_fast_disk()))
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    plan = Plan(rounds=rounds, faults=faults, seed=seed, pause_s=pause_s, limit_s=limit_s)
    report = play(home, plan, block_time_s)
    text = report.as_text()
    click.echo(text, nl=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    failed = bool(report.failures())
    if folder is None and not failed:
        shutil.rmtree(home, ignore_errors=True)
    elif failed:
        click.echo(f"logs: {home}", err=True)
    sys.exit(1 if failed else 0)


def find_fast_disk() -> str | None:
    """A file system in memory, if there is room in one.

    A dozen databases that wait for the disk after each write measure that disk. What was written outlives `kill -9`
    there too; power cuts are not among the faults.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < ROOM_BYTES:
        return None
    return str(memory)


def play(home: Path, plan: Plan, block_time_s: float) -> Report:
    """One soak from beginning to end."""
    began = time.monotonic()
    isolated = partitions.is_inside()
    if isolated:
        partitions.open_hub()
    host = partitions.HUB if isolated else "127.0.0.1"
    names = [*MINERS, *VERIFIERS, GUEST, LIAR]
    with ExitStack() as stack:
        world = stack.enter_context(
            open_world(
                home, names, block_time_s=block_time_s, host=host, chain_arguments=["--allow-reorg"], **PARAMETERS
            )
        )
        proxies, ledger = stack.enter_context(ProxyServer(host, plan.seed)), Ledger()
        wire = Wire(run=world.contract.address)
        parties = [add_party(world, name, proxies, wire, stack, isolated) for name in names]
        accounts = {party.node.signer.address.lower(): party.name for party in parties}
        observer = Observer(url=world.chain.url, names=accounts, ledger=ledger)
        observer.start()
        stack.callback(observer.close)
        for party in parties:
            if not party.guest:
                party.start()
                world.wait_for(f"seat of {party.name}", lambda party=party: world.is_seated(party.node), timeout_s=120)
        running = Soak(world, parties, plan, ledger, observer)
        ended = running.run()
        unclaimed = running.find_unclaimed()
        stop_all(parties)
        honest = {p.node.signer.address: p.name for p in parties if not p.liar}
        liars = {p.node.signer.address: p.name for p in parties if p.liar}
        losses = count_losses(world, ended, honest, liars, wire, observer)
        for entry in unclaimed:
            losses.add("reward or bond not claimed", entry)
        for party in parties:
            for words in party.ended:
                losses.add("process ended by itself", words)
        everybody = [*MINERS, *VERIFIERS]
        return Report(
            rounds=ended,
            faults_wanted=plan.faults,
            seed=plan.seed,
            wall_s=time.monotonic() - began,
            machine=describe(),
            parties=f"{len(MINERS)} miners, {len(VERIFIERS)} verifiers, a guest, a liar; blocks of {block_time_s:g} s",
            isolated=isolated,
            ledger=ledger,
            losses=losses,
            calm=recompute(world, ended),
            memory=running.gauges.memory(sorted(VETERANS)),
            memory_all=running.gauges.memory(everybody),
            disk=running.gauges.disk(everybody),
            largest_memory=running.gauges.largest(everybody),
            transactions=len(wire.transactions),
            is_long=ended >= 50,
            rounds_wanted=plan.rounds,
            stuck=running.stuck,
        )


def stop_all(parties: list[Party]) -> None:
    """In an orderly way, so that what is counted stands still; who does not end so is counted too."""
    running = [party for party in parties if party.node.process is not None and party.node.process.poll() is None]
    for party in running:
        party.node.ask_to_end()
    for party in running:
        code = party.node.wait()
        if code != 0:
            party.ended.append(f"{party.name} was asked to end, and did so with {code}")


def add_party(world: World, name: str, proxies: ProxyServer, wire: Wire, stack: ExitStack, isolated: bool) -> Party:
    """A node behind its proxies, in a namespace of its own where there are any."""
    number = len(world.nodes) + 2
    cable = Cable(number) if isolated else None
    if cable is not None:
        stack.callback(cable.close)
    listen = f"{cable.address}:{PORT}" if cable is not None else f"127.0.0.1:{PORT + number}"

    def watch(request: bytes, answer: bytes) -> None:
        wire.note(name, request, answer)

    rpc = proxies.add(Proxy(f"{name} rpc", world.chain.url, watch=watch))
    blocks = proxies.add(Proxy(f"{name} blocks", f"http://{listen}"))
    program = "verifier" if name in VERIFIERS else "miner"
    extra = ["--on-stop", "leave"] if name in (GUEST, LIAR) else []
    extra += ["--fault", "perturb"] if name == LIAR else []
    node = world.add(program, name, "--rpc", rpc.url, "--listen", listen, "--endpoint", blocks.url, *extra)
    node.network = None if cable is None else cable.namespace
    disk = None
    if isolated and name in SMALL_DISKS:
        disk = SmallDisk(node.data, DISK_BYTES)
    return Party(
        node=node,
        rpc=rpc,
        blocks=blocks,
        cable=cable,
        disk=disk,
        veteran=name in VETERANS,
        liar=name == LIAR,
        guest=name in (GUEST, LIAR),
    )


if __name__ == "__main__":
    soak()
