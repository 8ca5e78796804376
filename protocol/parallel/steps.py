"""Training steps on several workers: how state and tokens lie on them, and one step after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cupel.protocol.arithmetic.operations import DType, TensorType
from cupel.protocol.errors import MalformedProgram, UsageError
from cupel.protocol.parallel.communicator import Communicator
from cupel.protocol.parallel.partition import is_scattered
from cupel.protocol.parallel.running import ParallelGraph
from cupel.protocol.parallel.sharding import Sharding, evenly, join, split
from cupel.protocol.program.program import Program

MAX_WORKERS = 1024
_STATE, _TOKENS, _METRICS = "0.", "1", "1."
_WEIGHTS = "weights."


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a training step's tensors lie on the workers: sequences and optimiser state cut, weights whole."""

    size: int
    """Workers."""
    state: dict[str, Sharding]
    """By flat name; what is not here is whole on every worker."""
    tokens: Sharding
    state_types: dict[str, TensorType]
    """Of the whole state."""

    def split_state(self, state: Mapping[str, torch.Tensor], worker: int) -> dict[str, torch.Tensor]:
        """What a worker holds of a state."""
        return {name: split(state[name], self.state.get(name), worker) for name in self.state_types}

    def split_tokens(self, tokens: torch.Tensor, worker: int) -> torch.Tensor:
        return split(tokens, self.tokens, worker)

    def join_state(self, pieces: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The whole state from what each worker holds. Only worker 0 need show what is whole on all."""
        joined = {}
        for name, type_ in self.state_types.items():
            sharding = self.state.get(name)
            whole = pieces[0][name]
            joined[name] = whole if sharding is None else join([p[name] for p in pieces], sharding, type_.shape)
        return joined


def make_layout(program: Program, size: int) -> Layout:
    """The layout for a step (state, tokens[B, ...]) → (state, metrics), as `training.programs` traces them.

    A batch that does not divide is cut unevenly; of more workers than sequences some compute none, but share the
    optimiser's work.
    Raises  UsageError for a number of workers that makes no sense; MalformedProgram for another kind of Program
    """
    if not 1 <= size <= MAX_WORKERS:
        raise UsageError(f"{size} workers; take 1 to {MAX_WORKERS}")
    types = {name.removeprefix(_STATE): t for name, t in program.inputs.items() if name.startswith(_STATE)}
    tokens = program.inputs.get(_TOKENS)
    outputs = {name.removeprefix(_STATE): t for name, t in program.outputs.items() if name.startswith(_STATE)}
    if not types or tokens is None or not tokens.shape or outputs != types:
        raise MalformedProgram("only a step (state, tokens) -> (state, metrics) is run on several workers")
    cut = {
        name: evenly(0, type_.shape, size)
        for name, type_ in types.items()
        if not name.startswith(_WEIGHTS) and type_.dtype == DType.FLOAT32 and type_.shape and is_scattered(type_, size)
    }
    return Layout(size=size, state=cut, tokens=evenly(0, tokens.shape, size), state_types=types)


class ParallelStep:
    """One worker's training step."""

    def __init__(
        self, program: Program, communicator: Communicator, *, backend: str = "auto", threads: int = 1
    ) -> None:
        """Raises as `make_layout`."""
        self.layout = make_layout(program, communicator.size)
        self._inputs, self._outputs = program.input_names, program.output_names
        self.graph = ParallelGraph(
            program.graph,
            communicator,
            inputs=self._cuts(self._inputs, {_TOKENS: self.layout.tokens}),
            outputs=self._cuts(self._outputs, {}),
            backend=backend,
            threads=threads,
        )

    def _cuts(self, names: Sequence[str], others: Mapping[str, Sharding]) -> dict[int, Sharding]:
        by_name = {**others, **{_STATE + name: sharding for name, sharding in self.layout.state.items()}}
        return {i: by_name[name] for i, name in enumerate(names) if name in by_name}

    def run(
        self, state: Mapping[str, torch.Tensor], tokens: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(state, metrics) after one step: the worker's pieces of the state, and metrics every worker has whole."""
        named = {_TOKENS: tokens, **{_STATE + name: tensor for name, tensor in state.items()}}
        outputs = self.graph.run([named[name] for name in self._inputs])
        following: dict[str, torch.Tensor] = {}
        metrics: dict[str, torch.Tensor] = {}
        for name, tensor in zip(self._outputs, outputs, strict=True):
            if name.startswith(_STATE):
                following[name.removeprefix(_STATE)] = tensor
            else:
                metrics[name.removeprefix(_METRICS)] = tensor
        return following, metrics
