"""The consensus state: nested for the code that trains, flat and named for roots and files.

{"weights": {name: float32}, "adam_m": {...}, "adam_v": {...}, "step": int64 scalar} is flat as `weights.<name>`,
`adam_m.<name>`, `adam_v.<name>`, `step`. Other optimisers have other groups of moments, or none. Weight names have
dots of their own; group names have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cupel.protocol.errors import MalformedTensor
from cupel.protocol.training.model import ModelConfig, Weights, weight_shapes

State = dict[str, Any]
"""Nested: what a training step takes and returns."""
NamedState = dict[str, torch.Tensor]
"""Flat: what a state root covers and a safetensors file holds."""

GROUPS = ("weights", "adam_m", "adam_v")
"""Of AdamW, which the network's own model is trained by."""


def example_state(model: ModelConfig) -> State:
    """Zeros in the shape of a state: enough to trace with."""

    def zeros() -> Weights:
        return {name: torch.zeros(shape) for name, shape in weight_shapes(model).items()}

    return {**{group: zeros() for group in GROUPS}, "step": torch.tensor(0, dtype=torch.int64)}


def flatten_state(state: Mapping[str, Any]) -> NamedState:
    """Nested to flat, in the order of the nested one."""
    named: NamedState = {}
    for group, value in state.items():
        if isinstance(value, torch.Tensor):
            named[group] = value
        else:
            named.update({f"{group}.{name}": tensor for name, tensor in value.items()})
    return named


def unflatten_state(named: Mapping[str, torch.Tensor]) -> State:
    """Flat to nested; groups and weights in the order of their first names.

    Which groups there are is the Program's to say. Raises MalformedTensor for a name that is neither `step` nor a
    group's and a weight's
    """
    state: State = {}
    for name, tensor in named.items():
        group, _, rest = name.partition(".")
        if group and rest and group != "step":
            state.setdefault(group, {})[rest] = tensor
        elif name == "step":
            state[name] = tensor
        else:
            raise MalformedTensor(f"{name[:80]!r} is no tensor of a state: it holds step and groups, as weights.NAME")
    return state


def weights_of(named: Mapping[str, torch.Tensor]) -> Weights:
    """The weights alone, by their own names."""
    weights: Weights = unflatten_state(named).get("weights", {})
    return weights
