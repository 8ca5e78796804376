"""Running a command as a process: signals ask it to end, errors become one line and an exit code.

The codes are a promise to scripts and service managers (docs/operating/exit-codes.md).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from enum import IntEnum
from types import TracebackType

import click

from cupel.chain.errors import ChainUnreachable
from cupel.node.redaction import format_crash, redact
from cupel.node.stopping import StopRequest
from cupel.protocol.errors import CupelError, UsageError


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    """It did what it was asked, or ended because it was asked to."""
    FAILED = 1
    """Refused, failed, or found wrong; nothing is lost, and trying again may help."""
    USAGE = 2
    """A flag, setting, file, password or account is wrong; trying again without a change cannot help."""
    BUG = 70
    """An error of Cupel's own, with a traceback; please report it."""
    INTERRUPTED = 130
    """Ctrl-C."""


def run_command(command: click.Command, name: str, environment_prefix: str | None = None) -> None:
    """Run a click command as this process and exit with its `ExitCode`; what went wrong is one line on stderr.

    environment_prefix  options may come from PREFIX_OPTION
    """
    logging.basicConfig(
        handlers=[_RedactingHandler()], level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    threading.excepthook = _report_thread
    try:
        code = command.main(prog_name=name, standalone_mode=False, auto_envvar_prefix=environment_prefix)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else ExitCode.DONE)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(ExitCode.USAGE)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else name
        hint = (
            f" `{where} --help` lists what there is."
            if isinstance(error, (click.NoSuchOption, click.NoSuchCommand))
            else ""
        )
        _fail(where, error.format_message() + hint, ExitCode(error.exit_code))
    except (click.Abort, KeyboardInterrupt):
        _fail(name, "interrupted", ExitCode.INTERRUPTED)
    except ChainUnreachable as error:
        _fail(name, str(error), ExitCode.FAILED)
    except UsageError as error:
        _fail(name, str(error), ExitCode.USAGE)
    except CupelError as error:
        _fail(name, f"{type(error).__name__}: {error}", ExitCode.FAILED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        _drop_output()
        named = f" ({error.filename})" if error.filename else ""
        _fail(name, f"{error.strerror or error}{named}", ExitCode.FAILED)
    except MemoryError:
        _fail(name, "not enough memory", ExitCode.FAILED)
    except Exception as error:
        click.echo(format_crash(type(error), error, error.__traceback__), err=True, nl=False)
        _fail(name, "this is a bug of Cupel; please report it with the lines above", ExitCode.BUG)


def _fail(name: str, message: str, code: ExitCode) -> None:
    click.echo(f"{name}: {redact(message)}", err=True)
    sys.exit(code)


def _drop_output() -> None:
    """Whoever read the output has gone, or its disk is full: Python would complain again when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_thread(trouble: threading.ExceptHookArgs) -> None:
    """A thread of a library or a server died: say so without its secrets."""
    kind: type[BaseException] = trouble.exc_type
    where: TracebackType | None = trouble.exc_traceback
    click.echo(format_crash(kind, trouble.exc_value or kind(), where), err=True, nl=False)


class _RedactingHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """What libraries log, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def stop_on_signals() -> StopRequest:
    """SIGTERM or SIGINT: once to finish, twice to end after the step under way, three times to end at once."""
    stop = StopRequest()

    def ask(number: int, _: object) -> None:
        if stop.quit.is_set():
            sys.exit(128 + number)
        stop.ask()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop
