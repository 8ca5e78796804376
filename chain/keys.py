"""Keys: who signs, and how a key rests on disk.

A key is kept as a V3 keystore, the format every wallet reads: AES-128-CTR under scrypt of a password. Nothing here
prints, logs or puts a key into an exception.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eth_account import Account
from eth_utils.address import to_checksum_address

from cupel.chain.paths import get_data_directory
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address

SCRYPT_N = 1 << 18
"""Work and memory (256 MiB) to try one password: geth's value. Lower only for keys that guard nothing, as in tests."""
MINIMUM_PASSWORD = 8
"""Characters of a new key's password."""
MAX_KEYSTORE_BYTES = 1 << 16
MAX_SECRET_CHARACTERS = 4096


class Signer(Protocol):
    """Somebody who holds a key; a machine elsewhere would do as well as this process."""

    @property
    def address(self) -> Address: ...

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        """The raw signed transaction of these EIP-1559 fields."""

    def sign_typed_data(self, message: Mapping[str, Any]) -> bytes:
        """65 bytes over a full EIP-712 message."""

    def derive_secret(self, label: bytes) -> bytes:
        """HMAC-SHA256(key, label): secrets that the key alone brings back, such as salts after a restart."""


class LocalSigner:
    """A key in this process's memory."""

    __slots__ = ("_account", "address")

    def __init__(self, key: bytes) -> None:
        try:
            self._account = Account.from_key(key)
        except Exception:  # the library's message may quote the key
            raise UsageError("not a private key: it must be 32 bytes, neither 0 nor above the curve's order") from None
        self.address = Address(to_checksum_address(self._account.address))

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
        return bytes(self._account.sign_transaction(dict(fields)).raw_transaction)

    def sign_typed_data(self, message: Mapping[str, Any]) -> bytes:
        return bytes(self._account.sign_typed_data(full_message=dict(message)).signature)

    def derive_secret(self, label: bytes) -> bytes:
        return hmac.new(bytes(self._account.key), label, hashlib.sha256).digest()

    def export_key(self) -> bytes:
        """The 32 bytes themselves. Whoever sees them owns everything the key owns."""
        return bytes(self._account.key)


def make_key() -> LocalSigner:
    """A fresh key from the operating system's randomness."""
    while True:
        try:
            return LocalSigner(os.urandom(32))
        except UsageError:  # one in 2^128: not on the curve
            continue


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoreEntry:
    """A keystore file, still locked."""

    address: Address
    path: Path


def get_keystore_directory() -> Path:
    """Where keys rest unless --keystore says otherwise."""
    return get_data_directory() / "keystore"


def save_keystore(
    signer: LocalSigner, password: str, directory: Path, *, scrypt_n: int = SCRYPT_N, now: datetime.datetime
) -> Path:
    """Encrypt a key into a new file of mode 0600 and return its path.

    Raises   UsageError: the password is too short, the key is already there, or the directory cannot be written
    """
    if len(password) < MINIMUM_PASSWORD:
        raise UsageError(f"the password has {len(password)} characters; take at least {MINIMUM_PASSWORD}")
    for entry in list_keystores(directory):
        if entry.address == signer.address:
            raise UsageError(f"{signer.address} is already in {entry.path}")
    content = Account.encrypt(signer.export_key(), password, kdf="scrypt", iterations=scrypt_n)
    name = f"UTC--{now:%Y-%m-%dT%H-%M-%S.%fZ}--{signer.address[2:].lower()}"
    return write_private_file(directory / name, json.dumps(content).encode())


def write_private_file(path: Path, content: bytes) -> Path:
    """Write a new file that only its owner can read, whole or not at all. Raises UsageError; never overwrites."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # fails where the name is taken, as a rename would not
        finally:
            temporary.unlink()
        # The name too is on disk before anybody sends money to the key.
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except FileExistsError:
        raise UsageError(f"{path} exists; keys are never written over anything") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def list_keystores(directory: Path) -> list[KeystoreEntry]:
    """Keystores in `directory` by address; files that are none are passed over."""
    entries = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        if path.name.startswith(".") or not path.is_file() or path.stat().st_size > MAX_KEYSTORE_BYTES:
            continue
        try:
            entries.append(KeystoreEntry(address=_read_keystore(path)[1], path=path))
        except UsageError:
            continue
    return entries


def read_keystore_address(path: Path) -> Address:
    """Whose key a keystore holds, without unlocking it. Raises UsageError: missing, unreadable or no keystore."""
    return _read_keystore(path)[1]


def _read_keystore(path: Path) -> tuple[dict[str, Any], Address]:
    try:
        if path.stat().st_size > MAX_KEYSTORE_BYTES:
            raise UsageError(f"{path} is too large for a keystore")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"there is no keystore {path}; `cupel wallet list` shows those there are") from None
    except OSError as error:
        raise UsageError(f"cannot read the keystore {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not a keystore: not JSON") from None
    if not isinstance(content, dict) or content.get("version") != 3 or not isinstance(content.get("crypto"), dict):
        raise UsageError(f"{path} is not a version 3 keystore")
    address = str(content.get("address", "")).lower().removeprefix("0x")
    if not re.fullmatch("[0-9a-f]{40}", address):
        raise UsageError(f"{path} does not say which address it holds")
    return content, Address(to_checksum_address(f"0x{address}"))


def load_account(path: Path, password: str) -> LocalSigner:
    """Unlock a keystore.

    Raises   UsageError: no such file, not a keystore, or the wrong password
    """
    content, address = _read_keystore(path)
    try:
        key = bytes(Account.decrypt(content, password))
    except ValueError as error:
        if "MAC" in str(error):
            raise UsageError(f"wrong password for {address} ({path})") from None
        raise UsageError(f"{path} cannot be unlocked: {error}") from None
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise UsageError(f"{path} is damaged: {type(error).__name__} {error}") from None
    signer = LocalSigner(key)
    if signer.address != address:
        raise UsageError(f"{path} says {address} but holds the key of {signer.address}: do not use it")
    return signer


def find_keystore(directory: Path, wanted: str | None) -> Path:
    """The keystore named by an address, a beginning of one, or a path; with None the only one in `directory`.

    Raises   UsageError: none or several match
    """
    if wanted is not None and Path(wanted).is_file():
        return Path(wanted)
    entries = list_keystores(directory)
    prefix = "" if wanted is None else wanted.lower().removeprefix("0x")
    matching = [entry for entry in entries if entry.address[2:].lower().startswith(prefix)]
    if len(matching) == 1:
        return matching[0].path
    if not entries:
        raise UsageError(f"no keys in {directory}: make one with `cupel wallet new`")
    if wanted is None or matching:
        raise UsageError(f"{len(matching)} keys in {directory} match: name one of them by its address")
    raise UsageError(f"no key of {wanted} in {directory}; `cupel wallet list` shows those there are")


def read_secret_file(path: Path) -> str:
    """The first line of a file: a password, or a key in hex. Raises UsageError."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(MAX_SECRET_CHARACTERS)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text") from None
    return _strip_line(line, str(path))


def read_password_file(path: Path) -> str:
    """The password on the first line of a file. Raises UsageError."""
    return read_secret_file(path)


def read_password_descriptor(descriptor: int) -> str:
    """The first line of an open file descriptor. Raises UsageError."""
    try:
        with os.fdopen(descriptor, encoding="utf-8", closefd=False) as file:
            line = file.readline(MAX_SECRET_CHARACTERS)
    except OSError as error:
        raise UsageError(f"cannot read descriptor {descriptor}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"descriptor {descriptor} is not text") from None
    return _strip_line(line, f"descriptor {descriptor}")


def _strip_line(line: str, where: str) -> str:
    stripped = line.rstrip("\r\n")
    if not stripped:
        raise UsageError(f"{where} holds nothing: its first line is empty")
    return stripped
