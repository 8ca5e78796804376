"""The trustless gateway: what it serves, in which words it refuses, and what it will not be made to do."""

from __future__ import annotations

import http.client
import os
import random
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from cupel.network.ipfs import (
    CHUNK_BYTES,
    BlockStore,
    Codec,
    GatewayLimits,
    GatewayServer,
    PaceLimits,
    cid_of,
    json_route,
)
from cupel.network.ipfs.car import read_car
from cupel.network.ipfs.cid import ParsedCid, check_block
from cupel.network.ipfs.dagpb import FileNode
from cupel.network.ipfs.gateway import CAR_TYPE, RAW_TYPE
from cupel.protocol.errors import MalformedBlock, MalformedInput, Unavailable, UsageError

PART = random.Random(1).randbytes(CHUNK_BYTES)
DATA = PART + random.Random(2).randbytes(CHUNK_BYTES) + PART + b"end"
CID = cid_of(DATA)
REPEATING_CAR = f"{CAR_TYPE}; version=1; order=dfs; dups=y"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with BlockStore(tmp_path) as store:
        store.add_bytes(DATA)
        yield store


def unit(parameters: Mapping[str, str]) -> object:
    if parameters["unit"] == "missing":
        raise Unavailable("unit missing: not trained here")
    if not parameters["unit"].isdigit():
        raise MalformedInput(f"unit {parameters['unit']!r}: not a number")
    return {"unit": int(parameters["unit"])}


@pytest.fixture
def server(store: BlockStore) -> Iterator[GatewayServer]:
    with GatewayServer(store, routes=[json_route("/units/{unit}", unit)]) as server:
        yield server


def get(server: GatewayServer, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, server.url + path, headers=spelled, trust_env=False)


def test_a_block_is_served_with_headers_that_let_it_be_kept_for_ever(server: GatewayServer, store: BlockStore) -> None:
    answer = get(server, f"/ipfs/{CID}?format=raw")
    assert answer.status_code == 200
    check_block(CID, answer.content)
    assert answer.headers["Content-Type"] == RAW_TYPE
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Ipfs-Roots"] == CID
    again = get(server, f"/ipfs/{CID}?format=raw", If_None_Match=answer.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")


def test_a_car_holds_the_file_depth_first_each_block_once(server: GatewayServer) -> None:
    answer = get(server, f"/ipfs/{CID}?format=car")
    assert answer.headers["Content-Type"] == f"{CAR_TYPE}; version=1; order=dfs; dups=n"
    blocks = list(read_car([answer.content], CID))
    leaves = [ParsedCid.of(DATA[at : at + CHUNK_BYTES]) for at in range(0, len(DATA), CHUNK_BYTES)]
    assert [str(cid) for cid, _ in blocks] == [CID, str(leaves[0]), str(leaves[1]), str(leaves[3])]
    assert leaves[2] == leaves[0]


def test_a_car_repeats_blocks_where_that_is_asked_for(server: GatewayServer) -> None:
    answer = get(server, f"/ipfs/{CID}?format=car&car-dups=y")
    read = b"".join(block for cid, block in read_car([answer.content], CID) if cid.codec == Codec.RAW)
    assert read == DATA


@pytest.mark.parametrize(("scope", "count"), [("block", 1), ("entity", 4), ("all", 4)])
def test_the_scope_says_how_much_a_car_holds(server: GatewayServer, scope: str, count: int) -> None:
    answer = get(server, f"/ipfs/{CID}?format=car&dag-scope={scope}")
    assert len(list(read_car([answer.content], CID))) == count


def test_head_answers_with_headers_alone(server: GatewayServer, store: BlockStore) -> None:
    raw = get(server, f"/ipfs/{CID}?format=raw", "HEAD")
    assert (raw.status_code, raw.content) == (200, b"")
    assert int(raw.headers["Content-Length"]) == store.block_size(CID)
    car = get(server, f"/ipfs/{CID}?format=car", "HEAD")
    assert (car.status_code, car.content) == (200, b"")
    assert get(server, f"/ipfs/{cid_of(b'absent')}?format=raw", "HEAD").status_code == 404


@pytest.mark.parametrize(
    ("accept", "served"),
    [
        (RAW_TYPE, RAW_TYPE),
        (CAR_TYPE, CAR_TYPE),
        (f"{CAR_TYPE};q=0.2, {RAW_TYPE}", RAW_TYPE),
        (
            f"text/html, {CAR_TYPE}; version=1; order=dfs; dups=y;q=0.9, {RAW_TYPE};q=0.5",
            f"{CAR_TYPE}; version=1; order=dfs; dups=y",
        ),
    ],
)
def test_without_a_format_the_accept_header_decides(server: GatewayServer, accept: str, served: str) -> None:
    answer = get(server, f"/ipfs/{CID}", Accept=accept)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith(served)


def test_the_empty_identity_cid_tells_that_the_gateway_is_alive(server: GatewayServer) -> None:
    answer = get(server, "/ipfs/bafkqaaa?format=raw")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "accept", "status", "says"),
    [
        ("/ipfs/nonsense?format=raw", "*/*", 400, "not a CID"),
        ("/ipfs/QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR?format=raw", "*/*", 400, "ipfs cid base32"),
        (f"/ipfs/{CID}?format=car&dag-scope=some", "*/*", 400, "one of all, entity, block"),
        (f"/ipfs/{cid_of(b'absent')}?format=raw", "*/*", 404, "not here"),
        (f"/ipfs/{cid_of(b'absent')}?format=car", "*/*", 404, "not here"),
        (f"/ipfs/{CID}", "*/*", 406, "format=raw"),
        (f"/ipfs/{CID}", "text/html", 406, "format=raw"),
        (f"/ipfs/{CID}", f"{RAW_TYPE};q=0", 406, "format=raw"),
        (f"/ipfs/{CID}", f"{RAW_TYPE};q=x", 406, "format=raw"),
        (f"/ipfs/{CID}?format=tar", "*/*", 406, "'tar' is not served"),
        (f"/ipfs/{CID}?format=car&car-version=2", "*/*", 406, "version 1"),
        (f"/ipfs/{CID}?format=car&entity-bytes=0:9", "*/*", 501, "entity-bytes"),
        (f"/ipfs/{CID}/file.txt", "*/*", 501, "paths below a CID"),
        ("/units/x", "*/*", 400, "not a number"),
        ("/units/missing", "*/*", 404, "not trained here"),
    ],
)
def test_it_refuses_in_plain_words(server: GatewayServer, path: str, accept: str, status: int, says: str) -> None:
    answer = get(server, path, Accept=accept)
    assert answer.status_code == status
    assert says in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_node_that_is_no_file_is_served_as_a_block_but_not_whole(server: GatewayServer, store: BlockStore) -> None:
    directory = bytes.fromhex("0a020801")  # an empty UnixFS directory
    cid = store.put(directory, Codec.DAG_PB)
    assert get(server, f"/ipfs/{cid}?format=raw").content == directory
    assert get(server, f"/ipfs/{cid}?format=car").status_code == 501


def test_further_routes_answer_on_the_same_port(server: GatewayServer) -> None:
    answer = get(server, "/units/7")
    assert answer.json() == {"unit": 7}
    assert answer.headers["Content-Type"].startswith("application/json")


def test_a_car_with_a_hole_is_cut_off_and_never_looks_whole(server: GatewayServer, store: BlockStore) -> None:
    last = ParsedCid.of(DATA[3 * CHUNK_BYTES :])
    next(store.directory.glob(f"blocks/*/{last}")).unlink()
    with pytest.raises(httpx.RemoteProtocolError):
        get(server, f"/ipfs/{CID}?format=car")


def test_a_damaged_block_is_not_served(server: GatewayServer, store: BlockStore) -> None:
    path = next(store.directory.glob(f"blocks/*/{CID}"))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert get(server, f"/ipfs/{CID}?format=raw").status_code == 404


def test_requests_above_the_limit_are_asked_to_come_back(store: BlockStore) -> None:
    with GatewayServer(store, limits=GatewayLimits(requests=0, wait_s=0.1)) as server:
        answer = get(server, f"/ipfs/{CID}?format=raw")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"


def test_a_client_that_stops_reading_is_let_go(tmp_path: Path) -> None:
    with BlockStore(tmp_path) as store:
        cid = store.add_bytes(os.urandom(24 << 20))
        with GatewayServer(store, limits=GatewayLimits(pace=PaceLimits(block_s=0.3), requests=1)) as server:
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(f"GET /ipfs/{cid}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for _ in range(100):
                time.sleep(0.1)
                if get(server, f"/ipfs/{cid}?format=raw").status_code == 200:
                    break
            else:
                pytest.fail("the one request allowed was never given back")
            connection.close()


def test_a_long_request_line_is_refused(server: GatewayServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/ipfs/" + "b" * 10_000)
    assert connection.getresponse().status == 400
    connection.close()


def test_a_port_in_use_is_named(server: GatewayServer, store: BlockStore) -> None:
    with pytest.raises(UsageError, match=f"{server.port}.*choose another"):
        GatewayServer(store, port=server.port).start()


def test_it_stops_and_can_start_again(store: BlockStore) -> None:
    server = GatewayServer(store)
    for _ in range(2):
        server.start()
        assert get(server, f"/ipfs/{CID}?format=raw").status_code == 200
        server.stop()
        server.stop()
        with pytest.raises(httpx.ConnectError):
            get(server, f"/ipfs/{CID}?format=raw")


# Archives from strangers


def archive(server: GatewayServer) -> bytes:
    return get(server, f"/ipfs/{CID}?format=car").content


def test_an_archive_reads_the_same_in_any_pieces(server: GatewayServer) -> None:
    whole = archive(server)
    pieces = [whole[at : at + 7919] for at in range(0, len(whole), 7919)]
    assert list(read_car(pieces, CID)) == list(read_car([whole], CID))
    assert FileNode.decode(next(read_car([whole], CID))[1]).size == len(DATA)


@pytest.mark.parametrize("cut", [0, 1, 30, 61, 100, -1])
def test_an_archive_cut_short_is_refused(server: GatewayServer, cut: int) -> None:
    with pytest.raises(MalformedBlock, match="CAR"):
        list(read_car([archive(server)[:cut]], CID))


def test_an_archive_of_another_root_is_refused(server: GatewayServer) -> None:
    with pytest.raises(MalformedBlock, match="one root"):
        list(read_car([archive(server)], cid_of(b"other")))


def test_an_archive_with_one_bit_off_is_refused(server: GatewayServer) -> None:
    spoilt = bytearray(archive(server))
    spoilt[-1] ^= 1
    with pytest.raises(MalformedBlock, match="received are"):
        list(read_car([bytes(spoilt)], CID))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (b"\xff" * 9, "63 bits"),
        (b"\x80\x80\x00", "longer than its value"),
        (b"\x05hello", "section of 5"),
        (b"\xff\xff\xff\x7f", "section of 268,435,455"),
        (b"\x24" + bytes(36), "CID version 0"),
    ],
)
def test_a_hostile_section_is_refused(server: GatewayServer, section: bytes, says: str) -> None:
    with pytest.raises(MalformedBlock, match=says):
        list(read_car([archive(server) + section], CID))
