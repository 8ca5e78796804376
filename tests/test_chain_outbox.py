"""What a key has sent survives its process: killed at every step, on the embedded chain and on anvil."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chain_process import KEYS, make_transfer
from chain_worlds import Chain
from eth_utils.address import to_checksum_address
from rpc_faults import Fault, FaultyRpc, wait_until

from cupel.chain.abi import bind_transfer
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.errors import ChainUnreachable
from cupel.chain.fees import Fees
from cupel.chain.key_lock import hold_key
from cupel.chain.keys import LocalSigner, make_key
from cupel.chain.outbox import Content, State
from cupel.protocol.errors import StorageFailed, UsageError
from cupel.protocol.types import Address

STEPS = ("journalled", "signed", "sent", "receipt")
SENDER = Path(__file__).parent / "outbox_sender.py"


@pytest.fixture
def target() -> Address:
    """An address nothing was ever sent to."""
    return Address(to_checksum_address(make_key().address))


def run(url: str, outbox: Path, key: LocalSigner, to: Address, value_wei: int, step: str = "-") -> str:
    """What the process printed last; the test fails unless it ended as it should."""
    arguments = [url, str(outbox), key.export_key().hex(), to, str(value_wei), step]
    ended = subprocess.run(
        [sys.executable, str(SENDER), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == (0 if step == "-" else -9), ended.stderr
    return ended.stdout.strip().rpartition("\n")[2]


def count(chain: Chain, key: LocalSigner) -> int:
    return int(chain.ask("eth_getTransactionCount", key.address, "latest"), 16)


def get_balance(chain: Chain, address: Address) -> int:
    return int(chain.ask("eth_getBalance", address, "latest"), 16)


def open_client(url: str | list[str], key: LocalSigner, outbox: Outbox, **settings: Any) -> ChainClient:
    return ChainClient(url, key, **({"poll_seconds": 0.02, "outbox": outbox} | settings))


def leave(outbox: Outbox, client: ChainClient, content: Content, *, nonce: int) -> None:
    """What a process leaves that was killed before it sent."""
    account = f"{client.chain_id}-{client.get_genesis()[:16].hex()}-{client.address}"
    outbox.journal(account, nonce, content, duty=None)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_at_any_step_sends_once_in_the_end(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path, step: str
) -> None:
    outbox = tmp_path / "outbox.sqlite3"
    run(chain.url, outbox, key, target, 7, step)
    transaction_hash = run(chain.url, outbox, key, target, 7)
    assert get_balance(chain, target) == 7
    assert count(chain, key) == 1
    assert chain.ask("eth_getTransactionByHash", transaction_hash)["nonce"] == "0x0"
    run(chain.url, outbox, key, target, 8)  # and no nonce was left out
    assert get_balance(chain, target) == 15


def test_killed_again_and_again_it_still_sends_once(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox.sqlite3"
    for step in ("journalled", "signed", "receipt"):
        run(chain.url, outbox, key, target, 7, step)
    run(chain.url, outbox, key, target, 7)
    assert (get_balance(chain, target), count(chain, key)) == (7, 1)


def test_what_was_mined_while_the_process_was_dead_is_found(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox.sqlite3"
    run(chain.url, outbox, key, target, 7, "sent")
    wait_until(lambda: count(chain, key) == 1, what="the block")
    assert chain.ask("eth_getTransactionByHash", run(chain.url, outbox, key, target, 7))["nonce"] == "0x0"
    assert (get_balance(chain, target), count(chain, key)) == (7, 1)


def test_what_the_pool_lost_while_the_process_was_dead_is_sent_again(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox.sqlite3"
    proxy.swallow = True
    run(proxy.url, outbox, key, target, 7, "sent")
    proxy.swallow = False
    client = open_client(proxy.url, key, Outbox(outbox))
    (entry,) = client.recover()  # nobody has to ask for it
    assert entry.state is State.SENT
    wait_until(lambda: get_balance(chain, target) == 7, what="the transfer")
    client.close()


def test_a_signed_transaction_nobody_got_is_sent_at_the_next_start(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox = tmp_path / "outbox.sqlite3"
    run(chain.url, outbox, key, target, 7, "signed")
    assert chain.ask("eth_getTransactionCount", key.address, "pending") == "0x0"
    client = open_client(chain.url, key, Outbox(outbox))
    client.recover()
    wait_until(lambda: get_balance(chain, target) == 7, what="the transfer")
    client.close()


def test_where_the_nonce_was_used_elsewhere_meanwhile_the_call_gets_another(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    for number, step in enumerate(("journalled", "signed")):
        outbox = tmp_path / f"{step}.sqlite3"
        run(chain.url, outbox, key, target, 7, step)
        chain.ask("eth_sendRawTransaction", make_transfer(key, 2 * number))
        wait_until(lambda number=number: count(chain, key) == 2 * number + 1, what="the foreign transaction")
        run(chain.url, outbox, key, target, 7)
        assert (get_balance(chain, target), count(chain, key)) == (7 * (number + 1), 2 * number + 2)


def test_a_decision_that_makes_no_sense_any_more_leaves_no_hole(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    """Two journalled and unsigned: the first would fail by now, and the second waits behind its nonce."""
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    client = open_client(chain.url, key, outbox)
    nonsense = Content(what="too much", to=target, data=b"", value_wei=10**30, gas=21_000)
    leave(outbox, client, nonsense, nonce=0)
    leave(outbox, client, Content(what="a transfer", to=target, data=b"", value_wei=5, gas=21_000), nonce=1)
    client.recover()
    wait_until(lambda: count(chain, key) == 2, what="both")
    assert get_balance(chain, target) == 5
    client.close()


def test_a_last_decision_that_makes_no_sense_any_more_is_dropped(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox, said = Outbox(tmp_path / "outbox.sqlite3"), list[str]()
    client = open_client(chain.url, key, outbox, notify=said.append)
    leave(outbox, client, Content(what="too much", to=target, data=b"", value_wei=10**30, gas=21_000), nonce=0)
    assert client.recover() == ()
    assert "too much was decided before the last end and is dropped" in said[0]
    assert client.transfer(target, 1).gas_used == 21_000


def test_an_answer_lost_on_the_way_is_not_a_second_transaction(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, target: Address
) -> None:
    client = open_client(proxy.url, key, Outbox(), patience_s=0.2)
    proxy.fault, proxy.fault_methods = Fault.LOSE_ANSWER, frozenset({"eth_sendRawTransaction"})
    with pytest.raises(ChainUnreachable, match=r"connection refused or lost|not HTTP"):
        client.transfer(target, 7)
    wait_until(lambda: count(chain, key) == 1, what="the transfer nobody heard of")
    proxy.fault = None
    client.transfer(target, 7)
    assert (get_balance(chain, target), count(chain, key)) == (7, 1)


def test_a_node_that_lags_behind_costs_no_nonce(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, target: Address
) -> None:
    """Its count of the key's transactions is old; ours is not."""
    client = open_client(proxy.url, key, Outbox())
    proxy.frozen_at = client.head().number
    first = client.submit(bind_transfer(target), value_wei=1, gas=21_000)
    wait_until(lambda: count(chain, key) == 1, what="the first")
    second = client.submit(bind_transfer(target), value_wei=2, gas=21_000)
    assert (first.nonce, second.nonce) == (0, 1)
    proxy.frozen_at = None
    assert client.wait(first).block_number <= client.wait(second).block_number
    assert get_balance(chain, target) == 3


def test_an_outbox_of_another_chain_with_the_same_id_is_left_alone(
    chain: Chain, key: LocalSigner, target: Address, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    outbox.journal(f"31337-{bytes(16).hex()}-{key.address}", 0, make_content(), duty=None)
    client = open_client(chain.url, key, outbox)
    assert client.recover() == ()
    assert client.transfer(target, 1).gas_used == 21_000


# The file


def make_content() -> Content:
    return Content(what="Run.commit", to=KEYS[1].address, data=b"\1\2", value_wei=10**20, gas=50_000)


def test_an_outbox_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    box, content = Outbox(path), make_content()
    box.journal("a", 3, content, duty="commit/7")
    (entry,) = box.list("a")
    assert (entry.state, entry.duty, entry.is_signed, entry.to_send) == (State.JOURNALLED, "commit/7", False, None)
    box.save_signed("a", 3, 0, fees=Fees(tip_wei=2**70, max_fee_wei=2**80), hash=b"h" * 32, raw=b"raw")
    box.mark_sent("a", 3)
    number = box.add_version("a", 3, content)
    box.save_signed("a", 3, number, fees=Fees(tip_wei=2**71, max_fee_wei=2**81), hash=b"i" * 32, raw=b"raw2")
    box.mark_mined("a", 3, hash=b"h" * 32, block_number=9, block_hash=b"b" * 32, succeeded=True)
    box.close()
    box = Outbox(path)
    (entry,) = box.list("a")
    assert (entry.state, entry.block_number, entry.succeeded, entry.told) == (State.MINED, 9, True, False)
    assert [version.fees.max_fee_wei for version in entry.signed] == [2**80, 2**81]
    assert entry.mined.raw == b"raw"
    assert entry.newest.content == content
    box.mark_sent("a", 3)  # a re-org
    reorged = box.get("a", 3)
    assert reorged is not None
    assert reorged.to_send is not None
    assert reorged.to_send.raw == b"raw", "the bytes that were in a block are those sent again"
    assert box.list("b") == ()
    box.forget("a", 3)
    assert box.list("a") == ()


def test_an_outbox_is_durable_and_not_something_else(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    box = Outbox(path)
    assert box._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert box._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    box.journal("a", 3, make_content(), duty=None)
    with pytest.raises(sqlite3.IntegrityError):
        box.journal("a", 3, make_content(), duty=None)
    (tmp_path / "text").write_text("not a database, but long enough to be looked at as one" * 40)
    with pytest.raises(UsageError, match=r"text is damaged .*move it away"):
        Outbox(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE somebody_elses (x)")
    other.close()
    with pytest.raises(UsageError, match="has layout 0"):
        Outbox(tmp_path / "other")


def test_a_damaged_outbox_is_said_at_the_start_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    box = Outbox(path)
    for nonce in range(60):
        box.journal("a", nonce, Content(what="x", to=None, data=bytes(3000), value_wei=1, gas=1), duty=None)
    box.close()
    content = bytearray(path.read_bytes())
    for place in range(8192, len(content), 4096):
        content[place : place + 64] = bytes([0xA5]) * 64
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"outbox.sqlite3 is damaged .*`cupel wallet pending` shows nothing under way"):
        Outbox(path)


def test_rows_that_make_no_sense_are_damage(tmp_path: Path) -> None:
    for number, spoil in enumerate(
        ("UPDATE entries SET state = 'lost'", "DELETE FROM versions", "DROP TABLE versions")
    ):
        box = Outbox(tmp_path / f"{number}.sqlite3")
        box.journal("a", 3, make_content(), duty=None)
        box._connection.execute(spoil)
        with pytest.raises(UsageError, match="is damaged"):
            box.list("a")


def test_a_locked_outbox_and_one_that_may_not_be_written_are_no_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite3"
    box, other = Outbox(path), sqlite3.connect(path, isolation_level=None)
    box._connection.execute("PRAGMA busy_timeout=50")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageFailed, match="locked; nothing was sent: another process has it locked"):
        box.journal("a", 3, make_content(), duty=None)
    other.execute("ROLLBACK")
    box._connection.execute("PRAGMA query_only=1")  # SQLite's own name for a file that may not be written
    with pytest.raises(StorageFailed, match="nothing was sent: it may not be written: is the disk mounted read-only"):
        box.journal("a", 3, make_content(), duty=None)
    box._connection.execute("PRAGMA query_only=0")
    box.journal("a", 3, make_content(), duty=None)
    with pytest.raises(StorageFailed, match="cannot be opened: is the folder there"):
        Outbox(tmp_path)


def test_a_cancelled_decision_nobody_saw_is_never_sent(chain: Chain, key: LocalSigner, target: Address) -> None:
    """Journalled and unsigned, with another behind its nonce: nothing takes its place, not the transaction itself."""
    outbox = Outbox()
    client = open_client(chain.url, key, outbox)
    transfer = Content(what="a transfer", to=target, data=b"", value_wei=5, gas=21_000)
    leave(outbox, client, transfer, nonce=0)
    leave(outbox, client, replace(transfer, value_wei=7), nonce=1)
    assert client.cancel_nonce(0)
    wait_until(lambda: count(chain, key) == 2, what="both")
    assert get_balance(chain, target) == 7
    client.close()


def test_another_programs_transaction_in_front_is_said(
    chain: Chain, proxy: FaultyRpc, key: LocalSigner, target: Address
) -> None:
    said = list[str]()
    client = open_client(proxy.url, key, Outbox(), notify=said.append)

    def bend(method: str, params: list[Any], result: Any) -> Any:
        return hex(int(result, 16) + 1) if method == "eth_getTransactionCount" and params[1] == "pending" else result

    client.recover()
    assert said == []
    proxy.bend = bend  # one waits here that reaches nobody
    client.recover()
    assert len(said) == 1
    assert "another program's transaction waits in front of ours (nonce 0)" in said[0]
    client.submit(bind_transfer(target), value_wei=1, gas=21_000)
    wait_until(lambda: any("(nonce 1) waits: another program's" in one for one in said), what="the warning")
    client.close()


# One owner per key


def test_a_full_disk_is_said_and_what_did_not_fit_can_be_written_later(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    content = Content(what="large", to=None, data=bytes(100_000), value_wei=0, gas=21_000)
    (pages,) = outbox._connection.execute("PRAGMA page_count").fetchone()
    outbox._connection.execute(f"PRAGMA max_page_count={pages}")  # SQLite's own name for a disk without room
    for _ in range(2):
        with pytest.raises(StorageFailed, match="full; nothing was sent"):
            outbox.journal("account", 0, content, duty=None)
    assert outbox.list("account") == ()
    outbox._connection.execute("PRAGMA max_page_count=1000000")
    outbox.journal("account", 0, content, duty=None)
    assert [entry.nonce for entry in outbox.list("account")] == [0]


def test_a_second_holder_of_a_key_is_refused_by_name(tmp_path: Path) -> None:
    with hold_key(1, KEYS[0].address, "miner on /srv/cupel", directory=tmp_path):
        with (
            pytest.raises(UsageError, match=r"in use on chain 1 by miner on /srv/cupel \(pid \d+\): stop that first"),
            hold_key(1, KEYS[0].address, "wallet", directory=tmp_path),
        ):
            raise AssertionError("two holders")
        with hold_key(2, KEYS[0].address, "another chain", directory=tmp_path):
            pass
        with hold_key(1, KEYS[1].address, "another key", directory=tmp_path):
            pass
        with hold_key(1, KEYS[0].address, "another chain of this id", genesis=b"g" * 32, directory=tmp_path):
            pass
    with hold_key(1, KEYS[0].address, "the next", directory=tmp_path):
        pass


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from cupel.chain.key_lock import hold_key\n"
        f"with hold_key(1, '{KEYS[0].address}', 'verifier', directory=Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(UsageError, match=rf"by verifier \(pid {process.pid}\)"),
        hold_key(1, KEYS[0].address, "miner", directory=tmp_path),
    ):
        raise AssertionError("two holders")
    process.kill()
    process.wait()
    with hold_key(1, KEYS[0].address, "miner", directory=tmp_path):
        pass


def test_two_clients_that_hold_one_key_exclude_one_another(
    chain: Chain, key: LocalSigner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    first, second = (open_client(chain.url, key, Outbox()) for _ in range(2))
    with (
        first.hold_key("miner on /data"),
        pytest.raises(UsageError, match="miner on /data"),
        second.hold_key("wallet"),
    ):
        raise AssertionError("two holders")
