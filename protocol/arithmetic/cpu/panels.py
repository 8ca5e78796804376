"""How quantised operands lie in memory, and what a product may take for granted about them.

A panel holds `columns` rows of an operand, 32 bits of terms together: [pair][row][2] of int16, or for one digit
[quad][row][4] of bytes, signed on the left and (on x86) 64 too large on the right, as processors multiply them. Groups
are pairs or quads. Whichever dimension of an operand is contiguous, nothing is ever transposed in memory. Scales are
powers of two, NaN for a row that holds a NaN or an infinity, so that NaN reaches exactly the results it should.

Beside the planes lie, for every row, its scale in binary64 and in binary32 and (for bytes) what makes up for the 64,
and for every panel a note: between which groups it is not all zeros, whether its scales are so ordinary that binary32
can apply them, and, for two digits, the largest sum of squares of a row over stretches of pairs. By Cauchy and Schwarz
no sum of products over a stretch is larger than the root of the product of both operands' sums of squares: where that
is below 2^31 an int32 holds it.

Where a product crosses its pairs (products.py) there are also, for every row, the sums of each other pair times the
one after it, modulo 2^32, from the first granule to each: [plane][granule][row].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu.elementwise import INFINITY_BITS
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet

_ALIGN = 64

GRANULE = 32
"""Groups; zeros and sums are known to this precision."""
LEVELS = 5
"""Sums of squares are known over stretches of 1, 2, 4, 8 and 16 granules, each stretch starting at its multiple."""
_PAIRS_A_SQUARE_SUM = 16
"""Pairs whose squares, at most 2^27 a pair, add up in 32 bits."""
NOTE_BYTES = 64
FIRST, STOP, PLAIN, NORMS = 0, 8, 16, 32
"""Where a note keeps: i64 bounds of the groups that are not all zeros; i64 0 or 1; eight floats, one a level."""
PLAIN_EXPONENT = 62
"""Scales from 2^-62 to 2^62 can be applied to an int32 one after the other in binary32: nothing underflows on the way,
and what overflows should."""


def aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


OFFSET = 64
_BYTE_TERMS = 1 << 18
"""Longer rows of one digit stay int16: their sums need int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an operand is held."""

    digits: int
    together: int = 2
    """Terms in 32 bits."""
    offset: int = 0
    """Added to every integer."""
    crossed: bool = False
    """Sums of crossed pairs lie beside the panels."""

    @staticmethod
    def of(isa: InstructionSet, digits: int, terms: int, *, left: bool) -> Form:
        if digits == 1 and isa.bytes and terms <= _BYTE_TERMS:
            return Form(digits=1, together=4, offset=0 if left or isa.bytes == "sdot" else OFFSET)
        return Form(digits=digits, crossed=isa.crossed and digits > 1)

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"{self.digits}" if self.together == 2 else "bytes_above" if self.offset else "bytes"

    @property
    def element(self) -> str:
        return f"i{32 // self.together}"

    @property
    def planes(self) -> int:
        """In memory: with three digits the upper part, the lower part, and their sum."""
        return 3 if self.digits == 3 else 1

    def group_of(self, term: Value) -> Value:
        return term.lshr(self.together.bit_length() - 1)

    def groups(self, terms: Value) -> Value:
        return self.group_of(terms + (self.together - 1))

    def plane_bytes(self, rows: int, terms: int, panel: int) -> int:
        """One plane of an operand in panels."""
        return -(-rows // panel) * panel * -(-terms // self.together) * 4


def scale_bytes(form: Form, rows: int, terms: int, panel: int) -> int:
    """Scales in both precisions, what makes up for offsets, the notes, and sums of crossed pairs."""
    panels = -(-rows // panel)
    granules = -(-terms // (form.together * GRANULE))
    crosses = form.planes * (granules + 1) * panel * 4 if form.crossed else 0
    return panels * (panel * 16 + NOTE_BYTES + crosses)


def granule_after(group: Value) -> Value:
    """The first granule that starts at the group or after it."""
    return (group + (GRANULE - 1)).lshr(GRANULE.bit_length() - 1)


def pack_scratch(isa: InstructionSet, terms: int = 0) -> int:
    """Bytes; `terms` for an operand scaled by row."""
    return squares_bytes(isa) + aligned(isa.columns * 16 + terms * 8)


def squares_bytes(isa: InstructionSet) -> int:
    return (1 << (LEVELS - 1)) * isa.columns * 4


@dataclass(frozen=True, slots=True)
class Scales:
    """The parts of the memory of `scale_bytes`."""

    doubles: Value
    floats: Value
    starts: Value
    """i32: where the sums of bytes begin, -64 times the row's sum."""
    notes: Value
    crosses: Value
    crosses_a_panel: Value
    """i32 elements."""

    @staticmethod
    def of(f: Function, form: Form, start: Value, rows: Value, groups: Value, panel: int) -> Scales:
        panels = (rows + (panel - 1)).binary("sdiv", panel)
        count = panels * panel
        floats = start.offset("double", count)
        starts = floats.offset("float", count)
        notes = starts.offset("i32", count)
        size = (granule_after(groups) + 1) * (form.planes * panel)
        return Scales(start, floats, starts, notes, notes.offset("i8", panels * NOTE_BYTES), size)

    def note(self, panel: Value) -> Value:
        return self.notes.offset("i8", panel * NOTE_BYTES)

    def cross(self, panel: Value) -> Value:
        return self.crosses.offset("i32", panel * self.crosses_a_panel)


def pair_product(f: Function, isa: InstructionSet, sums: Value, a: Value, b: Value) -> Value:
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
        name = "llvm.x86.sse2.pmadd.wd" if isa.lanes == 4 else "llvm.x86.avx2.pmadd.wd"
        return sums + f.call(sums.kind, name, [x, y])
    return sums + pair_sums(x.cast("sext", "i32") * y.cast("sext", "i32"), isa.lanes)


def pair_sums(products: Value, lanes: int) -> Value:
    """Neighbouring lanes added."""
    even = products.shuffle(products, range(0, 2 * lanes, 2))
    return even + products.shuffle(products, range(1, 2 * lanes, 2))


def quad_product(f: Function, isa: InstructionSet, sums: Value, a: Value, b: Value) -> Value:
    """sums + a0 b0 + ... + a3 b3 in every lane; a are signed bytes up to 64, b unsigned ones up to 128, or signed."""
    kind = sums.kind
    quarters, halves = vector(4 * isa.lanes, "i8"), vector(2 * isa.lanes, "i16")
    if isa.bytes == "sdot":
        name = f"llvm.aarch64.neon.sdot.v{isa.lanes}i32.v{4 * isa.lanes}i8"
        return f.call(kind, name, [sums, b.bitcast(quarters), a.bitcast(quarters)])
    if isa.bytes == "vpdpbusd":
        return f.emit(
            kind,
            f'call {kind} asm "vpdpbusd $2, $1, $0", "=v,v,v,0"({kind} {b.name}, {kind} {a.name}, {kind} {sums.name})',
        )
    # A pair is at most 2^14: nothing saturates.
    pairs = f.call(halves, "llvm.x86.avx2.pmadd.ub.sw", [b.bitcast(quarters), a.bitcast(quarters)])
    return sums + f.call(kind, "llvm.x86.avx2.pmadd.wd", [pairs, f.const(halves, 1)])


def note_panel(module: Module, isa: InstructionSet, form: Form) -> str:
    """void (planes, scales in both precisions and starts of one panel, its note, its sums of crossed pairs, scratch of
    `squares_bytes`...)."""
    name = f"note_{form.name}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [
            *(("ptr", p) for p in ("planes", "doubles", "floats", "starts", "note", "crosses", "scratch")),
            ("i64", "groups"),
            ("i64", "plane_size"),
        ],
    )
    packed, doubles, floats, starts, note, crosses, squares, groups, plane_size = f.arguments
    n, lanes = isa.columns, isa.lanes
    _note_scales(f, n, doubles, floats, note)
    first, stop = f.variable("i64", groups), f.variable("i64", 0)

    def seen(start: Value, end: Value) -> None:
        first.set(f.minimum(first.get(), start))
        stop.set(end)

    if form.digits == 2:
        _note_squares(f, isa, packed, note, crosses if form.crossed else None, squares, groups, seen)
    elif form.offset:
        # The other operand knows where it is zero; here zeros are 64.
        seen(f.i64(0), groups)
    else:
        kind = vector(lanes, "i32")
        with f.loop(0, groups, GRANULE) as start:
            end = f.minimum(start + GRANULE, groups)
            some = f.variable(kind, 0)
            # Two planes are both zero exactly where the number is.
            for plane in range(min(form.planes, 2)):
                source = packed.offset("i8", plane_size * plane)
                with f.loop(start * n, end * n, lanes) as at:
                    some.set(some.get() | f.load(kind, source.offset("i32", at), align=4))
            with f.when(f.reduce("or", some.get()).compare("ne", 0)):
                seen(start, end)
        if form.crossed:
            size = (granule_after(groups) + 1) * n
            for plane in range(form.planes):
                source = packed.offset("i8", plane_size * plane)
                _note_crosses(f, isa, source, crosses.offset("i32", size * plane), groups)
        if form.together == 4 and isa.bytes != "sdot":
            _note_starts(f, isa, packed, starts, groups)
    f.store(first.get(), note.offset("i8", FIRST), align=8)
    f.store(stop.get(), note.offset("i8", STOP), align=8)
    f.finish()
    return name


def _note_starts(f: Function, isa: InstructionSet, packed: Value, starts: Value, groups: Value) -> None:
    kind = vector(isa.lanes, "i32")
    ones = f.const(kind, 0x01010101)
    with f.loop(0, isa.columns, isa.lanes) as row:
        total = f.variable(kind, 0)
        with f.loop(0, groups) as group:
            quad = f.load(kind, packed.offset("i32", group * isa.columns + row), align=4)
            total.set(quad_product(f, isa, total.get(), quad, ones))
        f.store(total.get() * -OFFSET, starts.offset("i32", row), align=4)


def _note_scales(f: Function, n: int, doubles: Value, floats: Value, note: Value) -> None:
    scales = f.load(vector(n, "double"), doubles, align=8)
    f.store(scales.cast("fptrunc", "float"), floats, align=4)
    field = scales.as_bits().lshr(52) & 0x7FF
    ordinary = (field - (1023 - PLAIN_EXPONENT)).compare("ule", 2 * PLAIN_EXPONENT)
    plain = ordinary | field.compare("eq", 0x7FF)
    one, zero = f.const(field.kind, 1), f.const(field.kind, 0)
    f.store(f.reduce("umin", plain.select(one, zero)), note.offset("i8", PLAIN), align=8)


def _note_crosses(f: Function, isa: InstructionSet, packed: Value, crosses: Value, pairs: Value) -> None:
    """For each granule, what the granules before it add up to."""
    kind = vector(isa.lanes, "i32")
    n = isa.columns
    with f.loop(0, n, isa.lanes) as row:
        total = f.variable(kind, 0)
        with f.loop(0, pairs, GRANULE) as start:
            f.store(total.get(), crosses.offset("i32", granule_after(start) * n + row), align=4)
            count = f.minimum(pairs - start, GRANULE) & -2
            with f.loop(start, start + count, 2) as pair:
                x, y = (f.load(kind, packed.offset("i32", (pair + i) * n + row), align=4) for i in range(2))
                total.set(pair_product(f, isa, total.get(), x, y))
        f.store(total.get(), crosses.offset("i32", granule_after(pairs) * n + row), align=4)


def _note_squares(
    f: Function,
    isa: InstructionSet,
    packed: Value,
    note: Value,
    crosses: Value | None,
    squares: Value,
    pairs: Value,
    seen: Callable[[Value, Value], None],
) -> None:
    """Largest sums of squares, rounded: their relative error is below 2^-18. On the way, sums of crossed pairs."""
    n, lanes = isa.columns, isa.lanes
    vectors = n // lanes
    integers, numbers = vector(lanes, "i32"), vector(lanes, "float")
    granules = 1 << (LEVELS - 1)
    largest = [f.variable(integers, 0) for _ in range(LEVELS)]

    def at(granule: Value | int, v: int) -> Value:
        place = granule * n + v * lanes
        return squares.offset("float", place)

    crossed = [f.variable(integers, 0) for _ in range(vectors if crosses else 0)]

    def note_crossed(granule: Value) -> None:
        for v, total in enumerate(crossed):
            assert crosses is not None
            f.store(total.get(), crosses.offset("i32", granule * n + v * lanes), align=4)

    def note_sum(level: int, total: Value) -> None:
        largest[level].set(f.intrinsic("umax", largest[level].get(), total.as_bits()))

    with f.loop(0, pairs, GRANULE * granules) as block:
        # Beyond the last granule sums are zero; a block of one needs no others.
        few = (pairs - block).compare("sle", GRANULE)
        with f.loop(0, few.select(f.i64(1), f.i64(granules))) as granule:
            start = block + granule * GRANULE
            end = f.minimum(start + GRANULE, pairs)
            totals = [f.variable(numbers, 0.0) for _ in range(vectors)]
            # Granules past the end add nothing and write the last sum again.
            note_crossed(granule_after(f.minimum(start, pairs)))
            with f.loop(start, end, _PAIRS_A_SQUARE_SUM) as part:
                sums = [f.variable(integers, 0) for _ in range(vectors)]

                def load(pair: Value, v: int) -> Value:
                    return f.load(integers, packed.offset("i32", pair * n + v * lanes), align=4)

                stop = f.minimum(part + _PAIRS_A_SQUARE_SUM, end)
                whole = part + ((stop - part) & -2)
                with f.loop(part, whole, 2) as pair:
                    for v in range(vectors):
                        x, y = load(pair, v), load(pair + 1, v)
                        sums[v].set(pair_product(f, isa, pair_product(f, isa, sums[v].get(), x, x), y, y))
                        if crossed:
                            crossed[v].set(pair_product(f, isa, crossed[v].get(), x, y))
                with f.when(whole.compare("slt", stop)):
                    for v in range(vectors):
                        x = load(whole, v)
                        sums[v].set(pair_product(f, isa, sums[v].get(), x, x))
                for v in range(vectors):
                    totals[v].set(totals[v].get() + sums[v].get().cast("uitofp", "float"))
            some = f.const(integers, 0)
            for v in range(vectors):
                f.store(totals[v].get(), at(granule, v), align=4)
                note_sum(0, totals[v].get())
                some = some | totals[v].get().as_bits()
            with f.when(f.reduce("or", some).compare("ne", 0)):
                seen(start, end)
        with f.when(few):
            for level in range(1, LEVELS):
                for v in range(vectors):
                    note_sum(level, f.load(numbers, at(0, v), align=4))
        with f.when(few ^ 1):
            count = granules
            for level in range(1, LEVELS):
                count //= 2
                for group in range(count):
                    for v in range(vectors):
                        total = f.load(numbers, at(2 * group, v), align=4)
                        total = total + f.load(numbers, at(2 * group + 1, v), align=4)
                        f.store(total, at(group, v), align=4)
                        note_sum(level, total)
    note_crossed(granule_after(pairs))
    for level in range(8):
        bits = f.reduce("umax", largest[level].get()) if level < LEVELS else f.const("i32", INFINITY_BITS)
        f.store(bits, note.offset("i8", NORMS + 4 * level), align=4)
