"""Programs: a training step as data (docs/design/programs.md)."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.program: a bare 'import {__name__}' would make a second, unequal set of classes"
    )

from collections.abc import Callable, Sequence
from typing import Any

from cupel.protocol.program.products import matmul
from cupel.protocol.program.program import Program
from cupel.protocol.program.random import gumbel, normal, philox_key, randint, random_bits, uniform
from cupel.protocol.program.running import run
from cupel.protocol.program.seeded_dropout import SeededDropout, dropout

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


def trace(fn: Callable[..., Any], example_args: Sequence[Any], *, digits: int = 2) -> Program:
    """The Program of `fn(*example_args)`.

    fn            any function of tensors in nested dicts, lists and tuples that returns the same kind of thing; plain
                  PyTorch, autograd included. Numbers it closes over become binary32 constants, tensors constants.
    example_args  one entry per positional argument, `(x,)` for one tensor; only types and shapes count
    digits        1, 2 or 3: what PyTorch's own matrix products keep of an operand, 7 digits - 1 bits relative to its
                  row's (column's) largest; `matmul` says its own (docs/engineers/bring-your-model.md)
    Raises        UnsupportedOperation for what has no exact semantics, UsageError for arguments of another kind
    """
    # Tracing brings in a third of what a node would import, and a node only runs what others traced.
    from cupel.protocol.program import tracing

    return tracing.trace(fn, example_args, digits=digits)
