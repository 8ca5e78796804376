"""TOPK and SORT in native code: one order, whatever the type, the ties and the NaNs."""

from __future__ import annotations

import math

import torch
from test_cpu_engine import EVERY_SET, built, check, floats

from cupel.protocol.arithmetic import reference
from cupel.protocol.arithmetic.builder import GraphBuilder, Value
from cupel.protocol.arithmetic.cpu import compile_graph
from cupel.protocol.arithmetic.operations import DType, Opcode, TensorType


@EVERY_SET
def test_orders_of_every_type_and_length(name: str) -> None:
    x = floats(5, 37)
    x[0, 3], x[0, 9], x[2, 4], x[2, 5] = math.nan, math.nan, math.inf, -math.inf
    x[1], x[1, ::2], x[3] = 0.0, -0.0, x[3, 0].item()
    integers = torch.randint(-3, 4, (4, 50), generator=torch.Generator().manual_seed(0))
    integers[0, :2] = torch.tensor([-(1 << 63), (1 << 63) - 1])
    others = [integers.to(torch.uint8), integers > 0, integers.to(torch.int8), floats(3, 1), floats(1, 2)]
    inputs = [x, integers, *others, floats(2, 700)]

    def build(g: GraphBuilder, *values: Value) -> list[Value]:
        results = []
        for v in values:
            rows, length = v.shape
            results += [g.apply(Opcode.SORT, [v], TensorType(DType.INT64, v.shape), (down,)) for down in (0, 1)]
            for k in sorted({0, 1, min(7, length), length}):
                results.append(g.apply(Opcode.TOPK, [v], TensorType(DType.INT64, (rows, k)), (k,)))
        return results

    graph = built(inputs, build)
    check(graph, inputs, name, evaluate=reference.evaluate)
    assert not compile_graph(graph, instruction_set=name).plan.python_steps
