"""All of stderr is one JSON object a line where that was asked for, and no stranger fills it through a library."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cupel.node.log import LINES, PER_S, LibraryHandler
from cupel.node.redaction import hide_url

PROGRAM = """
import gc, logging, sys, threading, warnings
import click
from cupel.node.command import log_as_json, run_command
from cupel.node.log import Log
from cupel.protocol.errors import UsageError

class Unwilling:
    def __del__(self):
        raise RuntimeError("not now")

def die():
    raise RuntimeError("gone")

@click.command()
@click.option("--json-log", is_flag=True)
@click.option("--later", is_flag=True)
@click.option("--end")
def command(json_log, later, end):
    if later:
        log_as_json()
    Log("node", as_json=json_log or later).info("ready")
    logging.getLogger("aiohttp.server").error("Error\\nhandling", exc_info=ValueError("two\\nlines"))
    logging.getLogger("urllib3").warning("retrying %s", "x")
    warnings.warn("old", UserWarning)
    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    unwilling = Unwilling()
    del unwilling
    gc.collect()
    if end == "usage":
        raise UsageError("a flag is wrong")
    if end == "bug":
        raise ZeroDivisionError("one\\nby nought")

run_command(command, "node", "CUPEL")
""".replace("\\\\", "\\")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (["--json-log"], {}, 0),
        (["--json-log", "--end", "usage"], {}, 2),
        (["--later", "--end", "bug"], {}, 70),
        (["--no-such"], {"CUPEL_JSON_LOG": "1"}, 2),
    ],
)
def test_every_line_is_a_json_object_where_that_was_asked_for(
    arguments: list[str], environment: dict[str, str], code: int
) -> None:
    done = run(*arguments, **environment)
    assert done.returncode == code, done.stderr
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "process", "level", "event"} <= entry.keys() for entry in entries)
    events = [entry["event"] for entry in entries]
    if "--no-such" not in arguments:
        assert events[0] == "ready"
        assert {"Error\nhandling", "retrying x", "a thread died"} <= set(events)
        assert any("UserWarning: old" in event for event in events)
        assert any("not now" in entry.get("traceback", "") for entry in entries)
        assert any("two\nlines" in entry.get("traceback", "") for entry in entries)
    if code:
        assert entries[-1]["exit_code"] == code


def test_otherwise_lines_are_for_people() -> None:
    done = run("--end", "usage")
    assert done.stderr.splitlines()[-1] == "node: a flag is wrong"
    assert "WARNING urllib3: retrying x" in done.stderr.splitlines()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_library_that_repeats_itself_is_counted_instead(as_json: bool) -> None:
    clock, stream = [0.0], io.StringIO()
    handler = LibraryHandler("miner", as_json=as_json, stream=stream, now=lambda: clock[0])
    logger = logging.Logger("library")
    logger.addHandler(handler)
    hide_url("https://h/abcdef123456")

    def say(number: int) -> None:
        logger.warning("trouble %d at https://h/abcdef123456", number)

    for number in range(LINES + 5):
        say(number)
    logger.warning("something else")
    assert len(stream.getvalue().splitlines()) == LINES + 1
    clock[0] += PER_S
    say(99)
    last = stream.getvalue().splitlines()[-1]
    assert "99" in last
    assert (json.loads(last)["not_shown"] == 5) if as_json else ("(5 more like it were not shown)" in last)
    assert "abcdef" not in stream.getvalue()


def test_a_nodes_wrong_setting_is_told_in_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cupel.miner.main", "--json-log", "--units", "many"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "many" in json.loads(done.stderr)["reason"]
