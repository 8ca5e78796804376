"""What an operator sees of a running network: metrics, status, doctor, and never a secret."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from network_world import PASSWORD, NodeProcess, World, key, open_world
from prometheus_client.parser import text_string_to_metric_families
from signer_process import SignerServer

from cupel.cli import cli
from cupel.node.command import ExitCode
from cupel.node.records import OutcomeRecord, VerdictRecord

OPERATING = Path(__file__).resolve().parent.parent / "docs" / "operating"
ALONE = {"min_miners": 1, "min_verifiers": 1, "verifiers_per_unit": 1, "quorum": 1, "jury_target": 1}
USER, TOKEN, QUERY = "account7f3a91", "tokenb4c2d8e6", "querye1f09a55"
SECRETS = (USER, TOKEN, QUERY, PASSWORD)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A miner and a verifier that have played a round, their RPC URL full of secrets."""
    with open_world(tmp_path_factory.mktemp("operators"), ["miner", "verifier", "remote"], **ALONE) as opened:
        rpc = opened.chain.url.replace("http://", f"http://{USER}:{TOKEN}@") + f"/?key={QUERY}"
        # The second URL answers nothing: what is said about it is said in the log.
        dead = f"http://{USER}:{TOKEN}@127.0.0.1:9/?key={QUERY}"
        for program in ("miner", "verifier"):
            opened.add(program, program, "--rpc", f"{rpc},{dead}", "--metrics", "127.0.0.1:0").start()
        opened.wait_for("end of a round", lambda: opened.contract.current().round >= 1, timeout_s=150)
        verifier = opened.node("verifier")
        opened.wait_for("verdict", lambda: [r for r in verifier.history if isinstance(r, VerdictRecord)])
        miner = opened.node("miner")
        opened.wait_for("outcome", lambda: [r for r in miner.history if isinstance(r, OutcomeRecord)])
        (opened.folder / "password").chmod(0o600)
        yield opened


def metrics_of(node: NodeProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample a node serves now, by its name."""
    (ready,) = node.events("ready")
    with urllib.request.urlopen(ready["metrics"], timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} says nothing about itself"
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(found: dict[str, list[tuple[dict[str, str], float]]], name: str, **labels: str) -> float:
    (only,) = [number for given, number in found[name] if labels.items() <= given.items()]
    return only


def run(*arguments: str) -> Any:
    """A command's JSON document."""
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code in (0, 1), (done.output, done.exception)
    return json.loads(done.stdout)


def test_metrics_say_what_a_node_did(world: World) -> None:
    miner, verifier = (metrics_of(world.node(name)) for name in ("miner", "verifier"))
    steps = world.contract.parameters().segments * world.contract.parameters().segment_steps
    assert value(miner, "cupel_steps_total") >= steps
    assert value(miner, "cupel_units_total", outcome="accepted") >= 1
    assert value(verifier, "cupel_steps_total") > 0
    for found, name in ((miner, "miner"), (verifier, "verifier")):
        assert value(found, "cupel_build_info", process=name) == 1
        assert value(found, "cupel_round") >= 1
        assert sum(number for _, number in found["cupel_phase"]) == 1
        assert value(found, "cupel_transactions_total", outcome="mined") >= 2
        assert value(found, "cupel_gas_used_total") > 21_000
        assert value(found, "cupel_fees_paid_eth_total") > 0
        assert value(found, "cupel_chain_height_blocks") > 0
        assert value(found, "cupel_journal_statements") > 0
        assert value(found, "cupel_store_bytes") > 0
        ups = sorted(number for _, number in found["cupel_rpc_endpoint_up"])
        assert ups == [0, 1], "of two endpoints, the one that does not answer is not asked"
        assert sum(number for _, number in found["cupel_rpc_failures_total"]) > 0
    assert value(verifier, "cupel_fetched_bytes_total") > 0
    assert value(miner, "cupel_served_bytes_total") > 0


def test_dashboard_and_alerts_ask_only_for_metrics_that_nodes_serve(world: World) -> None:
    served = set(metrics_of(world.node("miner"))) | set(metrics_of(world.node("verifier"))) | {"up"}
    dashboard = json.loads((OPERATING / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += re.findall(r"expr: (.*)", (OPERATING / "alerts.yml").read_text())
    assert len(queries) > 30
    asked = set()
    for query in queries:
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)", "", query)
        asked |= set(re.findall(r"\b[a-z_]+\b", bare)) - {"rate", "increase", "delta", "sum", "by"}
    assert asked <= served, asked - served
    shown = {name for name in served if name.startswith("cupel_") and not name.endswith("_created")}
    assert shown <= asked, f"served but on no panel: {shown - asked}"


def test_labels_in_dashboard_and_alerts_exist(world: World) -> None:
    labels = {"job", "instance"}
    for name in ("miner", "verifier"):
        labels |= {
            label for samples in metrics_of(world.node(name)).values() for given, _ in samples for label in given
        }
    text = (OPERATING / "grafana.json").read_text() + (OPERATING / "alerts.yml").read_text()
    used = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text)) | set(re.findall(r"(\w+)=~?\\?\"", text))
    assert used <= labels, used - labels


def test_no_secret_is_in_any_log_record_or_file(world: World) -> None:
    """Whatever was written while endpoints failed: logs, journal, outbox, history, store."""
    logs = world.node("miner").text() + world.node("verifier").text()
    assert "127.0.0.1:9" in logs, "the dead endpoint was never spoken of: this test looks at nothing"
    for path in sorted(world.folder.rglob("*")):
        if path.is_file() and path.name != "password":
            content = path.read_bytes()
            for secret in SECRETS:
                assert secret.encode() not in content, f"{secret} in {path}"


def test_metrics_hold_no_secret(world: World) -> None:
    text = repr(metrics_of(world.node("miner")))
    assert "127.0.0.1:9" in text
    assert not [secret for secret in SECRETS if secret in text]


def test_status_asks_the_chain(world: World) -> None:
    miner = world.node("miner")
    document = run(
        "status", "--run", str(world.folder / "run.json"), "--rpc", world.chain.url,
        "--address", miner.signer.address, "--rounds", "1000",
    )  # fmt: skip
    assert document["contract"] == world.contract.address
    assert document["round"] >= 1
    assert [one["round"] for one in document["rounds"]] == list(range(document["round"] + 1))
    assert {(one["account"], one["role"]) for one in document["seats"]} == {
        (node.signer.address, node.program) for node in world.nodes
    }
    (account,) = document["accounts"]
    assert account["role"] == "miner"
    assert int(account["deposit_wei"]) == world.contract.member_of(miner.signer.address).deposit
    assert sum(int(account[name]) for name in ("tokens", "pending_tokens", "claimable_tokens")) > 0


def test_status_shows_one_round_with_its_units(world: World) -> None:
    where = ("--run", str(world.folder / "run.json"), "--rpc", world.chain.url, "--round", "0")
    (only,) = run("status", *where)["rounds"]
    (unit,) = only["list_of_units"]
    assert unit["status"] == "attested"
    assert bytes.fromhex(unit["unit"][2:]) == world.contract.get_units(0)[0].unit_id
    shown = CliRunner().invoke(cli, ["status", *where])
    assert shown.exit_code == 0
    assert "attested" in shown.output
    early = CliRunner().invoke(cli, ["status", *where[:-1], "100000"])
    assert "no round 100000 yet" in str(early.exception)


def test_the_doctor_finds_a_running_node_well(world: World) -> None:
    miner = world.node("miner")
    (ready,) = miner.events("ready")
    found = _doctor(world, "--endpoint", ready["endpoint"])
    verdicts = {one["check"]: one["verdict"] for one in found["findings"]}
    for check in (
        "key",
        "password",
        "run.file",
        "chain",
        "clock",
        "fees",
        "run.contract",
        "funds",
        "journal",
        "endpoint",
    ):
        assert verdicts[check] == "ok", found
    assert "a node is at work" in next(one["found"] for one in found["findings"] if one["check"] == "journal")
    assert found["fit"]


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        (("--rpc", "http://127.0.0.1:9"), "chain", "127.0.0.1:9"),
        (("--run", "nowhere.json"), "run.file", "nowhere.json"),
        (("--keystore", "nowhere.json"), "key", "nowhere.json"),
        (("--password-file", "{folder}/run.json"), "password", "wrong password"),
        (("--data", "{folder}/verifier/data"), "journal", "not of this key"),
        (("--listen", "127.0.0.1:{port}", "--data", "{folder}/elsewhere"), "listen", "cannot listen"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_the_doctor_says_what_is_wrong_and_what_to_do(
    world: World, changes: tuple[str, ...], check: str, words: str
) -> None:
    port = world.chain.url.rpartition(":")[2]
    found = _doctor(world, *(one.format(folder=world.folder, port=port) for one in changes))
    assert not found["fit"]
    bad = [one for one in found["findings"] if one["verdict"] == "wrong"]
    assert len(bad) == 1, bad
    (wrong,) = bad
    assert wrong["check"] == check
    assert words in wrong["found"]
    assert wrong["fix"]


def test_the_doctor_says_how_much_is_missing_to_join(world: World) -> None:
    keys = world.folder / "poor"
    password = world.folder / "password"
    made = CliRunner().invoke(cli, ["wallet", "new", "--keystore", str(keys), "--password-file", str(password)])
    assert made.exit_code == 0, made.output
    (keystore,) = keys.iterdir()
    data = str(world.folder / "elsewhere")
    found = _doctor(world, "--keystore", str(keystore), "--data", data, "--listen", "127.0.0.1:0")
    bad = [one for one in found["findings"] if one["verdict"] == "wrong"]
    assert len(bad) == 1, bad
    (wrong,) = bad
    assert wrong["check"] == "funds"
    assert re.search(r"send it \d+\.\d+ ETH more", wrong["fix"])


def _doctor(world: World, *changes: str) -> Any:
    miner = world.node("miner")
    (keystore,) = (world.folder / "miner" / "keys").iterdir()
    return run(
        "doctor", "--no-speed", "--run", str(world.folder / "run.json"), "--rpc", world.chain.url,
        "--keystore", str(keystore), "--password-file", str(world.folder / "password"),
        "--data", str(miner.data), *changes,
    )  # fmt: skip


# One JSON document from every command that reads

READING = {
    "cupel data show": ("data", "show", "{folder}/data"),
    "cupel data verify": ("data", "verify", "{folder}/data"),
    "cupel doctor": ("doctor", "--no-speed"),
    "cupel journal show": ("journal", "show", "--data", "{folder}/miner/data"),
    "cupel network check": ("network", "check", "{folder}/run.json", "--rpc", "{rpc}", "--offline-data"),
    "cupel status": (
        "status", "--run", "{folder}/run.json", "--rpc", "{rpc}", "--round", "0", "--address", "{address}"
    ),
    "cupel wallet balance": ("wallet", "balance", "{address}", "--rpc", "{rpc}"),
    "cupel wallet list": ("wallet", "list", "--keystore", "{folder}/miner/keys"),
    "cupel wallet pending": ("wallet", "pending", "--keystore", "{folder}/miner/keys", "--rpc", "{rpc}"),
}  # fmt: skip
READING_ELSEWHERE = {
    "cupel dispute judge": "tests/test_dispute_files.py",
    "cupel dispute list": "tests/test_dispute_chain.py",
    "cupel dispute prove": "tests/test_dispute_files.py",
    "cupel dispute show": "tests/test_dispute_chain.py",
    "cupel replay": "tests/test_demo.py",
}
"""They need an archive or disputes of their own; the test file that parses their document."""
ACTING = {
    "cupel chain", "cupel data build", "cupel data serve", "cupel demo", "cupel dispute accuse",
    "cupel dispute continue", "cupel dispute trace", "cupel journal export", "cupel journal import", "cupel leave",
    "cupel network deploy", "cupel network prepare", "cupel wallet cancel", "cupel wallet export",
    "cupel wallet import", "cupel wallet new", "cupel wallet send",
}  # fmt: skip


def list_commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Every command that is no group."""
    context = click.Context(command, info_name=name, parent=parent)
    if not isinstance(command, click.Group):
        yield context
        return
    for child in command.list_commands(context):
        found = command.get_command(context, child)
        assert found is not None
        yield from list_commands(found, child, context)


def list_keys(value: object, above: str = "") -> set[str]:
    """Dotted names of everything in a document; list positions do not count."""
    if isinstance(value, list):
        return {key for one in value for key in list_keys(one, above)}
    if not isinstance(value, dict):
        return set()
    names = {f"{above}{name}" for name in value}
    return names | {key for name, one in value.items() for key in list_keys(one, f"{above}{name}.")}


def test_every_command_is_known_to_read_or_to_act_and_readers_take_json() -> None:
    commands = {context.command_path: context.command for context in list_commands(cli, "cupel")}
    assert set(commands) == {*READING, *READING_ELSEWHERE, *ACTING}
    for path in (*READING, *READING_ELSEWHERE):
        assert "--json" in {option for param in commands[path].params for option in param.opts}, path
    for file in READING_ELSEWHERE.values():
        assert "json.loads" in (OPERATING.parent.parent / file).read_text()


@pytest.mark.parametrize("path", sorted(READING))
def test_a_reading_command_prints_one_document_with_the_documented_fields(world: World, path: str) -> None:
    miner = world.node("miner")
    fields = {"folder": world.folder, "rpc": world.chain.url, "address": miner.signer.address}
    document = run(*(word.format(**fields) for word in READING[path]))
    assert isinstance(document, dict)
    page = (OPERATING / "json.md").read_text()
    (cell,) = re.findall(rf"^\| `{path}` \| (.*) \|$", page, re.MULTILINE)
    documented = set(re.findall("`([^`]+)`", cell))
    found = list_keys(document)
    assert found == documented, f"not the same: {sorted(found ^ documented)}"


def test_a_node_without_funds_says_how_much_it_needs_and_ends(world: World) -> None:
    poor = world.add("miner", "poor")
    poor.may_end = True
    poor.start()
    assert poor.process is not None
    code = poor.process.wait(90)
    world.nodes.remove(poor)
    assert code == ExitCode.USAGE
    last = json.loads(poor.text().splitlines()[-1])
    assert last["exit_code"] == ExitCode.USAGE
    assert re.match(rf"to join as a miner, {poor.signer.address} needs [\d.]+ ETH and gas; it has 0", last["reason"])


# Last, because it takes one more seat


def test_a_miner_plays_with_a_key_behind_a_remote_signer(world: World) -> None:
    with SignerServer(key("remote")) as server:
        node = world.add("miner", "remote")
        given = list(node.arguments)
        for option in ("--keystore", "--password-file"):
            at = given.index(option)
            del given[at : at + 2]
        node.arguments = [*given, "--signer", server.url]
        node.start()
        world.wait_for("seat", lambda: world.is_seated(node), timeout_s=90)
        assert server.requests["eth_signTransaction"] >= 1
        world.wait_for("commitment", lambda: node.events("committed"), timeout_s=120)
        assert world.stop("remote") == 0
        world.nodes.remove(node)
