"""A unit of work: the same bits for everybody, each segment leading to the next leaf, nothing changed unnoticed."""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupel.network.states import check_state_root, decode_state, encode_state
from cupel.protocol import merkle, sampling
from cupel.protocol.errors import RootMismatch
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.programs import RunConfig, RunPrograms
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.step import TrainingConfig
from cupel.protocol.training.unit import (
    NO_EVIDENCE,
    Answer,
    Commitment,
    LoadBatch,
    State,
    Stepped,
    answer_of,
    compute_salt,
    float_bits,
    train_segment,
)
from cupel.protocol.types import Root, Seed, UnitId

SEED, UNIT = Seed(bytes(31) + b"\x07"), UnitId(bytes(31) + b"\x09")
SEGMENTS, SEGMENT_STEPS, SHARD_TOKENS = 3, 2, 200
CONFIG = RunConfig(
    model=ModelConfig(vocabulary=32, width=8, layers=1, heads=2, hidden=16, context=8),
    training=TrainingConfig(batch=2, learning_rate=1e-2, warmup_steps=2, total_steps=100),
    max_merge=2,
    top_k=4,
)


def derive_secret(label: bytes) -> bytes:
    return hmac.digest(b"a miner's key", label, "sha256")


@pytest.fixture(scope="module")
def programs() -> RunPrograms:
    return RunPrograms.build(CONFIG)


@pytest.fixture(scope="module")
def genesis(programs: RunPrograms) -> NamedState:
    return programs.run_genesis(SEED, backend="torch")


@pytest.fixture(scope="module")
def shards() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [torch.randint(0, 32, (SHARD_TOKENS,), generator=random, dtype=torch.int32) for _ in range(3)]


def loader(shards: list[torch.Tensor], unit: UnitId = UNIT) -> LoadBatch:
    def load(step: int) -> torch.Tensor:
        length = CONFIG.model.context + 1
        positions = sampling.batch_positions(SEED, unit, step, CONFIG.training.batch, len(shards), SHARD_TOKENS, length)
        return torch.stack([shards[shard][at : at + length] for shard, at in positions])

    return load


def train(
    programs: RunPrograms, start: NamedState, load: LoadBatch, backend: str = "torch", threads: int = 1
) -> tuple[list[Answer], list[NamedState]]:
    """Answers and end states of the whole unit."""
    step = partial(programs.run_step, backend=backend, threads=threads)
    answers, states = [], [start]
    for segment in range(SEGMENTS):
        result = train_segment(step, states[-1], load, segment, SEGMENT_STEPS)
        answers.append(answer_of(result))
        states.append(dict(result.state))
    return answers, states


@pytest.fixture(scope="module")
def unit(
    programs: RunPrograms, genesis: NamedState, shards: list[torch.Tensor]
) -> tuple[list[Answer], list[NamedState]]:
    return train(programs, genesis, loader(shards))


def commitment_of(start: NamedState, answers: list[Answer]) -> Commitment:
    return Commitment.of(derive_secret, UNIT, merkle.state_root(start), answers)


@pytest.mark.parametrize(("backend", "threads"), [("cpu", 1), ("cpu", 2), ("reference", 1)])
def test_every_backend_and_thread_count_reaches_the_same_root(
    programs: RunPrograms,
    genesis: NamedState,
    shards: list[torch.Tensor],
    unit: tuple[list[Answer], list[NamedState]],
    backend: str,
    threads: int,
) -> None:
    answers, _ = train(programs, genesis, loader(shards), backend, threads)
    assert commitment_of(genesis, answers).root == commitment_of(genesis, unit[0]).root


def test_any_segment_replayed_alone_gives_the_next_leaf(
    programs: RunPrograms, shards: list[torch.Tensor], unit: tuple[list[Answer], list[NamedState]]
) -> None:
    answers, states = unit
    step = partial(programs.run_step, backend="torch")
    for segment in reversed(range(SEGMENTS)):
        result = train_segment(step, states[segment], loader(shards), segment, SEGMENT_STEPS)
        assert answer_of(result) == answers[segment]
    assert len({answer.end_root for answer in answers}) == SEGMENTS


def test_a_state_read_back_from_its_file_trains_on_alike(
    programs: RunPrograms, shards: list[torch.Tensor], unit: tuple[list[Answer], list[NamedState]]
) -> None:
    state = decode_state(encode_state(unit[1][1]))
    result = train_segment(partial(programs.run_step, backend="torch"), state, loader(shards), 1, SEGMENT_STEPS)
    assert answer_of(result) == unit[0][1]


def test_training_leaves_the_start_state_as_it_was(
    programs: RunPrograms, genesis: NamedState, shards: list[torch.Tensor]
) -> None:
    before = merkle.state_root(genesis)
    train_segment(partial(programs.run_step, backend="torch"), genesis, loader(shards), 0, SEGMENT_STEPS)
    assert merkle.state_root(genesis) == before


def test_a_unit_reads_each_of_its_batches_once_and_in_order(genesis: NamedState) -> None:
    read: list[int] = []

    def load(step: int) -> torch.Tensor:
        read.append(step)
        return torch.tensor(step)

    def step(state: State, tokens: torch.Tensor) -> Stepped:
        return Stepped(state, tokens.to(torch.float32), torch.zeros(()))

    losses = [train_segment(step, genesis, load, segment, SEGMENT_STEPS).loss for segment in range(SEGMENTS)]
    assert read == list(range(SEGMENTS * SEGMENT_STEPS))
    assert losses == [float_bits(torch.tensor(float(last))) for last in (1, 3, 5)]


def test_another_unit_reads_other_tokens(shards: list[torch.Tensor]) -> None:
    other = UnitId(bytes(31) + b"\x0a")
    assert not torch.equal(loader(shards)(0), loader(shards, other)(0))


def test_one_flipped_bit_in_a_state_is_refused(unit: tuple[list[Answer], list[NamedState]]) -> None:
    state = {name: tensor.clone() for name, tensor in unit[1][1].items()}
    expected = merkle.state_root(state)
    check_state_root("checkpoint 1", state, expected)
    bits = state["weights.embedding.weight"].view(torch.int32)
    bits[0, 0] ^= 1
    with pytest.raises(RootMismatch, match=r"checkpoint 1: expected root 0x[0-9a-f]{64}, got 0x") as caught:
        check_state_root("checkpoint 1", state, expected)
    assert caught.value.expected == expected


def test_one_changed_token_changes_the_answer(
    programs: RunPrograms, shards: list[torch.Tensor], unit: tuple[list[Answer], list[NamedState]]
) -> None:
    changed = [shard.clone() for shard in shards]
    shard, offset = sampling.batch_positions(SEED, UNIT, 0, 2, 3, SHARD_TOKENS, CONFIG.model.context + 1)[0]
    changed[shard][offset] ^= 1
    step = partial(programs.run_step, backend="torch")
    result = train_segment(step, unit[1][0], loader(changed), 0, SEGMENT_STEPS)
    assert answer_of(result).end_root != unit[0][0].end_root


def test_evidence_is_that_of_the_last_step(
    programs: RunPrograms, shards: list[torch.Tensor], unit: tuple[list[Answer], list[NamedState]]
) -> None:
    load, state = loader(shards), unit[1][0]
    first = programs.run_step(state, load(0), backend="torch")
    last = programs.run_step(first.state, load(1), backend="torch")
    assert unit[0][0].loss == float_bits(last.loss) != float_bits(first.loss)
    assert unit[0][0].gradient_norm == float_bits(last.gradient_norm)
    assert torch.tensor(1.0).numpy().tobytes() == float_bits(torch.tensor(1.0))


def test_every_leaf_of_a_commitment_is_proved(genesis: NamedState, unit: tuple[list[Answer], list[NamedState]]) -> None:
    commitment = commitment_of(genesis, unit[0])
    leaves = commitment.leaves()
    assert len(leaves) == SEGMENTS + 2
    assert leaves[0] == hashlib.sha256(b"\x05" + merkle.state_root(genesis) + bytes(32)).digest()
    answer, salt = unit[0][1], commitment.salts[1]
    evidence = hashlib.sha256(b"\x06" + answer.loss + answer.gradient_norm + salt).digest()
    assert leaves[2] == hashlib.sha256(b"\x05" + answer.end_root + evidence).digest()
    assert leaves[-1] == hashlib.sha256(b"\x07" + unit[0][-1].end_root).digest()
    for index, leaf in enumerate(leaves):
        assert merkle.is_proof(commitment.root, leaf, index, len(leaves), commitment.proof(index))
    assert commitment.evidence()[0] == NO_EVIDENCE


def test_salts_come_back_from_the_key() -> None:
    label = b"cupel salt" + UNIT + (3).to_bytes(4, "little")
    assert compute_salt(derive_secret, UNIT, 3) == hmac.digest(b"a miner's key", label, "sha256")
    assert compute_salt(derive_secret, UNIT, 3) == compute_salt(derive_secret, UNIT, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, SEGMENTS - 1), st.integers(0, 319))
def test_a_flipped_bit_of_any_answer_changes_the_root(segment: int, bit: int) -> None:
    answers = [
        Answer(end_root=Root(bytes([i]) * 32), loss=bytes([i] * 4), gradient_norm=bytes([i + 8] * 4))
        for i in range(SEGMENTS)
    ]
    honest = Commitment.of(derive_secret, UNIT, Root(bytes(32)), answers)
    joined = bytearray(answers[segment].end_root + answers[segment].loss + answers[segment].gradient_norm)
    joined[bit // 8] ^= 1 << bit % 8
    spoilt = Answer(end_root=Root(bytes(joined[:32])), loss=bytes(joined[32:36]), gradient_norm=bytes(joined[36:]))
    answers[segment] = spoilt
    assert Commitment.of(derive_secret, UNIT, Root(bytes(32)), answers).root != honest.root
