"""Every operation through plain PyTorch, with the bits of reference.py: the engine for any machine PyTorch runs on.

PyTorch's own float32 kernels are used only where IEEE-754 leaves one answer (add, subtract, multiply, divide, rounding
to integral, comparisons). Sums and products go through exact integers; the last step is one rounding from float64.
Subnormals must not be flushed: `torch.set_flush_denormal(True)` makes this engine unfit, and its self-test says so.

Operands may be on any one device, and the result is there too: no tensor is made without naming its device. What is
read back to decide on a shorter way is read on the CPU only, where reading costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from cupel.protocol import philox
from cupel.protocol.arithmetic import digit_products, reference
from cupel.protocol.arithmetic.exact_functions import exact
from cupel.protocol.arithmetic.operations import (
    COMPARISONS,
    NOT_FINITE,
    UNARY_FLOAT,
    ZERO_ROW,
    DType,
    Opcode,
    Operation,
    Rounding,
    TensorType,
    check_operation,
)
from cupel.protocol.arithmetic.roundings import (
    exponents,
    from_keys,
    order_keys,
    plane_of,
    power_of_two,
    quantized,
    rounded,
    rounded_product,
)

Tensor = torch.Tensor

_FUNCTION_MARGIN = 2.0**-48
"""Relative error granted to PyTorch's float64 functions, whose libraries promise 2^-52."""
_LARGEST_ANGLE = 2.0**16
"""Above it sin and cos are computed exactly rather than trusting a library's argument reduction."""
_FLOAT64_TERMS = 1 << 12
"""Terms of a three-digit product (each at most (2^20 + 2^9)^2) that sum exactly in float64."""
_INT8_FROM_TERMS = 512
_INT8_FROM_PRODUCTS = 1 << 24
"""Two-digit products this long and large are faster as four int8 ones (1 thread, Zen 5: 0.77 against 1.31 ms)."""


def evaluate(operation: Operation, operands: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
    """The result of one operation; it may share memory with an operand.

    device  where the result of an operation without operands goes; the CPU by default
    Raises  MalformedProgram if it is not well typed over these operands
    """
    check_operation(operation, [TensorType.of(t) for t in operands])
    if operation.opcode == Opcode.IOTA:
        return iota(operation, device or _CPU)
    return IMPLEMENTATIONS[operation.opcode](operation, operands)


_CPU = torch.device("cpu")


def is_worth_asking(x: Tensor) -> bool:
    """Whether a look at values may choose a shorter way: on another device, whoever asks waits for all before."""
    return x.device.type == "cpu"


# Floating-point building blocks


def _canonical(x: Tensor) -> Tensor:
    """x, freshly computed, with every NaN made 0x7fc00000: processors differ in the sign they give one."""
    # One cheap pass asks; an infinity of each sign also gives NaN, harmlessly.
    if not is_worth_asking(x) or torch.isnan(x.sum()):
        x = x.masked_fill(torch.isnan(x), float("nan"))
    return x


def _zero(x: Tensor) -> Tensor:
    """The integer 0 where x is."""
    return x.new_zeros((), dtype=torch.int64)


def _largest(x: Tensor) -> Tensor:
    """max |x| over the last dimension, NaN where there is one."""
    return x.abs().amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


# Shapes and copies


def _reshape(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return xs[0].reshape(op.result.shape)


def _permute(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return xs[0].permute(op.attributes)


def _expand(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return xs[0].expand(op.result.shape)


def _slice(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    dim, start, step = op.attributes
    size = op.result.shape[dim]
    if size == 0:
        return xs[0].new_empty(op.result.shape)
    index = [slice(None)] * xs[0].dim()
    index[dim] = slice(start, start + (size - 1) * step + 1, step)
    return xs[0][tuple(index)]


def _pad(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, (fill, *low) = xs[0], op.attributes
    result = x.new_zeros(op.result.shape)
    if fill:
        result.copy_(_constant_of_bits(fill, op.result.dtype).to(x.device).expand(op.result.shape))
    result[tuple(slice(n, n + size) for n, size in zip(low, x.shape, strict=True))] = x
    return result


def _constant_of_bits(bits: int, dtype: DType) -> Tensor:
    return torch.frombuffer(bytearray(bits.to_bytes(dtype.size_bytes, "little")), dtype=dtype.torch)[0]


def _concat(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(xs), op.attributes[0])


def iota(op: Operation, device: torch.device) -> Tensor:
    (dim,), shape = op.attributes, op.result.shape
    along = [n if d == dim else 1 for d, n in enumerate(shape)]
    return torch.arange(shape[dim], device=device).reshape(along).expand(shape)


# Elementwise


def _cast(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, target = xs[0], op.result.dtype.torch
    if x.dtype == target:
        return x
    if target == torch.bool:
        return x != 0
    if x.dtype == torch.float32:
        return _float_to_integer(x, Rounding(op.attributes[0]), target)
    if target == torch.float32:
        return rounded(x, _zero(x)) if x.dtype == torch.int64 else x.double().float()
    return x.to(target)


def _float_to_integer(x: Tensor, rounding: Rounding, target: torch.dtype) -> Tensor:
    limits = torch.iinfo(target)
    wide = _ROUNDING[rounding](torch.where(torch.isnan(x), 0.0, x).to(torch.float64))
    if target != torch.int64:
        return wide.clamp(limits.min, limits.max).to(target)
    inside = (wide >= -(2.0**63)) & (wide < 2.0**63)
    beyond = torch.where(wide < 0, limits.min, limits.max)
    return torch.where(inside, torch.where(inside, wide, 0.0).to(torch.int64), beyond)


_ROUNDING: dict[Rounding, Callable[[Tensor], Tensor]] = {
    Rounding.NEAREST_EVEN: torch.round,
    Rounding.TOWARD_ZERO: torch.trunc,
    Rounding.DOWN: torch.floor,
    Rounding.UP: torch.ceil,
}


def _round(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return torch.copysign(_ROUNDING[Rounding(op.attributes[0])](xs[0]), xs[0])


_ARITHMETIC: dict[Opcode, Callable[[Tensor, Tensor], Tensor]] = {
    Opcode.ADD: torch.add,
    Opcode.SUB: torch.sub,
    Opcode.MUL: torch.mul,
    Opcode.AND: torch.bitwise_and,
    Opcode.OR: torch.bitwise_or,
    Opcode.XOR: torch.bitwise_xor,
}


def _arithmetic(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    result = _ARITHMETIC[op.opcode](xs[0], xs[1])
    return _canonical(result) if result.is_floating_point() else result


def _divide(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, y = xs
    if x.is_floating_point():
        return _canonical(torch.div(x, y))
    # Division by 0 raises and the lowest integer over -1 traps in hardware, so neither is asked for.
    usual = (y != 0) & (y != -1) if x.dtype != torch.uint8 else y != 0
    quotient = torch.div(x, torch.where(usual, y, 1), rounding_mode="floor")
    return torch.where(usual, quotient, torch.where(y == 0, 0, -x))


def _remainder(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, y = xs
    return torch.where(y == 0, x, x - _divide(op, xs) * y)


def _extreme(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    highest = op.opcode == Opcode.MAXIMUM
    x, y = (order_keys(t, descending=highest) for t in xs)
    return from_keys(torch.maximum(x, y) if highest else torch.minimum(x, y), xs[0].dtype)


def _negate(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    result = torch.neg(xs[0])
    return _canonical(result) if result.is_floating_point() else result


def _absolute(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return torch.abs(xs[0])


_FUNCTIONS: dict[Opcode, Callable[[Tensor], Tensor]] = {
    Opcode.SQRT: torch.sqrt,
    Opcode.EXP: torch.exp,
    Opcode.LOG: torch.log,
    Opcode.TANH: torch.tanh,
    Opcode.SIGMOID: torch.sigmoid,
    Opcode.ERF: torch.erf,
    Opcode.SIN: torch.sin,
    Opcode.COS: torch.cos,
    Opcode.RSQRT: torch.rsqrt,
}


def _function(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    """In float64, where its neighbourhood rounds to one binary32; exactly, element by element, where it does not."""
    x = xs[0].contiguous()
    wide = _FUNCTIONS[op.opcode](x.to(torch.float64))
    result = (wide * (1 - _FUNCTION_MARGIN)).to(torch.float32)
    undecided = result != (wide * (1 + _FUNCTION_MARGIN)).to(torch.float32)  # true for NaN, sorted out below
    if op.opcode in (Opcode.SIN, Opcode.COS):
        undecided |= x.abs() > _LARGEST_ANGLE
    if undecided.any():
        result = torch.where(torch.isnan(result), float("nan"), result)
        undecided &= ~torch.isnan(x) & ~(torch.isnan(result) & torch.isfinite(x))
        places = undecided.reshape(-1).nonzero().flatten()
        # Few, and on whatever device the others are: these are decided here, by the definition.
        arguments = x.reshape(-1)[places].view(torch.int32).tolist()
        decided = [exact(op.opcode, bits & 0xFFFFFFFF) for bits in arguments]
        words = torch.tensor(decided, dtype=torch.int64, device=x.device).to(torch.int32)
        result.reshape(-1)[places] = words.view(torch.float32)
    return result


_COMPARE: dict[Opcode, Callable[[Tensor, Tensor], Tensor]] = {
    Opcode.EQ: torch.eq,
    Opcode.NE: torch.ne,
    Opcode.LT: torch.lt,
    Opcode.LE: torch.le,
    Opcode.GT: torch.gt,
    Opcode.GE: torch.ge,
}


def _compare(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return _COMPARE[op.opcode](xs[0], xs[1])


def _not(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return torch.bitwise_not(xs[0])


def _shift(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x = xs[0]
    width = 8 * x.element_size()
    count = xs[1] & (width - 1)
    if op.opcode == Opcode.SHL:
        return torch.bitwise_left_shift(x, count)
    shifted = torch.bitwise_right_shift(x, count)
    if op.opcode == Opcode.SHR or x.dtype == torch.uint8:
        return shifted
    wide = count.to(torch.int64)
    kept = torch.where(wide == 0, -1, (1 << (width - wide.clamp(min=1))) - 1)
    return (shifted.to(torch.int64) & kept).to(x.dtype)


def _multiply_high(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    """From 32-bit halves; a product of two of them fits 64 bits, read as unsigned."""
    (x0, x1), (y0, y1) = ((t & 0xFFFFFFFF, t >> 32 & 0xFFFFFFFF) for t in xs)
    crossed = x1 * y0 + (x0 * y0 >> 32 & 0xFFFFFFFF)
    middle = x0 * y1 + (crossed & 0xFFFFFFFF)
    return x1 * y1 + (crossed >> 32 & 0xFFFFFFFF) + (middle >> 32 & 0xFFFFFFFF)


def _select(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return torch.where(xs[0], xs[1], xs[2])


# Reductions and orders


def _sum(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x = xs[0]
    if not x.is_floating_point():
        return x.sum(-1, dtype=torch.int64)
    e = exponents(_largest(x))
    quantised = torch.round(x.to(torch.float64) * power_of_two(reference.SUM_BITS - e).unsqueeze(-1))
    finite = e != NOT_FINITE
    if is_worth_asking(x) and finite.all():
        return rounded(quantised.to(torch.int64).sum(-1), e - reference.SUM_BITS)
    total = torch.where(finite.unsqueeze(-1), quantised, 0.0).to(torch.int64).sum(-1)
    result = rounded(total, e - reference.SUM_BITS)
    nan, up, down = torch.isnan(x).any(-1), (x == float("inf")).any(-1), (x == -float("inf")).any(-1)
    return _with_special(result, nan, up, down)


def _with_special(result: Tensor, nan: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Sums of rows with a NaN, with a positive or with a negative infinity put in place."""
    result = torch.where(up, float("inf"), torch.where(down, -float("inf"), result))
    return result.masked_fill(nan | (up & down), float("nan"))


def _reduce_extreme(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    highest = op.opcode in (Opcode.MAX, Opcode.ARGMAX)
    keys = order_keys(xs[0], descending=highest)
    if op.opcode in (Opcode.MAX, Opcode.MIN):
        return from_keys(keys.amax(-1) if highest else keys.amin(-1), xs[0].dtype)
    extreme = keys.amax(-1, keepdim=True) if highest else keys.amin(-1, keepdim=True)
    # The first true wins by definition here, which argmax over the keys themselves does not promise.
    places = torch.arange(keys.shape[-1], device=keys.device).expand(keys.shape)
    return torch.where(keys == extreme, places, keys.shape[-1]).amin(-1)


def _top_k(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return _sorted(xs[0], descending=True)[..., : op.attributes[0]]


def _sort(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return _sorted(xs[0], descending=op.attributes[0] == 1)


def _sorted(x: Tensor, *, descending: bool) -> Tensor:
    return torch.sort(order_keys(x, descending=descending), dim=-1, descending=descending, stable=True).indices


def _cumulative_sum(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return xs[0].to(torch.int64).cumsum(-1)


# Indexing


def _gather(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    (x, index), dim = xs, op.attributes[0]
    size = x.shape[dim]
    if size == 0:
        return x.new_zeros(op.result.shape)
    inside = (index >= 0) & (index < size)
    return torch.where(inside, x.gather(dim, index.clamp(0, size - 1)), x.new_zeros(()))


def _take(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, index = xs
    if x.shape[0] == 0:
        return x.new_zeros(op.result.shape)
    inside = (index >= 0) & (index < x.shape[0])
    rows = x[index.clamp(0, x.shape[0] - 1)]
    if is_worth_asking(x) and inside.all():
        return rows
    return torch.where(inside.reshape(*index.shape, *(1,) * (x.dim() - 1)), rows, x.new_zeros(()))


def _index_add(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, index, source = xs
    inside = (index >= 0) & (index < x.shape[0])
    rows, place = torch.unique(index[inside], return_inverse=True)
    # A cell where nothing lands is the sum of its old value alone: itself, but for -0.
    result = torch.where(x == 0, 0.0, x)
    if rows.numel() and x.shape[1]:
        result[rows] = _grouped_sum(x[rows], place, source[inside])
    return result


def _grouped_sum(old: Tensor, place: Tensor, source: Tensor) -> Tensor:
    """old[R, D] + source[n, D] landing on rows place[n], order-free."""
    finite = is_worth_asking(old) and torch.isfinite(old).all() and torch.isfinite(source).all()
    old_finite = old if finite else torch.where(torch.isfinite(old), old, 0.0)
    source_finite = source if finite else torch.where(torch.isfinite(source), source, 0.0)
    cells = place.unsqueeze(-1).expand_as(source)
    e = exponents(old_finite.abs().scatter_reduce_(0, cells, source_finite.abs(), "amax"))
    scale = power_of_two(reference.SUM_BITS - e)
    total = torch.round(old_finite.to(torch.float64) * scale).to(torch.int64)
    total.index_add_(0, place, torch.round(source_finite.to(torch.float64) * scale[place]).to(torch.int64))
    result = rounded(total, e - reference.SUM_BITS)
    if finite:
        return result

    def met(test: Callable[[Tensor], Tensor]) -> Tensor:
        return test(old).to(torch.int64).index_add_(0, place, test(source).to(torch.int64)) > 0

    return _with_special(result, met(torch.isnan), met(torch.isposinf), met(torch.isneginf))


def _scatter(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    (x, index, source), dim = xs, op.attributes[0]
    if source.numel() == 0 or x.numel() == 0:
        return x
    inside = (index >= 0) & (index < x.shape[dim])
    places = torch.arange(source.numel(), device=x.device).reshape(source.shape)
    positions = torch.where(inside, places, -1)
    winner = torch.full(x.shape, -1, dtype=torch.int64, device=x.device)
    winner.scatter_reduce_(dim, index.clamp(0, x.shape[dim] - 1), positions, "amax")
    return torch.where(winner >= 0, source.reshape(-1)[winner.clamp(min=0)], x)


# Products


def _exponent(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return exponents(_largest(xs[0])).to(torch.int32)


def _quantize(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, e = xs
    return _plane(x, _zero(x), e.unsqueeze(-1), op.attributes)


def _exponent_scaled(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, g = xs[0], xs[1].unsqueeze(-2).to(torch.int64)
    if x.shape[-1] == 0:
        return torch.full(op.result.shape, ZERO_ROW, dtype=torch.int32, device=x.device)
    special = ~torch.isfinite(x) | ((g == NOT_FINITE) & (x != 0))
    scale = torch.where(g <= ZERO_ROW, 0.0, power_of_two(g.clamp(ZERO_ROW, 128)))
    largest = (torch.where(special, 0.0, x).to(torch.float64) * scale).abs().amax(-1)
    return torch.where(special.any(-1), NOT_FINITE, exponents(largest)).to(torch.int32)


def _quantize_scaled(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    x, g, e = xs[0], xs[1].unsqueeze(-2).to(torch.int64), xs[2]
    usable = (g > ZERO_ROW) & (g != NOT_FINITE)
    return _plane(torch.where(usable, x, 0.0), g.clamp(ZERO_ROW, 128), e.unsqueeze(-1), op.attributes)


def _plane(x: Tensor, g: Tensor, e: Tensor, attributes: Sequence[int]) -> Tensor:
    digits, plane = attributes
    q = quantized(x, g - e.to(torch.int64), digits)
    if not is_worth_asking(x) or not torch.isfinite(x).all() or (e == NOT_FINITE).any():
        q = torch.where(torch.isfinite(x) & (e != NOT_FINITE), q, 0.0)
    return plane_of(q, digits, plane)


def _dot(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    return dot(op, xs, _sums)


Sums = Callable[[Sequence[Tensor], Sequence[Tensor], int], Tensor | None]
"""(planes of the left operand [..., M, K], of the right one [..., N, K], digits) to sum_k q_mk r_nk: integers in
float64 for one or two digits, 0 always +0, int64 for three; None where these planes need more than 64 bits."""


def dot(op: Operation, xs: Sequence[Tensor], compute_sums: Sums, *, are_exponents_known: bool = False) -> Tensor:
    """DOT or DOT_ROWS, given a way to the integer sums.

    are_exponents_known  they are those of EXPONENT, so that rows and columns may be scaled one after the other
    """
    (digits,) = op.attributes
    ea, eb, quantised = (xs[0], xs[1], xs[2:]) if op.opcode == Opcode.DOT else (xs[0], None, xs[1:])
    special = (ea == NOT_FINITE).unsqueeze(-1)
    if eb is not None:
        special = special | (eb == NOT_FINITE).unsqueeze(-2)
    sums = compute_sums(quantised[0::2], quantised[1::2], digits)
    if sums is None:
        return reference.evaluate(op, [x.cpu() for x in xs]).to(special.device)
    result = rounded_product(sums, ea, eb, digits, are_exponents_known=are_exponents_known)
    if is_worth_asking(special) and not special.any():
        return result
    return result.masked_fill(special, float("nan"))


def _sums(left: Sequence[Tensor], right: Sequence[Tensor], digits: int) -> Tensor | None:
    if digits <= 2:
        return _two_digit_sums(left[0], right[0])
    # Planes that QUANTIZE never makes may need more than 64 bits.
    return three_digit_sums(left, right) if are_three_digits([*left, *right]) else None


def _two_digit_sums(left: Tensor, right: Tensor) -> Tensor:
    """sum_k left[..., m, k] right[..., n, k] as integers in float64, 0 always +0."""
    if left.dim() == 2 and left.shape[1] >= _INT8_FROM_TERMS:
        products = left.shape[0] * right.shape[0] * left.shape[1]
        if products >= _INT8_FROM_PRODUCTS and digit_products.are_digits([[left], [right]], 2):
            return digit_products.int8_sums([left], [right], 2)
    return float64_sums(left, right)


def float64_sums(left: Tensor, right: Tensor) -> Tensor:
    """The same for any int16: |q| < 2^15 and K <= 2^22, so every partial sum is below 2^53 and exact in any order."""
    # A sum of products that are all -0 is -0, and the definition's integer 0 is not.
    return torch.matmul(left.to(torch.float64), right.to(torch.float64).transpose(-1, -2)) + 0.0


def are_three_digits(planes: Sequence[Tensor]) -> bool:
    """Whether q = 1024 plane0 + plane1 has planes no larger than a quantised operand's."""
    return all(p.numel() == 0 or (int(p.abs().amax()) <= 1024 and int(p.amin()) > -(1 << 15)) for p in planes)


def three_digit_sums(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """int64 sums; |q| < 2^21, so that 2^22 terms stay below 2^63 only with |q| <= 2^20 + 2^9, which is all there is."""
    a, b = (p[0].to(torch.float64) * 1024 + p[1].to(torch.float64) for p in (left, right))
    terms = a.shape[-1]
    total = torch.zeros((*a.shape[:-1], b.shape[-2]), dtype=torch.int64, device=a.device)
    for start in range(0, terms, _FLOAT64_TERMS):
        stop = start + _FLOAT64_TERMS
        total += torch.matmul(a[..., start:stop], b[..., start:stop].transpose(-1, -2)).to(torch.int64)
    return total


# Randomness


def _philox(op: Operation, xs: Sequence[Tensor]) -> Tensor:
    key, step = int(xs[0]) % (1 << 64), int(xs[1]) & 0xFFFFFFFF
    i = torch.arange(op.result.elements, device=xs[0].device)
    c0, c1 = i & 0xFFFFFFFF, i >> 32
    c2, c3 = torch.full_like(i, op.attributes[0]), torch.full_like(i, step)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(philox.ROUNDS):
        p0, p1 = c0 * philox.MULTIPLIER_0, c2 * philox.MULTIPLIER_1  # 64 bits, wrapping into the sign
        c0, c1 = (p1 >> 32 & 0xFFFFFFFF) ^ c1 ^ k0, p1 & 0xFFFFFFFF
        c2, c3 = (p0 >> 32 & 0xFFFFFFFF) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = k0 + philox.WEYL_0 & 0xFFFFFFFF, k1 + philox.WEYL_1 & 0xFFFFFFFF
    return (c0 | c1 << 32).reshape(op.result.shape)


Implementation = Callable[[Operation, Sequence[Tensor]], Tensor]
IMPLEMENTATIONS: dict[Opcode, Implementation] = {
    Opcode.RESHAPE: _reshape,
    Opcode.PERMUTE: _permute,
    Opcode.EXPAND: _expand,
    Opcode.SLICE: _slice,
    Opcode.PAD: _pad,
    Opcode.CONCAT: _concat,
    Opcode.CAST: _cast,
    Opcode.DIV: _divide,
    Opcode.REM: _remainder,
    Opcode.NEG: _negate,
    Opcode.ABS: _absolute,
    Opcode.MAXIMUM: _extreme,
    Opcode.MINIMUM: _extreme,
    Opcode.ROUND: _round,
    Opcode.NOT: _not,
    Opcode.SHL: _shift,
    Opcode.SHR: _shift,
    Opcode.SHR_LOGICAL: _shift,
    Opcode.MULHI: _multiply_high,
    Opcode.SELECT: _select,
    Opcode.SUM: _sum,
    Opcode.MAX: _reduce_extreme,
    Opcode.MIN: _reduce_extreme,
    Opcode.ARGMAX: _reduce_extreme,
    Opcode.ARGMIN: _reduce_extreme,
    Opcode.TOPK: _top_k,
    Opcode.SORT: _sort,
    Opcode.CUMSUM: _cumulative_sum,
    Opcode.GATHER: _gather,
    Opcode.TAKE: _take,
    Opcode.INDEX_ADD: _index_add,
    Opcode.SCATTER: _scatter,
    Opcode.EXPONENT: _exponent,
    Opcode.QUANTIZE: _quantize,
    Opcode.EXPONENT_SCALED: _exponent_scaled,
    Opcode.QUANTIZE_SCALED: _quantize_scaled,
    Opcode.DOT: _dot,
    Opcode.DOT_ROWS: _dot,
    Opcode.PHILOX: _philox,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(UNARY_FLOAT, _function),
    **dict.fromkeys(COMPARISONS, _compare),
}
