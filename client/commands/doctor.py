"""`cupel doctor`: is this machine's arithmetic right, and what is it running on?"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

import click
import torch

from cupel.protocol import arithmetic
from cupel.protocol.arithmetic import cpu
from cupel.protocol.arithmetic.engines import self_test
from cupel.protocol.errors import BackendUnfit


@click.command()
@click.option("--speed/--no-speed", default=False, help="Time a matrix product against torch's, in this run.")
def doctor(speed: bool) -> None:
    """Reproduce the stored vectors on every engine of this machine.

    Exit 0 if the fast engine agrees to the last bit, 1 if it does not (a node then uses the torch engine).
    """
    click.echo(f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}")
    fit = {}
    for backend in ("torch", "cpu"):
        try:
            self_test(backend)
        except BackendUnfit as unfit:
            fit[backend] = False
            click.echo(f"engine {backend}: WRONG. {unfit}")
        else:
            fit[backend] = True
            kernels = f" ({cpu.isa.choose().name} kernels)" if backend == "cpu" else ""
            click.echo(f"engine {backend}{kernels}: every stored vector reproduced")
    if speed and fit["cpu"]:
        click.echo(_product_speed())
    sys.exit(0 if all(fit.values()) else 1)


def _product_speed(size: int = 768, repeats: int = 9) -> str:
    """One line on a square float32 product, exact against torch, medians of interleaved runs on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.randn(size, size), torch.randn(size, size)
        exact, plain = [], []
        for _ in range(repeats + 1):
            exact.append(_seconds(lambda: arithmetic.matmul(a, b, backend="cpu")))
            plain.append(_seconds(lambda: torch.mm(a, b)))
    finally:
        torch.set_num_threads(threads)
    ours, theirs = statistics.median(exact[1:]), statistics.median(plain[1:])
    gflops = 2 * size**3 / ours / 1e9
    return f"product {size}^3, one thread: {gflops:.0f} GFLOP/s exact, {theirs / ours:.1f}x torch fp32"


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
