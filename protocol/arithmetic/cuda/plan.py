"""A graph as a list of kernels and library calls on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cupel.protocol.arithmetic import torch_backend
from cupel.protocol.arithmetic.cpu import row_plans
from cupel.protocol.arithmetic.cpu.grouping import Group, buffers_of, group_items
from cupel.protocol.arithmetic.cpu.items import Call, Python
from cupel.protocol.arithmetic.cpu.views import Buffer, View
from cupel.protocol.arithmetic.cuda import indexing, rows
from cupel.protocol.arithmetic.cuda.answers import Answers, Kernel, Launcher
from cupel.protocol.arithmetic.cuda.lowering import DeviceLowering, Product, Units
from cupel.protocol.arithmetic.cuda.memory import Memory
from cupel.protocol.arithmetic.cuda.products import multiply
from cupel.protocol.arithmetic.cuda.source import ONE_LANE, Module
from cupel.protocol.arithmetic.operations import UNARY_FLOAT, Graph, Opcode, TensorType
from cupel.protocol.errors import MalformedTensor

Tensor = torch.Tensor
Pointer = tuple[Buffer, int]
"""A buffer, and bytes from its beginning."""


@dataclass(slots=True)
class _Step:
    """One group: kernels and the pointers they all are handed, or a call."""

    launches: tuple[rows.Launch, ...] = ()
    pointers: tuple[Pointer, ...] = ()
    cell_bytes: int = 0
    call: Callable[[Memory], None] | None = None
    writes: tuple[Buffer, ...] = ()
    """Memory to be there before the kernels run."""
    ended: list[Buffer] = field(default_factory=list)
    """Nobody reads them any more."""


class FusedPlan:
    """A graph compiled for one device. One caller at a time; the outputs share memory with nothing."""

    def __init__(self, graph: Graph, launcher: Launcher, answers: Answers, units: Units) -> None:
        self.graph, self.device = graph, launcher.device
        self._answers = answers
        lowered = DeviceLowering(graph, units).run()
        self._constants = [constant.to(self.device) for constant in lowered.constants]
        groups = group_items(lowered.items)
        self._module = Module()
        self._names: dict[object, tuple[str, rows.Emitted]] = {}
        self._inputs: dict[Buffer, int] = {}
        self._outputs = {buffer: at for at, buffer in enumerate(lowered.outputs)}
        self._steps = self._write_steps(groups)
        self._collect_ends(groups)
        self._launcher = launcher
        self.kernels: Mapping[str, Kernel] = launcher.load(self._module)
        self.functions = frozenset(o.opcode for o in graph.operations if o.opcode in UNARY_FLOAT - {Opcode.SQRT})

    @property
    def source(self) -> str:
        """Everything that was compiled."""
        return "\n".join(self._module.functions.values())

    @property
    def launches(self) -> int:
        """Kernels of its own that a run launches, library calls not counted."""
        return sum(len(step.launches) for step in self._steps)

    # Building

    def _write_steps(self, groups: Sequence[Group]) -> list[_Step]:
        uses: dict[Buffer, set[int]] = {}
        for at, group in enumerate(groups):
            for item in group.items:
                for buffers in buffers_of(item):
                    for buffer in buffers:
                        uses.setdefault(buffer, set()).add(at)
        steps = []
        for at, group in enumerate(groups):
            item = group.items[0]
            if group.fused:

                def is_needed(buffer: Buffer, at: int = at) -> bool:
                    return buffer.place[0] == "output" or any(u != at for u in uses.get(buffer, ()))

                steps.append(self._rows(group, is_needed))
            elif isinstance(item, Python):
                steps.append(_torch_step(item))
            else:
                assert isinstance(item, Call)
                steps.append(self._call(item))
        return steps

    def _rows(self, group: Group, is_needed: Callable[[Buffer], bool]) -> _Step:
        kernel = row_plans.plan_rows(group, is_needed, ONE_LANE)
        if not rows.fits_shared(kernel.spec):
            pairs = zip(kernel.spec.steps, group.items, strict=True)
            waiting = {buffer for step, item in pairs if step.kept for buffer in buffers_of(item)[1]}
            kernel = row_plans.plan_rows(group, lambda b: b in waiting or is_needed(b), ONE_LANE)
        if kernel.spec not in self._names:
            name = f"rows_{len(self._names)}"
            self._names[kernel.spec] = (name, rows.emit(self._module, kernel.spec, name))
        _, emitted = self._names[kernel.spec]
        stored = {a.pointer for s in kernel.spec.steps if s.store >= 0 for a in [kernel.spec.accesses[s.store]]}
        return _Step(
            emitted.launches,
            tuple((b, start * b.dtype.size_bytes) for b, start in zip(kernel.buffers, kernel.starts, strict=True)),
            emitted.cell_bytes,
            writes=tuple(kernel.buffers[i] for i in sorted(stored)),
        )

    def _call(self, item: Call) -> _Step:
        if item.name == "product":
            assert isinstance(item.detail, Product)
            return _product_step(item, item.detail)
        assert item.name == "index_add", item.name
        count, height, width = item.numbers
        key = ("index_add", item.numbers)
        if key not in self._names:
            name = f"index_add_{len(self._names)}"
            launches = indexing.emit(self._module, count, height, width, name)
            self._names[key] = (name, rows.Emitted(tuple(launches)))
        _, emitted = self._names[key]
        return _Step(
            emitted.launches,
            tuple(_pointer(view) for view in (*item.reads, *item.writes)),
            writes=tuple(view.buffer for view in item.writes if view.buffer is not None),
        )

    def _collect_ends(self, groups: Sequence[Group]) -> None:
        last: dict[Buffer, int] = {}
        for at, group in enumerate(groups):
            for item in group.items:
                for buffers in buffers_of(item):
                    last.update((buffer, at) for buffer in buffers)
        for buffer, at in last.items():
            if buffer.place[0] == "arena":
                self._steps[at].ended.append(buffer)

    # Running

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs in host memory. Raises MalformedTensor for inputs that are not the graph's."""
        return [output.cpu() for output in self.run_on_device(inputs)]

    def run_on_device(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in memory of their own on the device; inputs may be there or in host memory."""
        types = self.graph.inputs
        if [TensorType.of(tensor) for tensor in inputs] != list(types):
            got = ", ".join(str(TensorType.of(tensor)) for tensor in inputs)
            raise MalformedTensor(f"inputs are {got}; the graph takes {', '.join(map(str, types))}")
        held = [tensor.detach().to(self.device).contiguous() for tensor in inputs]
        with self._answers.lock:
            if self.device.type == "cuda":
                self._answers.try_all(self.functions)
            self._launcher.enter()
            while True:
                outputs = self._launch(held)
                if not self.functions or not self._answers.settle():
                    return outputs

    def _launch(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = [_empty(self.graph.type_of(v), self.device) for v in self.graph.outputs]
        memory = Memory(self.device, {"input": inputs, "output": outputs, "constant": self._constants})
        for step in self._steps:
            for buffer in step.writes:
                memory.make(buffer)
            if step.call is not None:
                step.call(memory)
            pointers = [self._answers.pointer]
            pointers += [memory.of(buffer).data_ptr() + offset for buffer, offset in step.pointers]
            if step.cell_bytes:
                cells = torch.empty(step.cell_bytes, dtype=torch.uint8, device=self.device)
                pointers.append(cells.data_ptr())
            for launch in step.launches:
                self.kernels[launch.kernel](launch.blocks, launch.threads, pointers)
            for buffer in step.ended:
                memory.let_go(buffer)
        return outputs


def _empty(type_: TensorType, device: torch.device) -> Tensor:
    return torch.empty(type_.shape, dtype=type_.dtype.torch, device=device)


def _pointer(view: View) -> Pointer:
    assert view.buffer is not None
    return view.buffer, view.offset * view.dtype.size_bytes


def _torch_step(item: Python) -> _Step:
    (result,) = item.writes
    buffer = result.buffer
    assert buffer is not None

    def call(memory: Memory) -> None:
        memory.give(buffer, torch_backend.evaluate(item.operation, [memory.tensor(view) for view in item.reads]))

    return _Step(call=call)


def _product_step(item: Call, product: Product) -> _Step:
    buffer = item.writes[0].buffer
    assert buffer is not None

    def call(memory: Memory) -> None:
        left, right = (memory.tensor(view) for view in item.reads)
        memory.give(buffer, multiply(product, left, right))

    return _Step(call=call)
