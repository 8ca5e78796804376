"""How fast bytes are named, stored, served and fetched: MB/s for one file, server and client in processes of their own.

The last rows say what it costs that a checkpoint is served to its drawn verifier alone: the same file from a server
that serves everybody, and from one that reads a pass, asks who was drawn and looks up every block.

python benchmarks/network.py [MEGABYTES]
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from machine import describe

from cupel.chain.keys import LocalSigner
from cupel.chain.run_values import Assignment, Current, Parameters, Phase, Status, UnitView
from cupel.network.ipfs import BlockStore, Fetcher, FetchLimits, GatewayServer, cid_of
from cupel.network.states import decode_state, encode_state
from cupel.node.access import NodeAccess
from cupel.node.passes import PassBook
from cupel.protocol.types import Address, Height, Root, RoundIndex, SegmentIndex, UnitId

SIGNER = LocalSigner(bytes([1]) * 32)
RUN, CHAIN_ID, UNIT = Address("0x" + "5A" * 20), 31337, UnitId(bytes(32))


class Drawn:
    """What the chain would say: the signer was drawn for segment 1 of a unit that is being judged."""

    def parameters(self) -> Parameters:
        return cast(Parameters, SimpleNamespace(segments=4))  # of which nothing else is asked

    def current(self) -> Current:
        return Current(round=RoundIndex(0), phase=Phase.SEAL, until=Height(100), due=False)

    def get_units(self, round_: int) -> tuple[UnitView, ...]:
        none = Root(bytes(32))
        return (
            UnitView(
                unit_id=UNIT, round=RoundIndex(round_), miner=RUN, index=0, status=Status.COMMITTED, opened=False,
                root=none, contribution=none, cid=None, verifiers=(SIGNER.address,),
                sealed_mask=0, revealed_mask=0, agreed_mask=0,
            ),
        )  # fmt: skip

    def assignments_of(self, round_: int, verifier: Address) -> tuple[Assignment, ...]:
        return (Assignment(unit_id=UNIT, segments=(SegmentIndex(1),), is_sealed=False, is_revealed=False),)


def serve(directory: str, pipe: Connection, is_guarded: bool) -> None:
    """Serve until the other end says so."""
    store, urls = BlockStore(directory, read_only=True), list[str]()
    book = PassBook(SIGNER, chain_id=CHAIN_ID, run=RUN, names=lambda: tuple(urls))
    with GatewayServer(store, access=NodeAccess(store, Drawn(), book) if is_guarded else None) as server:
        urls.append(server.url)
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
        source.pin(cid, f"unit/0/{UNIT.hex()}/1")
        for what, limits, is_guarded in (
            ("blocks", FetchLimits(), False),
            ("one CAR", FetchLimits(archives=True), False),
            ("signed, blocks", FetchLimits(), True),
            ("blocks", FetchLimits(), False),
            ("signed, blocks", FetchLimits(), True),
        ):
            here, there = context.Pipe()
            server = context.Process(target=serve, args=(str(source.directory), there, is_guarded))
            server.start()
            url = here.recv()
            book = PassBook(SIGNER, chain_id=CHAIN_ID, run=RUN, names=tuple)
            introduce = book.introduce if is_guarded else None
            with (
                tempfile.TemporaryDirectory() as folder,
                BlockStore(folder) as store,
                Fetcher(store, [url], limits=limits, introduce=introduce) as fetcher,
            ):
                measure(f"Fetcher.fetch_to_store, {what}", megabytes, partial(fetcher.fetch_to_store, cid))
            here.send("stop")
            server.join()
        header = book.introduce(url)["Authorization"]
        began = time.perf_counter()
        for _ in range(200):
            PassBook(SIGNER, chain_id=CHAIN_ID, run=RUN, names=lambda: (url,)).read(header)
        print(f"{'reading a pass for the first time':<40}{(time.perf_counter() - began) / 200 * 1e6:>10,.0f} us")
        encoded = bytearray(encode_state(state))
        measure("encode_state", megabytes, lambda: encode_state(state))
        measure("decode_state, views", megabytes, lambda: decode_state(encoded))


if __name__ == "__main__":
    main()
