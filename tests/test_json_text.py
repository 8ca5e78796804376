"""JSON from strangers: depth is bounded whatever the process's recursion limit is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupel.protocol.json_text import MAX_DEPTH, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=200,
)


@given(VALUES)
def test_what_nests_little_reads_as_json_does(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"]": '])
def test_one_level_too_deep_is_refused(opening: str) -> None:
    levels = opening.count("[") + opening.count("{")
    closing = "".join("]" if c == "[" else "}" for c in reversed(opening) if c in "[{")
    fits = MAX_DEPTH // levels
    assert parse_json(opening * fits + "0" + closing * fits) is not None
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json(opening * (fits + 1) + "0" + closing * (fits + 1))


def test_brackets_in_strings_nest_nothing() -> None:
    text = '["' + "[" * 1000 + '\\"' + "{" * 1000 + '"]'
    assert parse_json(text) == ["[" * 1000 + '"' + "{" * 1000]


def test_a_raised_recursion_limit_does_not_let_brackets_end_the_process() -> None:
    code = (
        "import sys; sys.setrecursionlimit(10**7)\n"
        "from cupel.protocol.json_text import parse_json\n"
        "try: parse_json(b'[' * 10**6)\n"
        "except ValueError as refused: print(refused)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done
    assert "nested deeper" in done.stdout
