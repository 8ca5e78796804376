"""Which transactions wait, which replace which, and the order in which a block takes them."""

from __future__ import annotations

import pytest
from chain_process import ETH, KEYS
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.chain.keys import LocalSigner
from cupel.chain.node import pool as pool_module
from cupel.chain.node.chain import decode_transaction
from cupel.chain.node.pool import Refused, TransactionPool, Waiting, check_transaction

CHAIN, GAS_LIMIT = 31337, 30_000_000


def make_raw(signer: LocalSigner, nonce: int, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "type": 2,
        "chainId": CHAIN,
        "nonce": nonce,
        "to": KEYS[1].address,
        "value": 0,
        "gas": 21_000,
        "maxFeePerGas": 100,
        "maxPriorityFeePerGas": 1,
        "data": b"",
    }
    return signer.sign_transaction(fields | changes)


def add(pool: TransactionPool, raw: bytes, *, account_nonce: int = 0, balance_wei: int = ETH) -> Waiting:
    waiting, _ = pool.add(decode_transaction(raw), raw, account_nonce=account_nonce, balance_wei=balance_wei)
    return waiting


def check(raw: bytes) -> None:
    check_transaction(decode_transaction(raw), size=len(raw), chain_id=CHAIN, gas_limit=GAS_LIMIT)


def drain(pool: TransactionPool, base_fee_wei: int, account_nonce: int = 0) -> list[Waiting]:
    selection, taken = pool.select(base_fee_wei, lambda _: account_nonce), []
    while (waiting := selection.peek()) is not None:
        taken.append(waiting)
        selection.shift()
    return taken


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(1, 60)),
        max_size=18,
        unique_by=lambda entry: entry[:2],
    ),
    st.integers(0, 80),
)
def test_a_block_takes_the_best_tip_first_and_every_sender_in_order_without_gaps(
    entries: list[tuple[int, int, int]], base_fee_wei: int
) -> None:
    pool = TransactionPool()
    for sender, nonce, tip in entries:
        add(pool, make_raw(KEYS[sender], nonce, maxPriorityFeePerGas=tip))
    taken = drain(pool, base_fee_wei)
    nonces = {sender: {nonce for who, nonce, _ in entries if who == sender} for sender in range(3)}
    for sender, own in nonces.items():
        address = bytes.fromhex(KEYS[sender].address[2:])
        got = [waiting.nonce for waiting in taken if waiting.sender == address]
        gapless = next(number for number in range(7) if number not in own)
        assert got == list(range(gapless))
    # Each taken one paid at least as much as every other that was possible at that moment.
    for position, waiting in enumerate(taken):
        heads = {}
        for later in taken[position:]:
            heads.setdefault(later.sender, later)
        assert waiting.compute_tip(base_fee_wei) == max(head.compute_tip(base_fee_wei) for head in heads.values())


def test_what_cannot_pay_the_base_fee_waits_and_holds_its_sender_back() -> None:
    pool = TransactionPool()
    add(pool, make_raw(KEYS[0], 0, maxFeePerGas=10))
    add(pool, make_raw(KEYS[0], 1, maxFeePerGas=1000))
    assert drain(pool, base_fee_wei=11) == []
    assert [waiting.nonce for waiting in drain(pool, base_fee_wei=10)] == [0, 1]


def test_a_replacement_needs_a_tenth_more_of_both_fees() -> None:
    pool = TransactionPool()
    first = add(pool, make_raw(KEYS[0], 0, maxFeePerGas=100, maxPriorityFeePerGas=10))
    for fees in ({"maxFeePerGas": 110, "maxPriorityFeePerGas": 10}, {"maxFeePerGas": 109, "maxPriorityFeePerGas": 11}):
        with pytest.raises(Refused, match="replacement transaction underpriced"):
            add(pool, make_raw(KEYS[0], 0, **fees))
    raw = make_raw(KEYS[0], 0, maxFeePerGas=110, maxPriorityFeePerGas=11)
    second, replaced = pool.add(decode_transaction(raw), raw, account_nonce=0, balance_wei=ETH)
    assert replaced is first
    assert [waiting.hash for waiting in pool] == [second.hash]


def test_funds_must_cover_everything_of_lower_nonce_too() -> None:
    pool = TransactionPool()
    cost = 21_000 * 100 + 5
    add(pool, make_raw(KEYS[0], 0, value=5), balance_wei=2 * cost - 1)
    with pytest.raises(Refused, match=f"insufficient funds.*balance {2 * cost - 1}.*queued cost {cost}"):
        add(pool, make_raw(KEYS[0], 1, value=5), balance_wei=2 * cost - 1)
    add(pool, make_raw(KEYS[0], 1, value=5), balance_wei=2 * cost)


def test_known_and_passed_nonces_are_refused() -> None:
    pool = TransactionPool()
    raw = make_raw(KEYS[0], 3)
    add(pool, raw, account_nonce=3)
    with pytest.raises(Refused, match="already known"):
        add(pool, raw, account_nonce=3)
    with pytest.raises(Refused, match="nonce too low: next nonce 4, tx nonce 3"):
        add(pool, make_raw(KEYS[0], 3, value=1), account_nonce=4)


def test_one_sender_cannot_fill_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "SENDER_TRANSACTIONS", 2)
    monkeypatch.setattr(pool_module, "POOL_TRANSACTIONS", 3)
    pool = TransactionPool()
    add(pool, make_raw(KEYS[0], 0))
    add(pool, make_raw(KEYS[0], 1))
    with pytest.raises(Refused, match="account limit exceeded"):
        add(pool, make_raw(KEYS[0], 2))
    add(pool, make_raw(KEYS[1], 0))
    with pytest.raises(Refused, match="txpool is full"):
        add(pool, make_raw(KEYS[2], 0))
    add(pool, make_raw(KEYS[0], 1, maxFeePerGas=200, maxPriorityFeePerGas=2))  # a replacement takes no room


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chainId": 1}, "invalid chain id for signer: have 1 want 31337"),
        ({"gas": 20_999}, "intrinsic gas too low: have 20999, want 21000"),
        # 100 bytes that are not zero: 16 gas each for the data, but at least 40 each in all (EIP-7623).
        ({"data": b"\x01" * 100, "gas": 21_000 + 1_600}, "intrinsic gas too low: have 22600, want 25000"),
        ({"gas": GAS_LIMIT + 1}, "exceeds block gas limit"),
        ({"maxPriorityFeePerGas": 101}, "max priority fee per gas higher than max fee per gas: 101 > 100"),
        ({"data": bytes(131_072), "gas": 5_000_000}, "oversized data"),
    ],
)
def test_a_transaction_no_block_could_hold_is_refused(changes: dict[str, object], reason: str) -> None:
    check(make_raw(KEYS[0], 0))
    with pytest.raises(Refused, match=reason):
        check(make_raw(KEYS[0], 0, **changes))


def test_init_code_above_the_limit_is_refused() -> None:
    fields = {"type": 2, "chainId": CHAIN, "nonce": 0, "value": 0, "gas": 5_000_000}
    fields |= {"maxFeePerGas": 100, "maxPriorityFeePerGas": 1}
    check(KEYS[0].sign_transaction(fields | {"data": bytes(49_152)}))
    with pytest.raises(Refused, match="max initcode size exceeded"):
        check(KEYS[0].sign_transaction(fields | {"data": bytes(49_153)}))


def test_an_unprotected_transaction_is_refused() -> None:
    raw = KEYS[0].sign_transaction({"nonce": 0, "to": KEYS[1].address, "value": 0, "gas": 21_000, "gasPrice": 1})
    with pytest.raises(Refused, match="only replay-protected"):
        check(raw)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 120), st.integers(0, 255))))
def test_bytes_that_are_no_transaction_are_refused_and_never_crash(noise: bytes | tuple[int, int]) -> None:
    """Noise, or a signed transaction with one byte changed; the latter may be another sender's valid one."""
    raw = noise
    if isinstance(raw, tuple):
        good = bytearray(make_raw(KEYS[0], 7))
        good[raw[0] % len(good)] = raw[1]
        raw = bytes(good)
    try:
        transaction = decode_transaction(raw)
    except Refused:
        return
    assert transaction.encode() == raw
