"""Row kernels emitted: one native function for each `Spec` that row_plans.py makes of a group."""

from __future__ import annotations

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.reductions import Reductions
from cupel.protocol.arithmetic.cpu.row_plans import Spec, Step, is_float_sum, known_after
from cupel.protocol.arithmetic.operations import DType


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
        self.reductions = Reductions(f, isa, spec)

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
        self.row_values, self.row_loads, self.kept = {}, {}, {}
        self.reductions = Reductions(self.f, self.isa, spec)
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

    def _columns(self, stage: int, cut: Value | None) -> None:
        spec, f = self.spec, self.f
        maps = [n for n, s in enumerate(spec.steps) if not s.is_row and s.level == stage]
        first = [n for n, s in enumerate(spec.steps) if s.is_reduce and s.level == stage]
        second = [n for n, s in enumerate(spec.steps) if is_float_sum(s) and s.level == stage - 1]
        if not (maps or first or second):
            return
        passes = self._passes()
        for lanes, _, _, _ in passes:
            for n in first:
                self.reductions.start(n, lanes)
            for n in second:
                self.reductions.start_again(n, lanes)
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
            self.reductions.accumulate(n, lanes, x, mask, dirty=self._is_dirty(spec.steps[n], 0))
        for n in second:
            x = self._argument(spec.steps[n], 0, lanes, column, mask, cache)
            self.reductions.accumulate_again(n, lanes, x, mask)

    # Reductions

    def _row_results(self, stage: int) -> None:
        """Finish reductions whose last pass is over, prepare the second pass of sums, compute what rows share."""
        spec = self.spec
        for n, step in enumerate(spec.steps):
            if step.is_reduce:
                if step.level + known_after(step.name, step.dtypes[0]) == stage:
                    self._set_row(n, self.reductions.finish(n, self.row_values))
                elif is_float_sum(step) and step.level == stage - 1:
                    self.reductions.prepare(n)
            elif step.is_row and step.level == stage:
                cache: dict[object, Value] = {}
                zero = self.f.i64(0)
                self._set_row(n, self._compute(n, 0, zero, None, cache))

    def _set_row(self, n: int, value: Value) -> None:
        step = self.spec.steps[n]
        self.row_values[n] = value
        if step.store >= 0:
            self._write(step.store, 0, None, None, value, self.dirty[n])
