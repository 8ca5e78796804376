"""The `cupel` command: finds the subcommand and hands over.

Subcommands are imported only when used, so that `cupel chain` starts without torch and `--help` is instant.
"""

from __future__ import annotations

import difflib
import importlib
import sys

import click

import cupel
from cupel.protocol.errors import CupelError, UsageError

COMMANDS = {
    "chain": ("cupel.commands.chain:chain", "Run the embedded chain as a process of its own."),
    "data": ("cupel.commands.data:data", "Build, show, verify and serve training data."),
    "demo": ("cupel.commands.demo:demo", "The whole network on this machine: mine, verify, merge, pay."),
    "doctor": ("cupel.commands.doctor:doctor", "Check this machine's arithmetic engine, to the last bit."),
    "replay": ("cupel.commands.replay:replay", "Repeat a unit of a finished run from disk and compare its roots."),
    "status": ("cupel.commands.status:status", "Show rounds, units, rewards and roots of a run from disk."),
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
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(self.list_commands(ctx))}."
            raise click.UsageError(f"no command '{args[0]}'; {hint}", ctx)
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


def run(command: click.Command, name: str) -> None:
    """Run a command with Cupel's exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except UsageError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(2)
    except CupelError as error:
        click.echo(f"{name}: {type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


def main() -> None:
    run(cli, "cupel")
