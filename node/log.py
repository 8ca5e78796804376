"""Progress on stderr: one line an operator can read, or with `--json-log` one JSON object per line.

That holds for all of stderr: what libraries log and warn of, crashes, and the last word of a command as well.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from cupel.node.redaction import redact


def plain(value: object) -> Any:
    """`value` as JSON knows it: bytes become 0x-hex, tuples lists, whatever else its text, secrets in URLs cut."""
    if isinstance(value, (bytes, bytearray)):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(str(value))


def _word(value: object) -> str:
    """One field as an operator reads it: long hashes are cut, they stand whole in the records."""
    if isinstance(value, (bytes, bytearray)):
        return f"0x{value.hex()[:8]}…" if len(value) > 8 else f"0x{value.hex()}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ",".join(_word(v) for v in value) or "none"
    return str(value)


def to_json_line(process: str, level: str, event: str, fields: Mapping[str, object], now: float) -> str:
    """One entry, without the line's end; `now` in seconds since 1970."""
    entry = {"time": round(now, 3), "process": process, "level": level, "event": redact(event)}
    return redact(json.dumps(entry | plain(dict(fields)), ensure_ascii=False))


class Log:
    """Writes events with named fields. Threads may share one."""

    def __init__(
        self, name: str, *, as_json: bool, stream: TextIO | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._name, self._as_json, self._clock = name, as_json, clock
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.Lock()

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write("error", event, fields)

    def stat(self, line: str, **fields: object) -> None:
        """The stat line: `line` for people, `fields` for programs."""
        self._write("stat", line, fields, words=False)

    def _write(self, level: str, event: str, fields: dict[str, object], words: bool = True) -> None:
        now = self._clock()
        if self._as_json:
            text = to_json_line(self._name, level, event, fields, now)
        else:
            stamp = time.strftime("%H:%M:%S", time.localtime(now))
            mark = "" if level in ("info", "stat") else f"{level}: "
            tail = "".join(f" {name}={_word(value)}" for name, value in fields.items()) if words else ""
            text = f"{stamp} {self._name} {mark}{event}{tail}"
        text = redact(text)
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()


LINES, PER_S = 10, 60.0
"""As many lines of one place in a library's code are shown in so many seconds; the others are counted."""


@dataclass(slots=True)
class _Place:
    since: float
    shown: int = 0
    dropped: int = 0


class LibraryHandler(logging.Handler):
    """What libraries log, without secrets, and not as often as a stranger can make them say it.

    stream  None: stderr, as it is when something is written
    """

    def __init__(
        self, process: str, *, as_json: bool, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._process, self.as_json, self._stream, self._now = process, as_json, stream, now
        self._places: dict[tuple[str, int], _Place] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            dropped = self._count_dropped(record)
            if dropped is not None:
                stream = self._stream or sys.stderr
                stream.write(self._describe(record, dropped) + "\n")
                stream.flush()
        except Exception:
            self.handleError(record)

    def _count_dropped(self, record: logging.LogRecord) -> int | None:
        """Lines of this place that were not shown before this one; None where this one is not either."""
        now = self._now()
        place = self._places.setdefault((record.pathname, record.lineno), _Place(now))
        dropped = 0
        if now - place.since >= PER_S:
            dropped, place.since, place.shown, place.dropped = place.dropped, now, 0, 0
        if place.shown >= LINES:
            place.dropped += 1
            return None
        place.shown += 1
        return dropped

    def _describe(self, record: logging.LogRecord, dropped: int) -> str:
        crash = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        if not self.as_json:
            more = f" ({dropped} more like it were not shown)" if dropped else ""
            text = f"{record.levelname} {record.name}: {record.getMessage()}{more}"
            return redact(text if crash is None else f"{text}\n{crash}")
        fields: dict[str, object] = {"logger": record.name}
        if crash is not None:
            fields["traceback"] = crash
        if dropped:
            fields["not_shown"] = dropped
        return to_json_line(self._process, record.levelname.lower(), record.getMessage(), fields, time.time())
