"""What operators copy from docs/operating: service files, alerts and exit codes say what the code does."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cupel.cli import cli
from cupel.miner.main import miner
from cupel.node.command import ExitCode
from cupel.verifier.main import verifier

OPERATING = Path(__file__).resolve().parent.parent / "docs" / "operating"
SERVICES = sorted((OPERATING / "systemd").glob("*.service"))


def read_service(path: Path) -> dict[str, list[str]]:
    """Settings of the [Service] section, each with all its values."""

    class Lists(dict):  # type: ignore[type-arg]  # configparser's own interface
        def __setitem__(self, key: str, value: object) -> None:
            if key in self and isinstance(value, list):
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.RawConfigParser(dict_type=Lists, strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return {name: str(value).split("\n") for name, value in parser["Service"].items()}


def test_every_process_has_a_service() -> None:
    assert [path.stem for path in SERVICES] == ["cupel-chain", "cupel-miner", "cupel-verifier"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_service_starts_a_command_with_options_it_has(path: Path) -> None:
    words = read_service(path)["ExecStart"][0].split()
    program = words[0].removeprefix("/opt/cupel/bin/")
    command: click.Command = {"miner": miner, "verifier": verifier, "cupel": cli}[program]
    arguments = words[1:]
    if isinstance(command, click.Group):
        context = click.Context(command)
        found = command.get_command(context, arguments.pop(0))
        assert found is not None
        command = found
    known = {option for param in command.params for option in param.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_service_is_restarted_only_where_that_can_help(path: Path) -> None:
    service = read_service(path)
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"][0].split() == [str(int(ExitCode.USAGE)), str(int(ExitCode.BUG))]
    assert service["DynamicUser"] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == ["yes"]


@pytest.mark.parametrize("name", ["cupel-miner", "cupel-verifier"])
def test_a_nodes_secrets_come_as_credentials(name: str) -> None:
    text = (OPERATING / "systemd" / f"{name}.service").read_text()
    loaded = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert loaded == set(re.findall(r"%d/(\w+)", text)) == {"settings", "keystore", "password"}


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_systemd_finds_nothing_wrong_with_a_service(path: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not on this machine")
    # It looks for the program, which is installed nowhere here; any other complaint is ours.
    copied = tmp_path / path.name
    copied.write_text(re.sub("/opt/cupel/bin/[a-z]+", "/bin/true", path.read_text()))
    done = subprocess.run([analyze, "verify", "--man=no", str(copied)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert not complaints


def test_exit_codes_are_documented_as_they_are() -> None:
    text = (OPERATING / "exit-codes.md").read_text()
    documented = {int(code): name for code, name in re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)}
    assert documented == {int(code): code.name.lower() for code in ExitCode}


def test_the_dashboard_asks_for_metrics_in_sound_queries() -> None:
    dashboard = json.loads((OPERATING / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 20
    for query in queries:
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
    places = [tuple(panel["gridPos"][axis] for axis in "xy") for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_the_example_settings_are_taken(tmp_path: Path) -> None:
    """The cupel.toml of the operators' page, read by the commands it is for."""
    page = (OPERATING / "README.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "cupel.toml"
    file.write_text(example)
    for command in (miner, verifier):
        said = CliRunner().invoke(command, ["--config", str(file)])
        # Nothing is wrong but that the files it names are not on this machine.
        assert "there is no" in str(said.exception), said.exception
