"""A segment's end state is hashed and stored beside the training of the next, and nothing of it is believed before."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from cupel.miner.checkpoints import CheckpointWriter
from cupel.network.ipfs import CHUNK_BYTES, BlockStore
from cupel.network.states import decode_state, encode_in_pieces, encode_state
from cupel.protocol.errors import StorageFailed
from cupel.protocol.merkle import state_root
from cupel.protocol.training.unit import SegmentResult
from cupel.protocol.types import Cid


def result_of(state: Mapping[str, torch.Tensor]) -> SegmentResult:
    return SegmentResult(state=state, loss=b"loss", gradient_norm=b"norm")


def test_a_checkpoint_is_the_states_root_and_its_file_on_disk(tmp_path: Path) -> None:
    state = {"w": torch.arange(200_000.0), "step": torch.tensor(3)}
    with BlockStore(tmp_path) as store:
        writer = CheckpointWriter(lambda s, pin: store.add_chunks(encode_in_pieces(s, CHUNK_BYTES), pin=pin))
        checkpoint = writer.begin(4, result_of(state), "unit/1")
        answer, cid = checkpoint.wait()
        writer.close()
        assert (checkpoint.segment, checkpoint.is_done) == (4, True)
        assert (answer.end_root, answer.loss, answer.gradient_norm) == (state_root(state), b"loss", b"norm")
        assert store.pins() == {"unit/1": cid}
        assert store.read(cid) == encode_state(state)
        assert state_root(decode_state(store.read(cid))) == answer.end_root


def test_training_goes_on_while_a_checkpoint_is_stored_and_they_are_stored_in_turn() -> None:
    may_go_on, stored = threading.Event(), []

    def put(state: Mapping[str, torch.Tensor], pin: str) -> Cid:
        assert may_go_on.wait(30)
        stored.append(pin)
        return Cid(pin)

    writer = CheckpointWriter(put)
    first, second = (writer.begin(n, result_of({"w": torch.zeros(1)}), str(n)) for n in range(2))
    assert not first.is_done
    may_go_on.set()
    assert second.wait()[1] == "1"
    assert stored == ["0", "1"]
    writer.close()
    writer.close()


def test_a_checkpoint_that_cannot_be_stored_says_so_to_whoever_waits_and_the_next_is_stored() -> None:
    def put(state: Mapping[str, torch.Tensor], pin: str) -> Cid:
        if pin == "full":
            raise StorageFailed("no room left on this disk")
        return Cid(pin)

    writer = CheckpointWriter(put)
    failed, other = writer.begin(0, result_of({}), "full"), writer.begin(1, result_of({}), "fine")
    with pytest.raises(StorageFailed, match="no room"):
        failed.wait()
    assert other.wait()[1] == "fine"
    writer.close()


class Collected(Mapping[str, torch.Tensor]):
    """A state that is elsewhere until somebody looks, as worker processes keep it."""

    def __init__(self) -> None:
        self.looked_by: set[int] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.looked_by.add(threading.get_ident())
        return torch.ones(2)

    def __iter__(self) -> Iterator[str]:
        return iter(("w",))

    def __len__(self) -> int:
        return 1


def test_a_state_that_is_elsewhere_is_collected_by_whoever_trains() -> None:
    state = Collected()
    writer = CheckpointWriter(lambda s, pin: Cid(pin))
    answer, _ = writer.begin(0, result_of(state), "w").wait()
    writer.close()
    assert state.looked_by == {threading.get_ident()}
    assert answer.end_root == state_root({"w": torch.ones(2)})
