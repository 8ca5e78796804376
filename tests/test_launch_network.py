"""Deploying a run with `cupel network` and checking one: killed anywhere it goes on, and what is spoilt is named."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chain_process import ChainProcess
from network_world import CONFIG, PASSWORD, key, make_text
from rpc_faults import Bend, FaultyRpc

from cupel.chain.abi import Call, load_abi
from cupel.chain.bytecode import bind_rules, bind_run, load_runtime_code
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import read_court
from cupel.chain.deployment import COURT_GAS, MEASURED_GAS, DeploymentDiffers
from cupel.chain.errors import WrongChain
from cupel.chain.keys import LocalSigner, make_key, save_keystore
from cupel.chain.run_code import find_run_problem
from cupel.chain.run_contract import RunContract, deploy_scripted_beacon
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import Parameters
from cupel.chain.suitability import find_beacon_problem, look_at_beacon
from cupel.launch.checking import find_oddities, inspect
from cupel.launch.deploying import deploy_network
from cupel.launch.parameter_file import read_parameter_file
from cupel.launch.preparation import Prepared, parse_from_state, prepare
from cupel.network.data import BuildOptions, build_data
from cupel.network.ipfs.blockstore import BlockStore
from cupel.network.ipfs.gateway import GatewayServer
from cupel.protocol.errors import RootMismatch, UsageError
from cupel.protocol.types import Height, Wei

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = (ROOT / "docs" / "networks" / "parameters.example.toml").read_text()
RICH = [key(f"deployer-{number}") for number in range(13)]
RUN_COMMAND = "import sys; sys.argv[0] = 'cupel'; from cupel.cli import main; main()"

pytestmark = pytest.mark.timeout(600)


def write_parameters(folder: Path, **changes: object) -> Path:
    """A parameter file of the tests' tiny model on the embedded chain, with keys changed."""
    model, training = dataclasses.asdict(CONFIG.model), dataclasses.asdict(CONFIG.training)
    values = {"chain_id": 31337, "block_seconds": 1, "confirmations": 1, "folder": '"run"', "sources": "[]"}
    values |= {name: model[name] for name in ("vocabulary", "width", "layers", "heads", "hidden", "context")}
    values |= {name: training[name] for name in ("batch", "learning_rate", "warmup_steps", "total_steps")}
    values |= {"max_merge": CONFIG.max_merge, "top_k": CONFIG.top_k} | changes
    text = EXAMPLE
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert count == 1, name
    path = folder / "network.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with data, Programs and first state."""
    folder = tmp_path_factory.mktemp("prepared")
    make_text(folder / "text")
    build_data([folder / "text"], folder / "data", BuildOptions(vocabulary=260, shard_tokens=512, held_out=0.1))
    prepare(folder, CONFIG, read_parameter_file(write_parameters(folder)).genesis_seed, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    process = ChainProcess(tmp_path_factory.mktemp("chain"), block_time_s=0.2)
    process.start(fund=RICH)
    client = ChainClient(process.url)
    client.wait_for_block(4, timeout_s=60)
    client.close()
    yield process
    process.kill()


class Launch:
    """One folder with a parameter file and a key to deploy with."""

    def __init__(self, folder: Path, prepared: Path, signer: LocalSigner, **changes: object) -> None:
        self.folder, self.signer = folder, signer
        shutil.copytree(prepared / "data", folder / "run" / "data")
        shutil.copy(prepared / "prepared.json", folder / "run")
        self.parameters = write_parameters(folder, **changes)
        self.password = folder / "password"
        self.password.write_text(PASSWORD)
        self.password.chmod(0o600)
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self.keystore = save_keystore(signer, PASSWORD, folder / "keys", scrypt_n=1 << 10, now=now)
        self.said: list[str] = []

    def deploy(self, url: str, **options: Any) -> RunFile:
        chosen = read_parameter_file(self.parameters)
        given: dict[str, Any] = {"max_fee_wei": 10**12, "say": self.said.append, "confirm": None} | options
        return deploy_network(chosen, [url], self.keystore, (self.password, None), **given)

    def start(self, url: str) -> subprocess.Popen[str]:
        """The command as a process."""
        command = [
            sys.executable, "-c", RUN_COMMAND, "network", "deploy", str(self.parameters), "--rpc", url, "--yes",
            "--keystore", str(self.keystore), "--password-file", str(self.password),
        ]  # fmt: skip
        environment = os.environ | {"XDG_DATA_HOME": str(self.folder / "share")}
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def count_transactions(url: str, signer: LocalSigner) -> int:
    client = ChainClient(url)
    try:
        return client.count_transactions(signer.address, "latest")
    finally:
        client.close()


# Deploying


def test_a_deployment_killed_at_every_transaction_goes_on_and_deploys_nothing_twice(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess
) -> None:
    """Killed in turn when the chain has the transaction and the process does not know yet, and when it is about to
    read its receipt; nine times, each process at the first transaction that no earlier one died of."""
    signer = RICH[12]
    launch = Launch(tmp_path, prepared_folder, signer)
    seen: set[str] = set()
    with FaultyRpc(chain.url) as proxy:
        for number in range(len(MEASURED_GAS)):
            process = launch.start(proxy.url)
            moment = ("eth_sendRawTransaction", "eth_getTransactionReceipt")[number % 2]

            def kill(
                method: str, params: Sequence[Any], result: Any, process: Any = process, moment: str = moment
            ) -> Any:
                if method != moment or result is None or str(params[0]) in seen:
                    return result
                # The transaction, and its hash: neither kills another process.
                seen.update((str(params[0]), str(result["transactionHash"] if isinstance(result, dict) else result)))
                os.kill(process.pid, signal.SIGKILL)
                return result

            proxy.bend = kill
            assert process.wait(timeout=120) == -signal.SIGKILL, process.communicate()
    assert not (tmp_path / "run" / "run.json").exists()
    again = launch.start(chain.url)
    output, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert output.strip() == str(tmp_path / "run" / "run.json")
    assert count_transactions(chain.url, signer) == len(MEASURED_GAS)
    run_file = RunFile.read(Path(output.strip()))
    client = ChainClient(chain.url)
    found = inspect(client, run_file, with_data=False)
    client.close()
    assert not found.failed, found.failed
    assert set(run_file.creation) == {"run", "beacon", "court"}


def test_what_is_asked_first_costs_nothing_when_the_answer_is_no(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess
) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[6])
    questions: list[str] = []

    class Declined(Exception):
        pass

    def decline(question: str) -> None:
        questions.append(question)
        raise Declined

    with pytest.raises(Declined):
        launch.deploy(chain.url, confirm=decline)
    assert count_transactions(chain.url, launch.signer) == 0
    assert launch.signer.address in questions[0]
    said = re.search(r"About ([0-9,]+) gas at [0-9.]+ gwei: 0\.\d+ ETH", "\n".join(launch.said))
    assert said is not None
    assert int(said[1].replace(",", "")) == pytest.approx(sum(MEASURED_GAS.values()), rel=0.03)


def test_without_a_terminal_nothing_is_assumed(tmp_path: Path, prepared_folder: Path, chain: ChainProcess) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[6])
    command = [sys.executable, "-c", RUN_COMMAND, "network", "deploy", str(launch.parameters), "--rpc", chain.url]
    command += ["--keystore", str(launch.keystore), "--password-file", str(launch.password)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no terminal to ask on: look at the cost on one, or give --yes" in done.stderr


def test_a_key_without_funds_is_told_how_much_is_missing(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess
) -> None:
    launch = Launch(tmp_path, prepared_folder, make_key())
    with pytest.raises(UsageError, match=rf"{launch.signer.address} has 0 ETH on chain 31337: 0\.\d+ ETH are missing"):
        launch.deploy(chain.url)


def test_another_chain_than_the_files_is_refused(tmp_path: Path, prepared_folder: Path, chain: ChainProcess) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[6], chain_id=5)
    with pytest.raises(WrongChain):
        launch.deploy(chain.url)


def test_a_folder_whose_run_is_deployed_or_whose_model_changed_is_left_alone(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess
) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[6])
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="this folder's run is deployed"):
        launch.deploy(chain.url)
    (tmp_path / "run" / "run.json").unlink()
    launch.parameters = write_parameters(tmp_path, width=32)
    with pytest.raises(UsageError, match="than is given now: run `cupel network prepare` first"):
        launch.deploy(chain.url)
    (tmp_path / "run" / "prepared.json").unlink()
    with pytest.raises(UsageError, match="run `cupel network prepare` first"):
        launch.deploy(chain.url)


def constant_beacon(method: str, params: Sequence[Any], result: Any) -> Any:
    if method == "eth_getBlockByNumber" and result is not None:
        return result | {"mixHash": "0x" + "00" * 31 + "01"}
    return result


def copied_beacon(method: str, params: Sequence[Any], result: Any) -> Any:
    """As on a rollup: six blocks, one value."""
    if method == "eth_getBlockByNumber" and result is not None:
        return result | {"mixHash": "0x" + (int(result["number"], 16) // 6 + 1).to_bytes(32, "big").hex()}
    return result


def other_heights(method: str, params: Sequence[Any], result: Any) -> Any:
    if method == "eth_call" and "to" not in params[0] and str(result).startswith("0x" + "0" * 40):
        return "0x" + (10**6).to_bytes(32, "big").hex() + result[66:]
    return result


def small_blocks(method: str, params: Sequence[Any], result: Any) -> Any:
    if method == "eth_getBlockByNumber" and result is not None:
        return result | {"gasLimit": hex(8_000_000)}
    return result


UNSUITABLE = {
    constant_beacon: "its headers cannot be proved",
    other_heights: "its contracts count other blocks",
    small_blocks: "blocks take 8,000,000 gas: too few",
}


@pytest.mark.parametrize("bend", UNSUITABLE, ids=lambda bend: bend.__name__)
def test_a_chain_on_which_no_run_could_live_is_refused(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess, bend: Callable[..., Any]
) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[6])
    with FaultyRpc(chain.url) as proxy:
        proxy.bend = bend
        with pytest.raises(UsageError, match=UNSUITABLE[bend]):
            launch.deploy(proxy.url)
    assert count_transactions(chain.url, launch.signer) == 0


@pytest.mark.parametrize(
    ("bend", "complaint"),
    [(constant_beacon, "prevrandao is the same in the last"), (copied_beacon, "stays the same for 6 blocks")],
)
def test_randomness_is_read_from_headers(chain: ChainProcess, bend: Callable[..., Any], complaint: str) -> None:
    with FaultyRpc(chain.url) as proxy:
        client = ChainClient(proxy.url)
        client.wait_for_block(16, timeout_s=60)
        assert find_beacon_problem(look_at_beacon(client), 1) is None
        proxy.bend = bend
        problem = find_beacon_problem(look_at_beacon(client), 10)
        client.close()
    assert problem is not None
    assert complaint in problem


def test_what_is_on_chain_is_read_back_and_compared(tmp_path: Path, prepared_folder: Path, chain: ChainProcess) -> None:
    launch = Launch(tmp_path, prepared_folder, RICH[9])

    def spoil(method: str, params: Sequence[Any], result: Any) -> Any:
        """One bit of the run's code."""
        is_run = method == "eth_getCode" and len(str(result)) == 2 + 2 * len(load_runtime_code("Run").code)
        return f"{result[:-1]}{int(result[-1], 16) ^ 1:x}" if is_run else result

    with FaultyRpc(chain.url) as proxy:
        proxy.bend = spoil
        with pytest.raises(DeploymentDiffers, match=r"its code .* is not Run's of this version"):
            launch.deploy(proxy.url)
    assert not (tmp_path / "run" / "run.json").exists()
    # The chain was right and the endpoint was not: asked again, nothing is sent again.
    launch.deploy(chain.url)
    assert count_transactions(chain.url, launch.signer) == len(MEASURED_GAS)


# Checking


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, prepared_folder: Path, chain: ChainProcess
) -> tuple[RunFile, Parameters]:
    launch = Launch(tmp_path_factory.mktemp("deployed"), prepared_folder, RICH[7])
    run_file = launch.deploy(chain.url)
    client = ChainClient(chain.url)
    parameters = RunContract(client, run_file.contract).parameters()
    client.close()
    return run_file, parameters


def failures(chain: ChainProcess, run_file: RunFile, **options: Any) -> dict[str, str]:
    client = ChainClient(chain.url)
    try:
        found = inspect(client, run_file, **({"with_data": False} | options))
    finally:
        client.close()
    return {check.name: check.what for check in found.failed}


def test_an_honest_deployment_passes_with_its_files(
    prepared_folder: Path, chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    run_file, _ = deployed
    with BlockStore(prepared_folder / "data" / "blockstore", read_only=True) as store, GatewayServer(store) as gateway:
        assert failures(chain, dataclasses.replace(run_file, sources=(gateway.url,)), with_data=True) == {}
    assert "manifest" in failures(chain, run_file, with_data=True)


def spoil_file(**changes: object) -> Callable[[RunFile], RunFile]:
    return lambda run_file: dataclasses.replace(run_file, **changes)  # type: ignore[arg-type]


SPOILT_FILES: dict[str, tuple[Callable[[RunFile], RunFile], str]] = {
    "run": (lambda f: dataclasses.replace(f, contract=f.token), "no run answers"),
    "token": (lambda f: dataclasses.replace(f, token=f.beacon), "the run created"),
    "beacon": (lambda f: dataclasses.replace(f, beacon=f.token), "the run draws from"),
    "creation": (spoil_file(deploy_block=Height(1)), "the run file says 1"),
}


@pytest.mark.parametrize("name", SPOILT_FILES)
def test_a_file_that_says_something_else_than_the_chain_fails(
    chain: ChainProcess, deployed: tuple[RunFile, Parameters], name: str
) -> None:
    spoil, complaint = SPOILT_FILES[name]
    found = failures(chain, spoil(deployed[0]))
    assert list(found) == [name]
    assert complaint in found[name]


def deploy_by_hand(
    client: ChainClient, parameters: Parameters, *, spoil: bool = False, swapped: bool = False, **creation: str
) -> RunFile:
    """A run deployed without the command; `spoil`: with other code than the shipped one."""
    lens, _ = client.deploy(load_abi("RunLens").bind_deployment())
    half: Call = bind_rules(parameters)
    if spoil:
        # What is burned goes to an address somebody may have the key of.
        assert half.data.count(b"\x61\xde\xad") == 1
        half = dataclasses.replace(half, data=half.data.replace(b"\x61\xde\xad", b"\x61\xbe\xef"))
    rules, _ = client.deploy(half)
    call: Call = bind_run(parameters, rules, lens, "Cupel", "CUP")
    if swapped:
        # Shares of a reward are of 10,001 and not of 10,000.
        before, shares, after = call.data.rpartition(b"\x61\x27\x10")
        assert shares
        call = dataclasses.replace(call, data=before + b"\x61\x27\x11" + after)
    address, receipt = client.deploy(call)
    return RunFile(
        chain_id=client.chain_id,
        contract=address,
        token=RunContract(client, address).token(),
        beacon=parameters.beacon,
        deploy_block=receipt.block_number,
        creation={"run": f"0x{receipt.transaction_hash.hex()}", **creation},
    )


def test_other_code_than_the_shipped_one_fails(chain: ChainProcess, deployed: tuple[RunFile, Parameters]) -> None:
    client = ChainClient(chain.url, RICH[8])
    half = deploy_by_hand(client, deployed[1], spoil=True)
    run_file = deploy_by_hand(client, deployed[1], swapped=True)
    client.close()
    found = failures(chain, half)
    assert list(found) == ["rules"]
    assert "is not RunRules's of this version" in found["rules"]
    found = failures(chain, run_file)
    assert "is not Run's of this version" in found["run"]
    assert "not created by the shipped constructor" in found["creation"]


def test_a_beacon_whose_constructor_planted_values_fails_though_its_code_is_the_shipped_one(
    chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    client = ChainClient(chain.url, RICH[8])
    code = load_runtime_code("PrevrandaoBeacon").code
    # SSTORE(0, 1); copy the genuine code, which follows these 16 bytes, and return it.
    head = bytes.fromhex(f"60015f5561{len(code):04x}60105f3961{len(code):04x}5ff3")
    assert len(head) == 16
    planting = dataclasses.replace(load_abi("PrevrandaoBeacon").bind_deployment(), data=head + code)
    beacon, receipt = client.deploy(planting)
    parameters = dataclasses.replace(deployed[1], beacon=beacon)
    run_file = deploy_by_hand(client, parameters, beacon=f"0x{receipt.transaction_hash.hex()}")
    client.close()
    found = failures(chain, run_file)
    assert list(found) == ["beacon"]
    assert "not created by the shipped constructor alone" in found["beacon"]


def test_a_beacon_of_somebodys_own_is_accepted_by_name_only_and_a_scripted_one_never(
    chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    client = ChainClient(chain.url, RICH[8])
    scripted = deploy_scripted_beacon(client, b"\5" * 32)
    run_file = deploy_by_hand(client, dataclasses.replace(deployed[1], beacon=scripted))
    # A contract that is no beacon at all passes the run's constructor: it only looks for code.
    dead = deploy_by_hand(client, dataclasses.replace(deployed[1], beacon=run_file.token))
    client.close()
    for accepted in (None, scripted):
        found = failures(chain, run_file, accepted_beacon=accepted)
        assert "every draw is known in advance" in found["beacon"]
    assert "whoever controls it chooses every draw" in failures(chain, dead)["beacon"]
    assert "does not answer as a beacon does" in failures(chain, dead, accepted_beacon=dead.beacon)["beacon"]


def test_the_command_ends_with_one_when_something_failed(
    tmp_path: Path, chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    for run_file, code in ((deployed[0], 0), (dataclasses.replace(deployed[0], deploy_block=Height(1)), 1)):
        path = tmp_path / f"{code}.json"
        run_file.write(path)
        command = [sys.executable, "-c", RUN_COMMAND, "network", "check", str(path), "--rpc", chain.url]
        done = subprocess.run(
            [*command, "--offline-data", "--json"], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == code, done.stderr
        table = json.loads(done.stdout)
        assert table["failed"] == code
        assert table["parameters"]["unit_bond"] == "0.0015 ETH"


ODD: dict[str, dict[str, Any]] = {
    "quorum": {"quorum": 1},
    "min_miners": {"min_miners": 1},
    "min_verifiers": {"min_verifiers": 2},
    "jury_target": {"jury_target": 1},
    "seal_blocks": {"seal_blocks": 4},
    "maturity_blocks": {"maturity_blocks": 10},
    "unavailable_fee": {"unavailable_fee": Wei(1)},
    "verifier_share_bps": {"verifier_share_bps": 0},
    "segments_per_verifier": {"segments_per_verifier": 10},
    "initial_reward": {"initial_reward": 0},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_parameter_is_pointed_out(deployed: tuple[RunFile, Parameters], name: str) -> None:
    usual = {oddity for oddity, _ in find_oddities(deployed[1], 12.0)}
    odd = {oddity for oddity, _ in find_oddities(dataclasses.replace(deployed[1], **ODD[name]), 12.0)}
    assert odd - usual == {name}


# The court


def test_a_court_is_read_back_and_one_that_stands_serves_another_run(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    run_file, parameters = deployed
    client = ChainClient(chain.url)
    parts = read_court(client, parameters.court)
    assert client.call(load_abi("Court").bind(parts.court, "longestDispute")) == (parts.clocks.longest_dispute,)
    client.close()
    launch = Launch(tmp_path, prepared_folder, RICH[10])
    text = launch.parameters.read_text()
    standing = f'[court]\naddress = "{parts.court}"\ntransaction = "{run_file.creation["court"]}"\n\n[reward]'
    launch.parameters.write_text(re.sub(r"(?s)\[court\].*?\[reward\]", standing, text))
    again = launch.deploy(chain.url)
    assert count_transactions(chain.url, launch.signer) == len(MEASURED_GAS) - len(COURT_GAS)
    assert again.creation["court"] == run_file.creation["court"]
    assert failures(chain, again) == {}
    # Its time does not fit, something else created it, or no court is there.
    wrongs = {
        'maturity = "36 h"': ('maturity = "9 h"', "maturity is .* less than the window"),
        f'"{run_file.creation["court"]}"': (f'"{run_file.creation["run"]}"', "did not create"),
        f'address = "{parts.court}"': (f'address = "{run_file.token}"', "does not answer as a court does"),
    }
    (tmp_path / "run" / "run.json").unlink()
    right = launch.parameters.read_text()
    for said, (instead, complaint) in wrongs.items():
        assert right.count(said) == 1
        launch.parameters.write_text(right.replace(said, instead))
        with pytest.raises(UsageError, match=complaint):
            launch.deploy(chain.url)


def spoil_code_of(address: str) -> Bend:
    """One bit of what is said to be there is another."""

    def spoil(method: str, params: Sequence[Any], result: Any) -> Any:
        is_it = method == "eth_getCode" and str(params[0]) == address
        return f"{result[:-1]}{int(result[-1], 16) ^ 1:x}" if is_it else result

    return spoil


def test_a_court_whose_constructor_planted_something_or_whose_code_is_another_fails(
    chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    run_file, parameters = deployed
    assert failures(chain, dataclasses.replace(run_file, creation={"run": run_file.creation["run"]})) == {}
    other = {**run_file.creation, "court": run_file.creation["run"]}
    found = failures(chain, dataclasses.replace(run_file, creation=other))
    assert list(found) == ["court_creation"]
    with FaultyRpc(chain.url) as proxy:
        proxy.bend = spoil_code_of(parameters.court)
        reader = ChainClient(proxy.url)
        failed = {check.name: check.what for check in inspect(reader, run_file, with_data=False).failed}
        problem = find_run_problem(reader, RunContract(reader, run_file.contract))
        reader.close()
    assert list(failed) == ["court"]
    assert "is not Court's of this version" in failed["court"]
    assert problem is not None
    assert "is not Court's of this version" in problem
    honest = ChainClient(chain.url)
    assert find_run_problem(honest, RunContract(honest, run_file.contract)) is None
    honest.close()


def test_a_node_sends_nothing_to_a_run_whose_court_is_another(
    tmp_path: Path, prepared_folder: Path, chain: ChainProcess, deployed: tuple[RunFile, Parameters]
) -> None:
    run_file, parameters = deployed
    launch = Launch(tmp_path, prepared_folder, RICH[11])
    run_file.write(tmp_path / "run.json")
    with FaultyRpc(chain.url) as proxy:
        proxy.bend = spoil_code_of(parameters.court)
        command = [
            sys.executable, "-m", "cupel.verifier.main", "--run", str(tmp_path / "run.json"), "--rpc", proxy.url,
            "--keystore", str(launch.keystore), "--password-file", str(launch.password),
            "--data", str(tmp_path / "verifier"),
        ]  # fmt: skip
        own = os.environ | {"XDG_DATA_HOME": str(tmp_path / "share")}
        ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 2, ended.stderr
    assert re.search(r"nothing was sent.*Court at 0x\w+: its code .* is not Court's of this version", ended.stderr)
    assert len(ended.stderr.strip().splitlines()) == 1
    assert count_transactions(chain.url, launch.signer) == 0


# Going on from another run's state


def test_a_state_to_begin_with_is_checked_against_its_root_and_the_models_shape(
    tmp_path: Path, prepared_folder: Path
) -> None:
    made = Prepared.read(prepared_folder, CONFIG)
    shutil.copytree(prepared_folder / "data", tmp_path / "data")
    text = f"{made.genesis}/0x{made.genesis_root.hex()}"
    again, _ = prepare(tmp_path, CONFIG, parse_from_state(text, ()), lambda line: None)
    assert (again.genesis_root, again.genesis, again.programs_root) == (
        made.genesis_root,
        made.genesis,
        made.programs_root,
    )
    assert again.manifest != made.manifest
    wrong = parse_from_state(f"{made.genesis}/{'11' * 32}", ())
    with pytest.raises(RootMismatch, match="the state to go on from"):
        prepare(tmp_path, CONFIG, wrong, lambda line: None)
    for spoilt in ("", text[:-2], made.genesis, f"x{text}"):
        with pytest.raises(UsageError, match="not CID/ROOT"):
            parse_from_state(spoilt, ())
