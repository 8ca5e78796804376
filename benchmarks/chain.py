"""What the embedded chain costs: blocks, transactions, calls. CPU time, so that other programs disturb it less.

python benchmarks/chain.py
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_canonical_address, to_checksum_address
from machine import describe

from cupel.chain.abi import ContractAbi, load_abi
from cupel.chain.keys import LocalSigner
from cupel.chain.mapping import make_cid, write_value
from cupel.chain.node.chain import EmbeddedChain
from cupel.chain.node.execution import CallRequest
from cupel.chain.run_values import Parameters
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address, Root, Wei

MINERS, VERIFIERS = 30, 3
CID = make_cid(0x55, b"\1" * 32)
PARAMETERS = Parameters(
    programs_root=Root(b"\1" * 32),
    data_root=Root(b"\2" * 32),
    shards=3,
    shard_tokens=3000,
    genesis_root=Root(b"\3" * 32),
    genesis=CID,
    manifest=CID,
    segments=8,
    segment_steps=10,
    max_units_per_miner=1,
    max_units=MINERS,
    max_merge=MINERS,
    min_miners=MINERS,
    max_miners=MINERS,
    min_verifiers=VERIFIERS,
    max_verifiers=VERIFIERS,
    verifiers_per_unit=2,
    segments_per_verifier=2,
    replay_bps=500,
    quorum=2,
    jury_target=3,
    unit_bond=Wei(10**15),
    slot_stake=Wei(10**15),
    unavailable_fee=Wei(10**14),
    seal_fee=Wei(10**14),
    merge_bond=Wei(10**14),
    beacon_delay=2,
    train_blocks=1000,
    seal_blocks=100,
    open_blocks=100,
    merge_blocks=100,
    acknowledge_blocks=100,
    maturity_blocks=100,
    window_blocks=100,
    exit_blocks=100,
    initial_reward=10**18,
    halving_rounds=1000,
    work_target=MINERS,
    verifier_share_bps=2000,
    merge_share_bps=500,
)


class World:
    """A chain in this process and keys to use it with; no HTTP."""

    def __init__(self, directory: Path) -> None:
        self.keys = [LocalSigner(number.to_bytes(32, "big")) for number in range(1, MINERS + VERIFIERS + 1)]
        self.nonces = dict.fromkeys((key.address for key in self.keys), 0)
        self.now = 1
        self.chain = EmbeddedChain.create_or_open(
            directory,
            chain_id=None,
            balances={to_canonical_address(key.address): 10**21 for key in self.keys},
            timestamp=self.now,
        )

    def sign(self, key: LocalSigner, to: Address | None, data: bytes, *, gas: int, value_wei: int = 0) -> bytes:
        fields = {"type": 2, "chainId": self.chain.chain_id, "nonce": self.nonces[key.address], "data": data}
        fields |= {"gas": gas, "value": value_wei, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 1}
        self.nonces[key.address] += 1
        return key.sign_transaction(fields | ({"to": to} if to else {}))

    def produce(self) -> int:
        """A block; the number of transactions in it, all of which must have succeeded."""
        self.now += 1
        block = asyncio.run(self.chain.produce(self.now))
        entries = self.chain.store.get_transactions(block.number)
        assert all(entry.status for entry in entries)
        return len(entries)

    def send(self, key: LocalSigner, to: Address | None, data: bytes, *, gas: int, value_wei: int = 0) -> Address:
        """One transaction in a block of its own; the address of what it created."""
        digest = self.chain.submit(self.sign(key, to, data, gas=gas, value_wei=value_wei))
        assert self.produce() == 1
        entry = self.chain.store.get_transaction(digest)
        assert entry is not None
        return Address(to_checksum_address(entry.created or bytes(20)))


def show(what: str, milliseconds: float) -> None:
    print(f"{what:<58}{milliseconds:>10.2f} ms")


def measure_ms(action: Callable[[], object], repeats: int) -> float:
    """Median CPU time."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return statistics.median(times) * 1000


def open_round(world: World) -> tuple[Address, Address, ContractAbi]:
    """Deploy a run, seat everybody and bring the first round to training."""
    keys, run = world.keys, load_abi("Run")
    beacon = world.send(keys[0], None, load_abi("ScriptedBeacon").bind_deployment(b"\1" * 32).data, gas=2_000_000)
    lens = world.send(keys[0], None, load_abi("RunLens").bind_deployment().data, gas=6_000_000)
    values = write_value(dataclasses.replace(PARAMETERS, beacon=beacon), Parameters)
    rules = world.send(keys[0], None, load_abi("RunRules").bind_deployment(values).data, gas=8_000_000)
    address = world.send(keys[0], None, run.bind_deployment(values, rules, lens, "Cupel", "CUP").data, gas=15_000_000)
    for key in keys[:MINERS]:
        data = run.bind(address, "joinMiner", 1, "http://127.0.0.1:8700").data
        world.send(key, address, data, gas=500_000, value_wei=10**16)
    for key in keys[MINERS:]:
        data = run.bind(address, "stake", "http://127.0.0.1:8700").data
        world.send(key, address, data, gas=5_000_000, value_wei=10**18)
    for _ in range(4):
        world.send(keys[0], address, run.bind(address, "advance").data, gas=5_000_000)
    return address, lens, run


def compute_seed() -> bytes:
    """Round 0's seed, from what the scripted beacon of `open_round` says at every height."""
    value = keccak256(abi_encode(["string", "bytes32"], ["cupel scripted beacon", b"\1" * 32]))
    return keccak256(abi_encode(["bytes32", "uint64", "uint256", "bytes32"], [value, 0, 0, PARAMETERS.genesis_root]))


def main() -> None:
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch))
        before = world.chain.store.get_size()
        show("an empty block, committed to disk", measure_ms(world.produce, 200))
        address, lens, run = open_round(world)
        seed = compute_seed()
        commits = [
            world.sign(
                key,
                address,
                run.bind(address, "commit", seed, 0, b"\4" * 32, b"\5" * 32, (0x55, b"\6" * 32)).data,
                gas=400_000,
            )
            for key in world.keys[:MINERS]
        ]
        began = time.process_time()
        for raw in commits:
            world.chain.submit(raw)
        admitted = time.process_time()
        count = world.produce()
        done = time.process_time()
        assert count == MINERS
        show("admitting a transaction to the pool, on disk", (admitted - began) / MINERS * 1000)
        show(f"a block of {MINERS} commits", (done - admitted) * 1000)
        print(f"{'commits a second':<58}{MINERS / (done - began):>10.0f}")
        entries = world.chain.store.get_transactions(world.chain.head.number)
        print(f"{'gas of a commit':<58}{statistics.median(entry.gas_used for entry in entries):>10.0f}")
        views = (("current", ()), ("getRound", (0,)), ("participants", ()), ("getUnits", (0,)))
        for name, arguments in views:
            data = load_abi("RunLens").bind(lens, name, address, *arguments).data
            request = CallRequest(to=to_canonical_address(lens), data=data)
            call = partial(world.chain.make_caller(world.chain.get_head_view()).call, request)
            show(f"eth_call RunLens.{name}, first time in a block", measure_ms(call, 5))
        view = world.chain.get_head_view()
        world.chain.call(view, request)
        show("the same call again in that block", measure_ms(lambda: world.chain.call(view, request), 100))
        grown = world.chain.store.get_size() - before
        print(f"{'bytes on disk, write-ahead log included':<58}{grown:>10,}")
        world.chain.close()


if __name__ == "__main__":
    main()
