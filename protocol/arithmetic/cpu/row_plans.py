"""Row kernels planned: loops, stages and stores of a group of fused maps and reductions.

A kernel walks rows; each row is passed over in stages. Stage s computes what depends on row results of stage s - 1: a
softmax is (0) maximum, (1) exponentials, (2) quantised sum, (3) quotient. Values needed again by a later stage wait in
a row-long scratch buffer, which stays in the first cache. Emission (rows.py) sees only a `Spec`, so equal groups (the
layers of a model) share one function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.grouping import Group, split
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.items import Map, Reduce
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import DType

_SCRATCH_COLUMNS = 4096
"""Longer rows keep values between stages in memory of their own."""


@dataclass(frozen=True, slots=True)
class Access:
    """Memory as the kernel walks it; strides are elements, one a loop, then within a row."""

    pointer: int
    offset: int
    strides: tuple[int, ...]
    inner: int
    dtype: DType


@dataclass(frozen=True, slots=True)
class Step:
    """One item of the group, everything by number."""

    name: str
    attributes: tuple[int, ...]
    args: tuple[tuple[str, object], ...]
    """("step", i), ("access", i) or ("number", text of the number)."""
    dtypes: tuple[DType, ...]
    result: DType
    is_row: bool
    is_reduce: bool
    store: int
    """Access written, or -1."""
    level: int
    """Stage at which it is computed; for a reduction, at which it starts; for a row result, at which it is known."""
    kept: bool
    """Waits in scratch for a later stage."""


def is_float_sum(step: Step) -> bool:
    """Whether it is an order-free sum, which looks at a row twice."""
    return step.is_reduce and step.name == "sum" and step.dtypes[0] == DType.FLOAT32


@dataclass(frozen=True, slots=True)
class Spec:
    """All that decides a row kernel's code."""

    loops: tuple[int, ...]
    columns: int
    accesses: tuple[Access, ...]
    steps: tuple[Step, ...]
    pointers: int


@dataclass(slots=True)
class RowKernel:
    """A kernel and what to call it with."""

    spec: Spec
    buffers: list[Buffer]
    starts: list[int]
    """Element of each buffer that the kernel's offsets count from."""
    scratch_bytes: int
    units: int
    """Length of the range threads share: the outermost loop, or the columns of a single row."""
    align: int
    """Ranges start at multiples of it; 0 if the range cannot be cut."""


def softmax_peak(item: Map | Reduce, made: dict[Buffer, Map | Reduce]) -> Buffer | None:
    """For a sum of exp(x - max x) along the rows of one group, the buffer of what is subtracted.

    The largest term is exp(0) = 1, or NaN where the maximum is not finite: the quantum is known without looking. The
    subtrahend may be a number where the maximum is -inf (a row that a mask leaves empty): then all terms are 0.
    """

    def producer(view: View, name: str) -> Map | Reduce | None:
        found = None if view.buffer is None else made.get(view.buffer)
        return found if found is not None and found.name == name else None

    if not isinstance(item, Reduce) or item.name != "sum":
        return None
    exp = producer(item.args[0], "exp")
    sub = None if exp is None or exp.is_row else producer(exp.args[0], "sub")
    if sub is None or sub.is_row:
        return None
    subtracted = sub.args[1]
    instead = producer(subtracted, "select")
    empty = None if instead is None or not instead.is_row else producer(instead.args[0], "eq")
    if instead is None or empty is None:
        peak = producer(subtracted, "max")
    else:
        number, bound = instead.args[1].number, empty.args[1].number
        peak = producer(instead.args[2], "max")
        if (
            number is None
            or not math.isfinite(number)
            or bound != -math.inf
            or empty.args[0].key() != instead.args[2].key()
        ):
            return None
    if not isinstance(peak, Reduce):
        return None
    x, y = sub.args[0], peak.args[0]
    same = x.buffer is y.buffer and x.offset == y.offset and x.factors() == y.factors()
    return subtracted.buffer if same and x.buffer is not None else None


def known_after(item_name: str, dtype: DType) -> int:
    """Stages from a reduction's start until its result: an order-free sum first needs its largest term."""
    return 2 if item_name == "sum" and dtype == DType.FLOAT32 else 1


def plan_rows(group: Group, is_needed: Callable[[Buffer], bool], isa: InstructionSet) -> RowKernel:
    """Decide loops, stages and stores. `is_needed` tells buffers that outlive the group."""
    items = [i for i in group.items if isinstance(i, Map | Reduce)]
    has_rows = any(i.is_row for i in items)
    level: dict[Buffer, int] = {}
    known: dict[Buffer, int] = {}
    peaks = {id(i): softmax_peak(i, group.made) for i in items}
    names = {id(i): "softmax_sum" if peaks[id(i)] is not None else i.name for i in items}
    for item in items:
        start = 0
        for a in item.args:
            if a.buffer in group.made:
                assert a.buffer is not None
                start = max(start, known[a.buffer] if group.made[a.buffer].is_row else level[a.buffer])
        out = item.out.buffer
        assert out is not None
        level[out] = start
        if isinstance(item, Reduce):
            known[out] = start + known_after(names[id(item)], item.args[0].dtype)
        elif item.is_row:
            known[out] = start
    last_use: dict[Buffer, int] = {}
    for item in items:
        for a in item.args:
            if a.buffer in group.made and a.buffer is not None and not group.made[a.buffer].is_row:
                at = level[item.out.buffer] if item.out.buffer else 0
                if isinstance(item, Reduce):
                    at += known_after(names[id(item)], a.dtype) - 1
                last_use[a.buffer] = max(last_use.get(a.buffer, 0), at)

    rows, columns = group.rows, group.columns
    stored: set[Buffer] = set()
    for item in items:
        out = item.out.buffer
        assert out is not None
        waits = not item.is_row and last_use.get(out, -1) > level[out]
        if is_needed(out) or (waits and columns > _SCRATCH_COLUMNS):
            stored.add(out)

    def outside(item: Map | Reduce) -> list[View]:
        return [a for a in item.args if a.buffer is not None and a.buffer not in group.made]

    keys: dict[object, int] = {}
    listed: list[tuple[View, bool]] = []

    def access(view: View, is_row: bool) -> int:
        key = (view.key(), is_row)
        if key not in keys:
            keys[key] = len(listed)
            listed.append((view, is_row))
        return keys[key]

    numbered = {i.out.buffer: n for n, i in enumerate(items)}
    drafts = []
    for item in items:
        row_like = item.is_row and isinstance(item, Map)
        args: list[tuple[str, object]] = []
        for a in item.args:
            if a.buffer is None:
                assert a.number is not None
                exact = a.number if a.dtype == DType.FLOAT32 else int(a.number)
                args.append(("number", repr(exact)))
            elif a.buffer in group.made:
                args.append(("step", numbered[a.buffer]))
            else:
                args.append(("access", access(a, row_like)))
        if peaks[id(item)] is not None:
            args.append(("step", numbered[peaks[id(item)]]))
        store = access(item.out, item.is_row) if item.out.buffer in stored else -1
        drafts.append((item, tuple(args), store))

    buffers: list[Buffer] = []
    positions: dict[Buffer, int] = {}
    outer_lists = []
    inners = []
    for view, is_row in listed:
        assert view.buffer is not None
        if view.buffer not in positions:
            positions[view.buffer] = len(buffers)
            buffers.append(view.buffer)
        if is_row:
            outer_lists.append(view.factors())
            inners.append(0)
        elif has_rows:
            parts = split(view, rows, columns)
            assert parts is not None
            outer_lists.append(parts[0])
            inners.append(parts[1][1])
    if has_rows:
        refined = views.refine(outer_lists)
        assert refined is not None
    else:
        # No row matters: walk as few, long rows as memory allows, in the order in which results lie there.
        first_store = next(store for _, _, store in drafts if store >= 0)
        loops = views.refine([view.factors() for view, _ in listed])
        assert loops is not None
        loops = views.merged_loops(sorted(loops, key=lambda loop: -loop[1][first_store]))
        columns, inner = loops[-1] if loops else (1, (0,) * len(listed))
        refined, inners = loops[:-1], list(inner)
    # Offsets count from where a buffer is first touched: kernels that differ only in which block they walk are one.
    starts = {b: min(view.offset for view, _ in listed if view.buffer is b) for b in buffers}
    accesses = tuple(
        Access(
            positions[view.buffer],
            view.offset - starts[view.buffer],
            tuple(strides[n] for _, strides in refined),
            inners[n],
            view.dtype,
        )
        for n, (view, _) in enumerate(listed)
        if view.buffer is not None
    )
    steps = []
    for item, arguments, store in drafts:
        out = item.out.buffer
        assert out is not None
        waits = not item.is_row and last_use.get(out, -1) > level[out]
        steps.append(
            Step(
                name=names[id(item)],
                attributes=item.attributes,
                args=arguments,
                dtypes=tuple(a.dtype for a in item.args),
                result=item.out.dtype,
                is_row=item.is_row,
                is_reduce=isinstance(item, Reduce),
                store=store,
                level=level[out] if isinstance(item, Reduce) or not item.is_row else known[out],
                kept=waits and store < 0,
            )
        )
    loops_sizes = tuple(n for n, _ in refined)
    spec = Spec(loops_sizes, columns, accesses, tuple(steps), len(buffers))
    kept = sum(1 for s in steps if s.kept)
    scratch = kept * (columns + 2 * isa.width) * 8
    if loops_sizes:
        units, align = loops_sizes[0], 1
    elif has_rows:
        units, align = 1, 0
    else:
        units, align = columns, 64
    return RowKernel(spec, buffers, [starts[b] for b in buffers], scratch, units, align)
