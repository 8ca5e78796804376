"""The demo from end to end, short: real processes, then what it left on disk, then the same with one thing spoilt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cupel.archive import RoundSummary, RunArchive
from cupel.cli import cli
from cupel.demo.report import Report
from cupel.demo.running import run_demo
from cupel.demo.settings import DemoSettings
from cupel.network.ipfs import BlockStore
from cupel.protocol.errors import UsageError
from cupel.run_data import open_run

STDLIB = Path(sysconfig.get_paths()["stdlib"])
pytestmark = pytest.mark.timeout(500)


def short(folder: Path) -> DemoSettings:
    """Everything real, only less of it."""
    text = tuple(STDLIB / name for name in ("email", "json", "asyncio", "unittest"))
    return DemoSettings(
        folder=folder,
        rounds=1,
        miners=2,
        verifiers=2,
        segments=2,
        segment_steps=3,
        text=text,
        shard_tokens=4096,
        held_out=0.1,
        sample_tokens=8,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_demo(short(tmp_path_factory.mktemp("demo") / "run"))


@pytest.fixture
def folder(played: Report, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "run"
    shutil.copytree(played.folder, copy)
    return copy


def replay(folder: Path, unit: int, *options: str) -> Result:
    return CliRunner().invoke(cli, ["replay", "--dir", str(folder), "--round", "0", "--unit", str(unit), *options])


def place(summary: RoundSummary, status: str) -> int:
    return next(i for i, unit in enumerate(summary.units) if unit.status == status)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def block_paths(folder: Path, cid: str) -> list[Path]:
    """The file of a block, or of the first piece of a file of several, in every store of the run."""
    return list(folder.glob(f"**/blocks/*/{cid}"))


def test_honest_work_is_merged_and_the_lie_is_left_out(played: Report) -> None:
    (only,) = played.rounds
    status_of = {unit.miner: unit.status for unit in only.units}
    assert [status_of.pop(liar) for liar in played.liars] == ["DISPUTED"]
    assert set(status_of.values()) == {"ATTESTED"}
    assert only.merged
    assert only.held_out_loss < played.genesis_loss
    for unit in only.units:
        for verdict in unit.verdicts:
            assert verdict.agreed == (unit.status == "ATTESTED"), verdict


def test_the_liar_is_convicted_by_one_element_of_one_operation(played: Report) -> None:
    (only,) = played.rounds
    # The parties may have gone on with another round before they were told to end.
    assert {conviction.accused for conviction in played.convictions} == set(played.liars)
    lies = {unit.unit for unit in only.units if unit.miner in played.liars}
    [conviction] = [conviction for conviction in played.convictions if conviction.subject in lies]
    assert conviction.operation.startswith("operation ")
    assert conviction.claimed != conviction.right
    assert conviction.prize_wei == 5 * 10**17, "half of the unit's bond"
    shown = (played.folder / "summary.txt").read_text()
    assert conviction.operation in shown
    assert conviction.right in shown


def test_only_verified_work_earns(played: Report) -> None:
    earned = {balance.address: balance.tokens + balance.pending for balance in played.balances}
    assert all(earned[liar] == 0 for liar in played.liars)
    honest = [b for b in played.balances if b.name.startswith("miner") and b.address not in played.liars]
    assert all(earned[b.address] > 0 for b in honest)
    assert played.supply == sum(b.tokens for b in played.balances)


def test_what_was_earned_is_mature_at_the_end_and_the_summary_says_how(played: Report) -> None:
    assert played.skipped > 1000
    assert all(balance.pending == 0 for balance in played.balances)
    assert f"{played.skipped:,} empty blocks were skipped at the end" in (played.folder / "summary.txt").read_text()


def test_a_finished_run_can_be_shown_from_disk(played: Report) -> None:
    done = CliRunner().invoke(cli, ["status", "--dir", str(played.folder)])
    assert done.exit_code == 0, done.output
    assert played.rounds[-1].end_root.hex() in done.output
    (shown,) = json.loads(CliRunner().invoke(cli, ["status", "--dir", str(played.folder), "--json"]).output)["rounds"]
    assert shown["end_root"] == "0x" + played.rounds[-1].end_root.hex()
    assert (played.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_an_honest_unit_replays_to_the_last_bit_and_the_liars_does_not(played: Report) -> None:
    (only,) = played.rounds
    honest = replay(played.folder, place(only, "ATTESTED"))
    assert honest.exit_code == 0, honest.output
    assert "every root matches" in honest.output
    assert "merge of round 0: same" in honest.output
    document = json.loads(replay(played.folder, place(only, "ATTESTED"), "--json").stdout)
    assert document["honest"]
    assert (document["merge"], document["damage"]) == ("same", [])
    lie = replay(played.folder, place(only, "DISPUTED"))
    assert lie.exit_code == 1
    assert lie.output.count("DIFFERENT") >= 1


def dispute(command: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["dispute", command, *options])


def test_the_lie_is_proved_from_the_folder_and_nothing_else_is(played: Report, tmp_path: Path) -> None:
    (only,) = played.rounds
    folder, proof = ["--dir", str(played.folder), "--round", "0"], tmp_path / "proof.json"
    lie = str(place(only, "DISPUTED"))
    assert f"cupel dispute prove --dir {played.folder} --round 0 --unit {lie}" in replay(played.folder, int(lie)).output
    done = dispute("prove", *folder, "--unit", lie, "--out", str(proof), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["wrong_values"], found["wrong_elements"]) == (1, 1)
    assert "the segment's 2 steps before step 2" in found["assumed"]
    judged = dispute("judge", str(proof))
    assert judged.exit_code == 0
    assert "The proof convicts." in judged.output
    late = dispute("prove", *folder, "--unit", lie, "--segment", "1")
    assert "prove segment 0" in str(late.exception)
    honest = dispute("prove", *folder, "--unit", str(place(only, "ATTESTED")))
    assert (honest.exit_code, "nothing is wrong" in honest.output) == (1, True)
    merge = dispute("prove", *folder, "--merge")
    assert (merge.exit_code, "nothing is wrong" in merge.output.lower()) == (1, True)


def test_without_the_posted_state_no_element_is_compared(folder: Path, played: Report) -> None:
    lie = played.rounds[-1].units[place(played.rounds[-1], "DISPUTED")]
    with open_run(RunArchive(folder)).fetcher as fetcher:
        states = json.loads(fetcher.fetch(lie.cid))["states"]
    for path in block_paths(folder, states[1]["cid"]):
        path.unlink()
    done = dispute("prove", "--dir", str(folder), "--round", "0", "--unit", lie.unit.hex())
    assert isinstance(done.exception, UsageError)
    assert "is not kept in the folder" in str(done.exception)


def test_a_flipped_bit_in_a_committed_state_is_noticed(folder: Path, played: Report) -> None:
    (only,) = played.rounds
    unit = only.units[place(only, "ATTESTED")]
    with open_run(RunArchive(folder)).fetcher as fetcher:
        states = json.loads(fetcher.fetch(unit.cid))["states"]
    for path in block_paths(folder, states[1]["cid"]):
        flip_a_bit(path)
    done = replay(folder, place(only, "ATTESTED"))
    assert done.exit_code == 1
    assert "DAMAGED: checkpoint 1" in done.output


def test_a_flipped_bit_in_the_merged_state_is_noticed(folder: Path, played: Report) -> None:
    for path in block_paths(folder, played.rounds[-1].end_cid):
        flip_a_bit(path)
    done = replay(folder, place(played.rounds[-1], "ATTESTED"))
    assert done.exit_code == 1
    assert "DAMAGED: end of round 0" in done.output


def test_a_flipped_bit_in_a_shard_is_noticed(folder: Path, played: Report) -> None:
    archive = RunArchive(folder)
    shards = [shard.cid for shard in open_run(archive).data.training]
    for cid in shards:
        with BlockStore(archive.blocks, read_only=True):
            for path in block_paths(folder, cid):
                flip_a_bit(path)
    done = replay(folder, place(played.rounds[-1], "ATTESTED"))
    assert done.exit_code != 0
    assert "same" not in done.output


def test_an_unknown_round_or_unit_is_answered_with_those_there_are(played: Report) -> None:
    with pytest.raises(UsageError, match="ended rounds there: 0"):
        RunArchive(played.folder).get_round(7)
    done = replay(played.folder, 99)
    assert isinstance(done.exception, UsageError)
    assert "attested" in str(done.exception)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        DemoSettings(folder=tmp_path)


def test_going_on_trains_from_where_the_run_stands(folder: Path, played: Report) -> None:
    report = run_demo(short(folder))
    assert len([one for one in report.rounds if one.units]) == 2
    assert report.rounds[0] == played.rounds[0]
    assert report.rounds[1].start_root == report.rounds[0].end_root or not report.rounds[0].merged


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes through /proc")
def test_ending_the_demo_ends_its_processes(tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'cupel'; from cupel.cli import main; main()"
    folder = tmp_path / "run"
    demo = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--dir", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (folder / "logs" / "chain.log").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    children = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().rsplit(")", 1)[1].split()[1] == str(demo.pid)
    ]
    assert children, "the chain is a child of the demo"
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(60) == 130
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
