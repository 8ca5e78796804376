"""Random numbers of traced functions, against Philox and the formulas of DESIGN section 2 in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from cupel.protocol import philox, sampling
from cupel.protocol.errors import UsageError
from cupel.protocol.program import gumbel, normal, philox_key, randint, random_bits, run, trace, uniform

SEED, DOMAIN, UNIT, STEP, STREAM, N = bytes(range(32)), "test", b"unit", 9, 3, 64
KEY = sampling.philox_key(SEED, DOMAIN, UNIT)
WORDS = [philox.word64(KEY, i, STREAM, STEP) for i in range(N)]
LOW, HIGH = [w & 0xFFFFFFFF for w in WORDS], [w >> 32 for w in WORDS]


def drawn(function: Callable[..., torch.Tensor], *more: int) -> list[float]:
    """What a Program draws, which must be what the function gives when called as it is."""
    args = (philox_key(SEED, DOMAIN, UNIT), torch.tensor(STEP))
    program = trace(lambda key, step: function(key, step, (4, N // 4), *more, stream=STREAM), args)
    result: torch.Tensor = run(program, args, backend="torch")
    assert result.shape == (4, N // 4)
    torch.testing.assert_close(result, function(*args, (4, N // 4), *more, stream=STREAM), rtol=1e-6, atol=1e-6)
    return list(result.flatten().tolist())


def test_a_key_is_the_one_of_sampling_read_as_signed() -> None:
    seeds = [bytes([i]) * 32 for i in range(8)]
    keys = [int(philox_key(seed, DOMAIN)) for seed in seeds]
    assert [key % (1 << 64) for key in keys] == [sampling.philox_key(seed, DOMAIN) for seed in seeds]
    assert any(key < 0 for key in keys)
    assert any(key >= 0 for key in keys)


def test_bits_are_both_words_of_each_elements_block() -> None:
    assert [int(bits) % (1 << 64) for bits in drawn(random_bits)] == WORDS


def test_uniforms_are_24_bits_of_the_first_word() -> None:
    assert drawn(uniform) == [(low >> 8) * 2.0**-24 for low in LOW]


def test_normals_are_box_and_muller_of_both_words() -> None:
    expected = [
        math.sqrt(-2 * math.log(((low >> 8) + 1) * 2.0**-24)) * math.cos(2 * math.pi * (high >> 8) * 2.0**-24)
        for low, high in zip(LOW, HIGH, strict=True)
    ]
    assert drawn(normal) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_gumbels_come_from_the_middle_of_2_to_the_23_steps() -> None:
    expected = [-math.log(-math.log((2 * (low >> 9) + 1) * 2.0**-24)) for low in LOW]
    assert drawn(gumbel) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_gumbels_are_finite_at_both_ends() -> None:
    for word in (0, (1 << 32) - 1):
        u = torch.tensor((2 * (word >> 9) + 1) * 2.0**-24, dtype=torch.float32)
        assert 0 < float(u) < 1
        assert math.isfinite(float(-torch.log(-torch.log(u))))


@pytest.mark.parametrize("high", [1, 7, 1 << 20, (1 << 63) - 1])
def test_integers_are_the_high_half_of_a_product(high: int) -> None:
    assert drawn(randint, high) == [word * high >> 64 for word in WORDS]


def test_streams_steps_and_keys_are_apart() -> None:
    key, step = philox_key(SEED, DOMAIN), torch.tensor(0)
    base = random_bits(key, step, (8,))
    for other in (
        random_bits(key, step, (8,), 1),
        random_bits(key, step + 1, (8,)),
        random_bits(philox_key(SEED, "other"), step, (8,)),
    ):
        assert not set(base.tolist()) & set(other.tolist())
    assert torch.equal(random_bits(key, step, (5,)), base[:5])


def test_what_is_no_key_stream_or_bound_is_refused() -> None:
    key, step = philox_key(SEED, DOMAIN), torch.tensor(0)
    for call in (
        lambda: random_bits(key.reshape(1), step, (2,)),
        lambda: random_bits(key, torch.tensor(0.0), (2,)),
        lambda: random_bits(key, step, (2,), -1),
        lambda: random_bits(key, step, (2,), 1 << 32),
        lambda: randint(key, step, (2,), 0),
        lambda: randint(key, step, (2,), 1 << 63),
    ):
        with pytest.raises(UsageError):
            call()
