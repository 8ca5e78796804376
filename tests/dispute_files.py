"""A training step and what somebody claims of it, as files, and the commands that look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from court_world import batch, prover_of_step, states, step_program, values_of

from cupel.cli import cli
from cupel.network.states import encode_state
from cupel.protocol.errors import CupelError

STEP = 2
"""Of the unit: what the files are about."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Everything that `prove` reads of one step, honest; `claimed` is the right end."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "step.program"

    @property
    def state(self) -> Path:
        return self.folder / "before.safetensors"

    @property
    def batch(self) -> Path:
        return self.folder / "batch.safetensors"

    @property
    def claimed(self) -> Path:
        return self.folder / "after.safetensors"

    @property
    def proof(self) -> Path:
        return self.folder / "proof.json"

    @property
    def reads(self) -> list[str]:
        """Options that say what the step reads."""
        return ["--program", str(self.program), "--state", str(self.state), "--batch", str(self.batch)]

    def claim(self, changes: Mapping[str, torch.Tensor]) -> None:
        """The end with other tensors."""
        self.claimed.write_bytes(encode_state({**states()[STEP + 1], **changes}))

    def prove(self, *options: str) -> Result:
        return invoke("prove", *self.reads, "--claimed", str(self.claimed), "--out", str(self.proof), *options)


def write_files(folder: Path) -> Files:
    files = Files(folder=folder)
    files.program.write_bytes(step_program().to_bytes())
    files.state.write_bytes(encode_state(states()[STEP]))
    files.batch.write_bytes(encode_state({"tokens": batch(STEP)}))
    files.claim({})
    return files


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["dispute", *arguments])


def refused(result: Result) -> str:
    """The one line that a mistake is answered with."""
    assert isinstance(result.exception, CupelError), result.output + repr(result.exception)
    message = str(result.exception)
    assert "\n" not in message
    return message


def one_bit_off(name: str, element: int) -> dict[str, torch.Tensor]:
    """A tensor of the right end with the lowest bit of one element flipped."""
    wrong = states()[STEP + 1][name].clone()
    bits = wrong.reshape(-1).view(torch.int32)
    bits[element] ^= 1
    return {name: wrong}


def right_values() -> dict[int, bytes]:
    return values_of(prover_of_step(STEP))
