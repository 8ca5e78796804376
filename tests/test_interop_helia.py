"""Helia, IPFS in JavaScript, reads our blocks, and we read its: the same names and the same bytes, both ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_process import NodeScript, made_up_bytes
from ipfs_peers import peer, says

from cupel.network.ipfs import CHUNK_BYTES, BlockStore, Fetcher, FetchLimits, GatewayServer, cid_of
from cupel.network.ipfs.car import car_header, car_section, read_car
from cupel.network.ipfs.unixfs import LINKS_PER_NODE, walk_file

pytestmark = [pytest.mark.node, pytest.mark.timeout(1200)]

TWO_LEVELS = LINKS_PER_NODE * CHUNK_BYTES + 1
"""45,613,057 bytes: one more than a single node can hold."""
SIZES = [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7, TWO_LEVELS - 1, TWO_LEVELS]


class Helia:
    def __init__(self, script: NodeScript, url: str) -> None:
        self.ask, self.url = script.ask, url


@pytest.fixture(scope="module")
def helia() -> Iterator[Helia]:
    with NodeScript("helia_peer.mjs") as script:
        yield Helia(script, json.loads(script.read_line())["url"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path / "store") as store:
        yield store


@pytest.mark.parametrize("size", SIZES)
def test_both_name_a_file_alike(helia: Helia, size: int) -> None:
    assert helia.ask(do="add", size=size, seed="name")["cid"] == cid_of(made_up_bytes("name", size))


@pytest.mark.parametrize("size", SIZES)
def test_helia_reads_what_we_serve(helia: Helia, store: BlockStore, size: int) -> None:
    data = made_up_bytes("ours", size)
    with GatewayServer(store) as server:
        answer = helia.ask(do="read", cid=store.add_bytes(data), gateway=server.url)
    assert answer == {"size": size, "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_we_read_what_helia_serves(helia: Helia, store: BlockStore, size: int, archives: bool) -> None:
    cid = helia.ask(do="add", size=size, seed="theirs")["cid"]
    with Fetcher(store, [helia.url], limits=FetchLimits(archives=archives)) as fetcher:
        assert fetcher.fetch(cid) == made_up_bytes("theirs", size)


@pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1, TWO_LEVELS])
def test_we_read_an_archive_that_helia_wrote(helia: Helia, tmp_path: Path, size: int) -> None:
    cid, path = helia.ask(do="add", size=size, seed="car")["cid"], tmp_path / "file.car"
    helia.ask(do="export", cid=cid, path=str(path))
    blocks = dict(read_car([path.read_bytes()], cid))
    content = (block for part, block in walk_file(cid, lambda c: blocks[c]) if part.codec == 0x55)
    assert b"".join(content) == made_up_bytes("car", size)


@pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1, TWO_LEVELS])
def test_helia_takes_an_archive_that_we_wrote(helia: Helia, store: BlockStore, tmp_path: Path, size: int) -> None:
    data, path = made_up_bytes(f"our car {size}", size), tmp_path / "file.car"
    cid = store.add_bytes(data)
    sections = dict(walk_file(cid, store.require))
    path.write_bytes(car_header(cid) + b"".join(car_section(part, block) for part, block in sections.items()))
    assert helia.ask(do="import", path=str(path)) == {"roots": [cid]}
    assert all(helia.ask(do="has", cid=str(part))["has"] for part in sections)
    with BlockStore(tmp_path / "back") as back, Fetcher(back, [helia.url]) as fetcher:
        assert fetcher.fetch(cid) == data


def test_helia_refuses_a_block_that_is_not_what_its_name_says(helia: Helia, store: BlockStore) -> None:
    cid = store.add_bytes(b"the truth")
    lie = says(b"a lie", extra="Content-Type: application/vnd.ipld.raw\r\n")
    with peer(lie) as liar, pytest.raises(AssertionError, match="error"):
        helia.ask(do="read", cid=cid, gateway=liar)
