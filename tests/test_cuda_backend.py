"""The GPU's way of computing gives the bits of the definition: here on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from cupel.protocol import arithmetic
from cupel.protocol.arithmetic import cases, cuda_backend, digit_products, engines, reference, torch_backend
from cupel.protocol.arithmetic.builder import GraphBuilder
from cupel.protocol.arithmetic.cuda_backend import DevicePlan, Units
from cupel.protocol.arithmetic.engines import walk
from cupel.protocol.arithmetic.operations import UNARY_FLOAT, Graph, Opcode, TensorType
from cupel.protocol.errors import BackendUnfit, MalformedTensor

CPU = torch.device("cpu")
KINDS = {
    "datacentre": Units.of((9, 0)),
    "desktop": Units.of((8, 9)),
    "old": Units.of((7, 0)),
    "slow int8": Units.of((10, 3)),
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small products go to the int8 units too, and nothing looks at values to choose a shorter way."""
    monkeypatch.setattr(cuda_backend, "_INT8_FROM_PRODUCTS", 1)
    monkeypatch.setattr(torch_backend, "is_worth_asking", lambda x: False)


def as_bytes(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def define(graph: Graph, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    values = dict(walk(graph, inputs, reference.evaluate))
    return [values[v] for v in graph.outputs]


@functools.cache
def everything() -> tuple[cases.Together, list[torch.Tensor]]:
    together = cases.together(31, 60)
    return together, define(together.graph, list(together.inputs))


def check_everything(plan: DevicePlan) -> None:
    together, expected = everything()
    results = plan.run(together.inputs)
    wrong = [name for name, e, r in zip(together.names, expected, results, strict=True) if as_bytes(e) != as_bytes(r)]
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_has_the_bits_of_the_definition_whatever_multiplies(kind: str, as_on_a_device: None) -> None:
    plan = DevicePlan(everything()[0].graph, CPU, KINDS[kind])
    check_everything(plan)
    assert any(plan._known), "no product was known to be of quantised operands: that way was not tested"


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_on_this_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_backend, "_INT8_FROM_PRODUCTS", 1)
    check_everything(DevicePlan(everything()[0].graph, cuda_backend.find_device(), KINDS[kind]))


@needs_gpu
def test_this_gpu_passes_its_self_test() -> None:
    arithmetic.self_test("cuda")


# Products


@st.composite
def products(draw: st.DrawFn) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Digits, and integers of that many: [M, K] and [N, K], the largest ones often."""
    digits = draw(st.integers(1, 3))
    m, n, terms = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(0, 70))
    most = 1 << (7 * digits - 1)
    seed = draw(st.integers(0, 1 << 30))
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for rows in (m, n):
        q = torch.randint(-most, most + 1, (rows, terms), generator=generator)
        extreme = torch.randint(0, 4, (rows, terms), generator=generator)
        sides.append(torch.where(extreme == 0, most, torch.where(extreme == 1, -most, q)))
    return digits, sides[0], sides[1]


def planes_of(q: torch.Tensor, digits: int) -> list[torch.Tensor]:
    """As QUANTIZE gives them."""
    if digits < 3:
        return [q.to(torch.int16)]
    high = q + 512 >> 10
    return [high.to(torch.int16), (q - (high << 10)).to(torch.int16)]


@given(products())
@settings(max_examples=60, deadline=None)
def test_products_of_digits_are_the_integers_they_stand_for(
    example: tuple[int, torch.Tensor, torch.Tensor],
) -> None:
    digits, q, r = example
    left, right = planes_of(q, digits), planes_of(r, digits)
    expected = q @ r.t()
    assert digit_products.are_digits([left, right], digits)
    for got in (
        digit_products.int8_sums(left, right, digits),
        digit_products.int8_sums(left, right, digits, row_multiple=32),
        digit_products.float_sums(left, right, digits),
    ):
        assert got.dtype == (torch.int64 if digits == 3 else torch.float64)
        assert torch.equal(got.to(torch.int64), expected)
        assert not (got.is_floating_point() and bool(torch.signbit(got[got == 0]).any())), "a zero has a sign"


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_long_products_are_cut_before_a_unit_loses_a_bit(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 1 << (7 * digits - 1)
    terms = 3 * digit_products.FLOAT_TERMS + 5
    q = torch.full((2, terms), most)
    q[1, ::2] = 1 - most
    left = planes_of(q, digits)
    expected = q @ q.t()
    assert torch.equal(digit_products.float_sums(left, left, digits).to(torch.int64), expected)
    monkeypatch.setattr(digit_products, "INT8_TERMS", 1000)
    assert torch.equal(digit_products.int8_sums(left, left, digits).to(torch.int64), expected)


def test_what_digits_do_not_hold_is_noticed() -> None:
    for digits in (1, 2, 3):
        most = torch.tensor([[1 << (7 * digits - 1)]])
        assert digit_products.are_digits([planes_of(most, digits), planes_of(-most, digits)], digits)
        assert not digit_products.are_digits([planes_of(most, digits), planes_of(most + 1, digits)], digits)
        assert not digit_products.are_digits([planes_of(-most - 1, digits)], digits)


def test_planes_and_exponents_from_elsewhere_are_not_taken_for_quantised_ones(as_on_a_device: None) -> None:
    """Exponents far apart cancel, and int16 planes hold more than two digits."""
    builder = GraphBuilder()
    ea, eb = torch.tensor([1_000_000, 7], dtype=torch.int32), torch.tensor([-1_000_001, 3], dtype=torch.int32)
    qa, qb = (
        torch.tensor([[32767, -32768], [1, 2]], dtype=torch.int16),
        torch.tensor([[-32768, 5], [3, 4]], dtype=torch.int16),
    )
    inputs = [ea, eb, qa, qb]
    values = [builder.input(TensorType.of(t)) for t in inputs]
    result = builder.apply(Opcode.DOT, values, TensorType.of(torch.zeros(2, 2)), (2,))
    graph = builder.build([result])
    for units in KINDS.values():
        (got,) = DevicePlan(graph, CPU, units).run(inputs)
        assert as_bytes(got) == as_bytes(define(graph, inputs)[0])


def test_batched_and_padded_products_of_every_digit(as_on_a_device: None) -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 5, 4, generator=generator)
    a[0, 1, 2], b[1, 0, 0] = float("inf"), 0.0
    for digits in (1, 2, 3):
        for scale in ("columns", "rows"):
            builder = GraphBuilder()
            left, right = builder.input(TensorType.of(a)), builder.input(TensorType.of(b))
            graph = builder.build([builder.matmul(left, right, digits, scale)])
            expected = define(graph, [a, b])
            for units in KINDS.values():
                (got,) = DevicePlan(graph, CPU, units).run([a, b])
                assert as_bytes(got) == as_bytes(expected[0]), (digits, scale, units)


# Devices


class NamesItsDevice(TorchFunctionMode):
    """Refuses to make a tensor without being told where."""

    MAKERS = frozenset({torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.tensor, torch.eye})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert func not in self.MAKERS or kwargs.get("device") is not None, f"{func.__name__} without a device"
        return func(*args, **kwargs)


def test_no_tensor_is_made_without_naming_its_device(as_on_a_device: None) -> None:
    with NamesItsDevice(), pytest.raises(AssertionError, match="zeros without a device"):
        torch.zeros(1)
    together, _ = everything()
    plan = DevicePlan(together.graph, CPU, KINDS["datacentre"])
    with NamesItsDevice():
        plan.run_on_device(together.inputs)


READ_BACK = frozenset(UNARY_FLOAT)
"""Operations that must read something back: which lanes the host decides."""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU itself is tested")
def test_results_are_where_the_operands_are() -> None:
    """PyTorch follows shapes and devices without a GPU, and refuses tensors of two devices together."""
    followed = set()
    with FakeTensorMode():
        for case in cases.all_cases(1, 8):
            if not case.operands:
                continue
            operands = [torch.empty(t.shape, dtype=t.dtype, device="cuda:0") for t in case.operands]
            try:
                result = torch_backend.evaluate(case.operation, operands)
            except DataDependentOutputException:
                assert case.opcode in READ_BACK, f"{case.name} reads something back"
            except (RuntimeError, AssertionError) as unable:
                # Indexing and a few others are not followed for a device PyTorch was built without.
                if not re.search("not linked with support|convert all Tensors to FakeTensors", str(unable)):
                    raise
                continue
            else:
                assert result.device == torch.device("cuda:0"), case.name
            followed.add(case.opcode)
    assert len(followed) > 40
    assert followed >= {Opcode.ADD, Opcode.DIV, Opcode.SUM, Opcode.DOT, Opcode.EXPONENT, Opcode.QUANTIZE, Opcode.EXP}


# Plans


def test_a_plan_refuses_inputs_that_are_not_its_graphs() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType.of(torch.zeros(3)))
    plan = DevicePlan(builder.build([builder.unary(Opcode.NEG, x)]), CPU, KINDS["old"])
    for inputs in ([torch.zeros(4)], [torch.zeros(3, dtype=torch.int32)], []):
        with pytest.raises(MalformedTensor, match="the graph takes"):
            plan.run(inputs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_the_backend_says_so() -> None:
    for ask in (lambda: arithmetic.self_test("cuda"), lambda: arithmetic.add(torch.ones(2), 1.0, backend="cuda")):
        with pytest.raises(BackendUnfit, match="no NVIDIA GPU"):
            ask()
    assert engines.choose_backend("auto") != "cuda"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
