"""Settings of a process: flag over environment over file, and clear words for what is wrong, key and line included."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cupel.node.config_file import find_lines
from cupel.node.options import build_settings, node_options
from cupel.node.settings import NodeSettings, parse_listen, parse_metrics
from cupel.protocol.errors import UsageError


@click.command("miner", context_settings={"auto_envvar_prefix": "CUPEL"})
@node_options
@click.option("--units", type=int, default=1)
def command(units: int, **options: object) -> None:
    settings = build_settings(NodeSettings, options)
    click.echo(f"{','.join(settings.rpc)} {settings.threads} {units} {','.join(settings.peers)} {settings.max_fee_wei}")


@pytest.fixture
def world(tmp_path: Path) -> list[str]:
    for name in ("run.json", "key.json", "password"):
        (tmp_path / name).write_text("{}")
    return [
        "--run", str(tmp_path / "run.json"), "--keystore", str(tmp_path / "key.json"),
        "--password-file", str(tmp_path / "password"), "--data", str(tmp_path / "data"),
    ]  # fmt: skip


def refused(args: list[str], environment: dict[str, str] | None = None) -> str:
    """What is said about wrong settings."""
    error = CliRunner().invoke(command, args, env=environment).exception
    assert isinstance(error, UsageError), error
    assert "\n" not in str(error)
    return str(error)


def test_flag_wins_over_environment_wins_over_file(world: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cupel.toml"
    file.write_text(
        'rpc = "http://file:1"\nthreads = 2\npeers = ["http://a:1", "http://b:1/"]\nmax_fee = 0.5\n'
        "[miner]\nthreads = 3\nunits = 4\n[verifier]\nslots = 9\n"
    )
    run = CliRunner().invoke
    args = [*world, "--config", str(file)]
    assert run(command, args).output == "http://file:1 3 4 http://a:1,http://b:1 500000000\n"
    environment = {"CUPEL_RPC": "http://env:1,http://env:2", "CUPEL_PEERS": "http://c:1,http://d:1"}
    assert run(command, args, env=environment).output == (
        "http://env:1,http://env:2 3 4 http://c:1,http://d:1 500000000\n"
    )
    assert run(command, [*args, "--rpc", "http://flag:1"], env=environment).output.startswith("http://flag:1 3 ")


def test_paths_in_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    for name in ("run.json", "key.json", "password"):
        (tmp_path / name).write_text("{}")
    file = tmp_path / "cupel.toml"
    file.write_text(
        'rpc = "http://h:1"\nrun = "run.json"\nkeystore = "key.json"\npassword-file = "password"\ndata = "d"'
    )
    assert CliRunner().invoke(command, ["--config", str(file)]).exception is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rpc", "127.0.0.1:8545"], "--rpc is '127.0.0.1:8545'"),
        (["--rpc", " , "], "--rpc is empty"),
        (["--rpc", "http://h:1", "--threads", "0"], "--threads is 0"),
        (["--rpc", "http://h:1", "--confirmations", "0"], "--confirmations is 0"),
        (["--rpc", "http://h:1", "--max-fee", "0"], "--max-fee is 0"),
        (["--rpc", "http://h:1", "--max-fee", "1", "--tip", "2"], "--tip is above --max-fee"),
        (["--rpc", "http://h:1", "--listen", "8545"], "--listen is '8545'"),
        (["--rpc", "http://h:1", "--metrics", "there:1"], "--metrics takes an address"),
        (["--rpc", "http://h:1", "--peers", "ftp://x"], "--peers is 'ftp://x'"),
        (["--rpc", "http://h:1", "--run", "nowhere.json"], "there is no run file nowhere.json"),
        (["--rpc", "http://h:1", "--signer", "http://s:1"], "not both"),
        (["--rpc", "http://h:1", "--password-fd", "3"], "not both"),
        (["--rpc", "http://h:1", "--address", "0x12"], "--address goes with --signer"),
    ],
)
def test_a_wrong_setting_is_named(world: list[str], flags: list[str], words: str) -> None:
    assert words in refused([*world, *flags])


def test_a_wrong_url_is_not_repeated_where_it_may_hold_a_password(world: list[str]) -> None:
    for secret in ("user:hunter2@host", "htp://user:hunter2@host", "http://:hunter2@", "host/hunter2"):
        assert "hunter2" not in refused([*world, "--rpc", secret])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n[miner]\n# speed\nthread = 3\n", "line 4: miner.thread: miner has no such setting; did you mean threads?"),
        ("unit = 3\n", "line 1: unit: miner has no such setting (what is one process's own belongs under [miner]"),
        ("\n\n[minr]\nunits = 1\n", "line 3: minr: no process has this name; did you mean miner?"),
        ("[miner]\nunits = '2'\n", "line 2: miner.units is text; it takes a whole number"),
        ("[miner]\nunits = 2.5\n", "line 2: miner.units is 2.5; it takes a whole number"),
        ("[miner]\nunits = true\n", "line 2: miner.units is true; it takes a whole number"),
        ("[miner.units]\nof = 1\n", "line 1: miner.units is a table; it takes a whole number"),
        ("miner = 3\n", "line 1: miner: miner has no such setting"),
        ("json-log = 1\n", "line 1: json-log is 1; it takes true or false"),
        ("peers = [\n 'http://a:1',\n 7,\n]\n", "line 1: peers is a list; it takes a URL or a list of URLs"),
        ("backend = 'gpu'\n", "line 1: backend is 'gpu'; it takes one of 'auto', 'cpu', 'torch', 'cuda', 'reference'"),
        ("recompute = 'some'\n", "line 1: recompute is 'some'; it takes one of 'none', 'attention', 'all'"),
        ("max-fee = 'much'\n", "line 1: max-fee is text; it takes a number"),
        ("max-fee = nan\n", "line 1: max-fee is nan; it takes a number"),
        ("tip = inf\n", "line 1: tip is inf; it takes a number"),
        ("data = 2020-01-01\n", "line 1: data is a date or time; it takes text in quotes"),
        ("\nthreads = 0\n", "line 2: threads: --threads is 0; take 1 to 1024"),
        ("password = 'hunter2'\n", "line 1: password: secrets do not belong in a settings file"),
        ("threads = \n", "is not TOML: Invalid value (at line 1, column 11)"),
        ("a" * 70_000, "too large"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(world: list[str], tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "cupel.toml"
    file.write_text(text)
    said = refused([*world, "--config", str(file), "--rpc", "http://h:1"])
    assert words in said
    assert str(file) in said
    assert "hunter2" not in said


def test_a_wrong_setting_from_the_environment_names_the_variable(world: list[str]) -> None:
    said = refused([*world, "--rpc", "http://h:1"], {"CUPEL_THREADS": "0"})
    assert said.startswith("CUPEL_THREADS: --threads is 0")


def test_a_password_in_the_environment_is_refused(world: list[str]) -> None:
    said = refused([*world, "--rpc", "http://h:1"], {"CUPEL_PASSWORD": "hunter2"})
    assert "CUPEL_PASSWORD" in said
    assert "hunter2" not in said


def test_no_option_takes_a_password() -> None:
    names = {option for param in command.params for option in param.opts}
    assert not names & {"--password", "--key", "--private-key"}


def test_lines_are_found_however_a_key_is_written() -> None:
    text = 'a.b = 1\n\n# c\nlong = """\nx = 1\n"""\n[t]\n"q" = [\n 1,\n]\ni = { j = 2 }\n[t.u]\nv = 1\n'
    lines = find_lines(text)
    assert lines["a", "b"] == 1
    assert lines["long",] == 4
    assert ("x",) not in lines
    assert (lines["t",], lines["t", "q"], lines["t", "i"], lines["t", "i", "j"]) == (7, 8, 11, 11)
    assert (lines["t", "u"], lines["t", "u", "v"]) == (12, 13)


def test_listen_takes_a_bracketed_address_and_metrics_a_port() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_metrics("9400") == ("127.0.0.1", 9400)
    with pytest.raises(UsageError, match="not the name"):
        parse_listen("example.org:80")
