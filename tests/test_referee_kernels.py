"""The referee's numeric libraries give the definition's bits: stored vectors, and new cases live on py-evm.

Forge reads the stored vectors too (contracts/tests/referee/Vectors.t.sol).
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from referee_harness import HarnessError, harness
from referee_kernels import DOT, HARD_CLOSEST, Group, Row, Scalars, all_groups, disagreements
from referee_vectors import SEED, SIZE, STORED, render

from cupel.protocol.arithmetic.operations import Opcode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from exhaustive.closest import distance  # noqa: E402
from gas_referee import measure  # noqa: E402

LIVE_SEED = int(os.environ.get("REFEREE_SEED", "77"))
LIVE_CASES = int(os.environ.get("REFEREE_CASES", "5"))
"""Of each function; REFEREE_CASES=500 takes minutes."""


@pytest.fixture
def node() -> None:
    """Skips where Node.js or contracts/node_modules is missing, except in CI, where that is a failure."""
    if shutil.which("node") is not None and (ROOT / "contracts" / "node_modules" / "solc").is_dir():
        return
    if os.environ.get("CI"):
        pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
    pytest.skip("needs Node.js and `npm install` in contracts/")


ROUNDED = ("add", "mul", "div", "round scaled", "term")
"""What a rounding may go wrong in: of these more cases are needed to meet ties and the ends of the range."""


def few(groups: Iterator[Group], seed: int, count: int) -> Iterator[Group]:
    """At most `count` cases of each function of numbers, ten times as many of ROUNDED."""
    chosen = random.Random(seed)
    for group in groups:
        most = 10 * count if group.name in ROUNDED else count
        if isinstance(group, Scalars) and len(group.arguments) > most:
            places = sorted(chosen.sample(range(len(group.arguments)), most))
            yield dataclasses.replace(
                group,
                arguments=tuple(group.arguments[i] for i in places),
                expected=tuple(group.expected[i] for i in places),
            )
        else:
            yield group


def test_the_stored_vectors_are_what_the_definition_says() -> None:
    for library, text in render(list(all_groups(SEED, SIZE))).items():
        assert (STORED / f"{library}.json").read_text() == text, f"{library}: see tests/referee_vectors.py"


@pytest.mark.node
@pytest.mark.usefixtures("node")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("library", ["binary32", "functions", "integers", "products", "sums", "orders", "philox"])
def test_new_cases_agree_with_the_definition(library: str) -> None:
    groups = [group for group in all_groups(LIVE_SEED, max(LIVE_CASES, 4)) if group.library == library]
    if LIVE_CASES < 50 and library in ("sums", "products", "orders"):
        groups = [group for i, group in enumerate(groups) if isinstance(group, Scalars) or i % 4 == 0]
    assert disagreements(few(iter(groups), LIVE_SEED, LIVE_CASES), harness().answer) == []


@pytest.mark.node
@pytest.mark.usefixtures("node")
def test_a_row_shorter_than_its_count_is_refused() -> None:
    row = Row(
        library="products", name="dot", code=DOT, rows=(b"\1" * 31, b"\1" * 32), count=16, numbers=(), expected=(0, 0)
    )
    with pytest.raises(HarnessError):
        harness().answer(row)
    whole = dataclasses.replace(row, rows=(b"\1" * 32, b"\1" * 32), expected=(16 * 257 * 257, 0))
    assert disagreements(iter([whole]), harness().answer) == []


@pytest.mark.node
@pytest.mark.usefixtures("node")
def test_the_comparison_sees_one_bit() -> None:
    exp = next(group for group in all_groups(SEED, SIZE) if group.code == Opcode.EXP)
    assert isinstance(exp, Scalars)
    spoilt = dataclasses.replace(exp, arguments=exp.arguments[:3], expected=(exp.expected[0] ^ 1, *exp.expected[1:3]))
    assert len(disagreements(iter([spoilt]), harness().answer)) == 1


@pytest.mark.node
@pytest.mark.usefixtures("node")
@pytest.mark.timeout(300)
def test_gas_is_what_the_snapshot_says() -> None:
    snapshot = json.loads((ROOT / "contracts" / "gas-referee.json").read_text())
    measured = measure(lengths=(1024,))
    assert measured == {name: snapshot[name] for name in measured}, "run benchmarks/gas_referee.py --write and look"
    assert snapshot["exp"] <= 4500
    # Beside the transaction's bytes, which cost 1.1 million for two such rows.
    assert snapshot["dot, 16,384"] <= 1_500_000


def test_the_closest_to_a_tie_are_as_far_as_the_proof_says() -> None:
    for opcode, patterns in HARD_CLOSEST.items():
        for pattern in patterns:
            one = distance(opcode, pattern)
            assert one is not None
            assert -77 < one.log2_distance < -49, f"{opcode.name} {pattern:#x}"
    # Exact values, and what lies beyond every tie.
    assert distance(Opcode.LOG, 0x3F800000) is None
    assert distance(Opcode.EXP, 0x7F7FFFFF) is None
