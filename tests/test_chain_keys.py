"""Keys on disk and the `cupel wallet` command: what is written, who can read it, and what wrong input is told."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH, KEYS, ChainProcess, make_transfer
from click.testing import CliRunner, Result
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from cupel.chain import keys as keys_module
from cupel.chain.keys import LocalSigner, find_keystore, list_keystores, load_account, make_key, save_keystore
from cupel.cli import cli
from cupel.commands.chain import parse_ether
from cupel.commands.wallet import format_ether
from cupel.protocol.errors import UsageError

PASSWORD = "correct horse battery"
FAST = 1 << 10
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    save_keystore(KEYS[0], PASSWORD, directory, scrypt_n=FAST, now=NOW)
    return directory


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the command keeps for its user is kept here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has no way to weaken a key, so its default is lowered here; one test guards the real value."""
    monkeypatch.setattr(keys_module, "SCRYPT_N", FAST)
    monkeypatch.setattr(keys_module.save_keystore, "__kwdefaults__", {"scrypt_n": FAST})


def test_a_key_comes_back_and_only_its_owner_can_read_the_file(keystore: Path) -> None:
    [entry] = list_keystores(keystore)
    assert load_account(entry.path, PASSWORD).export_key() == KEYS[0].export_key()
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o700
    assert KEYS[0].export_key().hex() not in entry.path.read_text()
    assert [path.name for path in keystore.iterdir()] == [entry.path.name], "nothing temporary is left"


def test_the_file_is_what_other_wallets_read(keystore: Path) -> None:
    [entry] = list_keystores(keystore)
    content = json.loads(entry.path.read_text())
    assert bytes(Account.decrypt(content, PASSWORD)) == KEYS[0].export_key()
    assert content["crypto"]["kdf"] == "scrypt"


def test_the_default_work_factor_is_that_of_real_keys() -> None:
    code = "from cupel.chain.keys import SCRYPT_N, save_keystore as s; print(SCRYPT_N, s.__kwdefaults__['scrypt_n'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(1 << 18)] * 2


def test_a_wrong_password_says_so_and_nothing_else(keystore: Path) -> None:
    [entry] = list_keystores(keystore)
    with pytest.raises(UsageError, match=f"wrong password for {KEYS[0].address}"):
        load_account(entry.path, PASSWORD + "!")


def spoil(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.update(version=1), "not a version 3 keystore"),
        (lambda c: c.pop("crypto"), "not a version 3 keystore"),
        (lambda c: c.pop("address"), "does not say which address"),
        (lambda c: c.update(address="12" * 20), "but holds the key of"),
        (lambda c: c["crypto"].pop("kdfparams"), "is damaged"),
        (lambda c: c["crypto"].update(kdf="md5"), "is damaged|cannot be unlocked"),
        (lambda c: c["crypto"].update(ciphertext="00" * 32), "wrong password"),
    ],
)
def test_a_spoilt_keystore_is_explained(keystore: Path, change: Any, complaint: str) -> None:
    [entry] = list_keystores(keystore)
    spoil(entry.path, change)
    with pytest.raises(UsageError, match=complaint):
        load_account(entry.path, PASSWORD)


def test_missing_files_and_other_files_are_told_apart(tmp_path: Path, keystore: Path) -> None:
    with pytest.raises(UsageError, match="there is no keystore"):
        load_account(tmp_path / "nothing", PASSWORD)
    (keystore / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="not a keystore: not JSON"):
        load_account(keystore / "notes.txt", PASSWORD)
    assert len(list_keystores(keystore)) == 1


def test_a_key_is_never_written_twice_nor_under_a_short_password(keystore: Path) -> None:
    with pytest.raises(UsageError, match="is already in"):
        save_keystore(KEYS[0], PASSWORD, keystore, scrypt_n=FAST, now=NOW)
    with pytest.raises(UsageError, match="take at least 8"):
        save_keystore(KEYS[1], "short", keystore, scrypt_n=FAST, now=NOW)


def test_a_key_is_found_by_address_beginning_or_path(keystore: Path) -> None:
    save_keystore(KEYS[1], PASSWORD, keystore, scrypt_n=FAST, now=NOW)
    by_address = {entry.address: entry.path for entry in list_keystores(keystore)}
    for key in KEYS[:2]:
        path = by_address[key.address]
        for wanted in (key.address, key.address.lower()[:10], str(path)):
            assert find_keystore(keystore, wanted) == path
    with pytest.raises(UsageError, match=r"2 keys .* match"):
        find_keystore(keystore, None)
    with pytest.raises(UsageError, match="no key of 0xffff"):
        find_keystore(keystore, "0xffff")


def test_secrets_derived_from_a_key_are_its_hmac_and_nobody_elses() -> None:
    assert KEYS[0].derive_secret(b"salt 1") == hmac.new(b"\1" * 32, b"salt 1", hashlib.sha256).digest()
    assert len({key.derive_secret(label) for key in KEYS for label in (b"a", b"b")}) == 2 * len(KEYS)
    assert make_key().address != make_key().address


@pytest.mark.parametrize("key", [b"", b"\1" * 31, bytes(32), b"\xff" * 32])
def test_what_is_no_key_is_refused_without_repeating_it(key: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        LocalSigner(key)
    assert key.hex() == "" or key.hex() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(KEYS[0]) == f"LocalSigner({KEYS[0].address})"


@given(st.integers(0, 10**40))
def test_amounts_are_exact_both_ways(wei: int) -> None:
    assert parse_ether(format_ether(wei)) == wei


@pytest.mark.parametrize("text", ["", "1,5", "-1", "nan", "inf", "1e-19", "1" + "0" * 70])
def test_amounts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not an amount of ETH"):
        parse_ether(text)


# The command


def run(*arguments: str, expect: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(cli, ["wallet", *arguments])
    if expect is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, expect), (result.output, result.exception)
    return result


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\nsecond line\n")
    return str(path)


def test_wallet_makes_lists_imports_and_exports(
    tmp_path: Path, password_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    where = ("--keystore", str(tmp_path / "keys"))
    made = run("new", *where, "--password-file", password_file).stdout.strip()
    (tmp_path / "key").write_text("0x" + KEYS[1].export_key().hex() + "\n")
    imported = run("import", "--key-file", str(tmp_path / "key"), *where, "--password-file", password_file)
    assert imported.stdout.strip() == KEYS[1].address
    listed = run("list", *where).stdout
    assert made in listed
    assert KEYS[1].address in listed
    out = tmp_path / "out"
    exported = run("export", KEYS[1].address, "--out", str(out), *where, "--password-file", password_file)
    assert out.read_text().strip() == "0x" + KEYS[1].export_key().hex()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    shown = imported.output + listed + exported.output + caplog.text
    assert PASSWORD not in shown
    assert KEYS[1].export_key().hex() not in shown
    refused = run(
        "export", KEYS[1].address, "--out", str(out), *where, "--password-file", password_file, expect=UsageError
    )
    assert "never written over anything" in str(refused.exception)


def test_a_password_comes_from_a_descriptor_too(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, PASSWORD.encode() + b"\n")
    os.close(writing)
    made = run("new", "--keystore", str(tmp_path), "--password-fd", str(reading)).stdout.strip()
    os.close(reading)
    assert load_account(find_keystore(tmp_path, made), PASSWORD).address == made


def test_without_a_terminal_a_password_must_be_given(tmp_path: Path, password_file: str) -> None:
    assert "no password: give --password-file" in str(
        run("new", "--keystore", str(tmp_path), expect=UsageError).exception
    )
    both = run("new", "--password-file", password_file, "--password-fd", "0", expect=UsageError)
    assert "not both" in str(both.exception)
    (tmp_path / "empty").write_text("\n")
    empty = run("new", "--password-file", str(tmp_path / "empty"), expect=UsageError)
    assert "its first line is empty" in str(empty.exception)
    missing = run("new", "--password-file", str(tmp_path / "missing"), expect=UsageError)
    assert "No such file" in str(missing.exception)


def test_there_is_no_way_to_put_a_password_or_key_on_the_command_line() -> None:
    for command in ("new", "import", "export", "send"):
        text = run(command, "--help").stdout
        assert "--password-file" in text
        assert "--password " not in text
        assert "--key " not in text


def test_a_payment_killed_on_its_way_and_ordered_again_is_paid_once(
    tmp_path: Path, keystore: Path, password_file: str
) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=8.0) as chain:
        order = (
            "wallet", "send", KEYS[5].address, "2", "--yes", "--keystore", str(keystore), "--rpc", chain.url,
            "--password-file", password_file,
        )  # fmt: skip
        command = [sys.executable, "-c", "from cupel.cli import main; main()", *order]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            while int(chain.ask("eth_getTransactionCount", KEYS[0].address, "pending"), 16) == 0:
                assert first.poll() is None, "it ended before it sent"
                time.sleep(0.05)
            first.kill()
        again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "an earlier transaction is not final yet" in again.stderr
        assert int(chain.ask("eth_getBalance", KEYS[5].address, "latest"), 16) == 2 * ETH
        assert int(chain.ask("eth_getTransactionCount", KEYS[0].address, "pending"), 16) == 1


def test_what_waits_is_listed_and_replaced_by_nothing(tmp_path: Path, keystore: Path, password_file: str) -> None:
    """Another program's transaction, then none: of the two under its nonce only ours gets into a block."""
    with ChainProcess(tmp_path / "chain", block_time_s=8.0) as chain:
        where = ("--keystore", str(keystore), "--rpc", chain.url)
        idle = json.loads(run("pending", *where, "--json").stdout)
        assert (idle["latest"], idle["pending"], idle["foreign"], idle["transactions"]) == (0, 0, 0, [])
        refused = run("cancel", "--yes", *where, "--password-file", password_file, expect=UsageError)
        assert "nothing of" in str(refused.exception)
        foreign = chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], 0))
        assert "1 transaction(s) of other programs wait from nonce 0 on" in run("pending", *where).stdout
        unsure = CliRunner().invoke(cli, ["wallet", "cancel", *where, "--password-file", password_file], input="n\n")
        assert "Replace nonce 0" in unsure.output
        assert "another program's transaction" in unsure.output
        assert unsure.exit_code == 1
        done = json.loads(run("cancel", "--yes", "--json", *where, "--password-file", password_file).stdout)
        assert done["cancelled"]
        assert chain.ask("eth_getTransactionReceipt", done["transaction"])["status"] == "0x1"
        assert chain.ask("eth_getTransactionReceipt", foreign) is None
        (listed,) = json.loads(run("pending", KEYS[0].address, *where, "--json").stdout)["transactions"]
        assert (listed["nonce"], listed["state"], listed["transaction"]) == (0, "mined", done["transaction"])
        path = tmp_path / "home" / "cupel" / "outbox.sqlite3"
        path.write_bytes(b"damaged" * 1000)
        damaged = run("pending", *where, expect=UsageError)
        assert "is damaged" in str(damaged.exception)
        assert "(its next nonce is 1)" in damaged.output


def test_wallet_sends_and_shows_balances(tmp_path: Path, keystore: Path, password_file: str) -> None:
    with ChainProcess(tmp_path / "chain") as chain:
        where = ("--keystore", str(keystore), "--rpc", chain.url)
        assert run("balance", *where).stdout.strip() == f"{KEYS[0].address}  1000 ETH"
        sent = run("send", KEYS[5].address, "2.5", "--yes", *where, "--password-file", password_file).stdout.strip()
        assert chain.ask("eth_getTransactionReceipt", sent)["status"] == "0x1"
        assert run("balance", KEYS[5].address, *where).stdout.strip() == f"{KEYS[5].address}  2.5 ETH"
        assert int(chain.ask("eth_getBalance", KEYS[0].address, "latest"), 16) < 1000 * ETH - 25 * ETH // 10
        unsure = CliRunner().invoke(
            cli, ["wallet", "send", KEYS[5].address, "1", *where, "--password-file", password_file], input="n\n"
        )
        assert unsure.exit_code == 1
        assert "Send 1 ETH from" in unsure.output
        assert "for a fee of at most 0.0" in unsure.output
        assert "nothing was sent" in unsure.output
        assert run("balance", KEYS[5].address, *where).stdout.strip() == f"{KEYS[5].address}  2.5 ETH"
        owned = json.loads(run("balance", KEYS[5].address, *where, "--json").stdout)
        assert owned["balances"] == [{"address": KEYS[5].address, "wei": str(25 * ETH // 10), "eth": "2.5"}]
        listed = json.loads(run("list", "--keystore", str(keystore), "--json").stdout)
        assert [one["address"] for one in listed["keys"]] == [KEYS[0].address]
        too_much = run(
            "send", KEYS[5].address, "5000", "--yes", *where, "--password-file", password_file, expect=UsageError
        )
        assert "sending 5000 takes up to 5000.0" in str(too_much.exception)
        done = run("send", KEYS[5].address, "1", "--yes", "--json", *where, "--password-file", password_file)
        assert json.loads(done.stdout)["wei"] == str(ETH)
        wrong = run(
            "send", KEYS[5].address, "1", "--yes", "--chain-id", "1", *where, "--password-file", password_file,
            expect=UsageError,
        )  # fmt: skip
        assert "has id 31337, not 1: give the URL of a node of that chain" in str(wrong.exception)
        nothing = run(
            "send", KEYS[5].address, "0", "--yes", *where, "--password-file", password_file, expect=UsageError
        )
        assert "0 ETH sends nothing" in str(nothing.exception)
    mistyped = run(
        "send",
        KEYS[5].address.swapcase().replace("0X", "0x"),
        "1",
        "--yes",
        "--password-file",
        password_file,
        expect=UsageError,
    )
    assert "checksum is wrong" in str(mistyped.exception)
