"""A model that somebody brings becomes a run: from the page's own file to an attested and merged round."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from network_world import World, key, make_text, open_world
from torch import nn

from cupel.chain.run_values import Status
from cupel.commands.network import network
from cupel.launch.model_source import ModelSource
from cupel.launch.parameter_file import LaunchParameters, read_parameter_file
from cupel.launch.preparation import Prepared
from cupel.network.data import BuildOptions, build_data
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.states import decode_state
from cupel.node.manifest import RunManifest
from cupel.protocol import merkle, sampling
from cupel.protocol.errors import MalformedInput, MalformedProgram, MalformedTensor, UsageError
from cupel.protocol.parallel import make_layout
from cupel.protocol.training.brought import BroughtConfig
from cupel.protocol.training.generation import generate
from cupel.protocol.training.modules import make_step, next_token_loss
from cupel.protocol.training.optimisers import SGD, AdamW, Grouped, Lion, Muon, Optimiser, hidden_matrices
from cupel.protocol.training.programs import SPEC_NAME, RunPrograms
from cupel.protocol.training.state import NamedState, flatten_state
from cupel.protocol.training.unit import train_segment
from cupel.protocol.types import Root

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "engineers" / "bring-your-model.md").read_text()
EXAMPLE = (ROOT / "docs" / "networks" / "parameters.example.toml").read_text()
CONFIG = BroughtConfig(vocabulary=20, context=6, batch=3, digits=2, max_merge=3, top_k=4)


class Bigram(nn.Module):
    """An embedding, a matrix, a frozen head: enough of a model for its states to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 20, bias=False).requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.embed(tokens))))


def bring(optimiser: Optimiser) -> tuple[RunPrograms, NamedState]:
    torch.manual_seed(1)
    step = make_step(Bigram(), next_token_loss, optimiser)
    return RunPrograms.build_brought(step, CONFIG), flatten_state(step.initial_state())


@pytest.fixture(scope="module")
def bigram() -> tuple[RunPrograms, NamedState]:
    return bring(SGD(learning_rate=0.1, momentum=0.9))


def tokens_of(number: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(number)
    return torch.randint(0, 20, (CONFIG.batch, CONFIG.context + 1), dtype=torch.int32, generator=random)


# Programs and states


EVERYTHING = Grouped(
    (
        (lambda name, weight: name.startswith("embed"), Lion(learning_rate=0.01)),
        (hidden_matrices, Muon(learning_rate=0.01)),
    ),
    otherwise=AdamW(learning_rate=0.01),
)


@pytest.mark.parametrize(
    ("optimiser", "groups"),
    [
        (SGD(learning_rate=0.1, momentum=0.0), set()),
        (EVERYTHING, {"lion_m", "muon_m", "adam_m", "adam_v"}),
    ],
    ids=["no moments", "AdamW, Lion and Muon"],
)
def test_states_of_any_optimiser_are_trained_and_merged(optimiser: Optimiser, groups: set[str]) -> None:
    programs, start = bring(optimiser)
    assert {name.partition(".")[0] for name in start} - {"weights", "step"} == groups
    ends = [dict(programs.run_step(start, tokens_of(n), backend="torch").state) for n in range(3)]
    merged = programs.run_merge(ends, backend="torch")
    assert list(merged) == list(start)
    assert int(merged["step"]) == 1
    assert torch.equal(merged["weights.head.weight"], start["weights.head.weight"])
    for name, tensor in merged.items():
        mean = torch.stack([end[name].double() for end in ends]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-9)
    programs.check_state("the merged state", merged)
    assert set(make_layout(programs.step, 2).state) <= set(start)


def test_a_brought_run_is_written_to_files_and_read_back(bigram: tuple[RunPrograms, NamedState]) -> None:
    programs, start = bigram
    again = RunPrograms.from_files(programs.to_files(), programs.root)
    assert (again.root, again.config, again.genesis) == (programs.root, CONFIG, None)
    assert merkle.state_root(dict(again.run_step(start, tokens_of(0)).state)) == merkle.state_root(
        dict(programs.run_step(start, tokens_of(0), backend="torch").state)
    )
    weights = {name.removeprefix("weights."): t for name, t in start.items() if name.startswith("weights.")}
    drawn = list(generate(again.sample, weights, [1, 2, 3], 3, seed=b"s", vocabulary=20, backend="torch"))
    assert len(drawn) == 3
    with pytest.raises(MalformedInput, match="first state is a file"):
        again.run_genesis(merkle.leaf_hash(b""))  # type: ignore[arg-type]  # any 32 bytes


def test_the_court_finds_every_merge_of_a_brought_run_at_its_place(bigram: tuple[RunPrograms, NamedState]) -> None:
    """`Clerk.FIRST_MERGE` is 3, whether a run has a genesis Program or not."""
    programs, _ = bigram
    assert programs.roots[0] == programs.step.root
    assert programs.roots[3] == bytes(32)
    assert programs.roots[4:] == tuple(program.root for program in programs.merges)
    leaves = [merkle.leaf_hash(root) for root in programs.roots]
    assert programs.root == merkle.tree_root(leaves)


def respecified(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    spec = {**json.loads(files[SPEC_NAME]), **changes}
    return {**files, SPEC_NAME: json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()}


def test_files_and_states_of_another_brought_run_are_refused(bigram: tuple[RunPrograms, NamedState]) -> None:
    programs, start = bigram
    files = programs.to_files()
    brought = json.loads(files[SPEC_NAME])["brought"]
    for changes, error, reason in (
        ({"version": 1}, MalformedInput, "keys of version 1"),
        ({"version": True}, MalformedInput, "this node reads 1, 2"),
        ({"brought": {**brought, "context": 7}}, MalformedProgram, "step reads tokens"),
        ({"brought": {**brought, "digits": 4}}, MalformedInput, "digits is 4"),
        ({"brought": {**brought, "top_k": 21}}, MalformedInput, "top_k is 21"),
        ({"brought": {**brought, "max_merge": 2}}, MalformedInput, "names other Programs"),
    ):
        with pytest.raises(error, match=reason):
            RunPrograms.from_files(respecified(files, **changes))
    other, _ = bring(SGD(learning_rate=0.1, momentum=0.0))
    mixed = replace(programs, merges=other.merges)
    with pytest.raises(MalformedProgram, match=r"merge-1 reads: momentum\.embed.weight is None"):
        RunPrograms.from_files(mixed.to_files())
    without = {name: tensor for name, tensor in start.items() if name != "momentum.embed.weight"}
    with pytest.raises(MalformedTensor, match=r"'embed\.weight' is missing"):
        programs.run_step(without, tokens_of(0))
    with pytest.raises(MalformedTensor, match="adam_m"):
        programs.run_step({**start, "adam_m.embed.weight": torch.zeros(20, 6)}, tokens_of(0))


def test_a_model_that_no_run_can_train_is_refused() -> None:
    def step_of(module: nn.Module) -> Any:
        return make_step(module, lambda module, tokens: module(tokens).mean(), SGD(learning_rate=0.1))

    with pytest.raises(UsageError, match=r"gives float32\[1, 6, 6\].*|logits are over 6 tokens"):
        RunPrograms.build_brought(step_of(nn.Embedding(20, 6)), CONFIG)
    with pytest.raises(UsageError, match=r"float32\[1, 36\] for tokens \[1, 6\]"):
        RunPrograms.build_brought(step_of(nn.Sequential(nn.Embedding(20, 6), nn.Flatten())), CONFIG)


# The page's file


def block(kind: str, marker: str) -> str:
    found = re.search(rf"{marker}\n```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, marker
    return found[1]


def write_launch(folder: Path, **changes: str) -> LaunchParameters:
    """The example's parameter file with the page's tables, and the page's file beside it."""
    (folder / "my_model.py").write_text(block("python", "<!-- my_model.py -->"))
    tables = block("toml", "installed module:\n")
    kept = re.sub(r"(?ms)^\[model\]$.*?(?=^\[merging\]$)", lambda _: tables, EXAMPLE)
    kept = re.sub(r"(?m)^max_merge = .*$", "max_merge = 2", kept)
    for name, value in changes.items():
        kept, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", kept)
        assert count == 1, name
    path = folder / "network.toml"
    path.write_text(kept)
    return read_parameter_file(path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[LaunchParameters, RunPrograms, NamedState]:
    """What the page's commands leave, read back from there."""
    folder = tmp_path_factory.mktemp("brought")
    chosen = write_launch(folder)
    make_text(folder / "text")
    options = BuildOptions(vocabulary=260, shard_tokens=512, held_out=0.1)
    build_data([folder / "text"], chosen.folder / "data", options)
    result = CliRunner().invoke(network, ["prepare", str(chosen.path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert chosen.source is not None
    kept = Prepared.read(chosen.folder, chosen.config, chosen.source.text)
    with BlockStore(chosen.folder / "data" / "blockstore") as store:
        manifest = RunManifest.from_bytes(store.read(kept.manifest))
        files = {name: store.read(cid) for name, cid in manifest.programs.items()}
        state = decode_state(store.read(kept.genesis))
    assert manifest.genesis_seed is None
    assert merkle.state_root(state) == kept.genesis_root
    return chosen, RunPrograms.from_files(files, kept.programs_root), state


def retrained_root(world: World, start: NamedState) -> tuple[Root, ...]:
    """End states of round 0's units, in order, and what they merge to; with nothing but chain, Programs and data."""
    config, parameters, shards = world.programs.config, world.contract.parameters(), world.shards
    seed, ends = world.contract.get_round(0).seed, []
    for unit in sorted(world.contract.get_units(0), key=lambda unit: unit.unit_id):

        def load(step: int, unit: bytes = unit.unit_id) -> torch.Tensor:
            length = config.context + 1
            places = sampling.batch_positions(seed, unit, step, config.batch, len(shards), shards.shard_tokens, length)
            return shards.batch(places, length)

        state = start
        for segment in range(parameters.segments):
            step = partial(world.programs.run_step, backend="torch")
            state = dict(train_segment(step, state, load, segment, parameters.segment_steps).state)
        ends.append(state)
    merged = world.programs.run_merge(ends, backend="torch")
    return (*map(merkle.state_root, ends), merkle.state_root(merged))


def test_the_pages_model_is_trained_attested_and_merged(
    tmp_path: Path, prepared: tuple[LaunchParameters, RunPrograms, NamedState]
) -> None:
    """A Llama of Transformers with SGD's momentum, on processes that have neither."""
    _, programs, genesis = prepared
    assert {name.partition(".")[0] for name in genesis} == {"weights", "momentum", "step"}
    seats = {"min_miners": 2, "min_verifiers": 1, "verifiers_per_unit": 1, "quorum": 1, "jury_target": 1}
    parties = ["miner-1", "miner-2", "verifier"]
    short = {"segments": 2, "segment_steps": 2, "max_merge": 2, "train_blocks": 1000}
    with open_world(tmp_path, parties, brought=(programs, genesis), **seats, **short) as world:
        for name in parties:
            world.add(name.partition("-")[0], name)
        for node in world.nodes:
            node.start()
        world.wait_for("merge", lambda: world.contract.current().round >= 1, timeout_s=120)
        units = sorted(world.contract.get_units(0), key=lambda unit: unit.unit_id)
        assert {unit.miner for unit in units} == {key(name).address for name in parties[:2]}
        assert {unit.status for unit in units} == {Status.ATTESTED}
        *ends, merged = retrained_root(world, genesis)
        assert [unit.contribution for unit in units] == ends
        assert world.result(0).state_root == merged


def test_the_same_file_begins_with_the_same_weights_and_another_one_is_not_what_was_prepared(
    prepared: tuple[LaunchParameters, RunPrograms, NamedState],
) -> None:
    chosen, _, genesis = prepared
    assert chosen.source is not None
    step = chosen.source.load(chosen.genesis_seed)
    assert merkle.state_root(flatten_state(step.initial_state())) == merkle.state_root(genesis)
    with pytest.raises(UsageError, match=r"prepared\.json is of another"):
        Prepared.read(chosen.folder, chosen.config, "my_model.py:other")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"module": '"my_model.py"'}, "line .*: model.module 'my_model.py' names no function: it takes"),
        ({"module": '"my_model.py:make()"'}, "names no function"),
        ({"digits": "4"}, "training.digits is '4'; it takes a whole number from 1 to 3"),
        ({"top_k": "513"}, "merging.top_k cannot be: top_k is 513; it is from 1 to 512"),
    ],
)
def test_a_parameter_that_cannot_be_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        write_launch(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("other.py:make", "", "there is no .*other.py"),
        ("no.such.module:make", "", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("m.py:make", "import no_such_thing", "m.py cannot be imported: ModuleNotFoundError: .*no_such_thing"),
        ("m.py:make", "make = 1", "m.py has no function make"),
        ("m.py:make", "def make(): return 1", "m.py:make gives int; it is to give what make_step gives"),
        ("m.py:make", "def make(): raise ValueError('odd')", "m.py:make failed: ValueError: odd"),
    ],
)
def test_a_file_that_gives_no_step_is_told_why(tmp_path: Path, text: str, code: str, reason: str) -> None:
    (tmp_path / "m.py").write_text(code)
    with pytest.raises(UsageError, match=reason):
        ModelSource(text, tmp_path).load(bytes(32))
