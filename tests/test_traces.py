"""A trace binds a Program and every value of its run; whoever made it can open any part of it, and only that."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cupel.protocol import merkle
from cupel.protocol.errors import MalformedInput
from cupel.protocol.program import Program, run, trace
from cupel.protocol.program.running import flat_inputs
from cupel.protocol.program.traces import Trace, make_trace, recompute
from cupel.protocol.trees import Tree, are_children, child_range, height, path_length, root_of_range
from cupel.protocol.types import Root

OTHER = b"\xff" * 32
LEAVES = [bytes([i % 256, i >> 8]) * 16 for i in range(2100)]


def small(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x @ y).exp() * 0.5


ARGUMENTS = (torch.arange(6.0).reshape(2, 3) - 2, torch.arange(12.0).reshape(3, 4) / 7)


@pytest.fixture(scope="module")
def program() -> Program:
    return trace(small, ARGUMENTS)


@pytest.fixture(scope="module")
def traced(program: Program) -> Trace:
    return run(program, ARGUMENTS, "reference", trace=True)[1]


def test_a_trace_is_the_same_on_every_engine(program: Program, traced: Trace) -> None:
    for backend in ("torch", "cpu"):
        assert run(program, ARGUMENTS, backend, trace=True)[1].root == traced.root


def test_a_trace_holds_every_value_under_its_id(program: Program, traced: Trace) -> None:
    values = [*ARGUMENTS, *program.constants]
    assert list(traced.roots[: len(values)]) == [merkle.tensor_root(t) for t in values]
    last = recompute(program, flat_inputs(program, ARGUMENTS), program.graph.outputs, "reference")
    assert [traced.roots[v] for v in last] == [merkle.tensor_root(t) for t in last.values()]
    for index, root in enumerate(traced.operation_roots):
        leaf = program.operation_leaf(index, root)
        assert traced.tree.levels[0][len(values) + index] == leaf


def test_every_value_and_the_program_decide_a_traces_root(program: Program, traced: Trace) -> None:
    roots = {traced.root}
    for value in range(len(traced.trees)):
        trees = list(traced.trees)
        trees[value] = Root(bytes(32))
        roots.add(dataclasses.replace(traced, trees=tuple(trees)).root)
    assert len(roots) == len(traced.trees) + 1
    other = trace(lambda x, y: (x @ y).exp() * 0.25, ARGUMENTS)
    assert run(other, ARGUMENTS, "reference", trace=True)[1].root not in roots


def roots_of(values: dict[int, torch.Tensor]) -> dict[int, Root]:
    return {value: merkle.tensor_root(tensor) for value, tensor in sorted(values.items())}


def test_engines_compute_one_value_alike(program: Program, traced: Trace) -> None:
    for backend in ("reference", "torch", "cpu"):
        for value, root in enumerate(traced.roots):
            found = recompute(program, list(ARGUMENTS), [value], backend)
            assert roots_of(found) == {value: root}


def test_a_value_that_does_not_exist_is_refused(program: Program, traced: Trace) -> None:
    for value in (-1, len(traced.trees)):
        with pytest.raises(MalformedInput, match=f"value {value}"):
            recompute(program, list(ARGUMENTS), [value], "torch")


def test_making_a_trace_needs_no_order(program: Program, traced: Trace) -> None:
    values = recompute(program, list(ARGUMENTS), range(len(traced.trees)), "reference")
    assert make_trace(program, iter(reversed(values.items()))).root == traced.root


# Openings


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 1023, 1025, 2100])
def test_runs_of_leaves_lead_to_the_root_and_nowhere_else(count: int) -> None:
    tree = Tree(LEAVES[:count])
    assert tree.root == merkle.tree_root(LEAVES[:count])
    for first in {0, 1, count // 2, count - 1} & set(range(count)):
        for last in {first, min(first + 4, count - 1), count - 1}:
            path, hashes = tree.path(first, last), LEAVES[first : last + 1]
            assert len(path) == path_length(count, first, last)
            assert root_of_range(hashes, first, count, path) == tree.root
            assert root_of_range([*hashes[:-1], OTHER], first, count, path) != tree.root
            if path:
                assert root_of_range(hashes, first, count, [*path[:-1], OTHER]) != tree.root
        assert tree.path(first) == merkle.proof(LEAVES[:count], first)


@pytest.mark.parametrize("count", [2, 3, 1023, 1024, 1025, 2100])
def test_nodes_are_opened_down_to_leaves_in_steps_of_at_most_1024(count: int) -> None:
    tree = Tree(LEAVES[:count])
    level, index, node, moves = height(count), 0, tree.root, 0
    while level:
        children = tree.children(level, index)
        assert 1 <= len(children) <= 1024
        assert are_children(node, count, level, index, children)
        for spoilt in (children[:-1], [*children, children[-1]], [*children[:-1], OTHER], [b"", *children[1:]]):
            assert not are_children(node, count, level, index, spoilt)
        start, end = child_range(count, level, index)
        level, index, node, moves = max(level - 10, 0), end - 1, children[-1], moves + 1
        assert end - start == len(children)
    assert (index, node, moves) == (count - 1, LEAVES[count - 1], 1 if count <= 1024 else 2)


def test_what_a_tree_does_not_have_is_refused() -> None:
    tree = Tree(LEAVES[:5])
    for first, last in ((-1, 0), (5, 5), (3, 2), (0, 5)):
        with pytest.raises(MalformedInput, match=f"leaves {first} to {last} of a tree of 5"):
            tree.path(first, last)
    for level, index in ((0, 0), (4, 0), (2, 2), (1, -1)):
        with pytest.raises(MalformedInput, match=f"node {index} of level {level}"):
            tree.children(level, index)
