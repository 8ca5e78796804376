"""Before a run is deployed: its Programs traced, its first state computed or fetched, everything stored and named.

All blocks lie beside the data's, in `data/blockstore`, so that one `cupel data serve` serves the run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupel.chain.run_values import Parameters
from cupel.launch.model_source import ModelSource
from cupel.network.data import DataDirectory, DataManifest
from cupel.network.ipfs import BlockStore, Fetcher
from cupel.network.ipfs.cid import parse_cid
from cupel.network.states import check_state_root, decode_state, encode_state
from cupel.node.manifest import RunManifest
from cupel.protocol import merkle
from cupel.protocol.arithmetic import choose_backend, self_test
from cupel.protocol.errors import MalformedInput, UsageError
from cupel.protocol.training.brought import BroughtConfig
from cupel.protocol.training.modules import ModuleStep
from cupel.protocol.training.programs import AnyConfig, RunConfig, RunPrograms
from cupel.protocol.training.state import NamedState, flatten_state
from cupel.protocol.types import Cid, Root, Seed

VERSION = 2
STATE_OVERHEAD_BYTES = 1 << 20
"""Of a state's file beside its tensors."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FromState:
    """An earlier run's state to begin with, and whom to fetch it from."""

    cid: Cid
    root: Root
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the contract will name of a run's files."""

    programs_root: Root
    data_root: Root
    shards: int
    """Of training."""
    shard_tokens: int
    genesis_root: Root
    genesis: Cid
    manifest: Cid
    config: AnyConfig
    source: str | None
    """Where a brought model came from, as the parameter file says it."""

    def make_parameters(self, **contract: Any) -> Parameters:
        """With `contract`, the fields that are no files."""
        return Parameters(
            programs_root=self.programs_root,
            data_root=self.data_root,
            shards=self.shards,
            shard_tokens=self.shard_tokens,
            genesis_root=self.genesis_root,
            genesis=self.genesis,
            manifest=self.manifest,
            **contract,
        )

    def write(self, folder: Path) -> None:
        """Keep it as `prepared.json`, whole or not at all."""
        roots = {name: f"0x{getattr(self, name).hex()}" for name in _ROOTS}
        content = {
            "version": VERSION, **roots, "shards": self.shards, "shard_tokens": self.shard_tokens,
            "genesis": self.genesis, "manifest": self.manifest, "config": _describe(self.config, self.source),
        }  # fmt: skip
        temporary = folder / ".prepared.json.new"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "prepared.json")

    @staticmethod
    def read(folder: Path, config: AnyConfig, source: str | None = None) -> Prepared:
        """Raises UsageError: nothing is prepared there, or something else than `config`."""
        path = folder / "prepared.json"
        again = "run `cupel network prepare` first"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise UsageError(f"{path} is of version {content['version']!r}: {again}")
            stored = content["config"]
            roots = {name: Root(bytes.fromhex(content[name].removeprefix("0x"))) for name in _ROOTS}
            counts = {name: int(content[name]) for name in ("shards", "shard_tokens")}
            cids = {name: parse_cid(content[name]).text for name in ("genesis", "manifest")}
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror or error}): {again}") from None
        except (ValueError, KeyError, TypeError, AttributeError, MalformedInput) as error:
            raise UsageError(f"{path} is damaged ({error}): {again}") from None
        if stored != _describe(config, source):
            raise UsageError(f"{path} is of another [model], [training] or [merging] than is given now: {again}")
        return Prepared(
            programs_root=roots["programs_root"],
            data_root=roots["data_root"],
            shards=counts["shards"],
            shard_tokens=counts["shard_tokens"],
            genesis_root=roots["genesis_root"],
            genesis=cids["genesis"],
            manifest=cids["manifest"],
            config=config,
            source=source,
        )


def _describe(config: AnyConfig, source: str | None) -> dict[str, Any]:
    return dataclasses.asdict(config) | ({} if source is None else {"source": source})


_ROOTS = ("programs_root", "data_root", "genesis_root")


def check_data(data: DataManifest, config: AnyConfig) -> None:
    """Raises UsageError unless a model of `config` can be trained on it."""
    if data.vocabulary > config.vocabulary:
        raise UsageError(f"model.vocabulary is {config.vocabulary}, and the data has {data.vocabulary} tokens")
    if data.shard_tokens <= config.context:
        raise UsageError(f"model.context is {config.context}: too long for shards of {data.shard_tokens} tokens")
    if not data.training:
        raise UsageError("the data has no shards to train on: give `cupel data build` more text")


def prepare(
    folder: Path,
    config: AnyConfig,
    genesis: Seed | FromState,
    say: Say,
    *,
    source: ModelSource | None = None,
    backend: str = "auto",
) -> tuple[Prepared, RunPrograms]:
    """Trace and store everything a run of `config` needs on the data in `folder/data`; `prepared.json` names it.

    genesis   a seed for the genesis Program, or a state of a model of the same shape to go on from; a brought model's
              file is called with PyTorch's generator seeded by it, and its weights are the first state
    source    of a brought model; its code is run here, and nowhere else
    Raises    UsageError; Unavailable, MalformedInput, RootMismatch: the state to begin with
    """
    data = DataDirectory(folder / "data")
    check_data(data.manifest, config)
    step: ModuleStep | None = None
    if isinstance(config, BroughtConfig):
        if source is None:
            raise AssertionError("a brought model comes from somewhere")
        say(f"Making the model of {source.text} ...")
        step = source.load(genesis if isinstance(genesis, bytes) else bytes(32))
    say("Tracing the model, its training step, merge and sampling to Programs ...")
    if isinstance(config, RunConfig):
        programs = RunPrograms.build(config)
    else:
        assert step is not None
        programs = RunPrograms.build_brought(step, config)
    engine = choose_backend(backend)
    say(f"Checking the {engine} engine against the stored vectors ...")
    self_test(engine)
    with BlockStore(folder / "data" / "blockstore") as store:
        if isinstance(genesis, FromState):
            state = _fetch_state(store, genesis, programs, say)
        elif step is not None:
            state = flatten_state(step.initial_state())
        else:
            state = programs.run_genesis(genesis, backend=engine)
        cids = {
            name: store.add_bytes(content, pin=f"run/programs/{name}") for name, content in programs.to_files().items()
        }
        seed = None if isinstance(genesis, FromState) or programs.genesis is None else genesis
        manifest = RunManifest(programs=cids, data=data.manifest_cid, genesis_seed=seed)
        prepared = Prepared(
            programs_root=programs.root,
            data_root=data.manifest.root,
            shards=len(data.manifest.training),
            shard_tokens=data.manifest.shard_tokens,
            genesis_root=merkle.state_root(state),
            genesis=store.add_bytes(encode_state(state), pin="state/0"),
            manifest=store.add_bytes(manifest.to_bytes(), pin="run/manifest"),
            config=config,
            source=None if source is None else source.text,
        )
    prepared.write(folder)
    parameters = sum(t.elements for name, t in programs.step.inputs.items() if name.startswith("0.weights."))
    say(
        f"Programs: {parameters / 1e3:,.0f} k parameters, {len(programs.step.operations)} operations a training step, "
        f"root 0x{programs.root.hex()[:8]}…"
    )
    return prepared, programs


def state_bytes(programs: RunPrograms) -> int:
    """Of the tensors of one state."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in programs.state_types.values())


def _fetch_state(store: BlockStore, wanted: FromState, programs: RunPrograms, say: Say) -> NamedState:
    say(f"Fetching the state to go on from, {wanted.cid} ...")
    with Fetcher(store, wanted.peers) as fetcher:
        data = fetcher.fetch_buffer(wanted.cid, max_bytes=state_bytes(programs) + STATE_OVERHEAD_BYTES)
    state = decode_state(data)
    check_state_root("the state to go on from", state, wanted.root)
    programs.check_state("the state to go on from", state)
    return state


def parse_from_state(text: str, peers: Sequence[str]) -> FromState:
    """`CID/ROOT`, as `cupel network check` prints it. Raises UsageError."""
    cid, _, root = text.partition("/")
    try:
        raw = bytes.fromhex(root.removeprefix("0x"))
        if len(raw) != 32:
            raise ValueError
        return FromState(cid=parse_cid(cid).text, root=Root(raw), peers=tuple(peers))
    except (ValueError, MalformedInput):
        raise UsageError(f"--from-state is {text!r:.120}, not CID/ROOT as `cupel network check` prints it") from None
