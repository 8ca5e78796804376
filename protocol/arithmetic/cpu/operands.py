"""A recognised product as items: how its operands lie, what is packed once and shared, where its result goes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.building import Building
from cupel.protocol.arithmetic.cpu.items import Call, Matrix, Packed
from cupel.protocol.arithmetic.cpu.panels import Form, scale_bytes
from cupel.protocol.arithmetic.cpu.views import View
from cupel.protocol.arithmetic.operations import DType, Opcode, Operation


def product(low: Building, value: int, op: Operation, sources: Sequence[View]) -> View:
    """A recognised DOT or DOT_ROWS from the float operands a[..., M, K] and b[..., N, K] (b[..., K, N] by rows)."""
    a, b = sources
    by_rows = op.opcode == Opcode.DOT_ROWS
    turned = False
    if by_rows:
        b = views.permute(b, (*range(len(b.dims) - 2), len(b.dims) - 1, len(b.dims) - 2))
    shape = op.result.shape
    if a.shape[-1] == 0:
        return views.repeated(shape, 0.0, DType.FLOAT32)
    batch = prod(shape[:-2])
    dims = low.wanted_layout(value, shape)
    rows, columns = views.single(dims[-2]), views.single(dims[-1])
    if rows is None or columns is None or columns[1] not in (0, 1):
        if rows is not None and columns is not None and rows[1] == 1 and not by_rows:
            # Users want columns side by side: the transposed product, whose sums are the same.
            a, b, turned = b, a, True
        else:
            dims = views.contiguous(shape)
    out = low.fresh(shape, DType.FLOAT32, dims)
    written = views.permute(out, (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)) if turned else out
    left = _matrix(low, a, unit="terms" if by_rows else "any")
    right = _matrix(low, b, unit="rows" if by_rows else "any")
    digits = op.attributes[0]
    item: Call
    if batch == 1 and not by_rows:
        forms = [Form.of(low.isa, digits, left.terms, left=is_left) for is_left in (True, False)]
        pa, pb = (_packed(low, m, form) for m, form in zip((left, right), forms, strict=True))
        detail = (left.rows, right.rows, left.terms, digits)
        item = Call("product", (pa.planes, pa.scales, pb.planes, pb.scales), (written,), detail=detail)
    else:
        item = Call("products", (left.view, right.view), (written,), detail=(left, right, batch, digits, by_rows))
    low.result.items.append(item)
    return out


def _matrix(low: Building, x: View, *, unit: str = "any") -> Matrix:
    """The operand as a matrix a kernel can read; copied only if the dimension wanted contiguous is not.

    unit  "terms", "rows" or "any" of the two
    """
    found = _as_matrix(x, unit)
    if found is None:
        swapped = (*range(len(x.dims) - 2), len(x.dims) - 1, len(x.dims) - 2)
        # A copy keeps side by side what is so already; as matrix and as its transpose it is made once.
        if unit == "rows" or (unit == "any" and any(stride == 1 for n, stride in x.dims[-2] if n > 1)):
            copy = views.permute(low.in_memory(views.permute(x, swapped)), swapped)
        else:
            copy = low.in_memory(x)
        found = _as_matrix(copy, unit)
        assert found is not None
    return found


def _as_matrix(x: View, unit: str) -> Matrix | None:
    rows, terms = x.shape[-2:]
    if x.buffer is None:
        return None
    r, t = views.single(x.dims[-2]), views.single(x.dims[-1])
    if r is None or t is None:
        return None
    if (t[1] == 1 or terms == 1) and unit != "rows":
        return Matrix(view=x, rows=rows, terms=terms, unit_terms=True, stride=r[1])
    if (r[1] == 1 or rows == 1) and unit != "terms":
        return Matrix(view=x, rows=rows, terms=terms, unit_terms=False, stride=t[1])
    return None


def _packed(low: Building, matrix: Matrix, form: Form) -> Packed:
    key = ("pack", matrix.view.key(), matrix.unit_terms, form)
    if key not in low.packs:
        panel = low.isa.columns
        words = scale_bytes(form, matrix.rows, matrix.terms, panel) // 8
        size = form.plane_bytes(matrix.rows, matrix.terms, panel) * form.planes
        quantised = View((((size // 2, 1),),), DType.INT16, low.buffer(size // 2, DType.INT16))
        scales = View((((words, 1),),), DType.INT64, low.buffer(words, DType.INT64))
        low.result.items.append(Call("pack", (matrix.view,), (quantised, scales), detail=(matrix, form)))
        low.packs[key] = Packed(quantised, scales)
    return low.packs[key]
