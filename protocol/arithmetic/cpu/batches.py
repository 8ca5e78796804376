"""Batched products: each one quantised, multiplied and forgotten while it is in the cache."""

from __future__ import annotations

from dataclasses import dataclass

from cupel.protocol.arithmetic.cpu.ir import Function, Module
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.packing import (
    pack_by_term,
    pack_rows_contiguous,
    pack_terms_contiguous,
    pack_weighted,
)
from cupel.protocol.arithmetic.cpu.panels import Form, aligned, pack_scratch, scale_bytes
from cupel.protocol.arithmetic.cpu.products import product, product_scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The shape of a batched product: rows by columns results each, and how the operands lie."""

    rows: int
    columns: int
    terms: int
    digits: int
    left_unit_terms: bool
    right_unit_terms: bool
    by_rows: bool

    def forms(self, isa: InstructionSet) -> tuple[Form, Form]:
        return (
            Form.of(isa, self.digits, self.terms, left=True),
            Form.of(isa, self.digits, self.terms, left=False),
        )

    def layout(self, isa: InstructionSet) -> dict[str, tuple[int, int]]:
        """Offset and size of each part of the scratch memory."""
        left, right = self.forms(isa)
        panel = isa.columns
        sizes = {
            "a": left.plane_bytes(self.rows, self.terms, panel) * left.planes,
            "b": right.plane_bytes(self.columns, self.terms, panel) * right.planes,
            "a_scales": scale_bytes(left, self.rows, self.terms, panel),
            "b_scales": scale_bytes(right, self.columns, self.terms, panel),
            "weights": self.terms * 8 if self.by_rows else 0,
            "pack": pack_scratch(isa, self.terms if self.by_rows else 0),
            "product": product_scratch(isa),
        }
        result, offset = {}, 0
        for part, size in sizes.items():
            result[part] = (offset, size)
            offset += aligned(size)
        result["total"] = (offset, 0)
        return result


def batch(module: Module, isa: InstructionSet, shape: Batch) -> str:
    """void (a, b, c, offsets of a, b, c, stride of a, of b, of c, low, high, scratch). Range: batches."""
    name = (
        f"batch_{shape.rows}_{shape.columns}_{shape.terms}_{shape.digits}"
        f"_{int(shape.left_unit_terms)}{int(shape.right_unit_terms)}{int(shape.by_rows)}"
    )
    if name in module.functions:
        return name
    digits, n = shape.digits, isa.columns
    pack_a = pack_terms_contiguous if shape.left_unit_terms else pack_rows_contiguous
    pack_b = pack_terms_contiguous if shape.right_unit_terms else pack_rows_contiguous
    multiply = product(module, isa, digits, shape.terms)
    parameters = [("ptr", p) for p in ("a", "b", "c", "offsets")]
    parameters += [("i64", p) for p in ("a_stride", "b_stride", "c_stride", "count", "low", "high")]
    f = Function(module, name, [*parameters, ("ptr", "scratch")])
    a, b, c, offsets, a_stride, b_stride, c_stride, count, low, high, scratch = f.arguments
    layout = shape.layout(isa)
    part = {key: scratch.offset("i8", offset) for key, (offset, _) in layout.items()}
    left_form, right_form = shape.forms(isa)
    a_plane = f.i64(left_form.plane_bytes(shape.rows, shape.terms, n))
    b_plane = f.i64(right_form.plane_bytes(shape.columns, shape.terms, n))
    rows, columns, terms = f.i64(shape.rows), f.i64(shape.columns), f.i64(shape.terms)
    a_panels, b_panels = f.i64(-(-shape.rows // n)), f.i64(-(-shape.columns // n))
    zero = f.i64(0)
    with f.loop(low, high) as i:
        starts = [f.load("i64", offsets.offset("i64", count * k + i), align=8) for k in range(3)]
        x, y, z = (p.offset("float", s) for p, s in zip((a, b, c), starts, strict=True))
        if shape.by_rows:
            by_term = pack_by_term(module, isa, right_form)
            weighted = pack_weighted(module, isa, left_form)
            f.call(
                "void",
                by_term,
                [y, b_stride, columns, terms, part["b"], b_plane, part["weights"], part["b_scales"], part["pack"]],
            )
            left = [part["weights"], terms, part["a"], a_plane, part["a_scales"], zero, a_panels, part["pack"]]
            f.call("void", weighted, [x, a_stride, rows, *left])
        else:
            f.call(
                "void",
                pack_a(module, isa, left_form),
                [x, a_stride, rows, terms, part["a"], a_plane, part["a_scales"], zero, a_panels, part["pack"]],
            )
            f.call(
                "void",
                pack_b(module, isa, right_form),
                [y, b_stride, columns, terms, part["b"], b_plane, part["b_scales"], zero, b_panels, part["pack"]],
            )
        f.call(
            "void",
            multiply,
            [
                part["a"],
                part["a_scales"],
                part["b"],
                part["b_scales"],
                z,
                rows,
                columns,
                f.i64(-(-shape.terms // left_form.together)),
                c_stride,
                a_plane,
                b_plane,
                zero,
                f.i64(-(-shape.rows // isa.rows)),
                zero,
                b_panels,
                part["product"],
            ],
        )
    f.finish()
    return name
