"""Blocks added at once, for the demo's end: a chain like any other afterwards, and nothing that anybody can ask for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from chain_process import KEYS, ChainProcess

from cupel.chain.client import ChainClient
from cupel.chain.suitability import find_chain_problem, look_at_beacon


def test_blocks_are_not_skipped_unless_allowed(tmp_path: Path) -> None:
    with ChainProcess(tmp_path) as chain:
        assert chain.refuse("cupel_skip", "0x1")["code"] == -32601


def test_skipped_blocks_are_whole_survive_a_kill_and_the_chain_goes_on_from_them(tmp_path: Path) -> None:
    with ChainProcess(tmp_path, "--allow-skip", block_time_s=0.2) as chain:
        client = ChainClient(chain.url, KEYS[0], poll_seconds=0.05)
        before = client.wait_for_block(2)
        top = int(chain.ask("cupel_skip", hex(200))["number"], 16)
        assert top >= before.number + 200
        chain.kill()
        chain.start()
        blocks = [client.get_block(height) for height in range(before.number, top + 1)]
        for parent, child in pairwise(blocks):
            assert parent is not None
            assert child is not None
            assert child.parent_hash == parent.hash
            assert child.timestamp > parent.timestamp
        view = look_at_beacon(client)
        assert view.distinct == view.blocks
        assert find_chain_problem(client) is None
        assert client.transfer(KEYS[1].address, 1).block_number > top
        client.close()


@pytest.mark.parametrize("count", ["0x0", "0x101", 3])
def test_so_many_blocks_are_refused(tmp_path: Path, count: object) -> None:
    with ChainProcess(tmp_path, "--allow-skip") as chain:
        assert chain.refuse("cupel_skip", count)["code"] in (-32602, -32000)
