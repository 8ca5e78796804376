"""What every rule of lowering works with: memory, constants, views of both, and results computed once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from cupel.protocol.arithmetic.cpu import views
from cupel.protocol.arithmetic.cpu.isa import InstructionSet
from cupel.protocol.arithmetic.cpu.items import Lowered, Map, Packed
from cupel.protocol.arithmetic.cpu.views import Buffer, Dim, View
from cupel.protocol.arithmetic.operations import ELEMENTWISE, DType, Graph, Opcode, Operation, TensorType


def evaluate(operation: Operation, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """One operation on plain PyTorch."""
    from cupel.protocol.arithmetic import torch_backend

    return torch_backend.evaluate(operation, list(operands))


class Building:
    """A graph on its way to items."""

    sums_columns = True
    """Sums down columns that lie side by side are kernels of their own, not row kernels."""

    def __init__(self, graph: Graph, isa: InstructionSet) -> None:
        self.graph, self.isa = graph, isa
        self.first = len(graph.inputs) + len(graph.constants)
        self.at = self.first
        """The value being lowered."""
        self.result = Lowered()
        self.values: dict[int, View] = {}
        self.phase = 0
        self.shared: dict[object, View] = {}
        """What this phase has computed, by what it is."""
        self.packs: dict[object, Packed] = {}
        self._known = {0: (self.shared, self.packs)}
        self.users: dict[int, list[int]] = {}

    def enter_phase(self, phase: int) -> None:
        """What another phase has computed is not shared: it is computed again so that it need not wait in memory."""
        self.phase = phase
        self.shared, self.packs = self._known.setdefault(phase, ({}, {}))

    def buffer(self, elements: int, dtype: DType, size_bytes: int = 0) -> Buffer:
        buffer = Buffer(elements, dtype, size_bytes=size_bytes)
        self.result.buffers.append(buffer)
        return buffer

    def fresh(self, shape: Sequence[int], dtype: DType, dims: tuple[Dim, ...] | None = None) -> View:
        return View(dims or views.contiguous(shape), dtype, self.buffer(prod(shape), dtype))

    def constant(self, tensor: torch.Tensor) -> View:
        """A view of constant memory; one number if all elements have one bit pattern."""
        dtype = DType.of(tensor.dtype)
        flat = tensor.contiguous().reshape(-1)
        if flat.numel():
            bits = flat.view(torch.int32) if dtype == DType.FLOAT32 else flat
            if bool((bits == bits[0]).all()):
                return views.repeated(tensor.shape, flat[0].item(), dtype)
        else:
            return views.repeated(tensor.shape, 0, dtype)
        buffer = Buffer(flat.numel(), dtype, ("constant", len(self.result.constants)))
        self.result.constants.append(flat)
        return View(views.contiguous(tensor.shape), dtype, buffer)

    @staticmethod
    def is_constant(view: View) -> bool:
        return view.buffer is None or view.buffer.place[0] == "constant"

    def constant_tensor(self, view: View) -> torch.Tensor:
        """What a constant view sees."""
        if view.buffer is None:
            assert view.number is not None
            return torch.full(view.shape, view.number, dtype=view.dtype.torch)
        memory = self.result.constants[view.buffer.place[1]]
        factors = [f for dim in view.dims for f in dim]
        strided = torch.as_strided(memory, [n for n, _ in factors], [s for _, s in factors], view.offset)
        return strided.reshape(view.shape).clone()

    def materialised(self, view: View, shape: Sequence[int] | None = None) -> View:
        """A contiguous copy of the view (or the view itself), in another shape if asked."""
        shape = view.shape if shape is None else tuple(shape)
        if not (view.is_contiguous()):
            key = ("copy", view.key())
            if key not in self.shared:
                if self.is_constant(view) and view.buffer is not None:
                    self.shared[key] = self.constant(self.constant_tensor(view))
                else:
                    self.shared[key] = self.copy_to(view, self.fresh(view.shape, view.dtype))
            view = self.shared[key]
        result = views.reshape(view, shape)
        assert result is not None
        return result

    def copy_to(self, view: View, out: View, after: tuple[Buffer, ...] = ()) -> View:
        self.result.items.append(Map("copy", (view,), out, after=after))
        return out

    def map(self, name: str, args: Sequence[View], type_: TensorType, attributes: tuple[int, ...] = ()) -> View:
        """An elementwise result, computed only as large as its operands really are, once for equal operands."""
        shape = type_.shape
        small = self.without_repeats(args, shape)
        if small != shape:
            narrowed = [narrow(a, small) for a in args]
            return views.expand(self.map(name, narrowed, TensorType(type_.dtype, small), attributes), shape)
        key = (name, attributes, type_, tuple(a.key() for a in args))
        if key in self.shared:
            return self.shared[key]
        dims: tuple[Dim, ...] | None = None
        for a in args if name != "lookup" else ():
            if a.buffer is not None and all(stride for dim in a.dims for n, stride in dim if n > 1):
                dims = views.packed_like(a)
                break
        out = self.fresh(shape, type_.dtype, dims)
        if not walk_together(out, args):
            out = View(views.contiguous(shape), out.dtype, out.buffer)
            if not walk_together(out, args):
                args = [a if a.buffer is None else self.materialised(a) for a in args]
                assert walk_together(out, args)
        self.result.items.append(Map(name, tuple(args), out, attributes))
        self.shared[key] = out
        return out

    @staticmethod
    def without_repeats(args: Sequence[View], shape: Sequence[int]) -> tuple[int, ...]:
        """The result's shape with size 1 where every operand repeats itself."""

        def repeats(dim: Dim) -> bool:
            return all(stride == 0 or n == 1 for n, stride in dim)

        return tuple(1 if all(repeats(a.dims[d]) for a in args) else n for d, n in enumerate(shape))

    def in_order(self, view: View) -> View:
        return view if view.buffer is None else self.materialised(view)

    def in_memory(self, view: View) -> View:
        if view.elements == 0:
            return view
        if view.buffer is None:
            return self.copy_to(view, self.fresh(view.shape, view.dtype))
        return self.materialised(view)

    def producer(self, value: int) -> Operation | None:
        return self.graph.operations[value - self.first] if value >= self.first else None

    def wanted_layout(self, value: int, shape: tuple[int, ...]) -> tuple[Dim, ...]:
        """Dimensions in the memory order of what the value becomes while it has one user: the copy a user would need
        is then already made. Follows RESHAPE, PERMUTE and elementwise operations of the same shape."""
        best = View(views.contiguous(shape), DType.FLOAT32, Buffer(prod(shape), DType.FLOAT32))
        while len(self.users.get(value, ())) == 1:
            user = self.graph.operations[self.users[value][0]]
            if user.opcode == Opcode.PERMUTE:
                best = views.permute(best, user.attributes)
            elif user.opcode == Opcode.RESHAPE:
                reshaped = views.reshape(best, user.result.shape)
                if reshaped is None:
                    break
                best = reshaped
            elif user.opcode not in ELEMENTWISE or user.result.shape != self.graph.type_of(value).shape:
                break
            elif self.phase and len(user.operands) > 1:
                break  # A block of scores lies as the block it is combined with.
            value = self.first + self.users[value][0]
        # Strides of `best` name places in row-major order of the value; give each the stride it has in best's order.
        stride = 1
        places: list[tuple[int, int, int]] = []
        for size, old in reversed([f for dim in best.dims for f in dim if f[0] > 1]):
            places.append((old, size, stride))
            stride *= size
        dims = views.regrouped([(size, new) for _, size, new in sorted(places, reverse=True)], shape)
        return views.contiguous(shape) if dims is None else dims


def walk_together(out: View, args: Sequence[View]) -> bool:
    """Whether one nest of loops walks the result and all operands."""
    return views.refine([out.factors(), *(a.factors() for a in args if a.buffer is not None)]) is not None


def narrow(view: View, shape: Sequence[int]) -> View:
    """The view with size 1 where `shape` has it and the view only repeats itself."""
    if view.buffer is None:
        assert view.number is not None
        return views.repeated(shape, view.number, view.dtype)
    return view.with_dims(((1, 0),) if size == 1 else dim for dim, size in zip(view.dims, shape, strict=True))
