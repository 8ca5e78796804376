"""Recomputing one element: which parts of the operands it takes, and the definition applied to them alone.

The definition (reference.py) is asked about operands cut down to what the element needs, so its meaning is nowhere
written twice. `contracts/contracts/referee/Evaluator.sol` asks for the same parts in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch

from cupel.protocol import merkle, philox
from cupel.protocol.arithmetic import reference
from cupel.protocol.arithmetic.operations import ELEMENTWISE, DType, Opcode, Operation, TensorType
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.disputes.openings import Reader

MAX_TERMS = 16_384
"""Of an element that is recomputed at once; a longer one goes by partial sums, or by witness."""


def recompute_element(operation: Operation, operands: Sequence[Reader], element: int) -> bytes:
    """The bytes of the right element, little-endian.

    Raises  MalformedProof: TooLong for more than MAX_TERMS terms, and what the readers raise
    """
    code = operation.opcode
    if code in ELEMENTWISE:
        parts = [tensor(x.type.dtype, (), x.read(element, 1)) for x in operands]
        return _evaluate(operation, parts, ())
    if code == Opcode.PHILOX:
        key, step = (int.from_bytes(x.read(0, 1), "little", signed=True) for x in operands)
        return philox.word64(key, element, operation.attributes[0], step).to_bytes(8, "little")
    return _ELEMENTS[code](operation, operands, element)


def tensor(dtype: DType, shape: Sequence[int], data: bytes) -> torch.Tensor:
    """A tensor from its bytes."""
    if not data:
        return torch.empty(tuple(shape), dtype=dtype.torch)
    return torch.frombuffer(bytearray(data), dtype=dtype.torch).reshape(tuple(shape))


def _evaluate(
    operation: Operation,
    operands: Sequence[torch.Tensor],
    shape: Sequence[int],
    attributes: Sequence[int] | None = None,
) -> bytes:
    """The bytes of the operation's result over these operands instead of its own."""
    attributes = operation.attributes if attributes is None else tuple(attributes)
    part = Operation(
        operation.opcode, tuple(range(len(operands))), TensorType(operation.result.dtype, tuple(shape)), attributes
    )
    return merkle.tensor_bytes(reference.evaluate(part, operands))


def coordinates(shape: Sequence[int], element: int) -> list[int]:
    """Index along each dimension of a row-major element."""
    index = []
    for size in reversed(shape):
        element, rest = divmod(element, size)
        index.append(rest)
    return index[::-1]


def flat(shape: Sequence[int], index: Sequence[int]) -> int:
    at = 0
    for size, i in zip(shape, index, strict=True):
        at = at * size + i
    return at


def check_terms(terms: int) -> None:
    if terms > MAX_TERMS:
        raise MalformedProof("TooLong", terms, MAX_TERMS)


def row_of(x: Reader, row: int) -> torch.Tensor:
    """A row along the last dimension, in one opening."""
    length = x.type.shape[-1]
    check_terms(length)
    return tensor(x.type.dtype, (length,), x.read(row * length, length))


# Shapes and copies


def _reshape(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    return xs[0].read(element, 1)


def _permute(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    index = coordinates(op.result.shape, element)
    source = [0] * len(index)
    for to, dim in zip(index, op.attributes, strict=True):
        source[dim] = to
    return xs[0].read(flat(xs[0].type.shape, source), 1)


def _expand(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    shape = xs[0].type.shape
    index = [0 if n == 1 else i for n, i in zip(shape, coordinates(op.result.shape, element), strict=True)]
    return xs[0].read(flat(shape, index), 1)


def _slice(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    dim, start, step = op.attributes
    index = coordinates(op.result.shape, element)
    index[dim] = start + index[dim] * step
    return xs[0].read(flat(xs[0].type.shape, index), 1)


def _pad(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    fill, *low = op.attributes
    shape = xs[0].type.shape
    index = [i - n for i, n in zip(coordinates(op.result.shape, element), low, strict=True)]
    if all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        return xs[0].read(flat(shape, index), 1)
    return fill.to_bytes(8, "little")[: op.result.dtype.size_bytes]


def _concat(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    dim = op.attributes[0]
    index = coordinates(op.result.shape, element)
    for x in xs:
        if index[dim] < x.type.shape[dim]:
            return x.read(flat(x.type.shape, index), 1)
        index[dim] -= x.type.shape[dim]
    raise MalformedProof("MalformedItem", element)


def _iota(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    return coordinates(op.result.shape, element)[op.attributes[0]].to_bytes(8, "little")


# Rows


def _row(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    return _evaluate(op, [row_of(xs[0], element)], ())


def _order(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    """TOPK and SORT: one place in the order of a row."""
    row, place = divmod(element, op.result.shape[-1])
    x = row_of(xs[0], row)
    shape = (op.result.shape[-1],)
    return _evaluate(op, [x], shape)[8 * place : 8 * place + 8]


def _cumulative(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    row, place = divmod(element, op.result.shape[-1])
    check_terms(place + 1)
    x = xs[0]
    data = x.read(row * x.type.shape[-1], place + 1)
    return _evaluate(op, [tensor(x.type.dtype, (place + 1,), data)], (place + 1,))[-8:]


# Indexing


def read_index(x: Reader, position: int) -> int:
    return int.from_bytes(x.read(position, 1), "little", signed=True)


def _gather(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    (x, index), dim = xs, op.attributes[0]
    at, chosen = coordinates(index.type.shape, element), read_index(index, element)
    if not 0 <= chosen < x.type.shape[dim]:
        return bytes(x.type.dtype.size_bytes)
    at[dim] = chosen
    return x.read(flat(x.type.shape, at), 1)


def _take(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    x, index = xs
    size = prod(x.type.shape[1:])
    position, within = divmod(element, size)
    chosen = read_index(index, position)
    if not 0 <= chosen < x.type.shape[0]:
        return bytes(x.type.dtype.size_bytes)
    return x.read(chosen * size + within, 1)


def _scatter(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    """The last source that names this place, looked for from the end."""
    (x, index, source), dim = xs, op.attributes[0]
    at = coordinates(x.type.shape, element)
    place = at[dim]
    if all(d == dim or i < n for d, (i, n) in enumerate(zip(at, index.type.shape, strict=True))):
        check_terms(index.type.shape[dim])
        for along in reversed(range(index.type.shape[dim])):
            at[dim] = along
            position = flat(index.type.shape, at)
            if read_index(index, position) == place:
                return source.read(position, 1)
    return x.read(element, 1)


def _index_add(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    x, index, source = xs
    row, column = divmod(element, x.type.shape[1])
    n = index.type.shape[0]
    check_terms(n)
    old = x.read(element, 1)
    rows = tensor(DType.INT64, (n,), index.read(0, n)).tolist()
    landing = [source.read(at * x.type.shape[1] + column, 1) for at, to in enumerate(rows) if to == row]
    size = len(landing)
    parts = [
        tensor(DType.FLOAT32, (1, 1), old),
        torch.zeros(size, dtype=torch.int64),
        tensor(DType.FLOAT32, (size, 1), b"".join(landing)),
    ]
    return _evaluate(op, parts, (1, 1))


# Products


def _quantize(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    x, e = xs
    value = tensor(DType.FLOAT32, (1,), x.read(element, 1))
    return _evaluate(op, [value, tensor(DType.INT32, (), e.read(element // x.type.shape[-1], 1))], (1,))


def _scaled_places(x: Reader, row: int) -> int:
    """First element of the scales that a row of x[..., M, K] is multiplied by."""
    return row // x.type.shape[-2] * x.type.shape[-1]


def _exponent_scaled(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    x, g = xs
    terms = x.type.shape[-1]
    row = row_of(x, element)
    scales = tensor(DType.INT32, (terms,), g.read(_scaled_places(x, element), terms))
    return _evaluate(op, [row.reshape(1, terms), scales], (1,))


def _quantize_scaled(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    x, g, e = xs
    row, column = divmod(element, x.type.shape[-1])
    value = tensor(DType.FLOAT32, (1, 1), x.read(element, 1))
    scale = tensor(DType.INT32, (1,), g.read(_scaled_places(x, row) + column, 1))
    return _evaluate(op, [value, scale, tensor(DType.INT32, (1,), e.read(row, 1))], (1, 1))


def dot_rows(op: Operation, xs: Sequence[Reader], element: int) -> tuple[int, int]:
    """The rows of the left and the right operand that an element of a product is made of."""
    height, width = op.result.shape[-2:]
    row, column = divmod(element, width)
    return row, row // height * width + column


def _dot(op: Operation, xs: Sequence[Reader], element: int) -> bytes:
    exponents = 2 if op.opcode == Opcode.DOT else 1
    rows = dot_rows(op, xs, element)
    parts = [tensor(DType.INT32, (1,), xs[i].read(rows[i], 1)) for i in range(exponents)]
    parts += [row_of(x, rows[i & 1]).reshape(1, -1) for i, x in enumerate(xs[exponents:])]
    return _evaluate(op, parts, (1, 1))


_Element = Callable[[Operation, Sequence[Reader], int], bytes]
_ELEMENTS: dict[Opcode, _Element] = {
    Opcode.RESHAPE: _reshape,
    Opcode.PERMUTE: _permute,
    Opcode.EXPAND: _expand,
    Opcode.SLICE: _slice,
    Opcode.PAD: _pad,
    Opcode.CONCAT: _concat,
    Opcode.IOTA: _iota,
    Opcode.SUM: _row,
    Opcode.MAX: _row,
    Opcode.MIN: _row,
    Opcode.ARGMAX: _row,
    Opcode.ARGMIN: _row,
    Opcode.TOPK: _order,
    Opcode.SORT: _order,
    Opcode.CUMSUM: _cumulative,
    Opcode.GATHER: _gather,
    Opcode.TAKE: _take,
    Opcode.INDEX_ADD: _index_add,
    Opcode.SCATTER: _scatter,
    Opcode.EXPONENT: _row,
    Opcode.QUANTIZE: _quantize,
    Opcode.EXPONENT_SCALED: _exponent_scaled,
    Opcode.QUANTIZE_SCALED: _quantize_scaled,
    Opcode.DOT: _dot,
    Opcode.DOT_ROWS: _dot,
}
