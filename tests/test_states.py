"""States as safetensors: one file for each state, and nothing but such files is read."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.network.states import StateLimits, check_state_root, decode_state, encode_in_pieces, encode_state
from cupel.protocol.errors import MalformedInput, MalformedTensor, RootMismatch
from cupel.protocol.merkle import state_root
from cupel.protocol.types import Root

DTYPES = [torch.float32, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]


def example_state() -> dict[str, torch.Tensor]:
    bits = torch.tensor([0x7FC00000, 1, -(1 << 31), 0x7F800000, 0x00800000, 0x3F800000], dtype=torch.int32)
    return {
        "weights.embedding": bits.view(torch.float32).reshape(2, 3),
        "step": torch.tensor(1 << 62, dtype=torch.int64),
        "mask": torch.tensor([True, False, True]),
        "b.ü": torch.arange(5, dtype=torch.int16),
        "empty": torch.empty((0, 4)),
        "bytes": torch.tensor([255, 0], dtype=torch.uint8),
        "small": torch.tensor([-128], dtype=torch.int8),
        "tokens": torch.tensor([[7]], dtype=torch.int32),
    }


def spelled(table: object, body: bytes = b"") -> bytes:
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def test_a_state_comes_back_to_the_last_bit() -> None:
    state = example_state()
    back = decode_state(encode_state(state))
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert encode_state({name: back[name]}) == encode_state({name: tensor})
    assert back["weights.embedding"].view(torch.int32)[0, 1] == 1
    assert state_root(back) == state_root(state)


def test_the_file_is_the_one_the_library_writes_and_reads() -> None:
    state = example_state()
    data = encode_state(state)
    assert data == safetensors.torch.save(state)
    assert encode_state(safetensors.torch.load(data)) == data


@pytest.mark.parametrize("size", [1, 7, 64, 4096, 1 << 20])
def test_the_pieces_of_a_file_are_the_file(size: int) -> None:
    state = example_state() | {"long": torch.arange(3000.0)}
    pieces = list(encode_in_pieces(state, size))
    assert b"".join(pieces) == encode_state(state)
    assert {len(piece) for piece in pieces[:-1]} <= {size}
    assert 0 < len(pieces[-1]) <= size


def test_the_bytes_do_not_depend_on_order_or_layout() -> None:
    state = example_state()
    turned = {name: state[name] for name in reversed(state)}
    turned["weights.embedding"] = state["weights.embedding"].t().contiguous().t()
    assert not turned["weights.embedding"].is_contiguous()
    assert encode_state(turned) == encode_state(state)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 1)),
        max_size=8,
    )
)
def test_every_state_has_the_librarys_file_and_round_trips(
    described: dict[str, tuple[torch.dtype, list[int], int]],
) -> None:
    state = {name: torch.full(shape, value, dtype=dtype) for name, (dtype, shape, value) in described.items()}
    data = encode_state(state)
    assert data == safetensors.torch.save(state)
    assert encode_state(decode_state(data)) == data


def test_tensors_are_views_of_a_writable_buffer() -> None:
    buffer = bytearray(encode_state({"w": torch.zeros(4)}))
    tensor = decode_state(buffer)["w"]
    buffer[-4:] = b"\x00\x00\x80\x3f"
    assert tensor[3] == 1.0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_has_another_root(data: st.DataObject) -> None:
    state = example_state()
    spoilt = bytearray(encode_state(state))
    at = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((MalformedInput, RootMismatch)):
        check_state_root("the state", decode_state(spoilt), state_root(state))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 80))
def test_no_bytes_do_worse_than_being_refused(noise: bytes, length: int) -> None:
    for data in (noise, length.to_bytes(8, "little") + noise):
        with pytest.raises(MalformedInput):
            decode_state(data)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "header", id="nothing"),
        pytest.param((1 << 63).to_bytes(8, "little") + b"{}", "header of", id="header of 2^63 bytes"),
        pytest.param((8).to_bytes(8, "little") + b"{", "header of", id="header cut short"),
        pytest.param((8).to_bytes(8, "little") + b"[" * 8, "not JSON", id="not JSON"),
        pytest.param((100_000).to_bytes(8, "little") + b"[" * 100_000, "not JSON", id="deeply nested"),
        pytest.param(spelled([]), "table", id="not a table"),
        pytest.param(spelled({"w": 1}), "described", id="not described"),
        pytest.param(spelled({"w": {**F32, "dtype": "F64"}}, bytes(4)), "type 'F64'", id="type without a root"),
        pytest.param(spelled({"w": {**F32, "shape": [1.0]}}, bytes(4)), "whole numbers", id="fractional shape"),
        pytest.param(spelled({"w": {**F32, "shape": [-1]}}, bytes(4)), "no tensor has", id="negative shape"),
        pytest.param(
            spelled({"w": {**F32, "shape": [1 << 40] * 9}}, bytes(4)), "no tensor has", id="too many dimensions"
        ),
        pytest.param(spelled({"w": {**F32, "shape": [True]}}, bytes(4)), "whole numbers", id="a bool for a size"),
        pytest.param(spelled({"w": F32}, bytes(3)), "3 follow", id="cut short"),
        pytest.param(spelled({"w": F32}, bytes(5)), "5 follow", id="bytes left over"),
        pytest.param(
            spelled({"w": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}), "0 follow", id="huge"
        ),
        pytest.param(spelled({"a": F32, "b": F32}, bytes(4)), "one spelling", id="overlap"),
        pytest.param(spelled({"w": {**F32, "data_offsets": [4, 8]}}, bytes(8)), "one spelling", id="gap"),
        pytest.param(spelled({"w": {**F32, "more": 1}}, bytes(4)), "one spelling", id="further field"),
        pytest.param(spelled({"__metadata__": {"k": "v"}}), "type", id="metadata"),
        pytest.param(spelled({"__metadata__": F32}, bytes(4)), "metadata", id="a tensor named as metadata"),
        pytest.param(
            spelled({"b": F32, "a": {**F32, "data_offsets": [4, 8]}}, bytes(8)), "one spelling", id="names out of order"
        ),
        pytest.param(spelled({"n" * 1025: F32}, bytes(4)), "1,025 bytes", id="long name"),
        pytest.param(spelled({"\ud800": F32}, bytes(4)), "UTF-8", id="half a character"),
    ],
)
def test_a_hostile_file_is_refused_in_plain_words(data: bytes, says: str) -> None:
    with pytest.raises(MalformedInput, match=says):
        decode_state(data)


def test_a_header_naming_a_tensor_twice_is_refused() -> None:
    one = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f"{{{one},{one}}}".encode()
    text += b" " * (-len(text) % 8)
    with pytest.raises(MalformedInput, match="one spelling"):
        decode_state(len(text).to_bytes(8, "little") + text + bytes(4))


def test_more_tensors_than_the_limit_are_refused() -> None:
    data = encode_state({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(MalformedInput, match="at most 1 tensors"):
        decode_state(data, StateLimits(tensors=1))


def test_a_bool_that_is_neither_0_nor_1_is_refused() -> None:
    data = bytearray(encode_state({"mask": torch.tensor([True])}))
    data[-1] = 2
    with pytest.raises(MalformedTensor, match="neither 0 nor 1"):
        decode_state(data)


def test_a_type_without_a_root_is_not_written() -> None:
    with pytest.raises(MalformedInput, match="float64"):
        encode_state({"w": torch.zeros(1, dtype=torch.float64)})


def test_a_state_of_another_root_is_named_with_both_roots() -> None:
    state = example_state()
    other = Root(bytes(32))
    with pytest.raises(RootMismatch, match="start of unit 7") as caught:
        check_state_root("start of unit 7", state, other)
    assert (caught.value.expected, caught.value.got) == (other, state_root(state))
