"""What a dispute is about, computed again from states and data: nothing of it is kept but checkpoints.

A step is traced by the torch engine, which compiles nothing; on every engine the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch

from cupel.protocol import merkle
from cupel.protocol.disputes import Prover
from cupel.protocol.disputes.game import StepHeld
from cupel.protocol.program import Program
from cupel.protocol.training.programs import RunPrograms
from cupel.protocol.training.state import NamedState, unflatten_state
from cupel.protocol.training.unit import LoadBatch, Step, float_bits
from cupel.protocol.types import Root

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
ENGINE = "torch"
_STATE = "0."
"""What the inputs and outputs of a step are called that are the state; in a merge every input begins so."""


def hold(programs: RunPrograms, program: Program, prover: Prover) -> StepHeld:
    """A run of the step or of a merge, as either party shows it."""
    trace, graph = prover.trace, program.graph
    roots = dict(zip(program.input_names, trace.roots, strict=False))
    ends = dict(zip(program.output_names, (trace.roots[value] for value in graph.outputs), strict=True))
    state = {name.removeprefix(_STATE): root for name, root in roots.items() if name.startswith(_STATE)}
    before, after = [state], {name.removeprefix(_STATE): r for name, r in ends.items() if name.startswith(_STATE)}
    if program is not programs.step:
        states = 1 + max(int(name.partition(".")[0]) for name in state)
        before = [
            {name.partition(".")[2]: root for name, root in state.items() if name.startswith(f"{number}.")}
            for number in range(states)
        ]
        after = ends
    return StepHeld(
        program_roots=programs.roots,
        program_place=programs.roots.index(program.root),
        trace=trace,
        read=_Reader(prover),
        before=before,
        after=after,
    )


class Recent(Generic[K, V]):
    """The few things that were asked for last, by key; another one takes the place of that which rests for longest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What `make` gave for this key, if that is still here. Room is made before it is called."""
        if key in self._made:
            self._made[key] = self._made.pop(key)
        else:
            while len(self._made) >= self._most:
                del self._made[next(iter(self._made))]
            self._made[key] = make()
        return self._made[key]


class _Reader:
    """Values of a run, computed when they are asked for; the last one is asked for several times."""

    def __init__(self, prover: Prover) -> None:
        self._prover = prover
        self._last: tuple[int, bytes] | None = None

    def __call__(self, value: int) -> bytes:
        if self._last is None or self._last[0] != value:
            self._last = value, merkle.tensor_bytes(self._prover.result(value))
        return self._last[1]


class SegmentRun:
    """One segment of a unit, computed again as far as it is asked for. What was asked for last stays in memory."""

    def __init__(
        self, programs: RunPrograms, step: Step, start: NamedState, load: LoadBatch, segment: int, steps: int
    ) -> None:
        """start: the state before the segment. step: one update. steps: of a segment."""
        self._programs, self._step, self._start, self._load = programs, step, start, load
        self._first, self._steps = segment * steps, steps
        self._before: tuple[int, Mapping[str, torch.Tensor]] = (0, start)
        self._prover: tuple[int, Prover] | None = None
        self._held: tuple[int, StepHeld] | None = None

    @cached_property
    def _trained(self) -> tuple[tuple[Root, ...], tuple[bytes, bytes]]:
        roots, state, evidence = [], dict[str, torch.Tensor](self._start), (b"", b"")
        for number in range(self._steps):
            stepped = self._step(state, self._load(self._first + number))
            state = dict(stepped.state)
            evidence = float_bits(stepped.loss), float_bits(stepped.gradient_norm)
            roots.append(merkle.state_root(state))
        return tuple(roots), evidence

    @property
    def roots(self) -> tuple[Root, ...]:
        """State root after every step."""
        return self._trained[0]

    @property
    def evidence(self) -> tuple[bytes, bytes]:
        """Bits of the last step's loss and gradient norm, 4 bytes each."""
        return self._trained[1]

    def get_state_before(self, number: int) -> Mapping[str, torch.Tensor]:
        at, state = self._before if self._before[0] <= number else (0, self._start)
        for done in range(at, number):
            state = self._step(state, self._load(self._first + done)).state
        self._before = number, state
        return state

    def prover(self, number: int) -> Prover:
        """Of one step of the segment."""
        if self._prover is None or self._prover[0] != number:
            state = {name: tensor.cpu() for name, tensor in self.get_state_before(number).items()}
            arguments = (unflatten_state(state), self._load(self._first + number))
            self._prover = number, Prover(self._programs.step, arguments, ENGINE)
        return self._prover[1]

    def hold(self, number: int) -> StepHeld:
        """One step of the segment, as it is right."""
        if self._held is None or self._held[0] != number:
            self._held = number, hold(self._programs, self._programs.step, self.prover(number))
        return self._held[1]


class MergeRun:
    """A merge, computed again."""

    def __init__(self, programs: RunPrograms, states: Sequence[NamedState]) -> None:
        self._programs, self._states = programs, states

    @cached_property
    def _program(self) -> Program:
        return self._programs.merges[len(self._states) - 1]

    @cached_property
    def _prover(self) -> Prover:
        arguments: Any = ([unflatten_state(state) for state in self._states],)
        return Prover(self._program, arguments, ENGINE)

    @cached_property
    def _held(self) -> StepHeld:
        return hold(self._programs, self._program, self._prover)

    @property
    def root(self) -> Root:
        """Of the merged state."""
        return Root(self._held.state_tree.root)

    def prover(self, _: int = 0) -> Prover:
        return self._prover

    def hold(self, _: int = 0) -> StepHeld:
        return self._held
