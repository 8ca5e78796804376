"""What a party that holds the operands computes about a long element: sums of many blocks, and which term decides.

The numbers are those of `terms`, which follows the definition one term at a time; here whole rows go at once, since an
element may have millions. Exact: float64 holds a float32 times a power of two, and int64 a block's products.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cupel.protocol.arithmetic import reference
from cupel.protocol.arithmetic.operations import NOT_FINITE, ZERO_ROW, DType, Opcode, Operation
from cupel.protocol.disputes import terms
from cupel.protocol.disputes.elements import dot_rows, tensor
from cupel.protocol.disputes.openings import Reader

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_LARGEST_SCALE = 128


def sums_between(op: Operation, xs: Sequence[Reader], element: int, exponent: int, first: int, end: int) -> list[int]:
    """The partial sums that terms `first` to `end` are posted as, for a float sum at `exponent`, the largest term's."""
    block = terms.block_terms(op)
    size = terms.child_terms(block, end - first)
    if exponent >= terms.INFINITE_KEY:
        # No sum counts, and as many are posted.
        return [0] * -(-(end - first) // size)
    blocks = block_sums(op, xs, element, exponent, first, end)
    width = size // block
    return [sum(blocks[at : at + width]) for at in range(0, len(blocks), width)]


def block_sums(op: Operation, xs: Sequence[Reader], element: int, exponent: int, first: int, end: int) -> list[int]:
    """The sum of every block of terms `first` to `end`, as `terms.sum_block` has it; no term is above `exponent`."""
    if op.opcode == Opcode.INDEX_ADD:
        at, bits = _landing(xs, element, first, end)
        blocks = torch.zeros(-(-(end - first) // terms.BLOCK_POSITIONS), dtype=torch.int64)
        blocks.index_add_(0, (at - first) // terms.BLOCK_POSITIONS, _quantised(bits, exponent))
        return blocks.tolist()
    if op.opcode in (Opcode.DOT, Opcode.DOT_ROWS):
        values = _products(op, xs, element, first, end)
    else:
        x = xs[0]
        row = element // op.result.shape[-1] if op.opcode == Opcode.CUMSUM else element
        values = _row(x, row, first, end)
        if x.type.dtype == DType.FLOAT32:
            values = _quantised(values.view(torch.int32), exponent)
    values = values.to(torch.int64)
    padding = torch.zeros(-values.numel() % terms.BLOCK_TERMS, dtype=torch.int64)
    return torch.cat([values, padding]).reshape(-1, terms.BLOCK_TERMS).sum(dim=1).tolist()


def largest_terms(op: Operation, xs: Sequence[Reader], element: int, count: int) -> tuple[int, tuple[int, int]]:
    """The exponent and the terms that an honest party names for a float sum."""
    if op.opcode == Opcode.INDEX_ADD:
        at, bits = _landing(xs, element, 0, count)
    else:
        at, bits = torch.arange(count), _row(xs[0], element, 0, count).view(torch.int32)
    magnitudes = bits & _MAGNITUDE
    infinite = magnitudes == _INFINITY
    if int(magnitudes.max()) == _INFINITY and infinite.sum() > (infinite & (bits < 0)).sum() > 0:
        one, other = (int(at[infinite & sign][0]) for sign in (bits >= 0, bits < 0))
        return terms.NAN_KEY, (one, other)
    place = int(magnitudes.argmax())
    position = int(at[place])
    return terms.key(int(magnitudes[place])), (position, position)


def deciding_term(op: Operation, xs: Sequence[Reader], element: int, right: bytes) -> int:
    """The term that an honest party names where one decides; `right` is the element."""
    count = terms.count_terms(op, xs, element)
    if op.opcode == Opcode.SCATTER:
        return _last_source(op, xs, element, count)
    row = _row(xs[0], element, 0, count)
    if op.opcode in (Opcode.MAX, Opcode.MIN):
        width = len(right)
        each = row.view(torch.uint8).reshape(count, width)
        return int((each == torch.frombuffer(bytearray(right), dtype=torch.uint8)).all(dim=1).to(torch.uint8).argmax())
    magnitudes = row.view(torch.int32) & _MAGNITUDE
    if op.opcode == Opcode.EXPONENT:
        return int(magnitudes.argmax())
    start = element // xs[0].type.shape[-2] * count
    scales = tensor(DType.INT32, (count,), xs[1].read(start, count)).to(torch.int64)
    exponents = torch.frexp(row.double())[1].to(torch.int64) + scales.clamp(max=_LARGEST_SCALE)
    counts = (magnitudes != 0) & (scales > ZERO_ROW)
    exponents[~counts] = torch.iinfo(torch.int32).min
    exponents[(magnitudes >= _INFINITY) | ((magnitudes != 0) & (scales == NOT_FINITE))] = NOT_FINITE
    return int(exponents.argmax())


def _last_source(op: Operation, xs: Sequence[Reader], element: int, count: int) -> int:
    """The last source of SCATTER that lands in the element; `count` where none does."""
    index, dim = xs[1], op.attributes[0]
    coordinates = torch.unravel_index(torch.tensor(element), op.result.shape)
    place = int(coordinates[dim])
    along = tensor(index.type.dtype, index.type.shape, index.read(0, index.type.elements))
    spot = tuple(slice(None) if d == dim else int(i) for d, i in enumerate(coordinates))
    found = (along[spot] == place).nonzero()
    return int(found[-1]) if len(found) else count


def _row(x: Reader, row: int, first: int, end: int) -> torch.Tensor:
    return tensor(x.type.dtype, (end - first,), x.read(row * x.type.shape[-1] + first, end - first))


def _quantised(bits: torch.Tensor, exponent: int) -> torch.Tensor:
    """round-half-even(x 2^(30 - exponent)) of every float."""
    return (bits.view(torch.float32).double() * 2.0 ** (reference.SUM_BITS - exponent)).round().to(torch.int64)


def _products(op: Operation, xs: Sequence[Reader], element: int, first: int, end: int) -> torch.Tensor:
    rows = dot_rows(op, xs, element)
    planes = xs[2 if op.opcode == Opcode.DOT else 1 :]
    parts = [_row(x, rows[i & 1], first, end).to(torch.int64) for i, x in enumerate(planes)]
    if len(parts) == 2:
        return parts[0] * parts[1]
    return (1024 * parts[0] + parts[2]) * (1024 * parts[1] + parts[3])


def _landing(xs: Sequence[Reader], element: int, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and bits of those terms of an INDEX_ADD cell that land in it."""
    x, index, source = xs
    n, width = index.type.shape[0], x.type.shape[1]
    row, column = divmod(element, width)
    rows = tensor(DType.INT64, (min(end, n) - first,), index.read(first, min(end, n) - first))
    at = (rows == row).nonzero().reshape(-1) + first
    bits = [int.from_bytes(source.read(place * width + column, 1), "little", signed=True) for place in at.tolist()]
    if end > n:
        at = torch.cat([at, torch.tensor([n])])
        bits.append(int.from_bytes(x.read(element, 1), "little", signed=True))
    return at, torch.tensor(bits, dtype=torch.int32)
