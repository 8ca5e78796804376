"""Settings of one process, checked; options.py says where they come from."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cupel.node.redaction import redact
from cupel.node.stopping import OnStop
from cupel.protocol.errors import UsageError

BACKENDS = ("auto", "cpu", "torch", "cuda", "reference")
Recompute = Literal["none", "attention", "all"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "attention", "all")
GWEI = 10**9


class WrongSetting(UsageError):
    """One setting cannot be as it is; `name` is that of the field."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def check_url(option: str, url: str) -> None:
    """Raises WrongSetting unless `url` is http or https with a host."""
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok:
        # What is no URL may still hold a password; only what looks like a host is repeated.
        shown = repr(url) if re.fullmatch(r"[\w.:-]{0,80}", url) else repr(redact(url)) if "://" in url else "no URL"
        raise WrongSetting(_field(option), f"{option} is {shown}; it should look like http://127.0.0.1:8545")


def parse_listen(text: str, option: str = "--listen") -> tuple[str, int]:
    """`HOST:PORT` as a pair; port 0 takes any free one. Raises WrongSetting."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise WrongSetting(_field(option), f"{option} is {text!r}; it should look like 127.0.0.1:8700")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise WrongSetting(
                _field(option), f"{option} takes an address of this machine, not the name {host!r}"
            ) from None
    return host, int(port)


def _field(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a miner and a verifier both need. Checked on construction; raises WrongSetting."""

    run: Path
    """The run file: chain id, contract and where to fetch from."""
    rpc: tuple[str, ...]
    """The chain's JSON-RPC URLs, the preferred one first."""
    data: Path
    """Folder of this process alone: blocks, journal, history, compiled kernels."""
    keystore: Path | None = None
    """Encrypted key; without it `signer` holds the key."""
    password_file: Path | None = None
    password_fd: int | None = None
    """Descriptor the password is read from, once. Without file and descriptor the terminal is asked."""
    signer: str | None = None
    """URL of a remote signer."""
    signer_dialect: Literal["eth", "clef"] = "eth"
    """What it speaks: as Web3Signer does, or go-ethereum's clef."""
    address: str | None = None
    """Whose key the remote signer uses; None: the only one it has."""
    listen: str = "127.0.0.1:0"
    """Where blocks are served, HOST:PORT; port 0 takes any free one."""
    endpoint: str | None = None
    """URL announced on chain, if others reach this machine by another address than `listen`."""
    peers: tuple[str, ...] = ()
    """URLs asked for blocks before the run's other participants."""
    ipfs: str | None = None
    """RPC URL of a Kubo daemon, which then serves what this node keeps and is asked for what is not here."""
    confirmations: int | None = None
    """Blocks a transaction must be in, its own included, before it counts; None: as the run file says."""
    max_fee_wei: int = 500 * GWEI
    """Cap per gas, base fee and tip together."""
    tip_wei: int | None = None
    """Per gas for a block's producer; None takes the chain's suggestion."""
    metrics: str | None = None
    """Where Prometheus metrics are served: HOST:PORT or a port of 127.0.0.1; None serves none."""
    threads: int = 1
    backend: str = "auto"
    recompute: Recompute = "none"
    """What a training step's backward pass computes again instead of keeping it in memory; no bit depends on it."""
    challenge_budget_wei: int | None = None
    """Bonds that accusations may put down at once; 0: accuse nobody; None: a verifier's whole account, a miner's
    nothing."""
    json_log: bool = False
    on_stop: str = OnStop.FINISH.value
    """What the first request to stop means; the second one always means at once."""

    def __post_init__(self) -> None:
        self._check_key()
        if not self.run.is_file():
            raise WrongSetting("run", f"there is no run file {self.run}")
        if self.data.exists() and not self.data.is_dir():
            raise WrongSetting("data", f"--data {self.data} is a file; it should be a folder")
        self._check_urls()
        parse_listen(self.listen)
        if self.metrics is not None:
            parse_metrics(self.metrics)
        for name, least, most in (("threads", 1, 1024), ("confirmations", 1, 1000)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise WrongSetting(name, f"--{name} is {getattr(self, name)}; take {least} to {most}")
        if self.max_fee_wei <= 0:
            raise WrongSetting("max_fee_wei", "--max-fee is 0; nothing could be sent. Take what you would pay per gas")
        if self.challenge_budget_wei is not None and self.challenge_budget_wei < 0:
            raise WrongSetting("challenge_budget_wei", "--challenge-budget is an amount of ETH; 0 accuses nobody")
        if self.tip_wei is not None and self.tip_wei > self.max_fee_wei:
            raise WrongSetting("tip_wei", "--tip is above --max-fee, which includes it")
        if self.on_stop not in [one.value for one in OnStop]:
            raise WrongSetting("on_stop", f"--on-stop is {self.on_stop!r}; take one of {', '.join(OnStop)}")
        if self.recompute not in RECOMPUTE:
            raise WrongSetting("recompute", f"--recompute is {self.recompute!r}; take one of {', '.join(RECOMPUTE)}")
        if self.backend not in BACKENDS:
            raise WrongSetting("backend", f"--backend is {self.backend!r}; take one of {', '.join(BACKENDS)}")

    def _check_key(self) -> None:
        if (self.keystore is None) == (self.signer is None):
            raise WrongSetting(
                "keystore",
                "whose key? Give --keystore FILE (`cupel wallet list` shows them), or --signer URL, not both",
            )
        if self.password_file is not None and self.password_fd is not None:
            raise WrongSetting("password_fd", "give --password-file or --password-fd, not both")
        for what, name in (("keystore", "keystore"), ("password file", "password_file")):
            path: Path | None = getattr(self, name)
            # Not `is_file`: a password may come from a pipe, as systemd and shells make them.
            if path is not None and (not path.exists() or path.is_dir()):
                raise WrongSetting(name, f"there is no {what} {path}")
        if self.signer is not None:
            check_url("--signer", self.signer)
            if self.address is not None and not re.fullmatch("0x[0-9a-fA-F]{40}", self.address):
                raise WrongSetting("address", f"--address is {self.address!r:.60}; it is 0x and 40 hexadecimal digits")
            if self.password_file is not None or self.password_fd is not None:
                raise WrongSetting("signer", "--signer asks for its own password; --password-file goes with --keystore")
        elif self.address is not None:
            raise WrongSetting("address", "--address goes with --signer; a keystore names its own address")

    def _check_urls(self) -> None:
        if not self.rpc:
            raise WrongSetting("rpc", "--rpc is empty; it should look like http://127.0.0.1:8545")
        for option, urls in (("--rpc", self.rpc), ("--peers", self.peers)):
            for url in urls:
                check_url(option, url)
        for option, one in (("--endpoint", self.endpoint), ("--ipfs", self.ipfs)):
            if one is not None:
                check_url(option, one)


def parse_metrics(text: str) -> tuple[str, int]:
    """Where metrics are served; a bare port is one of 127.0.0.1. Raises WrongSetting."""
    return parse_listen(f"127.0.0.1:{text}" if text.isdigit() else text, "--metrics")
