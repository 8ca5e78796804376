"""From a graph to one native module: memory planned, kernels emitted, one entry function for each native stretch.

The entry takes a table of pointers (arena, inputs, constants, outputs) and calls the kernels in order. Steps
that must go back to Python cut it into several entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from cupel.protocol.arithmetic.cpu import batches, kernels, ordering, packing, products, row_plans, rows
from cupel.protocol.arithmetic.cpu.grouping import Group, buffers_of, group_items
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.items import Call, Matrix, Python
from cupel.protocol.arithmetic.cpu.lowering import Lowering
from cupel.protocol.arithmetic.cpu.panels import Form, pack_scratch
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.operations import DType, Graph

_ALIGN = 64
_LARGE_SUM = 1 << 22


@dataclass(frozen=True, slots=True)
class Slice:
    """A contiguous tensor inside the memory of a run."""

    place: tuple[str, int]
    offset_bytes: int
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PythonStep:
    """An operation that runs in Python after native stretch `after`."""

    operation: int
    """Index in the graph."""
    after: int
    reads: tuple[Slice, ...]
    write: Slice


@dataclass(slots=True)
class Plan:
    """Everything a run needs except machine code."""

    ir: str
    """Empty for a plan from the cache, which brings its machine code."""
    arena_bytes: int
    constants: list[torch.Tensor]
    entries: int
    python_steps: list[PythonStep]
    labels: list[str] = field(default_factory=list)
    """What each group does, for profiles."""


def build(graph: Graph, isa: InstructionSet, threads: int, triple: str, *, clocked: bool = False) -> Plan:
    """Lower, group, place and emit."""
    lowered = Lowering(graph, isa).run()
    groups = group_items(lowered.items)
    return _Builder(graph, isa, threads, lowered.constants, groups, clocked).build(triple)


class _Builder:
    def __init__(
        self,
        graph: Graph,
        isa: InstructionSet,
        threads: int,
        constants: list[torch.Tensor],
        groups: Sequence[Group],
        clocked: bool,
    ) -> None:
        self.graph, self.isa, self.threads, self.constants = graph, isa, threads, list(constants)
        self.groups, self.clocked = groups, clocked
        self.module = Module()
        self.names: dict[row_plans.Spec, str] = {}
        self.row_kernels: dict[int, row_plans.RowKernel] = {}
        self.scratch_bytes = 0
        self.labels: list[str] = []

    def build(self, triple: str) -> Plan:
        architecture = triple.partition("-")[0]
        self.machine = {"x86_64": "x86", "amd64": "x86", "arm64": "aarch64"}.get(architecture, architecture)
        uses = self._uses()
        for at, group in enumerate(self.groups):
            if group.fused:

                def is_needed(buffer: Buffer, at: int = at) -> bool:
                    return buffer.place[0] == "output" or any(u != at for u in uses.get(buffer, ()))

                kernel = row_plans.plan_rows(group, is_needed, self.isa)
                self.row_kernels[at] = kernel
                self.scratch_bytes = max(self.scratch_bytes, kernel.scratch_bytes)
            for item in group.items:
                if isinstance(item, Call):
                    self.scratch_bytes = max(self.scratch_bytes, self._scratch_of(item))
        self.scratch_bytes = -(-self.scratch_bytes // _ALIGN) * _ALIGN
        top = self._place(uses)
        self.scratch_at = top
        arena_bytes = top + self.scratch_bytes * self.threads
        entries, steps = self._emit_entries()
        attributes = f'"target-cpu"="{self.isa.cpu}"'
        if self.isa.features:
            attributes += f' "target-features"="{self.isa.features}"'
        if self.isa.masks:
            attributes += ' "prefer-vector-width"="512" "min-legal-vector-width"="512"'
        ir = self.module.text(triple, attributes)
        return Plan(ir, max(arena_bytes, _ALIGN), self.constants, entries, steps, self.labels)

    # Memory

    def _uses(self) -> dict[Buffer, set[int]]:
        """Groups that read or write each buffer."""
        uses: dict[Buffer, set[int]] = {}
        for at, group in enumerate(self.groups):
            for item in group.items:
                for buffers in buffers_of(item):
                    for buffer in buffers:
                        uses.setdefault(buffer, set()).add(at)
        return uses

    def _scratch_of(self, item: Call) -> int:
        if item.name == "product":
            return products.product_scratch(self.isa)
        if item.name == "order":
            return item.numbers[1] * ordering.ELEMENT_BYTES
        if item.name == "pack":
            return pack_scratch(self.isa)
        if item.name == "products":
            return self._batch(item).layout(self.isa)["total"][0]
        return 0

    def _place(self, uses: dict[Buffer, set[int]]) -> int:
        """Offsets in the arena for buffers that live between groups; the largest are placed first."""
        # Insertion order, not a set's: the same graph must give the same code every time.
        written: dict[Buffer, None] = {}
        for at, group in enumerate(self.groups):
            if group.fused:
                spec_buffers = self.row_kernels[at].buffers
                written.update((b, None) for b in spec_buffers if b.place[0] == "arena")
            else:
                for item in group.items:
                    for buffers in buffers_of(item):
                        written.update((b, None) for b in buffers if b.place[0] == "arena")
        spans = sorted(((min(uses[b]), max(uses[b]), b) for b in written), key=lambda s: (-s[2].size_bytes, s[0], s[1]))
        placed: list[tuple[int, int, int, int]] = []
        top = 0
        for first, last, buffer in spans:
            size = -(-(buffer.size_bytes + _ALIGN) // _ALIGN) * _ALIGN
            at = 0
            for start, end in sorted((o, o + n) for begin, stop, o, n in placed if begin <= last and first <= stop):
                if at + size <= start:
                    break
                at = max(at, end)
            placed.append((first, last, at, size))
            buffer.place = ("arena", at)
            top = max(top, at + size)
        return top

    # Entry functions

    def _emit_entries(self) -> tuple[int, list[PythonStep]]:
        steps: list[PythonStep] = []
        entry = 0
        operation_at = {id(op): i for i, op in enumerate(self.graph.operations)}
        self._begin(entry)
        for at, group in enumerate(self.groups):
            item = group.items[0]
            if isinstance(item, Python):
                self._end()
                steps.append(
                    PythonStep(
                        operation_at[id(item.operation)],
                        entry,
                        tuple(self._slice(v) for v in item.reads),
                        self._slice(item.writes[0]),
                    )
                )
                entry += 1
                self._begin(entry)
                continue
            if group.fused:
                self._row_call(at)
            else:
                assert isinstance(item, Call)
                self._special_call(item)
            if self.clocked:
                self.f.call("void", "cupel_tick", [self.f.i64(len(self.labels) - 1)])
            if self.threads > 1:
                self.f.call("void", self._barrier(), [self.sync])
        self._end()
        return entry + 1, steps

    @staticmethod
    def _slice(view: View) -> Slice:
        if view.buffer is None:
            return Slice(("none", 0), 0, view.dtype, view.shape)
        return Slice(view.buffer.place, view.offset * view.dtype.size_bytes, view.dtype, view.shape)

    def _begin(self, number: int) -> None:
        self.f = Function(
            self.module,
            f"cupel_run_{number}",
            [("ptr", "table"), ("i64", "thread"), ("ptr", "sync")],
            public=True,
        )
        self.table, self.thread, self.sync = self.f.arguments
        self.pointers: dict[tuple[str, int], Value] = {}
        self.arena = self.f.load("ptr", self.table, align=8)
        self._take_float_control()

    def _end(self) -> None:
        self._give_float_control_back()
        self.f.finish()

    def _take_float_control(self) -> None:
        """Round to nearest, keep subnormals, whatever the calling thread had set (torch.set_flush_denormal...)."""
        f = self.f
        if self.machine == "x86":
            self.control = f.alloca("i32", 4)
            wanted = f.alloca("i32", 4)
            f.call("void", "llvm.x86.sse.stmxcsr", [self.control])
            f.store(f.const("i32", 0x1F80), wanted, align=4)
            f.call("void", "llvm.x86.sse.ldmxcsr", [wanted])
        elif self.machine == "aarch64":
            self.control = f.call("i64", "llvm.aarch64.get.fpcr", [])
            f.call("void", "llvm.aarch64.set.fpcr", [f.i64(0)])

    def _give_float_control_back(self) -> None:
        if self.machine == "x86":
            self.f.call("void", "llvm.x86.sse.ldmxcsr", [self.control])
        elif self.machine == "aarch64":
            self.f.call("void", "llvm.aarch64.set.fpcr", [self.control])

    def _pointer(self, place: tuple[str, int], offset_bytes: int = 0) -> Value:
        kind, number = place
        if kind == "arena":
            assert number >= 0
            return self.arena.offset("i8", number + offset_bytes)
        if place not in self.pointers:
            slot = self.table.offset("ptr", table_slot(self.graph, place))
            self.pointers[place] = self.f.load("ptr", slot, align=8)
        return self.pointers[place].offset("i8", offset_bytes)

    def _of(self, view: View) -> Value:
        if view.buffer is None:
            return Value(self.f, "ptr", "null")
        return self._pointer(view.buffer.place, view.offset * view.dtype.size_bytes)

    def _scratch(self) -> Value:
        base = self.arena.offset("i8", self.scratch_at)
        return base if self.threads == 1 else base.offset("i8", self.thread * self.scratch_bytes)

    def _range(self, units: int, align: int = 1) -> tuple[Value, Value]:
        """This thread's part of 0..units; borders are multiples of `align`."""
        f = self.f
        if self.threads == 1:
            return f.i64(0), f.i64(units)
        blocks = -(-units // align)
        low = (self.thread * blocks).binary("udiv", self.threads) * align
        high = ((self.thread + 1) * blocks).binary("udiv", self.threads) * align
        return low, f.minimum(high, units)

    def _row_call(self, at: int) -> None:
        kernel = self.row_kernels[at]
        if kernel.spec not in self.names:
            self.names[kernel.spec] = f"rows_{len(self.names)}"
            rows.emit(self.module, self.isa, kernel.spec, self.names[kernel.spec])
        name = self.names[kernel.spec]
        pointers = [
            self._pointer(b.place, start * b.dtype.size_bytes)
            for b, start in zip(kernel.buffers, kernel.starts, strict=True)
        ]
        steps = " ".join(s.name for s in kernel.spec.steps)
        self.labels.append(f"{name} {'x'.join(map(str, kernel.spec.loops))} [{kernel.spec.columns}] {steps}")
        if kernel.align == 0:
            self._first_thread_only(name, [*pointers, self.f.i64(0), self.f.i64(1), self._scratch()])
            return
        low, high = self._range(kernel.units, kernel.align)
        self.f.call("void", name, [*pointers, low, high, self._scratch()])

    def _first_thread_only(self, name: str, arguments: list[Value]) -> None:
        if self.threads == 1:
            self.f.call("void", name, arguments)
            return
        with self.f.when(self.thread.compare("eq", 0)):
            self.f.call("void", name, arguments)

    def _special_call(self, item: Call) -> None:
        f, module, isa = self.f, self.module, self.isa
        self.labels.append(f"{item.name} {item.numbers} {_describe(item.detail)}")
        if item.name == "column_sum":
            count, columns, stride = item.numbers
            name = kernels.column_sum(module, isa, large=count > _LARGE_SUM)
            low, high = self._range(columns, 64)
            pointers = [self._of(item.reads[0]), self._of(item.writes[0])]
            f.call("void", name, [*pointers, f.i64(count), f.i64(stride), low, high])
        elif item.name == "index_add":
            count, height, width = item.numbers
            name = kernels.index_add(module, isa, large=count + 1 > _LARGE_SUM)
            low, high = self._range(width, 16)
            pointers = [self._of(v) for v in (*item.reads, *item.writes)]
            f.call("void", name, [*pointers, f.i64(count), f.i64(height), f.i64(width), low, high])
        elif item.name in ("argmax", "argmin", "cumsum"):
            count, length = item.numbers
            name = kernels.scan(module, isa, item.name, item.reads[0].dtype)
            low, high = self._range(count)
            f.call("void", name, [self._of(item.reads[0]), self._of(item.writes[0]), f.i64(length), low, high])
        elif item.name == "order":
            count, length, first, descending = item.numbers
            name = ordering.first_of_row(module, item.reads[0].dtype, descending=bool(descending))
            low, high = self._range(count)
            pointers = [self._of(item.reads[0]), self._of(item.writes[0])]
            f.call("void", name, [*pointers, f.i64(length), f.i64(first), low, high, self._scratch()])
        elif item.name == "scatter":
            limit, stride = item.numbers
            assert isinstance(item.detail, tuple)
            name = kernels.scatter(module, item.writes[0].dtype, item.detail, limit, stride)
            index, source, _ = item.reads
            self._first_thread_only(name, [self._of(index), self._of(source), self._of(item.writes[0])])
        elif item.name == "philox":
            count, stream = item.numbers
            name = kernels.random_words(module, isa)
            low, high = self._range(count, 64)
            pointers = [self._of(v) for v in (*item.reads, *item.writes)]
            f.call("void", name, [*pointers, f.i64(stream), low, high])
        elif item.name == "pack":
            self._pack(item)
        elif item.name == "product":
            self._product(item)
        elif item.name == "products":
            self._products(item)
        else:
            raise AssertionError(item.name)

    def _pack(self, item: Call) -> None:
        f, isa = self.f, self.isa
        assert isinstance(item.detail, tuple)
        matrix, form = item.detail
        emit = packing.pack_terms_contiguous if matrix.unit_terms else packing.pack_rows_contiguous
        name = emit(self.module, isa, form)
        low, high = self._range(-(-matrix.rows // isa.columns))
        plane = f.i64(form.plane_bytes(matrix.rows, matrix.terms, isa.columns))
        packed, scales = (self._of(v) for v in item.writes)
        numbers = [f.i64(n) for n in (matrix.stride, matrix.rows, matrix.terms)]
        f.call("void", name, [self._of(item.reads[0]), *numbers, packed, plane, scales, low, high, self._scratch()])

    def _product(self, item: Call) -> None:
        f, isa = self.f, self.isa
        assert isinstance(item.detail, tuple)
        m, n, terms, digits = item.detail
        name = products.product(self.module, isa, digits, terms)
        form = Form.of(isa, digits, terms, left=True)
        tiles, panels = -(-m // isa.rows), -(-n // isa.columns)
        whole_tiles, whole_panels = (f.i64(0), f.i64(tiles)), (f.i64(0), f.i64(panels))
        if tiles >= panels:
            tile_range, panel_range = self._range(tiles), whole_panels
        else:
            tile_range, panel_range = whole_tiles, self._range(panels)
        a, a_scales, b, b_scales = (self._of(v) for v in item.reads)
        stride = _stride(item.writes[0])
        planes_bytes = [form.plane_bytes(r, terms, isa.columns) for r in (m, n)]
        numbers = [f.i64(x) for x in (m, n, -(-terms // form.together), stride, *planes_bytes)]
        f.call(
            "void",
            name,
            [a, a_scales, b, b_scales, self._of(item.writes[0]), *numbers, *tile_range, *panel_range, self._scratch()],
        )

    @staticmethod
    def _batch(item: Call) -> batches.Batch:
        assert isinstance(item.detail, tuple)
        left, right, _, digits, by_rows = item.detail
        return batches.Batch(
            rows=left.rows,
            columns=right.rows,
            terms=left.terms,
            digits=digits,
            left_unit_terms=left.unit_terms,
            right_unit_terms=right.unit_terms,
            by_rows=by_rows,
        )

    def _products(self, item: Call) -> None:
        f = self.f
        assert isinstance(item.detail, tuple)
        left, right, count, _, _ = item.detail
        assert isinstance(left, Matrix)
        assert isinstance(right, Matrix)
        out = item.writes[0]
        name = batches.batch(self.module, self.isa, self._batch(item))
        offsets = torch.tensor([_offsets(v) for v in (left.view, right.view, out)], dtype=torch.int64).reshape(-1)
        self.constants.append(offsets)
        table = self._pointer(("constant", len(self.constants) - 1))
        low, high = self._range(count)
        pointers = [self._of(v) for v in (left.view, right.view, out)]
        numbers = [f.i64(n) for n in (left.stride, right.stride, _stride(out), count)]
        f.call("void", name, [*pointers, table, *numbers, low, high, self._scratch()])

    def _barrier(self) -> str:
        """void barrier(ptr sync): two counters a cache line apart; waits briefly, then yields the processor."""
        name = "barrier"
        if name in self.module.functions:
            return name
        f = Function(self.module, name, [("ptr", "sync")])
        arrived = f.arguments[0]
        generation = arrived.offset("i8", 64)
        before = f.emit("i64", f"load atomic i64, ptr {generation.name} acquire, align 8")
        count = f.emit("i64", f"atomicrmw add ptr {arrived.name}, i64 1 acq_rel")
        last = count.compare("eq", self.threads - 1)
        with f.when(last):
            f.do(f"store atomic i64 0, ptr {arrived.name} monotonic, align 8")
            f.do(f"store atomic i64 {(before + 1).name}, ptr {generation.name} release, align 8")
        waiting = f.variable("i1", last ^ 1)
        spins = f.variable("i64", 0)
        with f.loop_while(waiting):
            now = f.emit("i64", f"load atomic i64, ptr {generation.name} acquire, align 8")
            waiting.set(now.compare("eq", before))
            spins.set(spins.get() + 1)
            with f.when(spins.get().compare("sgt", 4000)):
                f.call("i32", "sched_yield", [])
        f.finish()
        return name


def _describe(detail: object) -> str:
    if isinstance(detail, tuple):
        return " ".join(
            f"[{d.rows}x{d.terms} {'along' if d.unit_terms else 'across'}]" if isinstance(d, Matrix) else str(d)
            for d in detail
        )
    return "" if detail is None else str(detail)


def table_slot(graph: Graph, place: tuple[str, int]) -> int:
    """Position in the pointer table: the arena, inputs, outputs, then constants."""
    kind, number = place
    before = {"input": 1, "output": 1 + len(graph.inputs), "constant": 1 + len(graph.inputs) + len(graph.outputs)}
    return before[kind] + number


def _stride(out: View) -> int:
    """Elements between rows of a product's result."""
    factors = [f for f in out.dims[-2] if f[0] > 1]
    return factors[-1][1] if factors else prod(out.shape[-1:])


def _offsets(view: View) -> list[int]:
    """Element offset of each batch, beyond the view's own."""
    result = [0]
    for dim in view.dims[:-2]:
        for size, stride in dim:
            result = [o + i * stride for o in result for i in range(size)]
    return result
