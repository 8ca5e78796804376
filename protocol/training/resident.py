"""A state that stays on a GPU from step to step, and is copied only when somebody reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from cupel.protocol.arithmetic.canonical import check_canonical
from cupel.protocol.arithmetic.cuda_backend import Plan
from cupel.protocol.errors import MalformedTensor
from cupel.protocol.program import Program
from cupel.protocol.program.running import flat_inputs
from cupel.protocol.training.state import unflatten_state
from cupel.protocol.training.unit import Stepped

_STATE, _TOKENS, _METRICS = "0.", "1", "1."
"""Names of a step's arguments and results begin so: (state, tokens) → (state, metrics)."""


class ResidentState(Mapping[str, torch.Tensor]):
    """A named state (state.py) on a device. What is read is one copy in host memory, made when it is first asked for:
    by whoever computes a root or writes a checkpoint, not by the next step."""

    def __init__(self, on_device: Mapping[str, torch.Tensor]) -> None:
        self.on_device = dict(on_device)
        self._copied: dict[str, torch.Tensor] | None = None

    @property
    def is_copied(self) -> bool:
        """Whether anybody has read it yet."""
        return self._copied is not None

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._copied is None:
            # A copy also where the device is the CPU: what is read may be written to, the next step's input may not.
            self._copied = {key: tensor.cpu().clone() for key, tensor in self.on_device.items()}
        return self._copied[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.on_device)

    def __len__(self) -> int:
        return len(self.on_device)


def run_resident_step(program: Program, plan: Plan, state: Mapping[str, torch.Tensor], tokens: torch.Tensor) -> Stepped:
    """One optimiser update by `plan`, which is the Program's; the state it gives is a ResidentState.

    state   named; a ResidentState is taken as it lies, any other is checked and copied to the device
    Raises  MalformedTensor as `run` does
    """
    if isinstance(state, ResidentState):
        check_canonical(tokens, _TOKENS)
        held = {_STATE + name: tensor for name, tensor in state.on_device.items()} | {_TOKENS: tokens}
        if held.keys() != set(program.input_names):
            raise MalformedTensor(f"a state of {len(state)} tensors on the device is not this Program's")
        inputs = [held[name] for name in program.input_names]
    else:
        inputs = flat_inputs(program, (unflatten_state(state), tokens))
    outputs = dict(zip(program.output_names, plan.run_on_device(inputs), strict=True))
    after = {name.removeprefix(_STATE): tensor for name, tensor in outputs.items() if name.startswith(_STATE)}
    loss, norm = (outputs[_METRICS + name].cpu() for name in ("loss", "grad_norm"))
    return Stepped(ResidentState(after), loss, norm)
