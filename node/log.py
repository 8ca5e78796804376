"""Progress on stderr: one line an operator can read, or with `--json-log` one JSON object per line."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
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
            entry = {"time": round(now, 3), "process": self._name, "level": level, "event": event}
            text = json.dumps(entry | plain(fields), ensure_ascii=False)
        else:
            stamp = time.strftime("%H:%M:%S", time.localtime(now))
            mark = "" if level in ("info", "stat") else f"{level}: "
            tail = "".join(f" {name}={_word(value)}" for name, value in fields.items()) if words else ""
            text = f"{stamp} {self._name} {mark}{event}{tail}"
        text = redact(text)
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()
