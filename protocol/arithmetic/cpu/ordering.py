"""TOPK and SORT: a heap of each row, of which the first k are taken.

A heap's element is an element's rank and position in one i128, so that all differ and ties go to the lowest position:
the order has one answer, and a heap finds it without being stable.
"""

from __future__ import annotations

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu.ir import Function, Module, Value
from cupel.protocol.arithmetic.operations import DType

ELEMENT_BYTES = 16


def _sift(module: Module) -> str:
    """void (heap, root, size, value): put the value into the hole at `root` of a heap whose least element is first."""
    name = "sift"
    if name in module.functions:
        return name
    f = Function(module, name, [("ptr", "heap"), ("i64", "root"), ("i64", "size"), ("i128", "value")])
    heap, root, size, value = f.arguments
    hole = f.variable("i64", root)
    going = f.variable("i1", 1)
    with f.loop_while(going):
        child = f.variable("i64", (hole.get() << 1) + 1)
        going.set(0)
        with f.when(child.get().compare("slt", size)):
            left = child.get()
            # At the end the left child is compared with itself.
            right = f.minimum(left + 1, size - 1)
            first, second = (f.load("i128", heap.offset("i128", c), align=8) for c in (left, right))
            child.set(second.compare("slt", first).select(right, left))
            least = f.load("i128", heap.offset("i128", child.get()), align=8)
            with f.when(least.compare("slt", value)):
                f.store(least, heap.offset("i128", hole.get()), align=8)
                hole.set(child.get())
                going.set(1)
    f.store(value, heap.offset("i128", hole.get()), align=8)
    f.finish()
    return name


def first_of_row(module: Module, dtype: DType, *, descending: bool) -> str:
    """out[row, j] = position of the j-th element of a contiguous row in order, NaN first either way. Range: rows."""
    name = f"order_{dtype.name.lower()}_{'down' if descending else 'up'}"
    if name in module.functions:
        return name
    sift = _sift(module)
    parameters = [("ptr", "x"), ("ptr", "out"), ("i64", "length"), ("i64", "count"), ("i64", "low"), ("i64", "high")]
    f = Function(module, name, [*parameters, ("ptr", "heap")])
    x, out, length, count, low, high, heap = f.arguments
    element = ew.MEMORY[dtype]

    def rank(value: Value) -> Value:
        """i64, least first."""
        if dtype == DType.FLOAT32:
            value = ew.order_key(value, nan_first_of_lowest=not descending).cast("sext", "i64")
        elif element != "i64":
            value = value.cast("zext" if dtype in ew.UNSIGNED else "sext", "i64")
        return value ^ -1 if descending else value

    with f.loop(low, high) as row:
        with f.loop(0, length) as i:
            value = f.load(element, x.offset(element, row * length + i), align=dtype.size_bytes)
            both = (rank(value).cast("sext", "i128") << 64) | i.cast("zext", "i128")
            f.store(both, heap.offset("i128", i), align=8)
        half = length.lshr(1)
        with f.loop(0, half) as i:
            root = half - 1 - i
            f.call("void", sift, [heap, root, length, f.load("i128", heap.offset("i128", root), align=8)])
        with f.loop(0, count) as j:
            least = f.load("i128", heap, align=8)
            f.store(least.cast("trunc", "i64"), out.offset("i64", row * count + j), align=8)
            left = length - 1 - j
            f.call("void", sift, [heap, f.i64(0), left, f.load("i128", heap.offset("i128", left), align=8)])
    f.finish()
    return name
