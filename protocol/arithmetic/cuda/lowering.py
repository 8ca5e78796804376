"""From a Graph to work for a GPU: the CPU engine's walk, with products and a few operations done otherwise.

A product becomes exponents (row reductions), digits (maps, so that they join whatever makes the operand), one call of
a library's matrix product on small integers, and a map that puts the digits' sums together and rounds once, which joins
whatever uses the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from cupel.protocol.arithmetic.cpu import indexing, views
from cupel.protocol.arithmetic.cpu.building import walk_together
from cupel.protocol.arithmetic.cpu.items import Call, Map, Reduce
from cupel.protocol.arithmetic.cpu.lowering import Lowering
from cupel.protocol.arithmetic.cpu.views import View
from cupel.protocol.arithmetic.cuda.source import ONE_LANE
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation, TensorType

_BY_TORCH = frozenset(
    {
        Opcode.ARGMAX,
        Opcode.ARGMIN,
        Opcode.CUMSUM,
        Opcode.TOPK,
        Opcode.SORT,
        Opcode.SCATTER,
        Opcode.PHILOX,
    }
)
"""Rare in a training step, and exact as PyTorch does them (torch_backend.py)."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the integers of a quantised operand are held for a library's product."""

    name: str
    held: DType
    """Element type in memory; bfloat16 and float64 travel as integers of their size."""
    split: bool
    """By digits in [-64, 64]; else as whole numbers."""
    terms: int
    """Sums of so many products are exact."""
    row_multiple: int = 1
    term_multiple: int = 1


INT8 = Form("int8", DType.INT8, split=True, terms=1 << 18, row_multiple=32, term_multiple=16)
"""`torch._int_mm` takes more than 16 rows, and multiples of 8 of all sizes; its tiles like more."""
BFLOAT16 = Form("bfloat16", DType.INT16, split=True, terms=1 << 11)
FLOAT64 = Form("float64", DType.INT64, split=False, terms=1 << 12)

_MOST_CHUNKS = 4
_INT8_FROM_PRODUCTS = 1 << 24
"""Smaller products are over before their digits are apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What a device multiplies fast. Whichever is taken, the sums are the same integers."""

    int8: bool
    bfloat16: bool
    int8_from_products: int = _INT8_FROM_PRODUCTS

    def form(self, batch: int, m: int, n: int, terms: int) -> Form:
        if self.int8 and batch == 1 and m * n * terms >= self.int8_from_products:
            return INT8
        return BFLOAT16 if self.bfloat16 else FLOAT64


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One library call: sums[chunk, batch, i m, j n] of digits' products; a chunk is a stretch of terms."""

    form: Form
    batch: int
    rows: tuple[int, int]
    """Of either operand, all its digits, filled up."""
    terms: int
    chunk_terms: int
    chunks: int

    @property
    def is_added(self) -> bool:
        """Whether the chunks are added after the calls, as int64: a map of hundreds of parts would compile for long."""
        return self.chunks > _MOST_CHUNKS


@dataclass(frozen=True, slots=True)
class Planes:
    """A quantised operand: buffer [batch, rows, terms], digit i in rows from i * height."""

    view: View
    rows: int
    terms: int


class DeviceLowering(Lowering):
    """Lowers one graph for a GPU; `run` is the only entry."""

    sums_columns = False

    def __init__(self, graph: Graph, units: Units) -> None:
        super().__init__(graph, ONE_LANE)
        self.units = units
        self.quantised: dict[object, Planes] = {}

    def _lower(self, value: int, op: Operation) -> View:
        if value in self.recognised:
            return self._product(value, op, [self.values[v] for v in self.recognised[value]])
        if op.opcode in _BY_TORCH:
            return self._python(op, [self.values[v] for v in op.operands])
        return super()._lower(value, op)

    # Products

    def _product(self, value: int, op: Operation, sources: Sequence[View]) -> View:
        a, b = sources
        by_rows = op.opcode == Opcode.DOT_ROWS
        shape, (digits,) = op.result.shape, op.attributes
        (*outer, m, n), terms = shape, a.shape[-1]
        if terms == 0:
            return views.repeated(shape, 0.0, DType.FLOAT32)
        form = self.units.form(prod(outer), m, n, terms)
        if by_rows:
            g = self._exponent(b)
            ea = self._scaled_exponent(a, g)
            left = self._digits(a, (_along_rows(g, a.shape), _along_columns(ea, a.shape)), digits, form)
            turned = views.permute(b, (*range(len(outer)), len(outer) + 1, len(outer)))
            right = self._digits(turned, (_along_rows(g, turned.shape),), digits, form)
            scales: tuple[View, ...] = (_along_columns(ea, shape),)
        else:
            ea, eb = self._exponent(a), self._exponent(b)
            left = self._digits(a, (_along_columns(ea, a.shape),), digits, form)
            right = self._digits(b, (_along_columns(eb, b.shape),), digits, form)
            scales = (_along_columns(ea, shape), _along_rows(eb, shape))
        product = Product(
            form=form,
            batch=prod(outer),
            rows=(left.rows, right.rows),
            terms=left.terms,
            chunk_terms=form.terms,
            chunks=-(-left.terms // form.terms),
        )
        return self._combined(value, shape, digits, product, (left, right), scales)

    def _combined(
        self,
        value: int,
        shape: tuple[int, ...],
        digits: int,
        product: Product,
        planes: tuple[Planes, Planes],
        scales: Sequence[View],
    ) -> View:
        *_outer, m, n = shape
        dtype = {"int8": DType.INT32, "bfloat16": DType.FLOAT32, "float64": DType.INT64}[product.form.name]
        kind, chunks = product.form.name, product.chunks
        if product.is_added:
            dtype, kind, chunks = DType.INT64, "int64", 1
        rows, columns = product.rows
        size = rows * columns
        sums = self.fresh((chunks, product.batch, rows, columns), dtype)
        self.result.items.append(Call("product", tuple(p.view for p in planes), (sums,), detail=product))
        parts = []
        count = digits if product.form.split else 1
        for chunk in range(chunks):
            for i in range(count):
                for j in range(count):
                    offset = chunk * product.batch * size + i * m * columns + j * n
                    flat = View((((product.batch, size),), ((m, columns),), ((n, 1),)), dtype, sums.buffer, offset)
                    shaped = views.reshape(flat, shape)
                    assert shaped is not None
                    parts.append(shaped)
        dims = self.wanted_layout(value, shape)
        last = views.single(dims[-1])
        out = self.fresh(shape, DType.FLOAT32, None if last is None or last[1] > 1 else dims)
        args = [*parts, *scales]
        if not walk_together(out, args):
            out = View(views.contiguous(shape), DType.FLOAT32, out.buffer)
            if not walk_together(out, args):
                args = [*parts, *(self.materialised(s) for s in scales)]
        assert walk_together(out, args)
        attributes = (digits, count, chunks, len(scales))
        self.result.items.append(Map(f"combine_{kind}", tuple(args), out, attributes))
        return out

    def _exponent(self, x: View) -> View:
        shape = x.shape[:-1]
        return indexing.reduction(self, Operation(Opcode.EXPONENT, (), TensorType(DType.INT32, shape)), [x])

    def _scaled_exponent(self, a: View, g: View) -> View:
        """EXPONENT_SCALED, as a map of terms, their maximum, and what an empty maximum means."""
        shape = a.shape
        terms = self.map("scaled_exponent", [a, _along_rows(g, shape)], TensorType(DType.INT32, shape))
        result = TensorType(DType.INT32, shape[:-1])
        if terms.buffer is None or views.single(terms.dims[-1]) is None:
            terms = self.materialised(terms) if terms.buffer else self.copy_to(terms, self.fresh(shape, DType.INT32))
        out = self.fresh(result.shape, result.dtype)
        if views.refine([views.merged(f for dim in terms.dims[:-1] for f in dim), out.factors()]) is None:
            terms = self.materialised(terms)
        self.result.items.append(Reduce("max", (terms,), out))
        return self.map("row_exponent", [out], result)

    def _digits(self, x: View, scales: tuple[View, ...], digits: int, form: Form) -> Planes:
        """Integers of the rows of x[..., M, K], padded with zeros as the form wants.

        scales  e, or g (once a term) and e; each as large as x
        """
        key = (self.phase, x.key(), tuple(s.key() for s in scales), digits, form.name)
        if key in self.quantised:
            return self.quantised[key]
        *outer, m, terms = x.shape
        batch, count = prod(outer), digits if form.split else 1
        rows = -(-count * m // form.row_multiple) * form.row_multiple
        width = -(-terms // form.term_multiple) * form.term_multiple
        whole = self.fresh((batch, rows, width), form.held)
        buffer = whole.buffer
        pads = []
        per_batch = (batch, rows * width)
        if width > terms:
            beside = ((per_batch,), ((rows, width),), ((width - terms, 1),))
            pads.append(View(beside, form.held, buffer, terms))
        if rows > count * m:
            below = ((per_batch,), ((rows - count * m, width),), ((terms, 1),))
            pads.append(View(below, form.held, buffer, count * m * width))
        for pad in pads:
            self.copy_to(views.repeated(pad.shape, 0, form.held), pad)
        for digit in range(count):
            flat = View(((per_batch,), ((m, width),), ((terms, 1),)), form.held, buffer, digit * m * width)
            out = views.reshape(flat, x.shape)
            assert out is not None
            args: list[View] = [x, *scales]
            if not walk_together(out, args):
                args = [a if a.buffer is None else self.materialised(a) for a in args]
                assert walk_together(out, args)
            attributes = (digits, digit, len(scales))
            self.result.items.append(Map(f"digit_{form.name}", tuple(args), out, attributes))
        self.quantised[key] = Planes(whole, rows, width)
        return self.quantised[key]


def _along_columns(e: View, shape: Sequence[int]) -> View:
    """e[..., M] repeated over the last dimension of `shape`."""
    return views.expand(e.with_dims((*e.dims, ((1, 0),))) if e.buffer else _repeated(e, (*e.shape, 1)), shape)


def _along_rows(e: View, shape: Sequence[int]) -> View:
    """e[..., N] repeated over the dimension before the last of `shape`."""
    if e.buffer is None:
        return _repeated(e, shape)
    return views.expand(e.with_dims((*e.dims[:-1], ((1, 0),), e.dims[-1])), shape)


def _repeated(e: View, shape: Sequence[int]) -> View:
    assert e.number is not None
    return views.repeated(shape, e.number, e.dtype)
