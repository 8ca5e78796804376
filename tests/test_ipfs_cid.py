"""CIDs, layout and nodes are those of `ipfs add --cid-version=1 --raw-leaves`, and nothing else is read."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.network.ipfs import CHUNK_BYTES, LINKS_PER_NODE, MAX_BLOCK_BYTES, Codec, ParsedCid, check_block, cid_of
from cupel.network.ipfs.cid import parse_cid, read_varint, write_varint
from cupel.network.ipfs.dagpb import FileNode, Link
from cupel.network.ipfs.unixfs import MAX_DEPTH, Part, Walk, build_file, walk_file
from cupel.protocol.errors import MalformedBlock, MalformedInput

EMPTY = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"

# Roots of stream(size), given by ipfs-unixfs-importer 17.1.1 (JavaScript), with raw leaves, CIDv1 and a balanced
# layout. py-libp2p 0.8.1's `balanced_layout` gives the same where no level ends in a group of one: that one it
# carries up bare, which Kubo does not.
GOLDEN = [
    (0, CHUNK_BYTES, 174, EMPTY),
    (1, CHUNK_BYTES, 174, "bafkreic2nz5eovfprz7up7eusmca3bj6pma6hhktpsy52nj4so324whlhu"),
    (262144, CHUNK_BYTES, 174, "bafkreiaqvmtqltef4yrmjn237esoqzwbgfwbjrrrbpsr3qctlxgvlm62me"),
    (262145, CHUNK_BYTES, 174, "bafybeicml3tuikq2go6eoyfpwdbykmev4a5nfam3hmkvce4xs6ilkyvkxi"),
    (786437, CHUNK_BYTES, 174, "bafybeieo4ibpitl23bumpovh4hpsu22cz3bhrdrocha75zfch6nder2dqa"),
    (5000000, CHUNK_BYTES, 174, "bafybeihererc3wjtgqbc6xt643xpnsshi4ltobvsx63pprhdq57emwo3qu"),
    (45613056, CHUNK_BYTES, 174, "bafybeidf3mza7quxvcyimhuactgvoawsutzsfi24cflrh3gqgrqwiggprq"),
    (45613057, CHUNK_BYTES, 174, "bafybeief5hxfbzqgcdvao6zzuky7tlnenazc4hfbiuguyhmcel24r2r7q4"),
    (62914560, CHUNK_BYTES, 174, "bafybeier7qe4a5zx3ulut67e6v6fxrtdfjoqjnmx736xk37ssxch3kly5a"),
    (1937664, 64, 174, "bafybeif7p3rb5lybyggey2xpdsvbhgcp432zv4h6k3dh5xkzka7g56dkgq"),
    (1937728, 64, 174, "bafybeihij6jfvmoq2xwx2wqhqhjfgjpzn66bwzdrspcpd7tuwig66xu5vm"),
    (1729, 64, 3, "bafybeidorjzdnwpru4zw6ijkaqxbfpxm6fptldax6vprvhajp6emtalqyu"),
    (1792, 64, 3, "bafybeievilwvzhawswwjq2ipfwn5wo4edzfmseemf635dai7lajwwxxede"),
    (5248, 64, 3, "bafybeibselrmh426www73eisxj7rhx45rdb2a4phhfzdd3elsok52ocpve"),
]


@pytest.fixture(scope="module")
def stream() -> bytes:
    """60 MiB that any language can repeat: SHA-256 of 0, 1, 2... as 8 bytes little-endian, one after the other."""
    return b"".join(hashlib.sha256(i.to_bytes(8, "little")).digest() for i in range((60 << 20) // 32))


def blocks_of(data: bytes, chunk: int, links: int) -> tuple[ParsedCid, dict[ParsedCid, bytes]]:
    blocks: dict[ParsedCid, bytes] = {}
    chunks = (data[at : at + chunk] for at in range(0, len(data), chunk))
    return build_file(chunks, blocks.__setitem__, links_per_node=links), blocks


@pytest.mark.parametrize(
    ("data", "cid"),
    [
        (b"", EMPTY),
        (b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
    ],
)
def test_published_cids(data: bytes, cid: str) -> None:
    assert cid_of(data) == cid


@pytest.mark.parametrize(("size", "chunk", "links", "cid"), GOLDEN)
def test_roots_are_those_of_an_independent_importer(stream: bytes, size: int, chunk: int, links: int, cid: str) -> None:
    data = stream[:size]
    assert blocks_of(data, chunk, links)[0].text == cid
    if (chunk, links) == (CHUNK_BYTES, LINKS_PER_NODE):
        assert cid_of(data) == cid


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600), st.integers(1, 40), st.integers(2, 5))
def test_a_file_reads_back_from_its_blocks(data: bytes, chunk: int, links: int) -> None:
    root, blocks = blocks_of(data, chunk, links)
    for cid, block in blocks.items():
        check_block(cid, block)
    read = b"".join(block for cid, block in walk_file(root, blocks.__getitem__) if cid.codec == Codec.RAW)
    assert read == data


@given(st.binary(min_size=32, max_size=32), st.sampled_from(Codec))
def test_a_cid_has_one_spelling(digest: bytes, codec: Codec) -> None:
    cid = ParsedCid(codec, digest)
    assert parse_cid(cid.text) == cid
    assert ParsedCid.from_bytes(cid.to_bytes()) == cid
    with pytest.raises(MalformedInput):
        parse_cid(cid.text.upper())


def text_of(data: bytes) -> str:
    return "b" + base64.b32encode(data).decode().rstrip("=").lower()


@pytest.mark.parametrize(
    ("cid", "says"),
    [
        ("", "not a CID"),
        ("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR", "version 0"),
        (EMPTY.upper(), "not a CID"),
        ("z" + EMPTY, "not a CID"),
        (EMPTY[:-1], "whole base32|32 bytes"),
        (EMPTY + "a", "whole base32|32 bytes|canonical"),
        (EMPTY[:-1] + "v", "canonical"),
        (EMPTY[:9] + "1" + EMPTY[10:], "a-z and 2-7"),
        (EMPTY[:9] + "é" + EMPTY[10:], "a-z and 2-7"),
        ("b" + "a" * 10_000, "10001 characters"),
        ("bafkqaaa", "identity"),
        (text_of(b"\x02\x55\x12\x20" + bytes(32)), "version 2"),
        (text_of(b"\x01\x71\x12\x20" + bytes(32)), "codec 0x71"),
        (text_of(b"\x01\x55\x13\x40" + bytes(64)), "function 0x13"),
        (text_of(b"\x01\x55\x12\x1f" + bytes(31)), "32 bytes"),
        (text_of(b"\x01\x55\x12\x20" + bytes(33)), "32 bytes"),
        (text_of(b"\x81\x00\x55\x12\x20" + bytes(32)), "longer than its value"),
        (text_of(b"\xff" * 12), "63 bits"),
        (text_of(b"\x01\x55"), "cut short"),
    ],
)
def test_what_is_not_such_a_cid_is_refused_in_plain_words(cid: str, says: str) -> None:
    with pytest.raises(MalformedInput, match=says):
        parse_cid(cid)


@given(st.integers(0, (1 << 63) - 1))
def test_varints_round_trip(value: int) -> None:
    written = write_varint(value)
    assert read_varint(written, 0) == (value, len(written))


def test_a_block_that_is_not_the_one_named_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="are bafkrei"):
        check_block(EMPTY, b"x")
    large = bytes(MAX_BLOCK_BYTES + 1)
    with pytest.raises(MalformedBlock, match="limit"):
        check_block(ParsedCid.of(large), large)


# Nodes

LEAF = ParsedCid.of(b"leaf")
NODE = FileNode((Link(LEAF, 4, 4), Link(LEAF, 4, 4)))


def test_a_node_decodes_to_itself() -> None:
    assert FileNode.decode(NODE.encode()) == NODE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_node_that_decodes_is_spelled_canonically(data: st.DataObject) -> None:
    spoilt = bytearray(NODE.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        node = FileNode.decode(bytes(spoilt))
    except MalformedBlock:
        return
    assert node.encode() == spoilt


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_do_worse_to_a_node_than_being_refused(noise: bytes) -> None:
    with pytest.raises(MalformedBlock):
        FileNode.decode(noise)


def message(*fields: tuple[int, bytes | int]) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += bytes([number << 3]) + write_varint(value)
        else:
            out += bytes([number << 3 | 2]) + write_varint(len(value)) + value
    return out


ONE_LINK = message((1, LEAF.to_bytes()), (2, b""), (3, 4))
FILE_OF_ONE = message((1, 2), (3, 4), (4, 4))


@pytest.mark.parametrize(
    ("block", "says"),
    [
        pytest.param(b"", "no UnixFS", id="nothing"),
        pytest.param(message((2, ONE_LINK)), "no UnixFS", id="links alone"),
        pytest.param(message((1, message((1, 1)))), "a directory", id="directory"),
        pytest.param(message((1, message((1, 5)))), "sharded directory", id="sharded directory"),
        pytest.param(message((1, message((1, 4), (2, b"..")))), "symbolic link", id="link"),
        pytest.param(message((1, message((1, 2), (2, b"hi"), (3, 2)))), "raw leaves", id="inline bytes"),
        pytest.param(message((1, message((1, 2), (3, 0)))), "without links", id="no links"),
        pytest.param(message((2, ONE_LINK), (2, ONE_LINK), (1, FILE_OF_ONE)), "2 links but 1", id="a size missing"),
        pytest.param(message((2, ONE_LINK), (1, message((1, 2), (3, 5), (4, 4)))), "states 5 bytes", id="wrong sum"),
        pytest.param(message((2, ONE_LINK), (1, message((1, 2), (3, 0), (4, 0)))), "empty part", id="empty child"),
        pytest.param(message((1, FILE_OF_ONE), (2, ONE_LINK)), "canonically", id="data before links"),
        pytest.param(message((2, ONE_LINK), (1, FILE_OF_ONE), (1, FILE_OF_ONE)), "field 1", id="data twice"),
        pytest.param(message((2, ONE_LINK), (1, FILE_OF_ONE + message((7, 420)))), "canonically", id="a file mode"),
        pytest.param(message((2, message((2, b""), (3, 4))), (1, FILE_OF_ONE)), "without a CID", id="no CID"),
        pytest.param(message((2, message((1, b"\x00"), (3, 4))), (1, FILE_OF_ONE)), "CID version", id="bad CID"),
        pytest.param(
            message((2, message((1, LEAF.to_bytes()), (2, b"name"), (3, 4))), (1, FILE_OF_ONE)), "canonic", id="named"
        ),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", "where 0 are left", id="length past the end"),
        pytest.param(b"\x0d\x00\x00\x00\x00", "wire type 5", id="wire type"),
    ],
)
def test_a_node_that_is_no_plain_file_is_refused(block: bytes, says: str) -> None:
    with pytest.raises(MalformedBlock, match=says):
        FileNode.decode(block)


# Trees built to hurt the reader


def store_node(blocks: dict[ParsedCid, bytes], links: list[Link]) -> ParsedCid:
    block = FileNode(tuple(links)).encode()
    cid = ParsedCid.of(block, Codec.DAG_PB)
    blocks[cid] = block
    return cid


def read_all(root: ParsedCid, blocks: dict[ParsedCid, bytes], max_bytes: int = 1 << 40) -> int:
    return sum(1 for _ in walk_file(root, blocks.__getitem__, max_bytes=max_bytes))


def test_a_child_of_another_length_than_promised_is_refused() -> None:
    blocks = {LEAF: b"leaf"}
    root = store_node(blocks, [Link(LEAF, 5, 5)])
    with pytest.raises(MalformedBlock, match="promised 5"):
        read_all(root, blocks)


def repeated(blocks: dict[ParsedCid, bytes], levels: int) -> ParsedCid:
    """A file of one leaf of 4 bytes, 200^levels times over."""
    cid, size = LEAF, 4
    for _ in range(levels):
        cid, size = store_node(blocks, [Link(cid, size, size)] * 200), size * 200
    return cid


def test_a_tree_that_repeats_its_children_into_terabytes_is_refused() -> None:
    blocks = {LEAF: b"leaf"}
    root = repeated(blocks, 6)
    with pytest.raises(MalformedBlock, match="at most 1,000,000 are taken"):
        read_all(root, blocks, max_bytes=1_000_000)


def test_a_tree_of_more_blocks_than_its_bytes_need_is_refused() -> None:
    blocks = {LEAF: b"leaf"}
    root = repeated(blocks, 2)
    with pytest.raises(MalformedBlock, match="more blocks than 160,000 bytes can need"):
        read_all(root, blocks)


def test_a_tree_too_deep_is_refused() -> None:
    blocks = {LEAF: b"leaf"}
    cid = LEAF
    for _ in range(MAX_DEPTH + 1):
        cid = store_node(blocks, [Link(cid, 4, 4)])
    with pytest.raises(MalformedBlock, match="levels"):
        read_all(cid, blocks)


def test_a_leaf_alone_may_not_be_longer_than_taken() -> None:
    walk = Walk(LEAF, max_bytes=3)
    with pytest.raises(MalformedBlock, match="4 bytes where at most 3"):
        walk.open(Part(LEAF, None, 0), b"leaf")
