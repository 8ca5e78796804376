"""Elements too long to recompute at once: partial sums of blocks of terms, and terms by position.

The terms of an element are counted along the reduced dimension; of INDEX_ADD they are the source positions, then the
old value; of SCATTER the sources along its dimension. Where one term alone decides (EXPONENT, MAX, SCATTER, ...) there
are terms to point at and no sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from cupel.protocol.arithmetic import binary32, reference
from cupel.protocol.arithmetic.binary32 import NAN, SIGN, is_infinite, is_nan, is_zero
from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, DType, Opcode, Operation, digit_width
from cupel.protocol.disputes.elements import coordinates, dot_rows, flat, read_index
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.openings import Reader

BLOCK_TERMS = 1024
"""Terms that a judgement adds up at once."""
BLOCK_POSITIONS = 16
"""Source positions of INDEX_ADD in a block: each may lie in a leaf of its own."""
MAX_SUMS = 1024
"""Partial sums in one move."""
INFINITE_KEY, NAN_KEY = 129, 130
"""Keys of terms above every finite one's exponent."""

SUMMED = frozenset({Opcode.SUM, Opcode.CUMSUM, Opcode.INDEX_ADD, Opcode.DOT, Opcode.DOT_ROWS})
EXPONENTS = frozenset({Opcode.EXPONENT, Opcode.EXPONENT_SCALED})
NAMED = EXPONENTS | {Opcode.MAX, Opcode.MIN, Opcode.SCATTER}
"""One term alone decides, which the accused has to name."""
ORDERED = frozenset({Opcode.ARGMAX, Opcode.ARGMIN, Opcode.TOPK, Opcode.SORT})
"""The element names a term itself."""


def count_terms(op: Operation, xs: Sequence[Reader], element: int) -> int:
    code = op.opcode
    if code == Opcode.INDEX_ADD:
        return xs[1].type.shape[0] + 1
    if code == Opcode.CUMSUM:
        return element % op.result.shape[-1] + 1
    if code in (Opcode.DOT, Opcode.DOT_ROWS):
        return xs[-1].type.shape[-1]
    if code == Opcode.SCATTER:
        return sources(op, xs, element)
    if code in SUMMED or code in NAMED:
        return xs[0].type.shape[-1]
    raise MalformedProof("NoTerms", code)


def block_terms(op: Operation) -> int:
    return BLOCK_POSITIONS if op.opcode == Opcode.INDEX_ADD else BLOCK_TERMS


def child_terms(block: int, terms: int) -> int:
    """Terms under each of the partial sums that `terms` terms are cut into: at most MAX_SUMS of them, whole blocks."""
    size = block
    while size * MAX_SUMS < terms:
        size *= MAX_SUMS
    return size


def is_float_sum(op: Operation) -> bool:
    return op.opcode == Opcode.INDEX_ADD or (op.opcode == Opcode.SUM and op.result.dtype == DType.FLOAT32)


def sum_block(op: Operation, xs: Sequence[Reader], element: int, first: int, end: int, exponent: int) -> int | None:
    """The sum of terms `first` to `end`; float terms are quantised to 2^(exponent - 30), integer sums wrap as int64.

    None where one of them is larger than that exponent: nobody who posts it is right about the block.
    """
    if op.opcode in (Opcode.DOT, Opcode.DOT_ROWS):
        return _sum_products(op, xs, element, first, end)
    if op.opcode == Opcode.INDEX_ADD:
        bits = [b for _, b in landing(xs, element, first, end)]
    else:
        x = xs[0]
        row = element // op.result.shape[-1] if op.opcode == Opcode.CUMSUM else element
        data = x.read(row * x.type.shape[-1] + first, end - first)
        if x.type.dtype != DType.FLOAT32:
            return wrap(sum(_integers(x.type.dtype, data)))
        bits = _floats(data)
    if any(key(b) > min(exponent, INFINITE_KEY - 1) for b in bits):
        return None
    return sum(_quantised(b, exponent) for b in bits)


def _quantised(bits: int, exponent: int) -> int:
    """round-half-even(x 2^(30 - exponent))."""
    m, q = binary32.decode(bits)
    return binary32.round_half_even(m, q + reference.SUM_BITS - exponent)


def wrap(total: int) -> int:
    """Two's complement of 64 bits: integer sums wrap."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def landing(xs: Sequence[Reader], element: int, first: int, end: int) -> list[tuple[int, int]]:
    """(term, bits) of those terms of an INDEX_ADD cell that land in it."""
    x, index, source = xs
    n, width = index.type.shape[0], x.type.shape[1]
    row, column = divmod(element, width)
    positions = min(end, n) - first
    rows = _integers(DType.INT64, index.read(first, positions)) if positions > 0 else []
    hits = [(first + i, _bits(source.read((first + i) * width + column, 1))) for i, to in enumerate(rows) if to == row]
    return [*hits, (n, _bits(x.read(element, 1)))] if end > n else hits


def _sum_products(op: Operation, xs: Sequence[Reader], element: int, first: int, end: int) -> int:
    terms, rows = xs[-1].type.shape[-1], dot_rows(op, xs, element)
    planes = xs[2 if op.opcode == Opcode.DOT else 1 :]
    parts = [_integers(DType.INT16, x.read(rows[i & 1] * terms + first, end - first)) for i, x in enumerate(planes)]
    if len(parts) == 2:
        return sum(a * b for a, b in zip(*parts, strict=True))
    return sum((1024 * a + c) * (1024 * b + d) for a, b, c, d in zip(*parts, strict=True))


def finish(op: Operation, xs: Sequence[Reader], element: int, total: int, exponent: int) -> bytes:
    """The element whose terms add up to `total`."""
    if op.opcode in (Opcode.DOT, Opcode.DOT_ROWS):
        rows = dot_rows(op, xs, element)
        scales = [_integers(DType.INT32, x.read(rows[i], 1))[0] for i, x in enumerate(xs[: len(xs) % 2 or 2])]
        if NOT_FINITE in scales:
            return _bytes(NAN)
        return _bytes(binary32.round_dyadic(total < 0, abs(total), sum(scales) - 2 * digit_width(op.attributes[0])))
    if is_float_sum(op):
        return _bytes(binary32.round_dyadic(total < 0, abs(total), exponent - reference.SUM_BITS))
    return (total % (1 << 64)).to_bytes(8, "little")


def term_bits(op: Operation, xs: Sequence[Reader], element: int, position: int) -> int:
    """A float term's bits. Raises MalformedProof NotATerm for a position that lands in another cell."""
    terms = count_terms(op, xs, element)
    if position >= terms:
        raise MalformedProof("NotATerm", position)
    if op.opcode != Opcode.INDEX_ADD:
        return _bits(xs[0].read(element * xs[0].type.shape[-1] + position, 1))
    x, index, source = xs
    row, column = divmod(element, x.type.shape[1])
    if position == terms - 1:
        return _bits(x.read(element, 1))
    if read_index(index, position) != row:
        raise MalformedProof("NotATerm", position)
    return _bits(source.read(position * x.type.shape[1] + column, 1))


def key(bits: int) -> int:
    """How large a term is: its frexp exponent, ZERO_ROW for a zero, then infinities, then NaN."""
    if is_nan(bits):
        return NAN_KEY
    if is_infinite(bits):
        return INFINITE_KEY
    return ZERO_ROW if is_zero(bits) else binary32.frexp_exponent(bits)


def pair_key(one: int, other: int) -> int:
    """Of two terms together: infinities of both signs make the sum NaN."""
    if is_infinite(one) and other == one ^ SIGN:
        return NAN_KEY
    return max(key(one), key(other))


def exponent_of_term(op: Operation, xs: Sequence[Reader], element: int, position: int) -> int | None:
    """What a term counts as in EXPONENT or EXPONENT_SCALED, None if it does not: a zero, or a scale that stands for 0.

    A scaled exponent may lie below ZERO_ROW, which is the answer only where no term counts.
    """
    terms = count_terms(op, xs, element)
    if position >= terms:
        raise MalformedProof("NotATerm", position)
    bits = _bits(xs[0].read(element * terms + position, 1))
    scale = 0
    if op.opcode == Opcode.EXPONENT_SCALED:
        height = xs[0].type.shape[-2]
        scale = _integers(DType.INT32, xs[1].read(element // height * terms + position, 1))[0]
        if not is_zero(bits) and scale == NOT_FINITE:
            return NOT_FINITE
    if not binary32.is_finite(bits):
        return NOT_FINITE
    if is_zero(bits) or (op.opcode == Opcode.EXPONENT_SCALED and scale <= ZERO_ROW):
        return None
    return binary32.frexp_exponent(bits) + min(scale, 128)


def is_before(op: Operation, dtype: DType, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether (value, position) `one` comes strictly before `other` in the order that the operation looks along."""
    descending = op.opcode in (Opcode.MAX, Opcode.ARGMAX, Opcode.TOPK) or (
        op.opcode == Opcode.SORT and op.attributes[0] == 1
    )
    ranks = reference.ranks(dtype, descending=descending)
    return (ranks(one[0]), one[1]) < (ranks(other[0]), other[1])


def value_at(x: Reader, place: int) -> int:
    """An element as the definition has it: bits of a float, else a signed integer."""
    data = x.read(place, 1)
    return _bits(data) if x.type.dtype == DType.FLOAT32 else _integers(x.type.dtype, data)[0]


def is_ahead(op: Operation, x: Reader, row: int, position: int, other: int) -> bool:
    """Whether one term of a row comes before another in the order that the operation looks along."""
    length = x.type.shape[-1]
    if position >= length:
        raise MalformedProof("NotATerm", position)
    one, two = (value_at(x, row * length + p) for p in (position, other))
    return is_before(op, x.type.dtype, (one, position), (two, other))


def precedes(op: Operation, xs: Sequence[Reader], element: int, position: int, named: int) -> bool:
    """Whether a term comes before the one that the accused named, which is a term."""
    if op.opcode in EXPONENTS:
        one, two = (exponent_of_term(op, xs, element, p) for p in (position, named))
        return one is not None and (two is None or one > two)
    if op.opcode != Opcode.SCATTER:
        return is_ahead(op, xs[0], element, position, named)
    place_of_source(op, xs, element, position)
    return named == sources(op, xs, element) or position > named


def sources(op: Operation, xs: Sequence[Reader], element: int) -> int:
    """Sources of SCATTER that may name an element's place: all along the dimension, none beyond the index's shape."""
    dim, shape = op.attributes[0], xs[1].type.shape
    at = coordinates(op.result.shape, element)
    return shape[dim] if all(d == dim or i < n for d, (i, n) in enumerate(zip(at, shape, strict=True))) else 0


def place_of_source(op: Operation, xs: Sequence[Reader], element: int, position: int) -> int:
    """Where in the source of SCATTER a term stands. Raises MalformedProof NotATerm for one that lands elsewhere."""
    if position >= sources(op, xs, element):
        raise MalformedProof("NotATerm", position)
    dim, at = op.attributes[0], coordinates(op.result.shape, element)
    place, at[dim] = at[dim], position
    source = flat(xs[1].type.shape, at)
    if read_index(xs[1], source) != place:
        raise MalformedProof("NotATerm", position)
    return source


def named_value(op: Operation, xs: Sequence[Reader], element: int, position: int) -> bytes:
    """The element if the named term is the one that decides. Of SCATTER the number of sources stands for none."""
    if op.opcode in EXPONENTS:
        counted = exponent_of_term(op, xs, element, position)
        return (ZERO_ROW if counted is None else counted).to_bytes(4, "little", signed=True)
    terms = count_terms(op, xs, element)
    if op.opcode == Opcode.SCATTER:
        if position == terms:
            return xs[0].read(element, 1)
        return xs[2].read(place_of_source(op, xs, element, position), 1)
    if position >= terms:
        raise MalformedProof("NotATerm", position)
    return xs[0].read(element * terms + position, 1)


def withstands(op: Operation, x: Reader, result: Reader, element: int, positions: tuple[int, int]) -> bool:
    """Whether nothing that is pointed at contradicts a position that ARGMAX, ARGMIN, TOPK or SORT gave."""
    if op.opcode in (Opcode.TOPK, Opcode.SORT):
        return is_in_order(op, x, result, element, positions)
    claimed = value_at(result, element)
    # A position outside the row is no answer, whatever is pointed at.
    return 0 <= claimed < x.type.shape[-1] and not is_ahead(op, x, element, positions[0], claimed)


def is_in_order(op: Operation, x: Reader, result: Reader, element: int, positions: tuple[int, int]) -> bool:
    """TOPK and SORT at one place against another, or with a term that belongs between it and the place before."""
    length, places = x.type.shape[-1], op.result.shape[-1]
    row, place = divmod(element, places)
    named = value_at(result, element)
    if not 0 <= named < length:
        return False
    here = (value_at(x, row * length + named), named)
    other, between = positions
    dtype = x.type.dtype
    before = None
    if between == 0 or place > 0:
        if other >= places or other == place or (between and other != place - 1):
            raise MalformedProof("NotATerm", other)
        index = value_at(result, row * places + other)
        if not 0 <= index < length:
            return False
        before = (value_at(x, row * length + index), index)
        if between == 0:
            first, second = (before, here) if other < place else (here, before)
            return is_before(op, dtype, first, second)
    if between - 1 >= length:
        raise MalformedProof("NotATerm", between - 1)
    left_out = (value_at(x, row * length + between - 1), between - 1)
    follows = before is None or is_before(op, dtype, before, left_out)
    return not (follows and is_before(op, dtype, left_out, here))


def _bits(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bytes(bits: int) -> bytes:
    return bits.to_bytes(4, "little")


def _floats(data: bytes) -> list[int]:
    return [_bits(data[i : i + 4]) for i in range(0, len(data), 4)]


def _integers(dtype: DType, data: bytes) -> list[int]:
    size, signed = dtype.size_bytes, dtype not in (DType.UINT8, DType.BOOL)
    return [int.from_bytes(data[i : i + size], "little", signed=signed) for i in range(0, len(data), size)]
