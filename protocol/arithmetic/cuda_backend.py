"""The engine for NVIDIA GPUs: fused kernels of its own (cuda/), or PyTorch's operations one after the other.

Both give the same bits. Fused kernels need NVRTC, which PyTorch for CUDA brings, and NVIDIA's driver; where either
cannot be had, `why_not_fused` says why, and a graph's operations run as the torch engine's, on the device, with
products on its matrix units.

PyTorch's CUDA kernels round add, subtract, multiply, divide and conversions as IEEE-754 says and keep subnormals, since
it is built without fast-math; ours are compiled with contraction, flushing and approximation off. Sums and products are
integers, and no result depends on the order in which a GPU adds. A GPU that breaks one of these promises fails the
self-test, which every node runs first.

One trap: dividing by a rank-0 tensor in host memory multiplies by a rounded reciprocal. So constants move to the
device with everything else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from cupel.protocol.arithmetic import digit_products, torch_backend
from cupel.protocol.arithmetic.operations import Graph, Opcode, Operation, TensorType
from cupel.protocol.errors import BackendUnfit, MalformedTensor

Tensor = torch.Tensor

_FAST_FLOAT64 = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of the processors built for float64 too, at half their float32 speed or more."""
_SLOW_INT8 = frozenset({(10, 3)})
_FIRST_INT8 = (7, 5)
_FIRST_BFLOAT16 = (8, 0)
_ROW_MULTIPLE = 32
"""CUDA's int8 product takes more than 16 rows and multiples of 8; its tiles like more."""
_INT8_FROM_PRODUCTS = 1 << 24
"""Smaller products are over before their digits are apart."""
_PLANS_KEPT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """What a device multiplies fast. Whichever is taken, the sums are the same integers."""

    int8: bool
    float64: bool
    bfloat16: bool

    @staticmethod
    def of(capability: tuple[int, int]) -> Units:
        return Units(
            int8=capability >= _FIRST_INT8 and capability not in _SLOW_INT8,
            float64=capability in _FAST_FLOAT64,
            bfloat16=capability >= _FIRST_BFLOAT16,
        )

    def sums(self, known: bool, left: Sequence[Tensor], right: Sequence[Tensor], digits: int) -> Tensor | None:
        """As `torch_backend.Sums`; `known`: the planes are a quantised operand's and need no look."""
        if not known and not digit_products.are_digits([left, right], digits):
            if digits <= 2:
                return torch_backend.float64_sums(left[0], right[0])
            is_bounded = torch_backend.are_three_digits([*left, *right])
            return torch_backend.three_digit_sums(left, right) if is_bounded else None
        (*batch, m, terms), n = left[0].shape, right[0].shape[-2]
        if self.int8 and not batch and m * n * terms >= _INT8_FROM_PRODUCTS:
            return digit_products.int8_sums(left, right, digits, row_multiple=_ROW_MULTIPLE)
        if self.bfloat16 and not self.float64:
            return digit_products.float_sums(left, right, digits, multiply=multiply_bfloat16)
        if digits <= 2:
            return torch_backend.float64_sums(left[0], right[0])
        return torch_backend.three_digit_sums(left, right)


def multiply_bfloat16(rows: Tensor, columns: Tensor) -> Tensor:
    """rows[..., M, K] columns[..., N, K], small integers, summed in float32."""
    if rows.device.type != "cuda":
        return digit_products.multiply_float32(rows, columns)
    a, b = (x.to(torch.bfloat16).reshape(-1, *x.shape[-2:]) for x in (rows, columns))
    product: Tensor = torch.bmm(a, b.transpose(-1, -2), out_dtype=torch.float32)
    return product.reshape(*rows.shape[:-1], columns.shape[-2])


def find_device() -> torch.device:
    """The GPU to use. Raises BackendUnfit if there is none."""
    if not torch.cuda.is_available():
        raise BackendUnfit("cuda: PyTorch finds no NVIDIA GPU here, or is built without CUDA; use --backend auto")
    return torch.device("cuda", torch.cuda.current_device())


def units_of(device: torch.device) -> Units:
    return Units.of(torch.cuda.get_device_capability(device))


class DevicePlan:
    """A graph on a device: its constants are there, and what is known of its operands is not asked each time."""

    def __init__(self, graph: Graph, device: torch.device, units: Units) -> None:
        self.graph, self.device, self._units = graph, device, units
        self._constants = [constant.to(device) for constant in graph.constants]
        self._first = len(graph.inputs) + len(graph.constants)
        self._known = _find_known(graph)
        last_use = {value: at for at, operation in enumerate(graph.operations) for value in operation.operands}
        kept = set(graph.outputs)
        self._ended: list[list[int]] = [[] for _ in graph.operations]
        for value, at in last_use.items():
            if value not in kept:
                self._ended[at].append(value)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs in host memory. Raises MalformedTensor for inputs that are not the graph's."""
        return [output.cpu() for output in self.run_on_device(inputs)]

    def run_on_device(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs where they were computed; they may share memory with inputs that are there, and each other."""
        types = self.graph.inputs
        if [TensorType.of(tensor) for tensor in inputs] != list(types):
            got = ", ".join(str(TensorType.of(tensor)) for tensor in inputs)
            raise MalformedTensor(f"inputs are {got}; the graph takes {', '.join(map(str, types))}")
        values = dict(enumerate([*(tensor.to(self.device) for tensor in inputs), *self._constants]))
        for at, operation in enumerate(self.graph.operations):
            operands = [values[value] for value in operation.operands]
            values[self._first + at] = self._evaluate(at, operation, operands)
            for value in self._ended[at]:
                del values[value]
        return [values[value] for value in self.graph.outputs]

    def _evaluate(self, at: int, operation: Operation, operands: Sequence[Tensor]) -> Tensor:
        if operation.opcode == Opcode.IOTA:
            return torch_backend.iota(operation, self.device)
        if operation.opcode not in (Opcode.DOT, Opcode.DOT_ROWS):
            return torch_backend.IMPLEMENTATIONS[operation.opcode](operation, operands)
        known = self._known[at]
        sums = partial(self._units.sums, known)
        return torch_backend.dot(operation, operands, sums, are_exponents_known=known)


_Origin = tuple[str, int, int]


def _find_known(graph: Graph) -> list[bool]:
    """For each operation, whether it is a product of nothing but exponents and planes as quantising makes them."""
    first = len(graph.inputs) + len(graph.constants)
    origin: dict[int, _Origin] = {}
    known = []
    for at, operation in enumerate(graph.operations):
        opcode, operands = operation.opcode, operation.operands
        if opcode in (Opcode.EXPONENT, Opcode.EXPONENT_SCALED):
            origin[first + at] = ("exponent", 0, 0)
        elif opcode in (Opcode.QUANTIZE, Opcode.QUANTIZE_SCALED):
            origin[first + at] = ("plane", *_two(operation.attributes))
        elif operands and operands[0] in origin and _keeps_values(operation):
            origin[first + at] = origin[operands[0]]
        known.append(opcode in (Opcode.DOT, Opcode.DOT_ROWS) and _is_quantised(operation, origin))
    return known


def _keeps_values(operation: Operation) -> bool:
    """Whether the result holds nothing but values of its operand, and zeros."""
    shapes = (Opcode.RESHAPE, Opcode.PERMUTE, Opcode.EXPAND, Opcode.SLICE)
    return operation.opcode in shapes or (operation.opcode == Opcode.PAD and operation.attributes[0] == 0)


def _two(attributes: Sequence[int]) -> tuple[int, int]:
    digits, plane = attributes
    return digits, plane


def _is_quantised(operation: Operation, origin: dict[int, _Origin]) -> bool:
    (digits,) = operation.attributes
    exponents = 2 if operation.opcode == Opcode.DOT else 1
    found = [origin.get(value) for value in operation.operands]
    wanted: list[_Origin] = [("exponent", 0, 0)] * exponents
    wanted += [("plane", digits, place // 2) for place in range(len(found) - exponents)]
    return found == wanted


# What engines.py calls


class Plan(Protocol):
    """A graph compiled for a device."""

    graph: Graph
    device: torch.device

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]: ...

    def run_on_device(self, inputs: Sequence[Tensor]) -> list[Tensor]: ...


_plans: OrderedDict[object, Plan] = OrderedDict()
_plans_lock = threading.Lock()
_fused: dict[torch.device, _Fused | str] = {}
"""What fused plans of a device share, or why there are none."""


class _Fused:
    def __init__(self, device: torch.device) -> None:
        from cupel.protocol.arithmetic.cuda.answers import Answers
        from cupel.protocol.arithmetic.cuda.driver import CudaLauncher

        self._launcher = CudaLauncher(device)
        self._answers = Answers(self._launcher)

    def plan(self, graph: Graph, units: Units) -> Plan:
        from cupel.protocol.arithmetic.cuda import lowering
        from cupel.protocol.arithmetic.cuda.plan import FusedPlan

        fast = lowering.Units(int8=units.int8, bfloat16=units.bfloat16)
        return FusedPlan(graph, self._launcher, self._answers, fast)


def compile_graph(graph: Graph, device: torch.device) -> Plan:
    """A plan of fused kernels, or of single operations where `why_not_fused` gives a reason."""
    units = units_of(device)
    try:
        if device not in _fused:
            _fused[device] = _Fused(device)
        shared = _fused[device]
        if isinstance(shared, _Fused):
            return shared.plan(graph, units)
    except (BackendUnfit, ImportError) as unable:
        _fused[device] = str(unable)
    return DevicePlan(graph, device, units)


def why_not_fused(device: torch.device) -> str | None:
    """What kept kernels from being compiled for this device so far; None if nothing did."""
    reason = _fused.get(device)
    return reason if isinstance(reason, str) else None


def plan_for(graph: Graph, key: object) -> Plan:
    """The plan that is kept under `key`, which names the graph. Raises BackendUnfit if there is no GPU."""
    device = find_device()
    with _plans_lock:
        if key not in _plans:
            _plans[key] = compile_graph(graph, device)
            if len(_plans) > _PLANS_KEPT:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
        return _plans[key]


def evaluate(operation: Operation, operands: Sequence[Tensor]) -> Tensor:
    """One operation on the GPU, from and to host memory. Raises as `torch_backend.evaluate`, and BackendUnfit."""
    device = find_device()
    return torch_backend.evaluate(operation, [operand.to(device) for operand in operands], device).cpu()
