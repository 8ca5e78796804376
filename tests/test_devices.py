"""A miner's worker processes: the bits of one process, on this machine alone, and a clear word when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cupel.miner.devices import WorkerGroup
from cupel.miner.devices.fallback import MOST_FAILURES, with_fallback
from cupel.miner.devices.fitness import check_step, check_workers
from cupel.miner.settings import MAX_WORKERS, MinerSettings
from cupel.node.settings import WrongSetting
from cupel.protocol.arithmetic.steps import program as stored_step
from cupel.protocol.errors import BackendUnfit, UsageError, WorkersFailed
from cupel.protocol.program import Program, run, trace
from cupel.protocol.training.genesis import run_genesis, trace_genesis
from cupel.protocol.training.model import ModelConfig
from cupel.protocol.training.state import NamedState, example_state, flatten_state, unflatten_state
from cupel.protocol.training.step import TrainingConfig, make_training_step
from cupel.protocol.training.unit import Answer, State, Stepped, answer_of, train_segment
from cupel.protocol.types import Seed

MODEL = ModelConfig(vocabulary=2000, width=16, layers=1, heads=2, hidden=24, context=6)
TRAINING = TrainingConfig(batch=3, learning_rate=1e-2, warmup_steps=2, total_steps=20)
STEPS = 2
PIPE_BYTES = 1 << 16
"""What a pipe holds before whoever writes has to wait."""


@pytest.fixture(scope="module")
def program() -> Program:
    tokens = torch.zeros((TRAINING.batch, MODEL.context + 1), dtype=torch.int32)
    return trace(make_training_step(MODEL, TRAINING), (example_state(MODEL), tokens))


@pytest.fixture(scope="module")
def start() -> NamedState:
    return flatten_state(run_genesis(trace_genesis(MODEL), Seed(bytes(32)), backend="torch"))


@pytest.fixture(scope="module")
def group(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    """Two workers for a batch of three, so that one has more to do."""
    folder = tmp_path_factory.mktemp("miner") / "workers"
    folder.mkdir()
    (folder / "meeting").write_bytes(b"left by a miner that was killed")
    with WorkerGroup(program, size=2, backend="torch", folder=folder, silence_s=10.0) as running:
        yield running
    assert not folder.exists()


def load(step: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(step)
    return torch.randint(0, MODEL.vocabulary, (TRAINING.batch, MODEL.context + 1), dtype=torch.int32, generator=random)


def answers_of_one(program: Program, state: State, segments: int) -> list[Answer]:
    def step(state: State, tokens: torch.Tensor) -> Stepped:
        following, metrics = run(program, (unflatten_state(state), tokens), "torch")
        return Stepped(flatten_state(following), metrics["loss"], metrics["grad_norm"])

    answers = []
    for segment in range(segments):
        result = train_segment(step, state, load, segment, STEPS)
        answers.append(answer_of(result))
        state = result.state
    return answers


def listening(pid: int) -> set[str]:
    """Addresses a process accepts connections at, from Linux's own tables."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def test_processes_commit_to_what_one_does_and_a_dead_one_costs_its_step_alone(
    program: Program, start: NamedState, group: WorkerGroup
) -> None:
    expected = answers_of_one(program, start, 3)
    first = train_segment(group.step, start, load, 0, STEPS)
    assert answer_of(first) == expected[0]
    if sys.platform == "linux":
        assert set().union(*map(listening, group.process_ids)) == {"0100007F"}  # 127.0.0.1, and nothing else
    # As a miner does: the collected state, as a dict of the same tensors, goes on without being sent again.
    second = train_segment(group.step, dict(first.state), load, 1, STEPS)
    assert answer_of(second) == expected[1]

    os.kill(group.process_ids[1], signal.SIGKILL)
    with pytest.raises(WorkersFailed, match="worker process 1 of 2: ended by signal 9; its step is done again"):
        train_segment(group.step, dict(second.state), load, 2, STEPS)
    assert group.process_ids == []
    third = train_segment(group.step, dict(second.state), load, 2, STEPS)
    assert answer_of(third) == expected[2]


@pytest.mark.skipif(sys.platform == "win32", reason="stops processes by signals")
def test_a_stopped_worker_holds_nobody_up_and_one_that_cannot_read_ends(
    program: Program, start: NamedState, group: WorkerGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the miner that tells it more than its pipe takes, and not for longer than it may give no sign of life."""
    group.step(start, load(0))
    os.kill(group.process_ids[0], signal.SIGTERM)  # what asks a whole group of processes to end is not for a worker
    os.kill(group.process_ids[1], signal.SIGSTOP)
    assert sum(t.nbytes for t in group.layout.split_state(start, 1).values()) > 2 * PIPE_BYTES
    monkeypatch.setattr(group, "_silence_s", 2.0)
    with pytest.raises(WorkersFailed, match="worker process 1 of 2: no sign of life for 2 s, killed; its step is done"):
        group.step(dict(start), load(0))
    assert group.process_ids == []

    garbage = (7).to_bytes(8, "little") + b"no json"
    ended = subprocess.run(
        [sys.executable, "-m", "cupel.miner.devices.worker"], input=garbage, capture_output=True, timeout=60
    )
    assert ended.returncode == 1
    assert b"worker process: JSONDecodeError" in ended.stderr


def test_a_machine_whose_workers_keep_failing_trains_in_one_process(
    program: Program, start: NamedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alone(state: State, tokens: torch.Tensor) -> Stepped:
        following, metrics = run(program, (unflatten_state(state), tokens), "torch")
        return Stepped(flatten_state(following), metrics["loss"], metrics["grad_norm"])

    expected, notes = answers_of_one(program, start, 1), []
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with WorkerGroup(program, size=2, backend="torch") as failing:
        step = with_fallback(failing, alone, lambda: notes.append(failing.failures))
        for _ in range(MOST_FAILURES):
            assert not notes
            with pytest.raises(WorkersFailed, match="ended with code 1"):
                train_segment(step, start, load, 0, STEPS)
        assert answer_of(train_segment(step, start, load, 0, STEPS)) == expected[0]
        assert answer_of(train_segment(step, start, load, 0, STEPS)) == expected[0]
    assert notes == [MOST_FAILURES]


def test_processes_of_the_compiled_engine_pass_the_self_test() -> None:
    """By its own sums of a product's integers, which no other engine uses."""
    check_workers(size=2, backend="cpu", threads=1)


def test_workers_whose_bits_are_others_are_not_fit() -> None:
    steps_done = []

    def step(state: State, tokens: torch.Tensor) -> Stepped:
        following, metrics = run(stored_step(), (unflatten_state(state), tokens), "torch")
        flat = flatten_state(following)
        steps_done.append(flat)
        if len(steps_done) == 2:
            name = next(name for name in flat if name.startswith("adam_v."))
            flat[name].view(torch.int32).view(-1)[-1] ^= 1
        return Stepped(flat, metrics["loss"], metrics["grad_norm"])

    with pytest.raises(BackendUnfit, match=r"cpu, 2 workers: training step 1 gives .* must train without --nproc"):
        check_step(step, "cpu, 2 workers")
    assert len(steps_done) == 2


def test_a_number_of_workers_that_makes_no_sense_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 workers; take 1 to"):
        WorkerGroup(program, size=0, backend="torch")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(WrongSetting, match=f"--nproc is {MAX_WORKERS + 1}; take 1 to {MAX_WORKERS}"):
        MinerSettings(
            run=tmp_path / "run.json",
            rpc=("http://127.0.0.1:8545",),
            data=tmp_path / "data",
            keystore=tmp_path / "key.json",
            nproc=MAX_WORKERS + 1,
        )
