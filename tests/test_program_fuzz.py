"""Hostile Programs in their thousands; tests/fuzz_program.py has the rules, `make fuzz` a million."""

from __future__ import annotations

import random
from collections import Counter

import fuzz_program
import pytest

from cupel.protocol.arithmetic.operations import DType, TensorType
from cupel.protocol.errors import MalformedProgram
from cupel.protocol.program import Program, encoding

SEED, INPUTS = 20_260_101, 6_000


def test_six_thousand_hostile_programs_are_refused_or_canonical() -> None:
    tally = fuzz_program.fuzz(SEED, INPUTS)
    assert not tally.failures, "\n".join(tally.failures[:3])
    assert tally.inputs == INPUTS
    # The rules reach past the first checks: each but noise also makes Programs that are accepted, or nearly.
    assert set(tally.refused) | set(tally.accepted) == set(fuzz_program.KINDS)
    assert tally.accepted["unchanged"] > 0
    assert tally.refused["unchanged"] == 0
    assert tally.accepted["operands changed"] > 0
    assert tally.accepted["growing chain"] > 0


def test_a_seed_gives_one_sequence() -> None:
    kinds = Counter(kind for kind, _ in _inputs(3, 500))
    assert _inputs(3, 500) == _inputs(3, 500)
    assert _inputs(3, 500) != _inputs(4, 500)
    assert len(kinds) == len(fuzz_program.KINDS)


def _inputs(seed: int, count: int) -> list[tuple[str, bytes]]:
    rng = random.Random(seed)
    return [fuzz_program.make_input(rng) for _ in range(count)]


def test_a_tensor_that_holds_nothing_in_too_many_dimensions_is_refused() -> None:
    """Its strides overflow in the engine, which then raised where only MalformedProgram may."""
    structure = b'[["t",0],0]'
    header = encoding.encode_header(1, 0, 0, 1, structure)
    input_type = encoding.encode_type(TensorType(DType.FLOAT32, (0, 1 << 40, 1 << 40)))
    with pytest.raises(MalformedProgram, match="elements"):
        Program.from_bytes(encoding.MAGIC + header + bytes([encoding.INPUT]) + input_type + b"\x01\x000")
