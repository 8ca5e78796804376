"""Write docs/cli.md from `--help`; with --check, fail when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cupel.cli import cli
from cupel.miner.main import miner
from cupel.verifier.main import verifier

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"


def sections(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    depth = 1 if parent is None else 2
    parts = [f"{'#' * (depth + 1)} {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                parts += sections(found, child, context)
    return parts


def render() -> str:
    parts = ["# Commands\n\nGenerated from `--help`; `python tools/cli_docs.py` writes it.\n"]
    for name, command in (("cupel", cli), ("miner", miner), ("verifier", verifier)):
        parts += sections(command, name, None)
    return "\n".join(parts)


def main() -> None:
    text = render()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != text:
            sys.exit("docs/cli.md is out of date. Type: .venv/bin/python tools/cli_docs.py")
    else:
        TARGET.write_text(text)


if __name__ == "__main__":
    main()
