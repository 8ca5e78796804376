"""What a graph is lowered to: maps and row reductions, which grouping.py fuses, and calls of kernels of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import Operation


@dataclass(eq=False, slots=True)
class Map:
    """One elementwise result: `name` applied where the views of `args` and `out` walk together."""

    name: str
    args: tuple[View, ...]
    out: View
    attributes: tuple[int, ...] = ()
    after: tuple[Buffer, ...] = ()
    """Buffers whose earlier writers must have finished."""
    is_row: bool = False
    """Set by grouping: computed once a row."""
    phase: int = 0
    """Of its operation (phases.py): no group spans two."""


@dataclass(eq=False, slots=True)
class Reduce:
    """One number per row of `args[0]`: "sum", "max", "min" or "exponent" over its last dimension."""

    name: str
    args: tuple[View, ...]
    out: View
    attributes: tuple[int, ...] = ()
    after: tuple[Buffer, ...] = ()
    is_row: bool = True
    phase: int = 0


@dataclass(eq=False, slots=True)
class Call:
    """A kernel of its own. plan.py knows how to emit each name."""

    name: str
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    numbers: tuple[int, ...] = ()
    scratch_bytes: int = 0
    """Memory each thread needs while it runs."""
    detail: object = None


@dataclass(eq=False, slots=True)
class Python:
    """An operation evaluated by the plain PyTorch backend between two native calls."""

    operation: Operation
    reads: tuple[View, ...]
    writes: tuple[View, ...]


Item = Map | Reduce | Call | Python


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantised operand in panels: int16 planes; scales and notes (panels.py)."""

    planes: View
    scales: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """How a product's operand lies: `rows` and `terms` with one stride each, one of them 1; batches by offset."""

    view: View
    rows: int
    terms: int
    unit_terms: bool
    """Terms are contiguous; else rows are."""
    stride: int
    """Of the other dimension."""


@dataclass(slots=True)
class Lowered:
    """What the later stages work on."""

    items: list[Item] = field(default_factory=list)
    constants: list[torch.Tensor] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
