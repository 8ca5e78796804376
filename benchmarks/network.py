"""How fast bytes are named, stored, served and fetched: MB/s for one file, server and client in processes of their own.

python benchmarks/network.py [MEGABYTES]
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from machine import describe

from cupel.network.ipfs import BlockStore, Fetcher, FetchLimits, GatewayServer, cid_of
from cupel.network.states import decode_state, encode_state


def serve(directory: str, pipe: Connection) -> None:
    """Serve until the other end says so."""
    with GatewayServer(BlockStore(directory, read_only=True)) as server:
        pipe.send(server.url)
        pipe.recv()


def measure(what: str, megabytes: int, action: Callable[[], object]) -> None:
    began = time.perf_counter()
    action()
    elapsed_s = time.perf_counter() - began
    print(f"{what:<40}{megabytes / elapsed_s:>10,.0f} MB/s")


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    data = os.urandom(megabytes * 1_000_000)
    state = {f"layer{i}": torch.frombuffer(bytearray(data[: len(data) // 8]), dtype=torch.int32) for i in range(8)}
    print(f"{megabytes} MB; {describe()}")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        source = BlockStore(Path(scratch, "source"))
        measure("cid_of", megabytes, lambda: cid_of(data))
        measure("BlockStore.add_bytes, synced to disk", megabytes, lambda: source.add_bytes(data))
        cid = cid_of(data)
        measure("BlockStore.read", megabytes, lambda: source.read(cid))
        here, there = context.Pipe()
        server = context.Process(target=serve, args=(str(source.directory), there))
        server.start()
        url = here.recv()
        for what, limits in (("blocks", FetchLimits()), ("one CAR", FetchLimits(archives=True))):
            with BlockStore(Path(scratch, what)) as store, Fetcher(store, [url], limits=limits) as fetcher:
                measure(f"Fetcher.fetch_to_store, {what}", megabytes, lambda: fetcher.fetch_to_store(cid))
        here.send("stop")
        server.join()
        encoded = bytearray(encode_state(state))
        measure("encode_state", megabytes, lambda: encode_state(state))
        measure("decode_state, views", megabytes, lambda: decode_state(encoded))


if __name__ == "__main__":
    main()
