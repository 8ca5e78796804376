"""The golden vectors are what the code gives today, and every engine gives them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cupel.protocol import hashing
from cupel.protocol.arithmetic import engines, reference, torch_backend
from cupel.protocol.arithmetic.cpu import compile_graph
from cupel.protocol.arithmetic.operations import DType, Graph, Opcode, Operation, TensorType

VECTORS = Path(__file__).parent / "vectors"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_vectors", VECTORS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor(entry: list[Any]) -> torch.Tensor:
    dtype, shape, data = entry
    if not data:
        return torch.empty(shape, dtype=DType(dtype).torch)
    return torch.frombuffer(bytearray.fromhex(data), dtype=DType(dtype).torch).reshape(shape)


def test_regenerating_the_vectors_changes_nothing() -> None:
    # The steps have tests of their own (test_arithmetic_steps.py): a minute on the definition.
    for path, content in generator().files(engines.stored_vectors()["training"]).items():
        assert path.read_text() == content, (
            f"{path.name}: the protocol changed; if meant, run tests/vectors/generate.py"
        )


def test_what_is_stored_is_added_to_but_not_changed_unasked(tmp_path: Path) -> None:
    path, write = tmp_path / "self_test.json", generator().write
    stored = '{"results": {"add": "1", "sub": "2"}, "steps": [["a"], ["b"]]}'
    path.write_text(stored)
    assert write({path: stored.replace('"2"', '"3"')}, replace=False) == ["self_test.json/results/sub is other"]
    assert write({path: stored.replace(', ["b"]', "")}, replace=False) == [
        "self_test.json/steps has 1 entries instead of 2"
    ]
    assert path.read_text() == stored
    more = stored.replace('"2"', '"2", "mul": "4"')
    assert write({path: more}, replace=False) == []
    assert path.read_text() == more
    assert write({path: stored}, replace=True) == ["self_test.json/results/mul is gone"]
    assert path.read_text() == stored


ARITHMETIC = json.loads((VECTORS / "arithmetic.json").read_text())


def parts(case: dict[str, Any]) -> tuple[Operation, list[torch.Tensor], torch.Tensor]:
    operands, result = [tensor(t) for t in case["operands"]], tensor(case["result"])
    attributes = tuple(case["attributes"])
    operation = Operation(Opcode(case["opcode"]), tuple(range(len(operands))), TensorType.of(result), attributes)
    return operation, operands, result


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous().view(torch.int32) if t.dtype == torch.float32 else t


@pytest.mark.parametrize("evaluate", [reference.evaluate, torch_backend.evaluate], ids=["reference", "torch"])
def test_interpreted_engines_give_the_stored_results(evaluate: Any) -> None:
    for case in ARITHMETIC:
        operation, operands, result = parts(case)
        assert torch.equal(bits(evaluate(operation, operands)), bits(result)), case["name"]


def test_the_compiled_engine_gives_the_stored_results() -> None:
    inputs: list[torch.Tensor] = []
    operations, names, results = [], [], []
    total = sum(len(case["operands"]) for case in ARITHMETIC)
    for case in ARITHMETIC:
        operation, operands, result = parts(case)
        ids = tuple(range(len(inputs), len(inputs) + len(operands)))
        operations.append(Operation(operation.opcode, ids, operation.result, operation.attributes))
        inputs.extend(operands)
        names.append(case["name"])
        results.append(result)
    outputs = tuple(range(total, total + len(operations)))
    graph = Graph(tuple(TensorType.of(t) for t in inputs), (), tuple(operations), outputs)
    for name, expected, got in zip(names, results, compile_graph(graph).run(inputs), strict=True):
        assert torch.equal(bits(got), bits(expected)), name


def test_every_opcode_and_type_has_its_number() -> None:
    stored = json.loads((VECTORS / "opcodes.json").read_text())
    assert {o.name: int(o) for o in Opcode} == stored["opcodes"]
    assert {d.name: int(d) for d in DType} == stored["dtypes"]
    assert {case["opcode"] for case in ARITHMETIC} == set(stored["opcodes"].values())


def test_stored_proofs_hold() -> None:
    stored = json.loads((VECTORS / "roots.json").read_text())
    leaves = [bytes.fromhex(h) for h in stored["tree_leaves"]]
    for tree in stored["trees"]:
        for i, path in enumerate(tree["proofs"]):
            siblings = [bytes.fromhex(h) for h in path]
            assert hashing.is_proof(bytes.fromhex(tree["root"]), leaves[i], i, tree["count"], siblings)
