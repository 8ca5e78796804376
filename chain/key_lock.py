"""One nonce owner per key on this machine: two processes that send with one key would overwrite each other's nonces.

The lock is the operating system's (`flock`), so that a killed process leaves none behind. Another machine with the same
key is not seen by it; there, a nonce that somebody else used costs a retry (see outbox.py).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cupel.chain.paths import get_data_directory
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address

_MAX_HOLDER_BYTES = 512


def get_lock_directory() -> Path:
    return get_data_directory() / "locks"


@contextmanager
def hold_key(
    chain_id: int, address: Address, holder: str, *, genesis: bytes = b"", directory: Path | None = None
) -> Iterator[None]:
    """Be the only one on this machine who sends with a key on a chain, for as long as the block lasts.

    holder     who that is, for whoever is refused: "miner on /srv/cupel"
    genesis    the chain's first block hash: chains for development share one identifier
    directory  where the lock files are; None: `locks/` in the user's data directory
    Raises     UsageError: another process, or another part of this one, holds it; the message names which
    """
    folder = get_lock_directory() if directory is None else directory
    chain = f"{chain_id}-{genesis[:8].hex()}" if genesis else str(chain_id)
    path = folder / f"{chain}-{address.lower()}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"cannot lock the key {address}: {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, _MAX_HOLDER_BYTES, 0).decode(errors="replace").strip() or "another process"
            raise UsageError(
                f"the key {address} is in use on chain {chain_id} by {owner}: stop that first, or use another key "
                "(two senders with one key would take each other's nonces)"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{holder} (pid {os.getpid()})".encode()[:_MAX_HOLDER_BYTES], 0)
        yield
    finally:
        os.close(handle)  # the file stays: removing it could pull it from under whoever waits for it
