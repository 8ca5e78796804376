"""A small writer of LLVM IR: typed values with Python's operators, loops, branches.

Text, because a kernel is written once and parsed once: llvmlite's own builder spends three times as long on the
same code. Nothing here carries fast-math flags, so LLVM may not contract, reassociate or drop a sign.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@functools.cache
def split_type(kind: str) -> tuple[int, str]:
    """Lanes (0 for a scalar) and element type."""
    if kind.startswith("<"):
        lanes, element = kind[1:-1].split(" x ")
        return int(lanes), element
    return 0, kind


@functools.cache
def vector(lanes: int, element: str) -> str:
    return f"<{lanes} x {element}>" if lanes else element


def _with_element(kind: str, element: str) -> str:
    return vector(split_type(kind)[0], element)


@functools.cache
def _is_float(kind: str) -> bool:
    return split_type(kind)[1] in ("float", "double")


_SUFFIX = {"float": "f32", "double": "f64"}


@functools.cache
def _suffix(kind: str) -> str:
    lanes, element = split_type(kind)
    return (f"v{lanes}" if lanes else "") + _SUFFIX.get(element, element)


def _literal(kind: str, value: int | float) -> str:
    element = split_type(kind)[1]
    if element in ("float", "double"):
        # By bit pattern, because 0.0 == -0.0 to a dictionary.
        return _repeat(kind, f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}")
    if element == "i1":
        return _repeat(kind, "true" if value else "false")
    bits = int(element[1:])
    wrapped = int(value) & ((1 << bits) - 1)
    return _repeat(kind, str(wrapped - (1 << bits) if wrapped >> (bits - 1) else wrapped))


@functools.cache
def _repeat(kind: str, text: str) -> str:
    lanes, element = split_type(kind)
    return "<" + ", ".join([f"{element} {text}"] * lanes) + ">" if lanes else text


class Value:
    """An SSA value or a constant. Integer `>>` is arithmetic; `lshr` is the other."""

    __slots__ = ("f", "kind", "name")

    def __init__(self, f: Function, kind: str, name: str) -> None:
        self.f, self.kind, self.name = f, kind, name

    def _other(self, other: Value | int | float) -> Value:
        return other if isinstance(other, Value) else self.f.const(self.kind, other)

    def _arith(self, integer: str, other: Value | int | float) -> Value:
        op = "f" + integer if _is_float(self.kind) else integer
        return self.f.emit(self.kind, f"{op} {self.kind} {self.name}, {self._other(other).name}")

    def _bits(self, op: str, other: Value | int | float) -> Value:
        return self.f.emit(self.kind, f"{op} {self.kind} {self.name}, {self._other(other).name}")

    def __add__(self, other: Value | int | float) -> Value:
        return self._arith("add", other)

    def __sub__(self, other: Value | int | float) -> Value:
        return self._arith("sub", other)

    def __rsub__(self, other: int | float) -> Value:
        return self._other(other) - self

    def __mul__(self, other: Value | int | float) -> Value:
        return self._arith("mul", other)

    def __truediv__(self, other: Value | int | float) -> Value:
        return self._bits("fdiv", other)

    def __neg__(self) -> Value:
        if _is_float(self.kind):
            return self.f.emit(self.kind, f"fneg {self.kind} {self.name}")
        return self.f.const(self.kind, 0) - self

    def __and__(self, other: Value | int) -> Value:
        return self._bits("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._bits("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._bits("xor", other)

    def __lshift__(self, other: Value | int) -> Value:
        return self._bits("shl", other)

    def __rshift__(self, other: Value | int) -> Value:
        return self._bits("ashr", other)

    def lshr(self, other: Value | int) -> Value:
        return self._bits("lshr", other)

    def binary(self, op: str, other: Value | int) -> Value:
        return self._bits(op, other)

    def compare(self, condition: str, other: Value | int | float) -> Value:
        """`condition` is LLVM's: eq ne slt ult ... for integers, oeq une olt uno ... for floats."""
        op = "fcmp" if _is_float(self.kind) else "icmp"
        return self.f.emit(
            _with_element(self.kind, "i1"), f"{op} {condition} {self.kind} {self.name}, {self._other(other).name}"
        )

    def cast(self, op: str, element: str) -> Value:
        kind = _with_element(self.kind, element)
        return self if kind == self.kind else self.f.emit(kind, f"{op} {self.kind} {self.name} to {kind}")

    def bitcast(self, kind: str) -> Value:
        return self.f.emit(kind, f"bitcast {self.kind} {self.name} to {kind}")

    def as_bits(self) -> Value:
        """The value's bit pattern: float to i32, double to i64, lanes kept."""
        return self.cast("bitcast", "i32" if split_type(self.kind)[1] == "float" else "i64")

    def select(self, yes: Value | int | float, no: Value | int | float) -> Value:
        """`yes` where this i1 holds, else `no`; at least one of them is a Value."""
        if not isinstance(yes, Value):
            assert isinstance(no, Value)
            yes = self.f.const(no.kind, yes)
        if not isinstance(no, Value):
            no = self.f.const(yes.kind, no)
        return self.f.emit(yes.kind, f"select {self.kind} {self.name}, {yes.kind} {yes.name}, {no.kind} {no.name}")

    def extract(self, lane: int | Value) -> Value:
        index = f"i64 {lane.name}" if isinstance(lane, Value) else f"i32 {lane}"
        return self.f.emit(split_type(self.kind)[1], f"extractelement {self.kind} {self.name}, {index}")

    def insert(self, element: Value, lane: int | Value) -> Value:
        index = f"i64 {lane.name}" if isinstance(lane, Value) else f"i32 {lane}"
        return self.f.emit(self.kind, f"insertelement {self.kind} {self.name}, {element.kind} {element.name}, {index}")

    def splat(self, lanes: int) -> Value:
        one = self.f.poison(vector(lanes, self.kind)).insert(self, 0)
        zeros = f"<{lanes} x i32> zeroinitializer"
        return self.f.emit(one.kind, f"shufflevector {one.kind} {one.name}, {one.kind} poison, {zeros}")

    def shuffle(self, other: Value, lanes: Iterable[int]) -> Value:
        order = list(lanes)
        mask = f"<{len(order)} x i32> <" + ", ".join(f"i32 {i}" for i in order) + ">"
        kind = vector(len(order), split_type(self.kind)[1])
        return self.f.emit(kind, f"shufflevector {self.kind} {self.name}, {other.kind} {other.name}, {mask}")

    # Pointers
    def offset(self, element: str, index: Value | int) -> Value:
        """Pointer `index` elements further."""
        if isinstance(index, int):
            if index == 0:
                return self
            text = str(index)
        else:
            text = index.name
        return self.f.emit("ptr", f"getelementptr inbounds {element}, ptr {self.name}, i64 {text}")


class Variable:
    """A mutable local, promoted to a register by LLVM."""

    __slots__ = ("kind", "slot")

    def __init__(self, slot: Value, kind: str) -> None:
        self.slot, self.kind = slot, kind

    def get(self) -> Value:
        return self.slot.f.emit(self.kind, f"load {self.kind}, ptr {self.slot.name}")

    def set(self, value: Value | int | float) -> None:
        f = self.slot.f
        if not isinstance(value, Value):
            value = f.const(self.kind, value)
        f.do(f"store {self.kind} {value.name}, ptr {self.slot.name}")


class Module:
    """Functions and the declarations they need."""

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}
        self.declarations: set[str] = set()
        self.tables: dict[str, str] = {}

    def function(self, name: str, parameters: Iterable[tuple[str, str]], *, result: str = "void") -> Function:
        """A function to be written; the GPU engine's module begins one of its own kind."""
        return Function(self, name, parameters, result=result)

    def table(self, f: Function, name: str, values: Iterable[float]) -> Value:
        """Pointer to a constant array of doubles."""
        if name not in self.tables:
            items = [f"double {_literal('double', v)}" for v in values]
            self.tables[name] = f"@{name} = internal constant [{len(items)} x double] [{', '.join(items)}], align 64"
        return Value(f, "ptr", f"@{name}")

    def text(self, triple: str, attributes: str) -> str:
        """The whole module; attribute group 0 is for every function, 1 adds noinline."""
        return "\n".join(
            [
                f'target triple = "{triple}"',
                *sorted(self.declarations),
                *self.tables.values(),
                *self.functions.values(),
                f"attributes #0 = {{ nounwind {attributes} }}",
                f"attributes #1 = {{ nounwind noinline {attributes} }}",
                "",
            ]
        )


class Function:
    """One function being written; `finish` puts it into the module."""

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Iterable[tuple[str, str]],
        *,
        result: str = "void",
        public: bool = False,
        noinline: bool = True,
    ) -> None:
        self.module, self.name, self.result = module, name, result
        self.public, self.noinline = public, noinline
        self.signature: list[str] = []
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.count = 0
        self.arguments: list[Value] = []
        for kind, label in parameters:
            self.signature.append(f"{kind} noalias %{label}" if kind == "ptr" else f"{kind} %{label}")
            self.arguments.append(Value(self, kind, f"%{label}"))

    def argument(self, label: str) -> Value:
        """The parameter of that name."""
        return next(a for a in self.arguments if a.name == f"%{label}")

    def fresh(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def emit(self, kind: str, text: str) -> Value:
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return Value(self, kind, name)

    def do(self, text: str) -> None:
        self.lines.append("  " + text)

    def const(self, kind: str, value: int | float) -> Value:
        return Value(self, kind, _literal(kind, value))

    def i64(self, value: Value | int) -> Value:
        return value if isinstance(value, Value) else self.const("i64", value)

    def poison(self, kind: str) -> Value:
        return Value(self, kind, "poison")

    def alloca(self, kind: str, align: int = 64) -> Value:
        name = self.fresh()
        self.entry.append(f"  {name} = alloca {kind}, align {align}")
        return Value(self, "ptr", name)

    def variable(self, kind: str, value: Value | int | float | None = None) -> Variable:
        result = Variable(self.alloca(kind), kind)
        if value is not None:
            result.set(value)
        return result

    def load(self, kind: str, pointer: Value, *, align: int, volatile: bool = False) -> Value:
        return self.emit(kind, f"load {'volatile ' if volatile else ''}{kind}, ptr {pointer.name}, align {align}")

    def store(self, value: Value, pointer: Value, *, align: int, volatile: bool = False) -> None:
        self.do(f"store {'volatile ' if volatile else ''}{value.kind} {value.name}, ptr {pointer.name}, align {align}")

    def masked_load(self, kind: str, pointer: Value, mask: Value, *, align: int) -> Value:
        """Lanes outside the mask are zero and not touched in memory."""
        name = f"llvm.masked.load.{_suffix(kind)}.p0"
        if _masked_alignment_is_an_attribute():
            self.module.declarations.add(f"declare {kind} @{name}(ptr, {mask.kind}, {kind})")
            arguments = f"ptr align {align} {pointer.name}, {mask.kind} {mask.name}, {kind} zeroinitializer"
            return self.emit(kind, f"call {kind} @{name}({arguments})")
        self.module.declarations.add(f"declare {kind} @{name}(ptr, i32, {mask.kind}, {kind})")
        arguments = f"ptr {pointer.name}, i32 {align}, {mask.kind} {mask.name}, {kind} zeroinitializer"
        return self.emit(kind, f"call {kind} @{name}({arguments})")

    def masked_store(self, value: Value, pointer: Value, mask: Value, *, align: int) -> None:
        kind = value.kind
        name = f"llvm.masked.store.{_suffix(kind)}.p0"
        if _masked_alignment_is_an_attribute():
            self.module.declarations.add(f"declare void @{name}({kind}, ptr, {mask.kind})")
            self.do(
                f"call void @{name}({kind} {value.name}, ptr align {align} {pointer.name}, {mask.kind} {mask.name})"
            )
            return
        self.module.declarations.add(f"declare void @{name}({kind}, ptr, i32, {mask.kind})")
        self.do(f"call void @{name}({kind} {value.name}, ptr {pointer.name}, i32 {align}, {mask.kind} {mask.name})")

    def call(self, result: str, name: str, arguments: Iterable[Value]) -> Value:
        values = list(arguments)
        if name not in self.module.functions:
            self.module.declarations.add(f"declare {result} @{name}({', '.join(v.kind for v in values)})")
        text = f"call {result} @{name}({', '.join(f'{v.kind} {v.name}' for v in values)})"
        if result == "void":
            self.do(text)
            return self.poison("i1")
        return self.emit(result, text)

    def intrinsic(self, name: str, *arguments: Value, flag: bool | None = None) -> Value:
        """llvm.<name>.<type of the first argument>; `flag` is a trailing i1."""
        kind = arguments[0].kind
        extra = [] if flag is None else [self.const("i1", flag)]
        return self.call(kind, f"llvm.{name}.{_suffix(kind)}", [*arguments, *extra])

    def reduce(self, name: str, value: Value) -> Value:
        """Horizontal add, umax, smax...: exact integer reductions only."""
        lanes, element = split_type(value.kind)
        if lanes in (0, 1):
            return value.extract(0) if lanes else value
        return self.call(element, f"llvm.vector.reduce.{name}.{_suffix(value.kind)}", [value])

    # Control flow
    def _label(self) -> str:
        self.count += 1
        return f"b{self.count}"

    def _start(self, label: str) -> None:
        self.lines.append(f"{label}:")

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: Value | int = 1) -> Iterator[Value]:
        """for (i = start; i < stop; i += step), signed."""
        index = self.variable("i64", start if isinstance(start, Value) else self.const("i64", start))
        head, body, done = self._label(), self._label(), self._label()
        self.do(f"br label %{head}")
        self._start(head)
        i = index.get()
        self.do(f"br i1 {i.compare('slt', stop).name}, label %{body}, label %{done}")
        self._start(body)
        yield i
        next_i = step if isinstance(step, Value) else self.const("i64", step)
        index.set(self.emit("i64", f"add nsw i64 {i.name}, {next_i.name}"))
        self.do(f"br label %{head}")
        self._start(done)

    @contextmanager
    def loop_while(self, going: Variable) -> Iterator[None]:
        """Repeats while the i1 variable holds."""
        head, body, done = self._label(), self._label(), self._label()
        self.do(f"br label %{head}")
        self._start(head)
        self.do(f"br i1 {going.get().name}, label %{body}, label %{done}")
        self._start(body)
        yield
        self.do(f"br label %{head}")
        self._start(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        body, done = self._label(), self._label()
        self.do(f"br i1 {condition.name}, label %{body}, label %{done}")
        self._start(body)
        yield
        self.do(f"br label %{done}")
        self._start(done)

    def minimum(self, a: Value, b: Value | int) -> Value:
        return self.intrinsic("smin", a, b if isinstance(b, Value) else self.const(a.kind, b))

    def lane_numbers(self, lanes: int, element: str = "i32") -> Value:
        kind = vector(lanes, element)
        return Value(self, kind, "<" + ", ".join(f"{element} {i}" for i in range(lanes)) + ">")

    def mask_below(self, lanes: int, count: Value) -> Value:
        """<lanes x i1>: lane index < count (an i64)."""
        limit = count.cast("trunc", "i32").splat(lanes)
        return self.lane_numbers(lanes).compare("ult", limit)

    def leave(self, value: Value) -> None:
        """Return early, inside `when`."""
        self.do(f"ret {value.kind} {value.name}")
        self._start(self._label())

    def finish(self, value: Value | None = None) -> None:
        self.do("ret void" if value is None else f"ret {value.kind} {value.name}")
        linkage = "" if self.public else "internal "
        body = "\n".join(["entry:", *self.entry, "  br label %start", "start:", *self.lines])
        self.module.functions[self.name] = (
            f"define {linkage}{self.result} @{self.name}({', '.join(self.signature)})"
            f" #{1 if self.noinline else 0} {{\n{body}\n}}"
        )


@functools.cache
def _masked_alignment_is_an_attribute() -> bool:
    """LLVM 22 moved the alignment of masked loads from an operand to the pointer."""
    import llvmlite.binding as llvm

    return bool(llvm.llvm_version_info[0] >= 22)
