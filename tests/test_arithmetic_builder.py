"""The graph builder: shared and dropped operations, views that vanish, fixed sequences for products and sums."""

from __future__ import annotations

import pytest
import torch

from cupel.protocol.arithmetic.builder import GraphBuilder, Value, broadcast_shape
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType
from cupel.protocol.errors import MalformedProgram

F32 = DType.FLOAT32


@pytest.fixture
def builder() -> GraphBuilder:
    return GraphBuilder()


def opcodes(builder: GraphBuilder, *outputs: Value) -> list[str]:
    return [op.opcode.name for op in builder.build(outputs).operations]


def test_a_product_is_the_sequence_the_design_fixes(builder: GraphBuilder) -> None:
    a, b = builder.input(TensorType(F32, (4, 5))), builder.input(TensorType(F32, (5, 3)))
    assert sorted(opcodes(builder, builder.matmul(a, b))) == sorted(
        ["EXPONENT", "PERMUTE", "EXPONENT", "QUANTIZE", "QUANTIZE", "PAD", "PAD", "DOT"]
    )
    assert sorted(opcodes(builder, builder.matmul(a, b, scale="rows"))) == sorted(
        ["EXPONENT", "EXPONENT_SCALED", "QUANTIZE_SCALED", "QUANTIZE", "PERMUTE", "PAD", "PAD", "DOT_ROWS"]
    )


@pytest.mark.parametrize(("terms", "padded"), [(0, 1), (1, 1), (2, 2), (3, 4), (96, 128), (128, 128), (129, 256)])
def test_rows_of_a_product_are_padded_to_a_power_of_two(builder: GraphBuilder, terms: int, padded: int) -> None:
    a, b = builder.input(TensorType(F32, (4, terms))), builder.input(TensorType(F32, (terms, 3)))
    dot = builder.build([builder.matmul(a, b)])
    assert dot.type_of(dot.operations[-1].operands[2]).shape == (4, padded)


def test_equal_operations_and_constants_are_shared(builder: GraphBuilder) -> None:
    x = builder.input(TensorType(F32, (4,)))
    twice = [builder.binary(Opcode.MUL, x, builder.scalar(0.5, F32)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(builder.build(twice).operations) == 3  # reshape, expand, multiply
    # Equal in value, not in bits.
    assert builder.scalar(0.0, F32) != builder.scalar(-0.0, F32)
    assert builder.scalar(1, DType.INT32) != builder.scalar(1, DType.INT64)


def test_a_constant_is_kept_as_it_was_given(builder: GraphBuilder) -> None:
    table = torch.ones(3)
    value = builder.constant(table)
    table.zero_()
    assert builder.build([value]).constants[0].tolist() == [1.0, 1.0, 1.0]


def test_what_nobody_reads_is_dropped_but_inputs_stay(builder: GraphBuilder) -> None:
    x, unused = builder.input(TensorType(F32, (4,))), builder.input(TensorType(F32, (2,)))
    builder.binary(Opcode.ADD, unused, builder.scalar(3.0, F32))
    graph = builder.build([builder.unary(Opcode.EXP, x)])
    assert graph.inputs == (x.type, unused.type)
    assert not graph.constants
    assert [op.opcode for op in graph.operations] == [Opcode.EXP]
    assert graph.outputs == (2,)


def test_views_that_change_nothing_vanish(builder: GraphBuilder) -> None:
    x = builder.input(TensorType(F32, (2, 3, 4)))
    assert builder.reshape(builder.reshape(x, (6, 4)), (2, 3, 4)) == x
    assert builder.permute(builder.permute(x, [2, 0, 1]), [1, 2, 0]) == x
    assert builder.expand(x, (2, 3, 4)) == x
    assert builder.slice(x, 1, 0, 3) == x
    assert builder.pad(x, [0, 0, 0], [0, 0, 0]) == x
    assert builder.cast(x, F32) == x
    assert opcodes(builder, builder.permute(builder.permute(x, [2, 0, 1]), [2, 1, 0])) == ["PERMUTE"]


def test_a_sum_over_several_dimensions_is_one_sum(builder: GraphBuilder) -> None:
    x = builder.input(TensorType(F32, (2, 3, 4)))
    assert opcodes(builder, builder.sum(x, [0, 2])) == ["PERMUTE", "RESHAPE", "SUM"]
    assert builder.sum(x, [0, -1], keepdim=True).shape == (1, 3, 1)
    assert builder.sum(x).shape == ()


def test_a_matrix_on_the_right_of_batches_is_quantised_once(builder: GraphBuilder) -> None:
    a, b = builder.input(TensorType(F32, (2, 3, 4, 5))), builder.input(TensorType(F32, (5, 6)))
    product = builder.matmul(a, b)
    assert product.shape == (2, 3, 4, 6)
    assert opcodes(builder, product).count("EXPAND") == 0


def test_an_ill_typed_operation_is_refused_when_it_is_appended(builder: GraphBuilder) -> None:
    x, y = builder.input(TensorType(F32, (4,))), builder.input(TensorType(DType.INT32, (4,)))
    with pytest.raises(MalformedProgram, match="one element type"):
        builder.binary(Opcode.ADD, x, y)
    with pytest.raises(MalformedProgram, match="does not permute"):
        builder.permute(x, [0, 0])
    with pytest.raises(MalformedProgram, match="does not broadcast"):
        builder.broadcast_to(x, ())
    with pytest.raises(MalformedProgram, match="a NaN other"):
        builder.pad(x, [1], [0], fill_bits=0xFFC00000)
    with pytest.raises(MalformedProgram, match="at least one"):
        builder.concat([], 0)


def test_scalars_become_the_nearest_binary32(builder: GraphBuilder) -> None:
    # 2^60 + 2^36 + 1 lies just above a tie; over float64 the 1 is lost and the tie goes down.
    value = builder.constant_value(builder.scalar(2**60 + 2**36 + 1, F32))
    assert value is not None
    assert int(value.item()) == 2**60 + 2**37
    nan = builder.constant_value(builder.scalar(-float("nan"), F32))
    assert nan is not None
    assert int(nan.view(torch.int32)) == 0x7FC00000


def test_broadcasting_is_that_of_torch() -> None:
    for shapes in (((2, 1, 4), (3, 1)), ((), (5,)), ((1,), (0,)), ((7, 1), (1, 6), (6,))):
        assert broadcast_shape(*shapes) == tuple(torch.broadcast_shapes(*shapes))
    with pytest.raises(MalformedProgram, match="do not broadcast"):
        broadcast_shape((2,), (3,))
