"""The referee's numeric libraries give the definition's bits: stored vectors, and new cases live on py-evm.

Forge reads the stored vectors too (contracts/tests/referee/Vectors.t.sol).
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Iterator

import pytest
from referee_harness import HarnessError, harness
from referee_kernels import DOT, Group, Row, Scalars, all_groups, disagreements
from referee_vectors import SEED, SIZE, STORED, render

from cupel.protocol.arithmetic.operations import Opcode

LIVE_SEED = int(os.environ.get("REFEREE_SEED", "77"))
LIVE_CASES = int(os.environ.get("REFEREE_CASES", "5"))
"""Of each function; REFEREE_CASES=500 takes minutes."""


@pytest.fixture
def node() -> None:
    """Skips where Node.js or contracts/node_modules is missing, except in CI, where that is a failure."""
    if shutil.which("node") is not None and (STORED.parents[2] / "contracts" / "node_modules" / "solc").is_dir():
        return
    if os.environ.get("CI"):
        pytest.fail("Node.js 20 and `npm install` in contracts/ are needed here")
    pytest.skip("needs Node.js and `npm install` in contracts/")


def few(groups: Iterator[Group], seed: int, count: int) -> Iterator[Group]:
    """At most `count` cases of each function of numbers."""
    chosen = random.Random(seed)
    for group in groups:
        if isinstance(group, Scalars) and len(group.arguments) > count:
            places = sorted(chosen.sample(range(len(group.arguments)), count))
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
