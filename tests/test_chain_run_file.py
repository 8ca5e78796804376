"""The file that says where a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chain_process import KEYS

from cupel.chain.run_file import RunFile
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Height

RUN = RunFile(
    chain_id=31337,
    contract=KEYS[0].address,
    token=KEYS[1].address,
    beacon=KEYS[2].address,
    deploy_block=Height(7),
    sources=("http://127.0.0.1:8700",),
)


def test_it_comes_back_as_written_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    RUN.write(path)
    RUN.write(path)
    assert RunFile.read(path) == RUN
    assert [one.name for one in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "not a run file of version 1"),
        ({"chain_id": "1"}, "chain_id is '1', not a number from 1"),
        ({"chain_id": True}, "chain_id is True"),
        ({"deploy_block": -1}, "deploy_block is -1"),
        ({"contract": KEYS[0].address.lower()}, "contract is .*not an address with its checksum"),
        ({"token": None}, "token is None"),
        ({"sources": "http://a"}, "not a list of URLs"),
        ({"sources": ["file:///etc/passwd"]}, "is not a URL"),
        ({"owner": 1}, r"unknown \['owner'\]"),
        ({"beacon": ...}, r"missing \['beacon'\]"),
    ],
)
def test_one_wrong_entry_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "run.json"
    RUN.write(path)
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    with pytest.raises(UsageError, match=complaint) as caught:
        RunFile.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "\udc80"])
def test_what_is_no_run_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="is not a run file"):
        RunFile.read(path)
    with pytest.raises(UsageError, match="there is no run file"):
        RunFile.read(tmp_path / "other.json")
