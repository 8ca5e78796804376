"""INDEX_ADD by integer atomics: whoever comes first, the sums are the same integers."""

from __future__ import annotations

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu import kernels
from cupel.protocol.arithmetic.cpu.ir import Value
from cupel.protocol.arithmetic.cpu.reductions import EXACT_TERMS, MAGIC_BITS
from cupel.protocol.arithmetic.cuda.rows import Launch
from cupel.protocol.arithmetic.cuda.source import ONE_LANE, Function, Module

CELL_BYTES = 16
"""Of each cell of the result: the largest patterns of its terms as unsigned and as signed integers, and the sum."""
_THREADS = 256
_MOST_BLOCKS = 1 << 20


def emit(module: Module, count: int, height: int, width: int, name: str) -> list[Launch]:
    """Kernels over (x[height, width], index[count], source[count, width], out, cells), to be launched in order.

    The old value of a cell is one of its terms, and the quantum of a sum follows from its largest term: so all terms
    are compared first, then added.
    """
    cells, terms = height * width, count * width
    launches: list[Launch] = []

    def begin(suffix: str, elements: int) -> Function:
        blocks = max(1, min(-(-elements // _THREADS), _MOST_BLOCKS))
        launches.append(Launch(f"{name}_{suffix}", blocks, _THREADS))
        parameters = [("ptr", p) for p in ("x", "index", "source", "out", "cells")]
        return Function(module, f"{name}_{suffix}", parameters, threads=_THREADS)

    def load(f: Function, pointer: str, i: str) -> Value:
        return f.emit("float", f"((const float*){pointer})[{i}]")

    def scale_of(f: Function, i: str) -> tuple[Value, Value]:
        largest = f.emit("i32", f"((int32_t*)(cells + {i} * {CELL_BYTES}))[0]")
        signed = f.emit("i32", f"((int32_t*)(cells + {i} * {CELL_BYTES}))[1]")
        exponent, special = kernels.sum_parameters(f, largest, signed)
        return kernels.sum_scale(f, exponent), special

    def landing(f: Function) -> None:
        """Defines `cell`, -1 for a term that lands nowhere."""
        f.do(f"const int64_t row = ((const int64_t*)index)[i / {width}];")
        f.do(f"const int64_t cell = row >= 0 && row < {height}LL ? row * {width} + i % {width} : -1;")

    f = begin("begin", cells)
    with f.block(f"FOR_EACH(i, {cells}LL)"):
        bits = load(f, "x", "i").as_bits()
        positive = f.intrinsic("smax", bits, f.const("i32", ew.LOWEST))
        f.do(f"((int32_t*)(cells + i * {CELL_BYTES}))[0] = {bits.name};")
        f.do(f"((int32_t*)(cells + i * {CELL_BYTES}))[1] = {positive.name};")
    f.finish()
    if count:
        f = begin("largest", terms)
        with f.block(f"FOR_EACH(i, {terms}LL)"):
            landing(f)
            with f.block("if (cell >= 0)"):
                bits = load(f, "source", "i").as_bits()
                f.do(f"raise_to((uint32_t*)(cells + cell * {CELL_BYTES}), (uint32_t){bits.name});")
                f.do(f"raise_to((int32_t*)(cells + cell * {CELL_BYTES}) + 1, {bits.name});")
        f.finish()
    f = begin("old", cells)
    with f.block(f"FOR_EACH(i, {cells}LL)"):
        scale, _ = scale_of(f, "i")
        quantised = kernels.quantised_bits(f, ONE_LANE, load(f, "x", "i"), scale) - MAGIC_BITS
        f.do(f"*(int64_t*)(cells + i * {CELL_BYTES} + 8) = {quantised.name};")
    f.finish()
    if count:
        f = begin("add", terms)
        with f.block(f"FOR_EACH(i, {terms}LL)"):
            landing(f)
            with f.block("if (cell >= 0)"):
                scale, _ = scale_of(f, "cell")
                quantised = kernels.quantised_bits(f, ONE_LANE, load(f, "source", "i"), scale) - MAGIC_BITS
                f.do(f"add_to((int64_t*)(cells + cell * {CELL_BYTES} + 8), {quantised.name});")
        f.finish()
    f = begin("end", cells)
    with f.block(f"FOR_EACH(i, {cells}LL)"):
        scale, special = scale_of(f, "i")
        total = f.emit("i64", f"*(int64_t*)(cells + i * {CELL_BYTES} + 8)")
        result = kernels.sum_result(f, total, scale, special, large=count + 1 > EXACT_TERMS)
        f.do(f"((float*)out)[i] = {result.name};")
    f.finish()
    return launches
