"""Every exit code of docs/operating/exit-codes.md, from real processes: one line that says what to do, nothing lost."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from chain_process import KEYS, ChainProcess

from cupel.chain.keys import save_keystore
from cupel.node.command import ExitCode

PROGRAMS = {name: f"from cupel.{module} import main; main()" for name, module in (
    ("cupel", "cli"), ("miner", "miner.main"), ("verifier", "verifier.main"),
)}  # fmt: skip
PASSWORD = "long enough"


def ended(program: str, *arguments: str, code: str = "", folder: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process without a terminal."""
    source = f"import sys; sys.argv = [{program!r}, *sys.argv[1:]]\n" + (code or PROGRAMS[program])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUPEL_")}
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=folder,
        env=environment | ({"XDG_DATA_HOME": str(folder)} if folder is not None else {}),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def one_line(program: str, stderr: str) -> str:
    """What is said, which must be one line that begins with the command."""
    (line,) = stderr.splitlines()
    assert line.startswith(program)
    assert len(line) < 500
    return line


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a key, its password, and a run file of a chain that is not there."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    save_keystore(KEYS[0], PASSWORD, tmp_path / "keys", scrypt_n=1 << 10, now=now).rename(tmp_path / "key.json")
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "wrong").write_text("not the password")
    for name, id_ in (("run.json", 31337), ("other.json", 5)):
        address = KEYS[1].address
        (tmp_path / name).write_text(
            f'{{"version": 1, "chain_id": {id_}, "contract": "{address}", "token": "{address}", '
            f'"beacon": "{address}", "deploy_block": 0}}'
        )
    return tmp_path


GOOD = ("--run", "run.json", "--keystore", "key.json", "--password-file", "password", "--data", "data")


def test_done() -> None:
    code, out, err = ended("cupel", "--version")
    assert (code, err) == (ExitCode.DONE, "")
    assert out.startswith("cupel")


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        ("cupel", ("wallet", "lst"), "Did you mean 'list'?"),
        ("cupel", ("doctr",), "Did you mean 'doctor'?"),
        ("cupel", ("wallet", "new", "--pasword-file", "x"), "'--password-file'"),
        ("cupel", ("status", "extra"), "unexpected extra argument"),
        ("miner", ("--unit", "1"), "'--units'"),
        ("verifier", ("--slot", "1"), "'--slots'"),
        ("miner", ("--rpc", "http://127.0.0.1:9"), "Missing option '--run'"),
        ("miner", (*GOOD, "--rpc", "127.0.0.1:9"), "--rpc is '127.0.0.1:9'; it should look like http://127.0.0.1:8545"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--units", "many"), "'many' is not a valid integer"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--units", "0"), "--units is 0; take 1 to 255"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--max-fee", "lots"), "'lots' is not an amount in gwei"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--config", "no.toml"), "cannot read --config no.toml"),
        ("miner", (*GOOD[:-2], "--data", "password", "--rpc", "http://127.0.0.1:9"), "--data password is a file"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--password-file", "wrong"), "wrong password for 0x"),
        ("miner", (*GOOD[:4], *GOOD[6:], "--rpc", "http://127.0.0.1:9"), "no password: give --password-file"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--keystore", "run.json"), "is not a version 3 keystore"),
        ("miner", (*GOOD, "--rpc", "http://127.0.0.1:9", "--run", "password"), "password is not a run file"),
        ("cupel", ("status", "--dir", "nowhere"), "holds no run"),
        ("cupel", ("data", "show", "bnocid"), "no CID either"),
        ("cupel", ("wallet", "new"), "no password"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else None,
)
def test_usage(home: Path, program: str, arguments: Sequence[str], words: str) -> None:
    code, out, err = ended(program, *arguments, folder=home)
    assert code == ExitCode.USAGE, err
    assert out == ""
    assert words in one_line(program, err)


def test_another_chain_than_the_runs_and_a_run_that_is_not_there_are_usage(home: Path) -> None:
    with ChainProcess(home / "chain") as chain:
        rpc = ("--rpc", chain.url)
        code, _, err = ended("miner", *GOOD, *rpc, "--run", "other.json", folder=home)
        assert code == ExitCode.USAGE
        assert "31337" in one_line("miner", err)
        assert "not 5" in err
        code, _, err = ended("verifier", *GOOD[:-1], "other", *rpc, folder=home)
        assert code == ExitCode.USAGE
        assert f"no contract is at {KEYS[1].address}" in one_line("verifier", err)


def test_no_chain_is_a_failure_that_may_pass(home: Path) -> None:
    code, out, err = ended("cupel", "wallet", "balance", KEYS[0].address, "--rpc", "http://127.0.0.1:9", folder=home)
    assert (code, out) == (ExitCode.FAILED, "")
    assert "no chain answers at http://127.0.0.1:9" in one_line("cupel", err)


def test_a_full_disk_behind_stdout_is_a_failure(home: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as sink:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAMS["cupel"], "wallet", "list", "--json", "--keystore", str(home)],
            stdout=sink, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == ExitCode.FAILED
    assert "No space left" in one_line("cupel", done.stderr)


def test_a_reader_that_goes_away_is_a_failure_without_words() -> None:
    command = f"{sys.executable} -c '{PROGRAMS['cupel']}' --help"
    script = f"set -o pipefail; {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    # Fast machines finish writing before the reader has gone.
    assert done.returncode in (ExitCode.DONE, ExitCode.FAILED)
    assert done.stderr == ""


def scripted(body: str) -> str:
    """A command of our own, run as every command is."""
    return textwrap.dedent(
        f"""
        import click, time
        from cupel.node.command import run_command
        @click.command()
        def own():
            {body}
        run_command(own, "own")
        """
    )


def test_a_bug_is_told_from_a_failure_and_keeps_secrets() -> None:
    body = "raise ValueError('at https://user:hunter2@host/v3/hunter2')"
    code, _, err = ended("own", code=scripted(body))
    assert code == ExitCode.BUG
    assert "Traceback" in err
    assert err.splitlines()[-1] == "own: this is a bug of Cupel; please report it with the lines above"
    assert "https://…@host/…" in err
    # The source line itself is quoted from memory only where there is a file; here the message alone could tell.
    assert "hunter2" not in err


def test_an_assertion_ends_as_a_bug() -> None:
    code, _, err = ended("own", code=scripted("assert False, 'impossible'"))
    assert code == ExitCode.BUG
    assert "impossible" in err


def test_ctrl_c_is_interrupted() -> None:
    source = "import sys; sys.argv = ['own']\n" + scripted("print('ready', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert err.strip() == "own: interrupted"
