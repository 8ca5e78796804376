"""Programs: a training step as data (docs/design/programs.md)."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.program: a bare 'import {__name__}' would make a second, unequal set of classes"
    )

from cupel.protocol.program.products import matmul
from cupel.protocol.program.program import Program
from cupel.protocol.program.random import gumbel, normal, philox_key, randint, random_bits, uniform
from cupel.protocol.program.running import run
from cupel.protocol.program.seeded_dropout import SeededDropout, dropout
from cupel.protocol.program.tracing import trace

__all__ = [
    "Program",
    "SeededDropout",
    "dropout",
    "gumbel",
    "matmul",
    "normal",
    "philox_key",
    "randint",
    "random_bits",
    "run",
    "trace",
    "uniform",
]
