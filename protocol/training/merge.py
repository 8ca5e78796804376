"""The merge of a round: how the attested units of a round become its next state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from cupel.protocol import merkle
from cupel.protocol.errors import UsageError
from cupel.protocol.program import Program, trace
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import State, example_state
from cupel.protocol.types import Root


def merge(states: Sequence[State]) -> State:
    """Floats: the order-free sum of all n values at once, divided by n. Integers: the first state's.

    End states are averaged, not differences from the start: second moments stay non-negative (docs/design/roots.md).
    """

    def combine(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: combine([value[name] for value in values]) for name in values[0]}
        if not values[0].is_floating_point():
            return values[0]
        return torch.stack(values, dim=-1).sum(dim=-1) / float(len(values))

    merged: State = combine(list(states))
    return merged


def trace_merge(model: ModelConfig, states: int) -> Program:
    """The Program that merges so many states; its one argument is their list, in unit id order."""
    if states < 1:
        raise UsageError(f"a merge of {states} states: at least one is needed")
    return trace_merge_like(example_state(model), states)


def trace_merge_like(example: State, states: int, frozen: Collection[str] = ()) -> Program:
    """The same for states like `example`, whatever tensors they have.

    frozen  weights that no step changes: copied, because three equal floats need not have themselves as rounded mean
    """

    def merge_all(given: Sequence[State]) -> State:
        merged = merge(given)
        return {**merged, "weights": merged["weights"] | {name: given[0]["weights"][name] for name in frozen}}

    return trace(merge_all if frozen else merge, ([example for _ in range(states)],))


def merge_programs_root(programs: Sequence[Program]) -> Root:
    """The tree over the roots of the merges of 1, 2, ... states, each hashed as a leaf: nodes and roots look alike."""
    return merkle.tree_root([merkle.leaf_hash(program.root) for program in programs])
