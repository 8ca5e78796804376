"""A node's key, its folder and the ways in."""

from __future__ import annotations

import fcntl
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from cupel.chain.keys import load_account, read_keystore_address
from cupel.chain.run_file import RunFile
from cupel.diagnosis.findings import Finding, ok, skipped, warning, wrong
from cupel.node.journal import FILE_NAME, Journal, read_identity
from cupel.node.ownership import LOCK_NAME
from cupel.node.redaction import redact
from cupel.node.settings import parse_listen
from cupel.node.signers import get_password
from cupel.protocol.errors import CupelError, StorageFailed, UsageError
from cupel.protocol.types import Address

REACH_S = 5.0


def check_key(
    keystore: Path | None, password_file: Path | None, password_fd: int | None
) -> tuple[Address | None, list[Finding]]:
    """Whose key it is, and whether it can be read; unlocked where a password is given."""
    if keystore is None:
        return None, [skipped("key", "no --keystore given")]
    try:
        address = read_keystore_address(keystore)
    except UsageError as error:
        return None, [wrong("key", str(error), "`cupel wallet list` shows the keystores there are")]
    found = [_check_private("key", keystore, f"{keystore} holds the key of {address}")]
    if password_file is None and password_fd is None:
        return address, [*found, skipped("password", "no --password-file given; not unlocked")]
    try:
        load_account(keystore, get_password(password_file, password_fd))
    except UsageError as error:
        fix = "give the password this keystore was made with; nobody else can bring it back"
        return address, [*found, wrong("password", str(error), fix)]
    if password_file is not None and password_file.is_file():
        return address, [*found, _check_private("password", password_file, "the password unlocks the key")]
    return address, [*found, ok("password", "the password unlocks the key")]


def _check_private(check: str, path: Path, found: str) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return warning(check, f"{found}, but others may read {path}", f"chmod 600 {path}")
    return ok(check, found)


def check_folder(folder: Path | None, run: RunFile | None, address: Address | None) -> Iterator[Finding]:
    """The journal, and whether a node is at work."""
    if folder is None:
        yield skipped("journal", "no --data given")
        return
    if not (folder / FILE_NAME).exists():
        yield ok("journal", f"none in {folder} yet; the node's first start makes it")
        return
    try:
        identity = read_identity(folder)
        with Journal(folder, identity, read_only=True) as journal:
            count = journal.count()
    except StorageFailed as error:
        yield wrong("journal", str(error), "make room on that disk, or look after its health")
        return
    except UsageError as error:
        yield wrong("journal", str(error), "put back an exported copy: `cupel journal import`")
        return
    found = f"{count} answers of {identity}"
    mine = address in (None, identity.address) and (run is None or run.contract == identity.contract)
    if mine:
        yield ok("journal", f"{found}, whole{', a node is at work' if is_running(folder) else ''}")
    else:
        yield wrong("journal", f"{found}, not of this key and run", "give every key and run a --data folder of its own")


def is_running(folder: Path) -> bool:
    """Whether a process holds this folder."""
    try:
        with (folder / LOCK_NAME).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def check_reach(listen: str | None, endpoint: str | None, *, running: bool) -> Iterator[Finding]:
    """Whether the port is free, and whether the announced URL leads to it."""
    if running:
        yield skipped("listen", "a node is at work on this folder; its port is taken by itself")
        if endpoint is not None:
            yield _ask("endpoint", f"{endpoint}/status", None)
        return
    if listen is None:
        yield skipped("listen", "no --listen given")
        return
    try:
        host, port = parse_listen(listen)
    except CupelError as error:
        yield wrong("listen", str(error), "give HOST:PORT, like 0.0.0.0:8700")
        return
    nonce = secrets.token_hex(8)
    try:
        with _serving(host, port, nonce) as bound:
            yield ok("listen", f"{host}:{bound} is free")
            if endpoint is not None:
                yield _ask("endpoint", f"{endpoint}/{nonce}", nonce)
            elif host in ("127.0.0.1", "localhost", "::1"):
                fix = "for other machines: --listen 0.0.0.0:8700 --endpoint http://your.host:8700"
                yield warning("endpoint", "only this machine can reach the node", fix)
    except OSError as error:
        yield wrong(
            "listen", f"cannot listen on {listen}: {error.strerror}", "stop what uses the port, or take another"
        )


@contextmanager
def _serving(host: str, port: int, answer: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the findings say what was seen."""

    with ThreadingHTTPServer(("127.0.0.1" if host == "localhost" else host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _ask(check: str, url: str, wanted: str | None) -> Finding:
    """A machine behind a router may not reach itself from inside, so a failure is a warning."""
    where = redact(url.rpartition("/")[0])
    fix = (
        "forward the port to this machine and let it through the firewall; from inside a network this may fail wrongly"
    )
    try:
        answer = httpx.get(url, timeout=REACH_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return warning(check, f"{where} does not lead here: {redact(str(error)) or type(error).__name__}", fix)
    if answer.status_code != 200 or (wanted is not None and answer.text != wanted):
        return warning(check, f"something else answers at {where} (HTTP {answer.status_code})", fix)
    return ok(check, f"{where} leads to this machine")
