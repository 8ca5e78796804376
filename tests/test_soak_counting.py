"""The soak's own counting: what it must call a fault, a recovery, a contradiction, growth and a failure."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from network_world import key

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from soak.calm import Calm
from soak.gauges import Course, Gauges, Sample
from soak.ledger import Fault, Ledger
from soak.losses import Losses
from soak.observer import Observer, Reorg
from soak.report import Report
from soak.wire import Wire

from cupel.chain.abi import load_abi
from cupel.protocol.types import Address

RUN = Address("0x" + "11" * 20)
SEED, CID = b"\x05" * 32, (0x55, b"\x06" * 32)
FLAT = Course(early=100.0, late=110.0)


def send(wire: Wire, nonce: int, function: str, *arguments: object, to: str = RUN) -> None:
    """A node's transaction, as it passes the proxy."""
    call = load_abi("Run").bind(RUN, function, *arguments)
    fields = {
        "type": 2, "chainId": 31337, "nonce": nonce, "to": to, "value": 0, "gas": 100_000, "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 1, "data": call.data,
    }  # fmt: skip
    raw = "0x" + key("miner").sign_transaction(fields).hex()
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw]}
    wire.note("miner", json.dumps(request).encode(), b'{"jsonrpc": "2.0", "id": 1, "result": "0x"}')


def test_the_same_answer_under_another_nonce_is_no_contradiction() -> None:
    wire = Wire(run=RUN)
    for nonce in (0, 1):
        send(wire, nonce, "commit", SEED, 0, b"\x01" * 32, b"\x02" * 32, CID)
    assert wire.calls == {"commit": 2}
    assert not wire.contradictions


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        ("commit", (SEED, 0, b"\x01" * 32, b"\x02" * 32, CID), (SEED, 0, b"\x03" * 32, b"\x02" * 32, CID)),
        (
            "seal",
            (SEED, [b"\x01" * 32], [b"\x02" * 32]),
            (SEED, [b"\x07" * 32, b"\x01" * 32], [b"\x02" * 32, b"\x03" * 32]),
        ),
        ("proposeMerge", (SEED, b"\x01" * 32, CID), (SEED, b"\x02" * 32, CID)),
        ("acknowledge", (SEED, 0, b"\x01" * 32, CID), (SEED, 1, b"\x02" * 32, CID)),
    ],
)
def test_two_answers_to_one_question_are_a_contradiction(
    function: str, first: tuple[object, ...], second: tuple[object, ...]
) -> None:
    wire = Wire(run=RUN)
    send(wire, 0, function, *first)
    send(wire, 1, function, *second)
    (found,) = wire.contradictions
    assert function in str(found)


def test_another_seed_is_another_question() -> None:
    wire = Wire(run=RUN)
    send(wire, 0, "proposeMerge", SEED, b"\x01" * 32, CID)
    send(wire, 1, "proposeMerge", b"\x09" * 32, b"\x02" * 32, CID)
    assert not wire.contradictions


def test_a_fault_has_recovered_once_the_struck_party_acted_again() -> None:
    ledger = Ledger()
    ledger.seen_active("miner")
    ledger.hit("process killed", "miner")
    assert (ledger.injected()["process killed"], ledger.recovered()["process killed"]) == (1, 0)
    assert [fault.party for fault in ledger.not_recovered()] == ["miner"]
    ledger.seen_active("verifier")
    assert ledger.recovered()["process killed"] == 0
    ledger.seen_active("miner")
    assert ledger.recovered()["process killed"] == 1


def test_only_blocks_of_before_a_reorg_were_undone_by_it() -> None:
    observer = Observer(url="http://127.0.0.1:9", names={}, ledger=Ledger())
    observer.reorgs.append(Reorg(time_s=10.0, first=5, last=7))
    assert observer.was_undone(5, 9.0)
    assert not observer.was_undone(5, 11.0)
    assert not observer.was_undone(4, 9.0)


def test_what_grows_is_not_flat() -> None:
    gauges = Gauges()
    gauges.samples["miner"] = [Sample(time_s=float(t), memory=100 + t, disk=100) for t in range(100)]
    assert not gauges.memory(["miner"]).is_flat
    assert gauges.disk(["miner"]).is_flat


def make_report() -> Report:
    ledger = Ledger(faults=[Fault(kind="process killed", party="miner", time_s=1.0)], active_s={"miner": 2.0})
    calm = Calm(rounds=50, merges=50, units=200, differences=(), final_root=bytes(32))
    return Report(
        rounds=50,
        faults_wanted=1,
        seed=1,
        wall_s=60.0,
        machine="a machine",
        parties="a miner",
        isolated=True,
        ledger=ledger,
        losses=Losses(),
        calm=calm,
        memory=FLAT,
        memory_all=FLAT,
        disk=FLAT,
        largest_memory=1,
        transactions=1,
        is_long=True,
    )


def test_a_run_without_losses_passes() -> None:
    assert make_report().failures() == []
    assert "passed" in make_report().as_text()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r.losses.add("deposit short", "miner"), "deposit short: miner"),
        (lambda r: setattr(r, "calm", dataclasses.replace(r.calm, differences=("round 3",))), "the model differs"),
        (lambda r: setattr(r, "calm", dataclasses.replace(r.calm, merges=0)), "no round was merged"),
        (lambda r: r.ledger.active_s.clear(), "never active again"),
        (lambda r: setattr(r, "faults_wanted", 2), "2 were wanted"),
        (lambda r: setattr(r, "memory", Course(early=100.0, late=116.0)), "memory grew to 1.16"),
        (lambda r: setattr(r, "disk", Course(early=100.0, late=116.0)), "disk grew to 1.16"),
    ],
)  # fmt: skip
def test_each_failing_of_a_run_is_said(spoil: object, says: str) -> None:
    report = make_report()
    assert callable(spoil)
    spoil(report)
    (failure,) = report.failures()
    assert says in failure
    assert "FAILED" in report.as_text()
