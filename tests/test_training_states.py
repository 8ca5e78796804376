"""A state is one of this model tensor for tensor, or it is refused before anything computes with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from network_world import GENESIS_SEED, build_programs

from cupel.protocol.errors import MalformedInput
from cupel.protocol.training.state import NamedState


def drop(state: NamedState, name: str) -> NamedState:
    return {key: tensor for key, tensor in state.items() if key != name}


SPOILT: dict[str, Callable[[NamedState, str], NamedState]] = {
    "is absent": drop,
    "is float32": lambda state, name: state | {name: state[name][..., :1]},
    "is float64": lambda state, name: state | {name: state[name].double()},
    "extra is int64": lambda state, name: state | {"extra": torch.zeros((), dtype=torch.int64)},
}


@pytest.mark.parametrize("complaint", SPOILT)
def test_a_state_of_another_shape_is_refused(complaint: str) -> None:
    programs = build_programs()
    state = programs.run_genesis(GENESIS_SEED)
    programs.check_state("this state", state)
    name = max(state, key=lambda one: state[one].ndim)
    with pytest.raises(MalformedInput, match=f"this state is no state of this model: .*{complaint}"):
        programs.check_state("this state", SPOILT[complaint](state, name))
