"""Where Cupel keeps what belongs to the user, by the platform's custom."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def get_data_directory() -> Path:
    """`$XDG_DATA_HOME/cupel`, `~/Library/Application Support/cupel` on macOS, else `~/.local/share/cupel`."""
    if configured := os.environ.get("XDG_DATA_HOME"):
        return Path(configured) / "cupel"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "cupel"
    return Path.home() / ".local" / "share" / "cupel"


def get_outbox_path() -> Path:
    """Transactions of commands such as `cupel wallet send`, until they are final; nodes keep their own."""
    return get_data_directory() / "outbox.sqlite3"
