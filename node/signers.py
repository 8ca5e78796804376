"""A node's key and chain, as its settings name them: the password asked for where none was given."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cupel.chain.client import FeePolicy
from cupel.chain.keys import Signer, load_account, read_password_descriptor, read_password_file
from cupel.chain.outbox import Outbox
from cupel.chain.run_file import RunFile
from cupel.chain.signers import RemoteSigner
from cupel.node.metering import MeteredClient
from cupel.node.settings import NodeSettings
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address


def get_password(file: Path | None, descriptor: int | None, *, confirm: bool = False, what: str = "Password") -> str:
    """From a file's first line, an open descriptor, or the terminal. Raises UsageError: there is none to ask."""
    if file is not None and descriptor is not None:
        raise UsageError("give --password-file or --password-fd, not both")
    if file is not None:
        return read_password_file(file)
    if descriptor is not None:
        return read_password_descriptor(descriptor)
    if not sys.stdin.isatty():
        raise UsageError("no password: give --password-file or --password-fd, or run this in a terminal")
    with _interruptible():
        password: str = click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return password


def open_signer(settings: NodeSettings) -> Signer:
    """Unlock the key a node plays with, or reach the signer that holds it.

    Raises   UsageError: no keystore, no password, the wrong one; the signer has no such key
             SignerSilent, SignerRefused
    """
    if settings.signer is not None:
        address = None if settings.address is None else Address(settings.address)
        return RemoteSigner(settings.signer, address, dialect=settings.signer_dialect)
    assert settings.keystore is not None, "settings name a keystore or a signer"
    what = f"Password of {settings.keystore}"
    return load_account(settings.keystore, get_password(settings.password_file, settings.password_fd, what=what))


def connect(
    settings: NodeSettings,
    signer: Signer,
    run_file: RunFile,
    *,
    outbox: Outbox | None = None,
    observe: Callable[[str, str], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> MeteredClient:
    """The chain through the operator's URLs, with the fees and depth the operator chose.

    Raises ChainUnreachable, WrongChain
    """
    return MeteredClient(
        settings.rpc,
        signer,
        outbox=outbox,
        observe=observe,
        notify=notify,
        chain_id=run_file.chain_id,
        receipt_depth=settings.confirmations or run_file.confirmations,
        fees=FeePolicy(max_fee_wei=settings.max_fee_wei, tip_wei=settings.tip_wei),
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question, whatever it means to the process otherwise."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
