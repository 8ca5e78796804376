"""A miner that spoils the last training step of each segment, goes on from there, and forges the trace that fits.

The last, because most of what is done to an earlier one still differs at the end, but not all: an ulp may be rounded
away again by the updates that follow, and then it was no lie.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from cupel.chain.run_values import UnitView
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.disputes.game import Defence, StepHeld
from cupel.protocol.merkle import tensor_bytes, tensor_root
from cupel.protocol.program.traces import Trace, tree_of
from cupel.protocol.training.unit import State, Step, Stepped

Spoil = Callable[[State, Stepped], Stepped]
"""(state before the step, what it gives) to what is said that it gives."""


def spoil_last(step: Step, segment_steps: int, spoil: Spoil) -> Step:
    """`step`, with the result of the last one of each segment spoiled."""
    done = 0

    def spoiled(state: State, tokens: torch.Tensor) -> Stepped:
        nonlocal done
        done += 1
        stepped = step(state, tokens)
        return spoil(state, stepped) if done % segment_steps == 0 else stepped

    return spoiled


def first_of(state: State, group: str) -> str:
    """The name of the group's first tensor."""
    return min(name for name in state if name.startswith(f"{group}."))


def change_first(state: State, group: str, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
    """The state with the first element of a group's first tensor changed."""
    name = first_of(state, group)
    tensor = state[name].clone()
    flat = tensor.view(-1)
    flat[0] = change(flat[0])
    return {**state, name: tensor}


class SpoilingMiner(Miner):
    """In a dispute it shows a trace that begins and ends as it claims: only what it spoiled is otherwise."""

    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self._right_step = self.step
        self.step = spoil_last(self.step, self.parameters.segment_steps, self.spoil)

    @staticmethod
    @abstractmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        """What it says the step gives."""

    def defend_unit(self, unit: UnitView, segment: int) -> Defence:
        spoiling, self.step = self.step, self._right_step
        try:
            defence = super().defend_unit(unit, segment)
        finally:
            self.step = spoiling
        last = self.parameters.segment_steps - 1

        def spoil(before: State, after: State) -> State:
            zero = torch.zeros(())
            return self.spoil(before, Stepped(after, zero, zero)).state

        def hold(step: int) -> StepHeld:
            held = defence.hold(step)
            return forge(held, spoil) if step == last else held

        return replace(defence, hold=hold)


def forge(held: StepHeld, spoil: Callable[[State, State], State]) -> StepHeld:
    """A step or a merge with a trace whose outputs are what is said, and everything else as it is.

    spoil  (state before, state after) to the state after that is said; of a merge nothing is before
    """
    program, graph = held.program, held.program.graph
    inputs = {n.removeprefix("0."): v for v, n in enumerate(program.input_names) if n.startswith("0.")}
    outputs = {name: graph.outputs[program.output_names.index(held.output_name(name))] for name in held.after}
    said = spoil({} if held.is_merge else _read(held, inputs), _read(held, outputs))
    forged = {outputs[n]: said[n] for n in held.after if tensor_root(said[n]) != held.after[n]}
    shown = {value: tensor_bytes(tensor) for value, tensor in forged.items()}
    trees = tuple(tree_of(forged[v]).root if v in forged else tree for v, tree in enumerate(held.trace.trees))
    return replace(
        held,
        trace=Trace(program=program, trees=trees),
        read=lambda value: shown[value] if value in shown else held.read(value),
        after={name: tensor_root(said[name]) for name in held.after},
    )


def _read(held: StepHeld, values: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """These values of a trace, as tensors by name."""
    graph = held.program.graph
    read = {}
    for name, value in values.items():
        kind = torch.int64 if name == "step" else torch.float32
        read[name] = torch.frombuffer(bytearray(held.read(value)), dtype=kind).reshape(graph.type_of(value).shape)
    return read
