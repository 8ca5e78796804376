"""A sample of `make exhaustive` in every instruction set and on torch, with all known hard arguments; and proof that it
can fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from exhaustive import __main__ as command
from exhaustive import checking, mpfr, oracle, progress, taylor
from exhaustive.checking import Outcome, check
from exhaustive.engines import CHUNK as command_chunk
from exhaustive.engines import FUNCTIONS, Engine, Subject
from exhaustive.oracle import FunctionOracle, OracleBroken, oracle_for

from cupel.protocol.arithmetic import cases, reference
from cupel.protocol.arithmetic.cpu import isa
from cupel.protocol.arithmetic.operations import Opcode

SIGN = 1 << 31
EDGES = (0, 0x00800000, 0x33800000, 0x3F000000, 0x3F800000, 0x42B00000, 0x49800000, 0x5F000000, 0x7F000000, 0x7F800000)
"""Zero and subnormals, the smallest normal numbers, around 1, the end of exp, far angles, infinity and NaN."""


CHUNK = 1 << 15
"""Smaller than the command's: a sample is to meet many places."""


def chunk_of(pattern: int) -> int:
    return pattern - pattern % CHUNK


def sample(name: str, spread: int) -> list[int]:
    """The chunks of all hard arguments of either sign, the edges', and `spread` more at even distances."""
    opcode = FUNCTIONS[name][0]
    patterns = [p ^ sign for p in (*cases.HARD_ARGUMENTS.get(opcode, ()), *EDGES) for sign in (0, SIGN)]
    patterns += [(1 << 32) // spread * i + 0x2A5A5A5 for i in range(spread)]
    # The smallest subnormal numbers are MPFR's alone for these: a second that a sample need not take.
    left_out = {0} if opcode in mpfr.NO_NEGATIVES else set()
    return sorted({chunk_of(p % (1 << 32)) for p in patterns} - left_out)


class Kept:
    """An oracle asked for the same chunk by one engine after the other."""

    def __init__(self, name: str) -> None:
        self.oracle, self.first, self.asked = oracle_for(*FUNCTIONS[name]), -1, 0
        self.low, self.high = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)

    def bound(self, first: int, low: Any, high: Any) -> None:
        if first != self.first:
            self.oracle.bound(first, self.low, self.high)
            self.first = first
        low[:], high[:] = self.low, self.high


def kept_oracle(name: str) -> Any:
    return oracle_for(*FUNCTIONS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_of_all_arguments_is_right_in_every_instruction_set(name: str) -> None:
    engines = [Engine(Subject(function=name, backend="cpu", isa=chosen), CHUNK) for chosen in isa.supported()]
    judge: Any = Kept(name)
    outcomes = [Outcome() for _ in engines]
    starts = sample(name, 48)
    for start in starts:
        for engine, outcome in zip(engines, outcomes, strict=True):
            outcome.add(check(FUNCTIONS[name][0], engine.run, judge, [start], CHUNK))
    for chosen, outcome in zip(isa.supported(), outcomes, strict=True):
        assert outcome.inputs == len(starts) * CHUNK
        assert (outcome.mismatches, outcome.wrong) == (0, []), chosen


@pytest.mark.parametrize("name", ["exp", "erf", "rsqrt", "round_nearest_even"])
def test_a_sample_of_all_arguments_is_right_on_torch(name: str) -> None:
    engine = Engine(Subject(function=name, backend="torch", isa=""), CHUNK)
    starts = [chunk_of(p) for p in (0x3F000000, 0xBF800000, 0x7F800000, 0xC0A5A5A5)]
    assert check(FUNCTIONS[name][0], engine.run, kept_oracle(name), starts, CHUNK).wrong == []


# The judges


@pytest.mark.parametrize("opcode", sorted(mpfr.SPECIAL), ids=lambda o: o.name)
def test_mpfr_and_the_definition_agree(opcode: Opcode) -> None:
    arguments = cases.function_arguments(opcode, cases.Words(int(opcode)), 150)
    for pattern in (*arguments, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F123456, 0x7FC00001, 0xFFFFFFFF, 0x49876543):
        assert mpfr.decide(opcode, pattern) == reference.exact(opcode, pattern), f"{pattern:#010x}"


@pytest.mark.parametrize("opcode", sorted(mpfr.SPECIAL), ids=lambda o: o.name)
def test_bounds_hold_the_definition_and_mostly_decide(opcode: Opcode) -> None:
    """Also where blocks are wide: beside 1, at subnormal numbers, at the far end of sin and cos."""
    judge = FunctionOracle(opcode)
    low, high = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    for first in (0x3F800000, 0xBF7C0000, 0x00040000, 0x4B000000, 0x40C00000, 0xC2800000):
        judge.bound(first, low, high)
        for i in range(17, CHUNK, CHUNK // 15):
            exact = reference.exact(opcode, first + i)
            assert mpfr.is_between(int(low[i]), exact, int(high[i])), f"{first + i:#010x}"
        narrow = opcode in (Opcode.LOG, Opcode.RSQRT, Opcode.SQRT) and first == 0x00040000
        assert np.count_nonzero(low != high) < (CHUNK if narrow else 64), f"{first:#010x}"


def test_the_bound_covers_what_a_shorter_series_leaves_out() -> None:
    # Cut to a parabola, the series of exp is off by far more than rounding; the bound says so, and holds.
    low, high = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    judge = FunctionOracle(Opcode.EXP)
    judge._terms = lambda field: 3  # type: ignore[method-assign]
    judge.bound(0x40000000, low, high)
    assert np.count_nonzero(low != high) > CHUNK // 10
    for i in range(5, CHUNK, CHUNK // 40):
        assert mpfr.is_between(int(low[i]), reference.exact(Opcode.EXP, 0x40000000 + i), int(high[i]))


# It can fail


def flipped(engine: Engine, pattern: int) -> Any:
    def run(first: int) -> Any:
        got = engine.run(first).copy()
        if first <= pattern < first + CHUNK:
            got[pattern - first] ^= 1
        return got

    return run


@pytest.mark.parametrize("name", ["tanh", "neg"])
def test_one_wrong_bit_among_all_is_found_and_named(name: str) -> None:
    engine = Engine(Subject(function=name, backend="cpu", isa=isa.PORTABLE), CHUNK)
    pattern, opcode = 0x3E91A2B3, FUNCTIONS[name][0]
    right = int(engine.run(chunk_of(pattern))[pattern % CHUNK])
    starts = [chunk_of(pattern) + i * CHUNK for i in range(-1, 2)]
    outcome = check(opcode, flipped(engine, pattern), kept_oracle(name), starts, CHUNK)
    assert (outcome.mismatches, outcome.wrong) == (1, [(pattern, right ^ 1, right)])


def test_an_engine_that_trusts_its_polynomial_is_found_out() -> None:
    # exp(-2^-25) lies 2^-51 from a tie: the oracle's bound leaves it to MPFR too.
    engine = Engine(Subject(function="exp", backend="cpu", isa=isa.PORTABLE), CHUNK)
    pattern = 0xB3000000
    outcome = check(Opcode.EXP, flipped(engine, pattern), kept_oracle("exp"), [chunk_of(pattern)], CHUNK)
    assert outcome.decided >= 1
    assert (outcome.mismatches, outcome.wrong) == (1, [(pattern, 0x3F800001, 0x3F800000)])


def test_a_wrong_series_is_found_by_mpfr(monkeypatch: pytest.MonkeyPatch) -> None:
    series = taylor._SERIES[Opcode.TANH]
    monkeypatch.setitem(taylor._SERIES, Opcode.TANH, lambda c, n: [a * (1 + 2.0**-20) for a in series(c, n)])
    low, high = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    with pytest.raises(OracleBroken, match="TANH of 0x3f"):
        FunctionOracle(Opcode.TANH).bound(0x3F000000, low, high)


# Progress


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shards of one chunk's arguments each, so that the command ends in a moment."""
    monkeypatch.setattr(checking, "SHARD", command_chunk)
    checking._parts.cache_clear()
    yield
    checking._parts.cache_clear()


def invoke(folder: Path, *arguments: str) -> Any:
    fixed = ["--function", "abs", "--isa", isa.PORTABLE, "--processes", "1", "--folder", str(folder)]
    return CliRunner().invoke(command.exhaustive, [*fixed, *arguments])


def test_the_command_goes_on_where_it_was_ended(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    honest = checking.check_shard

    def noted(subject: Subject, shard: int, every: int) -> Outcome:
        if shard == 3:
            raise KeyboardInterrupt
        done.append(shard)
        return honest(subject, shard, every)

    monkeypatch.setattr(command, "check_shard", noted)
    assert invoke(tmp_path, "--shards", "1-5").exit_code != 0
    assert done == [1, 2]
    (tmp_path / "abs-cpu-portable.99999").write_text("half a fi")  # what a kill while writing leaves
    monkeypatch.setattr(command, "check_shard", lambda *a: (done.append(a[1]), honest(*a))[1])
    result = invoke(tmp_path, "--shards", "1-5", "--output", str(tmp_path / "table.txt"))
    assert result.exit_code == 0, result.output
    assert done == [1, 2, 3, 4, 5]
    table = (tmp_path / "table.txt").read_text()
    assert f"{5 * command_chunk:,}" in table
    assert "of all)" in table


def test_a_mismatch_ends_the_command_with_1_and_names_it(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Outcome(inputs=CHUNK, mismatches=1, wrong=[(0x3F800000, 0x3F800001, 0x3F800000)], engine_s=1.0)
    monkeypatch.setattr(command, "check_shard", lambda *a: wrong)
    result = invoke(tmp_path, "--shards", "7")
    assert result.exit_code == 1
    assert "abs of 0x3f800000 (1) on cpu portable: 0x3f800001 (1.00000012), not 0x3f800000 (1)" in result.output
    # What was noted stays known.
    assert invoke(tmp_path, "--shards", "7").exit_code == 1


def test_progress_of_other_code_is_not_taken_over(small: None, tmp_path: Path) -> None:
    subject = Subject(function="abs", backend="cpu", isa=isa.PORTABLE)
    noted = progress.Progress(tmp_path, subject)
    noted.note(4, Outcome(inputs=CHUNK))
    assert progress.Progress(tmp_path, subject).missing(range(3, 6)) == [3, 5]
    path = tmp_path / "abs-cpu-portable.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "fingerprint": "0" * 16}))
    assert progress.Progress(tmp_path, subject).missing(range(3, 6)) == [3, 4, 5]
    assert progress.load_all(tmp_path) == []


@pytest.mark.parametrize("shards", ["256", "5-3", "a", "1-", "-4", "0-256"])
def test_a_range_that_is_none_is_refused(tmp_path: Path, shards: str) -> None:
    result = invoke(tmp_path, f"--shards={shards}")
    assert result.exit_code == 2
    assert "is no range of shards" in result.output


def test_an_instruction_set_of_another_engine_is_refused(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--backend", "torch")
    assert result.exit_code == 2
    assert "--isa is of the cpu engine" in result.output


def test_the_oracle_knows_every_function_of_one_number() -> None:
    assert {opcode for opcode, _ in FUNCTIONS.values()} == {*mpfr.SPECIAL, *(o for o, _ in oracle.SIMPLE)}
    with pytest.raises(ValueError, match="DOT"):
        oracle_for(Opcode.DOT)
