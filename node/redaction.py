"""What is never said: keys and passwords in URLs are cut out of every line this process writes.

Providers put an account's key into the user-info, the path or the query of a URL. So a URL is shown as its host and, of
the rest, only what our own services have there (`/ipfs/CID`, `/units/0x...`). The secrets of URLs an operator gave are
remembered besides, and cut wherever they turn up, as in an error page that repeats the request's path.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from urllib.parse import parse_qsl, unquote, urlsplit

CUT = "…"
_URL = re.compile(r"\b((?:https?|wss?)://)([^\s'\"<>|\\^`{}]+)", re.IGNORECASE)
_PUBLIC_SEGMENT = re.compile(
    r"ipfs|units|status|metrics|api|v[0-9]{1,2}|rpc|0x[0-9a-f]{1,64}|b[a-z2-7]{40,}|Qm[1-9A-HJ-NP-Za-km-z]{44}"
)
_PUBLIC_QUERY = re.compile(r"(format|dag-scope|entity-bytes)=[\w.:*-]*")
_TRAILING = ".,:;!?)]"
_SHORTEST_SECRET = 6
"""Shorter pieces of a URL are words like `v3`; cutting them everywhere would make lines unreadable."""
_hidden: set[str] = set()


def hide_url(url: str) -> None:
    """Cut this URL's user-info, path pieces and query values out of everything `redact` sees from now on."""
    try:
        parts = urlsplit(url)
        if not parts.hostname:  # no URL, and so nothing that is asked: `127.0.0.1:8545` would be all path
            return
        pieces = [parts.username or "", parts.password or ""]
        pieces += [p for p in parts.path.split("/") if not _PUBLIC_SEGMENT.fullmatch(p)]
        pieces += [value for _, value in parse_qsl(parts.query)]
    except ValueError:
        return
    _hidden.update(form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= _SHORTEST_SECRET)


def redact(text: str) -> str:
    """`text` without what may be a secret in a URL."""
    shown = _URL.sub(_redact_match, text) if "://" in text else text
    for secret in _hidden:
        if secret in shown:
            shown = shown.replace(secret, CUT)
    return shown


def _redact_match(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    body = rest.rstrip(_TRAILING)
    tail = rest[len(body) :]
    before, question, query = body.partition("?")
    authority, slash, path = before.partition("/")
    _, at, host = authority.rpartition("@")
    shown = scheme + (f"{CUT}@" if at else "") + host
    is_public = all(_PUBLIC_SEGMENT.fullmatch(segment) for segment in path.split("/") if segment)
    shown += slash + (path if is_public else CUT)
    if question:
        shown += question + (query if all(_PUBLIC_QUERY.fullmatch(one) for one in query.split("&")) else CUT)
    return shown + tail


def format_crash(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> str:
    """A traceback that may be shown."""
    return redact("".join(traceback.format_exception(kind, error, where)))
