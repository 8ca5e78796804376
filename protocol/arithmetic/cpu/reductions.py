"""Reductions inside row kernels: accumulators in registers, one or two looks at a row, one result.

An order-free sum looks twice, because its quantum follows from its largest term; a softmax's largest term is 1.
"""

from __future__ import annotations

from cupel.protocol.arithmetic.cpu import elementwise as ew
from cupel.protocol.arithmetic.cpu import kernels
from cupel.protocol.arithmetic.cpu.ir import Function, Value, Variable, vector
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.row_plans import Spec, is_float_sum
from cupel.protocol.arithmetic.operations import NOT_FINITE, DType

MAGIC_BITS = 0x4338000000000000
SOFTMAX_SCALE = 2.0 ** (kernels.SUM_BITS - 1)
"""2^(30 - e) where the largest term is 1."""
EXACT_TERMS = 1 << 22
"""Sums of more terms can pass 2^53."""


class Reductions:
    """Those of one row of a kernel."""

    def __init__(self, f: Function, isa: InstructionSet, spec: Spec) -> None:
        self.f, self.isa, self.spec = f, isa, spec
        self.partial: dict[tuple[int, str, int], Variable] = {}
        """Accumulators by (step, role, lanes)."""
        self.scales: dict[int, tuple[Value, Value]] = {}

    def _variable(self, n: int, role: str, lanes: int, element: str, start: int) -> None:
        self.partial[n, role, lanes] = self.f.variable(vector(lanes, element), start)

    def start_again(self, n: int, lanes: int) -> None:
        """Before the second look of a sum."""
        self._variable(n, "total", lanes, "i64", 0)

    def accumulate_again(self, n: int, lanes: int, x: Value, mask: Value | None) -> None:
        """A term in the second look of a sum."""
        if mask is not None:
            x = mask.select(x, 0.0)
        scale, _ = self.scales[n]
        bits = kernels.quantised_bits(self.f, self.isa, x, scale.splat(lanes) if lanes else scale)
        total = self.partial[n, "total", lanes]
        total.set(total.get() + bits)

    def start(self, n: int, lanes: int) -> None:
        step = self.spec.steps[n]
        dtype = step.dtypes[0]
        if is_float_sum(step):
            self._variable(n, "negative", lanes, "i32", 0)
            self._variable(n, "positive", lanes, "i32", ew.LOWEST)
        elif step.name in ("sum", "softmax_sum"):
            self._variable(n, "total", lanes, "i64", 0)
        elif step.name == "exponent":
            self._variable(n, "largest", lanes, "i32", 0)
        else:
            self._variable(n, "extreme", lanes, self._key_element(dtype), self._worst(step.name, dtype))

    @staticmethod
    def _key_element(dtype: DType) -> str:
        return {DType.FLOAT32: "i32", DType.BOOL: "i8"}.get(dtype, ew.ELEMENT[dtype])

    @staticmethod
    def _worst(name: str, dtype: DType) -> int:
        bits = 32 if dtype == DType.FLOAT32 else 8 * dtype.size_bytes
        if dtype in ew.UNSIGNED:
            return 0 if name == "max" else (1 << bits) - 1
        return -(1 << (bits - 1)) if name == "max" else (1 << (bits - 1)) - 1

    def _combine(self, name: str, dtype: DType) -> str:
        return ("u" if dtype in ew.UNSIGNED else "s") + name

    def accumulate(self, n: int, lanes: int, x: Value, mask: Value | None, *, dirty: bool) -> None:
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]

        def update(role: str, op: str, value: Value, neutral: int) -> None:
            variable = self.partial[n, role, lanes]
            if mask is not None:
                value = mask.select(value, neutral)
            variable.set(variable.get() + value if op == "add" else f.intrinsic(op, variable.get(), value))

        if is_float_sum(step):
            # Largest of either sign, in two instructions: unsigned order puts negative numbers above all others.
            bits = x.as_bits()
            if mask is not None:
                bits = mask.select(bits, 0)
            for role, op in (("negative", "umax"), ("positive", "smax")):
                variable = self.partial[n, role, lanes]
                variable.set(f.intrinsic(op, variable.get(), bits))
        elif step.name == "softmax_sum":
            if mask is not None:
                x = mask.select(x, 0.0)
            scale = f.const(vector(lanes, "double"), SOFTMAX_SCALE)
            total = self.partial[n, "total", lanes]
            total.set(total.get() + kernels.quantised_bits(f, self.isa, x, scale))
        elif step.name == "sum":
            update("total", "add", x.cast("zext" if dtype in ew.UNSIGNED else "sext", "i64"), 0)
        elif step.name == "exponent":
            update("largest", "umax", x.as_bits() & ew.MAGNITUDE, 0)
        else:
            if dtype == DType.FLOAT32:
                if dirty:
                    x = ew.canonical(x)
                x = ew.order_key(x, nan_first_of_lowest=step.name == "min")
            elif dtype == DType.BOOL:
                x = x.cast("zext", "i8")
            update("extreme", self._combine(step.name, dtype), x, self._worst(step.name, dtype))

    def _total(self, n: int, role: str, op: str) -> Value:
        """Over all lanes and passes."""
        f = self.f
        parts = [
            f.reduce(op, variable.get()) if lanes else variable.get()
            for (which, name, lanes), variable in self.partial.items()
            if which == n and name == role
        ]
        result = parts[0]
        for part in parts[1:]:
            result = result + part if op == "add" else f.intrinsic(op, result, part)
        return result

    def prepare(self, n: int) -> None:
        f = self.f
        largest, signed = self._total(n, "negative", "umax"), self._total(n, "positive", "smax")
        exponent, special = kernels.sum_parameters(f, largest, signed)
        self.scales[n] = (kernels.sum_scale(f, exponent), special)

    def finish(self, n: int, row_values: dict[int, Value]) -> Value:
        f, step = self.f, self.spec.steps[n]
        dtype = step.dtypes[0]
        if is_float_sum(step) or step.name == "softmax_sum":
            columns = self.spec.columns
            width = self.isa.width
            counted = -(-columns // width) * width if self.isa.masks else columns
            total = self._total(n, "total", "add") - (counted * MAGIC_BITS) % (1 << 64)
            if step.name == "softmax_sum":
                peak = row_values[int(str(step.args[1][1]))].as_bits() & ew.MAGNITUDE
                special = peak.compare("uge", ew.INFINITY_BITS).select(f.const("i32", ew.NAN_BITS), f.const("i32", 0))
                scale = f.const("double", SOFTMAX_SCALE)
            else:
                scale, special = self.scales[n]
            return kernels.sum_result(f, total, scale, special, large=columns > EXACT_TERMS)
        if step.name == "sum":
            return self._total(n, "total", "add")
        if step.name == "exponent":
            magnitude = self._total(n, "largest", "umax")
            finite = magnitude.compare("ult", ew.INFINITY_BITS)
            return finite.select(ew.exponent_of(f, magnitude), NOT_FINITE)
        key = self._total(n, "extreme", self._combine(step.name, dtype))
        if dtype == DType.FLOAT32:
            return ew.from_order_key(key, nan_first_of_lowest=step.name == "min")
        return key.cast("trunc", "i1") if dtype == DType.BOOL else key
