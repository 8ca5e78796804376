"""Programs as data: encoding, roots, hostile bytes, arguments that do not fit."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program_examples import arguments, named, tiny

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.errors import MalformedProgram, MalformedTensor, UsageError
from cupel.protocol.program import Program, run, trace
from cupel.protocol.program.structure import MAX_DEPTH, Structure, flatten, unflatten

VECTORS = json.loads((Path(__file__).parent / "vectors" / "programs.json").read_text())


@pytest.fixture(scope="module")
def program() -> Program:
    return trace(tiny, arguments())


# Encoding


def test_the_bytes_of_a_tiny_program_are_those_stored(program: Program) -> None:
    assert program.to_bytes().hex() == VECTORS["tiny"]["bytes"]
    assert program.root.hex() == VECTORS["tiny"]["root"]


def test_the_root_is_the_tree_over_one_leaf_for_each_item(program: Program) -> None:
    assert program.root == merkle.tree_root([merkle.leaf_hash(item) for item in program.items])
    stripped = program.to_bytes()
    for item in program.items:
        assert item in stripped
    header = struct.pack(
        "<BHIIIII",
        0,
        1,
        len(program.graph.inputs),
        len(program.graph.constants),
        len(program.graph.operations),
        len(program.graph.outputs),
        len(program.structure.to_bytes()),
    )
    assert program.items[0] == header + program.structure.to_bytes()
    assert program.items[1] == bytes([1, 1, 2]) + struct.pack("<QQH", 2, 3, 1) + b"0"


def test_structure_and_names_are_as_documented(program: Program) -> None:
    assert program.structure.to_bytes() == (
        b'[["t",0,["d",["w",1],["n",2]]],["d",["out",0],["pair",["t",1,["l",2]]],["none",null]]]'
    )
    assert list(program.inputs) == ["0", "1.w", "1.n"]
    assert list(program.outputs) == ["out", "pair.0", "pair.1.0"]


def test_bytes_round_trip_and_equality_is_by_root(program: Program) -> None:
    again = Program.from_bytes(program.to_bytes())
    assert again == program
    assert hash(again) == hash(program)
    assert again.to_bytes() == program.to_bytes()
    other = trace(lambda x, more: {**tiny(x, more), "none": x}, arguments())
    assert other != program


def test_an_operation_leaf_covers_encoding_and_result(program: Program) -> None:
    root = merkle.tensor_root(torch.zeros(2))
    first = 1 + len(program.graph.inputs) + len(program.graph.constants)
    assert program.operation_leaf(0, root) == merkle.operation_leaf(program.items[first], root)


# Hostile bytes


def accepted_or_refused(data: bytes) -> bool:
    """Whether `data` is a Program, which it then must encode to again; anything but MalformedProgram escapes."""
    try:
        program = Program.from_bytes(data)
    except MalformedProgram:
        return False
    assert program.to_bytes() == data
    return True


def test_every_prefix_and_every_single_byte_changed_is_refused_or_canonical(program: Program) -> None:
    data = program.to_bytes()
    assert accepted_or_refused(data)
    assert not any(accepted_or_refused(data[:n]) for n in range(len(data)))
    assert not accepted_or_refused(data + b"\x00")
    accepted = 0
    for position in range(len(data)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= change
            if accepted_or_refused(bytes(changed)):
                accepted += 1
                assert Program.from_bytes(bytes(changed)).root != program.root
    # Some changes make another valid Program: an operand that exists too, another opcode of the same type.
    assert accepted < len(data)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_spliced_bytes_are_refused_or_canonical(program: Program, data: st.DataObject) -> None:
    original = program.to_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(start + 12, len(original))))
    accepted_or_refused(original[:start] + data.draw(st.binary(max_size=12)) + original[end:])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_noise_behind_the_magic_is_refused(noise: bytes) -> None:
    assert not accepted_or_refused(noise)
    assert not accepted_or_refused(b"CUPEL\x00" + noise)


def rebuilt(program: Program, structure: bytes) -> bytes:
    """The program's bytes with another structure."""
    data, old = program.to_bytes(), program.structure.to_bytes()
    at = data.index(old)
    return data[: at - 4] + struct.pack("<I", len(structure)) + structure + data[at + len(old) :]


@pytest.mark.parametrize(
    "change",
    {
        "spaces": lambda s: s.replace(b",", b", ", 1),
        "a list for a tuple of arguments": lambda s: s.replace(b'[["t"', b'[["l"', 1),
        "an unknown kind": lambda s: s.replace(b'["l",2]', b'["x",2]'),
        "an index out of order": lambda s: s.replace(b'["w",1],["n",2]', b'["w",2],["n",1]'),
        "an index twice": lambda s: s.replace(b'["n",2]', b'["n",1]'),
        "an index as a float": lambda s: s.replace(b'["n",2]', b'["n",2.0]'),
        "true for an index": lambda s: s.replace(b'["w",1]', b'["w",true]'),
        "a key twice": lambda s: s.replace(b'["n",2]', b'["w",2]'),
        "another key": lambda s: s.replace(b'["n",2]', b'["m",2]'),
        "an escaped key": lambda s: s.replace(b'"n"', b'"\\u006e"'),
        "half a surrogate": lambda s: s.replace(b'"n"', b'"\\ud800"'),
        "no JSON": lambda s: s[:-1],
        "a triple": lambda s: s[:-1] + b",null]",
        "a number too large to print": lambda s: s.replace(b'["n",2]', b'["n",' + b"9" * 5000 + b"]"),
        "deep nesting": lambda s: s.replace(b'["l",2]', b'["l",' * 5000 + b"2" + b"]" * 5000),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_structure_that_is_not_canonical_is_refused(program: Program, change: Any) -> None:
    structure = program.structure.to_bytes()
    changed = change[1](structure)
    assert changed != structure
    with pytest.raises(MalformedProgram):
        Program.from_bytes(rebuilt(program, changed))


def test_names_that_grow_far_beyond_their_bytes_are_refused() -> None:
    many = ",".join(map(str, range(100_000)))
    bomb = f'[["t",["d",["{"k" * 60_000}",["l",{many}]]]],null]'.encode()
    with pytest.raises(MalformedProgram, match="names"):
        Structure.from_bytes(bomb)


def test_announced_sizes_are_never_believed() -> None:
    """Four billion items, a structure of four gigabytes, a constant of a terabyte: refused before memory is taken."""
    for counts in ((1 << 31, 0, 0, 0, 0), (0, 0, 1 << 32 - 1, 0, 2), (0, 0, 0, 0, (1 << 32) - 1)):
        with pytest.raises(MalformedProgram):
            Program.from_bytes(b"CUPEL\x00" + struct.pack("<BHIIIII", 0, 1, *counts) + b"[]")
    structure = b'[["t"],null]'
    header = struct.pack("<BHIIIII", 0, 1, 0, 1, 0, 0, len(structure)) + structure
    for dims in ((1 << 40,), (1 << 63,), (0, (1 << 64) - 1), (1 << 21, 1 << 21)):
        constant = bytes([2, 1, len(dims)]) + struct.pack(f"<{len(dims)}Q", *dims) + bytes(32)
        with pytest.raises(MalformedProgram):
            Program.from_bytes(b"CUPEL\x00" + header + constant)


def test_a_constant_with_another_nan_or_wrong_bytes_is_refused() -> None:
    nan = torch.tensor([float("nan"), 1.0])
    program = trace(lambda x: x + nan, (torch.zeros(2),))
    data = program.to_bytes()
    bits = bytes.fromhex("0000c07f")
    assert data.count(bits) == 1
    for other in ("0100c07f", "0000c0ff", "0000803f"):
        with pytest.raises(MalformedProgram):
            Program.from_bytes(data.replace(bits, bytes.fromhex(other)))


def test_an_operation_that_is_not_well_typed_is_refused(program: Program) -> None:
    first = 1 + len(program.graph.inputs) + len(program.graph.constants)
    item = program.items[first]
    assert program.graph.operations[0].opcode != Opcode.IOTA
    wrong = item[:1] + struct.pack("<H", Opcode.IOTA) + item[3:]
    with pytest.raises(MalformedProgram, match="IOTA"):
        Program.from_bytes(program.to_bytes().replace(item, wrong))


# Structures


trees = st.recursive(
    st.one_of(st.none(), st.just("tensor")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text('abé"\\', min_size=1, max_size=3), inner, max_size=3),
    ),
    max_leaves=12,
)


def filled(tree: Any, numbers: Any) -> Any:
    if tree == "tensor":
        return torch.tensor(next(numbers))
    if isinstance(tree, dict):
        return {key: filled(value, numbers) for key, value in tree.items()}
    return tree if tree is None else type(tree)(filled(value, numbers) for value in tree)


@settings(deadline=None, max_examples=100)
@given(trees)
def test_any_nesting_flattens_encodes_and_comes_back(tree: Any) -> None:
    from itertools import count

    value = filled(tree, count())
    node, tensors = flatten(value, "value")
    assert [int(tensor) for tensor in tensors] == list(range(len(tensors)))
    structure = Structure(["t", node], None)
    assert Structure.from_bytes(structure.to_bytes()) == structure
    assert unflatten(node, tensors) == value


def test_what_is_no_structure_of_tensors_is_named_by_its_path() -> None:
    with pytest.raises(UsageError, match=r"float at 0\.rate"):
        trace(lambda x: x, ({"rate": 0.1},))
    with pytest.raises(UsageError, match="key 3"):
        trace(lambda x: x, ({3: torch.zeros(1)},))
    with pytest.raises(UsageError, match=r"called '0\.a\.b'"):
        trace(lambda x: x, ({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)},))
    with pytest.raises(UsageError, match="float64"):
        trace(lambda x: x, (torch.zeros(1, dtype=torch.float64),))
    with pytest.raises(UsageError, match="result: int"):
        trace(lambda x: 3, (torch.zeros(1),))
    deep: Any = torch.zeros(1)
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(UsageError, match="deeper"):
        trace(lambda x: x, (deep,))


# Running


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_a_run_has_the_structure_and_the_bits_of_the_definition(program: Program, backend: str) -> None:
    result = run(program, arguments(), backend=backend)
    assert {name: merkle.tensor_root(t).hex() for name, t in named(result).items()} == VECTORS["tiny"]["result"]
    assert isinstance(result["pair"], tuple)
    assert isinstance(result["pair"][1], list)
    assert result["none"] is None


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_a_trace_gives_the_root_of_every_operation(program: Program, backend: str) -> None:
    result, traced = run(program, arguments(), backend=backend, trace=True)
    assert [root.hex() for root in traced.operation_roots] == VECTORS["tiny"]["trace"]
    assert merkle.tensor_root(result["out"]).hex() == VECTORS["tiny"]["result"]["out"]


def spoilt(path: str, value: Any) -> tuple[Any, ...]:
    x, more = arguments()
    if path == "0":
        return value, more
    return x, {**more, path.removeprefix("1."): value}


OTHER_NAN = torch.tensor([0x7FC00001] + [0] * 5, dtype=torch.int32).view(torch.float32).reshape(3, 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (spoilt("0", torch.zeros(3, 2)), r"0: expected float32\[2, 3\], got float32\[3, 2\]"),
        (spoilt("1.w", torch.zeros(3, 2, dtype=torch.float64)), r"1\.w: expected float32\[3, 2\], got float64"),
        (spoilt("1.n", torch.tensor(3)), r"1\.n: expected int32\[\], got int64"),
        (spoilt("1.w", OTHER_NAN), r"1\.w: .*7fc00001"),
        (spoilt("1.w", None), r"1\.w: expected a tensor, got NoneType"),
        (spoilt("1.w", torch.zeros(3, 2, device="meta")), r"1\.w: .*meta"),
        (spoilt("1.extra", torch.zeros(1)), "unknown key 'extra'"),
        ((arguments()[0], {"w": arguments()[1]["w"]}), "'n' is missing"),
        ((arguments()[0], [arguments()[1]]), "1: expected a dict, got list"),
        (arguments()[:1], "expected a tuple of 2, got tuple of 1"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(program: Program, args: Any, message: str) -> None:
    with pytest.raises(MalformedTensor, match=message):
        run(program, args, backend="torch")


def test_keys_may_stand_in_any_order_and_strides_do_not_matter(program: Program) -> None:
    x, more = arguments()
    turned = {"n": more["n"], "w": more["w"].t().contiguous().t()}
    assert not turned["w"].is_contiguous()
    assert torch.equal(run(program, [x, turned])["out"], run(program, (x, more))["out"])


def test_results_share_no_memory_with_arguments_or_constants() -> None:
    held = torch.ones(3)
    program = trace(lambda x: (x, x, x[:1], held), (torch.zeros(3),))
    x = torch.zeros(3)
    for result in run(program, (x,), backend="torch"):
        result.fill_(9.0)
    assert torch.equal(x, torch.zeros(3))
    assert [float(y.sum()) for y in run(program, (x,), backend="torch")] == [0.0, 0.0, 0.0, 3.0]


def test_an_unknown_backend_is_refused(program: Program) -> None:
    with pytest.raises(UsageError, match="abacus"):
        run(program, arguments(), backend="abacus")


@pytest.mark.parametrize("wrong", ["CUPEL", None, 7, [1, 2]])
def test_what_is_not_bytes_is_no_program(program: Program, wrong: Any) -> None:
    assert Program.from_bytes(bytearray(program.to_bytes())) == program
    with pytest.raises(MalformedProgram, match=f"read from bytes, not from {type(wrong).__name__}"):
        Program.from_bytes(wrong)
