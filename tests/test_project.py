"""Rules of the tree itself: names, imports, commands and pages that must stay true."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cupel.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize("folder", sorted(f for f in SETTINGS["package-dir"].values() if f != "client"))
def test_a_folder_refuses_its_bare_name(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"import cupel.{folder}" in done.stderr


def test_every_package_folder_is_listed_for_the_wheel() -> None:
    folders = {folder: package for package, folder in SETTINGS["package-dir"].items()}
    found = set()
    for folder, package in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert found - {"cupel.gateway"} == set(SETTINGS["packages"])


@pytest.mark.parametrize(
    ("start", "heavy"),
    [
        ("import cupel.cli", ("torch", "web3", "eth")),
        ("import cupel.commands.chain", ("torch",)),
        ("import cupel.chain.client, cupel.chain.run_contract", ("torch",)),
    ],
)
def test_light_commands_do_not_load_torch(start: str, heavy: tuple[str, ...]) -> None:
    code = f"{start}\nimport sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output


def test_a_mistyped_command_is_answered_with_what_was_meant() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv=['cupel','deno']; from cupel.cli import main; main()"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "cupel: No such command 'deno'. Did you mean 'demo'? `cupel --help` lists what there is.\n"


def test_the_command_page_says_what_help_says() -> None:
    done = subprocess.run([sys.executable, "tools/cli_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_front_page_names_its_two_commands_and_every_folder() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    assert "@@" not in text, "a placeholder where a real output belongs"
    for folder in SETTINGS["package-dir"].values():
        assert f"`{folder}/`" in text, folder
