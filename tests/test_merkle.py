"""Roots: against a second implementation written from docs/design/roots.md, and no bit may change unseen."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol import hashing, merkle
from cupel.protocol.arithmetic import cases
from cupel.protocol.arithmetic.operations import DType
from cupel.protocol.errors import MalformedInput, MalformedTensor
from cupel.protocol.types import Address, Root, RoundIndex, Salt


def h(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def straightforward_tree(leaves: list[bytes]) -> bytes:
    """By halves: the left one holds the largest power of two of leaves below all."""
    if not leaves:
        return h(b"\x00")
    if len(leaves) == 1:
        return leaves[0]
    left = 1
    while 2 * left < len(leaves):
        left *= 2
    return h(b"\x01", straightforward_tree(leaves[:left]), straightforward_tree(leaves[left:]))


CODES = {
    torch.float32: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.uint8: 6,
    torch.bool: 7,
}


def straightforward_tensor(t: torch.Tensor) -> bytes:
    """Element by element."""
    size = t.element_size()
    flat = t.contiguous().reshape(-1)
    if t.dtype == torch.float32:
        flat = flat.view(torch.int32)
    data = b"".join((int(v) % (1 << 8 * size)).to_bytes(size, "little") for v in flat.tolist())
    leaves = [h(b"\x00", data[i : i + 4096]) for i in range(0, len(data), 4096)]
    dims = b"".join(n.to_bytes(8, "little") for n in t.shape)
    head = bytes([2, CODES[t.dtype], t.dim()])
    return h(head, dims, len(leaves).to_bytes(8, "little"), straightforward_tree(leaves))


def leaves(n: int) -> list[bytes]:
    return [h(bytes([i])) for i in range(n)]


@pytest.mark.parametrize("n", range(20))
def test_trees_carry_an_odd_node_up(n: int) -> None:
    assert merkle.tree_root(leaves(n)) == straightforward_tree(leaves(n))


@pytest.mark.parametrize("n", range(1, 18))
def test_every_leaf_is_proved_and_no_other(n: int) -> None:
    root = merkle.tree_root(leaves(n))
    for i in range(n):
        path = merkle.proof(leaves(n), i)
        assert merkle.is_proof(root, leaves(n)[i], i, n, path)
        assert not merkle.is_proof(root, h(b"other"), i, n, path)
        assert not merkle.is_proof(h(b"other"), leaves(n)[i], i, n, path)
        assert not merkle.is_proof(root, leaves(n)[i], n, n, path)
        assert not merkle.is_proof(root, leaves(n)[i], i, n, [*path, h(b"more")])
        for at in range(len(path)):
            assert not merkle.is_proof(root, leaves(n)[i], i, n, path[:at] + path[at + 1 :])
            assert not merkle.is_proof(root, leaves(n)[i], i ^ 1 << at, n, path)


def test_an_inner_node_does_not_pass_for_a_leaf_of_a_smaller_tree() -> None:
    root, path = merkle.tree_root(leaves(8)), merkle.proof(leaves(8), 5)
    inner = merkle.node_hash(leaves(8)[4], leaves(8)[5])
    assert merkle.is_proof(root, inner, 2, 4, path[1:])  # why the count comes from the statement, not from the prover
    assert not merkle.is_proof(root, inner, 2, 8, path[1:])
    assert not merkle.is_proof(root, inner, 5, 8, path[1:])


def test_a_leaf_outside_the_tree_has_no_proof() -> None:
    for index in (-1, 3):
        with pytest.raises(MalformedInput, match="of a tree of 3"):
            merkle.proof(leaves(3), index)


SHAPES = [(), (0,), (2, 0, 3), (1,), (7,), (1023,), (1024,), (1025,), (3, 5000), (2, 3, 4)]


@pytest.mark.parametrize("dtype", DType, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tensor_roots(dtype: DType, shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    t = cases.tensor_of(cases.Words(5).values(count, dtype), dtype, shape)
    assert merkle.tensor_root(t) == straightforward_tensor(t)


def test_long_tensors_are_hashed_in_several_gulps() -> None:
    t = torch.arange(64 * 1024 * 3 + 17, dtype=torch.int32)
    assert merkle.tensor_root(t) == straightforward_tensor(t)


def test_layout_does_not_matter_and_shape_does() -> None:
    t = torch.arange(12.0).reshape(3, 4)
    views = [t.t().contiguous().t(), torch.arange(24.0).reshape(3, 8)[:, ::2] / 2, t.clone().requires_grad_()]
    expected = [t, torch.arange(12.0).reshape(3, 4), t]
    for view, plain in zip(views, expected, strict=True):
        assert merkle.tensor_root(view) == merkle.tensor_root(plain)
    assert merkle.tensor_root(torch.zeros(5).expand(2, 5)) == merkle.tensor_root(torch.zeros(2, 5))
    others = [t.reshape(4, 3), t.reshape(12), t.reshape(1, 3, 4), t.to(torch.int32), t.view(torch.int32)]
    assert len({merkle.tensor_root(x) for x in (t, *others)}) == 6


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_changes_the_root(data: st.DataObject) -> None:
    elements = data.draw(st.integers(1, 3000))
    t = torch.arange(elements, dtype=torch.int32)
    root = merkle.tensor_root(t)
    at, bit = data.draw(st.integers(0, elements - 1)), data.draw(st.integers(0, 31))
    t[at] ^= 1 << bit if bit < 31 else -(1 << 31)
    assert merkle.tensor_root(t) != root


@pytest.mark.parametrize("pattern", [0x7FC00001, -(1 << 22), 0x7F800001])
def test_a_nan_of_other_bits_has_no_root(pattern: int) -> None:
    bits = torch.tensor([0, 0x7FC00000, pattern], dtype=torch.int32)
    with pytest.raises(MalformedTensor, match=f"{pattern & 0xFFFFFFFF:08x}"):
        merkle.tensor_root(bits.view(torch.float32))
    assert merkle.tensor_root(bits[:2].view(torch.float32)) != merkle.tensor_root(bits[:2])


def test_a_bool_that_is_not_0_or_1_has_no_root() -> None:
    with pytest.raises(MalformedTensor, match="0 or 1"):
        merkle.tensor_root(torch.tensor([0, 2], dtype=torch.uint8).view(torch.bool))


def test_types_without_a_number_have_no_root() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.complex64):
        with pytest.raises(MalformedTensor, match=str(dtype)):
            merkle.tensor_root(torch.zeros(2, dtype=dtype))


STATE = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64), "ä": torch.tensor(1.0), "a.b": torch.zeros(1)}


def test_state_roots_sort_by_name_bytes_whatever_the_order() -> None:
    names = sorted(STATE, key=lambda n: n.encode())
    parts = [
        h(b"\x03", len(n.encode()).to_bytes(2, "little"), n.encode(), straightforward_tensor(STATE[n])) for n in names
    ]
    expected = straightforward_tree(parts)
    assert merkle.state_root(STATE) == expected
    assert merkle.state_root(dict(reversed(STATE.items()))) == expected
    assert merkle.state_root({}) == h(b"\x00")


def test_renaming_or_changing_one_tensor_changes_the_state_root() -> None:
    root = merkle.state_root(STATE)
    assert merkle.state_root({**STATE, "b": torch.ones(3).nextafter(torch.tensor(2.0))}) != root
    assert merkle.state_root({("c" if n == "b" else n): t for n, t in STATE.items()}) != root
    assert merkle.state_root({n: t for n, t in STATE.items() if n != "b"}) != root


def test_the_tensor_without_a_root_is_named() -> None:
    with pytest.raises(MalformedTensor, match=r"^layers\.0: "):
        merkle.state_root({"layers.0": torch.zeros(2, dtype=torch.float16)})
    with pytest.raises(MalformedInput, match="65,535"):
        merkle.state_root({"x" * 65536: torch.zeros(1)})


def test_leaves_of_a_unit_have_their_own_domains() -> None:
    a, b, salt = leaves(2)[0], leaves(2)[1], Salt(bytes(range(32)))
    assert merkle.operation_leaf(b"encoding", a) == h(b"\x04", b"encoding", a)
    assert merkle.checkpoint_leaf(a, b) == h(b"\x05", a, b)
    assert merkle.evidence(b"loss", b"norm", salt) == h(b"\x06", b"loss", b"norm", salt)
    assert merkle.contribution_leaf(Root(a)) == h(b"\x07", a)


def test_evidence_of_other_lengths_is_malformed() -> None:
    for loss, norm, salt in ((b"los", b"norm", bytes(32)), (b"loss", b"norms", bytes(32)), (b"loss", b"norm", b"")):
        with pytest.raises(MalformedInput, match="4 bytes of loss"):
            merkle.evidence(loss, norm, Salt(salt))


def test_unit_ids_are_those_of_abi_encode() -> None:
    from eth_abi.abi import encode
    from eth_utils.crypto import keccak

    contract, miner = "0x5FbDB2315678afecb367f032d93F642f64180aa3", "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    types = ["uint256", "address", "uint64", "address", "uint8"]
    for chain, round_, index in ((1, 0, 0), (31337, 7, 3), (2**256 - 1, 2**64 - 1, 255)):
        expected = keccak(encode(types, [chain, contract, round_, miner, index]))
        assert merkle.unit_id(chain, Address(contract), RoundIndex(round_), Address(miner), index) == expected


def test_unit_ids_of_what_does_not_fit_are_refused() -> None:
    contract, miner = Address("0x" + "01" * 20), Address("0x" + "02" * 20)
    for arguments in (
        (-1, contract, 0, miner, 0),
        (1, contract, 1 << 64, miner, 0),
        (1, contract, 0, miner, 256),
        (1, Address("0x01"), 0, miner, 0),
        (1, contract, 0, Address("0x" + "0g" * 20), 0),
    ):
        with pytest.raises(MalformedInput):
            merkle.unit_id(*arguments)


def test_hashing_and_sampling_load_without_torch() -> None:
    program = "import sys, cupel.protocol.hashing, cupel.protocol.sampling; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_keccak_is_the_one_of_ethereum() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert hashing.keccak256(b"").hex() == empty


@pytest.mark.parametrize("wrong", [[1, 2], None, "tensor", b"1"])
def test_what_is_no_tensor_has_no_root(wrong: Any) -> None:
    with pytest.raises(MalformedTensor, match=f"{type(wrong).__name__} has none"):
        merkle.tensor_root(wrong)
    with pytest.raises(MalformedTensor, match=f"w: .* {type(wrong).__name__} has none"):
        merkle.state_root({"w": wrong})
