"""Every elementwise operation on vectors of any width, or on scalars (no lanes)."""

from __future__ import annotations

from cupel.protocol.arithmetic.cpu import functions
from cupel.protocol.arithmetic.cpu.ir import Function, Value, split_type, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.operations import NOT_FINITE, UNARY_FLOAT, DType, Opcode, Rounding, digit_width

NAN_BITS = 0x7FC00000
INFINITY_BITS = 0x7F800000
MAGNITUDE = 0x7FFFFFFF
LOWEST = -(1 << 31)

ELEMENT = {
    DType.FLOAT32: "float",
    DType.INT8: "i8",
    DType.INT16: "i16",
    DType.INT32: "i32",
    DType.INT64: "i64",
    DType.UINT8: "i8",
    DType.BOOL: "i1",
}
"""In registers; in memory a bool is an i8."""
MEMORY = {**ELEMENT, DType.BOOL: "i8"}
UNSIGNED = (DType.UINT8, DType.BOOL)
DIRTY = frozenset({"add", "sub", "mul", "div", "sqrt", "neg"})
"""Their NaN may have another sign or payload than 0x7fc00000; stores and bit-wise uses make it canonical."""
PASSING = frozenset({"select", "copy", "abs", "round"})
"""They hand on what they were given."""

_FUNCTIONS = {o.name.lower(): o for o in UNARY_FLOAT if o != Opcode.SQRT}
_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_INTEGER_COMPARE = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}


def canonical(x: Value) -> Value:
    """The float with any NaN as 0x7fc00000.

    Tested on the bits: LLVM takes one NaN for as good as another, and drops a select between NaN and a square root
    that compares as unordered.
    """
    bits = x.as_bits()
    return (bits & MAGNITUDE).compare("sgt", INFINITY_BITS).select(NAN_BITS, bits).cast("bitcast", "float")


def order_key(x: Value, *, nan_first_of_lowest: bool = False) -> Value:
    """Signed i32 that sorts floats as -inf < ... < -0 < +0 < ... < inf < NaN, or NaN below all; NaN is canonical."""
    bits = x.as_bits()
    key = bits ^ ((bits >> 31) & MAGNITUDE)
    return x.compare("uno", 0.0).select(LOWEST, key) if nan_first_of_lowest else key


def from_order_key(key: Value, *, nan_first_of_lowest: bool = False) -> Value:
    bits = key ^ ((key >> 31) & MAGNITUDE)
    if nan_first_of_lowest:
        bits = key.compare("eq", LOWEST).select(NAN_BITS, bits)
    return bits.cast("bitcast", "float")


def round_to_integral(f: Function, x: Value, rounding: int) -> Value:
    """ROUND: sign of zero kept, NaN and infinities passed on. Adding 2^23 rounds a positive float to an integer."""
    a = f.intrinsic("fabs", x)
    nearest = (a + 2.0**23) - 2.0**23
    if rounding == Rounding.TOWARD_ZERO:
        nearest = nearest.compare("ogt", a).select(nearest - 1.0, nearest)
    y = f.intrinsic("copysign", nearest, x)
    if rounding == Rounding.DOWN:
        y = y.compare("ogt", x).select(y - 1.0, y)
    elif rounding == Rounding.UP:
        y = y.compare("olt", x).select(y + 1.0, y)
    return a.compare("olt", 2.0**23).select(f.intrinsic("copysign", y, x), x)


def _divide(name: str, x: Value, y: Value, dtype: DType) -> Value:
    """Floor quotient or remainder; by 0: 0 or x. The divisor is replaced where the processor would trap."""
    if dtype in UNSIGNED:
        zero = y.compare("eq", 0)
        safe = zero.select(1, y)
        if name == "div":
            return zero.select(0, x.binary("udiv", safe))
        return zero.select(x, x.binary("urem", safe))
    zero, minus_one = y.compare("eq", 0), y.compare("eq", -1)
    safe = (zero | minus_one).select(1, y)
    quotient, rest = x.binary("sdiv", safe), x.binary("srem", safe)
    adjust = rest.compare("ne", 0) & (rest ^ safe).compare("slt", 0)
    if name == "div":
        floor = adjust.select(quotient - 1, quotient)
        return zero.select(0, minus_one.select(-x, floor))
    modulo = adjust.select(rest + safe, rest)
    return zero.select(x, minus_one.select(0, modulo))


def cast(f: Function, x: Value, source: DType, target: DType, rounding: int) -> Value:
    if source == target:
        return x
    element = ELEMENT[target]
    if source == DType.FLOAT32:
        if target == DType.BOOL:
            return x.compare("une", 0.0)
        if rounding != Rounding.TOWARD_ZERO:
            x = round_to_integral(f, x, rounding)
        lanes, _ = split_type(x.kind)
        kind = vector(lanes, element)
        prefix = f"v{lanes}" if lanes else ""
        op = "fptoui" if target in UNSIGNED else "fptosi"
        return f.call(kind, f"llvm.{op}.sat.{prefix}{element}.{prefix}f32", [x])
    if target == DType.FLOAT32:
        return x.cast("uitofp" if source in UNSIGNED else "sitofp", "float")
    if target == DType.BOOL:
        return x.compare("ne", 0)
    if source == DType.BOOL or target.size_bytes > source.size_bytes:
        return x.cast("zext" if source in UNSIGNED else "sext", element)
    return x.cast("trunc", element)


def quantize(f: Function, x: Value, e: Value, digits: int, plane: int) -> Value:
    """QUANTIZE for any e, in binary64: x 2^shift is exact for |shift| <= 400, and every larger shift ends alike."""
    w = digit_width(digits)
    wide = e.cast("sext", "i64")
    shift = f.const(wide.kind, w) - wide
    shift = f.intrinsic("smax", f.intrinsic("smin", shift, f.const(wide.kind, 400)), f.const(wide.kind, -400))
    scale = ((shift + 1023) << 52).cast("bitcast", "double")
    y = x.cast("fpext", "double") * scale
    bound = float(1 << w)
    y = y.compare("ogt", bound).select(bound, y)
    y = y.compare("olt", -bound).select(-bound, y)
    q = (y + 1.5 * 2.0**52).as_bits().cast("trunc", "i32")
    finite = (x.as_bits() & MAGNITUDE).compare("ult", INFINITY_BITS) & e.compare("ne", NOT_FINITE)
    q = finite.select(q, 0)
    if digits == 3:
        high = (q + 512) >> 10
        q = high if plane == 0 else q - (high << 10)
    return q.cast("trunc", "i16")


def rounded_function(f: Function, isa: InstructionSet, opcode: Opcode, x: Value) -> Value:
    """A correctly rounded function of a vector of the set's width, or of a scalar."""
    name = functions.function_for(f.module, isa, opcode)
    floats = vector(isa.width, "float")
    if split_type(x.kind)[0]:
        return f.call(floats, name, [x])
    return f.call(floats, name, [x.splat(isa.width)]).extract(0)


def apply(
    f: Function,
    isa: InstructionSet,
    name: str,
    attributes: tuple[int, ...],
    args: list[Value],
    dtype: DType,
    result: DType,
    dirty: list[bool],
) -> Value:
    """`dtype` is the last operand's; `dirty` says whose NaNs may not be canonical."""
    x = args[0]
    if name == "copy":
        return x
    if name in _FUNCTIONS:
        return rounded_function(f, isa, _FUNCTIONS[name], x)
    if name == "select":
        return args[0].select(args[1], args[2])
    if name == "cast":
        return cast(f, x, dtype, result, attributes[0])
    if name == "round":
        return round_to_integral(f, x, attributes[0])
    if name == "quantize":
        return quantize(f, x, args[1], *attributes)
    if name == "sqrt":
        return f.intrinsic("sqrt", x)
    if name in ("maximum", "minimum"):
        return _extreme(f, name, args, dtype, dirty)
    if dtype == DType.FLOAT32:
        if name in _FLOAT_COMPARE:
            return x.compare(_FLOAT_COMPARE[name], args[1])
        if name == "abs":
            return f.intrinsic("fabs", x)
        if name == "neg":
            return -x
        y = args[1]
        return {"add": x.__add__, "sub": x.__sub__, "mul": x.__mul__, "div": x.__truediv__}[name](y)
    return _integer(f, name, args, dtype)


def _extreme(f: Function, name: str, args: list[Value], dtype: DType, dirty: list[bool]) -> Value:
    biggest = name == "maximum"
    if dtype == DType.FLOAT32:
        keys = [
            order_key(canonical(a) if d else a, nan_first_of_lowest=not biggest)
            for a, d in zip(args, dirty, strict=True)
        ]
        return from_order_key(f.intrinsic("smax" if biggest else "smin", *keys), nan_first_of_lowest=not biggest)
    sign = "u" if dtype in UNSIGNED else "s"
    return f.intrinsic(sign + ("max" if biggest else "min"), *args)


def _integer(f: Function, name: str, args: list[Value], dtype: DType) -> Value:
    x = args[0]
    if name in _INTEGER_COMPARE:
        condition = name if name in ("eq", "ne") else ("u" if dtype in UNSIGNED else "s") + name
        return x.compare(condition, args[1])
    if name == "not":
        return x ^ (1 if dtype == DType.BOOL else -1)
    if name == "neg":
        return -x
    if name == "abs":
        return x if dtype in UNSIGNED else f.intrinsic("abs", x, flag=False)
    y = args[1]
    if name in ("div", "rem"):
        return _divide(name, x, y, dtype)
    if name in ("shl", "shr", "shr_logical"):
        count = y & (8 * dtype.size_bytes - 1)
        if name == "shl":
            return x << count
        return x.lshr(count) if name == "shr_logical" or dtype in UNSIGNED else x >> count
    if name == "mulhi":
        wide = x.cast("zext", "i128") * y.cast("zext", "i128")
        return wide.lshr(64).cast("trunc", "i64")
    return {"add": x.__add__, "sub": x.__sub__, "mul": x.__mul__, "and": x.__and__, "or": x.__or__, "xor": x.__xor__}[
        name
    ](y)


def exponent_of(f: Function, magnitude: Value) -> Value:
    """frexp exponent of a nonnegative float's bits (i32); ZERO_ROW (-149) for 0, 129 for NaN and infinity."""
    field = magnitude.lshr(23)
    subnormal = f.const(magnitude.kind, -117) - f.intrinsic("ctlz", magnitude, flag=False)
    return field.compare("eq", 0).select(subnormal, field - 126)


def power_of_two(exponent: Value) -> Value:
    """2^exponent as a double, from an i64 in [-1022, 1023]."""
    return ((exponent + 1023) << 52).cast("bitcast", "double")


def integer_to_double(f: Function, total: Value, *, large: bool) -> Value:
    """An i64 as a double that rounds to binary32 as the integer would.

    Above 2^53 a conversion would round by itself first; there the low 11 bits are folded into one that stays odd, far
    below anything binary32 keeps.
    """
    if not large:
        return total.cast("sitofp", "double")
    sticky = (total & 0x7FF).compare("ne", 0).select(f.const(total.kind, 1), f.const(total.kind, 0))
    folded = ((total >> 11) | sticky) << 11
    size = f.intrinsic("abs", total, flag=False)
    return size.compare("ugt", 1 << 53).select(folded, total).cast("sitofp", "double")
