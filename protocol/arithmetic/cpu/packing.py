"""Floats quantised straight into panels, from either layout, with or without scales along the terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.panels import Form, Scales, note_panel, squares_bytes
from cupel.protocol.arithmetic.operations import digit_width

_MAGIC32 = 1.5 * 2.0**23
"""Adding it rounds a float below 2^22 to an integer, ties to even, whose low 16 bits are the sum's."""
_MAGIC32_BITS = 0x4B400000
_MAGIC64 = 1.5 * 2.0**52
_NAN64 = 0x7FF8000000000000


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
class _Notes:
    """Writes what products want to know about each finished panel."""

    f: Function
    isa: InstructionSet
    form: Form
    packed: Value
    plane_size: Value
    groups: Value
    scales: Scales
    scratch: Value

    def write(self, panel: Value) -> None:
        f, n = self.f, self.isa.columns
        scales = self.scales
        pointers = [
            self.packed.offset("i32", panel * self.groups * n),
            scales.doubles.offset("double", panel * n),
            scales.floats.offset("float", panel * n),
            scales.starts.offset("i32", panel * n),
            scales.note(panel),
            scales.cross(panel),
            self.scratch,
        ]
        f.call("void", note_panel(f.module, self.isa, self.form), [*pointers, self.groups, self.plane_size])


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


def _fill(
    f: Function,
    form: Form,
    n: int,
    terms: Value,
    quantised: Callable[[Value], list[Value]],
    target: Value,
    plane_size: Value,
) -> None:
    """One panel from terms whose rows are contiguous; `quantised` gives a term's planes of <n x i32>."""
    together, bits = form.together, 32 // form.together

    def group(k: Value, present: int) -> None:
        values = [quantised(k + i) for i in range(present)]
        for plane in range(len(values[0])):
            word = values[0][plane] & ((1 << bits) - 1)
            for i in range(1, present):
                part = values[i][plane]
                # Shifts drop what lies above; the last part needs no mask.
                part = part if i == together - 1 else part & ((1 << bits) - 1)
                word = word | (part << (bits * i))
            place = target.offset("i32", form.group_of(k) * n)
            if plane:
                place = place.offset("i8", plane_size * plane)
            f.store(word, place, align=4)

    whole = terms & -together
    with f.loop(0, whole, together) as k:
        group(k, together)
    for left in range(1, together):
        with f.when((terms - whole).compare("eq", left)):
            group(whole, left)


def pack_rows_contiguous(module: Module, isa: InstructionSet, form: Form) -> str:
    """Quantise x[term * stride + row]: rows lie side by side. Range: panels."""
    name = f"pack_across_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, _PACK)
    x, stride, rows, terms, packed, plane_size, all_scales, low, high, scratch = f.arguments
    n = isa.columns
    quantiser = _Quantiser(f, form)
    groups = form.groups(terms)
    notes = _Notes(
        f, isa, form, packed, plane_size, groups, Scales.of(f, form, all_scales, rows, groups, isa.columns), scratch
    )
    scales, scratch = notes.scales.doubles, scratch.offset("i8", squares_bytes(isa))
    with f.loop(low, high) as panel:
        first_row = panel * n
        source = x.offset("float", first_row)
        target = packed.offset("i32", panel * groups * n)
        left = rows - first_row

        def body(mask: Value | None, source: Value = source, target: Value = target, row: Value = first_row) -> None:
            largest = f.variable(vector(n, "i32"), 0)
            with f.loop(0, terms) as k:
                bits = _load_row(f, n, source.offset("float", k * stride), mask).as_bits() & ew.MAGNITUDE
                largest.set(f.intrinsic("umax", largest.get(), bits))
            magnitude = largest.get()
            exponent = ew.exponent_of(f, magnitude)
            f.store(quantiser.row_scale(exponent, magnitude), scales.offset("double", row), align=8)
            s1, s2 = quantiser.scales(exponent)

            def term(k: Value) -> list[Value]:
                return quantiser.integers(_load_row(f, n, source.offset("float", k * stride), mask), s1, s2)

            _fill(f, form, n, terms, term, target, plane_size)

        with f.when(left.compare("sge", n)):
            body(None)
        with f.when(left.compare("slt", n)):
            body(f.mask_below(n, left))
        notes.write(panel)
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
    form: Form,
    terms: Value,
    quantised: Callable[[Value, Value, Value | None], list[Value]],
    target: Value,
    plane_size: Value,
) -> None:
    """Fill one panel from rows whose terms are contiguous.

    quantised  (row in panel, first term, mask) gives planes of <2 lanes x i32>
    """
    lanes, n = isa.lanes, isa.columns
    groups = form.groups(terms)
    span = form.together * lanes

    def block(k: Value, mask: Value | None) -> None:
        with f.loop(0, n, lanes) as group:
            by_plane: list[list[Value]] = []
            for r in range(lanes):
                values = quantised(group + r, k, mask)
                by_plane = by_plane or [[] for _ in values]
                for plane, value in enumerate(values):
                    by_plane[plane].append(value.cast("trunc", form.element).bitcast(vector(lanes, "i32")))
            for plane, matrix in enumerate(by_plane):
                start = target.offset("i32", form.group_of(k) * n + group)
                if plane:
                    start = start.offset("i8", plane_size * plane)
                for t, column in enumerate(_transposed(matrix)):
                    place = start.offset("i32", t * n)
                    if mask is None:
                        f.store(column, place, align=4)
                    else:
                        with f.when((form.group_of(k) + t).compare("slt", groups)):
                            f.store(column, place, align=4)

    whole = terms & -span
    with f.loop(0, whole, span) as k:
        block(k, None)
    with f.when(whole.compare("slt", terms)):
        block(whole, f.mask_below(span, terms - whole))


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

    whole = terms & -lanes
    with f.loop(0, whole, lanes) as k:
        update(k, None)
    with f.when(whole.compare("slt", terms)):
        update(whole, f.mask_below(lanes, terms - whole))
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
    x, stride, rows, terms, packed, plane_size, all_scales, low, high, scratch = f.arguments
    n, lanes, span = isa.columns, isa.lanes, form.together * isa.lanes
    quantiser = _Quantiser(f, form)
    groups = form.groups(terms)
    notes = _Notes(
        f, isa, form, packed, plane_size, groups, Scales.of(f, form, all_scales, rows, groups, isa.columns), scratch
    )
    scales, scratch = notes.scales.doubles, scratch.offset("i8", squares_bytes(isa))
    firsts, seconds = scratch, scratch.offset("float", n)
    with f.loop(low, high) as panel:
        first_row = panel * n
        with f.loop(0, n, lanes) as r:
            magnitude = _largest_of_rows(f, lanes, x, stride, rows, first_row + r, terms)
            exponent = ew.exponent_of(f, magnitude)
            f.store(quantiser.row_scale(exponent, magnitude), scales.offset("double", first_row + r), align=8)
            s1, s2 = quantiser.scales(exponent)
            f.store(s1, firsts.offset("float", r), align=4)
            f.store(s2, seconds.offset("float", r), align=4)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r).offset("float", k)
            s1 = f.load("float", firsts.offset("float", r), align=4).splat(span)
            s2 = f.load("float", seconds.offset("float", r), align=4).splat(span)
            return quantiser.integers(_load_row(f, span, pointer, mask), s1, s2)

        _interleave(f, isa, form, terms, quantised, packed.offset("i32", panel * groups * n), plane_size)
        notes.write(panel)
    f.finish()
    return name


def pack_weighted(module: Module, isa: InstructionSet, form: Form) -> str:
    """As pack_terms_contiguous, of the reals x 2^g; `weights` are the 2^g: 0 for a zero row, NaN for one not finite."""
    name = f"pack_weighted_{form.name}"
    if name in module.functions:
        return name
    f = Function(module, name, [*_PACK[:3], ("ptr", "weights"), *_PACK[3:]])
    x, stride, rows, weights, terms, packed, plane_size, all_scales, low, high, scratch = f.arguments
    n, lanes, span = isa.columns, isa.lanes, form.together * isa.lanes
    quantiser = _Quantiser(f, form)
    groups = form.groups(terms)
    notes = _Notes(
        f, isa, form, packed, plane_size, groups, Scales.of(f, form, all_scales, rows, groups, isa.columns), scratch
    )
    scales, scratch = notes.scales.doubles, scratch.offset("i8", squares_bytes(isa))

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
            exponent = magnitude.compare("eq", 0).select(0, magnitude.lshr(52) - 1022)
            finite = magnitude.compare("ult", 0x7FF0000000000000)
            w = digit_width(form.digits)
            scale = finite.select((exponent + (1023 - w)) << 52, _NAN64).cast("bitcast", "double")
            f.store(scale, scales.offset("double", first_row + r), align=8)
            inverse = finite.select((f.const("i64", 1023 + w) - exponent) << 52, 0).cast("bitcast", "double")
            f.store(inverse, scratch.offset("double", r), align=8)

        def quantised(r: Value, k: Value, mask: Value | None, first_row: Value = first_row) -> list[Value]:
            pointer = _row_pointer(f, x, stride, rows, first_row + r)
            scale = f.load("double", scratch.offset("double", r), align=8).splat(span)
            return quantiser.integers_of_doubles(weighted(span, pointer, k, mask), scale)

        _interleave(f, isa, form, terms, quantised, packed.offset("i32", panel * groups * n), plane_size)
        notes.write(panel)
    f.finish()
    return name


def pack_by_term(module: Module, isa: InstructionSet, form: Form) -> str:
    """Quantise x[term * stride + row] with one scale a term, 2^(e - w); `weights` gets 2^e. Whole operand at once."""
    name = f"pack_by_term_{form.name}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [*_PACK[:6], ("ptr", "weights"), ("ptr", "scales"), ("ptr", "scratch")],
    )
    x, stride, rows, terms, packed, plane_size, weights, all_scales, scratch = f.arguments
    n, lanes = isa.columns, isa.lanes
    quantiser = _Quantiser(f, form)
    groups = form.groups(terms)
    notes = _Notes(
        f, isa, form, packed, plane_size, groups, Scales.of(f, form, all_scales, rows, groups, isa.columns), scratch
    )
    scales, scratch = notes.scales.doubles, scratch.offset("i8", squares_bytes(isa))
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
        f.store(
            f.const(vector(n, "double"), 2.0 ** -digit_width(form.digits)), scales.offset("double", panel * n), align=8
        )
        source = x.offset("float", panel * n)
        target = packed.offset("i32", panel * groups * n)
        left = rows - panel * n

        def term(k: Value, mask: Value | None, source: Value = source) -> list[Value]:
            s1 = f.load("float", scratch.offset("float", k << 1), align=4).splat(n)
            s2 = f.load("float", scratch.offset("float", (k << 1) + 1), align=4).splat(n)
            return quantiser.integers(_load_row(f, n, source.offset("float", k * stride), mask), s1, s2)

        def body(mask: Value | None, target: Value = target, term: Callable[..., list[Value]] = term) -> None:
            _fill(f, form, n, terms, lambda k: term(k, mask), target, plane_size)

        with f.when(left.compare("sge", n)):
            body(None)
        with f.when(left.compare("slt", n)):
            body(f.mask_below(n, left))
        notes.write(panel)
    f.finish()
    return name
