"""Floats quantised straight into panels, from either layout, with or without scales along the terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, Variable, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.panels import Form, Scales, note_panel, squares_bytes
from cupel.protocol.arithmetic.operations import digit_width

_MAGIC32 = 1.5 * 2.0**23
"""Adding it rounds a float below 2^22 to an integer, ties to even, whose low 16 bits are the sum's."""
_MAGIC32_BITS = 0x4B400000
_MAGIC64 = 1.5 * 2.0**52
_NAN64 = 0x7FF8000000000000
_STRIP = 4
"""Panels packed together from terms whose rows are contiguous: long strides between short reads cost more than reads.
Four panels' accumulators and factors still lie in registers."""


@dataclass(slots=True)
class _Quantiser:
    """Floats times powers of two to integers, in vectors of any width."""

    f: Function
    form: Form

    def scales(self, exponent: Value) -> tuple[Value, Value]:
        """Two float factors of 2^(w - e): one alone can leave binary32's range. Finite for any row."""
        f = self.f
        shift = f.const(exponent.kind, digit_width(self.form.digits)) - exponent
        half = shift >> 1
        rest = shift - half
        return ((half + 127) << 23).cast("bitcast", "float"), ((rest + 127) << 23).cast("bitcast", "float")

    def row_scale(self, exponent: Value, magnitude: Value) -> Value:
        """2^(e - w) as a double, NaN for a row that is not finite; of zeros, which any scale leaves alone, 2^-w."""
        finite = magnitude.compare("ult", ew.INFINITY_BITS)
        wide = magnitude.compare("eq", 0).select(0, exponent).cast("sext", "i64") - digit_width(self.form.digits)
        return finite.select((wide + 1023) << 52, _NAN64).cast("bitcast", "double")

    def integers(self, x: Value, first: Value, second: Value) -> list[Value]:
        """i32 whose low bits are the planes of q."""
        bits = (x * first * second + (_MAGIC32 + self.form.offset)).as_bits()
        return self.split(bits - _MAGIC32_BITS) if self.form.digits == 3 else [bits]

    def integers_of_doubles(self, x: Value, scale: Value) -> list[Value]:
        q = (x * scale + (_MAGIC64 + self.form.offset)).as_bits().cast("trunc", "i32")
        return self.split(q) if self.form.digits == 3 else [q]

    def split(self, q: Value) -> list[Value]:
        high = (q + 512) >> 10
        low = q - (high << 10)
        return [high, low, high + low]


@dataclass(slots=True)
class _Panels:
    """Where one kernel's panels, scales and notes go."""

    f: Function
    isa: InstructionSet
    form: Form
    packed: Value
    plane_size: Value
    rows: Value
    terms: Value
    scales: Scales
    squares: Value
    """Scratch of a note."""

    @staticmethod
    def of(f: Function, isa: InstructionSet, form: Form) -> tuple[_Panels, Value]:
        """By the kernel's parameters; and what is left of its scratch memory."""
        rows, terms, packed, plane_size, memory, scratch = (
            f.argument(name) for name in ("rows", "terms", "packed", "plane_size", "scales", "scratch")
        )
        scales = Scales.of(f, form, memory, rows, form.groups(terms), isa.columns)
        panels = _Panels(f, isa, form, packed, plane_size, rows, terms, scales, scratch)
        return panels, scratch.offset("i8", squares_bytes(isa))

    def place(self, panel: Value) -> Value:
        return self.packed.offset("i32", panel * (self.form.groups(self.terms) * self.isa.columns))

    def scales_of(self, panel: Value) -> Value:
        return self.scales.doubles.offset("double", panel * self.isa.columns)

    def write(self, start: Value, plane: int, group: Value, row: Value | int, word: Value) -> None:
        """32 bits of terms of neighbouring rows, `start` the panel's place."""
        place = start.offset("i32", group * self.isa.columns + row)
        self.f.store(word, place.offset("i8", self.plane_size * plane) if plane else place, align=4)

    def note(self, panel: Value) -> None:
        """What products want to know about a finished panel."""
        f, n, scales = self.f, self.isa.columns, self.scales
        pointers = [
            self.place(panel),
            self.scales_of(panel),
            scales.floats.offset("float", panel * n),
            scales.starts.offset("i32", panel * n),
            scales.note(panel),
            scales.cross(panel),
            self.squares,
        ]
        name = note_panel(f.module, self.isa, self.form)
        f.call("void", name, [*pointers, self.form.groups(self.terms), self.plane_size])

    def fill_across(self, first: Value, count: int, quantised: Callable[[int, Value], list[Value]]) -> None:
        """`count` panels side by side from terms whose rows are contiguous.

        quantised  (panel, term) gives the term's planes of <columns x i32>
        """
        f, together = self.f, self.form.together
        bits = 32 // together
        starts = [self.place(first + i) for i in range(count)]

        def group(k: Value, present: int) -> None:
            for panel, start in enumerate(starts):
                values = [quantised(panel, k + i) for i in range(present)]
                for plane in range(len(values[0])):
                    word = values[0][plane] & ((1 << bits) - 1)
                    for i in range(1, present):
                        part = values[i][plane]
                        # Shifts drop what lies above; the last part needs no mask.
                        part = part if i == together - 1 else part & ((1 << bits) - 1)
                        word = word | (part << (bits * i))
                    self.write(start, plane, self.form.group_of(k), 0, word)

        whole = self.terms & -together
        with f.loop(0, whole, together) as k:
            group(k, together)
        for left in range(1, together):
            with f.when((self.terms - whole).compare("eq", left)):
                group(whole, left)

    def fill_along(self, panel: Value, quantised: Callable[[Value, Value, Value | None], list[Value]]) -> None:
        """One panel from rows whose terms are contiguous.

        quantised  (row in panel, first term, mask) gives planes of integers, a register of them together
        """
        f, form, lanes = self.f, self.form, self.isa.lanes
        start, groups = self.place(panel), form.groups(self.terms)

        def block(k: Value, mask: Value | None) -> None:
            with f.loop(0, self.isa.columns, lanes) as row:
                by_plane: list[list[Value]] = []
                for r in range(lanes):
                    values = quantised(row + r, k, mask)
                    by_plane = by_plane or [[] for _ in values]
                    for plane, value in enumerate(values):
                        by_plane[plane].append(value.cast("trunc", form.element).bitcast(vector(lanes, "i32")))
                for plane, matrix in enumerate(by_plane):
                    for t, column in enumerate(_transposed(matrix)):
                        group = form.group_of(k) + t
                        if mask is None:
                            self.write(start, plane, group, row, column)
                        else:
                            with f.when(group.compare("slt", groups)):
                                self.write(start, plane, group, row, column)

        _each_vector(f, self.terms, form.together * lanes, block)


def _each_vector(f: Function, count: Value, lanes: int, body: Callable[[Value, Value | None], None]) -> None:
    """body(start, mask) over 0..count; only the last vector may be masked."""
    whole = count & -lanes
    with f.loop(0, whole, lanes) as k:
        body(k, None)
    with f.when(whole.compare("slt", count)):
        body(whole, f.mask_below(lanes, count - whole))


def _load_row(f: Function, lanes: int, pointer: Value, mask: Value | None) -> Value:
    kind = vector(lanes, "float")
    return f.load(kind, pointer, align=4) if mask is None else f.masked_load(kind, pointer, mask, align=4)


_PACK = [
    ("ptr", "x"),
    ("i64", "stride"),
    ("i64", "rows"),
    ("i64", "terms"),
    ("ptr", "packed"),
    ("i64", "plane_size"),
    ("ptr", "scales"),
    ("i64", "low"),
    ("i64", "high"),
    ("ptr", "scratch"),
]


def _each_strip(
    f: Function,
    isa: InstructionSet,
    rows: Value,
    low: Value,
    high: Value,
    strip: Callable[[Value, int, Value | None], None],
) -> None:
    """strip(first panel, panels, mask): as many panels together as share the pages that their terms lie in."""
    n = isa.columns
    several = f.minimum(high, rows.binary("sdiv", n)) - low
    whole = low + several - several.binary("srem", _STRIP)
    with f.loop(low, whole, _STRIP) as panel:
        strip(panel, _STRIP, None)
    with f.loop(whole, high) as panel:
        left = rows - panel * n
        with f.when(left.compare("sge", n)):
            strip(panel, 1, None)
        with f.when(left.compare("slt", n)):
            strip(panel, 1, f.mask_below(n, left))


def pack_rows_contiguous(module: Module, isa: InstructionSet, form: Form) -> str:
    """Quantise x[term * stride + row]: rows lie side by side. Range: panels."""
    name = f"pack_across_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, _PACK)
    x, stride, rows, terms, _, _, _, low, high, _ = f.arguments
    n = isa.columns
    panels, _ = _Panels.of(f, isa, form)
    quantiser = _Quantiser(f, form)

    def strip(first: Value, count: int, mask: Value | None) -> None:
        source = x.offset("float", first * n)

        def load(panel: int, k: Value) -> Value:
            return _load_row(f, n, source.offset("float", k * stride + panel * n), mask)

        largest = [f.variable(vector(n, "i32"), 0) for _ in range(count)]
        with f.loop(0, terms) as k:
            for panel, so_far in enumerate(largest):
                so_far.set(f.intrinsic("umax", so_far.get(), load(panel, k).as_bits() & ew.MAGNITUDE))
        factors = []
        for panel, found in enumerate(largest):
            magnitude = found.get()
            exponent = ew.exponent_of(f, magnitude)
            f.store(quantiser.row_scale(exponent, magnitude), panels.scales_of(first + panel), align=8)
            factors.append(quantiser.scales(exponent))
        panels.fill_across(first, count, lambda panel, k: quantiser.integers(load(panel, k), *factors[panel]))
        for panel in range(count):
            panels.note(first + panel)

    _each_strip(f, isa, rows, low, high, strip)
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


def _row_pointer(f: Function, x: Value, stride: Value, rows: Value, row: Value) -> Value:
    """Rows past the last repeat it: their results are never stored."""
    return x.offset("float", f.minimum(row, rows - 1) * stride)


def _largest_along(f: Function, lanes: int, pointer: Value, terms: Value) -> Value:
    """Bits of the largest magnitude of a contiguous row."""
    largest = f.variable(vector(lanes, "i32"), 0)

    def update(k: Value, mask: Value | None) -> None:
        bits = _load_row(f, lanes, pointer.offset("float", k), mask).as_bits() & ew.MAGNITUDE
        largest.set(f.intrinsic("umax", largest.get(), bits))

    _each_vector(f, terms, lanes, update)
    return f.reduce("umax", largest.get())


def _largest_of_rows(
    f: Function, lanes: int, x: Value, stride: Value, rows: Value, first: Value, terms: Value
) -> Value:
    """Bits of the largest magnitudes of `lanes` contiguous rows, one a lane."""
    pointers = [_row_pointer(f, x, stride, rows, first + r) for r in range(lanes)]
    largest = [f.variable(vector(lanes, "i32"), 0) for _ in range(lanes)]

    def update(k: Value, mask: Value | None) -> None:
        for pointer, so_far in zip(pointers, largest, strict=True):
            bits = _load_row(f, lanes, pointer.offset("float", k), mask).as_bits() & ew.MAGNITUDE
            so_far.set(f.intrinsic("umax", so_far.get(), bits))

    _each_vector(f, terms, lanes, update)
    # Rows that differ in one bit of their number are exchanged between lanes that do, and halved in number.
    values = [v.get() for v in largest]
    step = 1
    while len(values) > 1:
        halved = []
        for a, b in zip(values[::2], values[1::2], strict=True):
            own = a.shuffle(b, [j if j & step == 0 else lanes + j for j in range(lanes)])
            other = a.shuffle(b, [j + step if j & step == 0 else lanes + j - step for j in range(lanes)])
            halved.append(f.intrinsic("umax", own, other))
        values, step = halved, step * 2
    return values[0]


def pack_terms_contiguous(module: Module, isa: InstructionSet, form: Form) -> str:
    """Quantise x[row * stride + term]: terms lie side by side. Range: panels."""
    name = f"pack_along_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, _PACK)
    x, stride, rows, terms, _, _, _, low, high, _ = f.arguments
    n, lanes, span = isa.columns, isa.lanes, form.together * isa.lanes
    panels, scratch = _Panels.of(f, isa, form)
    quantiser = _Quantiser(f, form)
    firsts, seconds = scratch, scratch.offset("float", n)
    with f.loop(low, high) as panel:
        first_row = panel * n
        with f.loop(0, n, lanes) as r:
            magnitude = _largest_of_rows(f, lanes, x, stride, rows, first_row + r, terms)
            exponent = ew.exponent_of(f, magnitude)
            f.store(quantiser.row_scale(exponent, magnitude), panels.scales_of(panel).offset("double", r), align=8)
            s1, s2 = quantiser.scales(exponent)
            f.store(s1, firsts.offset("float", r), align=4)
            f.store(s2, seconds.offset("float", r), align=4)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r).offset("float", k)
            s1 = f.load("float", firsts.offset("float", r), align=4).splat(span)
            s2 = f.load("float", seconds.offset("float", r), align=4).splat(span)
            return quantiser.integers(_load_row(f, span, pointer, mask), s1, s2)

        panels.fill_along(panel, quantised)
        panels.note(panel)
    f.finish()
    return name


def pack_weighted(module: Module, isa: InstructionSet, form: Form) -> str:
    """As pack_terms_contiguous, of the reals x 2^g; `weights` are the 2^g: 0 for a zero row, NaN for one not finite."""
    name = f"pack_weighted_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, [*_PACK[:3], ("ptr", "weights"), *_PACK[3:]])
    x, stride, rows, weights, terms, _, _, _, low, high, _ = f.arguments
    n, lanes, span = isa.columns, isa.lanes, form.together * isa.lanes
    panels, inverses = _Panels.of(f, isa, form)
    quantiser = _Quantiser(f, form)

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

            def update(k: Value, mask: Value | None, pointer: Value = pointer, largest: Variable = largest) -> None:
                bits = weighted(lanes, pointer, k, mask).as_bits() & 0x7FFFFFFFFFFFFFFF
                largest.set(f.intrinsic("umax", largest.get(), bits))

            _each_vector(f, terms, lanes, update)
            magnitude = f.reduce("umax", largest.get())
            # No product of a binary32 and its scale is subnormal in binary64.
            exponent = magnitude.compare("eq", 0).select(0, magnitude.lshr(52) - 1022)
            finite = magnitude.compare("ult", 0x7FF0000000000000)
            w = digit_width(form.digits)
            scale = finite.select((exponent + (1023 - w)) << 52, _NAN64).cast("bitcast", "double")
            f.store(scale, panels.scales_of(panel).offset("double", r), align=8)
            inverse = finite.select((f.const("i64", 1023 + w) - exponent) << 52, 0).cast("bitcast", "double")
            f.store(inverse, inverses.offset("double", r), align=8)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r)
            scale = f.load("double", inverses.offset("double", r), align=8).splat(span)
            return quantiser.integers_of_doubles(weighted(span, pointer, k, mask), scale)

        panels.fill_along(panel, quantised)
        panels.note(panel)
    f.finish()
    return name


def pack_by_term(module: Module, isa: InstructionSet, form: Form) -> str:
    """Quantise x[term * stride + row] with one scale a term, 2^(e - w); `weights` gets 2^e. Whole operand at once."""
    name = f"pack_by_term_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, [*_PACK[:6], ("ptr", "weights"), ("ptr", "scales"), ("ptr", "scratch")])
    x, stride, rows, terms, _, _, weights, _, _ = f.arguments
    n, lanes = isa.columns, isa.lanes
    panels, factors = _Panels.of(f, isa, form)
    quantiser = _Quantiser(f, form)
    with f.loop(0, terms) as k:
        magnitude = _largest_along(f, lanes, x.offset("float", k * stride), rows)
        exponent = ew.exponent_of(f, magnitude)
        finite = magnitude.compare("ult", ew.INFINITY_BITS)
        s1, s2 = quantiser.scales(exponent)
        f.store(s1, factors.offset("float", k << 1), align=4)
        f.store(s2, factors.offset("float", (k << 1) + 1), align=4)
        power = (exponent.cast("sext", "i64") + 1023) << 52
        weight = finite.select(magnitude.compare("eq", 0).select(0, power), _NAN64).cast("bitcast", "double")
        f.store(weight, weights.offset("double", k), align=8)

    def strip(first: Value, count: int, mask: Value | None) -> None:
        source = x.offset("float", first * n)

        def term(panel: int, k: Value) -> list[Value]:
            s1, s2 = (f.load("float", factors.offset("float", (k << 1) + i), align=4).splat(n) for i in range(2))
            return quantiser.integers(_load_row(f, n, source.offset("float", k * stride + panel * n), mask), s1, s2)

        for panel in range(count):
            one = f.const(vector(n, "double"), 2.0 ** -digit_width(form.digits))
            f.store(one, panels.scales_of(first + panel), align=8)
        panels.fill_across(first, count, term)
        for panel in range(count):
            panels.note(first + panel)

    _each_strip(f, isa, rows, f.i64(0), (rows + (n - 1)).binary("sdiv", n), strip)
    f.finish()
    return name
