"""Exact products: int16 pairs multiplied and added in registers, one rounding.

A tile of `rows` by `columns` results keeps int32 sums in registers over stretches of pairs for which the panels' notes
say that no sum leaves int32. Usually one stretch is all, and the result goes from registers to memory in binary32: a
conversion that rounds, and two multiplications by powers of two that do not. With two digits and operands of the worst
sort no stretch is known to fit; then every 15 pairs (of 2^27 at most) the sums' upper bits move to a second tile in
memory; the two are exact together beyond 2^46. Three digits take three products instead of four (Karatsuba), in
stretches that always fit, added in int64.

Pairs where either operand's panel is all zeros, as under a causal mask, add nothing and are left out.

**Crossed pairs.** Where multiplications are the scarce units, half of them are spared (Winograd 1968, A new algorithm
for inner product): for two neighbouring pairs p, p' of both rows,

    a_p . b_p + a_p' . b_p' = (a_p + b_p') . (a_p' + b_p) - a_p . a_p' - b_p . b_p'

Two int16 additions and one multiply-add instead of two multiply-adds; what is subtracted depends on one row each and is
summed once, when the row is packed. The sums of two integers of at most 2^13 fit int16; everything else is modulo 2^32,
where a sum that fits int32 comes out right whatever was on the way. So the same bounds hold, and the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value, Variable, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.panels import (
    FIRST,
    GRANULE,
    NORMS,
    PLAIN,
    STOP,
    Form,
    Scales,
    aligned,
    granule_after,
    pair_product,
    pair_sums,
    quad_product,
)

_PAIRS_ALWAYS_HELD = {1: 1 << 17, 2: 15, 3: 448}
"""Pairs of products an int32 holds whatever they are, beside a rest below 2^15: one is at most 2^13, 2^27, and, of
sums of both parts of three digits, 2 x 1536^2."""
_SQUARED_LIMIT = 2.0**62 * (1 - 2.0**-13)
"""Sums of squares whose product is below it keep a stretch below 2^31 - 2^17: room for that rest and for the rounding
of the notes."""
_CACHED_PAIRS = 2048
"""Pairs of one panel, times panels, that stay in the second cache."""
_PAIRS_IN_TILES = 1 << 17
"""Pairs after which two tiles of two digits must be emptied into int64."""


def product_scratch(isa: InstructionSet) -> int:
    return aligned(isa.rows * isa.columns * 20 + isa.columns * 4)


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
    form = Form.of(isa, digits, terms, left=True)
    pairs = (terms + 1) // 2
    # Two digits over very long rows, one over yet longer ones, and three over all but short ones need int64.
    limit = {1: _PAIRS_ALWAYS_HELD[1], 2: 2 * _PAIRS_IN_TILES, 3: _PAIRS_ALWAYS_HELD[3]}[digits]
    long = pairs > limit
    name = f"product_{form.name}{'_long' if long else ''}"
    if name not in module.functions:
        f = Function(module, name, _PRODUCT)
        _Product(f, isa, form, long=long).emit()
        f.finish()
    return name


class _Product:
    def __init__(self, f: Function, isa: InstructionSet, form: Form, *, long: bool) -> None:
        self.f, self.isa, self.digits, self.long = f, isa, form.digits, long
        self.form, self.bytes = form, form.together == 4
        self.split = isa.product == "split" and not self.bytes
        self.held = vector(2 * isa.lanes, "i32") if self.split else vector(isa.lanes, "i32")
        """A register's sums: of whole pairs, or of each of its two products."""
        self.vectors = isa.columns // isa.lanes
        self.kind = vector(isa.lanes, "i32")
        self.cells = [(r, v) for r in range(isa.rows) for v in range(self.vectors)]
        tile = isa.rows * isa.columns * 4
        scratch = f.arguments[-1]
        self.tiles = [scratch.offset("i8", i * tile) for i in range(3)]
        self.sums = scratch.offset("i8", 3 * tile)
        self.line = scratch.offset("i8", 5 * tile)

    def emit(self) -> None:
        f, isa = self.f, self.isa
        a, a_memory, b, b_memory, c, rows, columns, pairs, stride, _, _, t_low, t_high, p_low, p_high, _ = f.arguments
        n, m = isa.columns, isa.rows
        self.a_scales = Scales.of(f, self.form, a_memory, rows, pairs, n)
        self.b_scales = Scales.of(f, self.form, b_memory, columns, pairs, n)
        # As many panels of b as stay in the second cache; under them results are written row by row.
        fitting = f.const("i64", _CACHED_PAIRS).binary("sdiv", f.intrinsic("smax", pairs, f.i64(1)))
        block = f.intrinsic("smax", fitting, f.i64(1))
        with f.loop(p_low, p_high, block) as first, f.loop(t_low, t_high) as tile:
            row = tile * m
            left_panel = row.lshr(n.bit_length() - 1)
            left = a.offset("i32", left_panel * pairs * n + (row & (n - 1)))
            left_note = self.a_scales.note(left_panel)
            self.left_cross = self.a_scales.cross(left_panel).offset("i32", row & (n - 1))
            with f.loop(first, f.minimum(first + block, p_high)) as panel:
                right = b.offset("i32", panel * pairs * n)
                right_note = self.b_scales.note(panel)
                self.right_cross = self.b_scales.cross(panel)
                self.row, self.column = row, panel * n
                self.height, self.width = f.minimum(rows - row, m), f.minimum(columns - panel * n, n)
                self.target = c.offset("float", row * stride + panel * n)
                bounds = [
                    f.load("i64", note.offset("i8", at), align=8)
                    for at in (FIRST, STOP)
                    for note in (left_note, right_note)
                ]
                start = f.intrinsic("smax", *bounds[:2])
                # A panel of zeros begins behind its end: nothing is left, and never a stretch of negative length.
                stop = f.intrinsic("smax", f.minimum(bounds[2], bounds[3]), start)
                if self.long:
                    self._long_tile(left, right, start, stop)
                elif self.digits == 3:
                    self._three(left, right, start, stop)
                else:
                    self._one_or_two(left, right, left_note, right_note, start, stop)

    # Sums in registers

    def _registers(self) -> list[list[Variable]]:
        f, isa = self.f, self.isa

        def start(r: int) -> Value | int:
            if not self.bytes or isa.bytes == "sdot":
                return 0
            return f.load("i32", self.a_scales.starts.offset("i32", self.row + r), align=4).splat(isa.lanes)

        return [[f.variable(self.held, first) for _ in range(self.vectors)] for first in map(start, range(isa.rows))]

    def _step(self, sums: list[list[Variable]], left: Value, right: Value, group: Value) -> None:
        f, isa = self.f, self.isa
        place = group * isa.columns
        source, other = left.offset("i32", place), right.offset("i32", place)
        b = [f.load(self.kind, other.offset("i32", v * isa.lanes), align=4) for v in range(self.vectors)]
        for r in range(isa.rows):
            a = f.load("i32", source.offset("i32", r), align=4).splat(isa.lanes)
            for v in range(self.vectors):
                sums[r][v].set(self._multiplied(sums[r][v].get(), a, b[v]))

    def _multiplied(self, sums: Value, a: Value, b: Value) -> Value:
        if self.bytes:
            return quad_product(self.f, self.isa, sums, a, b)
        if not self.split:
            return pair_product(self.f, self.isa, sums, a, b)
        halves = vector(2 * self.isa.lanes, "i16")
        return sums + a.bitcast(halves).cast("sext", "i32") * b.bitcast(halves).cast("sext", "i32")

    def _whole(self, variable: Variable) -> Value:
        """Sums of whole groups."""
        return pair_sums(variable.get(), self.isa.lanes) if self.split else variable.get()

    def _place(self, tile: Value, r: int, v: int) -> Value:
        return tile.offset("i32", r * self.isa.columns + v * self.isa.lanes)

    def _stretch(self, left: Value, right: Value, start: Value, stop: Value, plane: int = 0) -> list[list[Variable]]:
        sums = self._registers()
        self._add(sums, left, right, start, stop, plane)
        return sums

    def _add(
        self, sums: list[list[Variable]], left: Value, right: Value, start: Value, stop: Value, plane: int = 0
    ) -> None:
        """Groups start..stop, from the beginning of a granule to the end of one or of the row."""
        f = self.f
        if not self.form.crossed:
            with f.loop(start, stop) as group:
                self._step(sums, left, right, group)
            return
        self._subtract_crosses(sums, start, stop, plane)
        whole = start + ((stop - start) & -2)
        with f.loop(start, whole, 2) as pair:
            self._step_crossed(sums, left, right, pair)
        with f.when(whole.compare("slt", stop)):
            self._step(sums, left, right, whole)

    def _subtract_crosses(self, sums: list[list[Variable]], start: Value, stop: Value, plane: int) -> None:
        f, isa = self.f, self.isa
        first = granule_after(start)
        # Nothing between them: the panels' notes may then stand in any order.
        last = f.intrinsic("smax", granule_after(stop), first)
        offset = (granule_after(f.arguments[7]) + 1) * (plane * isa.columns) if plane else f.i64(0)

        def between(kind: str, crosses: Value) -> Value:
            low, high = (f.load(kind, crosses.offset("i32", offset + g * isa.columns), align=4) for g in (first, last))
            return low - high

        columns = [between(self.kind, self.right_cross.offset("i32", v * isa.lanes)) for v in range(self.vectors)]
        for r in range(isa.rows):
            row = between("i32", self.left_cross.offset("i32", r)).splat(isa.lanes)
            for v in range(self.vectors):
                sums[r][v].set(sums[r][v].get() + (row + columns[v]))

    def _step_crossed(self, sums: list[list[Variable]], left: Value, right: Value, pair: Value) -> None:
        f, isa = self.f, self.isa
        halves = vector(2 * isa.lanes, "i16")
        places = [(pair + i) * isa.columns for i in range(2)]
        b = [
            [f.load(halves, right.offset("i32", place + v * isa.lanes), align=4) for v in range(self.vectors)]
            for place in places
        ]
        for r in range(isa.rows):
            a = [
                f.load("i32", left.offset("i32", place + r), align=4).splat(isa.lanes).bitcast(halves)
                for place in places
            ]
            for v in range(self.vectors):
                x, y = ((a[i] + b[1 - i][v]).bitcast(self.kind) for i in range(2))
                sums[r][v].set(pair_product(f, isa, sums[r][v].get(), x, y))

    def _keep(self, sums: list[list[Variable]], tile: Value) -> None:
        for r, v in self.cells:
            self.f.store(self._whole(sums[r][v]), self._place(tile, r, v), align=4)

    def _move_up(self, sums: list[list[Variable]], r: int, v: int) -> None:
        # Volatile, or LLVM would keep the upper halves in registers it needs for the sums.
        f = self.f
        place = self._place(self.tiles[1], r, v)
        value = self._whole(sums[r][v])
        above = f.load(self.kind, place, align=4, volatile=True) + (value >> 15)
        f.store(above, place, align=4, volatile=True)
        rest = value & 32767
        if self.split:
            order = [i // 2 if i % 2 == 0 else self.isa.lanes for i in range(2 * self.isa.lanes)]
            rest = rest.shuffle(f.const(self.kind, 0), order)
        sums[r][v].set(rest)

    def _clear_upper(self) -> None:
        for r, v in self.cells:
            self.f.store(self.f.const(self.kind, 0), self._place(self.tiles[1], r, v), align=4, volatile=True)

    # One and two digits

    def _one_or_two(
        self, left: Value, right: Value, left_note: Value, right_note: Value, start: Value, stop: Value
    ) -> None:
        f = self.f
        plain = f.load("i64", left_note.offset("i8", PLAIN), align=8) & f.load(
            "i64", right_note.offset("i8", PLAIN), align=8
        )
        direct = plain.compare("ne", 0)
        if not self.isa.masks:
            direct = direct & self.height.compare("eq", self.isa.rows) & self.width.compare("eq", self.isa.columns)
        fitting = f.i64(1)
        if self.digits == 2:
            eight = vector(8, "float")
            norms = [f.load(eight, note.offset("i8", NORMS), align=4) for note in (left_note, right_note)]
            fits = (norms[0] * norms[1]).compare("olt", _SQUARED_LIMIT)
            # Longer stretches have larger sums: the levels that fit are the first ones.
            fitting = f.intrinsic("ctpop", fits.bitcast("i8")).cast("zext", "i64")
            # One stretch: both ends in the same multiple of its length.
            length = f.const("i64", GRANULE // 2) << fitting
            last = f.intrinsic("smax", stop - 1, start)
            same = ((start ^ last) & -length).compare("eq", 0)
            direct = direct & same & fitting.compare("ne", 0)
        with f.when(direct):
            self._store(self._stretch(left, right, start, stop))
        with f.when(direct ^ 1):
            self._clear_upper()
            if self.digits == 1:
                self._keep(self._stretch(left, right, start, stop), self.tiles[0])
            else:
                with f.when(fitting.compare("ne", 0)):
                    self._stretches(left, right, start, stop, f.const("i64", GRANULE // 2) << fitting)
                with f.when(fitting.compare("eq", 0)):
                    self._any_pairs(left, right, start, stop)
            self._finish(self._two_tiles)

    def _stretches(self, left: Value, right: Value, start: Value, stop: Value, length: Value) -> None:
        """Stretches that end at multiples of `length`."""
        f = self.f
        sums = self._registers()
        at = f.variable("i64", start)
        going = f.variable("i1", start.compare("slt", stop))
        with f.loop_while(going):
            end = f.minimum((at.get() & -length) + length, stop)
            self._add(sums, left, right, at.get(), end)
            for r, v in self.cells:
                self._move_up(sums, r, v)
            at.set(end)
            going.set(end.compare("slt", stop))
        self._keep(sums, self.tiles[0])

    def _any_pairs(self, left: Value, right: Value, start: Value, stop: Value) -> None:
        """First what does not fill 15 pairs, then whole fifteens: no sum takes in more between two moves."""
        f, cells = self.f, self.cells
        limit = _PAIRS_ALWAYS_HELD[2]
        sums = self._registers()
        head = start + (stop - start).binary("srem", limit)
        with f.loop(start, head) as pair:
            self._step(sums, left, right, pair)
        for r, v in cells:
            self._move_up(sums, r, v)
        with f.loop(head, stop, limit) as first:
            # Sums take turns, so that moving one overlaps with adding to the others. Each has had at most 15 pairs
            # since it last moved.
            for u in range(limit):
                self._step(sums, left, right, first + u)
                for at, (r, v) in enumerate(cells):
                    if at * limit // len(cells) == u:
                        self._move_up(sums, r, v)
        self._keep(sums, self.tiles[0])

    def _two_tiles(self, cell: Value) -> Value:
        """Lower and upper tile as doubles."""
        f = self.f
        y = f.load(self.kind, self.tiles[0].offset("i32", cell), align=4).cast("sitofp", "double")
        high = f.load(self.kind, self.tiles[1].offset("i32", cell), align=4).cast("sitofp", "double")
        return self._scaled_sum(high, 32768.0, y)

    def _scaled_sum(self, high: Value, factor: float, low: Value) -> Value:
        """high x factor + low, exact either way."""
        if self.isa.fma:
            return self.f.intrinsic("fma", high, self.f.const(high.kind, factor), low)
        return high * factor + low

    # Three digits

    def _planes(self, left: Value, right: Value, plane: int) -> tuple[Value, Value]:
        a_plane, b_plane = self.f.arguments[9], self.f.arguments[10]
        if not plane:
            return left, right
        return left.offset("i8", a_plane * plane), right.offset("i8", b_plane * plane)

    def _three_products(self, left: Value, right: Value, start: Value, stop: Value) -> None:
        """Upper parts, lower parts, and sums of both parts, each into a tile."""
        for plane, tile in enumerate(self.tiles):
            self._keep(self._stretch(*self._planes(left, right, plane), start, stop, plane), tile)

    def _three(self, left: Value, right: Value, start: Value, stop: Value) -> None:
        self._three_products(left, right, start, stop)

        def number(cell: Value) -> Value:
            # The sum is below 2^50, and every partial one a multiple of what is still to come.
            high, cross, low = (x.cast("sitofp", "double") for x in self._parts(cell))
            return self._scaled_sum(high, 2.0**20, self._scaled_sum(cross, 2.0**10, low))

        self._finish(number)

    def _parts(self, cell: Value) -> tuple[Value, Value, Value]:
        """Sums of the upper parts' products, of the mixed ones (below 2^30: wrapping on the way is harmless), and of
        the lower parts'."""
        high, low, both = (self.f.load(self.kind, tile.offset("i32", cell), align=4) for tile in self.tiles)
        return high, both - high - low, low

    # Long rows

    def _long_tile(self, left: Value, right: Value, start: Value, stop: Value) -> None:
        """Sum over stretches of terms in int64: |sum| <= 2^62."""
        f, isa = self.f, self.isa
        wide = vector(isa.lanes, "i64")
        cells = isa.rows * isa.columns
        with f.loop(0, cells, isa.lanes) as cell:
            f.store(f.const(wide, 0), self.sums.offset("i64", cell), align=8)
        limit = _PAIRS_IN_TILES if self.digits == 2 else _PAIRS_ALWAYS_HELD[self.digits]
        with f.loop(start, stop, limit) as first:
            last = f.minimum(first + limit, stop)
            if self.digits == 3:
                self._three_products(left, right, first, last)
            elif self.digits == 2:
                self._clear_upper()
                self._any_pairs(left, right, first, last)
            else:
                self._keep(self._stretch(left, right, first, last), self.tiles[0])
            with f.loop(0, cells, isa.lanes) as cell:
                if self.digits == 3:
                    high, cross, low = (x.cast("sext", "i64") for x in self._parts(cell))
                    total = (high << 20) + (cross << 10) + low
                else:
                    total = f.load(self.kind, self.tiles[0].offset("i32", cell), align=4).cast("sext", "i64")
                    if self.digits == 2:
                        upper = f.load(self.kind, self.tiles[1].offset("i32", cell), align=4)
                        total = total + (upper.cast("sext", "i64") << 15)
                place = self.sums.offset("i64", cell)
                f.store(f.load(wide, place, align=8) + total, place, align=8)

        def number(cell: Value) -> Value:
            return ew.integer_to_double(f, f.load(wide, self.sums.offset("i64", cell), align=8), large=True)

        self._finish(number)

    # Results

    def _store(self, sums: list[list[Variable]]) -> None:
        """From registers, in binary32."""
        f, isa = self.f, self.isa
        floats = vector(isa.lanes, "float")
        stride = f.arguments[8]
        places = self.b_scales.floats.offset("float", self.column)
        column_scales = [f.load(floats, places.offset("float", v * isa.lanes), align=4) for v in range(self.vectors)]

        def line(r: int) -> tuple[Value, list[Value]]:
            scale = f.load("float", self.a_scales.floats.offset("float", self.row + r), align=4).splat(isa.lanes)
            values = [
                self._whole(sums[r][v]).cast("sitofp", "float") * scale * column_scales[v] for v in range(self.vectors)
            ]
            return self.target.offset("float", stride * r), values

        whole = self.height.compare("eq", isa.rows) & self.width.compare("eq", isa.columns)

        def store_whole() -> None:
            for r in range(isa.rows):
                target, values = line(r)
                for v, value in enumerate(values):
                    f.store(value, target.offset("float", v * isa.lanes), align=4)

        if not isa.masks:
            store_whole()
            return
        with f.when(whole):
            store_whole()
        with f.when(whole ^ 1):
            masks = [f.mask_below(isa.lanes, self._left(v)) for v in range(self.vectors)]
            for r in range(isa.rows):
                with f.when(self.height.compare("sgt", r)):
                    target, values = line(r)
                    for v, value in enumerate(values):
                        f.masked_store(value, target.offset("float", v * isa.lanes), masks[v], align=4)

    def _left(self, v: int) -> Value:
        """Columns of the result in vector v and after."""
        return self.f.intrinsic("smax", self.width - v * self.isa.lanes, self.f.i64(0))

    def _finish(self, number: Callable[[Value], Value]) -> None:
        """From memory, in binary64: `number` of a cell is its sum, as a double that rounds as the sum would."""
        f, isa = self.f, self.isa
        doubles = vector(isa.lanes, "double")
        stride = f.arguments[8]
        a_scales = self.a_scales.doubles.offset("double", self.row)
        b_scales = self.b_scales.doubles.offset("double", self.column)

        def results(r: Value) -> list[Value]:
            scale = f.load("double", a_scales.offset("double", r), align=8).splat(isa.lanes)
            values = []
            for v in range(self.vectors):
                b = f.load(doubles, b_scales.offset("double", v * isa.lanes), align=8)
                # Powers of two: nothing rounds before the conversion. A NaN scale has binary32's NaN as its upper half.
                y = number(r * isa.columns + v * isa.lanes) * (scale * b)
                values.append(y.cast("fptrunc", "float"))
            return values

        with f.when(self.width.compare("eq", isa.columns)), f.loop(0, self.height) as r:
            line = self.target.offset("float", r * stride)
            for v, value in enumerate(results(r)):
                f.store(value, line.offset("float", v * isa.lanes), align=4)
        with f.when(self.width.compare("ne", isa.columns)), f.loop(0, self.height) as r:
            line = self.target.offset("float", r * stride)
            for v, value in enumerate(results(r)):
                if isa.masks:
                    mask = f.mask_below(isa.lanes, self._left(v))
                    f.masked_store(value, line.offset("float", v * isa.lanes), mask, align=4)
                else:
                    f.store(value, self.line.offset("float", v * isa.lanes), align=4)
            if not isa.masks:
                with f.loop(0, self.width) as column:
                    element = f.load("float", self.line.offset("float", column), align=4)
                    f.store(element, line.offset("float", column), align=4)
