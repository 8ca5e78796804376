"""A process's hold on a run: its key, the chain, the run's programs and data, its blocks and who else has some."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from cupel.chain.errors import ChainUnreachable
from cupel.chain.heads import HeadTracker
from cupel.chain.keys import Signer
from cupel.chain.outbox import Outbox
from cupel.chain.run_code import find_run_problem
from cupel.chain.run_contract import RunContract, TokenContract
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters, Participant
from cupel.network.data import DataManifest, ShardSet, load_manifest
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.fetch import Fetcher, FetchLimits
from cupel.network.ipfs.gateway import GatewayServer, json_route
from cupel.network.ipfs.kubo import KuboClient
from cupel.network.states import check_state_root
from cupel.node.access import NodeAccess
from cupel.node.disputes.counts import DisputeCounts
from cupel.node.journal import Identity, Journal
from cupel.node.kubo import KuboMirror
from cupel.node.log import Log
from cupel.node.manifest import MAX_MANIFEST_BYTES, MAX_PROGRAM_BYTES, RunManifest
from cupel.node.metering import MeteredClient
from cupel.node.metrics import serve_metrics
from cupel.node.ownership import claim_key, hold_folder
from cupel.node.passes import PassBook
from cupel.node.points import Points
from cupel.node.records import History
from cupel.node.settings import NodeSettings, parse_listen
from cupel.node.signers import connect, open_signer
from cupel.node.states import States
from cupel.node.stats import StatLine, Stats
from cupel.node.stopping import StopRequest
from cupel.protocol import sampling
from cupel.protocol.arithmetic import choose_backend, self_test
from cupel.protocol.errors import CupelError, MalformedInput, Unavailable, UsageError
from cupel.protocol.training.programs import RunPrograms
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import LoadBatch, State, Step, Stepped
from cupel.protocol.types import Address, Cid, Seed, UnitId

START_PATIENCE_S = 60.0
"""How long a starting node asks for the run's manifest and programs before it gives up."""
FETCH_LIMITS = FetchLimits(block_timeout_s=8.0, file_timeout_s=30.0)
"""A node does one thing at a time, so a peer that keeps it waiting must not cost it a phase."""
RECURSION_LIMIT = 1000
"""Python's own."""
T = TypeVar("T")


class Stopped(Exception):
    """The operator asked the process to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run computes, and on what; checked against the chain."""

    parameters: Parameters
    programs: RunPrograms
    genesis: NamedState
    shards: ShardSet

    data: DataManifest

    @property
    def steps_per_unit(self) -> int:
        return self.parameters.segments * self.parameters.segment_steps

    def load_batch(self, seed: Seed, unit: UnitId) -> LoadBatch:
        """The tokens of each of the unit's steps, int32[batch, context + 1]; fetches shards that are not here."""
        config, shards = self.programs.config, self.shards
        length = config.context + 1

        def load(step: int) -> torch.Tensor:
            positions = sampling.batch_positions(
                seed, unit, step, config.batch, len(shards), shards.shard_tokens, length
            )
            return shards.batch(positions, length)

        return load


class Session:
    """Opened by `open_session`; one thread computes with it, the gateway's serve from its store."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        log: Log,
        stop: StopRequest,
        run_file: RunFile,
        signer: Signer,
        chain: MeteredClient,
        store: BlockStore,
        journal: Journal,
        points: Points,
    ) -> None:
        self.settings, self.log, self.stop = settings, log, stop
        self.run_file, self.signer, self.chain, self.store = run_file, signer, chain, store
        self.journal, self.points = journal, points
        self.heads = HeadTracker(chain)
        self.contract = RunContract(chain, run_file.contract)
        self.token = TokenContract(chain, run_file.token)
        self.history = History(settings.data / "history.jsonl")
        self.stats = Stats()
        self.stat_line = StatLine(log, self.stats)
        self.disputes = DisputeCounts()
        """Of this node, kept by its desk."""
        passes = PassBook(signer, chain_id=run_file.chain_id, run=run_file.contract, names=self._urls)
        self.kubo = KuboClient(settings.ipfs) if settings.ipfs is not None else None
        self.fetcher = Fetcher(store, self.peers, limits=FETCH_LIMITS, introduce=passes.introduce, kubo=self.kubo)
        self.backend = choose_backend(settings.backend)
        routes = [json_route("/status", self._status), json_route("/units/{unit}", self._unit)]
        self.access = NodeAccess(store, self.contract, passes, seated=lambda: self.seated)
        self.gateway = GatewayServer(store, *parse_listen(settings.listen), routes=routes, access=self.access)
        self.participants: tuple[str, ...] = ()
        """Endpoints of the run's other members, as announced on chain."""
        self.seated: frozenset[Address] = frozenset()
        """Their accounts."""
        self.between_steps: Callable[[], None] = lambda: None
        """Done before each optimiser update, where a computation can be interrupted."""
        self.run: Run
        self.states: States

    @property
    def address(self) -> Address:
        return self.signer.address

    @property
    def endpoint(self) -> str:
        """URL others fetch from; known once the gateway runs."""
        return self.settings.endpoint or self.gateway.url

    def _urls(self) -> tuple[str, ...]:
        """What this node is reached by, and so what others sign for."""
        return self.endpoint, self.gateway.url

    def peers(self) -> list[str]:
        """Whom to ask for blocks: the operator's choice, the run's members, the run file's sources."""
        known = [*self.settings.peers, *self.participants, *self.run_file.sources]
        return [peer for peer in dict.fromkeys(known) if peer not in self._urls()]

    def check_stop(self) -> None:
        """Raise Stopped once the operator wants the process to end now."""
        if self.stop.quit.is_set():
            raise Stopped

    def step(self, compute: Step | None = None) -> Step:
        """One optimiser update, counted in the statistics; raises Stopped between updates.

        compute  what does it; None is this process's own engine
        """
        if compute is None:
            compute = partial(
                self.run.programs.run_step,
                backend=self.backend,
                threads=self.settings.threads,
                recompute=self.settings.recompute,
            )

        def counted(state: State, tokens: torch.Tensor) -> Stepped:
            self.check_stop()
            self.between_steps()
            began = time.perf_counter()
            stepped = compute(state, tokens)
            self.stats.steps_s += time.perf_counter() - began
            self.stats.steps += 1
            self.stat_line.tick()
            return stepped

        return counted

    def _status(self, _: object) -> object:
        return {"address": self.address, "round": self.stats.round, "phase": self.stats.phase}

    def _unit(self, path: Mapping[str, str]) -> object:
        """Where the description of a unit is that this node trained or replayed."""
        unit = path["unit"].removeprefix("0x").lower()
        if not re.fullmatch("[0-9a-f]{64}", unit):
            raise MalformedInput(f"{path['unit']:.80} is not a unit id: 0x and 64 hexadecimal digits")
        for pin, cid in self.store.pins().items():
            if pin.endswith(f"/{unit}/description"):
                return {"unit": f"0x{unit}", "cid": cid}
        raise Unavailable(f"unit 0x{unit}: not known here")

    # Opening

    def load_run(self) -> None:
        """Fetch and check what the contract names. Raises Unavailable, MalformedInput, RootMismatch."""
        parameters = self.contract.parameters()
        manifest = RunManifest.from_bytes(self._keep(parameters.manifest, "run/manifest", MAX_MANIFEST_BYTES))
        files = {
            name: self._keep(cid, f"run/programs/{name}", MAX_PROGRAM_BYTES) for name, cid in manifest.programs.items()
        }
        programs = RunPrograms.from_files(files, parameters.programs_root)
        data = load_manifest(self.fetcher, manifest.data, expected_root=parameters.data_root)
        self.store.pin(manifest.data, "run/data")
        self.access.publish(shard.cid for shard in data.training)
        if data.vocabulary > programs.config.vocabulary:
            raise MalformedInput(f"data of {data.vocabulary} tokens for a model of {programs.config.vocabulary}")
        if programs.config.max_merge < parameters.max_merge:
            raise MalformedInput(f"programs merge {programs.config.max_merge} units, the run {parameters.max_merge}")
        size_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in programs.state_types.values())
        self.states = States(self.store, self.fetcher, size_bytes)
        genesis = self._make_genesis(parameters, programs, manifest.genesis_seed)
        self.run = Run(
            parameters=parameters, programs=programs, genesis=genesis, data=data, shards=ShardSet(data, self.fetcher)
        )

    def _make_genesis(self, parameters: Parameters, programs: RunPrograms, seed: Seed | None) -> NamedState:
        """The run's first state: computed, or fetched where it is an earlier run's last one."""
        what, expected = "the run's first state", parameters.genesis_root
        if seed is None:
            state = self.states.get(what, parameters.genesis, expected, f"start/{expected.hex()}")
        else:
            state = programs.run_genesis(seed, backend=self.backend, threads=self.settings.threads)
            check_state_root(what, state, expected)
        programs.check_state(what, state)
        return state

    def _keep(self, cid: Cid, pin: str, max_bytes: int) -> bytes:
        self.fetcher.fetch_to_store(cid, max_bytes=max_bytes, pin=pin)
        return self.store.read(cid, max_bytes=max_bytes)

    def prune(self, is_needed: Callable[[str], bool]) -> int:
        """Let go of pinned files that are not needed, keep every shard that is here; bytes freed."""
        held = {f"shard/{shard.cid}": shard.cid for shard in self.run.data.training if self.store.block_size(shard.cid)}
        unneeded = {name: None for name in self.store.pins() if not is_needed(name)}
        self.store.change_pins({**held, **unneeded})
        return self.store.collect_garbage().size_bytes

    def retry(self, what: str, action: Callable[[], T], patience_s: float = START_PATIENCE_S) -> T:
        """What `action` gives, asked again while nobody serves what it needs. Raises its last Unavailable, Stopped."""
        return wait_until(self.log, self.stop, what, Unavailable, action, patience_s)

    def refresh_participants(self) -> tuple[Participant, ...]:
        """Read the run's members anew; they are asked for blocks from now on."""
        seated = self.contract.participants()
        self.seated = frozenset(p.account for p in seated)
        self.participants = tuple(p.endpoint for p in seated if p.account != self.address and p.endpoint)
        return seated


def wait_until(
    log: Log,
    stop: StopRequest,
    what: str,
    trouble: type[CupelError],
    action: Callable[[], T],
    patience_s: float = START_PATIENCE_S,
) -> T:
    """What `action` gives, asked again while it fails with `trouble`. Raises the last one of these, Stopped.

    Who is asked to finish meanwhile starts nevertheless and finishes, if everything answers; else it ends and says so.
    """
    deadline, pause_s = time.monotonic() + patience_s, 0.5
    while True:
        if stop.quit.is_set():
            raise Stopped
        try:
            return action()
        except trouble as error:
            if stop.finish.is_set():
                log.warning(
                    "ending before it started: what the round asks of this node was not done", reason=str(error)
                )
                raise Stopped from error
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning(f"{what}: asking again", reason=str(error))
        stop.wait(pause_s)
        pause_s = min(2 * pause_s, 8.0)


@contextmanager
def open_session(settings: NodeSettings, name: str, stop: StopRequest) -> Iterator[Session]:
    """Everything a node needs, started; stopped again at the end.

    Raises   UsageError (wrong settings, password, chain), BackendUnfit, Unavailable, RootMismatch, MalformedInput
    """
    # py_ecc, which web3 brings, raises this to 100,000 on import: JSON from a stranger nested that deep would overflow
    # the stack then and end the process, instead of raising RecursionError.
    sys.setrecursionlimit(RECURSION_LIMIT)
    log = Log(name, as_json=settings.json_log)
    torch.set_num_threads(settings.threads)
    run_file = RunFile.read(settings.run)
    signer = open_signer(settings)
    identity = Identity(chain_id=run_file.chain_id, contract=run_file.contract, address=signer.address)
    points = Points.from_environment(os.environ, run_file.chain_id)
    with ExitStack() as stack:
        stack.enter_context(hold_folder(settings.data))
        journal = stack.enter_context(Journal(settings.data, identity))
        lost = claim_key(journal, settings.data)
        if lost is not None:
            log.warning(lost)
        store = stack.enter_context(BlockStore(settings.data / "store"))
        outbox = Outbox(settings.data / "outbox.sqlite3")
        stack.callback(outbox.close)

        def open_chain() -> MeteredClient:
            return connect(settings, signer, run_file, outbox=outbox, observe=points.observe, notify=log.warning)

        chain = wait_until(log, stop, "the chain", ChainUnreachable, open_chain)
        stack.callback(chain.close)
        stack.enter_context(chain.hold_key(f"{name} in {settings.data}"))
        if not chain.has_code(run_file.contract):
            raise UsageError(f"{settings.run}: no contract is at {run_file.contract} on the chain at {chain.url}")
        run = RunContract(chain, run_file.contract)
        problem = wait_until(log, stop, "the chain", ChainUnreachable, lambda: find_run_problem(chain, run))
        if problem is not None:
            raise UsageError(
                f"{settings.run}: nothing was sent, because this run is not what this version of Cupel deploys: "
                f"{problem}. `cupel network check` says more; take the version that the run was deployed with"
            )
        session = Session(
            settings,
            log=log,
            stop=stop,
            run_file=run_file,
            signer=signer,
            chain=chain,
            store=store,
            journal=journal,
            points=points,
        )
        # What an earlier process sent or was about to send is seen through, before anything is decided anew.
        for entry in wait_until(log, stop, "the chain", ChainUnreachable, chain.recover):
            log.info("transaction under way", what=entry.newest.content.what, nonce=entry.nonce, state=str(entry.state))
        self_test(session.backend, threads=settings.threads)
        stack.enter_context(session.fetcher)
        stack.enter_context(session.gateway)
        session.refresh_participants()
        metrics = stack.enter_context(serve_metrics(session, name))
        session.retry("the run's files", session.load_run)
        if session.kubo is not None:
            record = settings.data / "kubo.json"
            stack.enter_context(KuboMirror(session.kubo, store, lambda: session.access.lasting(store.pins()), record))
        log.info(
            "ready",
            address=signer.address,
            endpoint=session.endpoint,
            backend=session.backend,
            metrics=metrics or "off",
        )
        yield session
        log.info("stopped")
