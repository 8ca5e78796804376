"""Exact integer sums of products, for workers that share one: exponents are given, and int64 sums leave unrounded.

The engine's own products (products.py) cannot serve here: they take a row's exponent from its own terms, and round. A
row is quantised by an exponent that other workers' terms have a say in, and its sums are added to theirs before the one
rounding.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from cupel.protocol.arithmetic.cpu import isa as instruction_sets
from cupel.protocol.arithmetic.cpu import native
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, Variable, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.panels import pair_product
from cupel.protocol.arithmetic.cpu.runtime import _workers
from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, digit_width, planes
from cupel.protocol.arithmetic.roundings import power_of_two

_ALIGN = 64
_PACK_ENTRY, _MULTIPLY_ENTRY = 0, 1
_MAGIC = 1.5 * 2.0**23
"""Adding it rounds a float below 2^22 to an integer, ties to even, whose low 16 bits are the sum's."""
_MAGIC_BITS = 0x4B400000
_PAIRS_IN_REGISTERS = {1: 1 << 17, 2: 15, 3: 1000}
"""Pairs of products an int32 holds beside a rest below 2^15, whatever they are: one is at most 2^13, 2^27 and, of
planes, 2^21."""
_GRANULE = 128
"""Terms whose squares are added up together. Stretches of two digits are 2^i of these where they are known to fit."""
_SUM_LIMIT = 2.0**31 - 2.0**16
"""What a stretch may come to, with room for that rest."""
_NORM_MARGIN = 1 + 2.0**-12
"""For what is lost in adding a granule's squares in binary32: less than 2^-16 of it."""
_PAIRS_IN_TILES = 1 << 17
"""Pairs after which the two int32 halves of a sum must be emptied into int64."""
_CACHED_PAIRS = 2048
"""Pairs of one panel, times panels, that stay in the second cache."""
_PACK = [
    ("ptr", "x"),
    ("i64", "rows"),
    ("i64", "terms"),
    ("ptr", "exponents"),
    ("ptr", "packed"),
    ("i64", "plane_bytes"),
    ("i64", "low"),
    ("i64", "high"),
]
_MULTIPLY = [
    ("ptr", "a"),
    ("ptr", "b"),
    ("ptr", "c"),
    ("i64", "rows"),
    ("i64", "columns"),
    ("i64", "pairs"),
    ("i64", "a_plane"),
    ("i64", "b_plane"),
    ("ptr", "scratch"),
    ("i64", "stretch"),
    ("i64", "low"),
    ("i64", "high"),
]


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

    a[M, K], b[N, K]  float32; turned, they lie as [K, M] and [K, N], which is how weight gradients have them
    ea[M], eb[N]      int32, at least EXPONENT of the rows; what a row of NOT_FINITE gives is nobody's business
    """
    isa = _chosen(instruction_set or os.environ.get("CUPEL_ISA"))
    rows, columns, terms = ea.shape[0], eb.shape[0], a.shape[0 if a_turned else 1]
    if not rows or not columns or not terms:
        return torch.zeros((rows, columns), dtype=torch.int64)
    result = torch.empty((rows, columns), dtype=torch.int64)
    code = _compiled(isa.name, digits)
    pairs = (terms + 1) // 2
    packed, norms = [], []
    for x, e, turned in ((a, ea, a_turned), (b, eb, b_turned)):
        x, e, count = (x if turned else x.t()).contiguous(), e.contiguous(), e.shape[0]
        plane = -(-count // isa.columns) * isa.columns * pairs * 4
        panels = _Memory(plane * planes(digits))
        numbers = [x.data_ptr(), count, terms, e.data_ptr(), panels.address, plane, threads]
        _run(code, _PACK_ENTRY, numbers, threads)
        packed.append((panels, plane))
        norms.append(_norms(x, e, digits) if digits == 2 and terms > 2 * _PAIRS_IN_REGISTERS[2] else None)
    (left, left_plane), (right, right_plane) = packed
    scratch = _Memory(_scratch_bytes(isa) * threads)
    sizes = [rows, columns, pairs, left_plane, right_plane]
    stretch = _stretch(digits, *norms)
    numbers = [left.address, right.address, result.data_ptr(), *sizes, scratch.address, stretch, threads]
    _run(code, _MULTIPLY_ENTRY, numbers, threads)
    return result


def _norms(x: torch.Tensor, e: torch.Tensor, digits: int) -> torch.Tensor:
    """float32[granules, rows]: for each row of x[terms, rows], the sum of (x 2^(w - e))^2 over each granule of terms.

    Not finite where binary32 has no such factor, and of no use then; 0 for rows that are nobody's business.
    """
    scaled = x * torch.where(e == ZERO_ROW, 0.0, power_of_two(digit_width(digits) - e)).to(torch.float32)
    scaled *= scaled
    terms, rows = scaled.shape
    whole = terms - terms % _GRANULE
    parts = [scaled[:whole].view(-1, _GRANULE, rows).sum(1), scaled[whole:].sum(0, keepdim=True)]
    return torch.cat(parts).masked_fill_(e == NOT_FINITE, 0.0)


def _stretch(digits: int, a: torch.Tensor | None, b: torch.Tensor | None) -> int:
    """Pairs that an int32 takes before its upper bits must move, from the operands' norms.

    By Cauchy's inequality no sum over a stretch, nor over any part of it, exceeds the product of the norms of the
    quantised rows; and |q| is at most |x 2^(w - e)| + 1/2.
    """
    stretch, terms = _PAIRS_IN_REGISTERS[digits], _GRANULE
    while a is not None and b is not None:
        largest = [norms.amax(1).to(torch.float64).sqrt() * _NORM_MARGIN + 0.5 * terms**0.5 for norms in (a, b)]
        if not bool((largest[0] * largest[1] < _SUM_LIMIT).all()):
            break
        stretch = terms // 2
        if a.shape[0] == 1:
            break
        a, b, terms = _by_twos(a), _by_twos(b), 2 * terms
    return stretch


def _by_twos(norms: torch.Tensor) -> torch.Tensor:
    if norms.shape[0] % 2:
        norms = torch.cat((norms, torch.zeros_like(norms[:1])))
    return norms[0::2] + norms[1::2]


@functools.cache
def _chosen(name: str | None) -> InstructionSet:
    """Asking LLVM about the processor takes longer than a small product."""
    return instruction_sets.choose(name)


class _Memory:
    """Aligned bytes."""

    def __init__(self, size: int) -> None:
        self._bytes = torch.empty(size + _ALIGN, dtype=torch.uint8)
        self.address = -(-self._bytes.data_ptr() // _ALIGN) * _ALIGN


def _scratch_bytes(isa: InstructionSet) -> int:
    """Of one thread: two tiles of int32, one of int64."""
    return isa.rows * isa.columns * 16


def _run(code: native.Native, entry: int, numbers: list[int], threads: int) -> None:
    table = np.array(numbers, dtype=np.uint64)
    function = code.entries[entry]
    if threads == 1:
        function(table.ctypes.data, 0, None)
    else:
        _workers(threads).run(lambda thread: function(table.ctypes.data, thread, None))


@functools.cache
def _compiled(instruction_set: str, digits: int) -> native.Native:
    isa = instruction_sets.choose(instruction_set)
    module = Module()
    _write_pack(module, isa, digits)
    _Product(module, isa, digits).write()
    _entry(module, _PACK_ENTRY, _call_pack, isa)
    _entry(module, _MULTIPLY_ENTRY, _call_multiply, isa)
    attributes = f'"target-cpu"="{isa.cpu}"'
    if isa.features:
        attributes += f' "target-features"="{isa.features}"'
    if isa.masks:
        attributes += ' "prefer-vector-width"="512" "min-legal-vector-width"="512"'
    return native.Native(native.machine_code(module.text(native.triple(), attributes), isa), 2, isa)


# Quantising


def _write_pack(module: Module, isa: InstructionSet, digits: int) -> None:
    """Panels of `columns` rows, pairs of terms together, from x[term * rows + row]. Range: panels."""
    f = Function(module, "pack", _PACK)
    x, rows, terms, exponents, packed, plane_bytes, low, high = f.arguments
    n = isa.columns
    with f.loop(low, high) as panel:
        source = x.offset("float", panel * n)
        target = packed.offset("i32", panel * ((terms + 1) >> 1) * n)
        left = rows - panel * n

        def body(mask: Value | None, panel: Value = panel, source: Value = source, target: Value = target) -> None:
            def load(kind: str, place: Value) -> Value:
                if mask is None:
                    return f.load(vector(n, kind), place, align=4)
                return f.masked_load(vector(n, kind), place, mask, align=4)

            # Two float factors of 2^(w - e): one alone can leave binary32's range.
            shift = f.const(vector(n, "i32"), digit_width(digits)) - load("i32", exponents.offset("i32", panel * n))
            half = shift >> 1
            first, second = (((part + 127) << 23).cast("bitcast", "float") for part in (half, shift - half))

            def quantised(k: Value) -> list[Value]:
                q = (load("float", source.offset("float", k * rows)) * first * second + _MAGIC).as_bits()
                if digits <= 2:
                    return [q]
                whole = q - _MAGIC_BITS
                upper = (whole + 512) >> 10
                return [upper, whole - (upper << 10)]

            def pair(k: Value, *, has_second: bool) -> None:
                a = quantised(k)
                b = quantised(k + 1) if has_second else None
                for plane, value in enumerate(a):
                    both = value & 0xFFFF if b is None else (value & 0xFFFF) | (b[plane] << 16)
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
    f.finish()


# Multiplying


class _Product:
    """c[row * columns + column] = sum of q r, from panels. Range: tiles of rows."""

    def __init__(self, module: Module, isa: InstructionSet, digits: int) -> None:
        self.f, self.isa, self.digits = Function(module, "multiply", _MULTIPLY), isa, digits
        self.vectors = isa.columns // isa.lanes
        self.kind = vector(isa.lanes, "i32")
        self.cells = [(r, v) for r in range(isa.rows) for v in range(self.vectors)]
        tile = isa.rows * isa.columns * 4
        scratch = self.f.arguments[8]
        self.low, self.high, self.sums = scratch, scratch.offset("i8", tile), scratch.offset("i8", 2 * tile)

    def write(self) -> None:
        f, isa = self.f, self.isa
        a, b, c, rows, columns, pairs, a_plane, b_plane, _, _, low, high = f.arguments
        n, m = isa.columns, isa.rows
        panels = (columns + (n - 1)).binary("sdiv", n)
        # As many panels of b as stay in the second cache; under them results are written row by row.
        block = f.intrinsic("smax", f.const("i64", _CACHED_PAIRS).binary("sdiv", pairs), f.i64(1))
        with f.loop(0, panels, block) as begin, f.loop(low, high) as tile:
            row = tile * m
            left = a.offset("i32", row.lshr(n.bit_length() - 1) * pairs * n + (row & (n - 1)))
            with f.loop(begin, f.minimum(begin + block, panels)) as panel:
                right = b.offset("i32", panel * pairs * n)
                self._clear(self.sums, "i64")
                with f.loop(0, pairs, _PAIRS_IN_TILES) as start:
                    stop = f.minimum(start + _PAIRS_IN_TILES, pairs)
                    count = planes(self.digits)
                    for i in range(count):
                        for j in range(count):
                            one = left.offset("i8", a_plane) if i else left
                            other = right.offset("i8", b_plane) if j else right
                            self._add(one, other, start, stop, shift=10 * (2 * count - 2 - i - j))
                corner = c.offset("i64", row * columns + panel * n)
                self._store(corner, f.minimum(rows - row, m), f.minimum(columns - panel * n, n), columns)
        f.finish()

    def _clear(self, tile: Value, element: str) -> None:
        f, isa = self.f, self.isa
        with f.loop(0, isa.rows * isa.columns, isa.lanes) as cell:
            f.store(f.const(vector(isa.lanes, element), 0), tile.offset(element, cell), align=4)

    def _add(self, left: Value, right: Value, start: Value, stop: Value, *, shift: int) -> None:
        """Products of pairs start..stop, times 2^shift, to the int64 sums."""
        f, isa = self.f, self.isa
        limit = f.arguments[9]
        self._clear(self.high, "i32")
        sums = [[f.variable(self.kind, 0) for _ in range(self.vectors)] for _ in range(isa.rows)]
        with f.loop(start, stop, limit) as first:
            with f.loop(first, f.minimum(first + limit, stop)) as pair:
                self._step(sums, left, right, pair)
            for r, v in self.cells:
                # Upper bits move to memory. Volatile, or LLVM would keep them in registers that it needs for the sums.
                place = self.high.offset("i32", r * isa.columns + v * isa.lanes)
                above = f.load(self.kind, place, align=4, volatile=True) + (sums[r][v].get() >> 15)
                f.store(above, place, align=4, volatile=True)
                sums[r][v].set(sums[r][v].get() & 32767)
        for r, v in self.cells:
            f.store(sums[r][v].get(), self.low.offset("i32", r * isa.columns + v * isa.lanes), align=4)
        with f.loop(0, isa.rows * isa.columns, isa.lanes) as cell:
            low, high = (
                f.load(self.kind, tile.offset("i32", cell), align=4).cast("sext", "i64")
                for tile in (self.low, self.high)
            )
            place = self.sums.offset("i64", cell)
            total = f.load(vector(isa.lanes, "i64"), place, align=8) + ((low + (high << 15)) << shift)
            f.store(total, place, align=8)

    def _step(self, sums: list[list[Variable]], left: Value, right: Value, pair: Value) -> None:
        f, isa = self.f, self.isa
        source, other = left.offset("i32", pair * isa.columns), right.offset("i32", pair * isa.columns)
        b = [f.load(self.kind, other.offset("i32", v * isa.lanes), align=4) for v in range(self.vectors)]
        for r in range(isa.rows):
            a = f.load("i32", source.offset("i32", r), align=4).splat(isa.lanes)
            for v in range(self.vectors):
                sums[r][v].set(pair_product(f, isa, sums[r][v].get(), a, b[v]))

    def _store(self, corner: Value, height: Value, width: Value, stride: Value) -> None:
        f, isa = self.f, self.isa
        with f.when(width.compare("eq", isa.columns)), f.loop(0, height) as r:
            for v in range(self.vectors):
                cell = self.sums.offset("i64", r * isa.columns + v * isa.lanes)
                value = f.load(vector(isa.lanes, "i64"), cell, align=8)
                f.store(value, corner.offset("i64", r * stride + v * isa.lanes), align=8)
        with f.when(width.compare("ne", isa.columns)), f.loop(0, height) as r, f.loop(0, width) as column:
            value = f.load("i64", self.sums.offset("i64", r * isa.columns + column), align=8)
            f.store(value, corner.offset("i64", r * stride + column), align=8)


# Entries


class _Table:
    """The numbers an entry is given."""

    def __init__(self, f: Function) -> None:
        self.f = f

    def number(self, at: int) -> Value:
        return self.f.load("i64", self.f.arguments[0].offset("i64", at), align=8)

    def pointer(self, at: int) -> Value:
        return self.f.load("ptr", self.f.arguments[0].offset("i64", at), align=8)

    def share(self, count: Value, each: int, threads: Value) -> tuple[Value, Value]:
        """This thread's part of as many units of `each` as hold `count`."""
        thread = self.f.arguments[1]
        units = (count + (each - 1)).binary("udiv", each)
        return (thread * units).binary("udiv", threads), ((thread + 1) * units).binary("udiv", threads)


def _entry(
    module: Module, number: int, call: Callable[[Function, _Table, InstructionSet], None], isa: InstructionSet
) -> None:
    parameters = [("ptr", "table"), ("i64", "thread"), ("ptr", "sync")]
    f = Function(module, f"cupel_run_{number}", parameters, public=True)
    call(f, _Table(f), isa)
    f.finish()


def _call_pack(f: Function, table: _Table, isa: InstructionSet) -> None:
    rows = table.number(1)
    low, high = table.share(rows, isa.columns, table.number(6))
    arguments = [table.pointer(0), rows, table.number(2), table.pointer(3), table.pointer(4), table.number(5)]
    with _known_float_settings(f):
        f.call("void", "pack", [*arguments, low, high])


def _call_multiply(f: Function, table: _Table, isa: InstructionSet) -> None:
    rows = table.number(3)
    low, high = table.share(rows, isa.rows, table.number(10))
    pointers = [table.pointer(at) for at in range(3)]
    sizes = [rows, *(table.number(at) for at in range(4, 8))]
    scratch = table.pointer(8).offset("i8", f.arguments[1] * _scratch_bytes(isa))
    f.call("void", "multiply", [*pointers, *sizes, scratch, table.number(9), low, high])


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
