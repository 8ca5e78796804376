"""A group of fused maps and reductions as one CUDA kernel, or one a stage where few rows are long.

What is computed comes from `cpu/row_plans.py`, as for the CPU: steps, and the stage at which each can be. Threads
share the columns of a row; what a row needs of all its columns (a maximum, an integer sum) is gathered in cells by
integer atomics, so the order in which threads arrive cannot matter. Every thread then works out the row's results from
the cells, and the next stage begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu import kernels
from cupel.protocol.arithmetic.cpu.ir import Value
from cupel.protocol.arithmetic.cpu.reductions import EXACT_TERMS, MAGIC_BITS, SOFTMAX_SCALE
from cupel.protocol.arithmetic.cpu.row_plans import Spec, Step, is_float_sum, known_after
from cupel.protocol.arithmetic.cuda import digits
from cupel.protocol.arithmetic.cuda.source import ONE_LANE, Function, Module, Variable, c_type
from cupel.protocol.arithmetic.operations import NOT_FINITE, DType

WARP = 32
_MAP_THREADS = 256
_MAP_BLOCKS = 1 << 20
_SPLIT_THREADS = 256
_SHARED_BYTES = 40 << 10
"""Of the 48 KiB every processor gives a block; cells take the rest."""
_LONG_ROW = 1 << 14
_FEW_ROWS = 256
_CHUNKS = 512
"""Blocks over which a stage of few long rows is spread."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel to be launched; it is handed the pointers of the group, then the cells if there are some."""

    kernel: str
    blocks: int
    threads: int


@dataclass(frozen=True, slots=True)
class Emitted:
    """The launches of a group, in order."""

    launches: tuple[Launch, ...]
    cell_bytes: int = 0
    """Global memory for the cells of kernels that are split."""


def kept_bytes(spec: Spec) -> int:
    """Shared memory a row needs for what waits between stages."""
    return sum(spec.columns * s.result.size_bytes for s in spec.steps if s.kept)


def fits_shared(spec: Spec) -> bool:
    """Whether what waits between stages has room; otherwise it must be stored."""
    return kept_bytes(spec) <= _SHARED_BYTES


def emit(module: Module, spec: Spec, name: str) -> Emitted:
    """Writes the kernels of `spec` into the module."""
    if not any(s.is_row for s in spec.steps):
        return _emit_map(module, spec, name)
    rows = prod(spec.loops)
    if rows < _FEW_ROWS and spec.columns >= _LONG_ROW:
        return _Split(module, spec, name).emit()
    return _Whole(module, spec, name).emit()


def _emit_map(module: Module, spec: Spec, name: str) -> Emitted:
    f = Function(module, name, [("ptr", f"p{i}") for i in range(spec.pointers)], threads=_MAP_THREADS)
    body = _Body(f, spec)
    total = prod(spec.loops) * spec.columns
    with f.block(f"FOR_EACH(i, {total}LL)"):
        *indices, column = body.decompose("i", total, (*spec.loops, spec.columns))
        body.begin_row(indices)
        body.column(column, [n for n, _ in enumerate(spec.steps)], [], [])
    f.finish()
    blocks = min(-(-total // _MAP_THREADS), _MAP_BLOCKS)
    return Emitted((Launch(name, blocks, _MAP_THREADS),))


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where the threads of a row meet: `expression` is an lvalue of C type `kind`."""

    kind: str
    neutral: int
    gather: str
    """add, raise or lower."""


def _cells_of(step: Step) -> dict[str, _Cell]:
    """By role."""
    dtype = step.dtypes[0]
    if step.name == "sum" and dtype == DType.FLOAT32:
        return {
            "negative": _Cell("uint32_t", 0, "raise"),
            "positive": _Cell("int32_t", ew.LOWEST, "raise"),
            "total": _Cell("int64_t", 0, "add"),
        }
    if step.name in ("sum", "softmax_sum"):
        return {"total": _Cell("int64_t", 0, "add")}
    if step.name == "exponent":
        return {"largest": _Cell("uint32_t", 0, "raise")}
    bits = 64 if dtype == DType.INT64 else 32
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if step.name == "max":
        return {"extreme": _Cell(f"int{bits}_t", lowest, "raise")}
    assert step.name == "min", step.name
    return {"extreme": _Cell(f"int{bits}_t", highest, "lower")}


def _neutral(cell: _Cell) -> str:
    # The lowest int64 has no literal in C.
    return f"({cell.kind})(uint64_t)0x{cell.neutral & (1 << 64) - 1:x}ULL"


_KIND = {"uint32_t": "i32", "int32_t": "i32", "int64_t": "i64"}


class _Body:
    """What one thread does in one column of one row."""

    def __init__(self, f: Function, spec: Spec) -> None:
        self.f, self.spec = f, spec
        self.pointers = f.arguments[: spec.pointers]
        self.dirty = self._find_dirty()
        self.bases: dict[int, Value] = {}
        self.row_values: dict[int, Value] = {}
        self.row_loads: dict[int, Value] = {}
        self.scales: dict[int, tuple[Value, Value]] = {}
        self.partial: dict[tuple[int, str], Variable] = {}
        self.indices: Sequence[Value] = ()
        self.local: str = "0"

    def _find_dirty(self) -> list[bool]:
        """Whose NaN may have other bits than 0x7fc00000: a GPU's own is 0x7fffffff."""
        dirty: list[bool] = []
        for step in self.spec.steps:
            value = step.result == DType.FLOAT32 and not step.is_reduce and step.name in ew.DIRTY
            if step.name in ew.PASSING and step.result == DType.FLOAT32:
                value = any(kind == "step" and dirty[int(str(i))] for kind, i in step.args)
            dirty.append(value)
        return dirty

    def decompose(self, index: str, count: int, sizes: Sequence[int]) -> list[Value]:
        """The row-major indices that `index` below `count` stands for."""
        f = self.f
        kind = "uint32_t" if count < 1 << 31 else "int64_t"
        rest = f.fresh()
        f.do(f"const {kind} {rest} = ({kind}){index};")
        result: list[Value] = []
        for at, size in reversed(list(enumerate(sizes))):
            text = rest if at == 0 else f"{rest} % {size}"
            result.append(f.emit("i64", f"(int64_t)({text})"))
            if at:
                above = f.fresh()
                f.do(f"const {kind} {above} = {rest} / {size};")
                rest = above
        return result[::-1]

    def begin_row(self, indices: Sequence[Value]) -> None:
        """Nothing of another row, or of another stage's scope, is known any more."""
        self.indices = indices
        self.bases, self.row_values, self.row_loads, self.scales, self.partial = {}, {}, {}, {}, {}

    def _base(self, i: int) -> Value:
        if i not in self.bases:
            access = self.spec.accesses[i]
            terms = [
                f"{index.name} * {stride}LL"
                for index, stride in zip(self.indices, access.strides, strict=True)
                if stride
            ]
            place = " + ".join([f"{access.offset}LL", *terms])
            pointer = self.pointers[access.pointer]
            self.bases[i] = self.f.emit("ptr", f"{pointer.name} + ({place}) * {access.dtype.size_bytes}")
        return self.bases[i]

    # Memory

    def prepare(self, steps: Sequence[int]) -> None:
        """Before the loop over columns: what these steps read once a row."""
        for n in steps:
            step = self.spec.steps[n]
            for position, (kind, which) in enumerate(step.args):
                looked_up = step.name == "lookup" and position == 0
                if kind != "access" or looked_up:
                    if looked_up:
                        self._base(int(str(which)))
                    continue
                i = int(str(which))
                self._base(i)
                if self.spec.accesses[i].inner == 0 and i not in self.row_loads:
                    self.row_loads[i] = self._load(i, None)
            if step.store >= 0:
                self._base(step.store)
            for kind, which in step.args:
                if kind == "step" and self.spec.steps[int(str(which))].store >= 0:
                    self._base(self.spec.steps[int(str(which))].store)

    def _load(self, i: int, column: Value | None) -> Value:
        access = self.spec.accesses[i]
        element = ew.MEMORY[access.dtype]
        pointer = self._base(i)
        if column is not None and access.inner:
            pointer = pointer.offset(element, column * access.inner if access.inner != 1 else column)
        value = self.f.load(element, pointer, align=access.dtype.size_bytes)
        return value.cast("trunc", "i1") if access.dtype == DType.BOOL else value

    def write(self, i: int, column: Value | None, value: Value, *, dirty: bool) -> None:
        access = self.spec.accesses[i]
        if dirty:
            value = ew.canonical(value)
        if access.dtype == DType.BOOL:
            value = value.cast("zext", "i8")
        element = ew.MEMORY[access.dtype]
        pointer = self._base(i)
        if column is not None and access.inner:
            pointer = pointer.offset(element, column * access.inner if access.inner != 1 else column)
        self.f.store(value, pointer, align=access.dtype.size_bytes)

    def _kept(self, n: int, column: Value) -> Value:
        """Shared memory of a step that waits."""
        before = sum(self.spec.columns * s.result.size_bytes for s in self.spec.steps[:n] if s.kept)
        size = self.spec.steps[n].result.size_bytes
        whole = kept_bytes(self.spec)
        return self.f.emit("ptr", f"kept + {self.local} * {whole} + {before} + {column.name} * {size}")

    # Values

    def argument(self, step: Step, position: int, column: Value | None, cache: dict[object, Value]) -> Value:
        kind, which = step.args[position]
        dtype = step.dtypes[position] if position < len(step.dtypes) else DType.FLOAT32
        if kind == "number":
            number: int | float = float(str(which)) if dtype == DType.FLOAT32 else int(str(which))
            return self.f.const(ew.ELEMENT[dtype], number)
        n = int(str(which))
        if kind == "step" and self.spec.steps[n].is_row:
            return self.row_values[n]
        if kind == "access" and n in self.row_loads:
            return self.row_loads[n]
        if (kind, n) not in cache:
            cache[kind, n] = self._load(n, column) if kind == "access" else self._again(n, column)
        return cache[kind, n]

    def _again(self, n: int, column: Value | None) -> Value:
        """A value of an earlier stage."""
        step = self.spec.steps[n]
        if step.store >= 0:
            return self._load(step.store, column)
        assert column is not None
        value = self.f.load(ew.MEMORY[step.result], self._kept(n, column), align=step.result.size_bytes)
        return value.cast("trunc", "i1") if step.result == DType.BOOL else value

    def is_dirty(self, step: Step, position: int) -> bool:
        kind, which = step.args[position]
        return kind == "step" and self.dirty[int(str(which))]

    def compute(self, n: int, column: Value | None, cache: dict[object, Value]) -> Value:
        step, f = self.spec.steps[n], self.f
        if step.name == "lookup":
            return self._lookup(step, column, cache)
        args = [self.argument(step, i, column, cache) for i in range(len(step.args))]
        own = digits.apply(f, step.name, step.attributes, args)
        if own is not None:
            return own
        dirty = [self.is_dirty(step, i) for i in range(len(args))]
        return ew.apply(f, ONE_LANE, step.name, step.attributes, args, step.dtypes[-1], step.result, dirty)

    def _lookup(self, step: Step, column: Value | None, cache: dict[object, Value]) -> Value:
        """x[index along one dimension]; 0 outside, where element 0 is read instead."""
        f = self.f
        limit, stride = step.attributes
        which = int(str(step.args[0][1]))
        access = self.spec.accesses[which]
        element = ew.MEMORY[access.dtype]
        index = self.argument(step, 1, column, cache)
        inside = index.compare("ult", limit)
        place = inside.select(index, 0) * stride
        if column is not None and access.inner:
            place = place + column * access.inner
        value: Value = f.load(element, self._base(which).offset(element, place), align=access.dtype.size_bytes)
        value = inside.select(value, 0)
        return value.cast("trunc", "i1") if access.dtype == DType.BOOL else value

    def column(self, column: Value, maps: Sequence[int], first: Sequence[int], second: Sequence[int]) -> None:
        """Maps, terms of reductions that begin here, and terms of sums whose quantum is known."""
        f, spec = self.f, self.spec
        cache: dict[object, Value] = {}
        for n in maps:
            step = spec.steps[n]
            value = self.compute(n, column, cache)
            cache["step", n] = value
            if step.store >= 0:
                self.write(step.store, column, value, dirty=self.dirty[n])
            elif step.kept:
                held = value.cast("zext", "i8") if step.result == DType.BOOL else value
                f.store(held, self._kept(n, column), align=step.result.size_bytes)
        for n in first:
            self._accumulate(n, self.argument(spec.steps[n], 0, column, cache))
        for n in second:
            scale, _ = self.scales[n]
            x = self.argument(spec.steps[n], 0, column, cache)
            self._add(n, kernels.quantised_bits(f, ONE_LANE, x, scale))

    # Reductions

    def start(self, n: int, roles: Sequence[str]) -> None:
        cells = _cells_of(self.spec.steps[n])
        for role in roles:
            cell = cells[role]
            self.partial[n, role] = self.f.variable(_KIND[cell.kind], cell.neutral)

    def _add(self, n: int, bits: Value) -> None:
        total = self.partial[n, "total"]
        total.set(total.get() + bits)

    def _accumulate(self, n: int, x: Value) -> None:
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]

        def keep(role: str, op: str, value: Value) -> None:
            variable = self.partial[n, role]
            variable.set(f.intrinsic(op, variable.get(), value))

        if step.name == "sum" and dtype == DType.FLOAT32:
            bits = x.as_bits()
            keep("negative", "umax", bits)
            keep("positive", "smax", bits)
        elif step.name == "softmax_sum":
            self._add(n, kernels.quantised_bits(f, ONE_LANE, x, f.const("double", SOFTMAX_SCALE)))
        elif step.name == "sum":
            self._add(n, x.cast("zext" if dtype in ew.UNSIGNED else "sext", "i64"))
        elif step.name == "exponent":
            keep("largest", "umax", x.as_bits() & ew.MAGNITUDE)
        else:
            if dtype == DType.FLOAT32:
                if self.is_dirty(step, 0):
                    x = ew.canonical(x)
                x = ew.order_key(x, nan_first_of_lowest=step.name == "min")
            elif dtype not in (DType.INT32, DType.INT64):
                x = x.cast("zext" if dtype in ew.UNSIGNED else "sext", "i32")
            keep("extreme", "smax" if step.name == "max" else "smin", x)

    def finish(self, n: int, cells: dict[str, Value]) -> Value:
        """The result of a reduction whose terms are all in."""
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]
        if step.name == "softmax_sum" or (step.name == "sum" and dtype == DType.FLOAT32):
            columns = self.spec.columns
            total = cells["total"] - (columns * MAGIC_BITS) % (1 << 64)
            if step.name == "softmax_sum":
                peak = self.row_values[int(str(step.args[1][1]))].as_bits() & ew.MAGNITUDE
                special = peak.compare("uge", ew.INFINITY_BITS).select(f.const("i32", ew.NAN_BITS), f.const("i32", 0))
                scale: Value = f.const("double", SOFTMAX_SCALE)
            else:
                scale, special = self.scales[n]
            return kernels.sum_result(f, total, scale, special, large=columns > EXACT_TERMS)
        if step.name == "sum":
            return cells["total"]
        if step.name == "exponent":
            magnitude = cells["largest"]
            finite = magnitude.compare("ult", ew.INFINITY_BITS)
            return finite.select(ew.exponent_of(f, magnitude), NOT_FINITE)
        key = cells["extreme"]
        if dtype == DType.FLOAT32:
            return ew.from_order_key(key, nan_first_of_lowest=step.name == "min")
        return key.cast("trunc", ew.ELEMENT[dtype])


def _stages(spec: Spec) -> int:
    return 1 + max(s.level + (known_after(s.name, s.dtypes[0]) if s.is_reduce else 0) for s in spec.steps)


class _Staged:
    """Common to both ways of walking rows: what happens in a stage."""

    def __init__(self, module: Module, spec: Spec, name: str) -> None:
        self.module, self.spec, self.name = module, spec, name
        self.rows = prod(spec.loops)
        self.body: _Body
        self.warp = ""
        """Prefix of how threads gather: "warp_" where a whole warp works on one row."""

    def cell(self, n: int, role: str) -> str:
        raise NotImplementedError

    def _is_float_sum(self, n: int) -> bool:
        return is_float_sum(self.spec.steps[n])

    def _at(self, stage: int) -> tuple[list[int], list[int], list[int]]:
        steps = self.spec.steps
        maps = [n for n, s in enumerate(steps) if not s.is_row and s.level == stage]
        first = [n for n, s in enumerate(steps) if s.is_reduce and s.level == stage]
        second = [n for n, _ in enumerate(steps) if self._is_float_sum(n) and steps[n].level == stage - 1]
        return maps, first, second

    def _known_at(self, n: int) -> int:
        step = self.spec.steps[n]
        return step.level + (known_after(step.name, step.dtypes[0]) if step.is_reduce else 0)

    def _rows_needed(self, stage: int) -> list[int]:
        """Row results that this stage uses or stores, and those they follow from, in order."""
        steps = self.spec.steps
        maps, first, second = self._at(stage)
        needed: set[int] = set()

        def visit(n: int) -> None:
            if n in needed:
                return
            needed.add(n)
            step = steps[n]
            follows = step.args[1:] if step.is_reduce else step.args
            for kind, which in follows:
                if kind == "step" and steps[int(str(which))].is_row:
                    visit(int(str(which)))

        for n in (*maps, *first, *second):
            step = steps[n]
            for position, (kind, which) in enumerate(step.args):
                if kind == "step" and steps[int(str(which))].is_row and not (step.is_reduce and position):
                    visit(int(str(which)))
        for n, step in enumerate(steps):
            if step.is_row and step.store >= 0 and self._known_at(n) == stage:
                visit(n)
        return sorted(needed)

    def has_work(self, stage: int) -> bool:
        return any(self._at(stage)) or bool(self._rows_needed(stage))

    def write_stage(self, stage: int, lane: str, start: str, stop: str, step_by: str, leads: str) -> None:
        """One thread's part: columns start, start + step_by ... below stop; `leads` says who stores row results."""
        f, body, spec = self.body.f, self.body, self.spec
        maps, first, second = self._at(stage)
        for n in self._rows_needed(stage):
            step = spec.steps[n]
            if step.is_reduce:
                if self._is_float_sum(n):
                    self._prepare_sum(n)
                value = body.finish(n, {role: self._read(n, role) for role in _cells_of(step)})
            else:
                body.prepare([n])
                value = body.compute(n, None, {})
            body.row_values[n] = value
            if step.store >= 0 and self._known_at(n) == stage:
                body.prepare([n])
                with f.block(f"if ({leads})"):
                    body.write(step.store, None, value, dirty=body.dirty[n])
        for n in second:
            if n not in body.scales:
                self._prepare_sum(n)
        if not (maps or first or second):
            return
        body.prepare([*maps, *first, *second])
        roles: dict[int, list[str]] = {}
        for n in first:
            roles[n] = [r for r in _cells_of(spec.steps[n]) if not (self._is_float_sum(n) and r == "total")]
        for n in second:
            roles[n] = ["total"]
        for n, names in roles.items():
            body.start(n, names)
        column = f.fresh()
        with f.block(f"for (int64_t {column} = {start}; {column} < {stop}; {column} += {step_by})"):
            body.column(f.emit("i64", column), maps, first, second)
        for n, names in roles.items():
            for role in names:
                cell = _cells_of(spec.steps[n])[role]
                value = body.partial[n, role].get()
                f.do(f"{self.warp}{cell.gather}_to(&{self.cell(n, role)}, ({cell.kind}){value.name});")

    def _read(self, n: int, role: str) -> Value:
        cell = _cells_of(self.spec.steps[n])[role]
        kind = _KIND[cell.kind]
        return self.body.f.emit(kind, f"({c_type(kind)}){self.cell(n, role)}")

    def _prepare_sum(self, n: int) -> None:
        f = self.body.f
        exponent, special = kernels.sum_parameters(f, self._read(n, "negative"), self._read(n, "positive"))
        self.body.scales[n] = (kernels.sum_scale(f, exponent), special)

    def all_cells(self) -> list[tuple[int, str, _Cell]]:
        return [
            (n, role, cell)
            for n, step in enumerate(self.spec.steps)
            if step.is_reduce
            for role, cell in _cells_of(step).items()
        ]


class _Whole(_Staged):
    """Every row stays with one block, from the first stage to the last."""

    def cell(self, n: int, role: str) -> str:
        return f"c{n}_{role}[local]"

    def _geometry(self) -> tuple[int, int, bool]:
        """(rows of a block, threads of a row, whether neighbouring threads take neighbouring rows)."""
        columns = self.spec.columns
        reads = [a for a in self.spec.accesses if a.inner]
        side_by_side = sum(1 for a in reads if a.inner != 1 and a.strides and a.strides[-1] == 1)
        across = bool(reads) and 2 * side_by_side >= len(reads) and self.spec.loops[-1] >= 8
        if across and WARP * kept_bytes(self.spec) <= _SHARED_BYTES:
            threads = 8
            while threads < 32 and threads * 64 < columns:
                threads *= 2
            return WARP, threads, True
        # Whole warps, so that the threads that gather together have one row.
        threads = WARP
        while threads < 512 and threads * 8 < columns:
            threads *= 2
        rows = max(1, 128 // threads)
        while rows > 1 and rows * kept_bytes(self.spec) > _SHARED_BYTES:
            rows //= 2
        return rows, threads, False

    def emit(self) -> Emitted:
        rows, threads, across = self._geometry()
        parameters = [("ptr", f"p{i}") for i in range(self.spec.pointers)]
        f = Function(self.module, self.name, parameters, threads=rows * threads)
        self.body = _Body(f, self.spec)
        self.body.local = "local"
        self.warp = "" if across else "warp_"
        for n, role, cell in self.all_cells():
            f.do(f"SHARED({cell.kind}, c{n}_{role}, {rows});")
        kept = rows * kept_bytes(self.spec)
        if kept:
            # As int64, so that it is aligned for whatever is kept.
            f.do(f"SHARED(int64_t, kept_words, {-(-kept // 8)});")
            f.do("char* const kept = (char*)kept_words;")
        with self._stage(f), f.block(f"if (THREAD < {rows})"):
            for n, role, cell in self.all_cells():
                f.do(f"c{n}_{role}[THREAD] = {_neutral(cell)};")
        for stage in range(_stages(self.spec)):
            if not self.has_work(stage):
                continue
            with self._stage(f):
                if across:
                    f.do(f"const int32_t local = THREAD % {rows}, lane = THREAD / {rows};")
                else:
                    f.do(f"const int32_t local = THREAD / {threads}, lane = THREAD % {threads};")
                f.do(f"const int64_t row = BLOCK * {rows} + local;")
                with f.block(f"if (row < {self.rows}LL)"):
                    self.body.begin_row(self.body.decompose("row", self.rows, self.spec.loops))
                    self.write_stage(stage, "lane", "lane", f"{self.spec.columns}", str(threads), "lane == 0")
        f.finish()
        return Emitted((Launch(self.name, -(-self.rows // rows), rows * threads),))

    @staticmethod
    def _stage(f: Function) -> _Stage:
        return _Stage(f)


class _Stage:
    def __init__(self, f: Function) -> None:
        self.f = f

    def __enter__(self) -> None:
        self.f.do("STAGE")
        self.f.depth += 1

    def __exit__(self, *error: object) -> None:
        self.f.depth -= 1
        self.f.do("END_STAGE")


class _Split(_Staged):
    """Few rows, long ones: each stage is a kernel, over as many blocks as there is work for; cells are in memory."""

    def __init__(self, module: Module, spec: Spec, name: str) -> None:
        super().__init__(module, spec, name)
        self.slots = {(n, role): at for at, (n, role, _) in enumerate(self.all_cells())}
        assert not any(s.kept for s in spec.steps), "long rows keep nothing in shared memory"
        self.warp = "warp_"

    def cell(self, n: int, role: str) -> str:
        kind = _cells_of(self.spec.steps[n])[role].kind
        return f"*({kind}*)(cells + ({self.slots[n, role]} * {self.rows}LL + row) * 8)"

    def emit(self) -> Emitted:
        launches = [self._begin()]
        chunks = max(1, min(_CHUNKS // self.rows, -(-self.spec.columns // 4096)))
        for stage in range(_stages(self.spec)):
            if self.has_work(stage):
                launches.append(self._emit_stage(stage, chunks if any(self._at(stage)) else 1))
        return Emitted(tuple(launches), 8 * self.rows * len(self.slots))

    def _function(self, suffix: str) -> Function:
        parameters = [("ptr", f"p{i}") for i in range(self.spec.pointers)]
        return Function(self.module, f"{self.name}_{suffix}", [*parameters, ("ptr", "cells")], threads=_SPLIT_THREADS)

    def _begin(self) -> Launch:
        f = self._function("begin")
        with f.block(f"FOR_EACH(row, {self.rows}LL)"):
            for n, role, cell in self.all_cells():
                f.do(f"{self.cell(n, role)} = {_neutral(cell)};")
        f.finish()
        return Launch(f.name, 1, _SPLIT_THREADS)

    def _emit_stage(self, stage: int, chunks: int) -> Launch:
        f = self._function(f"stage{stage}")
        self.body = _Body(f, self.spec)
        threads = _SPLIT_THREADS
        with _Stage(f):
            f.do(f"const int64_t row = BLOCK / {chunks}, chunk = BLOCK % {chunks};")
            self.body.begin_row(self.body.decompose("row", self.rows, self.spec.loops))
            start, by = f"chunk * {threads} + THREAD", f"{chunks * threads}"
            self.write_stage(stage, "THREAD", start, f"{self.spec.columns}", by, "chunk == 0 && THREAD == 0")
        f.finish()
        return Launch(f.name, self.rows * chunks, threads)
