"""A state that a peer serves is used only if it is what was promised, whatever its numbers are."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cupel.network.ipfs import BlockStore, Fetcher, GatewayServer
from cupel.network.states import encode_state
from cupel.node.states import States
from cupel.protocol.errors import MalformedTensor, RootMismatch
from cupel.protocol.merkle import state_root
from cupel.protocol.training.state import NamedState

NAN = 0x7FC00000
PIN = "replay/0/x/1"


def state_of(*words: int) -> NamedState:
    """One tensor of these bit patterns."""
    data = bytearray(b"".join(struct.pack("<I", word) for word in words))
    return {"weights.a": torch.frombuffer(data, dtype=torch.float32)}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[BlockStore, BlockStore, States]]:
    """A peer's store, ours, and our states, which come from that peer."""
    with (
        BlockStore(tmp_path / "theirs") as theirs,
        GatewayServer(theirs) as server,
        BlockStore(tmp_path / "ours") as ours,
        Fetcher(ours, [server.url]) as fetcher,
    ):
        yield theirs, ours, States(ours, fetcher, 1 << 12)


@pytest.mark.parametrize("word", [0x7FC00001, 0xFFC00000, 0x7F800001, 0xFF800001])
def test_a_nan_of_other_bits_is_malformed_and_not_kept(
    served: tuple[BlockStore, BlockStore, States], word: int
) -> None:
    theirs, ours, states = served
    cid = theirs.add_bytes(encode_state(state_of(0, word)))
    with pytest.raises(MalformedTensor, match="NaN"):
        states.get("checkpoint", cid, state_root(state_of(0, NAN)), PIN)
    assert ours.pins() == {}


@pytest.mark.parametrize("word", [NAN, 0x7F800000, 0xFF800000])
def test_the_one_nan_and_infinities_are_numbers_like_others_and_the_root_decides(
    served: tuple[BlockStore, BlockStore, States], word: int
) -> None:
    theirs, ours, states = served
    cid = theirs.add_bytes(encode_state(state_of(0, word)))
    with pytest.raises(RootMismatch, match="checkpoint"):
        states.get("checkpoint", cid, state_root(state_of(0, 1)), PIN)
    assert ours.pins() == {}
    got = states.get("checkpoint", cid, state_root(state_of(0, word)), PIN)
    assert state_root(got) == state_root(state_of(0, word))
    assert ours.pins() == {PIN: cid}
