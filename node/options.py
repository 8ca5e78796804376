"""A node's settings from where operators put them: flag over environment (`CUPEL_...`) over `cupel.toml`."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cupel.node.config_file import CONFIG_META, ConfigFile, read_config
from cupel.node.redaction import hide_url
from cupel.node.settings import BACKENDS, GWEI, RECOMPUTE, NodeSettings, WrongSetting
from cupel.node.stopping import OnStop
from cupel.protocol.errors import UsageError

ENVIRONMENT_PREFIX = "CUPEL"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Settings = TypeVar("Settings", bound=NodeSettings)


class Gwei(click.ParamType[int]):
    """An amount in gwei (10^9 wei) as wei."""

    name = "gwei"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            wei = Decimal(str(value)) * GWEI
        except InvalidOperation:
            wei = Decimal("NaN")
        if not wei.is_finite() or wei < 0 or wei != int(wei):
            self.fail(f"{value!r} is not an amount in gwei, like 30 or 0.05", param, ctx)
        return int(wei)


class Ether(click.ParamType[int]):
    """An amount in ETH as wei."""

    name = "eth"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            wei = Decimal(str(value)) * GWEI * GWEI
        except InvalidOperation:
            wei = Decimal("NaN")
        if not wei.is_finite() or wei < 0 or wei != int(wei):
            self.fail(f"{value!r} is not an amount in ETH, like 2 or 0.5", param, ctx)
        return int(wei)


class Urls(click.ParamType[tuple[str, ...]]):
    """`a,b` from a flag or the environment, or a list from the file, as a tuple."""

    name = "url[,url...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        items = value if isinstance(value, (list, tuple)) else str(value).split(",")
        urls = tuple(text for item in items if (text := str(item).strip().rstrip("/")))
        for url in urls:
            hide_url(url)
        return urls


class Url(click.ParamType[str]):
    """One URL; what may be secret in it is never shown."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        url = str(value).strip().rstrip("/")
        hide_url(url)
        return url


def load_file(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Let the file give what neither flags nor environment do. Raises UsageError naming key, line and what is taken."""
    if path is None:
        path = Path("cupel.toml")
        if not path.is_file():
            return
    config = read_config(path, ctx.info_name or "", ctx.command.params, shared=SHARED_NAMES)
    ctx.meta[CONFIG_META] = config
    ctx.default_map = config.values


def build_settings(kind: type[Settings], options: dict[str, Any]) -> Settings:
    """The settings of click's `options`; a wrong one is named with where it was given. Raises UsageError."""
    if f"{ENVIRONMENT_PREFIX}_PASSWORD" in os.environ:
        raise UsageError(
            f"{ENVIRONMENT_PREFIX}_PASSWORD is set: other programs can read the environment. Unset it, and give "
            "--password-file or --password-fd"
        )
    try:
        return kind(**options)
    except WrongSetting as wrong:
        raise UsageError(f"{_where_given(wrong.name)}{wrong}") from None


def _where_given(name: str) -> str:
    ctx = click.get_current_context(silent=True)
    source = ctx.get_parameter_source(name) if ctx is not None else None
    if source == ParameterSource.ENVIRONMENT:
        return f"{ENVIRONMENT_PREFIX}_{name.upper()}: "
    config = ctx.meta.get(CONFIG_META) if ctx is not None else None
    if source == ParameterSource.DEFAULT_MAP and isinstance(config, ConfigFile):
        return f"{config.where(name)}: "
    return ""


_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--config", type=_FILE, is_eager=True, expose_value=False, callback=load_file,
        help="Settings file; cupel.toml of this folder if there is one.",
    ),
    click.option("--run", type=_FILE, required=True, help="The run file (JSON)."),
    click.option("--rpc", type=Urls(), required=True, help="The chain's JSON-RPC URL; several, and one may fail."),
    click.option("--keystore", type=_FILE, help="Encrypted key file."),
    click.option("--password-file", type=_FILE, help="Holds the key's password. [default: ask on the terminal]"),
    click.option("--password-fd", type=int, help="Read the password from this open file descriptor."),
    click.option("--signer", type=Url(), help="A remote signer instead of --keystore."),
    click.option(
        "--signer-dialect", type=click.Choice(["eth", "clef"]), default="eth", show_default=True,
        help="What it speaks: Web3Signer's JSON-RPC, or go-ethereum's clef.",
    ),
    click.option("--address", help="Whose key the remote signer is to use. [default: the only one it has]"),
    click.option("--data", type=_FILE, required=True, help="Folder of this process alone."),
    click.option("--listen", default="127.0.0.1:0", show_default=True, help="Where to serve blocks, HOST:PORT."),
    click.option("--endpoint", type=Url(), help="URL others reach this process by, if not by --listen."),
    click.option("--peers", type=Urls(), default=(), help="URLs to ask for blocks first."),
    click.option("--ipfs", type=Url(), help="RPC URL of a Kubo daemon to publish to and fetch from as well."),
    click.option(
        "--confirmations", type=int,
        help="Blocks a transaction must be in, its own included, before it counts. [default: as the run file says]",
    ),
    click.option("--max-fee", "max_fee_wei", type=Gwei(), default="500", show_default=True,
                 help="Most to pay per gas, in gwei; above it nothing is sent."),
    click.option("--tip", "tip_wei", type=Gwei(), help="Per gas for a block's producer. [default: as the chain says]"),
    click.option(
        "--challenge-budget", "challenge_budget_wei", type=Ether(),
        help="ETH that bonds of accusations may take at once; 0 accuses nobody. [default: a verifier's whole account, "
        "nothing of a miner's]",
    ),
    click.option("--metrics", help="Serve Prometheus metrics at HOST:PORT, or at a port of 127.0.0.1. [default: off]"),
    click.option("--threads", type=int, default=1, show_default=True, help="Compute threads."),
    click.option(
        "--recompute", type=click.Choice(RECOMPUTE), default="none", show_default=True,
        help="Compute attention's weights, or all activations, again instead of keeping them: less memory, more time, "
        "the same bits. For the cpu engine.",
    ),
    click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="Engine."),
    click.option(
        "--on-stop", type=click.Choice([one.value for one in OnStop]), default=OnStop.FINISH.value, show_default=True,
        help="At Ctrl-C or SIGTERM: finish this round's duties, leave the run besides, or quit at once. Twice: quit.",
    ),
    click.option("--json-log", is_flag=True, help="One JSON object per line on stderr."),
)  # fmt: skip
SHARED_NAMES = frozenset(
    option.lstrip("-")
    for decorate in _OPTIONS
    for param in getattr(decorate(lambda: None), "__click_params__", ())
    for option in param.opts
)
"""What the settings file may say for every process at once."""


def node_options(function: Decorated) -> Decorated:
    """The options of `NodeSettings`, for a click command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
