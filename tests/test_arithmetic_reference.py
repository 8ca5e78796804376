"""The definition against oracles that share nothing with it: mpmath, NumPy's IEEE-754 and exact fractions."""

from __future__ import annotations

import struct
from itertools import product

import arithmetic_oracle as oracle
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol.arithmetic import binary32, cases, exact_functions, functions, reference
from cupel.protocol.arithmetic.operations import DType, Opcode, Operation, Rounding, TensorType
from cupel.protocol.errors import MalformedProgram

ANY_BITS = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([s | e for e in cases.FLOAT_EDGES for s in (0, 1 << 31)]),
    st.builds(lambda s, m: s << 31 | m, st.integers(0, 1), st.integers(0, 0xFFFFFF)),
    st.builds(
        lambda s, e, m: s << 31 | e << 23 | m, st.integers(0, 1), st.integers(118, 133), st.integers(0, 0x7FFFFF)
    ),
).map(lambda b: binary32.NAN if binary32.is_nan(b) else b)

FUNCTIONS = {
    Opcode.EXP: mpmath.exp,
    Opcode.LOG: mpmath.log,
    Opcode.TANH: mpmath.tanh,
    Opcode.SIGMOID: lambda x: 1 / (1 + mpmath.exp(-x)),
    Opcode.ERF: mpmath.erf,
    Opcode.SIN: mpmath.sin,
    Opcode.COS: mpmath.cos,
    Opcode.RSQRT: lambda x: 1 / mpmath.sqrt(x),
    Opcode.SQRT: mpmath.sqrt,
}


def nearest(opcode: Opcode, bits: int) -> int:
    """The function by mpmath, 900 bits, rounded by the oracle's own rounding."""
    x = struct.unpack("<f", struct.pack("<I", bits))[0]
    if opcode in (Opcode.EXP, Opcode.SIGMOID):
        x = max(min(x, 300.0), -300.0)  # far beyond overflow and underflow, near enough for mpmath
    if opcode in (Opcode.TANH, Opcode.ERF):
        x = max(min(x, 30.0), -30.0)
    with mpmath.workprec(900):
        value = FUNCTIONS[opcode](mpmath.mpf(x))
        sign, mantissa, exponent, _ = value._mpf_
    fraction = oracle.Fraction(int(mantissa)) * oracle.Fraction(2) ** exponent
    if fraction.numerator and exponent < -2000:
        return int(sign) << 31
    return oracle.float_bits(oracle.rn(-fraction if sign else fraction))


@pytest.mark.parametrize("opcode", FUNCTIONS, ids=lambda o: o.name)
def test_functions_are_correctly_rounded_at_their_hardest_arguments(opcode: Opcode) -> None:
    for bits in cases.HARD_ARGUMENTS.get(opcode, (0x3FFFFFFF, 0x40000001)):
        assert reference.exact(opcode, bits) == nearest(opcode, bits), hex(bits)


@pytest.mark.parametrize("opcode", FUNCTIONS, ids=lambda o: o.name)
@given(bits=st.lists(ANY_BITS, min_size=20, max_size=20))
@settings(max_examples=12, deadline=None)
def test_functions_are_correctly_rounded(opcode: Opcode, bits: list[int]) -> None:
    negative_fails = opcode in (Opcode.LOG, Opcode.SQRT, Opcode.RSQRT)
    for b in bits:
        if binary32.is_finite(b) and not binary32.is_zero(b):
            expected = binary32.NAN if negative_fails and b >> 31 else nearest(opcode, b)
            assert reference.exact(opcode, b) == expected, hex(b)


ZERO, MINUS_ZERO, ONE, HALF = 0, 1 << 31, 0x3F800000, 0x3F000000
INF, MINUS_INF, NAN = 0x7F800000, 0xFF800000, 0x7FC00000
SPECIAL = {
    #              +0, -0, +inf, -inf
    Opcode.SQRT: (ZERO, MINUS_ZERO, INF, NAN),
    Opcode.EXP: (ONE, ONE, INF, ZERO),
    Opcode.LOG: (MINUS_INF, MINUS_INF, INF, NAN),
    Opcode.TANH: (ZERO, MINUS_ZERO, ONE, ONE | MINUS_ZERO),
    Opcode.SIGMOID: (HALF, HALF, ONE, ZERO),
    Opcode.ERF: (ZERO, MINUS_ZERO, ONE, ONE | MINUS_ZERO),
    Opcode.SIN: (ZERO, MINUS_ZERO, NAN, NAN),
    Opcode.COS: (ONE, ONE, NAN, NAN),
    Opcode.RSQRT: (INF, MINUS_INF, ZERO, NAN),
}


@pytest.mark.parametrize("opcode", SPECIAL, ids=lambda o: o.name)
def test_functions_at_zeros_infinities_and_nan(opcode: Opcode) -> None:
    arguments = (ZERO, MINUS_ZERO, INF, MINUS_INF, NAN)
    assert tuple(reference.exact(opcode, b) for b in arguments) == (*SPECIAL[opcode], NAN)


def test_functions_where_the_result_is_exact() -> None:
    assert reference.exact(Opcode.LOG, ONE) == ZERO
    for power in range(-74, 63):  # rsqrt(4^k) = 2^-k, subnormal arguments included
        argument, result = oracle.float_bits(4.0**power), oracle.float_bits(2.0**-power)
        assert reference.exact(Opcode.RSQRT, argument) == result
        assert reference.exact(Opcode.SQRT, argument) == oracle.float_bits(2.0**power)


def test_sin_and_cos_of_the_largest_number() -> None:
    for opcode, bits in product((Opcode.SIN, Opcode.COS), (0x7F7FFFFF, 0x7F000000, 0xFF7FFFFF)):
        assert reference.exact(opcode, bits) == nearest(opcode, bits)


def test_too_low_a_precision_is_noticed_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_functions, "_START_BITS", 24)
    decided = exact_functions.exact.__wrapped__
    for opcode, hard in cases.HARD_ARGUMENTS.items():
        for bits in (*hard, 0x3F9E0419, 0x4111C5A1, 0x00000001, 0x00800003):
            assert decided(opcode, bits) == nearest(opcode, bits), (opcode.name, hex(bits))
    for opcode, bits in product((Opcode.SIN, Opcode.COS), (0x7F7FFFFF, 0x7E123457, 0xFF7FFFFF, 0x5B000001)):
        assert decided(opcode, bits) == nearest(opcode, bits), (opcode.name, hex(bits))


IEEE = {Opcode.ADD: np.add, Opcode.SUB: np.subtract, Opcode.MUL: np.multiply, Opcode.DIV: np.divide}


@pytest.mark.parametrize("opcode", IEEE, ids=lambda o: o.name)
def test_arithmetic_is_ieee_754(opcode: Opcode) -> None:
    x, y = cases.float_pairs(cases.Words(11), 3000)
    case = Operation(opcode, (0, 1), TensorType(DType.FLOAT32, (len(x),)))
    left, right = (cases.tensor_of(v, DType.FLOAT32) for v in (x, y))
    with np.errstate(all="ignore"):
        expected = IEEE[opcode](left.numpy(), right.numpy())
    expected_bits = np.where(np.isnan(expected), np.uint32(NAN), expected.view(np.uint32)).tolist()
    assert oracle.bits_of(reference.evaluate(case, [left, right])) == expected_bits


@pytest.mark.parametrize(
    ("rounding", "function"),
    [
        (Rounding.NEAREST_EVEN, np.rint),
        (Rounding.TOWARD_ZERO, np.trunc),
        (Rounding.DOWN, np.floor),
        (Rounding.UP, np.ceil),
    ],
)
def test_rounding_to_integral_keeps_the_sign_of_zero(rounding: Rounding, function: np.ufunc) -> None:
    x = cases.tensor_of(cases.Words(12).floats(3000), DType.FLOAT32)
    result = reference.evaluate(Operation(Opcode.ROUND, (0,), TensorType.of(x), (rounding,)), [x])
    expected = function(x.numpy())
    assert oracle.bits_of(result) == np.where(np.isnan(expected), np.uint32(NAN), expected.view(np.uint32)).tolist()


@given(rows=st.lists(st.lists(ANY_BITS, max_size=12), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_sums_are_exact_and_rounded_once(rows: list[list[int]]) -> None:
    for row in rows:
        expected = oracle.order_free_sum(oracle.from_bits(row).tolist())
        assert reference.order_free_sum(row) == oracle.float_bits(expected)


def test_sums_follow_the_rule_where_terms_fall_below_the_quantum() -> None:
    for row in cases.sum_rows(cases.Words(13), 40):
        assert reference.order_free_sum(row) == oracle.float_bits(oracle.order_free_sum(oracle.from_bits(row).tolist()))


@pytest.mark.parametrize("scale", ["columns", "rows"])
@pytest.mark.parametrize("digits", [1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 1, 6), (17, 7, 18), (2, 40, 3), (2, 0, 3)])
def test_products_follow_the_formula(shape: tuple[int, int, int], digits: int, scale: str) -> None:
    a, b = cases.product_operands(cases.Words(14 + digits), *shape)
    result = functions.matmul(a, b, digits, scale, backend="reference")
    assert oracle.bits_of(result) == oracle.bits_of(oracle.matmul(a, b, digits, scale))


@pytest.mark.parametrize("scale", ["columns", "rows"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_products_of_any_bits_follow_the_formula(scale: str, data: st.DataObject) -> None:
    m, k, n, digits = (data.draw(st.integers(1, 3)) for _ in range(4))
    a = oracle.from_bits(data.draw(st.lists(ANY_BITS, min_size=m * k, max_size=m * k)), (m, k))
    b = oracle.from_bits(data.draw(st.lists(ANY_BITS, min_size=k * n, max_size=k * n)), (k, n))
    result = functions.matmul(a, b, digits, scale, backend="reference")
    assert oracle.bits_of(result) == oracle.bits_of(oracle.matmul(a, b, digits, scale))


def test_a_weight_on_a_row_of_zeros_does_not_count_towards_the_exponent() -> None:
    # 2^20 meets a row of zeros: were it to set the exponent, 1.0 would be quantised to 0 with two digits.
    a, b = torch.tensor([[2.0**20, 1.0]]), torch.tensor([[0.0], [3.0]])
    assert functions.matmul(a, b, 2, "rows", backend="reference").item() == 3.0


def test_a_zero_weight_hides_a_row_that_is_not_finite() -> None:
    a, b = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[float("inf")], [3.0]])
    assert oracle.bits_of(functions.matmul(a, b, 2, "rows", backend="reference")) == [0x40400000, NAN]
    assert oracle.bits_of(functions.matmul(a, b, 2, "columns", backend="reference")) == [NAN, NAN]


def test_a_product_that_underflows_keeps_its_sign_and_a_sum_of_zero_has_none() -> None:
    tiny = torch.tensor([[2.0**-140, 0.0]])
    assert oracle.bits_of(functions.matmul(tiny, -tiny.t(), backend="reference")) == [MINUS_ZERO]
    minus = torch.tensor([[-0.0, -0.0]])
    assert oracle.bits_of(functions.matmul(minus, tiny.t(), backend="reference")) == [ZERO]


def test_index_add_sums_old_value_and_what_lands_at_once() -> None:
    x = torch.tensor([[1.0], [-0.0], [5.0]])
    index = torch.tensor([0, 0, 7, -1])
    source = torch.tensor([[2.0**26], [-(2.0**26)], [9.0], [9.0]])
    result = functions.index_add(x, index, source, backend="reference")
    # In floating point 1 + 2^26 - 2^26 may give 0; a cell where nothing lands is the sum of one, so -0 becomes +0.
    assert oracle.bits_of(result) == oracle.bits_of(torch.tensor([[1.0], [0.0], [5.0]]))


def test_integers_wrap_and_division_by_zero_is_zero() -> None:
    lowest, minus_one, zero = torch.tensor([-128], dtype=torch.int8), torch.tensor([-1], dtype=torch.int8), 0
    assert functions.div(lowest, minus_one, backend="reference").tolist() == [-128]
    assert functions.rem(lowest, minus_one, backend="reference").tolist() == [0]
    assert functions.div(lowest, zero, backend="reference").tolist() == [0]
    assert functions.rem(lowest, zero, backend="reference").tolist() == [-128]
    assert functions.neg(lowest, backend="reference").tolist() == [-128]
    assert functions.add(lowest, minus_one, backend="reference").tolist() == [127]


def test_order_is_nan_first_then_by_value_with_plus_zero_above_minus_zero() -> None:
    x = torch.tensor([1.0, -0.0, float("nan"), 0.0, 1.0, -5.0, float("nan")])
    assert functions.sort(x, descending=True, backend="reference").indices.tolist() == [2, 6, 0, 4, 3, 1, 5]
    assert functions.sort(x, backend="reference").indices.tolist() == [2, 6, 5, 1, 3, 0, 4]
    assert functions.topk(x, 3, backend="reference").indices.tolist() == [2, 6, 0]
    assert functions.argmax(x[3:6], backend="reference").item() == 1
    assert functions.argmin(x[:2], backend="reference").item() == 1


def test_an_operation_that_is_not_well_typed_is_refused() -> None:
    with pytest.raises(MalformedProgram, match="one element type"):
        reference.evaluate(
            Operation(Opcode.ADD, (0, 1), TensorType(DType.FLOAT32, (1,))),
            [torch.zeros(1), torch.zeros(1, dtype=torch.int32)],
        )
