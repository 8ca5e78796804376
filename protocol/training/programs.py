"""All the Programs of a run: built from its configuration, written to files, read back and checked.

Files are bytes by name, for the caller to store; `run.json` says what the run is, in canonical JSON (sorted keys, no
spaces), and names every Program's root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch

from cupel.protocol import merkle
from cupel.protocol.arithmetic.cuda_backend import plan_for
from cupel.protocol.arithmetic.engines import choose_backend
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.arithmetic.recomputation import Recompute
from cupel.protocol.errors import MalformedInput, MalformedProgram, RootMismatch, UsageError
from cupel.protocol.json_text import parse_json
from cupel.protocol.program import Program, run, trace
from cupel.protocol.training.brought import BroughtConfig, trace_brought
from cupel.protocol.training.evaluate import trace_evaluate
from cupel.protocol.training.generation import trace_sample
from cupel.protocol.training.genesis import run_genesis, trace_genesis
from cupel.protocol.training.merge import trace_merge
from cupel.protocol.training.model import ModelConfig, weight_shapes
from cupel.protocol.training.modules import ModuleStep
from cupel.protocol.training.resident import run_resident_step
from cupel.protocol.training.state import GROUPS, NamedState, example_state, flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.training.unit import Stepped
from cupel.protocol.types import Root, Seed

VERSION = 1
"""Of the network's own model."""
BROUGHT_VERSION = 2
SPEC_NAME = "run.json"
MAX_SPEC_BYTES = 1 << 20
MAX_MERGE = 256
NO_PROGRAM = Root(bytes(32))
"""In the place of a Program that a run does not have: no Program has this root."""
StateTypes = dict[str, tuple[torch.dtype, tuple[int, ...]]]
_KEYS = {
    VERSION: {"version", "model", "training", "max_merge", "top_k", "programs", "programs_root"},
    BROUGHT_VERSION: {"version", "brought", "programs", "programs_root"},
}
"""Of run.json, by its version."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What decides every Program of a run."""

    model: ModelConfig
    training: TrainingConfig
    max_merge: int
    """Most units a round merges; there is one Program for each number of them."""
    top_k: int
    """Tokens the sampling step chooses among."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_merge <= MAX_MERGE:
            raise UsageError(f"max_merge is {self.max_merge}; it is from 1 to {MAX_MERGE}")
        if not 1 <= self.top_k <= self.model.vocabulary:
            raise UsageError(f"top_k is {self.top_k}; it is from 1 to the vocabulary's {self.model.vocabulary}")

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    @property
    def context(self) -> int:
        return self.model.context

    @property
    def batch(self) -> int:
        return self.training.batch

    @staticmethod
    def demo() -> RunConfig:
        return RunConfig(model=ModelConfig.demo(), training=TrainingConfig.demo(), max_merge=4, top_k=40)

    @staticmethod
    def tiny() -> RunConfig:
        """For tests and the soak: a whole round computes in a second."""
        return RunConfig(model=ModelConfig.tiny(), training=TrainingConfig.tiny(), max_merge=4, top_k=8)


AnyConfig = RunConfig | BroughtConfig
"""Of the network's own model, or of one that somebody brings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunPrograms:
    """The Programs of one run, and how they act on named states."""

    config: AnyConfig
    step: Program
    """(state, tokens int32[batch, context + 1]) → (state, {"loss", "grad_norm"})"""
    evaluate: Program
    """(weights, tokens int32[batch, context + 1]) → mean nats a token"""
    sample: Program
    """(weights, tokens int32[1, context], length, key, step, temperature) → next token"""
    genesis: Program | None
    """(key) → state; None for a brought model, whose first state is a file"""
    merges: tuple[Program, ...]
    """Of 1, 2, ... max_merge states: ([state, ...]) → state"""

    @staticmethod
    def build(config: RunConfig) -> RunPrograms:
        """Traces everything: seconds for a small model."""
        model, training = config.model, config.training
        tokens = torch.zeros((training.batch, model.context + 1), dtype=torch.int32)
        return RunPrograms(
            config=config,
            step=trace(make_training_step(model, training), (example_state(model), tokens)),
            evaluate=trace_evaluate(model, training.batch),
            sample=trace_sample(model, config.top_k),
            genesis=trace_genesis(model),
            merges=tuple(trace_merge(model, n) for n in range(1, config.max_merge + 1)),
        )

    @staticmethod
    def build_brought(step: ModuleStep, config: BroughtConfig) -> RunPrograms:
        """Of a model that somebody brings. Raises as `trace_brought`."""
        traced, evaluate, sample, merges = trace_brought(step, config)
        programs = RunPrograms(
            config=config, step=traced, evaluate=evaluate, sample=sample, genesis=None, merges=merges
        )
        programs._check_state_types()
        return programs

    @property
    def by_name(self) -> dict[str, Program]:
        """Every Program there is, in the order of `roots`."""
        named = {"step": self.step, "evaluate": self.evaluate, "sample": self.sample}
        if self.genesis is not None:
            named["genesis"] = self.genesis
        return {**named, **{f"merge-{n}": program for n, program in enumerate(self.merges, 1)}}

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """What `root` covers, in this order: step, evaluate, sample, genesis, merge 1, ....

        Without a genesis `NO_PROGRAM` keeps its place: a court looks for the merge of n at 3 + n.
        """
        before = (self.step.root, self.evaluate.root, self.sample.root)
        genesis = NO_PROGRAM if self.genesis is None else self.genesis.root
        return (*before, genesis, *(program.root for program in self.merges))

    @cached_property
    def root(self) -> Root:
        """The contract's `programsRoot`: the tree over `roots`, each hashed as a leaf."""
        return merkle.tree_root([merkle.leaf_hash(root) for root in self.roots])

    # Acting on named states

    def run_genesis(self, seed: Seed, *, backend: str = "auto", threads: int = 1) -> NamedState:
        """Raises MalformedInput for a run whose first state is a file."""
        if self.genesis is None:
            raise MalformedInput("this run's first state is a file: a seed gives none")
        return flatten_state(run_genesis(self.genesis, seed, backend=backend, threads=threads))

    def run_step(
        self,
        state: Mapping[str, torch.Tensor],
        tokens: torch.Tensor,
        *,
        backend: str = "auto",
        threads: int = 1,
        recompute: Recompute = "none",
    ) -> Stepped:
        """One optimiser update; with backend, threads and recomputation bound, what `unit` calls a Step.

        On a GPU the state stays there from step to step (resident.py).
        """
        if choose_backend(backend) == "cuda":
            return run_resident_step(self.step, plan_for(self.step.graph, self.step.root), state, tokens)
        arguments = (unflatten_state(state), tokens)
        following, metrics = run(self.step, arguments, backend, threads=threads, recompute=recompute)
        return Stepped(flatten_state(following), metrics["loss"], metrics["grad_norm"])

    def run_merge(
        self, states: list[Mapping[str, torch.Tensor]], *, backend: str = "auto", threads: int = 1
    ) -> NamedState:
        """Raises UsageError for no state, or more than the run merges."""
        if not 1 <= len(states) <= len(self.merges):
            raise UsageError(f"{len(states)} states to merge; this run merges from 1 to {len(self.merges)}")
        program = self.merges[len(states) - 1]
        return flatten_state(run(program, ([unflatten_state(s) for s in states],), backend, threads=threads))

    # Files

    def to_files(self) -> dict[str, bytes]:
        """`run.json` and one `.program` each."""
        programs = self.by_name
        spec = {
            **_describe(self.config),
            "programs": {name: program.root.hex() for name, program in programs.items()},
            "programs_root": self.root.hex(),
        }
        files = {SPEC_NAME: _canonical_json(spec)}
        return files | {f"{name}.program": program.to_bytes() for name, program in programs.items()}

    @staticmethod
    def from_files(files: Mapping[str, bytes], root: Root | None = None) -> RunPrograms:
        """What `to_files` wrote; `root`, when given, is the one the chain promises.

        Raises MalformedInput or MalformedProgram for files that no run writes, RootMismatch for a Program, or the
        whole, that is not the promised one. Whether the Programs are those the configuration traces to is not asked:
        the root decides what a run computes.
        """
        spec = _read_spec(files)
        config = _read_config(spec)
        first = ["genesis"] if isinstance(config, RunConfig) else []
        names = ["step", "evaluate", "sample", *first, *(f"merge-{n}" for n in range(1, config.max_merge + 1))]
        promised = spec["programs"]
        if not isinstance(promised, dict) or sorted(promised) != sorted(names):
            raise MalformedInput(f"{SPEC_NAME}: names other Programs than {', '.join(names)}")
        programs: dict[str, Program] = {}
        for name in names:
            if f"{name}.program" not in files:
                raise MalformedInput(f"{name}.program is missing")
            programs[name] = Program.from_bytes(files[f"{name}.program"])
            if promised[name] != programs[name].root.hex():
                raise RootMismatch(f"{name}.program", expected=_from_hex(promised[name]), got=programs[name].root)
        result = RunPrograms(
            config=config,
            step=programs["step"],
            evaluate=programs["evaluate"],
            sample=programs["sample"],
            genesis=programs.get("genesis"),
            merges=tuple(programs[f"merge-{n}"] for n in range(1, config.max_merge + 1)),
        )
        for expected in (_from_hex(spec["programs_root"]), root):
            if expected is not None and expected != result.root:
                raise RootMismatch("the run's programs", expected=expected, got=result.root)
        result._check_state_types()
        return result

    @cached_property
    def state_types(self) -> StateTypes:
        """Type and shape of every tensor of a state of this model, by name."""
        if isinstance(self.config, BroughtConfig):
            return _types_in(self.step.inputs, "0.")
        weights = weight_shapes(self.config.model)
        types: StateTypes = {
            f"{group}.{name}": (torch.float32, tuple(weights[name])) for group in GROUPS for name in weights
        }
        return types | {"step": (torch.int64, ())}

    def check_state(self, what: str, state: Mapping[str, torch.Tensor]) -> None:
        """Raises MalformedInput unless `what` is a state of this model, tensor for tensor."""
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
        wanted = self.state_types
        if found != wanted:
            odd = next(name for name in (*wanted, *found) if found.get(name) != wanted.get(name))
            raise MalformedInput(
                f"{what} is no state of this model: {odd} is {_type_text(found.get(odd))}, "
                f"the model has {_type_text(wanted.get(odd))}"
            )

    def _check_state_types(self) -> None:
        """Raise MalformedProgram unless every Program reads and writes states of this model."""
        shapes = self.state_types
        weights = {name.removeprefix("weights."): kind for name, kind in shapes.items() if name.startswith("weights.")}
        if not weights or shapes.get("step") != (torch.int64, ()):
            raise MalformedProgram("step reads no state: that is weights, and step as an int64 scalar")
        config = self.config
        tokens: StateTypes = {"": (torch.int32, (config.batch, config.context + 1))}
        scalar: StateTypes = {"": (torch.float32, ())}

        def check(which: str, types: Mapping[str, TensorType], prefix: str, wanted: StateTypes) -> None:
            found = _types_in(types, prefix)
            if found != wanted:
                odd = next(n for n in (*wanted, *found) if found.get(n) != wanted.get(n))
                raise MalformedProgram(f"{which}: {odd} is {found.get(odd)} where the model says {wanted.get(odd)}")

        check("step reads", self.step.inputs, "0.", shapes)
        check("step reads tokens", self.step.inputs, "1", tokens)
        check("step writes", self.step.outputs, "0.", shapes)
        for metric in ("loss", "grad_norm"):
            check(f"step writes {metric}", self.step.outputs, f"1.{metric}", scalar)
        check("evaluate reads", self.evaluate.inputs, "0.", weights)
        check("sample reads", self.sample.inputs, "0.", weights)
        if self.genesis is not None:
            check("genesis writes", self.genesis.outputs, "", shapes)
        for n, merge in enumerate(self.merges, 1):
            for i in range(n):
                check(f"merge-{n} reads", merge.inputs, f"0.{i}.", shapes)
            check(f"merge-{n} writes", merge.outputs, "", shapes)


def _types_in(types: Mapping[str, TensorType], prefix: str) -> StateTypes:
    return {name.removeprefix(prefix): (t.dtype.torch, t.shape) for name, t in types.items() if name.startswith(prefix)}


def _type_text(kind: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    return "absent" if kind is None else f"{str(kind[0]).removeprefix('torch.')}{list(kind[1])}"


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _read_spec(files: Mapping[str, bytes]) -> dict[str, Any]:
    data = files.get(SPEC_NAME)
    if data is None:
        raise MalformedInput(f"{SPEC_NAME} is missing")
    if len(data) > MAX_SPEC_BYTES:
        raise MalformedInput(f"{SPEC_NAME}: {len(data)} bytes; at most {MAX_SPEC_BYTES} are read")
    try:
        spec = parse_json(data)
        canonical = _canonical_json(spec)
    except (ValueError, RecursionError) as error:
        raise MalformedInput(f"{SPEC_NAME}: not JSON: {error}") from None
    if not isinstance(spec, dict) or canonical != data:
        raise MalformedInput(f"{SPEC_NAME}: not a canonical JSON object")
    version = spec.get("version")
    if type(version) is not int or version not in _KEYS:
        raise MalformedInput(f"{SPEC_NAME}: version {str(version)[:20]}; this node reads {', '.join(map(str, _KEYS))}")
    if set(spec) != _KEYS[version]:
        raise MalformedInput(f"{SPEC_NAME}: not the keys of version {version}: {', '.join(sorted(_KEYS[version]))}")
    return spec


def _describe(config: AnyConfig) -> dict[str, Any]:
    if isinstance(config, BroughtConfig):
        return {"version": BROUGHT_VERSION, "brought": asdict(config)}
    return {
        "version": VERSION,
        "model": asdict(config.model),
        "training": asdict(config.training),
        "max_merge": config.max_merge,
        "top_k": config.top_k,
    }


def _read_config(spec: Mapping[str, Any]) -> AnyConfig:
    try:
        if spec["version"] == BROUGHT_VERSION:
            brought: BroughtConfig = _read_dataclass(BroughtConfig, spec["brought"])
            return brought
        return RunConfig(
            model=_read_dataclass(ModelConfig, spec["model"]),
            training=_read_dataclass(TrainingConfig, spec["training"]),
            max_merge=_typed("max_merge", spec["max_merge"], int),
            top_k=_typed("top_k", spec["top_k"], int),
        )
    except UsageError as error:
        raise MalformedInput(f"{SPEC_NAME}: {error}") from None


def _read_dataclass(kind: Any, values: Any) -> Any:
    types = {field.name: {"int": int, "float": float, "bool": bool}[str(field.type)] for field in fields(kind)}
    if not isinstance(values, dict) or set(values) != set(types):
        raise MalformedInput(f"{SPEC_NAME}: {kind.__name__} takes {', '.join(types)}")
    return kind(**{name: _typed(name, values[name], types[name]) for name in types})


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise MalformedInput(f"{SPEC_NAME}: {name} is {value!r}, not of type {kind.__name__}")
    return value


def _from_hex(text: Any) -> bytes:
    try:
        root = bytes.fromhex(text)
    except (ValueError, TypeError):
        root = b""
    if len(root) != 32:
        raise MalformedInput(f"{SPEC_NAME}: {str(text)[:80]!r} is no root of 32 bytes in hexadecimal")
    return root
