"""A node contradicts itself neither after a kill, nor in another folder, nor on another machine."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from node_world.disk import note_synced

from cupel.cli import cli
from cupel.node.journal import Contradiction, Duty, Identity, Journal, question_of, round_subject
from cupel.node.ownership import claim_key, hold_folder
from cupel.protocol.errors import StorageFailed, UsageError
from cupel.protocol.types import Address

IDENTITY = Identity(
    chain_id=31337,
    contract=Address("0x7c583c6a93c4417892eb080D1DdF3179df031e0B"),
    address=Address("0x8484C3061f8C07335FE7818d84E703F080fdb74f"),
)
OTHER = Identity(chain_id=31337, contract=IDENTITY.contract, address=IDENTITY.contract)
UNIT, QUESTION = b"\x01" * 32, question_of(b"seed", b"start")
ANSWER, ANOTHER = b"root and contribution", b"another root"


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The registry of keys and folders is the user's; this user is new."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "node", IDENTITY)


# One answer


def test_the_same_answer_may_be_given_again_and_another_may_not(journal: Journal) -> None:
    assert journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    assert not journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    with pytest.raises(Contradiction, match="refusing to commit"):
        journal.state(Duty.COMMIT, UNIT, QUESTION, ANOTHER)
    assert [one.content for one in journal.statements()] == [ANSWER]


def test_roles_units_and_seeds_are_questions_of_their_own(journal: Journal) -> None:
    assert journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    assert journal.state(Duty.SEAL, UNIT, QUESTION, ANOTHER)
    assert journal.state(Duty.COMMIT, b"\x02" * 32, QUESTION, ANOTHER)
    assert journal.state(Duty.COMMIT, UNIT, question_of(b"seed after a re-org", b"start"), ANOTHER)
    assert journal.count() == 4


def test_several_answers_are_written_all_or_none(journal: Journal) -> None:
    journal.state(Duty.SEAL, UNIT, QUESTION, ANSWER)
    with pytest.raises(Contradiction):
        journal.state_all(Duty.SEAL, [(b"\x02" * 32, QUESTION, ANSWER), (UNIT, QUESTION, ANOTHER)])
    assert journal.count() == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(Duty),
            st.binary(min_size=1, max_size=2),
            st.binary(min_size=1, max_size=1),
            st.binary(max_size=2),
        ),
        max_size=30,
    )
)
def test_whatever_is_asked_in_whatever_order_no_question_ever_has_two_answers(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[Duty, bytes, bytes, bytes]]
) -> None:
    folder, said = tmp_path_factory.mktemp("journal"), {}
    Journal(folder, IDENTITY).close()
    for duty, subject, question, content in asked:
        # Opened anew each time, as after a restart.
        with Journal(folder, IDENTITY) as opened:
            first = said.setdefault((duty, subject, question), content)
            if first == content:
                opened.state(duty, subject, question, content)
            else:
                with pytest.raises(Contradiction):
                    opened.state(duty, subject, question, content)
    with Journal(folder, IDENTITY, read_only=True) as opened:
        assert {(s.duty, s.subject, s.question): s.content for s in opened.statements()} == said


def test_question_parts_cannot_run_into_one_another() -> None:
    assert question_of(b"ab", b"c") != question_of(b"a", b"bc") != question_of(b"abc")


# On disk


def test_what_state_returned_from_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from cupel.node.journal import *\n"
        f"j = Journal(Path({str(tmp_path)!r}), Identity(chain_id=31337, contract={str(IDENTITY.contract)!r}, "
        f"address={str(IDENTITY.address)!r}))\n"
        f"j.state(Duty.SEAL, {UNIT!r}, {QUESTION!r}, {ANSWER!r}); j.put('work', {UNIT!r}, 3, {{'segments': 2}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()
    with Journal(tmp_path, IDENTITY) as opened:
        found = opened.find(Duty.SEAL, UNIT, QUESTION)
        assert found is not None
        assert found.content == ANSWER
        assert opened.get("work", UNIT) == {"segments": 2}


def test_a_journal_is_of_one_key_in_one_run(tmp_path: Path) -> None:
    with Journal(tmp_path, IDENTITY) as opened:
        opened.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    with pytest.raises(UsageError, match="folder of its own"):
        Journal(tmp_path, OTHER)


def test_a_folder_in_which_nothing_was_said_is_not_tied_to_a_mistake(tmp_path: Path) -> None:
    Journal(tmp_path, IDENTITY).close()
    with Journal(tmp_path, OTHER) as opened:
        opened.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
        assert opened.export()["address"] == OTHER.address
    with pytest.raises(UsageError, match="folder of its own"):
        Journal(tmp_path, IDENTITY)


def test_a_damaged_journal_is_refused_with_what_to_do(tmp_path: Path) -> None:
    Journal(tmp_path, IDENTITY).close()
    (tmp_path / "journal.sqlite3").write_bytes(b"\x00" * 5000)
    with pytest.raises(UsageError, match=r"damaged.*cupel journal import"):
        Journal(tmp_path, IDENTITY)


def test_a_journal_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path, IDENTITY).close()
    with sqlite3.connect(tmp_path / "journal.sqlite3") as database:
        database.execute("pragma user_version = 99")
    with pytest.raises(UsageError, match="later version"):
        Journal(tmp_path, IDENTITY)


def test_a_full_disk_means_that_nothing_is_signed(tmp_path: Path) -> None:
    opened = Journal(tmp_path, IDENTITY)
    pages = opened._database.execute("pragma page_count").fetchone()[0]
    opened._database.execute(f"pragma max_page_count = {pages}")  # SQLite's own way to have no room
    said = 0

    def say_on() -> None:
        nonlocal said
        while True:
            opened.state(Duty.COMMIT, round_subject(said), QUESTION, ANSWER * 40)
            said += 1

    with pytest.raises(StorageFailed, match="full; nothing was signed"):
        say_on()
    opened._database.execute("pragma max_page_count = 100000")
    assert opened.count() == said
    assert opened.state(Duty.COMMIT, round_subject(said), QUESTION, ANSWER * 40)


def test_a_lock_and_a_disk_that_may_not_be_written_are_no_full_disk(tmp_path: Path) -> None:
    opened = Journal(tmp_path, IDENTITY)
    opened._database.execute("pragma busy_timeout = 50")
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StorageFailed, match="nothing was signed: another process has it locked"):
        opened.state(Duty.COMMIT, round_subject(1), QUESTION, ANSWER)
    other.execute("rollback")
    opened._database.execute("pragma query_only = 1")
    with pytest.raises(StorageFailed, match="nothing was signed: it may not be written"):
        opened.state(Duty.COMMIT, round_subject(1), QUESTION, ANSWER)
    opened._database.execute("pragma query_only = 0")
    assert opened.state(Duty.COMMIT, round_subject(1), QUESTION, ANSWER)


def test_documents_are_replaced_listed_by_round_and_dropped(journal: Journal) -> None:
    journal.put("work", b"b", 1, {"n": 1})
    journal.put("work", b"a", 2, {"n": 2})
    journal.put("work", b"b", 1, {"n": 3})
    assert journal.names("work", last_round=2) == [b"b", b"a"]
    assert journal.names("work", last_round=1) == [b"b"]
    assert journal.get("work", b"b") == {"n": 3}
    journal.drop("work", b"b")
    assert journal.get("work", b"b") is None


# Elsewhere


def test_an_exported_journal_forbids_the_same_where_it_is_imported(tmp_path: Path, journal: Journal) -> None:
    journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    with Journal(tmp_path / "new", IDENTITY) as other:
        assert other.import_(json.loads(json.dumps(journal.export()))) == 1
        assert other.import_(journal.export()) == 0
        with pytest.raises(Contradiction):
            other.state(Duty.COMMIT, UNIT, QUESTION, ANOTHER)


def test_importing_what_contradicts_the_journal_changes_nothing(tmp_path: Path, journal: Journal) -> None:
    journal.state(Duty.COMMIT, b"\x00" * 32, QUESTION, ANSWER)
    journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    with Journal(tmp_path / "new", IDENTITY) as other:
        other.state(Duty.COMMIT, UNIT, QUESTION, ANOTHER)
        with pytest.raises(Contradiction):
            other.import_(journal.export())
        assert other.count() == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda e: e.update(format="another"), "format should be"),
        (lambda e: e.update(version=2), "version 2"),
        (lambda e: e.update(address=OTHER.address), "journal of 0x7c58"),
        (lambda e: e["statements"][0].update(duty="sing"), "statement is malformed"),
        (lambda e: e["statements"][0].update(subject="01"), "statement is malformed"),
        (lambda e: e["statements"][0].pop("content"), "statement is malformed"),
        (lambda e: e.update(statements=7), "statement is malformed"),
        (lambda e: e["statements"][0].update(subject=7), "subject is not 0x"),
        (lambda e: e["statements"][0].update(subject="0x" + "01" * 8), "subject is of 8 bytes; 32 expected"),
        (lambda e: e["statements"][0].update(duty="propose"), "subject is of 32 bytes; 8 expected"),
        (lambda e: e["statements"][0].update(question="0x01"), "question is of 1 bytes; 32 expected"),
        (lambda e: e["statements"][0].update(content="0x" + "01" * 65537), "content is of 65,537 bytes"),
        (lambda e: e["statements"][0].update(time_s=float("nan")), "time_s is nan"),
        (lambda e: e["statements"][0].update(time_s=float("inf")), "time_s is inf"),
        (lambda e: e["statements"][0].update(time_s=-1), "time_s is -1"),
        (lambda e: e["statements"][0].update(time_s=10**400), "statement is malformed"),
    ],
)
def test_what_is_not_an_export_of_this_key_is_refused(journal: Journal, spoil: object, message: str) -> None:
    journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    exported = journal.export()
    spoil(exported)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message):
        journal.import_(exported)


def test_the_command_takes_a_journal_from_folder_to_folder(tmp_path: Path, journal: Journal) -> None:
    journal.state(Duty.COMMIT, UNIT, QUESTION, ANSWER)
    journal.state(Duty.ACKNOWLEDGE, round_subject(7), QUESTION, ANSWER)
    journal.close()
    run, file, new = CliRunner().invoke, str(tmp_path / "moved.json"), str(tmp_path / "new")
    assert run(cli, ["journal", "export", "--data", str(tmp_path / "node"), file]).exit_code == 0
    assert os.stat(file).st_mode & 0o777 == 0o600
    done = run(cli, ["journal", "import", "--data", new, file])
    assert (done.exit_code, done.output.split()[0]) == (0, "2")
    shown = run(cli, ["journal", "show", "--data", new])
    assert f"unit 0x{UNIT.hex()}" in shown.output
    assert "round 7" in shown.output
    assert json.loads(run(cli, ["journal", "show", "--json", "--data", new]).output)["address"] == IDENTITY.address
    with pytest.raises(UsageError, match="no journal in"):
        run(cli, ["journal", "show", "--data", str(tmp_path)], catch_exceptions=False)


# Two of them


def test_a_second_process_in_a_folder_is_refused_and_named(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from cupel.node.ownership import hold_folder\n"
        f"with hold_folder(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"in use by process {holder.pid}"), hold_folder(tmp_path):
            pass
        holder.kill()
    with hold_folder(tmp_path):  # the lock died with the process
        pass


def test_a_key_plays_from_one_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Journal(first, IDENTITY) as journal:
        assert claim_key(journal, first) is None
        assert claim_key(journal, first) is None
    with Journal(second, IDENTITY) as journal, pytest.raises(UsageError, match=f"plays from --data {first}"):
        claim_key(journal, second)


def test_a_key_moves_with_its_journal(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Journal(first, IDENTITY) as journal:
        claim_key(journal, first)
        exported = journal.export()
    with Journal(second, IDENTITY) as journal:
        journal.import_(exported)
        assert claim_key(journal, second) is None
    with Journal(first, IDENTITY) as journal, pytest.raises(UsageError, match=f"plays from --data {second}"):
        claim_key(journal, first)


def test_a_copied_folder_is_refused_and_a_moved_one_is_not(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Journal(first, IDENTITY) as journal:
        claim_key(journal, first)
    second.mkdir()
    (second / "journal.sqlite3").write_bytes((first / "journal.sqlite3").read_bytes())
    with Journal(second, IDENTITY) as journal:
        with pytest.raises(UsageError, match="is a copy of"):
            claim_key(journal, second)
        (first / "journal.sqlite3").unlink()
        assert claim_key(journal, second) is None


def test_a_lost_journal_is_a_warning_not_the_end(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with Journal(first, IDENTITY) as journal:
        claim_key(journal, first)
    (first / "journal.sqlite3").unlink()
    with Journal(second, IDENTITY) as journal:
        assert "is gone" in str(claim_key(journal, second))
        assert claim_key(journal, second) is None


@pytest.mark.parametrize("content", ["", '{"folder": "/a', "[]", '{"folder": 7}'])
def test_what_cannot_be_read_of_a_key_is_not_taken_for_nothing(tmp_path: Path, content: str) -> None:
    with Journal(tmp_path / "first", IDENTITY) as journal:
        claim_key(journal, tmp_path / "first")
    (known,) = (tmp_path / "home" / "cupel" / "nodes").iterdir()
    known.write_text(content)
    with Journal(tmp_path / "second", IDENTITY) as journal:
        with pytest.raises(UsageError, match=f"{known.name} says .* cannot be read"):
            claim_key(journal, tmp_path / "second")
        known.unlink()
        assert claim_key(journal, tmp_path / "second") is None


def test_which_folder_a_key_plays_from_is_on_disk_before_it_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = note_synced(monkeypatch)
    with Journal(tmp_path / "first", IDENTITY) as journal:
        claim_key(journal, tmp_path / "first")
    nodes = tmp_path / "home" / "cupel" / "nodes"
    (known,) = nodes.iterdir()
    assert {known.stat().st_ino, nodes.stat().st_ino} <= synced


def test_another_run_or_key_is_another_matter(tmp_path: Path) -> None:
    for number, identity in enumerate((IDENTITY, OTHER)):
        with Journal(tmp_path / str(number), identity) as journal:
            assert claim_key(journal, tmp_path / str(number)) is None
