"""Philox4x32-10 against the published known answers, and what the project draws from it."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.protocol import philox, sampling
from cupel.protocol.arithmetic import functions
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Seed, UnitId

# Random123's kat_vectors, philox4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[int, ...]:
    return tuple(int(w, 16) for w in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_blocks_are_the_published_ones(counter: str, key: str, result: str) -> None:
    assert philox.block(words(key), words(counter)) == words(result)  # type: ignore[arg-type]


def test_key_and_counter_are_filled_as_the_design_says() -> None:
    # The third known answer, seen as element (i low, i high) of a stream at a step under a 64-bit key.
    key, index = 0x299F31D0_A4093822, 0x85A308D3_243F6A88
    assert philox.word64(key, index, 0x13198A2E, 0x03707344) == 0x94FDCCEB_D16CFE09
    # A step beyond 32 bits counts by its low word.
    assert philox.word64(key, index, 0x13198A2E, 5 << 32 | 0x03707344) == 0x94FDCCEB_D16CFE09


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_the_operation_yields_the_words(backend: str) -> None:
    key, step, stream = 0xF123456789ABCDEF, 9, 0xFFFFFFFF
    got = functions.philox(key, step, (3, 7), stream, backend=backend)
    assert [int(w) % 2**64 for w in got.flatten()] == [philox.word64(key, i, stream, step) for i in range(21)]


def test_keys_come_from_seed_domain_and_unit() -> None:
    seed, unit = bytes(range(32)), bytes(range(32, 64))
    digest = hashlib.sha256(seed + b"batch" + unit).digest()
    assert sampling.philox_key(seed, "batch", unit) == int.from_bytes(digest[:8], "little")
    assert len({sampling.philox_key(seed, d, u) for d in ("batch", "genesis") for u in (b"", unit)}) == 4


@given(n=st.integers(1, 1 << 63), index=st.integers(0, 1 << 40), stream=st.integers(0, 9), step=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_draws_lie_below_their_bound(n: int, index: int, stream: int, step: int) -> None:
    draw = sampling.draw_below(1, index, stream, step, n)
    assert 0 <= draw < n
    assert draw == philox.word64(1, index, stream, step) * n // 2**64


def test_draws_of_tensors_and_of_integers_agree() -> None:
    expected = [sampling.draw_below(77, i, 2, 5, 1000) for i in range(50)]
    assert functions.randint(77, 5, (50,), 1000, 2).tolist() == expected


SEED, UNIT = Seed(b"s" * 32), UnitId(b"u" * 32)


def test_batches_stay_within_their_shards_and_reach_both_ends() -> None:
    positions = [p for step in range(60) for p in sampling.batch_positions(SEED, UNIT, step, 16, 3, 20, 17)]
    assert {s for s, _ in positions} == {0, 1, 2}
    assert {o for _, o in positions} == {0, 1, 2, 3}


def test_batches_differ_by_seed_unit_step_and_not_by_their_size() -> None:
    batch = sampling.batch_positions(SEED, UNIT, 4, 16, 9, 5000, 65)
    assert sampling.batch_positions(SEED, UNIT, 4, 7, 9, 5000, 65) == batch[:7]
    others = [(Seed(b"t" * 32), UNIT, 4), (SEED, UnitId(b"v" * 32), 4), (SEED, UNIT, 5)]
    assert all(sampling.batch_positions(*o, 16, 9, 5000, 65) != batch for o in others)


@pytest.mark.parametrize("arguments", [(0, 16, 0, 100, 10), (0, 16, 3, 9, 10), (0, 16, 3, 9, 0), (1 << 32, 1, 3, 9, 5)])
def test_batches_that_cannot_be_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(MalformedInput):
        sampling.batch_positions(SEED, UNIT, *arguments)


def test_uniform_numbers_are_24_bits_below_1() -> None:
    u = functions.uniform(5, 0, (4000,))
    assert 0 <= float(u.min()) < 0.01
    assert 0.99 < float(u.max()) < 1
    assert torch.equal(u * 2**24, (u * 2**24).round())


def test_normal_numbers_have_mean_0_and_variance_1() -> None:
    x = functions.normal(5, 0, (20000,)).double()
    assert abs(float(x.mean())) < 0.03
    assert abs(float(x.var()) - 1) < 0.05
    assert bool(torch.isfinite(x).all())
