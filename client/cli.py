"""The `cupel` command: finds the subcommand and hands over.

Subcommands are imported only when used, so that `cupel chain` starts without torch and `--help` is instant.
"""

from __future__ import annotations

import importlib

import click

import cupel
from cupel.node.command import run_command

COMMANDS = {
    "chain": ("cupel.commands.chain:chain", "Run the embedded chain as a process of its own."),
    "data": ("cupel.commands.data:data", "Build, show, verify and serve training data."),
    "demo": ("cupel.commands.demo:demo", "The whole network on this machine: mine, verify, merge, pay."),
    "dispute": (
        "cupel.commands.dispute:dispute",
        "Catch a lie by hand: find, prove and judge it; follow the court.",
    ),
    "doctor": ("cupel.commands.doctor:doctor", "Look at machine, chain, key and folder, and say what to fix."),
    "journal": ("cupel.commands.journal:journal", "Show a node's statements, and take them to another machine."),
    "leave": ("cupel.commands.leave:leave", "Give up a seat, claim, withdraw: out of a run with what is one's own."),
    "network": ("cupel.commands.network:network", "Prepare and deploy a run on any chain, or check one."),
    "replay": ("cupel.commands.replay:replay", "Repeat a unit of a finished run from disk and compare its roots."),
    "status": ("cupel.commands.status:status", "Show a run's rounds, units, rewards and roots, from disk or chain."),
    "wallet": ("cupel.commands.wallet:wallet", "Make, import and use encrypted keys."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and loads them on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cupel.__version__, prog_name="cupel")
def cli() -> None:
    """Train one open model together, verify it to the last bit, pay the computers.

    The processes `miner` and `verifier` are commands of their own.
    """


def main() -> None:
    run_command(cli, "cupel")
