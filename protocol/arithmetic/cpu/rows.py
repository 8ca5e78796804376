"""Row kernels: one native function for a group of fused maps and reductions.

A kernel walks rows; each row is passed over in stages. Stage s computes what depends on row results of stage s - 1: a
softmax is (0) maximum, (1) exponentials, (2) quantised sum, (3) quotient. Values needed again by a later stage wait in
a row-long scratch buffer, which stays in the first cache. Emission sees only a `Spec`, so equal groups (the layers
of a model) share one function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu import kernels, views
from cupel.protocol.arithmetic.cpu.grouping import Group, split
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, Variable, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.lowering import Map, Reduce
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import NOT_FINITE, DType

_SCRATCH_COLUMNS = 4096
"""Longer rows keep values between stages in memory of their own."""
_MAGIC_BITS = 0x4338000000000000
_SOFTMAX_SCALE = 2.0 ** (kernels.SUM_BITS - 1)
"""2^(30 - e) where the largest term is 1."""
_EXACT_TERMS = 1 << 22
"""Sums of more terms can pass 2^53."""


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
    accesses = tuple(
        Access(positions[view.buffer], view.offset, tuple(strides[n] for _, strides in refined), inners[n], view.dtype)
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
    return RowKernel(spec, buffers, scratch, units, align)


def emit(module: Module, isa: InstructionSet, spec: Spec, name: str) -> None:
    """void name(pointers..., i64 low, i64 high, ptr scratch)"""
    parameters = [("ptr", f"p{i}") for i in range(spec.pointers)]
    f = Function(module, name, [*parameters, ("i64", "low"), ("i64", "high"), ("ptr", "scratch")])
    _Emitter(f, isa, spec).emit()
    f.finish()


class _Emitter:
    def __init__(self, f: Function, isa: InstructionSet, spec: Spec) -> None:
        self.f, self.isa, self.spec = f, isa, spec
        *self.pointers, self.low, self.high, self.scratch = f.arguments
        self.dirty = self._find_dirty()
        self.row_values: dict[int, Value] = {}
        self.bases: list[Value] = []
        self.row_loads: dict[int, Value] = {}
        self.kept: dict[int, Value] = {}
        self.partial: dict[tuple[int, str, int], Variable] = {}
        """Accumulators by (step, role, lanes)."""
        self.scales: dict[int, tuple[Value, Value]] = {}

    def _find_dirty(self) -> list[bool]:
        dirty: list[bool] = []
        for step in self.spec.steps:
            value = step.result == DType.FLOAT32 and not step.is_reduce and step.name in ew.DIRTY
            if step.name in ew.PASSING and step.result == DType.FLOAT32:
                value = any(kind == "step" and dirty[int(str(i))] for kind, i in step.args)
            dirty.append(value)
        return dirty

    # Shape of the walk

    def _passes(self) -> list[tuple[int, int, int, bool]]:
        """(lanes, start, stop, masked) covering the columns."""
        width, columns = self.isa.width, self.spec.columns
        whole = columns // width * width
        passes = [(width, 0, whole, False)] if whole else []
        if columns > whole:
            passes.append((width, whole, columns, True) if self.isa.masks else (0, whole, columns, False))
        return passes

    def emit(self) -> None:
        if not self.spec.loops:
            has_rows = any(s.is_row for s in self.spec.steps)
            self._row([], self.low if not has_rows else None)
            return
        self._loops(0, [])

    def _loops(self, depth: int, indices: list[Value]) -> None:
        if depth == len(self.spec.loops):
            self._row(indices, None)
            return
        start: Value | int = self.low if depth == 0 else 0
        stop: Value | int = self.high if depth == 0 else self.spec.loops[depth]
        with self.f.loop(start, stop) as i:
            self._loops(depth + 1, [*indices, i])

    def _row(self, indices: list[Value], cut: Value | None) -> None:
        """One row; with `cut`, the only row, of which columns low..high are this thread's."""
        spec = self.spec
        self.bases = []
        for access in spec.accesses:
            pointer = self.pointers[access.pointer]
            place: Value | None = None
            for index, stride in zip(indices, access.strides, strict=True):
                if stride:
                    term = index * stride
                    place = term if place is None else place + term
            element = ew.MEMORY[access.dtype]
            if place is not None:
                pointer = pointer.offset(element, place)
            self.bases.append(pointer.offset(element, access.offset))
        self.row_values, self.row_loads, self.kept, self.partial, self.scales = {}, {}, {}, {}, {}
        offset = 0
        for n, step in enumerate(spec.steps):
            if step.kept:
                self.kept[n] = self.scratch.offset("i8", offset)
                offset += (spec.columns + 2 * self.isa.width) * 8
        lookups = {i for s in spec.steps if s.name == "lookup" for k, i in s.args[:1] if k == "access"}
        for i, access in enumerate(spec.accesses):
            read = any(("access", i) in s.args for s in spec.steps)
            if access.inner == 0 and read and i not in lookups:
                self.row_loads[i] = self._load_scalar(i, None)
        stages = 1 + max(s.level + (known_after(s.name, s.dtypes[0]) if s.is_reduce else 0) for s in spec.steps)
        for stage in range(stages):
            self._row_results(stage)
            self._columns(stage, cut)

    def _is_float_sum(self, step: Step) -> bool:
        return step.is_reduce and step.name == "sum" and step.dtypes[0] == DType.FLOAT32

    def _columns(self, stage: int, cut: Value | None) -> None:
        spec, f = self.spec, self.f
        maps = [n for n, s in enumerate(spec.steps) if not s.is_row and s.level == stage]
        first = [n for n, s in enumerate(spec.steps) if s.is_reduce and s.level == stage]
        second = [n for n, s in enumerate(spec.steps) if self._is_float_sum(s) and s.level == stage - 1]
        if not (maps or first or second):
            return
        passes = self._passes()
        for lanes, _, _, _ in passes:
            for n in first:
                self._start_reduction(n, lanes)
            for n in second:
                self._variable(n, "total", lanes, "i64", 0)
        if cut is not None:
            self._cut_columns(maps)
            return
        for lanes, start, stop, masked in passes:
            if masked:
                mask = f.mask_below(lanes, f.i64(stop - start))
                self._body(lanes, f.i64(start), mask, maps, first, second)
            else:
                with f.loop(start, stop, lanes or 1) as c:
                    self._body(lanes, c, None, maps, first, second)

    def _cut_columns(self, maps: list[int]) -> None:
        """Columns low..high of a group without rows; low is a multiple of the width."""
        f, width = self.f, self.isa.width
        whole = self.low + ((self.high - self.low) & -width)
        with f.loop(self.low, whole, width) as c:
            self._body(width, c, None, maps, [], [])
        if self.isa.masks:
            with f.when(whole.compare("slt", self.high)):
                self._body(width, whole, f.mask_below(width, self.high - whole), maps, [], [])
        else:
            with f.loop(whole, self.high) as c:
                self._body(0, c, None, maps, [], [])

    # Memory

    def _load_scalar(self, i: int, column: Value | None) -> Value:
        access = self.spec.accesses[i]
        element = ew.MEMORY[access.dtype]
        pointer = self.bases[i]
        if column is not None and access.inner:
            pointer = pointer.offset(element, column * access.inner if access.inner != 1 else column)
        value = self.f.load(element, pointer, align=access.dtype.size_bytes)
        return value.cast("trunc", "i1") if access.dtype == DType.BOOL else value

    def _load(self, i: int, lanes: int, column: Value, mask: Value | None) -> Value:
        access = self.spec.accesses[i]
        if access.inner == 0:
            # Rows of one column: what an earlier stage stored is no row load.
            value = self.row_loads[i] if i in self.row_loads else self._load_scalar(i, None)
            return value.splat(lanes) if lanes else value
        if not lanes:
            return self._load_scalar(i, column)
        element = ew.MEMORY[access.dtype]
        kind = vector(lanes, element)
        if access.inner == 1:
            pointer = self.bases[i].offset(element, column)
            align = access.dtype.size_bytes
            value = self._vector(kind, pointer, mask, align)
        else:
            value = self._strided(i, lanes, column, mask, kind)
        return value.cast("trunc", "i1") if access.dtype == DType.BOOL else value

    def _vector(self, kind: str, pointer: Value, mask: Value | None, align: int) -> Value:
        if mask is None:
            return self.f.load(kind, pointer, align=align)
        return self.f.masked_load(kind, pointer, mask, align=align)

    def _strided(self, i: int, lanes: int, column: Value, mask: Value | None, kind: str) -> Value:
        f, access = self.f, self.spec.accesses[i]
        element = ew.MEMORY[access.dtype]
        value = f.const(kind, 0)
        for lane in range(lanes):
            place = column + lane
            if mask is not None:
                # Past the end read the first column again: the lane is dropped later.
                place = mask.extract(lane).select(place, column)
            pointer = self.bases[i].offset(element, place * access.inner)
            value = value.insert(f.load(element, pointer, align=access.dtype.size_bytes), lane)
        return value

    def _write(self, i: int, lanes: int, column: Value | None, mask: Value | None, value: Value, dirty: bool) -> None:
        f, access = self.f, self.spec.accesses[i]
        element = ew.MEMORY[access.dtype]
        if dirty:
            value = ew.canonical(value)
        if access.dtype == DType.BOOL:
            value = value.cast("zext", "i8")
        align = access.dtype.size_bytes
        if column is None or (not lanes):
            pointer = self.bases[i]
            if column is not None:
                pointer = pointer.offset(element, column * access.inner)
            f.store(value, pointer, align=align)
        elif access.inner == 1:
            pointer = self.bases[i].offset(element, column)
            if mask is None:
                f.store(value, pointer, align=align)
            else:
                f.masked_store(value, pointer, mask, align=align)
        else:
            for lane in range(lanes):
                pointer = self.bases[i].offset(element, (column + lane) * access.inner)
                if mask is None:
                    f.store(value.extract(lane), pointer, align=align)
                else:
                    with f.when(mask.extract(lane)):
                        f.store(value.extract(lane), pointer, align=align)

    # Values

    def _number(self, text: str, dtype: DType, lanes: int) -> Value:
        number: int | float = float(text) if dtype == DType.FLOAT32 else int(text)
        return self.f.const(vector(lanes, ew.ELEMENT[dtype]), number)

    def _argument(
        self, step: Step, position: int, lanes: int, column: Value, mask: Value | None, cache: dict[object, Value]
    ) -> Value:
        kind, which = step.args[position]
        dtype = step.dtypes[position]
        if kind == "number":
            return self._number(str(which), dtype, lanes)
        assert isinstance(which, int)
        key = (kind, which)
        if key not in cache:
            if kind == "access":
                cache[key] = self._load(which, lanes, column, mask)
            elif self.spec.steps[which].is_row:
                value = self.row_values[which]
                cache[key] = value.splat(lanes) if lanes else value
            else:
                cache[key] = self._again(which, lanes, column, mask)
        return cache[key]

    def _again(self, n: int, lanes: int, column: Value, mask: Value | None) -> Value:
        """A value of an earlier stage."""
        step = self.spec.steps[n]
        if step.store >= 0:
            return self._load(step.store, lanes, column, mask)
        element = ew.MEMORY[step.result]
        pointer = self.kept[n].offset(element, column)
        value = self.f.load(vector(lanes, element), pointer, align=step.result.size_bytes)
        return value.cast("trunc", "i1") if step.result == DType.BOOL else value

    def _is_dirty(self, step: Step, position: int) -> bool:
        kind, which = step.args[position]
        return kind == "step" and self.dirty[int(str(which))]

    def _compute(self, n: int, lanes: int, column: Value, mask: Value | None, cache: dict[object, Value]) -> Value:
        step = self.spec.steps[n]
        if step.name == "lookup":
            return self._lookup(step, lanes, column, mask, cache)
        args = [self._argument(step, i, lanes, column, mask, cache) for i in range(len(step.args))]
        dirty = [self._is_dirty(step, i) for i in range(len(args))]
        return ew.apply(self.f, self.isa, step.name, step.attributes, args, step.dtypes[-1], step.result, dirty)

    def _lookup(self, step: Step, lanes: int, column: Value, mask: Value | None, cache: dict[object, Value]) -> Value:
        """x[index along one dimension]; 0 outside, where element 0 is read instead."""
        f = self.f
        limit, stride = step.attributes
        _, which = step.args[0]
        assert isinstance(which, int)
        access = self.spec.accesses[which]
        element = ew.MEMORY[access.dtype]
        is_bool = access.dtype == DType.BOOL
        kind, index_access = step.args[1]
        still = kind == "access" and isinstance(index_access, int) and self.spec.accesses[index_access].inner == 0
        row = kind == "step" and isinstance(index_access, int) and self.spec.steps[index_access].is_row
        if (still or row) and access.inner == 1 and lanes:
            # One index a row: the looked-up row is contiguous.
            assert isinstance(index_access, int)
            index = self.row_loads[index_access] if still else self.row_values[index_access]
            inside = index.compare("ult", limit)
            pointer = self.bases[which].offset(element, inside.select(index, 0) * stride).offset(element, column)
            whole = vector(lanes, element)
            align = access.dtype.size_bytes
            value = self._vector(whole, pointer, mask, align)
            value = inside.splat(lanes).select(value, f.const(whole, 0))
            return value.cast("trunc", "i1") if is_bool else value
        index = self._argument(step, 1, lanes, column, mask, cache)
        inside = index.compare("ult", limit)
        if mask is not None:
            inside = inside & mask
        safe = inside.select(index, f.const(index.kind, 0)) * stride
        if not lanes:
            place = safe + column * access.inner
            value = f.load(element, self.bases[which].offset(element, place), align=access.dtype.size_bytes)
            value = inside.select(value, f.const(element, 0))
            return value.cast("trunc", "i1") if is_bool else value
        value = f.const(vector(lanes, element), 0)
        for lane in range(lanes):
            place = safe.extract(lane)
            if access.inner:
                step_in = column + lane
                if mask is not None:
                    step_in = mask.extract(lane).select(step_in, column)
                place = place + step_in * access.inner
            loaded = f.load(element, self.bases[which].offset(element, place), align=access.dtype.size_bytes)
            value = value.insert(loaded, lane)
        value = inside.select(value, f.const(value.kind, 0))
        return value.cast("trunc", "i1") if is_bool else value

    def _body(
        self, lanes: int, column: Value, mask: Value | None, maps: list[int], first: list[int], second: list[int]
    ) -> None:
        f, spec = self.f, self.spec
        cache: dict[object, Value] = {}
        for n in maps:
            step = spec.steps[n]
            value = self._compute(n, lanes, column, mask, cache)
            cache["step", n] = value
            if step.store >= 0:
                self._write(step.store, lanes, column, mask, value, self.dirty[n])
            elif step.kept:
                element = ew.MEMORY[step.result]
                held = value.cast("zext", "i8") if step.result == DType.BOOL else value
                f.store(held, self.kept[n].offset(element, column), align=step.result.size_bytes)
        for n in first:
            x = self._argument(spec.steps[n], 0, lanes, column, mask, cache)
            self._accumulate(n, lanes, x, mask)
        for n in second:
            x = self._argument(spec.steps[n], 0, lanes, column, mask, cache)
            if mask is not None:
                x = mask.select(x, 0.0)
            scale, _ = self.scales[n]
            bits = kernels.quantised_bits(f, self.isa, x, scale.splat(lanes) if lanes else scale)
            total = self.partial[n, "total", lanes]
            total.set(total.get() + bits)

    # Reductions

    def _variable(self, n: int, role: str, lanes: int, element: str, start: int) -> None:
        self.partial[n, role, lanes] = self.f.variable(vector(lanes, element), start)

    def _start_reduction(self, n: int, lanes: int) -> None:
        step = self.spec.steps[n]
        dtype = step.dtypes[0]
        if self._is_float_sum(step):
            self._variable(n, "negative", lanes, "i32", 0)
            self._variable(n, "positive", lanes, "i32", ew.LOWEST)
        elif step.name in ("sum", "softmax_sum"):
            self._variable(n, "total", lanes, "i64", 0)
        elif step.name == "exponent":
            self._variable(n, "largest", lanes, "i32", 0)
        else:
            self._variable(n, "extreme", lanes, self._key_element(dtype), self._worst(step.name, dtype))

    @staticmethod
    def _key_element(dtype: DType) -> str:
        return {DType.FLOAT32: "i32", DType.BOOL: "i8"}.get(dtype, ew.ELEMENT[dtype])

    @staticmethod
    def _worst(name: str, dtype: DType) -> int:
        bits = 32 if dtype == DType.FLOAT32 else 8 * dtype.size_bytes
        if dtype in ew.UNSIGNED:
            return 0 if name == "max" else (1 << bits) - 1
        return -(1 << (bits - 1)) if name == "max" else (1 << (bits - 1)) - 1

    def _combine(self, name: str, dtype: DType) -> str:
        return ("u" if dtype in ew.UNSIGNED else "s") + name

    def _accumulate(self, n: int, lanes: int, x: Value, mask: Value | None) -> None:
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]

        def update(role: str, op: str, value: Value, neutral: int) -> None:
            variable = self.partial[n, role, lanes]
            if mask is not None:
                value = mask.select(value, neutral)
            variable.set(variable.get() + value if op == "add" else f.intrinsic(op, variable.get(), value))

        if self._is_float_sum(step):
            # Largest of either sign, in two instructions: unsigned order puts negative numbers above all others.
            bits = x.as_bits()
            if mask is not None:
                bits = mask.select(bits, 0)
            for role, op in (("negative", "umax"), ("positive", "smax")):
                variable = self.partial[n, role, lanes]
                variable.set(f.intrinsic(op, variable.get(), bits))
        elif step.name == "softmax_sum":
            if mask is not None:
                x = mask.select(x, 0.0)
            scale = f.const(vector(lanes, "double"), _SOFTMAX_SCALE)
            total = self.partial[n, "total", lanes]
            total.set(total.get() + kernels.quantised_bits(f, self.isa, x, scale))
        elif step.name == "sum":
            update("total", "add", x.cast("zext" if dtype in ew.UNSIGNED else "sext", "i64"), 0)
        elif step.name == "exponent":
            update("largest", "umax", x.as_bits() & ew.MAGNITUDE, 0)
        else:
            if dtype == DType.FLOAT32:
                if self._is_dirty(step, 0):
                    x = ew.canonical(x)
                x = ew.order_key(x, nan_first_of_lowest=step.name == "min")
            elif dtype == DType.BOOL:
                x = x.cast("zext", "i8")
            update("extreme", self._combine(step.name, dtype), x, self._worst(step.name, dtype))

    def _total(self, n: int, role: str, op: str) -> Value:
        """Over all lanes and passes."""
        f = self.f
        parts = [
            f.reduce(op, variable.get()) if lanes else variable.get()
            for (which, name, lanes), variable in self.partial.items()
            if which == n and name == role
        ]
        result = parts[0]
        for part in parts[1:]:
            result = result + part if op == "add" else f.intrinsic(op, result, part)
        return result

    def _row_results(self, stage: int) -> None:
        """Finish reductions whose last pass is over, prepare the second pass of sums, compute what rows share."""
        spec = self.spec
        for n, step in enumerate(spec.steps):
            if step.is_reduce:
                if step.level + known_after(step.name, step.dtypes[0]) == stage:
                    self._set_row(n, self._finish(n))
                elif self._is_float_sum(step) and step.level == stage - 1:
                    self._prepare_sum(n)
            elif step.is_row and step.level == stage:
                cache: dict[object, Value] = {}
                zero = self.f.i64(0)
                self._set_row(n, self._compute(n, 0, zero, None, cache))

    def _set_row(self, n: int, value: Value) -> None:
        step = self.spec.steps[n]
        self.row_values[n] = value
        if step.store >= 0:
            self._write(step.store, 0, None, None, value, self.dirty[n])

    def _prepare_sum(self, n: int) -> None:
        f = self.f
        largest, signed = self._total(n, "negative", "umax"), self._total(n, "positive", "smax")
        exponent, special = kernels.sum_parameters(f, largest, signed)
        self.scales[n] = (kernels.sum_scale(f, exponent), special)

    def _finish(self, n: int) -> Value:
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]
        if self._is_float_sum(step) or step.name == "softmax_sum":
            columns = self.spec.columns
            width = self.isa.width
            counted = -(-columns // width) * width if self.isa.masks else columns
            total = self._total(n, "total", "add") - (counted * _MAGIC_BITS) % (1 << 64)
            if step.name == "softmax_sum":
                peak = self.row_values[int(str(step.args[1][1]))].as_bits() & ew.MAGNITUDE
                special = peak.compare("uge", ew.INFINITY_BITS).select(f.const("i32", ew.NAN_BITS), f.const("i32", 0))
                scale = f.const("double", _SOFTMAX_SCALE)
            else:
                scale, special = self.scales[n]
            return kernels.sum_result(f, total, scale, special, large=columns > _EXACT_TERMS)
        if step.name == "sum":
            return self._total(n, "total", "add")
        if step.name == "exponent":
            magnitude = self._total(n, "largest", "umax")
            finite = magnitude.compare("ult", ew.INFINITY_BITS)
            return finite.select(ew.exponent_of(f, magnitude), NOT_FINITE)
        key = self._total(n, "extreme", self._combine(step.name, dtype))
        if dtype == DType.FLOAT32:
            return ew.from_order_key(key, nan_first_of_lowest=step.name == "min")
        return key.cast("trunc", "i1") if dtype == DType.BOOL else key
