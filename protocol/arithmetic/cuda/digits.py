"""Names that only a GPU's maps have: digits of a quantised operand, and sums of digits put together."""

from __future__ import annotations

from collections.abc import Sequence

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Value
from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, digit_width

_LARGEST_SHIFT = 1000
"""What a scale beyond it makes of any binary32 is settled: 0, or more than every bound."""
_LARGEST_SCALE = 128
_MAGIC = 1.5 * 2.0**52


def apply(f: Function, name: str, attributes: tuple[int, ...], args: Sequence[Value]) -> Value | None:
    """The value of one of these maps; None for another name."""
    kind, _, form = name.partition("_")
    if name == "scaled_exponent":
        return _scaled_exponent(f, *args)
    if name == "row_exponent":
        return args[0].compare("eq", ew.LOWEST).select(f.const("i32", ZERO_ROW), args[0])
    if kind == "digit":
        return _digit(f, form, attributes, args)
    if kind == "combine":
        return _combine(f, form, attributes, args)
    return None


def _scaled_exponent(f: Function, x: Value, g: Value) -> Value:
    """A term of EXPONENT_SCALED: frexp exponent of x 2^g, the lowest integer for a real that is 0, NOT_FINITE."""
    magnitude = x.as_bits() & ew.MAGNITUDE
    is_number = magnitude.compare("ne", 0)
    special = magnitude.compare("uge", ew.INFINITY_BITS) | (g.compare("eq", NOT_FINITE) & is_number)
    zero = magnitude.compare("eq", 0) | g.compare("sle", ZERO_ROW)
    bounded = f.intrinsic("smin", g, f.const("i32", _LARGEST_SCALE))
    term = zero.select(f.const("i32", ew.LOWEST), ew.exponent_of(f, magnitude) + bounded)
    return special.select(f.const("i32", NOT_FINITE), term)


def _digit(f: Function, form: str, attributes: tuple[int, ...], args: Sequence[Value]) -> Value:
    """Digit `which` of q = round-half-even(x 2^(g + w - e)), or q itself as a double; 0 where anything is not finite.

    With one scale it is e, and g is 0; a second one (the left operand of a product by rows) comes first and is g.
    """
    digits, which, scales = attributes
    x, e = args[0], args[-1]
    w = digit_width(digits)
    finite = (x.as_bits() & ew.MAGNITUDE).compare("ult", ew.INFINITY_BITS) & e.compare("ne", NOT_FINITE)
    shift = f.const("i64", w) - e.cast("sext", "i64")
    if scales == 2:
        g = args[1]
        finite = finite & g.compare("sgt", ZERO_ROW) & g.compare("ne", NOT_FINITE)
        bounded = f.intrinsic("smin", g, f.const("i32", _LARGEST_SCALE))
        shift = shift + f.intrinsic("smax", bounded, f.const("i32", ZERO_ROW)).cast("sext", "i64")
    y = x.cast("fpext", "double") * ew.power_of_two(_bounded(f, shift))
    bound = float(1 << w)
    y = y.compare("ogt", bound).select(bound, y)
    y = y.compare("olt", -bound).select(-bound, y)
    rounded = y + _MAGIC
    if form == "float64":
        whole = rounded - _MAGIC
        # The sum of products that are all -0 would be -0: 0 has one sign here.
        return finite.select(whole + 0.0, f.const("double", 0.0)).as_bits()
    q = finite.select(rounded.as_bits().cast("trunc", "i32"), f.const("i32", 0))
    for place in range(digits - 1):
        above = (q + 64) >> 7
        if place == which:
            q = q - (above << 7)
            break
        q = above
    if form == "int8":
        return q.cast("trunc", "i8")
    # An integer of seven bits: the upper half of its binary32 is its bfloat16.
    return (q.cast("sitofp", "float").as_bits() >> 16).cast("trunc", "i16")


def _combine(f: Function, form: str, attributes: tuple[int, ...], args: Sequence[Value]) -> Value:
    """RN(2^(ea + eb - 2w) sum of the parts at their places), NaN where an exponent says so; an integer 0 gives +0."""
    digits, count, chunks, scales = attributes
    parts, exponents = args[: count * count * chunks], args[count * count * chunks :]
    assert len(exponents) == scales
    total: Value | None = None
    for at, part in enumerate(parts):
        i, j = at // count % count, at % count
        if form in ("int8", "int64"):
            whole = part.cast("sext", "i64")
        else:
            number = part.cast("bitcast", "double") if form == "float64" else part
            whole = number.cast("fptosi", "i64")
        placed = whole << 7 * (i + j) if i + j else whole
        total = placed if total is None else total + placed
    assert total is not None
    power = f.const("i64", -2 * digit_width(digits))
    special = exponents[0].compare("eq", NOT_FINITE)
    for e in exponents:
        power = power + e.cast("sext", "i64")
    for e in exponents[1:]:
        special = special | e.compare("eq", NOT_FINITE)
    # Exponents that come from reductions lie in [-298, 384]; NOT_FINITE is bounded here and replaced below.
    scaled = ew.integer_to_double(f, total, large=True) * ew.power_of_two(_bounded(f, power))
    bits = scaled.cast("fptrunc", "float").as_bits()
    return special.select(f.const("i32", ew.NAN_BITS), bits).cast("bitcast", "float")


def _bounded(f: Function, shift: Value) -> Value:
    least = f.intrinsic("smin", shift, f.const("i64", _LARGEST_SHIFT))
    return f.intrinsic("smax", least, f.const("i64", -_LARGEST_SHIFT))
