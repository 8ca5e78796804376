"""Blocks that vanish: noticed by parent hash at any depth, and what was in them gets in again. On both chains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH, KEYS, ChainProcess
from chain_worlds import BOTH, AnvilChain, Chain, open_chain, undo_from
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from rpc_faults import FaultyRpc, wait_until

from cupel.chain.abi import bind_transfer
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.heads import FILLED_HASHES, KEPT_HASHES, HeadTracker, Look
from cupel.chain.keys import LocalSigner, make_key
from cupel.chain.outbox import State
from cupel.chain.values import Block
from cupel.protocol.errors import Unavailable
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address, Height, Wei


@pytest.fixture(scope="module", params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with open_chain(request.param, tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def key(chain: Chain) -> LocalSigner:
    """A fresh key, funded in a block no test undoes."""
    fresh = make_key()
    funder = ChainClient(chain.url, KEYS[0], poll_seconds=0.02, outbox=Outbox())
    receipt = funder.transfer(fresh.address, ETH)
    funder.wait_for_block(receipt.block_number + 12)
    return fresh


@pytest.fixture
def target() -> Address:
    return Address(to_checksum_address(make_key().address))


def connect(chain: Chain, key: LocalSigner, **settings: Any) -> ChainClient:
    return ChainClient(chain.url, key, **({"poll_seconds": 0.02, "outbox": Outbox()} | settings))


def get_balance(chain: Chain, address: Address) -> int:
    return int(chain.ask("eth_getBalance", address, "latest"), 16)


def look_until_reorg(tracker: HeadTracker) -> Look:
    looks: list[Look] = []

    def is_noticed() -> bool:
        looks.append(tracker.look())
        return looks[-1].reorg_depth > 0

    wait_until(is_noticed, what="the re-org")
    return looks[-1]


@pytest.mark.parametrize("depth", range(1, 11))
def test_a_reorg_is_noticed_with_its_depth(chain: Chain, depth: int) -> None:
    client = ChainClient(chain.url, poll_seconds=0.02)
    client.wait_for_block(12)
    tracker = HeadTracker(client)
    tracker.look()
    for _ in range(3):
        client.wait_for_block(client.head().number + 1)
        assert tracker.look().reorg_depth == 0
    seen = tracker.look().head
    chain.reorg(client.head().number - seen.number + depth, keep_transactions=False)
    look = look_until_reorg(tracker)
    assert (look.reorg_depth, look.is_deeper) == (depth, False)
    assert client.get_block_by_hash(seen.hash) is None or client.get_block(seen.number) != seen
    assert tracker.look().reorg_depth == 0, "told once"


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_what_a_reorg_threw_out_is_sent_again_as_it_was(
    chain: Chain, key: LocalSigner, target: Address, depth: int
) -> None:
    said: list[str] = []
    client = connect(chain, key, notify=said.append)
    receipt = client.transfer(target, 7)
    client.wait_for_block(receipt.block_number + depth - 1)
    undo_from(chain, receipt.block_number)
    wait_until(lambda: get_balance(chain, target) == 7, what="the transfer's return")
    (entry,) = client.list_pending()
    assert [version.hash for version in entry.signed] == [receipt.transaction_hash]
    wait_until(lambda: client.list_pending()[0].state is State.MINED, what="its block")
    assert client.list_pending()[0].block_hash != receipt.block_hash
    assert any("is in no block any more: sent again" in one for one in said)
    client.close()


def test_a_transaction_that_moves_to_another_block_is_followed(chain: Chain, key: LocalSigner, target: Address) -> None:
    client = connect(chain, key)
    receipt = client.transfer(target, 7)
    undo_from(chain, receipt.block_number, keep_transactions=True)
    wait_until(
        lambda: (
            client.list_pending()[0].state is State.MINED and client.list_pending()[0].block_hash != receipt.block_hash
        ),
        what="the other block",
    )
    assert get_balance(chain, target) == 7
    client.close()


def test_whoever_waits_for_a_depth_is_not_told_before_a_reorg_is_over(
    chain: Chain, key: LocalSigner, target: Address
) -> None:
    client = connect(chain, key, receipt_depth=6)
    sent = client.submit(bind_transfer(target), value_wei=7)
    wait_until(lambda: get_balance(chain, target) == 7, what="the first block")
    chain.reorg(2, keep_transactions=False)
    receipt = client.wait(sent)
    block = client.get_block(receipt.block_number)
    assert block is not None
    assert block.hash == receipt.block_hash
    assert client.head().number >= receipt.block_number + 5
    assert get_balance(chain, target) == 7
    client.close()


def test_a_row_of_transactions_survives_a_reorg_in_order(chain: Chain, key: LocalSigner, target: Address) -> None:
    client = connect(chain, key)
    receipts = [client.transfer(target, value) for value in (1, 2, 4, 8)]
    undo_from(chain, receipts[0].block_number)
    wait_until(lambda: get_balance(chain, target) == 15, what="all of them")
    assert int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16) == 4
    client.close()


def test_a_process_that_was_dead_during_a_reorg_takes_up_what_it_lost(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    first = connect(chain, key, outbox=Outbox(tmp_path / "outbox.sqlite3"))
    receipt = first.transfer(target, 7)
    first.close()
    wait_until(lambda: not any_alive(first), what="the end of the watch")
    undo_from(chain, receipt.block_number)
    second = connect(chain, key, outbox=Outbox(tmp_path / "outbox.sqlite3"))
    second.recover()
    wait_until(lambda: get_balance(chain, target) == 7, what="the transfer's return")
    second.close()


def any_alive(client: ChainClient) -> bool:
    return any(keeper.is_alive() for keeper in client._need_sender().state.keepers.values())


def test_finality_on_a_chain_that_allows_reorgs_is_never_undone(tmp_path: Path) -> None:
    with open_chain("embedded", tmp_path, block_time_s=0.02) as chain:
        client = ChainClient(chain.url, poll_seconds=0.02)
        assert client.get_final_height() == 0
        head = client.wait_for_block(40)
        final = client.get_block("finalized")
        assert final is not None
        assert head.number - 32 <= final.number <= client.get_final_height()
        with pytest.raises(AssertionError, match="from 1 to 32 blocks can be undone"):
            chain.reorg(33, keep_transactions=False)
        chain.reorg(32, keep_transactions=False)
        assert client.get_block(final.number) == final


# The embedded chain's own side of it


def test_reorgs_are_not_served_unless_allowed(tmp_path: Path) -> None:
    with ChainProcess(tmp_path) as chain:
        assert chain.refuse("cupel_reorg", 1)["code"] == -32601
        assert chain.ask("eth_getBlockByNumber", "finalized", False) is not None
        client = ChainClient(chain.url)
        assert client.get_final_height() >= client.head().number - 1


def test_a_reorg_gives_other_hashes_and_beacons_and_the_head_does_not_go_down(tmp_path: Path) -> None:
    with open_chain("embedded", tmp_path, block_time_s=0.2) as chain:
        client = ChainClient(chain.url, poll_seconds=0.02)
        client.wait_for_block(6)
        before = {number: client.get_block(number) for number in range(7)}
        head = client.head()
        chain.reorg(head.number - 3, keep_transactions=False)
        assert client.head().number >= head.number
        for number, old in before.items():
            new = client.get_block(number)
            assert old is not None
            assert new is not None
            assert (new.hash == old.hash) == (new.beacon == old.beacon) == (number <= 3)
            if number:
                parent = client.get_block(number - 1)
                assert parent is not None
                assert new.parent_hash == parent.hash
            assert keccak256(client.get_header(number)) == new.hash


def test_what_was_undone_is_gone_from_every_answer(tmp_path: Path) -> None:
    with open_chain("embedded", tmp_path, block_time_s=0.1) as chain:
        client = ChainClient(chain.url, KEYS[0], poll_seconds=0.02, outbox=Outbox())
        nonce = chain.ask("eth_getTransactionCount", KEYS[0].address, "latest")
        receipt = client.transfer(KEYS[1].address, 5)
        client.close()
        wait_until(lambda: not any_alive(client), what="the end of the watch")
        undo_from(chain, receipt.block_number)
        assert chain.ask("eth_getTransactionReceipt", f"0x{receipt.transaction_hash.hex()}") is None
        assert chain.ask("eth_getTransactionByHash", f"0x{receipt.transaction_hash.hex()}") is None
        assert chain.ask("eth_getBlockByHash", f"0x{receipt.block_hash.hex()}", False) is None
        assert chain.ask("eth_getTransactionCount", KEYS[0].address, "pending") == nonce


# The tracker alone, against a model


class ModelChain:
    """A chain as a list of blocks, re-organised at will."""

    def __init__(self) -> None:
        self.blocks = [self.make(0, bytes(32))]
        self.count = 0

    def make(self, number: int, parent: bytes) -> Block:
        self.count = getattr(self, "count", 0) + 1
        return Block(
            number=Height(number), hash=keccak256(b"%d %d" % (number, self.count)), parent_hash=parent,
            timestamp=number, base_fee_wei=Wei(1), gas_limit=1, gas_used=0, beacon=b"",
        )  # fmt: skip

    def grow(self, count: int) -> None:
        for _ in range(count):
            self.blocks.append(self.make(len(self.blocks), self.blocks[-1].hash))

    def undo(self, count: int) -> None:
        del self.blocks[len(self.blocks) - count :]

    def head(self) -> Block:
        return self.blocks[-1]

    def get_block(self, number: Height | int | str) -> Block | None:
        assert isinstance(number, int)
        return self.blocks[number] if number < len(self.blocks) else None

    def get_block_by_hash(self, block_hash: bytes) -> Block | None:
        return next((block for block in self.blocks if block.hash == block_hash), None)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-1, 5)), max_size=12), st.randoms(use_true_random=False))
def test_every_reorg_between_two_looks_is_told_with_its_depth(
    steps: list[tuple[int, int]], chance: random.Random
) -> None:
    chain = ModelChain()
    chain.grow(50)
    tracker = HeadTracker(chain)
    tracker.look()
    for lost, longer in steps:
        known, gained = chain.head(), max(1, lost + longer)
        chain.undo(lost)
        chain.grow(gained)
        look = tracker.look()
        assert look.reorg_depth == lost
        assert look.head == chain.head()
        assert not look.is_deeper
        if chance.random() < 0.5:
            assert tracker.look().reorg_depth == 0
        assert known.number - lost + gained == look.head.number


def test_a_node_that_lags_is_no_reorg_until_it_lasts() -> None:
    now = [0.0]
    chain = ModelChain()
    chain.grow(20)
    tracker = HeadTracker(chain, shorter_patience_s=10, clock=lambda: now[0])
    top = tracker.look().head
    lost = chain.blocks[-3:]
    chain.undo(3)
    assert tracker.look() == Look(head=top, reorg_depth=0, is_deeper=False)
    now[0] = 9.0
    chain.blocks += lost
    assert tracker.look().reorg_depth == 0
    chain.undo(3)
    assert tracker.look().reorg_depth == 0
    now[0] = 20.0
    look = tracker.look()
    assert (look.reorg_depth, look.head.number) == (3, 17)


def test_a_reorg_deeper_than_remembered_is_told_as_such() -> None:
    chain = ModelChain()
    tracker = HeadTracker(chain)
    for _ in range(200):
        chain.grow(1)
        tracker.look()
    chain.undo(KEPT_HASHES)
    chain.grow(KEPT_HASHES + 1)
    assert tracker.look() == Look(head=chain.head(), reorg_depth=KEPT_HASHES, is_deeper=True)
    chain.grow(1)
    assert tracker.look().reorg_depth == 0


def test_after_a_long_pause_depths_are_still_known() -> None:
    chain = ModelChain()
    tracker = HeadTracker(chain)
    tracker.look()
    chain.grow(5000)
    assert tracker.look().reorg_depth == 0
    chain.undo(FILLED_HASHES - 2)
    chain.grow(FILLED_HASHES)
    assert tracker.look().reorg_depth == FILLED_HASHES - 2


def test_nodes_that_contradict_one_another_are_told_not_believed() -> None:
    class Torn(ModelChain):
        def get_block_by_hash(self, block_hash: bytes) -> Block | None:
            return None

    chain = Torn()
    tracker = HeadTracker(chain)
    tracker.look()
    chain.grow(5)
    with pytest.raises(Unavailable, match="do not lead to one another"):
        tracker.look()


@pytest.mark.node
def test_a_rollback_on_anvil_is_noticed_when_the_chain_grows_again(tmp_path: Path) -> None:
    with open_chain("anvil", tmp_path) as chain:
        assert isinstance(chain, AnvilChain)
        client = ChainClient(chain.url, poll_seconds=0.02)
        client.wait_for_block(10)
        tracker = HeadTracker(client)
        seen = tracker.look().head
        chain.ask("anvil_rollback", 4)
        look = look_until_reorg(tracker)
        # Blocks it made between our look and the rollback were not known to us.
        assert 1 <= look.reorg_depth <= 4
        assert client.get_block(seen.number) != seen


def test_an_endpoint_a_little_behind_is_no_reorg(chain: Chain) -> None:
    with FaultyRpc(chain.url) as proxy:
        client = ChainClient(proxy.url, poll_seconds=0.02)
        client.wait_for_block(8)
        tracker = HeadTracker(client)
        seen = tracker.look().head
        proxy.lag_blocks = 4
        for _ in range(5):
            look = tracker.look()
            assert look.reorg_depth == 0
            assert look.head.number >= seen.number
