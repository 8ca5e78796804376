"""From a traced graph of ATen operations to the operations of a Program.

Every rule below states one ATen operation in the vocabulary of `GraphBuilder`; the bits of a Program follow from these
rules and from `protocol/arithmetic/reference.py` alone. An operation without a rule has no exact meaning here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, TensorType
from cupel.protocol.errors import MalformedProgram, UnsupportedOperation

Number = bool | int | float
Rule = Callable[..., Any]
_R = TypeVar("_R", bound=Rule)

RULES: dict[Any, Rule] = {}
"""OpOverload → rule(lowering, *args, **kwargs). Arguments are Values where the ATen operation takes tensors."""
REASONS: dict[str, str] = {}
"""Why a well-known operation is refused, and what to write instead; by ATen name without overload."""


def lowers(*overloads: Any) -> Callable[[_R], _R]:
    """Register a rule for these ATen overloads."""

    def register(rule: _R) -> _R:
        for overload in overloads:
            assert overload not in RULES, f"two rules for {overload}"
            RULES[overload] = rule
        return rule

    return register


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]  # torch leaves it untyped


class Lowering:
    """State while one traced graph is lowered: the builder, and what is known about values."""

    def __init__(self, digits: int = 2) -> None:
        self.builder = GraphBuilder()
        self.digits = digits
        """Of every matrix product that does not say its own."""
        self.softmax_dims: dict[int, int] = {}
        """Value id → the dimension along which it is a softmax; follows views, so that products over it are found."""
        self._grown: dict[int, Value] = {}
        """Value id → the smaller value it is a broadcast of, so that arithmetic can happen before the broadcast."""
        self.meta: Any = None
        """PyTorch's own idea of the current node's result: its dtype and shape."""

    # What a rule needs to know

    @property
    def dtype(self) -> DType:
        """Element type of the current result."""
        return DType.of(self.meta.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the current result."""
        return tuple(self.meta.shape)

    # Arguments as values

    def number(self, value: Number, dtype: DType) -> Value:
        """A rank-0 constant; floats by round-to-nearest-even, integers wrapped to the type."""
        if dtype.is_integer:
            bits = 8 * dtype.size_bytes
            value = int(value) & ((1 << bits) - 1)
            if dtype != DType.UINT8 and value >> (bits - 1):
                value -= 1 << bits
        return self.builder.scalar(value, dtype)

    def as_dtype(self, x: Value | Number, dtype: DType) -> Value:
        """x as `dtype`: numbers become constants, tensors an explicit CAST; bool asks whether x differs from 0."""
        if not isinstance(x, Value):
            return self.number(x, dtype)
        if dtype == DType.BOOL and x.dtype != DType.BOOL:
            return self.builder.binary(Opcode.NE, x, self.number(0, x.dtype))
        return self.builder.cast(x, dtype)

    def promoted(self, *xs: Value | Number) -> list[Value]:
        """Operands brought to the type PyTorch promotes them to."""
        examples = [torch.empty(x.shape, dtype=x.dtype.torch, device="meta") if isinstance(x, Value) else x for x in xs]
        dtype = examples[0].dtype if isinstance(examples[0], torch.Tensor) else torch.result_type(examples[0], 0)
        accumulated: Any = examples[0]
        for example in examples[1:]:
            dtype = torch.result_type(accumulated, example)
            shape = broadcast_shape(*(e.shape for e in (accumulated, example) if isinstance(e, torch.Tensor)))
            accumulated = torch.empty(shape, dtype=dtype, device="meta")
        return [self.as_dtype(x, DType.of(dtype)) for x in xs]

    def full(self, value: Number, dtype: DType, shape: Sequence[int]) -> Value:
        return self.broadcast_to(self.number(value, dtype), shape)

    def broadcast_to(self, x: Value, shape: Sequence[int]) -> Value:
        result = self.builder.broadcast_to(x, shape)
        if result.id != x.id:
            self._grown.setdefault(result.id, self._grown.get(x.id, x))
        return result

    def before_broadcast(self, x: Value) -> Value:
        """The smaller value x is known to be a broadcast of, or x."""
        return self._grown.get(x.id, x)

    def is_number(self, x: Value, number: Number) -> bool:
        """Whether x is a constant that holds `number` (and not -0 where +0 is asked) everywhere."""
        tensor = self.builder.constant_value(x)
        if tensor is None or not tensor.numel():
            return False
        same = torch.full_like(tensor, number)
        return bool((tensor == same).all()) and bool((torch.signbit(tensor) == torch.signbit(same)).all())

    # Arithmetic that keeps Programs short without changing a bit

    def binary(self, opcode: Opcode, a: Value | Number, b: Value | Number) -> Value:
        """a `opcode` b in the type of whichever is a Value.

        Left out where that is exact: x * 1, x / 1, and doing once per broadcast copy what can be done once before it.
        """
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.number(a, b.dtype)
        if not isinstance(b, Value):
            b = self.number(b, a.dtype)
        if opcode in (Opcode.MUL, Opcode.DIV) and self.is_number(b, 1):
            return self.broadcast_to(a, broadcast_shape(a.shape, b.shape))
        if opcode == Opcode.MUL and self.is_number(a, 1):
            return self.broadcast_to(b, broadcast_shape(a.shape, b.shape))
        shape = broadcast_shape(a.shape, b.shape)
        small = [self.before_broadcast(x) for x in (a, b)]
        return self.broadcast_to(self.builder.binary(opcode, *small), shape)

    def unary(self, opcode: Opcode, x: Value) -> Value:
        return self.broadcast_to(self.builder.unary(opcode, self.before_broadcast(x)), x.shape)

    def add(self, a: Value | Number, b: Value | Number) -> Value:
        return self.binary(Opcode.ADD, a, b)

    def sub(self, a: Value | Number, b: Value | Number) -> Value:
        return self.binary(Opcode.SUB, a, b)

    def mul(self, a: Value | Number, b: Value | Number) -> Value:
        return self.binary(Opcode.MUL, a, b)

    def div(self, a: Value | Number, b: Value | Number) -> Value:
        return self.binary(Opcode.DIV, a, b)

    # Softmaxes seen through views

    def mark_softmax(self, x: Value, dim: int) -> Value:
        self.softmax_dims[x.id] = dim % len(x.shape) if x.shape else 0
        return x

    def follow(self, before: Value, after: Value, move: Callable[[int], int | None]) -> Value:
        """`after` is a view of `before`: a softmax stays one along the dimension `move` gives, unless None."""
        dim = self.softmax_dims.get(before.id)
        if dim is not None and (moved := move(dim)) is not None:
            self.softmax_dims.setdefault(after.id, moved)
        return after

    def matmul(self, a: Value, b: Value) -> Value:
        """By rows where a is a softmax over the contracted dimension (docs/design/programs.md)."""
        rows = self.softmax_dims.get(a.id) == len(a.shape) - 1
        return self.builder.matmul(a, b, digits=self.digits, scale="rows" if rows else "columns")


def lower(graph_module: fx.GraphModule, digits: int = 2) -> Graph:
    """The Program graph of a traced function whose output is one flat list of tensors.

    digits  of the matrix products, 1, 2 or 3
    Raises  UnsupportedOperation
    """
    state = Lowering(digits)
    values: dict[fx.Node, Any] = {}
    for node in _live(graph_module.graph):
        state.meta = node.meta.get("val")
        try:
            if node.op == "placeholder":
                values[node] = state.builder.input(TensorType.of(node.meta["val"]))
            elif node.op == "get_attr":
                values[node] = state.builder.constant(_canonical(_attribute(graph_module, str(node.target))))
            elif node.op == "call_function":
                values[node] = _call(state, node, values)
            else:
                assert node.op == "output", node.op
                outputs: Any = node.args[0]
                return state.builder.build([values[n] for n in outputs])
        except MalformedProgram as error:
            raise UnsupportedOperation(f"{describe(node)}: {error}{source_of(node)}") from None
        except UnsupportedOperation as error:
            raise UnsupportedOperation(f"{error}{source_of(node)}") from None
    raise AssertionError("a traced graph ends in its output")


def _live(graph: fx.Graph) -> list[fx.Node]:
    """Arguments, and what the output needs. What else was recorded (assertions, unused initial weights) has no say."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.add(node)
            needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed or node.op == "placeholder"]


def _call(state: Lowering, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    arguments: Any = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: values[n])
    args, kwargs = arguments
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    rule = RULES.get(node.target)
    if rule is None:
        raise UnsupportedOperation(f"{describe(node)} has no exact semantics. {_advice(node)}")
    return rule(state, *args, **kwargs)


def _advice(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    name = getattr(packet, "__name__", str(node.target))
    if reason := REASONS.get(name):
        return reason
    supported = sorted({str(overload.overloadpacket) for overload in RULES})
    return f"Supported: {', '.join(supported)}."


def describe(node: fx.Node) -> str:
    return str(node.target)


def source_of(node: fx.Node) -> str:
    """Where in the user's code a node came from, as the end of a message."""
    place = node.meta.get("stack_trace")
    return f"\n  at {place}" if place else ""


def _attribute(graph_module: fx.GraphModule, target: str) -> torch.Tensor:
    found: Any = graph_module
    for part in target.split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def _canonical(tensor: torch.Tensor) -> torch.Tensor:
    """A captured tensor with the one NaN there is."""
    if tensor.dtype != torch.float32:
        return tensor
    return torch.where(torch.isnan(tensor), torch.tensor(float("nan")), tensor)
