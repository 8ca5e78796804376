"""A writer of CUDA C with the interface of cpu/ir.py, so that both engines share what is written with it.

Elementwise operations, correctly rounded functions and the ends of sums exist once, as calls on `ir.Value`. Here the
same calls write C for one element. `Value` keeps LLVM's meaning of every operation: integers wrap, `>>` is arithmetic,
comparisons name their treatment of NaN. Vectors have one lane and are scalars.

The text compiles for a GPU and, with prelude.py's other half, as C++ for the host, where tests run it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cupel.protocol.arithmetic.cpu import ir
from cupel.protocol.arithmetic.cpu.isa import InstructionSet

ONE_LANE = InstructionSet(
    name="cuda",
    cpu="",
    features="",
    width=1,
    columns=1,
    rows=1,
    lanes=1,
    product="",
    crossed=False,
    bytes="",
    masks=False,
    fma=True,
)
"""What shared code asks of a processor: one element at a time, fused multiply-add in binary64."""

_TYPES = {
    "i1": "bool",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "i128": "__int128",
    "float": "float",
    "double": "double",
    "ptr": "char*",
    "void": "void",
}
_SIGNED = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^", "shl": "<<"}
_ORDERED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def c_type(kind: str) -> str:
    return _TYPES[_scalar(kind)]


def _unsigned(kind: str) -> str:
    return "unsigned __int128" if kind == "i128" else f"uint{kind[1:]}_t"


def _scalar(kind: str) -> str:
    """A vector of one lane is its element."""
    return ir.split_type(kind)[1]


def literal(kind: str, value: int | float) -> str:
    """A C expression with exactly these bits."""
    if kind in ("float", "double"):
        value = float(value)
        if math.isfinite(value):
            return f"({value.hex()}{'f' if kind == 'float' else ''})"
        if kind == "float":
            return f"__int_as_float(0x{struct.unpack('<I', struct.pack('<f', value))[0]:08x})"
        return f"__longlong_as_double(0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016x}LL)"
    if kind == "i1":
        return "true" if value else "false"
    bits = int(kind[1:])
    wrapped = int(value) & ((1 << bits) - 1)
    suffix = "ULL" if bits >= 64 else "u"
    assert wrapped < 1 << 64
    return f"(({_TYPES[kind]})0x{wrapped:x}{suffix})"


class Value(ir.Value):
    """A C expression of scalar type: a name or a literal."""

    __slots__ = ()
    f: Function

    def __init__(self, f: Function, kind: str, name: str) -> None:
        super().__init__(f, _scalar(kind), name)

    def _arith(self, integer: str, other: ir.Value | int | float) -> Value:
        y = self._other(other).name
        if self.kind in ("float", "double"):
            return self.f.emit(self.kind, f"{self.name} {_SIGNED[integer]} {y}")
        return self._bits(integer, other)

    def _bits(self, op: str, other: ir.Value | int | float) -> Value:
        x, y, kind = self.name, self._other(other).name, self.kind
        if op == "fdiv":
            return self.f.emit(kind, f"{x} / {y}")
        if kind == "i1":
            return self.f.emit(kind, f"{x} {_SIGNED[op]} {y}")
        # In unsigned arithmetic at least as wide as int, where overflow wraps instead of being undefined.
        wide = _unsigned(kind if kind in ("i64", "i128") else "i32")
        narrow = _unsigned(kind)
        if op == "ashr":
            text = f"{x} >> {y}"
        elif op == "lshr":
            text = f"({narrow}){x} >> {y}"
        elif op in ("udiv", "urem"):
            text = f"({narrow}){x} {'/' if op == 'udiv' else '%'} ({narrow}){y}"
        elif op in ("sdiv", "srem"):
            text = f"{x} {'/' if op == 'sdiv' else '%'} {y}"
        else:
            right = y if op == "shl" else f"({wide}){y}"
            text = f"({narrow})(({wide}){x} {_SIGNED[op]} {right})"
        return self.f.emit(kind, f"({_TYPES[kind]})({text})")

    def __neg__(self) -> Value:
        if self.kind in ("float", "double"):
            return self.f.emit(self.kind, f"-{self.name}")
        return self.f.const(self.kind, 0)._bits("sub", self)

    def compare(self, condition: str, other: ir.Value | int | float) -> Value:
        x, y = self.name, self._other(other).name
        if self.kind in ("float", "double"):
            text = {
                "uno": f"({x} != {x}) | ({y} != {y})",
                "one": f"({x} < {y}) | ({x} > {y})",
                "une": f"{x} != {y}",
            }.get(condition)
            # C's own comparisons are false for NaN, as LLVM's ordered ones.
            return self.f.emit("i1", text or f"{x} {_ORDERED[condition[1:]]} {y}")
        if condition in ("eq", "ne"):
            return self.f.emit("i1", f"{x} {_ORDERED[condition]} {y}")
        if condition[0] == "u":
            kind = _unsigned("i8" if self.kind == "i1" else self.kind)
            x, y = f"({kind}){x}", f"({kind}){y}"
        return self.f.emit("i1", f"{x} {_ORDERED[condition[1:]]} {y}")

    def cast(self, op: str, element: str) -> Value:
        kind = _scalar(element)
        if kind == self.kind:
            return self
        if op == "bitcast":
            return self.bitcast(kind)
        if op in ("zext", "uitofp") and self.kind != "i1":
            return self.f.emit(kind, f"({c_type(kind)})({_unsigned(self.kind)}){self.name}")
        if op == "trunc" and kind == "i1":
            return self.f.emit(kind, f"({self.name} & 1) != 0")
        return self.f.emit(kind, f"({c_type(kind)}){self.name}")

    def bitcast(self, kind: str) -> Value:
        kind = _scalar(kind)
        if kind == self.kind:
            return self
        name = {
            ("float", "i32"): "__float_as_int",
            ("i32", "float"): "__int_as_float",
            ("double", "i64"): "__double_as_longlong",
            ("i64", "double"): "__longlong_as_double",
        }[self.kind, kind]
        return self.f.emit(kind, f"{name}({self.name})")

    def select(self, yes: ir.Value | int | float, no: ir.Value | int | float) -> Value:
        if not isinstance(yes, ir.Value):
            assert isinstance(no, ir.Value)
            yes = self.f.const(no.kind, yes)
        if not isinstance(no, ir.Value):
            no = self.f.const(yes.kind, no)
        return self.f.emit(yes.kind, f"{self.name} ? {yes.name} : {no.name}")

    def extract(self, lane: int | ir.Value) -> Value:
        return self

    def insert(self, element: ir.Value, lane: int | ir.Value) -> Value:
        assert isinstance(element, Value)
        return element

    def splat(self, lanes: int) -> Value:
        return self

    def offset(self, element: str, index: ir.Value | int) -> Value:
        if isinstance(index, int) and index == 0:
            return self
        text = str(index) if isinstance(index, int) else index.name
        return self.f.emit("ptr", f"{self.name} + (int64_t){text} * {_size(element)}")


def _size(element: str) -> int:
    return {"float": 4, "double": 8}.get(element) or int(element[1:]) // 8


class Variable(ir.Variable):
    """A mutable local."""

    __slots__ = ()

    def get(self) -> Value:
        f = self.slot.f
        assert isinstance(f, Function)
        # A copy: what was read stays what it was.
        return f.emit(self.kind, self.slot.name)

    def set(self, value: ir.Value | int | float) -> None:
        f = self.slot.f
        if not isinstance(value, ir.Value):
            value = f.const(self.kind, value)
        f.do(f"{self.slot.name} = {value.name};")


class Module(ir.Module):
    """Device functions and kernels."""

    def function(self, name: str, parameters: Iterable[tuple[str, str]], *, result: str = "void") -> Function:
        return Function(self, name, parameters, result=result)

    def table(self, f: ir.Function, name: str, values: Iterable[float]) -> Value:
        if name not in self.tables:
            items = ", ".join(literal("double", v) for v in values)
            self.tables[name] = f"TABLE double {name}[] = {{{items}}};"
        assert isinstance(f, Function)
        return Value(f, "ptr", f"((char*){name})")

    def sources(self, each: int) -> list[str]:
        """Texts that compile apart, of `each` kernels at most, so that several processors can."""
        kernels = [text for text in self.functions.values() if text.startswith("KERNEL")]
        shared = [*self.tables.values(), *(t for t in self.functions.values() if not t.startswith("KERNEL"))]
        return ["\n".join([*shared, *kernels[at : at + each], ""]) for at in range(0, len(kernels), each)]


class Function(ir.Function):
    """One device function or kernel. Every one is handed `answers`, where exact results are looked up."""

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Iterable[tuple[str, str]],
        *,
        result: str = "void",
        threads: int = 0,
    ) -> None:
        """threads  of a block of the kernel; 0 for a function that kernels call"""
        super().__init__(module, name, (), result=result)
        self.threads = threads
        self.depth = 1
        for kind, label in parameters:
            restrict = " __restrict__" if kind == "ptr" else ""
            self.signature.append(f"{c_type(kind)}{restrict} {label}")
            self.arguments.append(Value(self, kind, label))

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def do(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def emit(self, kind: str, text: str) -> Value:
        name = self.fresh()
        self.do(f"const {c_type(kind)} {name} = {text};" if kind != "ptr" else f"char* const {name} = {text};")
        return Value(self, kind, name)

    def const(self, kind: str, value: int | float) -> Value:
        return Value(self, kind, literal(_scalar(kind), value))

    def i64(self, value: ir.Value | int) -> Value:
        if isinstance(value, Value):
            return value
        assert isinstance(value, int)
        return self.const("i64", value)

    def poison(self, kind: str) -> Value:
        return self.const(kind, 0)

    def variable(self, kind: str, value: ir.Value | int | float | None = None) -> Variable:
        if not isinstance(value, ir.Value):
            value = self.const(kind, value or 0)
        name = self.fresh()
        self.do(f"{c_type(kind)} {name} = {value.name};")
        return Variable(Value(self, kind, name), _scalar(kind))

    def load(self, kind: str, pointer: ir.Value, *, align: int, volatile: bool = False) -> Value:
        return self.emit(_scalar(kind), f"*(const {c_type(kind)}*)({pointer.name})")

    def store(self, value: ir.Value, pointer: ir.Value, *, align: int, volatile: bool = False) -> None:
        self.do(f"*({c_type(value.kind)}*)({pointer.name}) = {value.name};")

    def call(self, result: str, name: str, arguments: Iterable[ir.Value]) -> Value:
        values = [v.name for v in arguments]
        if name.startswith("llvm.fpto"):  # llvm.fptosi.sat.v1i8.v1f32
            element = _scalar(result)
            kind = "saturated_unsigned" if "fptoui" in name else "saturated"
            return self.emit(element, f"{kind}<{c_type(element)}>({values[0]})")
        assert not name.startswith("llvm."), name
        text = f"{name}({', '.join(['answers', *values])})"
        if result == "void":
            self.do(f"{text};")
            return self.poison("i1")
        return self.emit(_scalar(result), text)

    def intrinsic(self, name: str, *arguments: ir.Value, flag: bool | None = None) -> Value:
        kind = arguments[0].kind
        x = [a.name for a in arguments]
        single = "f" if kind == "float" else ""
        if name in ("smin", "smax", "umin", "umax"):
            a, b = (f"({_unsigned(kind)}){v}" if name[0] == "u" else v for v in x)
            return self.emit(kind, f"{a} {'<' if name.endswith('min') else '>'} {b} ? {x[0]} : {x[1]}")
        if name == "abs":
            below = Value(self, kind, x[0]).compare("slt", 0)
            return below.select(-Value(self, kind, x[0]), arguments[0])
        if name == "ctlz":
            assert kind == "i32"
            return self.emit(kind, f"__clz({x[0]})")
        text = {
            "fabs": f"fabs{single}({x[0]})",
            "sqrt": f"sqrt{single}({x[0]})",
            "copysign": f"copysign{single}({', '.join(x)})",
            "fma": f"fma({', '.join(x)})",
        }[name]
        assert name != "fma" or kind == "double", "binary32 is never contracted"
        return self.emit(kind, text)

    # Control flow

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head {` ... `}`."""
        self.do(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        self.do("}")

    @contextmanager
    def when(self, condition: ir.Value) -> Iterator[None]:
        with self.block(f"if ({condition.name})"):
            yield

    @contextmanager
    def loop(self, start: ir.Value | int, stop: ir.Value | int, step: ir.Value | int = 1) -> Iterator[Value]:
        index = self.fresh()
        low, high, by = (n.name if isinstance(n, ir.Value) else str(n) for n in (start, stop, step))
        with self.block(f"for (int64_t {index} = {low}; {index} < {high}; {index} += {by})"):
            yield Value(self, "i64", index)

    def leave(self, value: ir.Value) -> None:
        self.do(f"return {value.name};")

    def finish(self, value: ir.Value | None = None) -> None:
        if value is not None:
            self.do(f"return {value.name};")
        start = f"KERNEL({self.threads}) void" if self.threads else f"DEVICE {c_type(self.result)}"
        head = f"{start} {self.name}"
        parameters = ", ".join(["Answers* answers", *self.signature])
        body = "\n".join([f"{head}({parameters}) {{", *self.lines, "}"])
        self.module.functions[self.name] = body
