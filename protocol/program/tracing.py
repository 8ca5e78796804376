"""From a Python function to a Program: PyTorch traces it, `lowering` states it in exact operations.

Two passes. The first follows the function, autograd included, on fake tensors that have shapes but no values, so a
Program can depend on nothing else. The second makes it functional (in-place writes become values) and decomposes it to
core ATen. Ambient settings that would change what PyTorch records are pinned, so that one function and one set of
shapes have one root.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
import torch.fx.traceback
import torch.nn.functional as F
from torch import fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from cupel.protocol.arithmetic.operations import DType
from cupel.protocol.errors import MalformedProgram, UnsupportedOperation, UsageError
from cupel.protocol.program import (
    rules_elementwise,
    rules_indexing,
    rules_layers,
    rules_powers,
    rules_reductions,
    rules_shapes,
)
from cupel.protocol.program.lowering import RULES, lower, source_of
from cupel.protocol.program.program import Program
from cupel.protocol.program.structure import Node, Structure, flatten, leaves, unflatten

aten = torch.ops.aten

# Importing the rule modules is what registers their rules.
_RULE_MODULES = (rules_elementwise, rules_indexing, rules_layers, rules_powers, rules_reductions, rules_shapes)

_PACKAGES = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)


def trace(fn: Callable[..., Any], example_args: Sequence[Any], *, digits: int = 2) -> Program:
    """As `cupel.protocol.program.trace`, which imports this module when it is first called."""
    # A tensor iterates over its rows, which would silently become the arguments.
    if not isinstance(example_args, list | tuple):
        raise UsageError(
            f"example_args is a {type(example_args).__name__}, not a tuple of the arguments; for one argument x it "
            "is (x,)"
        )
    if digits not in (1, 2, 3):
        raise UsageError(f"digits are 1, 2 or 3, not {digits}")
    arguments, tensors = flatten(tuple(example_args), "arguments")
    names = [name for name, _ in leaves(arguments)]
    for name, tensor in zip(names, tensors, strict=True):
        try:
            DType.of(tensor.dtype)
        except MalformedProgram as error:
            raise UsageError(f"argument {name}: {error}") from None
    with _pinned():
        blanks = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in tensors]
        graph_module, result = _record(fn, arguments, names, blanks)
    graph = lower(graph_module, digits)
    return Program(graph=graph, structure=Structure(arguments, result))


def _place(frame: FrameType | None) -> str:
    """The innermost line of the user's code at or above `frame`: path:line, function, and the line itself."""
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    if frame is None:
        return ""
    path, line = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(path, line, frame.f_globals).strip()
    return f"{os.path.relpath(path) if os.path.exists(path) else path}:{line}, in {frame.f_code.co_name}\n    {code}"


class _Places(TorchFunctionMode):
    """Notes for every call into PyTorch which line made it; the nodes it records then carry that line."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        torch.fx.traceback.set_stack_trace([_place(sys._getframe(1))])
        if func is F.one_hot:
            return _one_hot(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(func: Any, index: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """PyTorch's looks at the values of a captured index first; a class out of range gives a row of zeros here."""
    if num_classes < 0:
        result: torch.Tensor = func(index, num_classes)
        return result
    return (index.unsqueeze(-1) == torch.arange(num_classes)).to(torch.int64)


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
    """The same PyTorch for every caller: CPU, float32, gradients on, no autocast, attention in plain operations."""
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    try:
        with (
            torch.device("cpu"),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)


def _record(
    fn: Callable[..., Any], arguments: Node, names: Sequence[str], blanks: Sequence[torch.Tensor]
) -> tuple[fx.GraphModule, Node]:
    """The functional graph of fn over flat tensors, its output one flat list, and the structure of its result."""
    structure: list[Node] = []

    def flat(*tensors: torch.Tensor) -> list[torch.Tensor]:
        with torch.fx.traceback.preserve_node_meta(), _Places():
            value = fn(*unflatten(arguments, tensors))
        node, results = flatten(value, "result")
        structure[:] = [node]
        return [result.detach() for result in results]

    try:
        recorded = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*blanks)
        _check_arguments_unwritten(recorded, names)

        def replayed(*tensors: torch.Tensor) -> Any:
            with torch.fx.traceback.preserve_node_meta():
                return fx.Interpreter(recorded).run(*tensors)

        functional = make_fx(
            torch.func.functionalize(replayed, remove="mutations"),
            decomposition_table=_decompositions(),
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
        )(*blanks)
    except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode) as error:
        operation = getattr(error, "func", None)
        name = f"{operation}: " if isinstance(operation, torch._ops.OpOverload) else ""
        raise UnsupportedOperation(
            f"{name}a Python value or a shape would depend on a tensor's values, and a Program cannot branch on them: "
            "keep it a tensor (torch.where instead of if, index_select instead of an index by a scalar tensor, no "
            f".item(), no boolean mask as an index){_raised_at(error)}"
        ) from None
    return functional, structure[0]


def _raised_at(error: BaseException) -> str:
    """The innermost line of the user's code an error came through, as the end of a message."""
    at = error.__traceback__
    places = []
    while at is not None:
        if not at.tb_frame.f_code.co_filename.startswith(_PACKAGES):
            places.append(_place(at.tb_frame))
        at = at.tb_next
    return f"\n  at {places[-1]}" if places else ""


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Core ATen and a little more, less what has a rule of its own here: rules are shorter and say what is exact."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table |= get_decompositions([aten.addmv.default, aten.native_batch_norm.default])
    return {overload: function for overload, function in table.items() if overload not in RULES}


def _check_arguments_unwritten(graph_module: fx.GraphModule, names: Sequence[str]) -> None:
    """Raise UnsupportedOperation where the recorded function writes into an argument or a tensor it closes over."""
    for node in graph_module.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        written = [
            node.args[i]
            for i, argument in enumerate(node.target._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write and i < len(node.args)
        ]
        for target in written:
            source = _viewed(target)
            if source.op == "call_function":
                continue
            placeholders = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
            what = f"argument {names[placeholders.index(source)]}" if source in placeholders else "a captured tensor"
            raise UnsupportedOperation(
                f"the function writes into {what} in place; return the new value instead{source_of(node)}"
            )


def _viewed(node: Any) -> fx.Node:
    """The node whose memory a view of a view of ... shows."""
    while node.op == "call_function" and getattr(node.target, "is_view", False):
        node = node.args[0]
    assert isinstance(node, fx.Node)
    return node
