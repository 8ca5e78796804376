"""`cupel doctor`: would a node work here, and what to fix."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from cupel.diagnosis.findings import Finding, Verdict, ok, wrong
from cupel.node.config_file import read_config
from cupel.node.options import SHARED_NAMES, Urls
from cupel.node.redaction import hide_url
from cupel.node.settings import GWEI
from cupel.protocol.errors import UsageError

if TYPE_CHECKING:
    from cupel.diagnosis.engine import EngineCheck

_MARKS = {Verdict.OK: "✓", Verdict.WARNING: "!", Verdict.WRONG: "✗", Verdict.SKIPPED: "·"}
_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "red", Verdict.SKIPPED: "dim"}
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What there is to look at; None is passed over."""

    role: str
    run: Path | None
    rpc: tuple[str, ...]
    keystore: Path | None
    password_file: Path | None
    password_fd: int | None
    data: Path | None
    listen: str | None
    endpoint: str | None
    wanted: int
    """Units or slots."""
    max_fee_wei: int
    speed: bool


@click.command()
@click.option("--config", type=_PATH, help="Settings file; cupel.toml of this folder if there is one.")
@click.option(
    "--as", "role", type=click.Choice(["miner", "verifier"]), default="miner", show_default=True,
    help="Whose settings to take and which funds to ask for.",
)  # fmt: skip
@click.option("--run", type=_PATH, help="The run file.")
@click.option("--rpc", type=Urls(), envvar="CUPEL_RPC", help="The chain's JSON-RPC URLs.")
@click.option("--keystore", type=_PATH, help="Encrypted key file.")
@click.option("--password-file", type=_PATH, help="Unlock the key with this password.")
@click.option("--password-fd", type=int, help="Unlock the key with a password from this descriptor.")
@click.option("--data", type=_PATH, help="The node's folder.")
@click.option("--listen", help="Where the node is to serve blocks, HOST:PORT.")
@click.option("--endpoint", help="URL others reach the node by.")
@click.option(
    "--speed/--no-speed",
    default=True,
    show_default=True,
    help="Time a product and a training step against torch's: seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(config: Path | None, role: str, speed: bool, as_json: bool, **given: Any) -> None:
    """Look at everything a node needs, and say what to fix.

    Without options: the machine alone. With a run file, RPC URLs, key and folder, or a settings file that names them:
    chain, clock, run, funds, key, journal and ways in as well. Exit 0 if a node would work, warnings apart, else 1.
    """
    # Loads torch, which takes seconds; --help does not wait for it.
    from cupel.diagnosis.engine import EngineCheck

    findings: list[Finding] = []
    engine = EngineCheck()
    console = Console(highlight=False, soft_wrap=True)
    for finding in _look(config, role, speed, engine, given):
        findings.append(finding)
        if not as_json:
            console.print(_line(finding))
    bad = [one for one in findings if one.verdict == Verdict.WRONG]
    warnings = sum(one.verdict == Verdict.WARNING for one in findings)
    if as_json:
        listed = [dataclasses.asdict(one) for one in findings]
        document = {"fit": not bad, "engine": dataclasses.asdict(engine.engine), "findings": listed}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        words = f"{len(bad)} to fix" if bad else "Nothing to fix"
        console.print(f"{words}, {warnings} warning{'' if warnings == 1 else 's'}.")
    sys.exit(1 if bad else 0)


def _line(finding: Finding) -> Text:
    text = Text.assemble((_MARKS[finding.verdict], _COLOURS[finding.verdict]), f" {finding.check:<18} {finding.found}")
    if finding.fix:
        text.append(f"\n  {'':<18} → {finding.fix}")
    return text


def _look(config: Path | None, role: str, speed: bool, engine: EngineCheck, given: dict[str, Any]) -> Iterator[Finding]:
    """One finding after the other, as they are made."""
    # These load eth-account as well.
    from cupel.chain.paths import get_data_directory
    from cupel.chain.run_values import Role
    from cupel.diagnosis.chain import check_chain, read_run
    from cupel.diagnosis.machine import check_disk, check_machine
    from cupel.diagnosis.node import check_folder, check_key, check_reach, is_running

    settings, finding = _read_settings(config, role)
    if finding is not None:
        yield finding
    subject = _subject(role, speed, {name: value for name, value in given.items() if value is not None}, settings)
    yield check_machine()
    yield from engine.look(measure=subject.speed)
    yield from check_disk(subject.data if subject.data is not None else get_data_directory())
    address, found = check_key(subject.keystore, subject.password_file, subject.password_fd)
    yield from found
    run, finding = read_run(subject.run)
    yield finding
    yield from check_chain(
        subject.rpc, run, address, role=Role[subject.role.upper()], wanted=subject.wanted,
        max_fee_wei=subject.max_fee_wei,
    )  # fmt: skip
    yield from check_folder(subject.data, run, address)
    running = subject.data is not None and is_running(subject.data)
    yield from check_reach(subject.listen, subject.endpoint, running=running)


def _read_settings(config: Path | None, role: str) -> tuple[dict[str, Any], Finding | None]:
    """What the settings file says for this process."""
    path = config if config is not None else Path("cupel.toml")
    if config is None and not path.is_file():
        return {}, None
    from cupel.miner.main import miner
    from cupel.verifier.main import verifier

    try:
        # Both processes' tables are checked: they share the file.
        read = {p.name: read_config(path, str(p.name), p.params, shared=SHARED_NAMES) for p in (miner, verifier)}
    except UsageError as error:
        return {}, wrong("settings", str(error), "correct that line")
    return read[role].values, ok("settings", f"{path}: every key and type is right")


def _subject(role: str, speed: bool, given: dict[str, Any], settings: dict[str, Any]) -> Subject:
    """Flags over the file."""
    both = settings | given
    rpc = Urls().convert(both["rpc"], None, None) if "rpc" in both else ()
    endpoint = both.get("endpoint")
    if endpoint is not None:
        hide_url(endpoint)
    max_fee = both.get("max_fee_wei", 500)
    return Subject(
        role=role,
        run=both.get("run"),
        rpc=rpc,
        keystore=both.get("keystore"),
        password_file=both.get("password_file"),
        password_fd=both.get("password_fd"),
        data=both.get("data"),
        listen=both.get("listen"),
        endpoint=endpoint.rstrip("/") if endpoint is not None else None,
        wanted=both.get("units" if role == "miner" else "slots", 1),
        max_fee_wei=int(max_fee * GWEI),
        speed=speed,
    )
