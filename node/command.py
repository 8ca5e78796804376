"""Running a command as a process: signals ask it to end, errors become one line and an exit code.

The codes are a promise to scripts and service managers (docs/operating/exit-codes.md).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from enum import IntEnum
from types import TracebackType

import click

from cupel.chain.errors import ChainUnreachable
from cupel.node.log import LibraryHandler, to_json_line
from cupel.node.redaction import format_crash, redact
from cupel.node.stopping import StopRequest
from cupel.protocol.errors import CupelError, UsageError

_stderr: LibraryHandler | None = None
"""Writes what libraries log; knows how stderr is to be read. None until a command runs as a process."""


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
    global _stderr
    _stderr = LibraryHandler(name, as_json=_is_json_wanted(command, environment_prefix))
    logging.basicConfig(handlers=[_stderr], level=logging.WARNING)
    logging.captureWarnings(True)
    threading.excepthook = _report_thread
    sys.unraisablehook = _report_unraisable
    try:
        code = command.main(prog_name=name, standalone_mode=False, auto_envvar_prefix=environment_prefix)
        sys.stdout.flush()
        # Everything is done: a request to end that comes while Python shuts down must not look like a crash.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
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
        _report_crash(name, "crash", type(error), error, error.__traceback__)
        _fail(name, "this is a bug of Cupel; please report it with the lines above", ExitCode.BUG)


def _fail(name: str, message: str, code: ExitCode) -> None:
    if _stderr is not None and _stderr.as_json:
        fields = {"reason": message, "exit_code": int(code)}
        click.echo(to_json_line(name, "error", "command failed", fields, time.time()), err=True)
    else:
        click.echo(f"{name}: {redact(message)}", err=True)
    sys.exit(code)


def log_as_json() -> None:
    """All of stderr as JSON from now on, whatever part of the process writes it: a setting asks for it."""
    if _stderr is not None:
        _stderr.as_json = True


def _is_json_wanted(command: click.Command, environment_prefix: str | None) -> bool:
    """Whether flag or environment ask for JSON: a mistake in another setting is to be told in JSON then."""
    if not any(parameter.name == "json_log" for parameter in command.params):
        return False
    said = os.environ.get(f"{environment_prefix}_JSON_LOG", "")
    return "--json-log" in sys.argv[1:] or said.strip().lower() in ("1", "true", "t", "yes", "y", "on")


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
    name = trouble.thread.name if trouble.thread is not None else "thread"
    _report_crash(name, "a thread died", kind, trouble.exc_value or kind(), trouble.exc_traceback)


def _report_unraisable(trouble: sys.UnraisableHookArgs) -> None:
    """What went wrong while something was cleaned up."""
    kind: type[BaseException] = trouble.exc_type
    event = trouble.err_msg or "ignored while cleaning up"
    _report_crash("python", event, kind, trouble.exc_value or kind(), trouble.exc_traceback)


def _report_crash(
    name: str, event: str, kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    crash = format_crash(kind, error, where)
    if _stderr is not None and _stderr.as_json:
        click.echo(to_json_line(name, "error", event, {"traceback": crash}, time.time()), err=True)
    else:
        click.echo(crash, err=True, nl=False)


def stop_on_signals() -> StopRequest:
    """SIGTERM or SIGINT: once to finish, twice to end after the step under way, three times to end at once."""
    stop, asked = StopRequest(), 0

    def ask(number: int, _: object) -> None:
        nonlocal asked
        asked += 1
        # Counted, not read off `stop`: a node that is already ending is not cut off by a second request.
        if asked > 2:
            sys.exit(128 + number)
        stop.ask()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return stop
