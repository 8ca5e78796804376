"""Twenty steps of a small GPT: the self-test's long case, where an error in any one bit reaches every later one.

The step is a stored Program, so that its roots outlive changes to tracing. State and tokens come from `cases.Words`, by
integers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import torch

from cupel.protocol.arithmetic.cases import Words, tensor_of
from cupel.protocol.arithmetic.operations import DType, Graph, TensorType

if TYPE_CHECKING:
    from cupel.protocol.program import Program
    from cupel.protocol.types import Root

PROGRAM = "self_test.program"
"""A step of a GPT of width 24, 2 layers, 2 heads, hidden size 40, vocabulary 67 on 3 sequences of 13 tokens, so that
vectors leave tails. (state, tokens int32[3, 14]) → (state, {"loss", "grad_norm"})."""
COUNT = 20
_STATE, _TOKENS = "0.", "1"
_VOCABULARY = 67

Run = Callable[[Graph, Sequence[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """What one step left behind."""

    root: Root
    """Of the state after it."""
    loss: int
    """float32 bits."""
    gradient_norm: int
    """float32 bits, before clipping."""


@cache
def program() -> Program:
    """The stored step."""
    # Programs are built on this package, so that it cannot import theirs while it is loaded.
    from cupel.protocol.program import Program

    return Program.from_bytes(resources.files("cupel.protocol.arithmetic").joinpath(PROGRAM).read_bytes())


def start(words: Words) -> dict[str, torch.Tensor]:
    """The state before the first step: matrices between 2^-8 and 2^-4 in magnitude, gains of 1, the rest 0."""
    return {
        name.removeprefix(_STATE): _first_value(name, type_, words)
        for name, type_ in program().inputs.items()
        if name.startswith(_STATE)
    }


def _first_value(name: str, type_: TensorType, words: Words) -> torch.Tensor:
    if not name.startswith(_STATE + "weights."):
        return torch.zeros(type_.shape, dtype=type_.dtype.torch)
    if len(type_.shape) < 2:
        return torch.ones(type_.shape)
    return tensor_of(words.ordinary(type_.elements, low=119, spread=4), type_.dtype, type_.shape)


def walk_steps(seed: int, run: Run) -> Iterator[Step]:
    """Steps without end, computed by `run`, each from the state before it on tokens of its own."""
    from cupel.protocol import merkle

    words = Words(seed)
    step = program()
    state = start(words)
    type_ = step.inputs[_TOKENS]
    while True:
        tokens = [words.below(_VOCABULARY) for _ in range(type_.elements)]
        arguments = {_STATE + name: tensor for name, tensor in state.items()}
        arguments[_TOKENS] = tensor_of(tokens, DType.INT32, type_.shape)
        outputs = dict(zip(step.output_names, run(step.graph, [arguments[n] for n in step.input_names]), strict=True))
        # Outputs may share memory with inputs, which the next step must not overwrite.
        state = {name: outputs[_STATE + name].clone() for name in state}
        loss, norm = (
            int(outputs[f"{_TOKENS}.{name}"].view(torch.int32)) & 0xFFFFFFFF for name in ("loss", "grad_norm")
        )
        yield Step(root=merkle.state_root(state), loss=loss, gradient_norm=norm)
