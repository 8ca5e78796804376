"""Exact products: floats quantised straight into packed panels, int16 pairs multiplied and added, one rounding.

A panel holds `columns` rows of an operand, pairs of terms together: [pair][row][2]. Left and right operands have the
same layout, whichever of their dimensions is contiguous, so nothing is ever transposed in memory. A tile of `rows` by
`columns` results keeps int32 sums in registers. With two digits a pair adds up to 2^27, so every 15 pairs the sums'
upper bits move to a second tile in memory; the two are exact together beyond 2^46.

Scales are powers of two in binary64, NaN for a row that holds a NaN or an infinity, so that
NaN reaches exactly the results it should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.lowering import packed_bytes
from cupel.protocol.arithmetic.operations import digit_width, planes

_MAGIC32 = 1.5 * 2.0**23
"""Adding it rounds a float below 2^22 to an integer, ties to even, whose low 16 bits are the sum's."""
_MAGIC32_BITS = 0x4B400000
_MAGIC64 = 1.5 * 2.0**52
_NAN64 = 0x7FF8000000000000
_PAIRS_IN_REGISTERS = {1: 1 << 17, 2: 15, 3: 1000}
"""Pairs of products an int32 holds beside a rest below 2^15: pairs are at most 2^13, 2^27 and 2^21."""
_CACHED_PAIRS = 2048
"""Pairs of one panel, times panels, that stay in the second cache."""
_UNROLLED = 16
"""Stretches up to this long are written out."""
_PAIRS_IN_TILES = 1 << 17
"""Pairs after which two tiles of two digits must be emptied into int64."""
_ALIGN = 64


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def is_wide(digits: int, terms: int) -> bool:
    """Whether sums need int64: three digits, or two over very long rows."""
    return digits == 3 or (digits == 2 and terms > 4 * _PAIRS_IN_TILES)


def spills(digits: int, terms: int) -> bool:
    return (terms + 1) // 2 > _PAIRS_IN_REGISTERS[digits]


def pack_scratch(isa: InstructionSet, terms: int = 0) -> int:
    """Bytes; `terms` for an operand scaled by row."""
    return _aligned(isa.columns * 16 + terms * 8)


def product_scratch(isa: InstructionSet) -> int:
    return _aligned(isa.rows * isa.columns * 16 + isa.columns * 4)


@dataclass(slots=True)
class _Quantiser:
    """Floats times powers of two to integers, in vectors of any width."""

    f: Function
    digits: int

    def scales(self, exponent: Value) -> tuple[Value, Value]:
        """Two float factors of 2^(w - e): one alone can leave binary32's range. Finite for any row."""
        f = self.f
        shift = f.const(exponent.kind, digit_width(self.digits)) - exponent
        half = shift >> 1
        rest = shift - half
        return ((half + 127) << 23).cast("bitcast", "float"), ((rest + 127) << 23).cast("bitcast", "float")

    def row_scale(self, exponent: Value, finite: Value) -> Value:
        """2^(e - w) as a double, NaN for a row that is not finite."""
        wide = exponent.cast("sext", "i64") - digit_width(self.digits)
        return finite.select((wide + 1023) << 52, _NAN64).cast("bitcast", "double")

    def integers(self, x: Value, first: Value, second: Value) -> list[Value]:
        """i32 whose low 16 bits are the planes of q."""
        bits = (x * first * second + _MAGIC32).as_bits()
        return self.split(bits - _MAGIC32_BITS) if self.digits == 3 else [bits]

    def integers_of_doubles(self, x: Value, scale: Value) -> list[Value]:
        q = (x * scale + _MAGIC64).as_bits().cast("trunc", "i32")
        return self.split(q) if self.digits == 3 else [q]

    def split(self, q: Value) -> list[Value]:
        high = (q + 512) >> 10
        return [high, q - (high << 10)]


def _load_row(f: Function, lanes: int, pointer: Value, mask: Value | None) -> Value:
    kind = vector(lanes, "float")
    return f.load(kind, pointer, align=4) if mask is None else f.masked_load(kind, pointer, mask, align=4)


_PACK = [
    ("ptr", "x"),
    ("i64", "stride"),
    ("i64", "rows"),
    ("i64", "terms"),
    ("ptr", "packed"),
    ("i64", "plane_bytes"),
    ("ptr", "scales"),
    ("i64", "low"),
    ("i64", "high"),
    ("ptr", "scratch"),
]


def pack_rows_contiguous(module: Module, isa: InstructionSet, digits: int) -> str:
    """Quantise x[term * stride + row]: rows lie side by side. Range: panels."""
    name = f"pack_across_{digits}"
    if name in module.functions:
        return name
    f = Function(module, name, _PACK)
    x, stride, rows, terms, packed, plane_bytes, scales, low, high, _ = f.arguments
    n = isa.columns
    quantiser = _Quantiser(f, digits)
    pairs = (terms + 1) >> 1
    with f.loop(low, high) as panel:
        first_row = panel * n
        source = x.offset("float", first_row)
        target = packed.offset("i32", panel * pairs * n)
        left = rows - first_row

        def body(mask: Value | None, source: Value = source, target: Value = target, row: Value = first_row) -> None:
            largest = f.variable(vector(n, "i32"), 0)
            with f.loop(0, terms) as k:
                bits = _load_row(f, n, source.offset("float", k * stride), mask).as_bits() & ew.MAGNITUDE
                largest.set(f.intrinsic("umax", largest.get(), bits))
            magnitude = largest.get()
            exponent = ew.exponent_of(f, magnitude)
            finite = magnitude.compare("ult", ew.INFINITY_BITS)
            f.store(quantiser.row_scale(exponent, finite), scales.offset("double", row), align=8)
            s1, s2 = quantiser.scales(exponent)

            def pair(k: Value, has_second: bool) -> None:
                a = quantiser.integers(_load_row(f, n, source.offset("float", k * stride), mask), s1, s2)
                b = None
                if has_second:
                    second = source.offset("float", (k + 1) * stride)
                    b = quantiser.integers(_load_row(f, n, second, mask), s1, s2)
                for plane, value in enumerate(a):
                    both = value & 0xFFFF
                    if b is not None:
                        both = both | (b[plane] << 16)
                    place = target.offset("i32", (k >> 1) * n)
                    if plane:
                        place = place.offset("i8", plane_bytes)
                    f.store(both, place, align=4)

            even = terms & -2
            with f.loop(0, even, 2) as k:
                pair(k, True)
            with f.when(even.compare("ne", terms)):
                pair(even, False)

        with f.when(left.compare("sge", n)):
            body(None)
        with f.when(left.compare("slt", n)):
            body(f.mask_below(n, left))
    f.finish()
    return name


def _transposed(rows: list[Value]) -> list[Value]:
    """Square of vectors across its diagonal, by exchanging blocks of 1, 2, 4..."""
    size = len(rows)
    step = 1
    while step < size:
        new = list(rows)
        for i in range(size):
            if i & step == 0:
                a, b = rows[i], rows[i + step]
                new[i] = a.shuffle(b, [j if j & step == 0 else size + j - step for j in range(size)])
                new[i + step] = a.shuffle(b, [j + step if j & step == 0 else size + j for j in range(size)])
        rows = new
        step *= 2
    return rows


def _interleave(
    f: Function,
    isa: InstructionSet,
    terms: Value,
    quantised: Callable[[Value, Value, Value | None], list[Value]],
    target: Value,
    plane_bytes: Value,
) -> None:
    """Fill one panel from rows whose terms are contiguous.

    quantised  (row in panel, first term, mask) gives planes of <2 lanes x i32>
    """
    lanes, n = isa.lanes, isa.columns
    pairs = (terms + 1) >> 1

    def block(k: Value, mask: Value | None) -> None:
        with f.loop(0, n, lanes) as group:
            by_plane: list[list[Value]] = []
            for r in range(lanes):
                values = quantised(group + r, k, mask)
                by_plane = by_plane or [[] for _ in values]
                for plane, value in enumerate(values):
                    by_plane[plane].append(value.cast("trunc", "i16").bitcast(vector(lanes, "i32")))
            for plane, matrix in enumerate(by_plane):
                start = target.offset("i32", (k >> 1) * n + group)
                if plane:
                    start = start.offset("i8", plane_bytes)
                for t, column in enumerate(_transposed(matrix)):
                    place = start.offset("i32", t * n)
                    if mask is None:
                        f.store(column, place, align=4)
                    else:
                        with f.when(((k >> 1) + t).compare("slt", pairs)):
                            f.store(column, place, align=4)

    whole = terms & -(2 * lanes)
    with f.loop(0, whole, 2 * lanes) as k:
        block(k, None)
    with f.when(whole.compare("slt", terms)):
        block(whole, f.mask_below(2 * lanes, terms - whole))


def _row_pointer(f: Function, x: Value, stride: Value, rows: Value, row: Value) -> Value:
    """Rows past the last repeat it: their results are never stored."""
    return x.offset("float", f.minimum(row, rows - 1) * stride)


def _largest_along(f: Function, lanes: int, pointer: Value, terms: Value) -> Value:
    """Bits of the largest magnitude of a contiguous row."""
    largest = f.variable(vector(lanes, "i32"), 0)

    def update(k: Value, mask: Value | None) -> None:
        bits = _load_row(f, lanes, pointer.offset("float", k), mask).as_bits() & ew.MAGNITUDE
        largest.set(f.intrinsic("umax", largest.get(), bits))

    whole = terms & -lanes
    with f.loop(0, whole, lanes) as k:
        update(k, None)
    with f.when(whole.compare("slt", terms)):
        update(whole, f.mask_below(lanes, terms - whole))
    return f.reduce("umax", largest.get())


def pack_terms_contiguous(module: Module, isa: InstructionSet, digits: int) -> str:
    """Quantise x[row * stride + term]: terms lie side by side. Range: panels."""
    name = f"pack_along_{digits}"
    if name in module.functions:
        return name
    f = Function(module, name, _PACK)
    x, stride, rows, terms, packed, plane_bytes, scales, low, high, scratch = f.arguments
    n, lanes = isa.columns, isa.lanes
    quantiser = _Quantiser(f, digits)
    pairs = (terms + 1) >> 1
    firsts, seconds = scratch, scratch.offset("float", n)
    with f.loop(low, high) as panel:
        first_row = panel * n
        with f.loop(0, n) as r:
            magnitude = _largest_along(f, lanes, _row_pointer(f, x, stride, rows, first_row + r), terms)
            exponent = ew.exponent_of(f, magnitude)
            finite = magnitude.compare("ult", ew.INFINITY_BITS)
            f.store(quantiser.row_scale(exponent, finite), scales.offset("double", first_row + r), align=8)
            s1, s2 = quantiser.scales(exponent)
            f.store(s1, firsts.offset("float", r), align=4)
            f.store(s2, seconds.offset("float", r), align=4)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r).offset("float", k)
            s1 = f.load("float", firsts.offset("float", r), align=4).splat(2 * lanes)
            s2 = f.load("float", seconds.offset("float", r), align=4).splat(2 * lanes)
            return quantiser.integers(_load_row(f, 2 * lanes, pointer, mask), s1, s2)

        _interleave(f, isa, terms, quantised, packed.offset("i32", panel * pairs * n), plane_bytes)
    f.finish()
    return name


def pack_weighted(module: Module, isa: InstructionSet, digits: int) -> str:
    """As pack_terms_contiguous, of the reals x 2^g; `weights` are the 2^g: 0 for a zero row, NaN for one not finite."""
    name = f"pack_weighted_{digits}"
    if name in module.functions:
        return name
    f = Function(module, name, [*_PACK[:3], ("ptr", "weights"), *_PACK[3:]])
    x, stride, rows, weights, terms, packed, plane_bytes, scales, low, high, scratch = f.arguments
    n, lanes = isa.columns, isa.lanes
    quantiser = _Quantiser(f, digits)
    pairs = (terms + 1) >> 1

    def weighted(count: int, pointer: Value, k: Value, mask: Value | None) -> Value:
        values = _load_row(f, count, pointer.offset("float", k), mask)
        kind = vector(count, "double")
        place = weights.offset("double", k)
        w = f.load(kind, place, align=8) if mask is None else f.masked_load(kind, place, mask, align=8)
        product = values.cast("fpext", "double") * w
        return values.compare("oeq", 0.0).select(0.0, product)

    with f.loop(low, high) as panel:
        first_row = panel * n
        with f.loop(0, n) as r:
            pointer = _row_pointer(f, x, stride, rows, first_row + r)
            largest = f.variable(vector(lanes, "i64"), 0)

            def update(k: Value, mask: Value | None, pointer: Value = pointer) -> None:
                bits = weighted(lanes, pointer, k, mask).as_bits() & 0x7FFFFFFFFFFFFFFF
                largest.set(f.intrinsic("umax", largest.get(), bits))

            whole = terms & -lanes
            with f.loop(0, whole, lanes) as k:
                update(k, None)
            with f.when(whole.compare("slt", terms)):
                update(whole, f.mask_below(lanes, terms - whole))
            magnitude = f.reduce("umax", largest.get())
            # No product of a binary32 and its scale is subnormal in binary64.
            exponent = magnitude.compare("eq", 0).select(-149, magnitude.lshr(52) - 1022)
            finite = magnitude.compare("ult", 0x7FF0000000000000)
            w = digit_width(digits)
            scale = finite.select((exponent + (1023 - w)) << 52, _NAN64).cast("bitcast", "double")
            f.store(scale, scales.offset("double", first_row + r), align=8)
            inverse = finite.select((f.const("i64", 1023 + w) - exponent) << 52, 0).cast("bitcast", "double")
            f.store(inverse, scratch.offset("double", r), align=8)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r)
            scale = f.load("double", scratch.offset("double", r), align=8).splat(2 * lanes)
            return quantiser.integers_of_doubles(weighted(2 * lanes, pointer, k, mask), scale)

        _interleave(f, isa, terms, quantised, packed.offset("i32", panel * pairs * n), plane_bytes)
    f.finish()
    return name


def pack_by_term(module: Module, isa: InstructionSet, digits: int) -> str:
    """Quantise x[term * stride + row] with one scale a term, 2^(e - w); `weights` gets 2^e. Whole operand at once."""
    name = f"pack_by_term_{digits}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [*_PACK[:6], ("ptr", "weights"), ("ptr", "scales"), ("ptr", "scratch")],
    )
    x, stride, rows, terms, packed, plane_bytes, weights, scales, scratch = f.arguments
    n, lanes = isa.columns, isa.lanes
    quantiser = _Quantiser(f, digits)
    pairs = (terms + 1) >> 1
    panels = (rows + (n - 1)).binary("sdiv", n)
    with f.loop(0, terms) as k:
        magnitude = _largest_along(f, lanes, x.offset("float", k * stride), rows)
        exponent = ew.exponent_of(f, magnitude)
        finite = magnitude.compare("ult", ew.INFINITY_BITS)
        s1, s2 = quantiser.scales(exponent)
        f.store(s1, scratch.offset("float", k << 1), align=4)
        f.store(s2, scratch.offset("float", (k << 1) + 1), align=4)
        power = (exponent.cast("sext", "i64") + 1023) << 52
        weight = finite.select(magnitude.compare("eq", 0).select(0, power), _NAN64).cast("bitcast", "double")
        f.store(weight, weights.offset("double", k), align=8)
    with f.loop(0, panels) as panel:
        f.store(f.const(vector(n, "double"), 2.0 ** -digit_width(digits)), scales.offset("double", panel * n), align=8)
        source = x.offset("float", panel * n)
        target = packed.offset("i32", panel * pairs * n)
        left = rows - panel * n

        def term(k: Value, mask: Value | None, source: Value = source) -> list[Value]:
            s1 = f.load("float", scratch.offset("float", k << 1), align=4).splat(n)
            s2 = f.load("float", scratch.offset("float", (k << 1) + 1), align=4).splat(n)
            return quantiser.integers(_load_row(f, n, source.offset("float", k * stride), mask), s1, s2)

        def body(mask: Value | None, target: Value = target, term: Callable[..., list[Value]] = term) -> None:
            def pair(k: Value, has_second: bool) -> None:
                a = term(k, mask)
                b = term(k + 1, mask) if has_second else None
                for plane, value in enumerate(a):
                    both = value & 0xFFFF
                    if b is not None:
                        both = both | (b[plane] << 16)
                    place = target.offset("i32", (k >> 1) * n)
                    if plane:
                        place = place.offset("i8", plane_bytes)
                    f.store(both, place, align=4)

            even = terms & -2
            with f.loop(0, even, 2) as k:
                pair(k, True)
            with f.when(even.compare("ne", terms)):
                pair(even, False)

        with f.when(left.compare("sge", n)):
            body(None)
        with f.when(left.compare("slt", n)):
            body(f.mask_below(n, left))
    f.finish()
    return name


def _pair_product(f: Function, isa: InstructionSet, sums: Value, a: Value, b: Value) -> Value:
    """sums + a0 b0 + a1 b1 in every lane; a and b are i32 lanes of two int16."""
    if isa.product == "vpdpwssd":
        kind = sums.kind
        return f.emit(
            kind,
            f'call {kind} asm "vpdpwssd $2, $1, $0", "=v,v,v,0"({kind} {a.name}, {kind} {b.name}, {kind} {sums.name})',
        )
    halves = vector(2 * isa.lanes, "i16")
    x, y = a.bitcast(halves), b.bitcast(halves)
    if isa.product == "vpmaddwd":
        return sums + f.call(sums.kind, "llvm.x86.avx2.pmadd.wd", [x, y])
    products = x.cast("sext", "i32") * y.cast("sext", "i32")
    even = products.shuffle(products, range(0, 2 * isa.lanes, 2))
    odd = products.shuffle(products, range(1, 2 * isa.lanes, 2))
    return sums + (even + odd)


_PRODUCT = [
    ("ptr", "a"),
    ("ptr", "a_scales"),
    ("ptr", "b"),
    ("ptr", "b_scales"),
    ("ptr", "c"),
    ("i64", "rows"),
    ("i64", "columns"),
    ("i64", "pairs"),
    ("i64", "stride"),
    ("i64", "a_plane"),
    ("i64", "b_plane"),
    ("i64", "tile_low"),
    ("i64", "tile_high"),
    ("i64", "panel_low"),
    ("i64", "panel_high"),
    ("ptr", "scratch"),
]


def product(module: Module, isa: InstructionSet, digits: int, terms: int) -> str:
    """c[row * stride + column] = RN(sum of q r times both scales). Range: tiles of rows and panels of columns."""
    wide, spill = is_wide(digits, terms), spills(digits, terms)
    name = f"product_{digits}{'_wide' if wide else ''}{'_long' if spill else ''}"
    if name not in module.functions:
        f = Function(module, name, _PRODUCT)
        _Product(f, isa, digits, wide=wide, spill=spill).emit()
        f.finish()
    return name


class _Product:
    def __init__(self, f: Function, isa: InstructionSet, digits: int, *, wide: bool, spill: bool) -> None:
        self.f, self.isa, self.digits, self.wide, self.spill = f, isa, digits, wide, spill
        self.vectors = isa.columns // isa.lanes
        self.kind = vector(isa.lanes, "i32")
        tile = isa.rows * isa.columns * 4
        scratch = f.arguments[-1]
        self.low_tile = scratch
        self.high_tile = scratch.offset("i8", tile)
        self.sums = scratch.offset("i8", 2 * tile)
        self.line = scratch.offset("i8", 4 * tile)

    def emit(self) -> None:
        f, isa = self.f, self.isa
        a, a_scales, b, b_scales, c, rows, columns, pairs, stride, _, _, t_low, t_high, p_low, p_high, _ = f.arguments
        n, m = isa.columns, isa.rows
        # As many panels of b as stay in the second cache; under them results are written row by row.
        fitting = f.const("i64", _CACHED_PAIRS).binary("sdiv", f.intrinsic("smax", pairs, f.i64(1)))
        block = f.intrinsic("smax", fitting, f.i64(1))
        with f.loop(p_low, p_high, block) as first, f.loop(t_low, t_high) as tile:
            row = tile * m
            left = a.offset("i32", row.lshr(n.bit_length() - 1) * pairs * n + (row & (n - 1)))
            height = f.minimum(rows - row, m)
            with f.loop(first, f.minimum(first + block, p_high)) as panel:
                right = b.offset("i32", panel * pairs * n)
                width = f.minimum(columns - panel * n, n)
                if self.wide:
                    self._wide_tile(left, right, pairs)
                else:
                    self._tile(left, right, f.i64(0), pairs)
                target = c.offset("float", row * stride + panel * n)
                row_scales, column_scales = a_scales.offset("double", row), b_scales.offset("double", panel * n)
                self._finish(row_scales, column_scales, target, height, width)

    def _tile(self, left: Value, right: Value, start: Value, stop: Value) -> None:
        """Pairs start..stop, at least one, of one tile into the low (and high) tile."""
        f, isa = self.f, self.isa
        sums = [[f.variable(self.kind, 0) for _ in range(self.vectors)] for _ in range(isa.rows)]
        cells = [(r, v) for r in range(isa.rows) for v in range(self.vectors)]

        def step(pair: Value) -> None:
            place = pair * isa.columns
            b = [
                f.load(self.kind, right.offset("i32", place).offset("i32", v * isa.lanes), align=4)
                for v in range(self.vectors)
            ]
            source = left.offset("i32", place)
            for r in range(isa.rows):
                a = f.load("i32", source.offset("i32", r), align=4).splat(isa.lanes)
                for v in range(self.vectors):
                    sums[r][v].set(_pair_product(f, isa, sums[r][v].get(), a, b[v]))

        def move_up(r: int, v: int, *, first: bool) -> None:
            # Volatile, or LLVM would keep the upper halves in registers it needs for the sums.
            place = self._place(self.high_tile, r, v)
            value = sums[r][v].get()
            above = value >> 15
            if not first:
                above = f.load(self.kind, place, align=4, volatile=True) + above
            f.store(above, place, align=4, volatile=True)
            sums[r][v].set(value & 32767)

        if not self.spill:
            with f.loop(start, stop) as pair:
                step(pair)
        else:
            # First what does not fill a stretch, then whole stretches; no sum takes in more than `limit` pairs
            # between two moves, and after the last move there are fewer.
            limit = _PAIRS_IN_REGISTERS[self.digits]
            head = start + ((stop - start - 1).binary("srem", limit) + 1)
            with f.loop(start, head) as pair:
                step(pair)
            for r, v in cells:
                move_up(r, v, first=True)
            with f.loop(head, stop, limit) as first:
                if limit <= _UNROLLED:
                    # Sums take turns, so that moving one overlaps with adding to the others.
                    for u in range(limit):
                        step(first + u)
                        for at, (r, v) in enumerate(cells):
                            if at * limit // len(cells) == u:
                                move_up(r, v, first=False)
                else:
                    with f.loop(first, first + limit) as pair:
                        step(pair)
                    for r, v in cells:
                        move_up(r, v, first=False)
        for r, v in cells:
            f.store(sums[r][v].get(), self._place(self.low_tile, r, v), align=4)

    def _place(self, tile: Value, r: int, v: int) -> Value:
        return tile.offset("i32", r * self.isa.columns + v * self.isa.lanes)

    def _wide_tile(self, left: Value, right: Value, pairs: Value) -> None:
        """Sum over planes and stretches of terms in int64: |sum| <= 2^62."""
        f, isa = self.f, self.isa
        wide = vector(isa.lanes, "i64")
        cells = isa.rows * isa.columns
        with f.loop(0, cells, isa.lanes) as cell:
            f.store(f.const(wide, 0), self.sums.offset("i64", cell), align=8)
        a_plane, b_plane = f.arguments[9], f.arguments[10]
        count = planes(self.digits)
        for i in range(count):
            for j in range(count):
                shift = 10 * (2 * count - 2 - i - j)
                a = left.offset("i8", a_plane) if i else left
                b = right.offset("i8", b_plane) if j else right
                with f.loop(0, pairs, _PAIRS_IN_TILES) as start:
                    self._tile(a, b, start, f.minimum(start + _PAIRS_IN_TILES, pairs))
                    with f.loop(0, cells, isa.lanes) as cell:
                        total = f.load(self.kind, self.low_tile.offset("i32", cell), align=4).cast("sext", "i64")
                        if self.spill:
                            high = f.load(self.kind, self.high_tile.offset("i32", cell), align=4).cast("sext", "i64")
                            total = total + (high << 15)
                        place = self.sums.offset("i64", cell)
                        f.store(f.load(wide, place, align=8) + (total << shift), place, align=8)

    def _finish(self, a_scales: Value, b_scales: Value, target: Value, height: Value, width: Value) -> None:
        f, isa = self.f, self.isa
        doubles = vector(isa.lanes, "double")
        stride = f.arguments[8]

        def results(r: Value) -> list[Value]:
            scale = f.load("double", a_scales.offset("double", r), align=8).splat(isa.lanes)
            values = []
            for v in range(self.vectors):
                cell = r * isa.columns + v * isa.lanes
                if self.wide:
                    integers = f.load(vector(isa.lanes, "i64"), self.sums.offset("i64", cell), align=8)
                    y = ew.integer_to_double(f, integers, large=True)
                else:
                    y = f.load(self.kind, self.low_tile.offset("i32", cell), align=4).cast("sitofp", "double")
                    if self.spill:
                        high = f.load(self.kind, self.high_tile.offset("i32", cell), align=4).cast("sitofp", "double")
                        y = f.intrinsic("fma", high, f.const(doubles, 32768.0), y) if isa.fma else high * 32768.0 + y
                b = f.load(doubles, b_scales.offset("double", v * isa.lanes), align=8)
                # Powers of two: nothing rounds before the conversion. A NaN scale has binary32's NaN as its upper half.
                values.append((y * (scale * b)).cast("fptrunc", "float"))
            return values

        with f.when(width.compare("eq", isa.columns)), f.loop(0, height) as r:
            line = target.offset("float", r * stride)
            for v, value in enumerate(results(r)):
                f.store(value, line.offset("float", v * isa.lanes), align=4)
        with f.when(width.compare("ne", isa.columns)), f.loop(0, height) as r:
            line = target.offset("float", r * stride)
            for v, value in enumerate(results(r)):
                if isa.masks:
                    left = f.intrinsic("smax", width - v * isa.lanes, f.i64(0))
                    f.masked_store(value, line.offset("float", v * isa.lanes), f.mask_below(isa.lanes, left), align=4)
                else:
                    f.store(value, self.line.offset("float", v * isa.lanes), align=4)
            if not isa.masks:
                with f.loop(0, width) as column:
                    element = f.load("float", self.line.offset("float", column), align=4)
                    f.store(element, line.offset("float", column), align=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batched product: each one quantised, multiplied and forgotten while it is in the cache."""

    rows: int
    columns: int
    terms: int
    digits: int
    left_unit_terms: bool
    right_unit_terms: bool
    by_rows: bool

    def layout(self, isa: InstructionSet) -> dict[str, tuple[int, int]]:
        """Offset and size of each part of the scratch memory."""
        count = planes(self.digits)
        panel = isa.columns
        sizes = {
            "a": packed_bytes(self.rows, self.terms, panel) * count,
            "b": packed_bytes(self.columns, self.terms, panel) * count,
            "a_scales": -(-self.rows // panel) * panel * 8,
            "b_scales": -(-self.columns // panel) * panel * 8,
            "weights": self.terms * 8 if self.by_rows else 0,
            "pack": pack_scratch(isa, self.terms if self.by_rows else 0),
            "product": product_scratch(isa),
        }
        result, offset = {}, 0
        for part, size in sizes.items():
            result[part] = (offset, size)
            offset += _aligned(size)
        result["total"] = (offset, 0)
        return result


def batch(module: Module, isa: InstructionSet, shape: Batch) -> str:
    """void (a, b, c, offsets of a, b, c, stride of a, of b, of c, low, high, scratch). Range: batches."""
    name = (
        f"batch_{shape.rows}_{shape.columns}_{shape.terms}_{shape.digits}"
        f"_{int(shape.left_unit_terms)}{int(shape.right_unit_terms)}{int(shape.by_rows)}"
    )
    if name in module.functions:
        return name
    digits, n = shape.digits, isa.columns
    pack_a = pack_terms_contiguous if shape.left_unit_terms else pack_rows_contiguous
    pack_b = pack_terms_contiguous if shape.right_unit_terms else pack_rows_contiguous
    multiply = product(module, isa, digits, shape.terms)
    parameters = [("ptr", p) for p in ("a", "b", "c", "offsets")]
    parameters += [("i64", p) for p in ("a_stride", "b_stride", "c_stride", "count", "low", "high")]
    f = Function(module, name, [*parameters, ("ptr", "scratch")])
    a, b, c, offsets, a_stride, b_stride, c_stride, count, low, high, scratch = f.arguments
    layout = shape.layout(isa)
    part = {key: scratch.offset("i8", offset) for key, (offset, _) in layout.items()}
    a_plane = f.i64(packed_bytes(shape.rows, shape.terms, n))
    b_plane = f.i64(packed_bytes(shape.columns, shape.terms, n))
    rows, columns, terms = f.i64(shape.rows), f.i64(shape.columns), f.i64(shape.terms)
    a_panels, b_panels = f.i64(-(-shape.rows // n)), f.i64(-(-shape.columns // n))
    zero = f.i64(0)
    with f.loop(low, high) as i:
        starts = [f.load("i64", offsets.offset("i64", count * k + i), align=8) for k in range(3)]
        x, y, z = (p.offset("float", s) for p, s in zip((a, b, c), starts, strict=True))
        if shape.by_rows:
            by_term = pack_by_term(module, isa, digits)
            weighted = pack_weighted(module, isa, digits)
            f.call(
                "void",
                by_term,
                [y, b_stride, columns, terms, part["b"], b_plane, part["weights"], part["b_scales"], part["pack"]],
            )
            left = [part["weights"], terms, part["a"], a_plane, part["a_scales"], zero, a_panels, part["pack"]]
            f.call("void", weighted, [x, a_stride, rows, *left])
        else:
            f.call(
                "void",
                pack_a(module, isa, digits),
                [x, a_stride, rows, terms, part["a"], a_plane, part["a_scales"], zero, a_panels, part["pack"]],
            )
            f.call(
                "void",
                pack_b(module, isa, digits),
                [y, b_stride, columns, terms, part["b"], b_plane, part["b_scales"], zero, b_panels, part["pack"]],
            )
        f.call(
            "void",
            multiply,
            [
                part["a"],
                part["a_scales"],
                part["b"],
                part["b_scales"],
                z,
                rows,
                columns,
                f.i64((shape.terms + 1) // 2),
                c_stride,
                a_plane,
                b_plane,
                zero,
                f.i64(-(-shape.rows // isa.rows)),
                zero,
                b_panels,
                part["product"],
            ],
        )
    f.finish()
    return name
