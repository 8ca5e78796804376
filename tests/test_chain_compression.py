"""Zip bombs from an RPC endpoint: refused before they take memory."""

from __future__ import annotations

import gzip
import json
import resource
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cupel.chain.transport import MAX_ANSWER_BYTES, Silent, Transport

MEGABYTE = 1 << 20


@contextmanager
def serving(body: bytes, encoding: str) -> Iterator[str]:
    """A server that gives this to whoever asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def grown_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_compressed_answer_is_read() -> None:
    body = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": 1, "result": "0x1"}).encode())
    with serving(body, "gzip") as url:
        assert Transport(url).ask("eth_chainId", (), timeout_s=30) == "0x1"


@pytest.mark.parametrize("layers", [1, 2])
def test_a_zip_bomb_is_refused_within_bounded_memory(layers: int) -> None:
    packer, zeros = zlib.compressobj(wbits=31), bytes(16 * MEGABYTE)
    bomb = b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()  # a gigabyte in one megabyte
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb)
    before = grown_mb()
    with (
        serving(bomb, ", ".join(["gzip"] * layers)) as url,
        pytest.raises(Silent, match=r"more than 64 MiB|compressed in another way"),
    ):
        Transport(url).ask("eth_chainId", (), timeout_s=60)
    assert grown_mb() - before < 4 * MAX_ANSWER_BYTES / MEGABYTE
