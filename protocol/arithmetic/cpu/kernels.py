"""Kernels that are not row kernels or products: sums down columns, index-add, scans, scatter, random words."""

from __future__ import annotations

from collections.abc import Callable

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.operations import DType
from cupel.protocol.philox import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1

SUM_BITS = 30
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = 0x4338000000000000


def sum_parameters(f: Function, unsigned_largest: Value, signed_largest: Value) -> tuple[Value, Value]:
    """(exponent, special bits) of a sum from the largest patterns of its terms, as unsigned and as signed integers.

    Unsigned order puts negative floats above all others, signed order puts them below. The special bits are the
    result where a term is NaN or infinite, else 0.
    """
    negative = unsigned_largest.compare("slt", 0).select(unsigned_largest & ew.MAGNITUDE, 0)
    positive = f.intrinsic("smax", signed_largest, f.const(signed_largest.kind, 0))
    magnitude = f.intrinsic("umax", negative, positive)
    both = negative.compare("eq", ew.INFINITY_BITS) & positive.compare("eq", ew.INFINITY_BITS)
    is_nan = magnitude.compare("ugt", ew.INFINITY_BITS) | both
    infinity = positive.compare("eq", ew.INFINITY_BITS).select(
        f.const(positive.kind, ew.INFINITY_BITS), f.const(positive.kind, 0xFF800000)
    )
    special = magnitude.compare("uge", ew.INFINITY_BITS)
    bits = special.select(is_nan.select(ew.NAN_BITS, infinity), 0)
    return ew.exponent_of(f, magnitude), bits


def sum_scale(f: Function, exponent: Value) -> Value:
    """2^(30 - e) as a double."""
    wide = exponent.cast("sext", "i64")
    return ew.power_of_two(f.const(wide.kind, SUM_BITS) - wide)


def quantised_bits(f: Function, isa: InstructionSet, x: Value, scale: Value) -> Value:
    """round-half-even(x scale) + _MAGIC_BITS as i64."""
    wide = x.cast("fpext", "double")
    if isa.fma:
        return f.intrinsic("fma", wide, scale, f.const(wide.kind, _MAGIC)).as_bits()
    return (wide * scale + _MAGIC).as_bits()


def sum_result(f: Function, total: Value, scale: Value, special: Value, *, large: bool) -> Value:
    """RN(total / scale), or the special bits."""
    inverse = (f.const(total.kind, 0x7FE << 52) - scale.as_bits()).cast("bitcast", "double")
    rounded = (ew.integer_to_double(f, total, large=large) * inverse).cast("fptrunc", "float").as_bits()
    return special.compare("ne", 0).select(special, rounded).cast("bitcast", "float")


def _over_columns(
    f: Function, isa: InstructionSet, low: Value, high: Value, body: Callable[[int, Value, Value | None], None]
) -> None:
    """`body(lanes, column, mask)` for whole vectors from low, then the rest; low is a multiple of the width."""
    width = isa.width
    whole = low + ((high - low) & -width)
    with f.loop(low, whole, width) as c:
        body(width, c, None)
    if isa.masks:
        with f.when(whole.compare("slt", high)):
            body(width, whole, f.mask_below(width, high - whole))
    else:
        with f.loop(whole, high) as c:
            body(0, c, None)


def _load(f: Function, lanes: int, element: str, pointer: Value, mask: Value | None, align: int) -> Value:
    kind = vector(lanes, element)
    return f.load(kind, pointer, align=align) if mask is None else f.masked_load(kind, pointer, mask, align=align)


def _store(f: Function, value: Value, pointer: Value, mask: Value | None, align: int) -> None:
    if mask is None:
        f.store(value, pointer, align=align)
    else:
        f.masked_store(value, pointer, mask, align=align)


def column_sum(module: Module, isa: InstructionSet, *, large: bool) -> str:
    """out[c] = order-free sum over r of x[r * stride + c]. Range: columns."""
    name = f"column_sum{'_large' if large else ''}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [("ptr", "x"), ("ptr", "out"), ("i64", "rows"), ("i64", "stride"), ("i64", "low"), ("i64", "high")],
    )
    x, out, rows, stride, low, high = f.arguments

    def body(lanes: int, c: Value, mask: Value | None) -> None:
        source = x.offset("float", c)
        largest = f.variable(vector(lanes, "i32"), 0)
        signed = f.variable(vector(lanes, "i32"), ew.LOWEST)
        total = f.variable(vector(lanes, "i64"), 0)
        with f.loop(0, rows) as r:
            bits = _load(f, lanes, "float", source.offset("float", r * stride), mask, 4).as_bits()
            largest.set(f.intrinsic("umax", largest.get(), bits))
            signed.set(f.intrinsic("smax", signed.get(), bits))
        exponent, special = sum_parameters(f, largest.get(), signed.get())
        scale = sum_scale(f, exponent)
        with f.loop(0, rows) as r:
            value = _load(f, lanes, "float", source.offset("float", r * stride), mask, 4)
            total.set(total.get() + quantised_bits(f, isa, value, scale))
        offset = rows * _MAGIC_BITS
        exact = total.get() - (offset.splat(lanes) if lanes else offset)
        result = sum_result(f, exact, scale, special, large=large)
        _store(f, result, out.offset("float", c), mask, 4)

    _over_columns(f, isa, low, high, body)
    f.finish()
    return name


def index_add(module: Module, isa: InstructionSet, *, large: bool) -> str:
    """out[v, c] = order-free sum of x[v, c] and every source[i, c] with index[i] = v. Range: columns.

    cells  16 bytes each: an i64 total and the two i32 patterns of `sum_parameters`
    """
    name = f"index_add{'_large' if large else ''}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [
            *(("ptr", p) for p in ("x", "index", "source", "out", "cells")),
            *(("i64", p) for p in ("count", "height", "width", "low", "high")),
        ],
    )
    x, index, source, out, cells, count, height, width, low, high = f.arguments
    area = height * width
    totals, firsts = cells, cells.offset("i64", area)
    seconds = firsts.offset("i32", area)

    def each_cell(body: Callable[[int, Value, Value | None], None]) -> None:
        with f.loop(0, height) as v:
            base = v * width
            _over_columns(f, isa, low, high, lambda lanes, c, mask: body(lanes, base + c, mask))

    def each_landing(body: Callable[[int, Value, Value, Value | None], None]) -> None:
        with f.loop(0, count) as i:
            v = f.load("i64", index.offset("i64", i), align=8)
            with f.when(v.compare("ult", height)):
                target, place = v * width, i * width
                _over_columns(f, isa, low, high, lambda lanes, c, mask: body(lanes, target + c, place + c, mask))

    def start(lanes: int, cell: Value, mask: Value | None) -> None:
        bits = _load(f, lanes, "float", x.offset("float", cell), mask, 4).as_bits()
        _store(f, bits, firsts.offset("i32", cell), mask, 4)
        _store(f, bits, seconds.offset("i32", cell), mask, 4)

    def widen(lanes: int, cell: Value, place: Value, mask: Value | None) -> None:
        bits = _load(f, lanes, "float", source.offset("float", place), mask, 4).as_bits()
        for pointer, op in ((firsts, "umax"), (seconds, "smax")):
            at = pointer.offset("i32", cell)
            _store(f, f.intrinsic(op, _load(f, lanes, "i32", at, mask, 4), bits), at, mask, 4)

    def parameters(lanes: int, cell: Value, mask: Value | None) -> tuple[Value, Value]:
        largest = _load(f, lanes, "i32", firsts.offset("i32", cell), mask, 4)
        signed = _load(f, lanes, "i32", seconds.offset("i32", cell), mask, 4)
        exponent, special = sum_parameters(f, largest, signed)
        return sum_scale(f, exponent), special

    def begin(lanes: int, cell: Value, mask: Value | None) -> None:
        scale, _ = parameters(lanes, cell, mask)
        old = _load(f, lanes, "float", x.offset("float", cell), mask, 4)
        _store(f, quantised_bits(f, isa, old, scale) - _MAGIC_BITS, totals.offset("i64", cell), mask, 8)

    def land(lanes: int, cell: Value, place: Value, mask: Value | None) -> None:
        scale, _ = parameters(lanes, cell, mask)
        value = _load(f, lanes, "float", source.offset("float", place), mask, 4)
        at = totals.offset("i64", cell)
        total = _load(f, lanes, "i64", at, mask, 8) + (quantised_bits(f, isa, value, scale) - _MAGIC_BITS)
        _store(f, total, at, mask, 8)

    def end(lanes: int, cell: Value, mask: Value | None) -> None:
        scale, special = parameters(lanes, cell, mask)
        total = _load(f, lanes, "i64", totals.offset("i64", cell), mask, 8)
        _store(f, sum_result(f, total, scale, special, large=large), out.offset("float", cell), mask, 4)

    each_cell(start)
    each_landing(widen)
    each_cell(begin)
    each_landing(land)
    each_cell(end)
    f.finish()
    return name


def scan(module: Module, isa: InstructionSet, name: str, dtype: DType) -> str:
    """argmax, argmin or cumsum along contiguous rows, in order. Range: rows."""
    full = f"{name}_{dtype.name.lower()}"
    if full in module.functions:
        return full
    f = Function(module, full, [("ptr", "x"), ("ptr", "out"), ("i64", "length"), ("i64", "low"), ("i64", "high")])
    x, out, length, low, high = f.arguments
    element = ew.MEMORY[dtype]

    def number(row: Value, i: Value) -> Value:
        value = f.load(element, x.offset(element, row * length + i), align=dtype.size_bytes)
        if dtype == DType.FLOAT32:
            return ew.order_key(value, nan_first_of_lowest=name == "argmin").cast("sext", "i64")
        return value if element == "i64" else value.cast("zext" if dtype in ew.UNSIGNED else "sext", "i64")

    with f.loop(low, high) as row:
        if name == "cumsum":
            total = f.variable("i64", 0)
            with f.loop(0, length) as i:
                total.set(total.get() + number(row, i))
                f.store(total.get(), out.offset("i64", row * length + i), align=8)
        else:
            best = f.variable("i64", number(row, f.i64(0)))
            where = f.variable("i64", 0)
            with f.loop(1, length) as i:
                value = number(row, i)
                better = value.compare("sgt" if name == "argmax" else "slt", best.get())
                best.set(better.select(value, best.get()))
                where.set(better.select(i, where.get()))
            f.store(where.get(), out.offset("i64", row), align=8)
    f.finish()
    return full


def scatter(module: Module, dtype: DType, loops: tuple[tuple[int, int], ...], limit: int, stride: int) -> str:
    """out[base + index * stride] = source in row-major order of the index; outside 0..limit dropped. One thread."""
    element = ew.MEMORY[dtype]
    shape = "_".join(f"{n}x{s}" for n, s in loops)
    name = f"scatter_{element}_{shape}_{limit}_{stride}"
    if name in module.functions:
        return name
    f = Function(module, name, [("ptr", "index"), ("ptr", "source"), ("ptr", "out")])
    index, source, out = f.arguments
    counter = f.variable("i64", 0)

    def nest(depth: int, place: Value) -> None:
        if depth < len(loops):
            with f.loop(0, loops[depth][0]) as i:
                nest(depth + 1, place + i * loops[depth][1])
            return
        n = counter.get()
        at = f.load("i64", index.offset("i64", n), align=8)
        with f.when(at.compare("ult", limit)):
            value = f.load(element, source.offset(element, n), align=dtype.size_bytes)
            f.store(value, out.offset(element, place + at * stride), align=dtype.size_bytes)
        counter.set(n + 1)

    nest(0, f.i64(0))
    f.finish()
    return name


def random_words(module: Module, isa: InstructionSet) -> str:
    """Philox4x32-10 words w0 | w1 << 32 of blocks (i, stream, step). Range: elements."""
    name = "philox"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [("ptr", "key"), ("ptr", "step"), ("ptr", "out"), ("i64", "stream"), ("i64", "low"), ("i64", "high")],
    )
    key_at, step_at, out, stream, low, high = f.arguments
    word = 0xFFFFFFFF
    key, step = f.load("i64", key_at, align=8), f.load("i64", step_at, align=8)

    def body(lanes: int, start: Value, mask: Value | None) -> None:
        def wide(value: Value) -> Value:
            return value.splat(lanes) if lanes else value

        i = wide(start) + f.lane_numbers(lanes, "i64") if lanes else start
        c0, c1, c2, c3 = i & word, i.lshr(32), wide(stream & word), wide(step & word)
        k0, k1 = wide(key & word), wide(key.lshr(32))
        for _ in range(ROUNDS):
            p0, p1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
            c0, c1, c2, c3 = p1.lshr(32) ^ c1 ^ k0, p1 & word, p0.lshr(32) ^ c3 ^ k1, p0 & word
            k0, k1 = (k0 + WEYL_0) & word, (k1 + WEYL_1) & word
        _store(f, c0 | (c1 << 32), out.offset("i64", start), mask, 8)

    _over_columns(f, isa, low, high, body)
    f.finish()
    return name
