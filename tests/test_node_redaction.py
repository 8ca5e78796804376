"""Secrets in URLs are never said."""

from __future__ import annotations

import io
import json

import pytest

from cupel.node import redaction
from cupel.node.log import Log, plain
from cupel.node.redaction import hide_url, redact

CID = "bafybeibbzq7tudhcostg26dta4gaeby3albsxl3ptupc2rffqivx5gvujm"


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_hidden", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no chain answers at https://user:pw@rpc.example:8545 (refused)", "https://…@rpc.example:8545 (refused)"),
        ("https://mainnet.example/v3/abc123.", "https://mainnet.example/…."),
        ("'wss://h/?apikey=abc123'", "'wss://h/?…'"),
        ("https://h?abc123#abc123, then", "https://h?…, then"),
        ("(https://a@b:pw@h/abc123)", "(https://…@h/…)"),
        ("HTTPS://u:pw@H/x", "HTTPS://…@H/…"),
    ],
)
def test_user_info_paths_and_queries_are_cut(text: str, shown: str) -> None:
    assert redact(text).endswith(shown)
    assert "abc123" not in redact(text)
    assert "pw" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"http://127.0.0.1:8700/ipfs/{CID}?format=raw&entity-bytes=0:10",
        "http://127.0.0.1:8545: refused",
        f"http://[::1]:80/units/0x{'ab' * 32}",
        "no url at all: a//b",
    ],
)
def test_what_our_own_services_serve_stays_readable(text: str) -> None:
    assert redact(text) == text


def test_a_given_urls_secrets_are_cut_wherever_they_turn_up() -> None:
    hide_url("https://account:pa%20ss%2Fword@h/v3/0123456789abcdef?key=querykey")
    page = "<p>/v3/0123456789abcdef?key=querykey not found for account, pa ss/word, pa%20ss%2Fword</p>"
    assert redact(page) == "<p>/v3/…?key=… not found for …, …, …</p>"


def test_what_is_no_url_hides_nothing() -> None:
    for text in ("127.0.0.1:8545", "localhost", "user:name@host", ""):
        hide_url(text)
    assert redact("127.0.0.1:8545 at localhost, user:name@host") == "127.0.0.1:8545 at localhost, user:name@host"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_log_line_holds_no_secret(as_json: bool) -> None:
    hide_url("https://h/abcdef123456")
    stream = io.StringIO()
    log = Log("miner", as_json=as_json, stream=stream)
    log.warning(
        "asking https://h/abcdef123456", url="http://u:abcdef@h", nested=["abcdef123456"], to={"a": "abcdef123456"}
    )
    log.stat("abcdef123456", a="http://h/?abcdef")
    assert "abcdef" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 2
    if as_json:
        assert json.loads(stream.getvalue().splitlines()[0])["url"] == "http://…@h"


def test_records_hold_no_secret() -> None:
    assert plain({"reason": ("http://u:pw@h:1/x",)}) == {"reason": ["http://…@h:1/…"]}
