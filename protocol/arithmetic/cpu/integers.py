"""Exact integer sums of products, for workers that share one: exponents are given, and int64 sums leave unrounded.

Panels and tiles are those of products.py. Only the ends differ: a row is quantised by an exponent that other workers'
terms have a say in, and a sum is added to theirs before its one rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from cupel.protocol.arithmetic.cpu import isa as instruction_sets
from cupel.protocol.arithmetic.cpu import native, products
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.lowering import packed_bytes
from cupel.protocol.arithmetic.cpu.runtime import _workers
from cupel.protocol.arithmetic.operations import planes

_ALIGN = 64
_PACK = [
    ("ptr", "x"),
    ("i64", "stride"),
    ("i64", "rows"),
    ("i64", "terms"),
    ("ptr", "exponents"),
    ("ptr", "packed"),
    ("i64", "plane_bytes"),
    ("i64", "low"),
    ("i64", "high"),
    ("ptr", "scratch"),
]
_ALONG, _ACROSS, _MULTIPLY = 0, 1, 2
"""Entries: pack rows whose terms lie side by side, pack rows that lie side by side, multiply."""


def sum_products(
    a: torch.Tensor,
    ea: torch.Tensor,
    b: torch.Tensor,
    eb: torch.Tensor,
    digits: int,
    *,
    a_turned: bool = False,
    b_turned: bool = False,
    threads: int = 1,
    instruction_set: str | None = None,
) -> torch.Tensor:
    """int64[M, N]: the sum over k of q_ik r_jk, q = QUANTIZE(a, ea) and r = QUANTIZE(b, eb) with these digits.

    a[M, K], b[N, K]  float32, contiguous; turned, they lie as [K, M] and [K, N]
    ea[M], eb[N]      int32, at least EXPONENT of the rows; what a row of NOT_FINITE gives is nobody's business
    """
    isa = instruction_sets.choose(instruction_set)
    (rows, terms), columns = reversed(a.shape) if a_turned else a.shape, eb.shape[0]
    result = torch.zeros((rows, columns), dtype=torch.int64)
    if not result.numel() or not terms:
        return result
    wide, spill = products.is_wide(digits, terms), products.spills(digits, terms)
    code = _compiled(isa.name, digits, wide, spill)
    per_thread = max(products.pack_scratch(isa), products.product_scratch(isa))
    scratch = _Memory(per_thread * threads)
    run = functools.partial(_run, code, threads=threads)
    packed = []
    for x, e, turned, count in ((a, ea, a_turned, rows), (b, eb, b_turned, columns)):
        x, e = x.contiguous(), e.contiguous()
        plane = packed_bytes(count, terms, isa.columns)
        panels = _Memory(plane * planes(digits))
        stride = count if turned else terms
        numbers = [x.data_ptr(), stride, count, terms, e.data_ptr(), panels.address, plane]
        run(_ACROSS if turned else _ALONG, [*numbers, scratch.address, per_thread, threads])
        packed.append((panels, plane))
    (left, left_plane), (right, right_plane) = packed
    numbers = [left.address, right.address, result.data_ptr(), rows, columns, (terms + 1) // 2, columns]
    run(_MULTIPLY, [*numbers, left_plane, right_plane, scratch.address, per_thread, threads])
    return result


class _Memory:
    """Aligned bytes."""

    def __init__(self, size: int) -> None:
        self._bytes = torch.empty(size + _ALIGN, dtype=torch.uint8)
        self.address = -(-self._bytes.data_ptr() // _ALIGN) * _ALIGN


def _run(code: native.Native, entry: int, numbers: list[int], *, threads: int) -> None:
    table = np.array(numbers, dtype=np.uint64)
    function = code.entries[entry]
    if threads == 1:
        function(table.ctypes.data, 0, None)
    else:
        _workers(threads).run(lambda thread: function(table.ctypes.data, thread, None))


@functools.cache
def _compiled(instruction_set: str, digits: int, wide: bool, spill: bool) -> native.Native:
    isa = instruction_sets.choose(instruction_set)
    module = Module()
    for turned in (False, True):
        _entry(module, _ACROSS if turned else _ALONG, _pack(module, isa, digits, turned=turned), _call_pack, isa)
    name = "multiply"
    f = Function(module, name, products._PRODUCT)
    _IntegerProduct(f, isa, digits, wide=wide, spill=spill).emit()
    f.finish()
    _entry(module, _MULTIPLY, name, _call_product, isa)
    attributes = f'"target-cpu"="{isa.cpu}"'
    if isa.features:
        attributes += f' "target-features"="{isa.features}"'
    if isa.masks:
        attributes += ' "prefer-vector-width"="512" "min-legal-vector-width"="512"'
    return native.Native(native.machine_code(module.text(native.triple(), attributes), isa), 3, isa)


# Quantising


def _pack(module: Module, isa: InstructionSet, digits: int, *, turned: bool) -> str:
    name = "pack_across" if turned else "pack_along"
    f = Function(module, name, _PACK)
    _, _, _, terms, _, packed, _, low, high, _ = f.arguments
    n = isa.columns
    with f.loop(low, high) as panel:
        target = packed.offset("i32", panel * ((terms + 1) >> 1) * n)
        if turned:
            _pack_across(f, isa, digits, panel, target)
        else:
            _pack_along(f, isa, digits, panel, target)
    f.finish()
    return name


def _pack_across(f: Function, isa: InstructionSet, digits: int, panel: Value, target: Value) -> None:
    """A panel of x[term * stride + row]."""
    x, stride, rows, terms, exponents, _, plane_bytes, _, _, _ = f.arguments
    n, quantiser = isa.columns, products._Quantiser(f, digits)
    source = x.offset("float", panel * n)
    left = rows - panel * n

    def body(mask: Value | None) -> None:
        kind, place = vector(n, "i32"), exponents.offset("i32", panel * n)
        e = f.load(kind, place, align=4) if mask is None else f.masked_load(kind, place, mask, align=4)
        first, second = quantiser.scales(e)

        def planes_of(k: Value) -> list[Value]:
            row = products._load_row(f, n, source.offset("float", k * stride), mask)
            return quantiser.integers(row, first, second)

        def pair(k: Value, *, has_second: bool) -> None:
            a = planes_of(k)
            b = planes_of(k + 1) if has_second else None
            for plane, value in enumerate(a):
                both = value & 0xFFFF
                if b is not None:
                    both = both | (b[plane] << 16)
                place = target.offset("i32", (k >> 1) * n)
                f.store(both, place.offset("i8", plane_bytes) if plane else place, align=4)

        even = terms & -2
        with f.loop(0, even, 2) as k:
            pair(k, has_second=True)
        with f.when(even.compare("ne", terms)):
            pair(even, has_second=False)

    with f.when(left.compare("sge", n)):
        body(None)
    with f.when(left.compare("slt", n)):
        body(f.mask_below(n, left))


def _pack_along(f: Function, isa: InstructionSet, digits: int, panel: Value, target: Value) -> None:
    """A panel of x[row * stride + term]."""
    x, stride, rows, terms, exponents, _, plane_bytes, _, _, scratch = f.arguments
    n, lanes, quantiser = isa.columns, isa.lanes, products._Quantiser(f, digits)
    firsts, seconds = scratch, scratch.offset("float", n)
    with f.loop(0, n) as r:
        row = f.minimum(panel * n + r, rows - 1)
        first, second = quantiser.scales(f.load("i32", exponents.offset("i32", row), align=4))
        f.store(first, firsts.offset("float", r), align=4)
        f.store(second, seconds.offset("float", r), align=4)

    def quantised(r: Value, k: Value, mask: Value | None) -> list[Value]:
        pointer = products._row_pointer(f, x, stride, rows, panel * n + r).offset("float", k)
        s1 = f.load("float", firsts.offset("float", r), align=4).splat(2 * lanes)
        s2 = f.load("float", seconds.offset("float", r), align=4).splat(2 * lanes)
        return quantiser.integers(products._load_row(f, 2 * lanes, pointer, mask), s1, s2)

    products._interleave(f, isa, terms, quantised, target, plane_bytes)


# Multiplying


class _IntegerProduct(products._Product):
    """Stores c[row * stride + column] as int64, unscaled."""

    def _finish(self, a_scales: Value, b_scales: Value, target: Value, height: Value, width: Value) -> None:
        f, isa, c, stride = self.f, self.isa, self.f.arguments[4], self.f.arguments[8]
        # `target` counts in floats.
        at, begin = (f.emit("i64", f"ptrtoint ptr {pointer.name} to i64") for pointer in (target, c))
        place = c.offset("i8", (at - begin) << 1)

        def integers(cell: Value, lanes: int) -> Value:
            if self.wide:
                return f.load(vector(lanes, "i64"), self.sums.offset("i64", cell), align=8)
            kind = vector(lanes, "i32")
            total = f.load(kind, self.low_tile.offset("i32", cell), align=4).cast("sext", "i64")
            if self.spill:
                total = total + (f.load(kind, self.high_tile.offset("i32", cell), align=4).cast("sext", "i64") << 15)
            return total

        with f.when(width.compare("eq", isa.columns)), f.loop(0, height) as r:
            for v in range(self.vectors):
                value = integers(r * isa.columns + v * isa.lanes, isa.lanes)
                f.store(value, place.offset("i64", r * stride + v * isa.lanes), align=8)
        with f.when(width.compare("ne", isa.columns)), f.loop(0, height) as r, f.loop(0, width) as column:
            f.store(integers(r * isa.columns + column, 0), place.offset("i64", r * stride + column), align=8)


# Entries


class _Table:
    """The numbers an entry is given."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def number(self, at: int) -> Value:
        return self.f.load("i64", self.f.arguments[0].offset("i64", at), align=8)

    def pointer(self, at: int) -> Value:
        return self.f.load("ptr", self.f.arguments[0].offset("i64", at), align=8)

    def share(self, units: Value, threads: Value) -> tuple[Value, Value]:
        """This thread's part of 0..units."""
        thread = self.f.arguments[1]
        return (thread * units).binary("udiv", threads), ((thread + 1) * units).binary("udiv", threads)


def _entry(
    module: Module,
    number: int,
    name: str,
    call: Callable[[Function, _Table, str, InstructionSet], None],
    isa: InstructionSet,
) -> None:
    parameters = [("ptr", "table"), ("i64", "thread"), ("ptr", "sync")]
    f = Function(module, f"cupel_run_{number}", parameters, public=True)
    call(f, _Table(f), name, isa)
    f.finish()


def _units(f: Function, count: Value, each: int) -> Value:
    return (count + (each - 1)).binary("udiv", each)


def _call_pack(f: Function, table: _Table, name: str, isa: InstructionSet) -> None:
    rows = table.number(2)
    low, high = table.share(_units(f, rows, isa.columns), table.number(9))
    scratch = table.pointer(7).offset("i8", f.arguments[1] * table.number(8))
    arguments = [table.pointer(0), table.number(1), rows, table.number(3), table.pointer(4), table.pointer(5)]
    with _known_float_settings(f):
        f.call("void", name, [*arguments, table.number(6), low, high, scratch])


def _call_product(f: Function, table: _Table, name: str, isa: InstructionSet) -> None:
    rows, columns = table.number(3), table.number(4)
    low, high = table.share(_units(f, rows, isa.rows), table.number(11))
    scratch = table.pointer(9).offset("i8", f.arguments[1] * table.number(10))
    a, b = table.pointer(0), table.pointer(1)
    sizes = [rows, columns, table.number(5), table.number(6), table.number(7), table.number(8)]
    whole = [f.i64(0), _units(f, columns, isa.columns)]
    f.call("void", name, [a, a, b, b, table.pointer(2), *sizes, low, high, *whole, scratch])


@contextmanager
def _known_float_settings(f: Function) -> Iterator[None]:
    """As a compiled graph runs: subnormals kept, whatever the calling thread had set."""
    architecture = native.triple().partition("-")[0]
    if architecture in ("x86_64", "amd64"):
        before, wanted = f.alloca("i32", 4), f.alloca("i32", 4)
        f.call("void", "llvm.x86.sse.stmxcsr", [before])
        f.store(f.const("i32", 0x1F80), wanted, align=4)
        f.call("void", "llvm.x86.sse.ldmxcsr", [wanted])
        yield
        f.call("void", "llvm.x86.sse.ldmxcsr", [before])
    elif architecture in ("aarch64", "arm64"):
        control = f.call("i64", "llvm.aarch64.get.fpcr", [])
        f.call("void", "llvm.aarch64.set.fpcr", [f.i64(0)])
        yield
        f.call("void", "llvm.aarch64.set.fpcr", [control])
    else:
        yield
