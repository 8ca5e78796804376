"""Fees, replacement and duties, on the embedded chain and on anvil."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chain_process import KEYS, PROBE_INIT, make_transfer
from chain_worlds import Chain, open_chain
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from rpc_faults import FaultyRpc, wait_until

from cupel.chain.abi import AbiFunction, Call, ContractAbi, bind_transfer
from cupel.chain.client import GWEI, ChainClient, FeePolicy, Outbox
from cupel.chain.errors import (
    ContractReverted,
    FeeAboveCap,
    ReceiptTimeout,
    ReplacementAboveCap,
    TransactionReplaced,
)
from cupel.chain.fees import Fees, compute_fees, compute_replacement
from cupel.chain.keys import LocalSigner
from cupel.chain.outbox import State
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address

TARGET = Address(to_checksum_address("0x" + "ab" * 20))
EAGER = FeePolicy(replace_after_blocks=2, replace_after_s=0)
"""Replaces as soon as may be: tests have no time for patience."""


def connect(url: str, key: LocalSigner, said: list[str] | None = None, **settings: Any) -> ChainClient:
    notify = None if said is None else said.append
    return ChainClient(url, key, **({"poll_seconds": 0.02, "outbox": Outbox(), "notify": notify} | settings))


def count(chain: Chain, key: LocalSigner) -> int:
    return int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16)


def get_fees(chain: Chain, transaction_hash: bytes) -> Fees:
    found = chain.ask("eth_getTransactionByHash", f"0x{transaction_hash.hex()}")
    return Fees(tip_wei=int(found["maxPriorityFeePerGas"], 16), max_fee_wei=int(found["maxFeePerGas"], 16))


# Stuck transactions


def test_a_stuck_transaction_is_offered_again_a_tenth_dearer_until_it_is_in(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner
) -> None:
    said: list[str] = []
    client = connect(proxy.url, key, said, fees=FeePolicy(tip_wei=GWEI, replace_after_blocks=2, replace_after_s=0))
    proxy.least_fee_wei = 100 * GWEI  # the market asks for more than this client would begin with
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    wait_until(lambda: len(client.list_pending()[0].signed) >= 3, what="a second replacement")
    versions = client.list_pending()[0].signed
    sent_fees = [version.fees for version in versions]
    for before, after in itertools.pairwise(sent_fees):
        assert after.max_fee_wei * 100 >= before.max_fee_wei * 110
        assert after.tip_wei * 100 >= before.tip_wei * 110
    proxy.least_fee_wei = versions[-1].fees.max_fee_wei + 1  # the next one is enough
    receipt = client.wait(sent)
    assert receipt.transaction_hash != sent.hash
    assert get_fees(chain, receipt.transaction_hash).max_fee_wei > versions[-1].fees.max_fee_wei
    assert count(chain, key) == 1
    assert any("was left out of blocks" in one for one in said)


def test_the_receipt_of_an_earlier_version_counts(chain: Chain, proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, fees=EAGER)
    proxy.least_fee_wei = 10**6 * GWEI
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    wait_until(lambda: len(client.list_pending()[0].signed) >= 2, what="a replacement")
    chain.ask("eth_sendRawTransaction", f"0x{sent.raw.hex()}")  # of all versions, the first got to a producer
    receipt = client.wait(sent)
    assert receipt.transaction_hash == sent.hash


def test_only_the_first_of_a_row_is_replaced(chain: Chain, proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, fees=EAGER)
    proxy.least_fee_wei = 10**6 * GWEI
    sent = [client.submit(bind_transfer(TARGET), value_wei=value, gas=21_000) for value in (1, 2)]
    assert [one.nonce for one in sent] == [0, 1]
    wait_until(lambda: len(client.list_pending()[0].signed) >= 2, what="a replacement")
    assert len(client.list_pending()[1].signed) == 1
    proxy.release()
    assert [client.wait(one).gas_used for one in sent] == [21_000] * 2


def test_a_replacement_stays_below_the_cap_and_says_so(proxy: FaultyRpc, key: LocalSigner) -> None:
    said: list[str] = []
    policy = FeePolicy(max_fee_wei=4 * GWEI, tip_wei=GWEI, replace_after_blocks=2, replace_after_s=0)
    client = connect(proxy.url, key, said, fees=policy)
    proxy.least_fee_wei = 10 * GWEI
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    wait_until(lambda: any("would exceed your cap of 4000000000" in one for one in said), what="the message")
    assert max(version.fees.max_fee_wei for version in client.list_pending()[0].signed) <= 4 * GWEI
    proxy.release()
    assert client.wait(sent).gas_used == 21_000
    assert client.get_balance(key.address) > 10**18 - 21_000 * 4 * GWEI - 2


def test_a_transaction_the_pool_lost_is_sent_again_as_it_was(proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, fees=EAGER)
    proxy.swallow = True
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    proxy.swallow = False
    assert client.wait(sent).transaction_hash == sent.hash
    assert proxy.requests["eth_sendRawTransaction"] >= 2


# Prices above the cap


def test_a_price_above_the_cap_is_waited_out_and_said(proxy: FaultyRpc, key: LocalSigner) -> None:
    said: list[str] = []
    client = connect(proxy.url, key, said, fees=FeePolicy(max_fee_wei=50 * GWEI))
    proxy.base_fee_wei = 60 * GWEI
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(client.transfer, TARGET, 1)
        wait_until(lambda: said, what="the message")
        assert "ETH.transfer waits: a block now costs 60000000000 wei per gas, your cap is 50000000000" in said[0]
        assert not sending.done()
        assert proxy.requests["eth_sendRawTransaction"] == 0
        proxy.base_fee_wei = None
        assert sending.result(60).gas_used == 21_000


def test_what_waits_is_not_replaced_during_a_spike_and_goes_on_after_it(proxy: FaultyRpc, key: LocalSigner) -> None:
    said: list[str] = []
    policy = FeePolicy(max_fee_wei=50 * GWEI, replace_after_blocks=2, replace_after_s=0)
    client = connect(proxy.url, key, said, fees=policy, receipt_timeout_s=2.0)
    proxy.least_fee_wei = 10**6 * GWEI
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    proxy.base_fee_wei = 60 * GWEI
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.wait, sent)
        wait_until(lambda: any("waits: a block now costs" in one for one in said), what="the message")
        versions = len(client.list_pending()[0].signed)
        height = client.head().number
        client.wait_for_block(height + 30)
        assert len(client.list_pending()[0].signed) == versions
        assert not waiting.done()  # the spike's time is not the receipt's
        proxy.base_fee_wei = None
        proxy.release()
        assert waiting.result(60).gas_used == 21_000


def test_a_spike_longer_than_the_policys_patience_is_an_error(proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, fees=FeePolicy(max_fee_wei=50 * GWEI, spike_patience_s=0.2))
    proxy.base_fee_wei = 60 * GWEI
    with pytest.raises(FeeAboveCap, match="raise it or wait"):
        client.transfer(TARGET, 1)
    assert client.list_pending() == ()


def test_a_transaction_given_up_on_is_joined_not_sent_twice(chain: Chain, proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, receipt_timeout_s=2)
    proxy.least_fee_wei = 10**6 * GWEI
    with pytest.raises(ReceiptTimeout, match=r"ETH\.transfer: transaction 0x\w+ has no receipt after"):
        client.transfer(TARGET, 1)
    proxy.release()
    assert client.transfer(TARGET, 1).gas_used == 21_000
    assert count(chain, key) == 1


# Duties


def test_a_newer_call_of_a_duty_takes_the_waiting_ones_place(chain: Chain, proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key)
    proxy.least_fee_wei = 10**6 * GWEI
    older = client.submit(bind_transfer(TARGET), value_wei=1, duty="commit/7")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.wait, older)
        newer = client.submit(bind_transfer(TARGET), value_wei=2, duty="commit/7")
        assert newer.nonce == older.nonce
        with pytest.raises(TransactionReplaced, match=r"ETH\.transfer was replaced by ETH\.transfer"):
            waiting.result(60)
    proxy.release()
    receipt = client.wait(newer)
    assert chain.ask("eth_getTransactionByHash", f"0x{receipt.transaction_hash.hex()}")["value"] == "0x2"
    assert count(chain, key) == 1


def test_where_the_older_call_was_faster_the_newer_one_is_sent_after_it(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner
) -> None:
    client = connect(proxy.url, key)
    proxy.least_fee_wei = 10**6 * GWEI
    older = client.submit(bind_transfer(TARGET), value_wei=1, duty="commit/7")
    newer = client.submit(bind_transfer(TARGET), value_wei=2, duty="commit/7")
    chain.ask("eth_sendRawTransaction", f"0x{older.raw.hex()}")
    proxy.least_fee_wei = 0
    proxy.held.clear()
    receipt = client.wait(newer)
    assert count(chain, key) == 2
    assert chain.ask("eth_getTransactionByHash", f"0x{receipt.transaction_hash.hex()}")["value"] == "0x2"


def test_the_same_call_of_a_duty_is_one_transaction_however_often_it_is_asked_for(
    chain: Chain, key: LocalSigner
) -> None:
    client = connect(chain.url, key)
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: client.send(bind_transfer(TARGET), value_wei=3, duty="seal/1"), range(4)))
    assert len({receipt.transaction_hash for receipt in done}) == 1
    assert count(chain, key) == 1


def test_without_a_duty_the_same_call_at_once_is_two_transactions(chain: Chain, key: LocalSigner) -> None:
    client = connect(chain.url, key)
    first, second = (client.submit(bind_transfer(TARGET), value_wei=3) for _ in range(2))
    assert client.wait(first).transaction_hash != client.wait(second).transaction_hash
    assert count(chain, key) == 2


def test_a_cancelled_duty_never_happens(chain: Chain, proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key)
    proxy.least_fee_wei = 10**6 * GWEI
    older = client.submit(bind_transfer(TARGET), value_wei=1, duty="commit/7")
    before = client.get_balance(TARGET)
    assert client.cancel("commit/7") is True
    with pytest.raises(TransactionReplaced, match="was replaced by nothing"):
        client.wait(older)
    proxy.release()
    wait_until(lambda: count(chain, key) == 1, what="the empty transaction")
    assert client.get_balance(TARGET) == before
    assert client.cancel("another duty") is False


def test_a_duty_that_cannot_be_replaced_within_the_cap_is_told(proxy: FaultyRpc, key: LocalSigner) -> None:
    policy = FeePolicy(max_fee_wei=4 * GWEI, tip_wei=4 * GWEI)
    client = connect(proxy.url, key, fees=policy)
    proxy.least_fee_wei = 10**6 * GWEI
    client.submit(bind_transfer(TARGET), value_wei=1, duty="commit/7")
    with pytest.raises(ReplacementAboveCap, match="a tenth more is above your cap"):
        client.submit(bind_transfer(TARGET), value_wei=2, duty="commit/7")
    assert len(client.list_pending()) == 1


# Nonces


def test_a_nonce_another_program_took_costs_another_nonce_not_the_transaction(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner
) -> None:
    said: list[str] = []
    client = connect(proxy.url, key, said)
    proxy.swallow = True
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    proxy.swallow = False
    chain.ask("eth_sendRawTransaction", make_transfer(key, 0))  # the same key, on another machine
    receipt = client.wait(sent)
    assert chain.ask("eth_getTransactionByHash", f"0x{receipt.transaction_hash.hex()}")["nonce"] == "0x1"
    assert any("another transaction took its nonce" in one for one in said)


def test_a_refused_transaction_leaves_no_hole_in_the_nonces(chain: Chain, key: LocalSigner) -> None:
    client = connect(chain.url, key)
    with pytest.raises(Exception, match=r"(?i)insufficient funds"):
        client.send(bind_transfer(TARGET), value_wei=10**30, gas=21_000)
    assert client.list_pending() == ()
    assert client.transfer(TARGET, 1).gas_used == 21_000


def test_a_signer_that_fails_leaves_no_hole_in_the_nonces(chain: Chain, key: LocalSigner) -> None:
    class Broken(LocalSigner):
        is_broken = True

        def sign_transaction(self, fields: Any) -> bytes:
            if self.is_broken:
                raise UsageError("the signer does not answer")
            return super().sign_transaction(fields)

    signer = Broken(key.export_key())
    client = connect(chain.url, signer)
    with pytest.raises(UsageError, match="does not answer"):
        client.transfer(TARGET, 1)
    assert client.list_pending() == ()
    signer.is_broken = False
    assert client.transfer(TARGET, 1).gas_used == 21_000


def test_settled_transactions_leave_the_outbox_and_the_watch_ends(key: LocalSigner, tmp_path: Path) -> None:
    with open_chain("embedded", tmp_path, block_time_s=0.05) as quick:
        ChainClient(quick.url, KEYS[0], poll_seconds=0.02).transfer(key.address, 10**18)
        client = connect(quick.url, key)
        client.transfer(TARGET, 1)
        assert [entry.state for entry in client.list_pending()] == [State.MINED]
        wait_until(lambda: client.list_pending() == (), what="finality, 32 blocks later")
        keeper = next(one for one in threading.enumerate() if one.name == "cupel-outbox")
        client.close()
        keeper.join(30)


# Arithmetic


@given(cap=st.integers(1, 10**12), base=st.integers(0, 10**12), tip=st.integers(0, 10**12), multiple=st.integers(1, 4))
def test_fees_never_exceed_the_cap_and_always_cover_the_base_fee(cap: int, base: int, tip: int, multiple: int) -> None:
    policy = FeePolicy(max_fee_wei=cap, base_fee_multiple=multiple)
    if base > cap:
        with pytest.raises(FeeAboveCap):
            compute_fees(policy, base_fee_wei=base, suggested_tip_wei=tip)
        return
    fees = compute_fees(policy, base_fee_wei=base, suggested_tip_wei=tip)
    assert base <= fees.max_fee_wei <= cap
    assert fees.tip_wei <= fees.max_fee_wei
    replacement = compute_replacement(policy, fees, fees)
    if replacement is not None:
        assert replacement.max_fee_wei <= cap
        assert replacement.tip_wei <= replacement.max_fee_wei
        for new, old in ((replacement.tip_wei, fees.tip_wei), (replacement.max_fee_wei, fees.max_fee_wei)):
            assert new * 100 >= old * 110
            assert new > old
    else:
        assert fees.max_fee_wei * 110 > cap * 100 - 200


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"max_fee_wei": 0}, {"base_fee_multiple": 0}, {"replace_after_blocks": 0}, {"spike_patience_s": -1}):
        with pytest.raises(UsageError):
            FeePolicy(**wrong)  # type: ignore[arg-type]  # values of several types


def test_reverts_are_told_once_and_may_be_tried_again(chain: Chain, key: LocalSigner) -> None:
    """A duty that failed in a block is sent anew when asked again: only success is kept."""
    client = connect(chain.url, key)
    abi = ContractAbi("Probe", (), PROBE_INIT)
    address, _ = client.deploy(abi.bind_deployment())
    revert = Call(to=address, data=b"\x01\xde\xad\xbe\xef", function=AbiFunction("probe", (), (), "payable"), abi=abi)
    for nonce in (1, 2):
        with pytest.raises(ContractReverted, match="deadbeef"):
            client.send(revert, gas=60_000, duty="open/1")
        assert count(chain, key) == nonce + 1
