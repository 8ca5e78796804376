"""Whatever an endpoint says, it costs an error of ours: never a crash, never a transaction that is forgotten."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from chain_process import KEYS
from chain_worlds import Chain, open_chain
from eth_utils.address import to_checksum_address
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rpc_faults import Fault, FaultyRpc, wait_until

from cupel.chain import answers, watching
from cupel.chain.abi import bind_transfer
from cupel.chain.bytecode import find_creation, get_creation, read_slot
from cupel.chain.client import ChainClient, EndpointPolicy, FeePolicy, Outbox
from cupel.chain.errors import FeeAboveCap, MaybeTaken, TransactionRejected
from cupel.chain.headers import encode_header
from cupel.chain.keys import LocalSigner, make_key
from cupel.chain.suitability import find_chain_problem
from cupel.protocol.errors import CupelError, MalformedInput, Unavailable
from cupel.protocol.types import Address, Height

TARGET = Address(to_checksum_address("0x" + "cd" * 20))
QUICK = EndpointPolicy(timeout_s=1.0, check_s=0.1)
HUGE = "0x" + "f" * 5000
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["0x", "0x0", "0x1", "0xzz", "-0x1", "0x1 ", HUGE, "0x" + "f" * 64, "0x" + "ab" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["number", "hash", "transactions", "status", "logs", "nonce", "from"]), inner, max_size=4
    ),
    max_leaves=6,
)  # fmt: skip
PARSERS = [getattr(answers, name) for name in dir(answers) if name.startswith("parse_") and name != "parse_header"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with open_chain("embedded", tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture(scope="module")
def proxies(chain: Chain) -> Iterator[tuple[FaultyRpc, FaultyRpc]]:
    with FaultyRpc(chain.url) as first, FaultyRpc(chain.url) as second:
        yield first, second


@pytest.fixture
def pair(proxies: tuple[FaultyRpc, FaultyRpc]) -> Iterator[tuple[FaultyRpc, FaultyRpc]]:
    yield proxies
    for one in proxies:
        one.fault = one.fault_methods = one.bend = one.refusal = None


@pytest.fixture
def proxy(pair: tuple[FaultyRpc, FaultyRpc]) -> FaultyRpc:
    return pair[0]


@pytest.fixture
def key(chain: Chain) -> LocalSigner:
    """A fresh, funded key."""
    fresh = make_key()
    ChainClient(chain.url, KEYS[0], poll_seconds=0.02).transfer(fresh.address, 10**18)
    return fresh


def connect(urls: Any, key: LocalSigner | None = None, **settings: Any) -> ChainClient:
    given = {"poll_seconds": 0.02, "outbox": Outbox(), "endpoints": QUICK, "notify": lambda message: None}
    return ChainClient(urls, key, **(given | settings))


def bend_field(proxy: FaultyRpc, method: str, **fields: Any) -> None:
    proxy.bend = lambda asked, params, result: (result | fields) if asked == method and result else result


# One parser


@given(JUNK)
def test_every_parser_knows_only_one_error(junk: Any) -> None:
    for parse in PARSERS:
        try:
            parse(junk)
        except MalformedInput as error:
            said = str(error)
        else:
            said = ""
        assert len(said) <= 250
        assert said.isprintable(), "nothing of it may move the reader's cursor"


@pytest.mark.parametrize(
    "wrong", [HUGE, "0x" + "f" * 65, "12", 12, "0x", " 0x1", "0x1\n", "0x_1", "-0x1", True, ["0x1"]]
)
def test_a_number_is_hexadecimal_of_at_most_256_bits(wrong: Any) -> None:
    with pytest.raises(MalformedInput, match="is not a number of at most 256 bits"):
        answers.parse_quantity(wrong)
    assert answers.parse_quantity("0x" + "f" * 64) == 2**256 - 1
    with pytest.raises(MalformedInput, match="has more than 53 bits"):
        answers.parse_count(hex(2**53))


@pytest.mark.parametrize("wrong", ["0x0", "0x 00", "00", "0xzz", None, 5, b"0x00"])
def test_bytes_are_pairs_of_digits_and_nothing_between(wrong: Any) -> None:
    with pytest.raises(MalformedInput, match="is not bytes"):
        answers.parse_data(wrong)


@pytest.mark.parametrize("wrong", [[], "x", 5, {}, {"parentHash": 5}, {"hash": HUGE}])
def test_what_is_no_block_has_no_header(wrong: Any) -> None:
    with pytest.raises(MalformedInput):
        encode_header(wrong)


def spoil(result: Any, junk: Any, chance: random.Random) -> Any:
    """The whole answer, or one field of it, or a field of its first transaction."""
    if isinstance(result, list) and result and chance.random() < 0.7:
        return [spoil(result[0], junk, chance), *result[1:]]
    if not isinstance(result, dict) or chance.random() < 0.2:
        return junk
    name = chance.choice(sorted(result))
    inner = result[name]
    return result | {name: spoil(inner, junk, chance) if isinstance(inner, dict | list) else junk}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), junk=JUNK)
def test_spoilt_answers_raise_only_errors_of_ours(proxies: tuple[FaultyRpc, FaultyRpc], seed: int, junk: Any) -> None:
    proxy, chance = proxies[0], random.Random(seed)
    share = chance.choice([0.05, 0.3, 1.0])
    proxy.bend = None
    fees = FeePolicy(spike_patience_s=0, replace_after_blocks=1, replace_after_s=0)
    client = connect(proxy.url, KEYS[1], patience_s=0.1, receipt_timeout_s=0.3, fees=fees, poll_seconds=0.01)
    proxy.bend = lambda method, params, result: spoil(result, junk, chance) if chance.random() < share else result
    hash_ = "0x" + "ab" * 32
    for act in (
        lambda: client.head(), lambda: client.get_block(1), lambda: client.get_block_by_hash(b"h" * 32),
        lambda: client.get_final_height(), lambda: client.get_header(1), lambda: client.get_transactions(1),
        lambda: client.get_balance(TARGET), lambda: client.has_code(TARGET), lambda: client.suggest_tip(1),
        lambda: client.count_transactions(TARGET, "pending"), lambda: read_slot(client, TARGET, 0),
        lambda: list(client.get_logs(address=TARGET, first_block=0, last_block=1)),
        lambda: get_creation(client, hash_), lambda: find_creation(client, TARGET, Height(1)),
        lambda: find_chain_problem(client), lambda: client.recover(),
        lambda: client.transfer(TARGET, 1), lambda: client.cancel("a duty"),
        lambda: client.send(bind_transfer(TARGET), duty="a duty"), lambda: client._need_watcher().tend(),
        lambda: connect(proxy.url, KEYS[2], patience_s=0.1).close(),
    ):  # fmt: skip
        with contextlib.suppress(CupelError):
            act()
    client.close()
    proxy.bend = None


def test_a_price_of_5000_digits_is_malformed_and_one_of_256_bits_is_above_the_cap(
    proxy: FaultyRpc, key: LocalSigner
) -> None:
    client = connect(proxy.url, key, fees=FeePolicy(spike_patience_s=0))
    bend_field(proxy, "eth_getBlockByNumber", baseFeePerGas=HUGE)
    with pytest.raises(MalformedInput, match="the node's block is malformed"):
        client.transfer(TARGET, 1)
    bend_field(proxy, "eth_getBlockByNumber", baseFeePerGas="0x" + "f" * 64)
    with pytest.raises(FeeAboveCap):
        client.transfer(TARGET, 1)


# The thread that looks after transactions


def test_transactions_without_a_word_about_them_prove_no_foreign_one(proxy: FaultyRpc, key: LocalSigner) -> None:
    """The receipt is kept back, and the block that used the nonce shows hashes instead of transactions."""
    client = connect(proxy.url, key, receipt_timeout_s=600)

    def bend(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getTransactionReceipt":
            return None
        if method == "eth_getBlockByNumber" and params[1] and result:
            return result | {"transactions": ["0x" + "cd" * 32]}
        return result

    proxy.bend = bend
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    finder = client._need_watcher()._finder
    wait_until(lambda: "is malformed" in (finder.trouble or ""), what="the look into the block")
    assert [entry.nonce for entry in client.list_pending()] == [sent.nonce], "and it is not sent again"
    proxy.bend = None
    assert client.wait(sent).transaction_hash == sent.hash


def test_the_keeper_survives_a_bug(
    proxy: FaultyRpc, key: LocalSigner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, is_broken = connect(proxy.url, key), threading.Event()
    whole = watching.Watcher.tend

    def tend(self: watching.Watcher) -> bool:
        if is_broken.is_set():
            raise AttributeError("a bug")
        return whole(self)

    is_broken.set()
    monkeypatch.setattr(watching.Watcher, "tend", tend)
    sent = client.submit(bind_transfer(TARGET), value_wei=1)
    wait_until(lambda: "looking after transactions failed" in caplog.text, what="the report")
    is_broken.clear()
    wait_until(lambda: client.list_pending()[0].mined_hash == sent.hash, what="the next look")
    client.close()


# Whose account it is


def test_a_key_is_never_named_without_the_first_block(
    chain: Chain, pair: tuple[FaultyRpc, FaultyRpc], key: LocalSigner
) -> None:
    whole = connect(chain.url, key)
    for proxy in pair:
        proxy.bend = lambda method, params, result: None if params[:1] == ["0x0"] else result
    for urls in (pair[0].url, [one.url for one in pair]):
        with pytest.raises(Unavailable, match=r"does not give the chain's first block .*no block 0 there.*pruned"):
            connect(urls, key)
    assert connect([pair[0].url, chain.url], key)._need_sender().account == whole._need_sender().account
    pair[0].bend = lambda method, params, result: (result | {"number": "0x5"}) if params[:1] == ["0x0"] else result
    with pytest.raises(Unavailable, match="block 5 instead of 0"):
        connect(pair[0].url, key)
    assert connect(pair[0].url).head().number >= 0, "who only reads needs no name"


# Refused by one, taken by another


def test_what_a_silent_endpoint_may_have_taken_is_not_forgotten_because_another_refuses_it(
    chain: Chain, pair: tuple[FaultyRpc, FaultyRpc], key: LocalSigner
) -> None:
    taker, refuser = pair
    client = connect([taker.url, refuser.url], key)
    asked = frozenset({"eth_sendRawTransaction", "eth_getTransactionByHash", "eth_getTransactionReceipt"})
    taker.fault, taker.fault_methods = Fault.LOSE_ANSWER, asked
    refuser.refusal = "transaction pool is full"
    refuser.bend = lambda method, params, result: None if method in asked else result
    with pytest.raises(MaybeTaken, match=r"pool is full.*may still be mined"):
        client.transfer(TARGET, 1)
    (entry,) = client.list_pending()
    taker.fault = refuser.refusal = refuser.bend = None
    receipt = client.transfer(TARGET, 1)
    assert entry.find_version(receipt.transaction_hash) is not None
    assert int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16) == 1
    client.close()


def test_what_all_deny_is_forgotten(chain: Chain, pair: tuple[FaultyRpc, FaultyRpc], key: LocalSigner) -> None:
    silent, refuser = pair
    client = connect([silent.url, refuser.url], key)
    silent.fault, silent.fault_methods = Fault.DROP, frozenset({"eth_sendRawTransaction"})
    refuser.refusal = "transaction pool is full"
    with pytest.raises(TransactionRejected, match="pool is full"):
        client.transfer(TARGET, 1)
    assert client.list_pending() == ()
    client.close()
