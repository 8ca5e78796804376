"""`cupel demo`: the whole network on this machine."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from cupel.demo.running import run_demo
from cupel.demo.settings import DemoSettings


def _end_as_interrupted(number: int, frame: FrameType | None) -> None:
    """A `kill` ends the demo as Ctrl-C does: through the code that stops its processes."""
    raise KeyboardInterrupt


@click.command()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), default=Path("cupel-demo"), show_default=True,
    help="Everything is written here; a folder with a run in it goes on with that run.",
)  # fmt: skip
@click.option("--rounds", default=6, show_default=True, help="Rounds to play.")
@click.option("--miners", default=3, show_default=True)
@click.option("--liars", default=1, show_default=True, help="Miners that fake a step in every segment.")
@click.option("--verifiers", default=3, show_default=True)
@click.option("--segments", default=5, show_default=True, help="Checkpoints a unit has.")
@click.option("--segment-steps", default=30, show_default=True, help="Training steps from one to the next.")
@click.option("--block-time", "block_time_s", default=0.5, show_default=True, help="Seconds between blocks.")
@click.option(
    "--text", multiple=True, type=click.Path(path_type=Path),
    help="Train on these files or folders instead of Python's standard library; repeatable.",
)  # fmt: skip
@click.option("--prompt", default="def ", show_default=True, help="What the finished model continues.")
@click.option("--backend", type=click.Choice(["auto", "cpu", "torch", "cuda"]), default="auto", show_default=True)
def demo(
    folder: Path,
    rounds: int,
    miners: int,
    liars: int,
    verifiers: int,
    segments: int,
    segment_steps: int,
    block_time_s: float,
    text: tuple[Path, ...],
    prompt: str,
    backend: str,
) -> None:
    """Mine, verify, merge and pay: a chain, miners and verifiers as processes of their own.

    They train a small GPT on real text with order-free arithmetic, on a real EVM chain. One miner lies; the verifiers
    find it by replaying, and its work is left out. Nothing leaves this machine.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_as_interrupted)
    run_demo(
        DemoSettings(
            folder=folder,
            rounds=rounds,
            miners=miners,
            liars=liars,
            verifiers=verifiers,
            segments=segments,
            segment_steps=segment_steps,
            block_time_s=block_time_s,
            text=text,
            prompt=prompt,
            backend=backend,
        )
    )
