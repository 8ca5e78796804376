"""A whole small network for tests: a chain, a run of a tiny model on it, and real `miner` and `verifier` processes."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chain_process import ETH, ChainProcess

from cupel.chain.client import ChainClient
from cupel.chain.keys import LocalSigner, save_keystore
from cupel.chain.run_contract import RunContract, TokenContract, deploy_run, deploy_scripted_beacon
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters
from cupel.network.data import BuildOptions, DataManifest, ShardSet, build_data
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.gateway import GatewayServer
from cupel.network.states import encode_state
from cupel.node.manifest import RunManifest
from cupel.node.records import History
from cupel.protocol import merkle
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.programs import RunConfig, RunPrograms
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.step import TrainingConfig
from cupel.protocol.types import Seed, Wei

CONFIG = RunConfig(
    model=ModelConfig(vocabulary=260, width=16, layers=1, heads=2, hidden=32, context=16),
    training=TrainingConfig(batch=4, learning_rate=1e-2, warmup_steps=4, total_steps=400),
    max_merge=3,
    top_k=8,
)
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
    """Traced once for all tests of a session."""
    return RunPrograms.build(CONFIG)


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
    signer: LocalSigner
    data: Path
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as sink:
            threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            self.process = subprocess.Popen(self.command, stderr=sink, stdout=sink, env=os.environ | threads)

    def ask_to_end(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def wait(self) -> int:
        """The exit code."""
        assert self.process is not None
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    def kill(self) -> None:
        """As `kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log entries of one event."""
        entries = [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == name]

    def check(self) -> None:
        """AssertionError with its log if it ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.text()[-3000:]}")

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def history(self) -> History:
        return History(self.data / "history.jsonl")


@dataclass(kw_only=True)
class World:
    """The run, seen from outside."""

    folder: Path
    chain: ChainProcess
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
        code = f"import sys; sys.argv[0] = {program!r}; from cupel.{program}.main import main; main()"
        command = [
            sys.executable, "-c", code, "--run", str(self.folder / "run.json"), "--rpc", self.chain.url,
            "--keystore", str(keystore), "--password-file", str(password), "--data", str(home / "data"),
            "--json-log", *arguments,
        ]  # fmt: skip
        node = NodeProcess(
            name=name, signer=signer, data=home / "data", command=command, log=self.folder / f"{name}.log"
        )
        self.nodes.append(node)
        return node

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
        "hold_blocks": 8,
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
    folder: Path, parties: Sequence[str], *, block_time_s: float = 0.25, **changes: object
) -> Iterator[World]:
    """A deployed run and its chain. Nodes are added and started by the test, and ended here."""
    make_text(folder / "text")
    built = build_data([folder / "text"], folder / "data", BuildOptions(vocabulary=260, shard_tokens=512, held_out=0.1))
    programs = build_programs()
    genesis = programs.run_genesis(GENESIS_SEED)
    chain = ChainProcess(folder / "chain", block_time_s=block_time_s)
    keys = [key(name) for name in ("deployer", *parties)]
    chain.start(fund=keys)
    nodes: list[NodeProcess] = []
    try:
        with BlockStore(folder / "data" / "blockstore") as store, GatewayServer(store) as gateway:
            cids = {name: store.add_bytes(content) for name, content in programs.to_files().items()}
            manifest = RunManifest(programs=cids, data=built.manifest_cid, genesis_seed=GENESIS_SEED)
            parameters = make_parameters(
                programs,
                genesis,
                data_root=built.manifest.root,
                genesis=store.add_bytes(encode_state(genesis)),
                manifest=store.add_bytes(manifest.to_bytes()),
                **changes,
            )
            client = ChainClient(chain.url, keys[0], poll_seconds=0.05)
            beacon = deploy_scripted_beacon(client, b"\x02" * 32)
            deployment = deploy_run(client, dataclasses.replace(parameters, beacon=beacon))
            RunFile.of(client.chain_id, deployment, (gateway.url,)).write(folder / "run.json")
            contract = RunContract(client, deployment.run)
            with Fetcher(store, lambda: [p.endpoint for p in contract.participants()]) as fetcher:
                world = World(
                    folder=folder, chain=chain, client=client, contract=contract,
                    token=TokenContract(client, deployment.token), programs=programs, genesis=genesis,
                    data=built.manifest, fetcher=fetcher, nodes=nodes,
                )  # fmt: skip
                yield world
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()
        chain.kill()
