"""A whole small network for tests: a chain, a run of a tiny model on it, and real `miner` and `verifier` processes.

Everything that decides a state is fixed: keys follow from names, the beacon is scripted, `start_node` waits for each
seat before the next is taken, and the contracts' addresses follow from the deployer's nonces. So a run repeats root for
root, whatever happens to its processes and whatever chain it is on.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chain_process import ETH
from node_world.chains import AnyChain, choose_chain, open_chain
from node_world.forks import Process, start_process
from node_world.programs import trace_or_read

from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import Clocks, deploy_court
from cupel.chain.keys import LocalSigner, save_keystore
from cupel.chain.run_contract import RunContract, TokenContract, deploy_run, deploy_scripted_beacon
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters, Role
from cupel.network.data import BuildOptions, DataManifest, ShardSet, build_data
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.gateway import GatewayServer
from cupel.network.states import encode_state
from cupel.node.manifest import RunManifest
from cupel.node.records import History
from cupel.protocol import merkle
from cupel.protocol.training.programs import RunConfig, RunPrograms
from cupel.protocol.training.state import NamedState
from cupel.protocol.types import Root, Seed, UnitId, Wei

CONFIG = RunConfig.tiny()
GENESIS_SEED = Seed(b"\x01" * 32)
PASSWORD = "no secret at all"
WORDS = [
    "gold",
    "cup",
    "ash",
    "fire",
    "lead",
    "assay",
    "pure",
    "ore",
    "melt",
    "weigh",
    "heat",
    "bone",
    "touch",
    "stone",
]
T = TypeVar("T")


def key(name: str) -> LocalSigner:
    """A key that guards nothing, from its name."""
    return LocalSigner(hashlib.sha256(name.encode()).digest())


@functools.cache
def build_programs() -> RunPrograms:
    """Traced once for all tests."""
    return trace_or_read(CONFIG)


def make_text(folder: Path) -> None:
    """Some files of made-up sentences, the same each time."""
    rng = random.Random(7)
    folder.mkdir(parents=True)
    for number in range(12):
        lines = [" ".join(rng.choices(WORDS, k=8)) for _ in range(60)]
        (folder / f"{number}.txt").write_text("\n".join(lines))


@dataclass(kw_only=True)
class NodeProcess:
    """One `miner` or `verifier`."""

    name: str
    program: str
    signer: LocalSigner
    data: Path
    arguments: Sequence[str]
    log: Path
    network: str | None = None
    """Path of the network namespace it lives in."""
    process: Process | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Of every start."""
    may_end: bool = False
    """Whether it was started to end by itself, at a kill point."""

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added for this start alone."""
        self.may_end = bool(environment) and "CUPEL_KILL_AT" in environment
        self.process = start_process(
            self.program,
            self.arguments,
            output=self.log,
            environment=self.environment | dict(environment or {}),
            network=self.network,
        )

    def ask_to_end(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def wait(self) -> int:
        """The exit code."""
        assert self.process is not None
        code = self.process.wait(timeout=120)
        self.process = None
        return code

    def kill(self) -> None:
        """As `kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        self.process = None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log entries of one event."""
        entries = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def check(self) -> None:
        """AssertionError with its log if it ended by itself."""
        if self.process is not None and not self.may_end and self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.text()[-3000:]}")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def history(self) -> History:
        return History(self.data / "history.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What the chain says came of one round."""

    merge_set: tuple[UnitId, ...]
    """In the order in which they are averaged."""
    state_root: Root
    """Of the state after it, which the next round starts from."""


@dataclass(kw_only=True)
class World:
    """The run, seen from outside."""

    folder: Path
    chain: AnyChain
    client: ChainClient
    contract: RunContract
    token: TokenContract
    programs: RunPrograms
    genesis: NamedState
    data: DataManifest
    fetcher: Fetcher
    """Reads the deployer's blocks, and asks every participant for others."""
    nodes: list[NodeProcess] = field(default_factory=list)

    @property
    def shards(self) -> ShardSet:
        return ShardSet(self.data, self.fetcher)

    def add(self, program: str, name: str, *arguments: str) -> NodeProcess:
        """A node, not started yet."""
        signer, home = key(name), self.folder / name
        password = self.folder / "password"
        password.write_text(PASSWORD)
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        keystore = save_keystore(signer, PASSWORD, home / "keys", scrypt_n=1 << 10, now=now)
        given = [
            "--run", str(self.folder / "run.json"), "--rpc", self.chain.url, "--keystore", str(keystore),
            "--password-file", str(password), "--data", str(home / "data"), "--json-log",
            # A test that wants a node to end wants it now; a later flag of the same name wins.
            "--on-stop", "quit", *arguments,
        ]  # fmt: skip
        node = NodeProcess(
            name=name,
            program=program,
            signer=signer,
            data=home / "data",
            arguments=given,
            log=self.folder / f"{name}.log",
            # What a node notes for the user, apart from its data folder, is for this world alone.
            environment={"XDG_DATA_HOME": str(self.folder / "user")},
        )
        self.nodes.append(node)
        return node

    def node(self, name: str) -> NodeProcess:
        return next(node for node in self.nodes if node.name == name)

    def start_node(
        self, program: str, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> NodeProcess:
        """Add a node and start it, and wait until it has its seat: seats taken one by one are the same in every run."""
        node = self.add(program, name, *arguments)
        node.start(environment)
        self.wait_for(f"seat of {name}", lambda: self.is_seated(node))
        return node

    def is_seated(self, node: NodeProcess) -> bool:
        return self.contract.member_of(node.signer.address).role != Role.NONE

    def kill(self, name: str) -> None:
        """As `kill -9`."""
        self.node(name).kill()

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code."""
        self.node(name).ask_to_end()
        return self.node(name).wait()

    def restart(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a node again that was killed, stopped or ended by itself; stop it first if it still runs."""
        node = self.node(name)
        if node.process is not None and node.process.poll() is None:
            self.stop(name)
        node.start(environment)

    def result(self, round_: int) -> RoundResult:
        """Of a round that has ended."""
        return RoundResult(
            merge_set=self.contract.merge_set(round_) if self.contract.get_round(round_).merged else (),
            state_root=self.contract.get_state(round_ + 1)[0],
        )

    def results(self, rounds: int) -> list[RoundResult]:
        """Of the first so many rounds, once they have ended."""
        return [self.result(round_) for round_ in range(rounds)]

    def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float = 60.0) -> T:
        """What `look` gives once it gives something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for node in self.nodes:
                node.check()
            found = look()
            if found:
                return found
            time.sleep(0.2)
        logs = "\n".join(f"--- {node.name}\n{node.text()[-1500:]}" for node in self.nodes)
        raise AssertionError(f"no {what} within {timeout_s:g} s; the run is at {self.contract.current()}\n{logs}")


def make_parameters(programs: RunPrograms, first_state: NamedState, **changes: object) -> Parameters:
    usual = {
        "programs_root": programs.root,
        "genesis_root": merkle.state_root(first_state),
        "segments": 3,
        "segment_steps": 4,
        "max_units_per_miner": 2,
        "max_units": 8,
        "max_merge": CONFIG.max_merge,
        "min_miners": 1,
        "max_miners": 4,
        "min_verifiers": 1,
        "max_verifiers": 4,
        "verifiers_per_unit": 2,
        "segments_per_verifier": 2,
        "replay_bps": 0,
        "quorum": 2,
        "jury_target": 3,
        "unit_bond": Wei(ETH),
        "slot_stake": Wei(ETH),
        "unavailable_fee": Wei(ETH // 2),
        "seal_fee": Wei(ETH // 20),
        "merge_bond": Wei(ETH // 10),
        "beacon_delay": 1,
        "train_blocks": 200,
        "seal_blocks": 200,
        "open_blocks": 100,
        "merge_blocks": 100,
        "acknowledge_blocks": 100,
        "maturity_blocks": 6,
        "window_blocks": 8,
        "exit_blocks": 10,
        "initial_reward": 60 * ETH,
        "halving_rounds": 4,
        "work_target": 3,
        "verifier_share_bps": 2500,
        "merge_share_bps": 500,
    }
    return Parameters(**(usual | changes))  # type: ignore[arg-type]


@contextmanager
def open_world(
    folder: Path,
    parties: Sequence[str],
    *,
    block_time_s: float = 0.25,
    chain: str | None = None,
    host: str = "127.0.0.1",
    chain_arguments: Sequence[str] = (),
    brought: tuple[RunPrograms, NamedState] | None = None,
    court: Clocks | None = None,
    **changes: object,
) -> Iterator[World]:
    """A deployed run and its chain. Nodes are added and started by the test, and ended here.

    parties   names of everybody who will need money
    chain     `embedded`, whose state outlives its process, or `anvil`; None: whichever takes less of the processor
    host      address of this machine that the chain and the deployer's blocks are served on
    changes   parameters of the run that differ from `make_parameters`

    chain_arguments   more of the embedded chain's command line
    brought           Programs and first state of another model than the tests' own
    court             clocks of a court for the run, whose bonds then wait for its disputes; None: it has none
    """
    make_text(folder / "text")
    built = build_data([folder / "text"], folder / "data", BuildOptions(vocabulary=260, shard_tokens=512, held_out=0.1))
    programs = build_programs() if brought is None else brought[0]
    genesis = programs.run_genesis(GENESIS_SEED) if brought is None else brought[1]
    kind = chain or choose_chain(chain_arguments)
    running = open_chain(kind, folder / "chain", block_time_s=block_time_s, host=host, arguments=chain_arguments)
    keys = [key(name) for name in ("deployer", *parties)]
    running.start(fund=keys)
    nodes: list[NodeProcess] = []
    try:
        with BlockStore(folder / "data" / "blockstore") as store, GatewayServer(store, host) as gateway:
            cids = {name: store.add_bytes(content) for name, content in programs.to_files().items()}
            seed = GENESIS_SEED if brought is None else None
            manifest = RunManifest(programs=cids, data=built.manifest_cid, genesis_seed=seed)
            parameters = make_parameters(
                programs,
                genesis,
                data_root=built.manifest.root,
                shards=len(built.manifest.training),
                shard_tokens=built.manifest.shard_tokens,
                genesis=store.add_bytes(encode_state(genesis)),
                manifest=store.add_bytes(manifest.to_bytes()),
                **changes,
            )
            client = ChainClient(running.url, keys[0], poll_seconds=0.05)
            beacon = deploy_scripted_beacon(client, b"\x02" * 32)
            parameters = dataclasses.replace(parameters, beacon=beacon)
            if court is not None:
                deployed = deploy_court(client, court)
                longest = parameters.window_blocks + deployed.longest_dispute
                parameters = dataclasses.replace(
                    parameters, court=deployed.court, maturity_blocks=longest, exit_blocks=longest
                )
            deployment = deploy_run(client, parameters)
            RunFile.of(client.chain_id, deployment, (gateway.url,)).write(folder / "run.json")
            contract = RunContract(client, deployment.run)
            with Fetcher(store, lambda: [p.endpoint for p in contract.participants()]) as fetcher:
                world = World(
                    folder=folder, chain=running, client=client, contract=contract,
                    token=TokenContract(client, deployment.token), programs=programs, genesis=genesis,
                    data=built.manifest, fetcher=fetcher, nodes=nodes,
                )  # fmt: skip
                yield world
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()
        running.kill()
