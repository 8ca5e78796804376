"""Programs and their arguments from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cupel.disputes.files import read_file
from cupel.network.data import DataDirectory, ShardSet
from cupel.network.ipfs import Fetcher
from cupel.network.states import decode_state
from cupel.protocol.errors import MalformedInput, MalformedProgram, UsageError
from cupel.protocol.program import Program
from cupel.protocol.program.structure import unflatten
from cupel.protocol.sampling import batch_positions
from cupel.protocol.types import Seed, UnitId

MAX_PROGRAM_BYTES = 1 << 30
MAX_TENSORS_BYTES = 64 << 30
BATCH = "1"
"""The input of a training step that the batch is; the state is `0.<name>`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """One run of a Program: what somebody claims the result of."""

    program: Program
    args: Any
    """As `run` takes them."""
    what: str
    """In words: "step 5 of unit 0x..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What decides the batch of a step of a unit, and where the data is."""

    data: Path
    """As `cupel data build` leaves it."""
    seed: Seed
    unit: UnitId
    step: int
    """Of the unit, counted from 0."""


def read_program(path: Path) -> Program:
    """Raises UsageError, MalformedProgram."""
    try:
        return Program.from_bytes(read_file(path, max_bytes=MAX_PROGRAM_BYTES))
    except MalformedProgram as wrong:
        raise MalformedProgram(f"{path}: {wrong}") from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A state file's tensors by name. Raises UsageError, MalformedInput."""
    try:
        return decode_state(read_file(path, max_bytes=MAX_TENSORS_BYTES))
    except MalformedInput as wrong:
        raise type(wrong)(f"{path}: {wrong}") from None


def read_work(
    program_path: Path, *, states: Sequence[Path], batch: Path | None, inputs: Path | None, draw: Draw | None
) -> Work:
    """A Program with its arguments, put together from these files.

    states  one is the state that a step starts from (inputs `0.<name>`); several are those that a merge averages
            (`0.<i>.<name>`)
    batch   a file of one tensor, the input `1`; instead of it `draw` reads it from a run's data
    inputs  a file of tensors that have the inputs' own names
    Raises  UsageError, MalformedInput: the files hold too little, too much, or what no Program takes
    """
    program = read_program(program_path)
    given: dict[str, tuple[torch.Tensor, str]] = {}

    def give(name: str, tensor: torch.Tensor, source: str) -> None:
        if name not in program.inputs:
            raise MalformedInput(f"{source} holds {name[:80]!r}, which {program_path} does not read")
        if name in given:
            raise UsageError(f"{name[:80]!r} is given twice, by {given[name][1]} and {source}")
        given[name] = (tensor, source)

    for prefix, path in zip(_state_prefixes(program, len(states)), states, strict=True):
        for name, tensor in read_tensors(path).items():
            give(prefix + name, tensor, str(path))
    if batch is not None:
        tensors = read_tensors(batch)
        if len(tensors) != 1:
            raise MalformedInput(f"{batch} holds {len(tensors)} tensors; a batch is one")
        give(BATCH, next(iter(tensors.values())), str(batch))
    if draw is not None:
        give(BATCH, _draw_batch(program, draw), f"step {draw.step} in {draw.data}")
    if inputs is not None:
        for name, tensor in read_tensors(inputs).items():
            give(name, tensor, str(inputs))
    missing = [name for name in program.inputs if name not in given]
    if missing:
        raise UsageError(
            f"{program_path} reads {missing[0][:80]!r} ({len(missing)} of {len(program.inputs)} inputs are missing): "
            "give --state, --batch (or --data with --seed, --unit and --step), or --inputs"
        )
    flat = [given[name][0] for name in program.input_names]
    return Work(program=program, args=unflatten(program.structure.arguments, flat), what=str(program_path))


def _state_prefixes(program: Program, count: int) -> list[str]:
    """What the inputs of each state begin with."""
    if count == 1 and not all(name.startswith("0.0.") for name in program.inputs):
        return ["0."]
    return [f"0.{number}." for number in range(count)]


def _draw_batch(program: Program, draw: Draw) -> torch.Tensor:
    type_ = program.inputs.get(BATCH)
    if type_ is None or len(type_.shape) != 2:
        raise UsageError("--data is for Programs that read a batch, int32[sequences, tokens], as their second argument")
    directory = DataDirectory(draw.data)
    with closing(Fetcher(directory.store, [])) as fetcher:
        shards = ShardSet(directory.manifest, fetcher)
        sequences, length = type_.shape
        places = batch_positions(
            draw.seed, draw.unit, draw.step, sequences, len(shards), shards.shard_tokens, length
        )  # fmt: skip
        return shards.batch(places, length)


def name_outputs(program: Program, tensors: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """Claimed tensors by the Program's output names: they may be called as in a state (without `0.`).

    Raises  MalformedInput: a tensor of another name, type or shape than the Program gives; UsageError: none at all
    """
    if not tensors:
        raise UsageError(f"{source} holds no tensor: nothing is claimed")
    named: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        full = name if name in program.outputs else f"0.{name}"
        if full not in program.outputs:
            raise MalformedInput(f"{source} holds {name[:80]!r}, which the Program does not give")
        type_ = program.outputs[full]
        if tensor.dtype != type_.dtype.torch or tuple(tensor.shape) != type_.shape:
            got = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
            raise MalformedInput(f"{source}: {name[:80]!r} is {got}, the Program gives {type_}")
        named[full] = tensor
    return named
