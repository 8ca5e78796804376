"""Settings of a process: flag over environment over file, and clear words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cupel.node.settings import NodeSettings, node_options, parse_listen
from cupel.protocol.errors import UsageError


@click.command("miner", context_settings={"auto_envvar_prefix": "CUPEL"})
@node_options
def command(**options: object) -> None:
    settings = NodeSettings(**options)  # type: ignore[arg-type]  # click gives each its type
    click.echo(f"{settings.rpc} {settings.threads} {','.join(settings.peers)}")


@pytest.fixture
def world(tmp_path: Path) -> list[str]:
    for name in ("run.json", "key.json", "password"):
        (tmp_path / name).write_text("{}")
    return [
        "--run", str(tmp_path / "run.json"), "--keystore", str(tmp_path / "key.json"),
        "--password-file", str(tmp_path / "password"), "--data", str(tmp_path / "data"),
    ]  # fmt: skip


def test_flag_wins_over_environment_wins_over_file(world: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cupel.toml"
    file.write_text('rpc = "http://file:1"\nthreads = 2\npeers = ["http://a:1", "http://b:1/"]\n[miner]\nthreads = 3\n')
    run = CliRunner().invoke
    args = [*world, "--config", str(file)]
    assert run(command, args).output == "http://file:1 3 http://a:1,http://b:1\n"
    environment = {"CUPEL_RPC": "http://env:1", "CUPEL_PEERS": "http://c:1,http://d:1"}
    assert run(command, args, env=environment).output == "http://env:1 3 http://c:1,http://d:1\n"
    assert run(command, [*args, "--rpc", "http://flag:1"], env=environment).output.startswith("http://flag:1 3 ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rpc", "127.0.0.1:8545"], "--rpc is '127.0.0.1:8545'"),
        (["--rpc", "http://h:1", "--threads", "0"], "--threads is 0"),
        (["--rpc", "http://h:1", "--listen", "8545"], "--listen is '8545'"),
        (["--rpc", "http://h:1", "--peers", "ftp://x"], "--peers is 'ftp://x'"),
        (["--rpc", "http://h:1", "--run", "nowhere.json"], "there is no run file nowhere.json"),
    ],
)
def test_a_wrong_setting_is_named(world: list[str], flags: list[str], words: str) -> None:
    error = CliRunner().invoke(command, [*world, *flags]).exception
    assert isinstance(error, UsageError)
    assert words in str(error)


def test_a_name_in_the_file_that_no_option_has_is_refused(world: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cupel.toml"
    file.write_text("[miner]\nthread = 3\n")
    error = CliRunner().invoke(command, [*world, "--config", str(file), "--rpc", "http://h:1"]).exception
    assert isinstance(error, UsageError)
    assert "'thread'" in str(error)


def test_listen_takes_a_bracketed_address() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    with pytest.raises(UsageError, match="not the name"):
        parse_listen("example.org:80")
