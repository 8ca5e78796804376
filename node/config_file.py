"""`cupel.toml`: what every process shares at its top level, and what is one process's own in a table of its name.

    rpc = ["http://127.0.0.1:8545", "http://127.0.0.1:8546"]
    [miner]
    units = 2

Keys are the flags without their dashes. A mistake is answered with the file, the line, the key and what is taken there.
Paths are relative to the file's folder.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cupel.protocol.errors import UsageError

CONFIG_META = "cupel.config"
"""Where a command's context keeps its ConfigFile."""
MAX_BYTES = 1 << 16
PROCESSES = ("miner", "verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A settings file, read and checked for one command."""

    path: Path
    values: dict[str, Any]
    """By click's parameter name."""
    keys: dict[str, tuple[str, ...]]
    """Where in the file each of them stands: (key,) or (table, key)."""
    lines: Mapping[tuple[str, ...], int]

    def where(self, name: str) -> str:
        """File, line and key of a parameter's value."""
        return _where(self.path, self.lines, self.keys[name])


def read_config(path: Path, process: str, params: Sequence[click.Parameter], shared: frozenset[str]) -> ConfigFile:
    """Read what the file says for the command `process` with these parameters.

    shared   option names that may stand at the top level whether or not this command has them
    Raises   UsageError: unreadable, not TOML, or a key or value the command does not take
    """
    text = _read_text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    lines = find_lines(text)
    by_option = {opt.lstrip("-"): param for param in params for opt in param.opts if opt.startswith("--")}
    known = sorted(by_option.keys() - {"config", "help"})
    values: dict[str, Any] = {}
    keys: dict[str, tuple[str, ...]] = {}

    def take(at: tuple[str, ...], value: Any) -> None:
        option = at[-1].replace("_", "-")
        if option not in known:
            if len(at) == 1 and option in shared:
                return
            raise UsageError(f"{_where(path, lines, at)}: {_unknown(at, process, known)}")
        param = by_option[option]
        problem = _type_problem(param, value)
        if problem:
            raise UsageError(f"{_where(path, lines, at)} {problem}")
        assert param.name is not None
        if isinstance(param.type, click.Path):
            value = path.parent / Path(value).expanduser()
        values[param.name], keys[param.name] = value, at

    for name, value in table.items():
        if isinstance(value, dict):
            if name not in (*PROCESSES, process):
                raise UsageError(f"{_where(path, lines, (name,))}: no process has this name{_near(name, PROCESSES)}")
        else:
            take((name,), value)
    own = table.get(process, {})
    for name, value in own.items() if isinstance(own, dict) else ():
        take((process, name), value)
    return ConfigFile(path=path, values=values, keys=keys, lines=lines)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large for a settings file: at most {MAX_BYTES} bytes are read")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not TOML: it is not UTF-8 text") from None


def find_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line each key of a TOML text begins on, however it is written: as `a.b = 1`, in a table or inline.

    A key is new in the shortest beginning of the text that is TOML and holds it.
    """
    lines, begun = text.splitlines(), 1
    found: dict[tuple[str, ...], int] = {}
    for number in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("\n".join(lines[:number]) + "\n")
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        while begun < number and (not lines[begun - 1].strip() or lines[begun - 1].lstrip().startswith("#")):
            begun += 1
        for key in _paths(table):
            found.setdefault(key, begun)
        begun = number + 1
    return found


def _paths(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, value in table.items():
        found.append((*above, name))
        if isinstance(value, dict):
            found += _paths(value, (*above, name))
    return found


def _where(path: Path, lines: Mapping[tuple[str, ...], int], at: tuple[str, ...]) -> str:
    line = f", line {lines[at]}" if at in lines else ""
    return f"{path}{line}: {'.'.join(at)}"


def _near(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(words)}"


def _unknown(at: tuple[str, ...], process: str, known: Sequence[str]) -> str:
    """Why there is no such key; its value is not repeated, it may be a secret."""
    if at[-1] in ("password", "key", "private_key", "private-key"):
        return "secrets do not belong in a settings file; take keystore with password-file or password-fd"
    table = "" if len(at) == 2 else f" (what is one process's own belongs under [{'] or ['.join(PROCESSES)}])"
    return f"{process} has no such setting{table}{_near(at[-1].replace('_', '-'), known)}"


def _type_problem(param: click.Parameter, value: Any) -> str | None:
    """What is wrong with a value's type, in words; None if nothing is."""
    kind = param.type
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(kind, click.types.BoolParamType):
        good, wanted = isinstance(value, bool), "true or false"
    elif isinstance(kind, click.Choice):
        good, wanted = value in kind.choices, f"one of {', '.join(map(repr, kind.choices))}"
    elif isinstance(kind, click.types.IntParamType):
        good, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(kind, click.types.FloatParamType) or kind.name == "gwei":
        good, wanted = is_number, "a number"
    elif kind.name.startswith("url["):
        texts = value if isinstance(value, list) else [value]
        good, wanted = all(isinstance(text, str) for text in texts), "a URL or a list of URLs"
    else:
        good, wanted = isinstance(value, str), "text in quotes"
    shown = repr(value) if isinstance(kind, click.Choice) and isinstance(value, str) else _describe(value)
    return None if good else f"is {shown}; it takes {wanted}"


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    for kind, name in ((str, "text"), (list, "a list"), (dict, "a table")):
        if isinstance(value, kind):
            return name
    return "a date or time"
