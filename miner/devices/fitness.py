"""Whether this machine's workers, together, give the bits of one: asked before a miner that uses them joins a run.

An engine's own self-test says nothing of what workers compute beside their graphs, nor of what carries it to others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cupel.miner.devices.group import WorkerGroup
from cupel.protocol.arithmetic import steps
from cupel.protocol.arithmetic.engines import stored_vectors
from cupel.protocol.arithmetic.operations import Graph
from cupel.protocol.errors import BackendUnfit
from cupel.protocol.training.unit import Step

_STEPS = 3
"""Of the stored twenty. The second is the first that begins with moments."""
_STATE, _TOKENS = "0.", "1"


def check_workers(
    *, size: int, backend: str, threads: int, check: Callable[[], None] = lambda: None, folder: Path | None = None
) -> None:
    """Train the self-test's first steps on worker processes started as a miner's, with the same arguments.

    Raises  BackendUnfit: their bits are not the stored ones; WorkersFailed: one of them ended
    """
    program = steps.program()
    with WorkerGroup(program, size=size, backend=backend, threads=threads, check=check, folder=folder) as group:
        check_step(group.step, f"{backend}, {size} workers")


def check_step(step: Step, how: str) -> None:
    """Raise BackendUnfit unless `step`, doing the self-test's step, gives what is stored."""
    program, stored = steps.program(), stored_vectors()["training"]

    def run(_: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        named = dict(zip(program.input_names, inputs, strict=True))
        state = {name.removeprefix(_STATE): named[name] for name in program.input_names if name.startswith(_STATE)}
        done = step(state, named[_TOKENS])
        told = {f"{_TOKENS}.loss": done.loss, f"{_TOKENS}.grad_norm": done.gradient_norm}
        told |= {_STATE + name: tensor for name, tensor in done.state.items()}
        return [told[name] for name in program.output_names]

    walked = steps.walk_steps(stored["seed"], run)
    for number, (wanted, done) in enumerate(zip(stored["steps"][:_STEPS], walked, strict=False)):
        found = [done.root.hex(), f"{done.loss:08x}", f"{done.gradient_norm:08x}"]
        if found != wanted:
            raise BackendUnfit(
                f"{how}: training step {number} gives {', '.join(found)}, not the stored {', '.join(wanted)}; "
                "this machine must train without --nproc"
            )
