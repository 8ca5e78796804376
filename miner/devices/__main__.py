"""A plain training step on several devices, for engineers: `torchrun --nproc-per-node=2 -m cupel.miner.devices`.

Trains a run's model from its genesis on tokens drawn at random, and prints the state's root, which does not depend on
how many workers there are; `--check` computes it on one as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import torch

from cupel.miner.devices.distributed import DistributedCommunicator, meet_through_torchrun
from cupel.protocol import merkle
from cupel.protocol.arithmetic import choose_backend
from cupel.protocol.errors import CupelError
from cupel.protocol.parallel import ParallelStep
from cupel.protocol.program import Program, run, trace
from cupel.protocol.training.genesis import run_genesis, trace_genesis
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.programs import RunPrograms
from cupel.protocol.training.state import NamedState, example_state, flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.types import Seed

MODELS = {
    "tiny": (ModelConfig.tiny(), TrainingConfig.tiny()),
    "demo": (ModelConfig.demo(), TrainingConfig.demo()),
}


@click.command()
@click.option("--model", type=click.Choice(list(MODELS)), default="demo", show_default=True, help="What to train.")
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a run's programs (run.json and *.program) instead of --model.",
)
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Optimiser updates.")
@click.option("--backend", default="auto", show_default=True, help="Engine.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Of each worker.")
@click.option("--check", is_flag=True, help="Train on one worker too, and compare the roots.")
def main(model: str, folder: Path | None, steps: int, backend: str, threads: int, check: bool) -> None:
    """Train on as many workers as torchrun started. Exit 1 if --check finds another root."""
    torch.set_num_threads(threads)
    try:
        chosen = choose_backend(backend)
        with meet_through_torchrun() as communicator:
            step, begin, vocabulary = _load(model, folder, chosen, threads)
            batches = _tokens(step, vocabulary, steps)
            same = _train(communicator, step, begin, batches, chosen, threads, check)
    except CupelError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(0 if same else 1)


def _load(model: str, folder: Path | None, backend: str, threads: int) -> tuple[Program, NamedState, int]:
    """The step, a state to begin with, and how many tokens there are."""
    seed = Seed(bytes(32))
    if folder is not None:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        programs = RunPrograms.from_files(files)
        vocabulary = programs.config.vocabulary
        if programs.genesis is not None:
            return programs.step, programs.run_genesis(seed, backend=backend, threads=threads), vocabulary
        # A brought model's first state is not among these files; any other shows as well what a step costs.
        random = torch.Generator().manual_seed(0)
        return (
            programs.step,
            {
                name: torch.randn(shape, generator=random) * 0.02
                if name.startswith("weights.")
                else torch.zeros(shape, dtype=dtype)
                for name, (dtype, shape) in programs.state_types.items()
            },
            vocabulary,
        )
    shapes, training = MODELS[model]
    tokens = torch.zeros((training.batch, shapes.context + 1), dtype=torch.int32)
    step = trace(make_training_step(shapes, training), (example_state(shapes), tokens))
    begin = flatten_state(run_genesis(trace_genesis(shapes), seed, backend=backend, threads=threads))
    return step, begin, shapes.vocabulary


def _train(
    communicator: DistributedCommunicator,
    program: Program,
    begin: NamedState,
    tokens: list[torch.Tensor],
    backend: str,
    threads: int,
    check: bool,
) -> bool:
    step = ParallelStep(program, communicator, backend=backend, threads=threads)
    layout, rank = step.layout, communicator.rank
    mine = layout.split_state(begin, rank)
    seconds = []
    for batch in tokens:
        began = time.perf_counter()
        mine, metrics = step.run(mine, layout.split_tokens(batch, rank))
        seconds.append(time.perf_counter() - began)
        if rank == 0:
            print(f"loss {float(metrics['loss']):.4f}  {seconds[-1] * 1e3:.1f} ms", flush=True)
    trained = _collected(communicator, step, mine)
    root = merkle.state_root(trained)
    if rank != 0:
        return True
    traffic = step.graph.traffic
    print(
        f"{communicator.size} workers, {backend}: {sorted(seconds)[len(seconds) // 2] * 1e3:.1f} ms a step, "
        f"{traffic.meetings // len(tokens)} meetings and {traffic.total / len(tokens) / 1e6:.2f} MB a step, "
        f"{_peak_memory_mb():.0f} MB at most in worker 0"
    )
    print(f"state root 0x{root.hex()}")
    if not check:
        return True
    alone = begin
    for batch in tokens:
        alone = flatten_state(run(program, (unflatten_state(alone), batch), backend, threads=threads)[0])
    same = merkle.state_root(alone) == root
    print("one worker gives the same root" if same else f"one worker gives 0x{merkle.state_root(alone).hex()}")
    return same


def _peak_memory_mb() -> float:
    """The most this process ever held; not a number where the system does not say."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _tokens(program: Program, vocabulary: int, steps: int) -> list[torch.Tensor]:
    """The same on every worker."""
    random = torch.Generator().manual_seed(1)
    shape = program.inputs["1"].shape
    return [torch.randint(0, vocabulary, shape, generator=random, dtype=torch.int32) for _ in range(steps)]


def _collected(communicator: DistributedCommunicator, step: ParallelStep, mine: NamedState) -> NamedState:
    """The whole state on every worker."""
    layout = step.layout
    pieces: list[NamedState] = [{} for _ in range(layout.size)]
    for name, tensor in mine.items():
        sharding, type_ = layout.state.get(name), layout.state_types[name]
        if sharding is None:
            pieces[0][name] = tensor
            continue
        shapes = [sharding.local_shape(type_.shape, worker) for worker in range(layout.size)]
        sizes = [torch.Size(shape).numel() * tensor.element_size() for shape in shapes]
        flat = communicator.gather(tensor.contiguous().reshape(-1).view(torch.uint8), sizes)
        for worker, (piece, shape) in enumerate(zip(flat, shapes, strict=True)):
            pieces[worker][name] = piece.clone().view(tensor.dtype).reshape(shape)
    return layout.join_state(pieces)


if __name__ == "__main__":
    main()
