"""Endpoints that are silent, slow, late, wrong or lying cost a pause, never a wrong answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chain_process import ChainProcess
from chain_worlds import Chain
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from rpc_faults import Fault, FaultyRpc, wait_until

from cupel.chain import deadlines
from cupel.chain.abi import bind_transfer
from cupel.chain.client import ChainClient, EndpointPolicy, Outbox
from cupel.chain.errors import ChainUnreachable, ReceiptTimeout, WrongChain
from cupel.chain.keys import LocalSigner
from cupel.chain.rate_limit import TokenBucket
from cupel.chain.transport import Silent, Transport, redact_url
from cupel.protocol.errors import ProtocolError, UsageError
from cupel.protocol.types import Address

TARGET = Address(to_checksum_address("0x" + "cd" * 20))
QUICK = EndpointPolicy(timeout_s=1.0, check_s=0.1)


@pytest.fixture
def clients() -> Iterator[list[ChainClient]]:
    opened: list[ChainClient] = []
    yield opened
    for client in opened:
        client.close()


def connect(urls: Any, key: LocalSigner | None = None, **settings: Any) -> ChainClient:
    return ChainClient(urls, key, **({"poll_seconds": 0.02, "outbox": Outbox(), "endpoints": QUICK} | settings))


def is_answered(client: ChainClient) -> bool:
    try:
        client.head()
    except ChainUnreachable:
        return False
    return True


# What is wrong with an answer, in a few words

REASONS = {
    Fault.HANG: "no answer in",
    Fault.DRIP: "no answer in|not complete after",
    Fault.ENDLESS: "more than 64 MiB|no answer in|not complete after",
    Fault.DROP: "connection refused or lost|not HTTP",
    Fault.HTML_502: r"HTTP status 502 \(text/html\)",
    Fault.HTML_200: r"answered \d+ bytes \(text/html\) that are not JSON-RPC",
    Fault.GARBAGE: r"answered 20 bytes \(application/json\) that are not JSON-RPC",
    Fault.TOO_MANY: "HTTP status 429: asked too often",
    Fault.LIMIT_EXCEEDED: "code -32005: asked too often",
    Fault.UNAUTHORIZED: r"HTTP status 401 \(text/plain\): is the key in the URL right\?",
}


@pytest.mark.parametrize("fault", REASONS)
def test_a_fault_of_the_only_endpoint_is_named_briefly_and_in_time(proxy: FaultyRpc, fault: Fault) -> None:
    client = connect(proxy.url, patience_s=0.3)
    proxy.fault, started = fault, time.monotonic()
    with pytest.raises(ChainUnreachable, match=REASONS[fault]) as caught:
        client.head()
    assert time.monotonic() - started < 20, "bounded, on a busy machine too"
    message = str(caught.value)
    assert proxy.url in message
    assert "secret-detail" not in message
    assert len(message) < 300
    proxy.fault = None
    wait_until(lambda: is_answered(client), what="the return of the endpoint")


def test_a_nodes_error_is_ours_to_catch_and_names_the_node(proxy: FaultyRpc) -> None:
    client = connect(proxy.url)
    proxy.fault = Fault.INTERNAL_ERROR
    with pytest.raises(ProtocolError, match=f"{proxy.url} answered eth_getBalance with 'internal error'"):
        client.get_balance(TARGET)


def test_a_chain_that_suggests_no_tip_can_be_used(proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key)
    proxy.fault, proxy.fault_methods = Fault.INTERNAL_ERROR, frozenset({"eth_maxPriorityFeePerGas"})
    assert client.transfer(TARGET, 1).gas_used == 21_000


@pytest.mark.parametrize("fault", [*REASONS, Fault.LOSE_ANSWER, Fault.INTERNAL_ERROR])
def test_while_one_endpoint_fails_another_serves_the_transaction(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, clients: list[ChainClient], fault: Fault
) -> None:
    said: list[str] = []
    client = connect([proxy.url, chain.url], key, notify=said.append)
    clients.append(client)
    proxy.fault = fault
    assert client.transfer(TARGET, 1).gas_used == 21_000
    assert int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16) == 1
    if fault is not Fault.INTERNAL_ERROR:  # an answer, though a useless one
        wait_until(lambda: any(f"{proxy.url} is not asked: " in one for one in said), what="the message")
    proxy.fault = None
    wait_until(lambda: client.endpoints[0].is_fit, what="the return")
    before = proxy.requests["eth_chainId"] + proxy.requests["eth_getBalance"]
    client.get_balance(key.address)
    assert proxy.requests["eth_chainId"] + proxy.requests["eth_getBalance"] > before, "the first one is asked again"


def test_all_endpoints_are_named_with_their_reasons(chain: Chain, proxy: FaultyRpc, clients: list[ChainClient]) -> None:
    with FaultyRpc(chain.url) as other:
        client = connect([proxy.url, other.url], patience_s=0.3)
        clients.append(client)
        proxy.fault, other.fault = Fault.HTML_502, Fault.UNAUTHORIZED
        with pytest.raises(ChainUnreachable, match=rf"{proxy.url}: HTTP status 502.*{other.url}: HTTP status 401"):
            client.head()


# Lag


def test_an_endpoint_that_lags_behind_is_not_asked_until_it_has_caught_up(
    chain: Chain, proxy: FaultyRpc, clients: list[ChainClient]
) -> None:
    said: list[str] = []
    client = connect([proxy.url, chain.url], notify=said.append)
    clients.append(client)
    client.wait_for_block(12)
    proxy.lag_blocks = 11
    wait_until(lambda: any("not asked: 1" in one and "blocks behind" in one for one in said), what="the message")
    asked = proxy.requests["eth_getBalance"]
    for _ in range(5):
        client.get_balance(TARGET)
    assert proxy.requests["eth_getBalance"] == asked
    proxy.lag_blocks = 0
    wait_until(lambda: any(f"{proxy.url} is back" in one for one in said), what="the return")
    client.get_balance(TARGET)
    assert proxy.requests["eth_getBalance"] > asked


def test_an_endpoint_that_stands_still_is_not_asked(chain: Chain, proxy: FaultyRpc, clients: list[ChainClient]) -> None:
    client = connect([proxy.url, chain.url])
    clients.append(client)
    proxy.frozen_at = client.head().number
    wait_until(lambda: client.endpoints[0].lag, what="the judgement")
    assert client.head().number > proxy.frozen_at


def test_one_that_invents_blocks_does_not_make_two_others_look_late(
    chain: Chain, proxy: FaultyRpc, clients: list[ChainClient]
) -> None:
    def invent(method: str, params: list[Any], result: Any) -> Any:
        return result | {"number": hex(10**9)} if method == "eth_getBlockByNumber" and params[0] == "latest" else result

    with FaultyRpc(chain.url) as third:
        client = connect([chain.url, third.url, proxy.url])
        clients.append(client)
        proxy.bend = invent
        seen = client.head().number
        client.wait_for_block(seen + 10)
        assert [endpoint.lag for endpoint in client.endpoints] == [None] * 3
        assert client.head().number < 10**9


def test_where_every_other_is_silent_a_late_one_is_better_than_none(
    chain: Chain, proxy: FaultyRpc, clients: list[ChainClient]
) -> None:
    with FaultyRpc(chain.url) as other:
        client = connect([other.url, proxy.url])
        clients.append(client)
        client.wait_for_block(12)
        proxy.lag_blocks = 11
        wait_until(lambda: client.endpoints[1].lag, what="the judgement")
        other.fault = Fault.DROP
        assert client.head().number > 0


# Lies


def lie_about_status(method: str, params: list[Any], result: Any) -> Any:
    return result | {"status": "0x0"} if method == "eth_getTransactionReceipt" and result else result


def lie_about_block(method: str, params: list[Any], result: Any) -> Any:
    return result | {"blockHash": "0x" + "66" * 32} if method == "eth_getTransactionReceipt" and result else result


def lie_about_transaction(method: str, params: list[Any], result: Any) -> Any:
    return (
        result | {"transactionHash": "0x" + "66" * 32} if method == "eth_getTransactionReceipt" and result else result
    )


def say_nothing(method: str, params: list[Any], result: Any) -> Any:
    return None if method == "eth_getTransactionReceipt" else result


def garble(method: str, params: list[Any], result: Any) -> Any:
    return {"status": [], "logs": 7} if method == "eth_getTransactionReceipt" and result else result


class Invent:
    """A receipt for a transaction nobody mined, in a block that exists."""

    def __init__(self, proxy: FaultyRpc) -> None:
        self._proxy = proxy

    def __call__(self, method: str, params: list[Any], result: Any) -> Any:
        if method != "eth_getTransactionReceipt" or result is not None:
            return result
        block = self._proxy.ask("eth_getBlockByNumber", "latest", False)
        return {
            "transactionHash": params[0], "status": "0x1", "blockNumber": block["number"], "blockHash": block["hash"],
            "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "contractAddress": None, "logs": [],
        }  # fmt: skip


@pytest.mark.parametrize("lie", [lie_about_block, lie_about_transaction, garble])
def test_a_receipt_that_contradicts_its_own_chain_is_not_believed(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, lie: Any
) -> None:
    said: list[str] = []
    client = connect(proxy.url, key, notify=said.append, receipt_timeout_s=5)
    proxy.bend = lie
    with pytest.raises(ReceiptTimeout, match=f"{proxy.url} gave a") as caught:
        client.transfer(TARGET, 1)
    assert len(str(caught.value)) < 300
    assert any("not believed" in one for one in said)
    proxy.bend = None
    assert client.transfer(TARGET, 1).gas_used == 21_000
    assert int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16) == 1


def test_a_receipt_kept_from_us_is_waited_for_and_nothing_is_sent_twice(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner
) -> None:
    client = connect(proxy.url, key, receipt_timeout_s=5)
    proxy.bend = say_nothing
    with pytest.raises(ReceiptTimeout, match=r"it is in block \d+, and its receipt is kept from us"):
        client.transfer(TARGET, 1)
    proxy.bend = None
    assert client.transfer(TARGET, 1).gas_used == 21_000
    assert int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16) == 1


def test_an_invented_receipt_is_not_believed(proxy: FaultyRpc, key: LocalSigner) -> None:
    client = connect(proxy.url, key, receipt_timeout_s=2)
    proxy.least_fee_wei = 10**18
    proxy.bend = Invent(proxy)
    with pytest.raises(ReceiptTimeout, match="which does not list the transaction"):
        client.transfer(TARGET, 1)


@pytest.mark.parametrize("lie", [lie_about_status, lie_about_block, lie_about_transaction, say_nothing, garble])
def test_of_three_endpoints_two_that_agree_are_believed(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, clients: list[ChainClient], lie: Any
) -> None:
    with FaultyRpc(chain.url) as third:
        client = connect([proxy.url, chain.url, third.url], key)
        clients.append(client)
        proxy.bend = lie
        assert client.transfer(TARGET, 1).gas_used == 21_000


@pytest.mark.parametrize("lie", [lie_about_block, lie_about_transaction, garble])
def test_one_of_two_that_contradicts_itself_is_set_aside(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, clients: list[ChainClient], lie: Any
) -> None:
    client = connect([proxy.url, chain.url], key)
    clients.append(client)
    proxy.bend = lie
    assert client.transfer(TARGET, 1).gas_used == 21_000
    assert not client.endpoints[0].is_fit


def test_two_endpoints_that_disagree_are_waited_for_and_named(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, clients: list[ChainClient]
) -> None:
    client = connect([proxy.url, chain.url], key, receipt_timeout_s=3)
    clients.append(client)
    proxy.bend = lie_about_status
    with pytest.raises(ReceiptTimeout, match=rf"do not agree \({proxy.url}: failure in block \d+; .*: success in"):
        client.transfer(TARGET, 1)
    proxy.bend = None
    assert client.transfer(TARGET, 1).gas_used == 21_000


def test_an_endpoint_of_another_chain_is_refused(chain: Chain, tmp_path: Path) -> None:
    told = "has id 7, not 31337: "
    with ChainProcess(tmp_path, "--chain-id", "7") as other, pytest.raises(WrongChain, match=told) as caught:
        connect([chain.url, other.url])
    assert other.url in str(caught.value)


def test_one_that_turns_out_to_be_another_chain_later_is_never_asked(
    chain: Chain, tmp_path: Path, clients: list[ChainClient]
) -> None:
    with ChainProcess(tmp_path, "--chain-id", "7") as other, FaultyRpc(other.url) as late:
        late.fault = Fault.DROP
        client = connect([late.url, chain.url])
        clients.append(client)
        late.fault = None
        wait_until(lambda: client.endpoints[0].wrong, what="the judgement")
        assert client.chain_id == 31337
        client.get_balance(TARGET)
        assert late.requests["eth_getBalance"] == 0


# Rates


def test_retry_after_is_honoured(proxy: FaultyRpc) -> None:
    client = connect(proxy.url, patience_s=30)
    proxy.retry_after_s, proxy.fault = 1.5, Fault.TOO_MANY
    with ThreadPoolExecutor(1) as threads:
        started = time.monotonic()
        asking = threads.submit(client.head)
        wait_until(lambda: proxy.requests["eth_getBlockByNumber"] >= 1, what="the request")
        proxy.fault = None
        asking.result(60)
    assert time.monotonic() - started >= 1.4
    assert proxy.requests["eth_getBlockByNumber"] == 2, "not hammered in between"


def test_longer_than_our_patience_is_told_at_once(proxy: FaultyRpc) -> None:
    client = connect(proxy.url, patience_s=5)
    proxy.retry_after_s, proxy.fault = 120, Fault.TOO_MANY
    started = time.monotonic()
    with pytest.raises(ChainUnreachable, match="asked too often"):
        client.head()
    assert time.monotonic() - started < 4
    assert proxy.requests["eth_getBlockByNumber"] == 1


def test_an_endpoint_is_asked_no_faster_than_set(proxy: FaultyRpc) -> None:
    client = connect(proxy.url, endpoints=EndpointPolicy(requests_per_s=20))
    for _ in range(40):  # what it may ask at once
        client.get_balance(TARGET)
    started = time.monotonic()
    for _ in range(10):
        client.get_balance(TARGET)
    assert time.monotonic() - started >= 0.3


def test_too_many_results_is_no_rate_limit(proxy: FaultyRpc, key: LocalSigner) -> None:
    """-32005 also says that a range holds too much: asking less is the answer, not waiting."""
    client = connect(proxy.url)
    real_answer = proxy._answer

    def answer(method: str, params: list[Any], request: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getLogs" and int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) > 2:
            return {"jsonrpc": "2.0", "error": {"code": -32005, "message": "query returned more than 10000 results"}}
        return real_answer(method, params, request)

    proxy._answer = answer  # type: ignore[method-assign]  # a lie of this test alone
    assert list(client.get_logs(address=TARGET, first_block=0, last_block=9)) == []


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.floats(0.5, 50), st.integers(1, 20))
def test_a_bucket_never_lets_more_through_than_its_rate_and_burst(gaps: list[float], rate: float, burst: int) -> None:
    now = [0.0]
    bucket = TokenBucket(rate, burst, clock=lambda: now[0])
    sent: list[float] = []
    for gap in gaps:
        now[0] += gap
        now[0] += bucket.take()
        sent.append(now[0])
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - sent[first]) + 1.001


def test_a_bucket_slows_down_when_told_and_recovers() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 5, clock=lambda: now[0])
    bucket.slow_down()
    assert bucket.rate == 5
    for _ in range(8):
        now[0] += 11
        bucket.take()
    assert bucket.rate == 10


# Deadlines and words


def test_a_call_that_hangs_is_given_up_on_and_its_thread_used_again() -> None:
    release = threading.Event()
    with pytest.raises(deadlines.GaveUp, match=r"no answer in 0\.05 s"):
        deadlines.call_within(0.05, release.wait)
    release.set()
    assert deadlines.call_within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        deadlines.call_within(5, lambda: 1 // 0)


def test_looking_up_a_name_that_hangs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver is not ours: here it never answers."""
    release = threading.Event()

    def hang(*arguments: Any, **named: Any) -> Any:
        release.wait(60)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    with pytest.raises(Silent, match=r"no answer in 0\.2 s"):
        Transport("http://rpc.example:8545").ask("eth_chainId", (), timeout_s=0.2)
    assert time.monotonic() - started < 10
    release.set()


def test_a_name_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(Silent, match=r"its name is not known|connection refused or lost"):
        Transport("http://no-such-host.invalid:8545").ask("eth_chainId", (), timeout_s=20)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("https://mainnet.example.io/v3/0123456789abcdef", "https://mainnet.example.io/..."),
        ("https://user:password@rpc.example.org", "https://rpc.example.org"),
        ("https://rpc.example.org/?apikey=secret", "https://rpc.example.org/..."),
        ("http://[::1]:8545/", "http://[::1]:8545"),
    ],
)
def test_what_may_be_secret_in_a_url_is_never_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    transport = Transport(url)
    assert transport.name == shown


def test_a_key_in_a_url_stays_out_of_errors_and_of_the_clients_name(proxy: FaultyRpc) -> None:
    secret = f"{proxy.url.replace('http://', 'http://alice:hunter2@')}/v3/0123456789abcdef?apikey=s3cr3t"
    client = connect(secret, patience_s=0.1)
    assert client.url == f"{proxy.url}/..."
    proxy.fault = Fault.DROP
    with pytest.raises(ChainUnreachable) as caught:
        client.head()
    for word in ("alice", "hunter2", "0123456789abcdef", "s3cr3t"):
        assert word not in str(caught.value)
        assert word not in repr(caught.value)


@pytest.mark.parametrize("urls", [(), ("http://127.0.0.1:1", "http://127.0.0.1:1"), ("http://127.0.0.1:99999",)])
def test_urls_that_make_no_sense_are_refused(urls: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        connect(urls)


def test_a_refused_url_shows_no_password() -> None:
    with pytest.raises(UsageError) as caught:
        connect("ftp://alice:hunter2@example.org")
    assert "hunter2" not in str(caught.value)


def test_a_transaction_goes_to_every_endpoint(chain: Chain, key: LocalSigner, clients: list[ChainClient]) -> None:
    with FaultyRpc(chain.url) as first, FaultyRpc(chain.url) as second:
        first.least_fee_wei = 10**18  # the one that is asked keeps it for itself
        client = connect([first.url, second.url], key)
        clients.append(client)
        sent = client.submit(bind_transfer(TARGET), value_wei=1)
        wait_until(lambda: second.requests["eth_sendRawTransaction"] > 0, what="the copy")
        first.least_fee_wei = 0
        assert client.wait(sent).gas_used == 21_000
