"""Settings of one process: flag over environment (`CUPEL_...`) over `cupel.toml`.

The file holds what every process shares at its top level and what is one process's own in a table of its name:

    rpc = "http://127.0.0.1:8545"
    [miner]
    units = 2
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from cupel.protocol.errors import UsageError

BACKENDS = ("auto", "cpu", "torch", "reference")
ENVIRONMENT_PREFIX = "CUPEL"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def check_url(what: str, url: str) -> None:
    """Raises UsageError unless `url` is http or https with a host."""
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok:
        raise UsageError(f"{what} is {url!r}; it should look like http://127.0.0.1:8545")


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` as a pair; port 0 takes any free one. Raises UsageError."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen is {text!r}; it should look like 127.0.0.1:8700")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise UsageError(f"--listen takes an address of this machine, not the name {host!r}") from None
    return host, int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a miner and a verifier both need. Checked on construction; raises UsageError."""

    run: Path
    """The run file: chain id, contract and where to fetch from."""
    rpc: str
    """The chain's JSON-RPC URL."""
    keystore: Path
    password_file: Path
    data: Path
    """Folder of this process alone: blocks, history, compiled kernels."""
    listen: str = "127.0.0.1:0"
    """Where blocks are served, HOST:PORT; port 0 takes any free one."""
    endpoint: str | None = None
    """URL announced on chain, if others reach this machine by another address than `listen`."""
    peers: tuple[str, ...] = ()
    """URLs asked for blocks before the run's other participants."""
    threads: int = 1
    backend: str = "auto"
    json_log: bool = False

    def __post_init__(self) -> None:
        for what, path in (("run file", self.run), ("keystore", self.keystore), ("password file", self.password_file)):
            if not path.is_file():
                raise UsageError(f"there is no {what} {path}")
        if self.data.exists() and not self.data.is_dir():
            raise UsageError(f"--data {self.data} is a file; it should be a folder")
        check_url("--rpc", self.rpc)
        if self.endpoint is not None:
            check_url("--endpoint", self.endpoint)
        for peer in self.peers:
            check_url("--peers", peer)
        parse_listen(self.listen)
        if not 1 <= self.threads <= 1024:
            raise UsageError(f"--threads is {self.threads}; take 1 or more")
        if self.backend not in BACKENDS:
            raise UsageError(f"--backend is {self.backend!r}; take one of {', '.join(BACKENDS)}")


def split_urls(ctx: click.Context, param: click.Parameter, value: object) -> tuple[str, ...]:
    """`a,b` from a flag or the environment, or a list from the file."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
    return tuple(text for item in items if (text := str(item).strip().rstrip("/")))


def load_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Let the file give what neither flags nor environment do. Raises UsageError for a name no option has."""
    if path is None:
        path = Path("cupel.toml")
        if not path.is_file():
            return
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    shared = {name: value for name, value in table.items() if not isinstance(value, dict)}
    own = table.get(ctx.info_name or "", {})
    known = {p.name for p in ctx.command.params}
    for name in own:
        if name.replace("-", "_") not in known:
            raise UsageError(f"{path}: [{ctx.info_name}] has {name!r}, which is no option of {ctx.info_name}")
    ctx.default_map = {name.replace("-", "_"): value for name, value in (shared | own).items()}


_OPTIONS = (
    click.option(
        "--config", type=click.Path(path_type=Path), is_eager=True, expose_value=False, callback=load_file,
        help="Settings file; cupel.toml of this folder if there is one.",
    ),
    click.option("--run", type=click.Path(path_type=Path), required=True, help="The run file (JSON)."),
    click.option("--rpc", required=True, help="The chain's JSON-RPC URL."),
    click.option("--keystore", type=click.Path(path_type=Path), required=True, help="Encrypted key file."),
    click.option("--password-file", type=click.Path(path_type=Path), required=True, help="Holds the key's password."),
    click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of this process alone."),
    click.option("--listen", default="127.0.0.1:0", show_default=True, help="Where to serve blocks, HOST:PORT."),
    click.option("--endpoint", help="URL others reach this process by, if not by --listen."),
    click.option("--peers", type=click.UNPROCESSED, callback=split_urls, help="URLs to ask for blocks first, a,b."),
    click.option("--threads", type=int, default=1, show_default=True, help="Compute threads."),
    click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Engine."),
    click.option("--json-log", is_flag=True, help="One JSON object per line on stderr."),
)  # fmt: skip


def node_options(function: Decorated) -> Decorated:
    """The options of `NodeSettings`, for a click command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
