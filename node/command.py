"""Running a node as a process: signals ask it to end, errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
import threading

import click

from cupel.node.settings import ENVIRONMENT_PREFIX
from cupel.protocol.errors import CupelError, UsageError


def run_command(command: click.Command, name: str) -> None:
    """Run a click command with Cupel's exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        code = command.main(prog_name=name, standalone_mode=False, auto_envvar_prefix=ENVIRONMENT_PREFIX)
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


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM or SIGINT; a second one ends the process at once."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop
