"""Strided views: how RESHAPE, PERMUTE, EXPAND and SLICE cost nothing.

A dimension is a list of factors (size, stride), outermost first, so that reshaping a permuted tensor often stays a
view: [B, T, H, D] seen as [B T, H D] has a first dimension of factors B and T. Strides count elements; 0 repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from cupel.protocol.arithmetic.operations import DType

Factor = tuple[int, int]
"""(size, stride)"""
Dim = tuple[Factor, ...]


@dataclass(eq=False, slots=True)
class Buffer:
    """A stretch of memory, contiguous, that views look into."""

    elements: int
    dtype: DType
    place: tuple[str, int] = ("arena", -1)
    """("input", i), ("constant", i), ("output", i), or ("arena", byte offset once planned)"""
    size_bytes: int = field(default=0)

    def __post_init__(self) -> None:
        self.size_bytes = self.size_bytes or self.elements * self.dtype.size_bytes


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: a buffer seen through strides, or (buffer None) one number everywhere."""

    dims: tuple[Dim, ...]
    dtype: DType
    buffer: Buffer | None
    offset: int = 0
    number: int | float | None = None
    """The repeated value where there is no buffer."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(n for n, _ in dim) for dim in self.dims)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    def with_dims(self, dims: Iterable[Dim], offset: int | None = None) -> View:
        return View(tuple(dims), self.dtype, self.buffer, self.offset if offset is None else offset, self.number)

    def factors(self) -> tuple[Factor, ...]:
        """All dimensions as one merged list."""
        return merged(f for dim in self.dims for f in dim)

    def is_contiguous(self) -> bool:
        factors = self.factors()
        return self.buffer is not None and (not factors or (len(factors) == 1 and factors[0][1] == 1))

    def covers_buffer(self) -> bool:
        return (
            self.buffer is not None
            and self.offset == 0
            and self.is_contiguous()
            and self.buffer.elements == self.elements
        )

    def key(self) -> tuple[object, ...]:
        """Equal for views that see the same elements in the same order and shape."""
        if self.buffer is None:
            return (None, repr(self.number), self.dtype, self.shape)
        return (id(self.buffer), self.offset, tuple(merged(dim) for dim in self.dims), self.shape)


def merged(factors: Iterable[Factor]) -> tuple[Factor, ...]:
    """The fewest factors that walk the same way; sizes of 1 vanish."""
    result: list[Factor] = []
    for size, stride in factors:
        if size == 1:
            continue
        if result and result[-1][1] == size * stride:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return tuple(result)


def contiguous(shape: Sequence[int]) -> tuple[Dim, ...]:
    stride = 1
    dims: list[Dim] = []
    for size in reversed(shape):
        dims.append(((size, stride),))
        stride *= size
    return tuple(reversed(dims))


def repeated(shape: Sequence[int], number: int | float, dtype: DType) -> View:
    return View(tuple(((n, 0),) for n in shape), dtype, None, 0, number)


def _with_shape(view: View, shape: Sequence[int]) -> View:
    assert view.number is not None
    return repeated(shape, view.number, view.dtype)


def single(dim: Dim) -> Factor | None:
    """The dimension as one factor, if it is one; (1, 0) for size 1."""
    factors = merged(dim)
    if not factors:
        return (1, 0)
    return factors[0] if len(factors) == 1 else None


def reshape(view: View, shape: Sequence[int]) -> View | None:
    """The view in another shape, None if strides cannot say it. No dimension is 0."""
    if view.buffer is None:
        return _with_shape(view, shape)
    dims = regrouped([f for dim in view.dims for f in dim], shape)
    return None if dims is None else view.with_dims(dims)


def regrouped(factors: Iterable[Factor], shape: Sequence[int]) -> tuple[Dim, ...] | None:
    """Factors cut into dimensions of these sizes."""
    remaining = list(reversed(merged(factors)))
    dims: list[Dim] = []
    for size in shape:
        dim: list[Factor] = []
        while size > 1:
            n, stride = remaining.pop()
            if size % n == 0:
                dim.append((n, stride))
                size //= n
            elif n % size == 0:
                rest = n // size
                dim.append((size, stride * rest))
                remaining.append((rest, stride))
                size = 1
            else:
                return None
        dims.append(tuple(dim) or ((1, 0),))
    return tuple(dims)


def permute(view: View, order: Sequence[int]) -> View:
    return view.with_dims(view.dims[i] for i in order)


def expand(view: View, shape: Sequence[int]) -> View:
    return view.with_dims(
        dim if prod(n for n, _ in dim) == size else ((size, 0),) for dim, size in zip(view.dims, shape, strict=True)
    )


def packed_like(view: View) -> tuple[Dim, ...]:
    """Dense dimensions of the view's shape whose memory order is the view's; repeated factors go innermost-first last.

    An elementwise result laid out like its operand is walked with one unit stride on both sides.
    """
    places = [(stride, d, i) for d, dim in enumerate(view.dims) for i, (n, stride) in enumerate(dim) if n > 1]
    if any(stride == 0 for stride, _, _ in places):
        return contiguous(view.shape)
    places.sort(key=lambda p: p[0])
    result = [[(n, 0) for n, _ in dim] for dim in view.dims]
    stride = 1
    for _, d, i in places:
        size = result[d][i][0]
        result[d][i] = (size, stride)
        stride *= size
    return tuple(tuple(dim) for dim in result)


def slice_dim(view: View, dim: int, start: int, size: int, step: int) -> View | None:
    """`size` elements from `start`, every `step`th; None if the dimension is not evenly strided there."""
    if view.buffer is None:
        shape = list(view.shape)
        shape[dim] = size
        return _with_shape(view, shape)
    factors = merged(view.dims[dim]) or ((1, 0),)
    inner = prod(n for n, _ in factors[1:])
    dims = list(view.dims)
    if len(factors) == 1:
        stride = factors[0][1]
        dims[dim] = ((size, stride * step),)
        return view.with_dims(dims, view.offset + start * stride)
    if step == 1 and start % inner == 0 and size % inner == 0:
        # Whole runs of the outermost factor.
        dims[dim] = ((size // inner, factors[0][1]), *factors[1:])
        return view.with_dims(dims, view.offset + start // inner * factors[0][1])
    return None


def refine(lists: Sequence[Sequence[Factor]]) -> list[tuple[int, tuple[int, ...]]] | None:
    """One list of loops for several factor lists of equal length: (size, stride in each), merged, outermost first.

    None where the factors do not divide each other.
    """
    stacks = [[f for f in factors if f[0] > 1] for factors in lists]
    loops: list[tuple[int, tuple[int, ...]]] = []
    while any(stacks):
        size = min(stack[-1][0] for stack in stacks)
        strides = []
        for stack in stacks:
            n, stride = stack.pop()
            if n % size:
                return None
            strides.append(stride)
            if n > size:
                stack.append((n // size, stride * size))
        loops.append((size, tuple(strides)))
    loops.reverse()
    return merged_loops(loops)


def merged_loops(loops: Iterable[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    """Neighbours that are one loop in every list become one."""
    result: list[tuple[int, tuple[int, ...]]] = []
    for size, strides in loops:
        if result and all(outer == size * inner for outer, inner in zip(result[-1][1], strides, strict=True)):
            result[-1] = (result[-1][0] * size, strides)
        else:
            result.append((size, strides))
    return result
