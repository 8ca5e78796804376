"""The embedded chain as a process: blocks, persistence, JSON-RPC. Everything over HTTP, as any client sees it."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH, KEYS, PROBE_INIT, ChainProcess, make_transfer
from eth_abi.abi import encode
from eth_hash.auto import keccak
from web3 import Web3
from web3.exceptions import ContractLogicError

from cupel.chain.node.chain import EmbeddedChain
from cupel.chain.node.execution import CallRequest, compute_beacon, make_block, make_next_header
from cupel.chain.node.store import StoredLog


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    """Shared by tests that each use a key of their own: 0 and 1 fees and pool, 2 the probe, 3 replacement, 4 none."""
    with ChainProcess(tmp_path_factory.mktemp("chain")) as process:
        yield process


@pytest.fixture(scope="module")
def probe(chain: ChainProcess) -> str:
    """Address of the contract `PROBE_INIT` makes, after two logs of values 7 and 8."""
    raw = make_transfer(KEYS[2], 0, to="", data=PROBE_INIT, gas=300_000, value_wei=0)
    receipt = wait_for_receipt(chain, chain.ask("eth_sendRawTransaction", raw))
    assert receipt["status"] == "0x1"
    address = str(receipt["contractAddress"])
    for nonce, value in ((1, 7), (2, 8)):
        data = b"\0" + value.to_bytes(32, "big") + (value + 100).to_bytes(32, "big")
        raw = make_transfer(KEYS[2], nonce, to=address, data=data, gas=100_000, value_wei=0)
        receipt = wait_for_receipt(chain, chain.ask("eth_sendRawTransaction", raw))
        assert receipt["status"] == "0x1"
    return address


def wait_for_receipt(chain: ChainProcess, transaction_hash: str, timeout_s: float = 10) -> Any:
    deadline = time.monotonic() + timeout_s
    while (receipt := chain.ask("eth_getTransactionReceipt", transaction_hash)) is None:
        assert time.monotonic() < deadline, "no receipt"
        time.sleep(0.02)
    return receipt


def wait_for_height(chain: ChainProcess, height: int) -> None:
    deadline = time.monotonic() + 15
    while chain.get_height() < height:
        assert time.monotonic() < deadline, "no blocks"
        time.sleep(0.02)


def word(value: int) -> str:
    return f"0x{value:064x}"


# Blocks


def test_blocks_come_by_the_clock_and_their_headers_chain(chain: ChainProcess) -> None:
    wait_for_height(chain, 3)
    blocks = [chain.ask("eth_getBlockByNumber", hex(number), False) for number in range(4)]
    for parent, block in itertools.pairwise(blocks):
        assert block["parentHash"] == parent["hash"]
        assert int(block["timestamp"], 16) > int(parent["timestamp"], 16)
        beacon = compute_beacon(bytes.fromhex(parent["mixHash"][2:]), bytes.fromhex(parent["hash"][2:]))
        assert block["mixHash"] == "0x" + beacon.hex()
        assert block["gasLimit"] == hex(30_000_000)
        assert block["difficulty"] == "0x0"
    assert chain.ask("eth_getBlockByHash", blocks[2]["hash"], False) == blocks[2]


def test_a_blocks_hash_is_the_keccak_of_its_header_as_every_client_encodes_it(chain: ChainProcess) -> None:
    import rlp

    block = chain.ask("eth_getBlockByNumber", "0x1", False)
    names = [
        "parentHash",
        "sha3Uncles",
        "miner",
        "stateRoot",
        "transactionsRoot",
        "receiptsRoot",
        "logsBloom",
        "difficulty",
        "number",
        "gasLimit",
        "gasUsed",
        "timestamp",
        "extraData",
        "mixHash",
        "nonce",
        "baseFeePerGas",
        "withdrawalsRoot",
        "blobGasUsed",
        "excessBlobGas",
        "parentBeaconBlockRoot",
        "requestsHash",
    ]
    quantities = {"difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas"}
    quantities |= {"blobGasUsed", "excessBlobGas"}
    fields = []
    for name in names:
        text = block[name][2:]
        number = int(text or "0", 16)
        fields.append(
            number.to_bytes((number.bit_length() + 7) // 8, "big") if name in quantities else bytes.fromhex(text)
        )
    assert "0x" + keccak(rlp.encode(fields)).hex() == block["hash"]


def test_the_base_fee_follows_eip_1559(chain: ChainProcess) -> None:
    wait_for_height(chain, 5)
    fees = [int(chain.ask("eth_getBlockByNumber", hex(number), False)["baseFeePerGas"], 16) for number in range(5)]
    assert fees[0] == 10**9
    assert all(after == before - before // 8 for before, after in itertools.pairwise(fees[:3]))


def test_tags_name_blocks(chain: ChainProcess) -> None:
    assert chain.ask("eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    before = chain.get_height()
    for tag in ("latest", "safe", "finalized"):
        assert int(chain.ask("eth_getBlockByNumber", tag, False)["number"], 16) >= before
    pending = chain.ask("eth_getBlockByNumber", "pending", False)
    assert pending["hash"] is None
    assert int(pending["number"], 16) >= before + 1
    assert chain.ask("eth_getBlockByNumber", hex(10**9), False) is None
    assert "header not found" in chain.refuse("eth_getBalance", KEYS[0].address, hex(10**9))["message"]


# Persistence


def test_blocks_state_and_waiting_transactions_survive_kill_9(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=0.2) as chain:
        sent = [chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], nonce, value_wei=5)) for nonce in range(3)]
        wait_for_receipt(chain, sent[2])
        gapped = chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], 4, value_wei=7))
        head = chain.ask("eth_getBlockByNumber", "latest", True)
        chain.kill()
        chain.start()
        assert chain.ask("eth_getBlockByHash", head["hash"], True) == head
        assert wait_for_receipt(chain, sent[2])["status"] == "0x1"
        assert chain.ask("eth_getTransactionByHash", gapped)["blockNumber"] is None
        filled = chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], 3, value_wei=11))
        wait_for_receipt(chain, filled)
        wait_for_receipt(chain, gapped)
        assert int(chain.ask("eth_getBalance", KEYS[1].address, "latest"), 16) == 1000 * ETH + 3 * 5 + 11 + 7


@pytest.mark.parametrize("moment_s", [0.0, 0.011])
def test_a_kill_while_blocks_are_written_leaves_whole_blocks(tmp_path: Path, moment_s: float) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=0.02) as chain:
        nonce = checked = counted = 0
        for _ in range(3):
            for _ in range(20):
                chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], nonce))
                nonce += 1
            time.sleep(moment_s)
            announced = chain.get_height()
            chain.kill()
            chain.start()
            assert chain.get_height() >= announced, "an announced block is gone"
            head = chain.get_height()
            included = 0
            for number in range(checked, head + 1):
                block = chain.ask("eth_getBlockByNumber", hex(number), True)
                receipts = chain.ask("eth_getBlockReceipts", hex(number))
                assert [one["transactionHash"] for one in receipts] == [one["hash"] for one in block["transactions"]]
                included += len(receipts)
            checked, counted = head + 1, counted + included
            assert int(chain.ask("eth_getTransactionCount", KEYS[0].address, hex(head)), 16) == counted
            # What waited still waits, or is in by now.
            assert int(chain.ask("eth_getTransactionCount", KEYS[0].address, "pending"), 16) == nonce


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain") as chain:
        second = run_cli("chain", "--data", str(tmp_path / "chain"), "--port", "0")
        assert second.returncode == 2
        assert "another chain process (pid" in second.stderr
        assert chain.get_height() >= 0
        assert chain.stop() == 0
        chain.start()  # and after its end the directory is free


def test_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain") as chain:
        wait_for_height(chain, 1)
        assert chain.stop() == 0
    assert not list((tmp_path / "chain").glob("*-wal")), "closed in order: nothing is left to recover"


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'cupel'; from cupel.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--fund", "0x1234=1"), "expected ADDRESS=ETH"),
        (("--fund", f"{KEYS[0].address}=lots"), "is not an amount of ETH"),
        (("--fund", f"{KEYS[0].address}=0.0000000000000000001"), "at most 18 decimals"),
        (("--fund", f"{KEYS[0].address.swapcase().replace('0X', '0x')}=1"), "checksum is wrong"),
        (("--block-time", "0"), "must be from 0.01 to 3600 seconds"),
        (("--port", "70000"), "must be from 0 to 65535"),
        (("--chain-id", "0"), "must be from 1"),
    ],
)
def test_bad_settings_are_explained(tmp_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = run_cli("chain", "--data", str(tmp_path / "chain"), "--port", "0", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_explained(chain: ChainProcess, tmp_path: Path) -> None:
    done = run_cli("chain", "--data", str(tmp_path / "chain"), "--port", chain.url.rpartition(":")[2])
    assert done.returncode == 2
    assert "is another chain running? choose another with --port" in done.stderr


def test_genesis_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    directory = str(tmp_path / "chain")
    with ChainProcess(tmp_path / "chain") as chain:
        assert chain.stop() == 0
        other = run_cli("chain", "--data", directory, "--port", "0", "--chain-id", "5")
        assert (other.returncode, "has id 31337, not 5" in other.stderr) == (2, True)
        other = run_cli("chain", "--data", directory, "--port", "0", "--fund", f"{KEYS[5].address}=1")
        assert (other.returncode, "funds are fixed when a chain begins" in other.stderr) == (2, True)
        chain.start(fund=())
        assert int(chain.ask("eth_getBalance", KEYS[0].address, "earliest"), 16) == 1000 * ETH


def test_a_file_that_is_no_chain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite3").write_bytes(b"not a database at all, but long enough to be looked at as one" * 20)
    done = run_cli("chain", "--data", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert "is not a chain this program can read" in done.stderr


# Transactions


def test_nonce_gaps_wait_until_they_close(chain: ChainProcess) -> None:
    key = KEYS[1]
    later = [chain.ask("eth_sendRawTransaction", make_transfer(key, nonce, to=KEYS[0].address)) for nonce in (2, 1)]
    height = chain.get_height()
    wait_for_height(chain, height + 2)
    assert [chain.ask("eth_getTransactionReceipt", one) for one in later] == [None, None]
    assert chain.ask("cupel_status")["queued"] == 2
    assert chain.ask("eth_getTransactionCount", key.address, "pending") == "0x0"
    chain.ask("eth_sendRawTransaction", make_transfer(key, 0, to=KEYS[0].address))
    first = [wait_for_receipt(chain, one) for one in later]
    assert chain.ask("eth_getTransactionCount", key.address, "latest") == "0x3"
    assert first[1]["blockNumber"] <= first[0]["blockNumber"]


def test_unaffordable_transactions_are_refused(chain: ChainProcess) -> None:
    error = chain.refuse("eth_sendRawTransaction", make_transfer(KEYS[5], 0))
    assert error["code"] == -32000
    assert error["message"].startswith("insufficient funds for gas * price + value")


def test_a_replacement_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=1.0) as chain:
        first = chain.ask("eth_sendRawTransaction", make_transfer(KEYS[3], 0, value_wei=1))
        low = chain.refuse("eth_sendRawTransaction", make_transfer(KEYS[3], 0, value_wei=2))
        assert "replacement transaction underpriced" in low["message"]
        raw = make_transfer(KEYS[3], 0, value_wei=3, maxFeePerGas=2 * 10**10, maxPriorityFeePerGas=2)
        second = chain.ask("eth_sendRawTransaction", raw)
        assert chain.refuse("eth_sendRawTransaction", raw)["message"] == "already known"
        assert wait_for_receipt(chain, second)["status"] == "0x1"
        assert chain.ask("eth_getTransactionByHash", first) is None
        assert "nonce too low" in chain.refuse("eth_sendRawTransaction", make_transfer(KEYS[3], 0))["message"]


def test_pending_state_counts_what_waits(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=30) as chain:
        sent = chain.ask("eth_sendRawTransaction", make_transfer(KEYS[0], 0, value_wei=9))
        assert int(chain.ask("eth_getBalance", KEYS[1].address, "pending"), 16) == 1000 * ETH + 9
        assert int(chain.ask("eth_getBalance", KEYS[1].address, "latest"), 16) == 1000 * ETH
        assert chain.ask("eth_getTransactionCount", KEYS[0].address, "pending") == "0x1"
        assert chain.ask("eth_getBlockByNumber", "pending", False)["transactions"] == [sent]
        assert chain.get_height() == 0


# Execution


def test_calls_see_the_block_they_are_asked_about(chain: ChainProcess, probe: str) -> None:
    height = chain.get_height() - 1
    answer = bytes.fromhex(chain.ask("eth_call", {"to": probe, "data": "0x02"}, hex(height))[2:])
    beacon, number, base_fee, parent, chain_id, price = (answer[at : at + 32] for at in range(0, 192, 32))
    block = chain.ask("eth_getBlockByNumber", hex(height), False)
    assert "0x" + beacon.hex() == block["mixHash"]
    assert int.from_bytes(number, "big") == height
    assert "0x" + parent.hex() == block["parentHash"]
    assert int.from_bytes(chain_id, "big") == 31337
    assert (base_fee, price) == (bytes(32), bytes(32))  # free gas was asked for
    priced = {"to": probe, "data": "0x02", "from": KEYS[0].address, "gasPrice": hex(10**10), "gas": hex(100_000)}
    answer = bytes.fromhex(chain.ask("eth_call", priced, hex(height))[2:])
    assert answer[64:96] == int(block["baseFeePerGas"], 16).to_bytes(32, "big")
    assert answer[160:192] == (10**10).to_bytes(32, "big")


def test_old_states_stay_readable(chain: ChainProcess, probe: str) -> None:
    logs = chain.ask("eth_getLogs", {"address": probe, "fromBlock": "earliest", "toBlock": "latest"})
    first, second = (log["blockNumber"] for log in logs)
    assert chain.ask("eth_getStorageAt", probe, "0x0", first) in (word(7), word(8))
    assert chain.ask("eth_getStorageAt", probe, "0x0", hex(int(first, 16) - 1)) == word(0)
    assert chain.ask("eth_getStorageAt", probe, "0x0", second) == word(8)
    assert chain.ask("eth_getCode", probe, "earliest") == "0x"
    assert len(chain.ask("eth_getCode", probe, "latest")) > 2


@pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"", "execution reverted"),
        (b"\xde\xad\xbe\xef", "execution reverted"),
        (keccak(b"Error(string)")[:4] + encode(["string"], ["not yours"]), "execution reverted: not yours"),
        (
            keccak(b"Panic(uint256)")[:4] + encode(["uint256"], [0x11]),
            "execution reverted: arithmetic underflow or overflow",
        ),
        (keccak(b"Error(string)")[:4] + encode(["uint256", "uint256"], [32, 2**200]), "execution reverted: "),
    ],
)
def test_a_revert_is_told_with_its_data(
    chain: ChainProcess, probe: str, method: str, output: bytes, message: str
) -> None:
    error = chain.refuse(method, {"to": probe, "data": "0x01" + output.hex()})
    assert error == {"code": 3, "message": message, "data": "0x" + output.hex()}


def test_running_out_of_gas_is_an_error_without_data(chain: ChainProcess, probe: str) -> None:
    error = chain.refuse("eth_call", {"to": probe, "data": "0x03", "gas": hex(100_000)})
    assert (error["code"], "data" in error) == (-32000, False)
    assert error["message"].startswith("out of gas")
    error = chain.refuse("eth_estimateGas", {"to": probe, "data": "0x03", "gas": hex(100_000)})
    assert error["message"] == "gas required exceeds allowance (100000)"


def test_an_estimate_suffices_and_is_close(chain: ChainProcess, probe: str) -> None:
    data = "0x00" + "11" * 64
    request = {"from": KEYS[0].address, "to": probe, "data": data}
    estimate = int(chain.ask("eth_estimateGas", request), 16)
    assert chain.ask("eth_call", request | {"gas": hex(estimate)}) == "0x"
    assert "error" in chain.ask_raw("eth_call", request | {"gas": hex(int(estimate * 0.97))})
    assert chain.ask("eth_estimateGas", {"from": KEYS[0].address, "to": KEYS[5].address, "value": "0x1"}) == "0x5208"
    too_dear = {"from": KEYS[5].address, "to": KEYS[0].address, "value": "0x1"}
    assert "insufficient funds" in chain.refuse("eth_estimateGas", too_dear)["message"]


# Logs and fees


def test_logs_are_found_by_address_topic_and_range(chain: ChainProcess, probe: str) -> None:
    everything = {"fromBlock": "0x0", "toBlock": "latest"}
    caller = "0x" + KEYS[2].address[2:].lower().rjust(64, "0")
    both = chain.ask("eth_getLogs", everything | {"address": probe})
    assert [log["topics"] for log in both] == [[word(7), caller], [word(8), caller]]
    assert [log["data"] for log in both] == [word(107), word(108)]
    assert chain.ask("eth_getLogs", everything | {"address": [probe, KEYS[0].address]}) == both
    assert chain.ask("eth_getLogs", everything | {"topics": [None, caller]}) == both
    assert chain.ask("eth_getLogs", everything | {"topics": [[word(8), word(9)]]}) == both[1:]
    assert chain.ask("eth_getLogs", everything | {"topics": [word(8), word(1)]}) == []
    assert chain.ask("eth_getLogs", everything | {"topics": [None, None, None]}) == []
    assert chain.ask("eth_getLogs", everything | {"address": KEYS[0].address}) == []
    assert chain.ask("eth_getLogs", {"blockHash": both[0]["blockHash"], "address": probe})[0] == both[0]
    at = both[1]["blockNumber"]
    assert chain.ask("eth_getLogs", {"address": probe, "fromBlock": at, "toBlock": at})[-1] == both[1]
    receipt = chain.ask("eth_getTransactionReceipt", both[0]["transactionHash"])
    assert receipt["logs"] == both[:1]
    bits = int(receipt["logsBloom"], 16)
    digest = keccak(bytes.fromhex(probe[2:]))
    for pair in (digest[0:2], digest[2:4], digest[4:6]):
        assert bits >> (int.from_bytes(pair, "big") & 2047) & 1


def test_fee_history_tells_what_blocks_cost_and_what_was_paid(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain") as chain:
        tips = {0: 5, 1: 50, 2: 500}
        sent = [
            chain.ask(
                "eth_sendRawTransaction", make_transfer(KEYS[key], 0, to=KEYS[5].address, maxPriorityFeePerGas=tip)
            )
            for key, tip in tips.items()
        ]
        receipts = [wait_for_receipt(chain, one) for one in sent]
        newest = max(int(receipt["blockNumber"], 16) for receipt in receipts)
        history = chain.ask("eth_feeHistory", hex(newest + 1), hex(newest), [0, 50, 100])
        assert int(history["oldestBlock"], 16) == 0
        assert len(history["baseFeePerGas"]) == newest + 2
        paid = {reward for rewards in history["reward"] for reward in rewards} - {"0x0"}
        assert {hex(5), hex(500)} <= paid <= {hex(5), hex(50), hex(500)}
        used = sum(round(ratio * 30_000_000) for ratio in history["gasUsedRatio"])
        assert used == 3 * 21_000
        assert chain.refuse("eth_feeHistory", "0x1", "latest", [50, 10])["code"] == -32602
        blocks = chain.ask("eth_feeHistory", 2, "latest", [])
        assert "reward" not in blocks


# JSON-RPC


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[" * 200_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_mine"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0x12"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{"a":1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBlockByNumber","params":["12", false]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"to":"0x12"}]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"blobs":[]}]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getLogs","params":[{"fromBlock":"0x5","toBlock":"0x1"}]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x00"]}', -32000),
    ],
)
def test_bad_requests_get_json_rpcs_own_codes(chain: ChainProcess, body: bytes, code: int) -> None:
    answer = chain.post(body).json()
    assert answer["error"]["code"] == code
    assert answer["jsonrpc"] == "2.0"


def test_batches_are_answered_in_order_without_notifications(chain: ChainProcess) -> None:
    batch: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "id": 7, "method": "nothing"},
    ]
    answers = chain.post(json.dumps(batch).encode()).json()
    assert [answer["id"] for answer in answers] == ["a", 7]
    assert answers[0]["result"] == hex(31337)
    assert answers[1]["error"]["code"] == -32601


def test_a_web_page_of_another_name_cannot_reach_the_chain(chain: ChainProcess) -> None:
    request = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}'
    assert chain.post(request, Host="evil.example").status_code == 403
    assert chain.post(request, Host="localhost").status_code == 200
    assert chain.post(request, **{"Content-Type": "text/plain"}).status_code == 415


def test_web3_finds_everything_it_expects(chain: ChainProcess, probe: str) -> None:
    web3 = Web3(Web3.HTTPProvider(chain.url))
    assert web3.is_connected()
    assert web3.eth.chain_id == 31337
    assert web3.net.version == "31337"
    assert web3.eth.syncing is False
    assert list(web3.eth.accounts) == []
    assert web3.client_version.startswith("cupel/")
    assert web3.eth.max_priority_fee < web3.eth.gas_price
    full = web3.eth.get_block("latest", full_transactions=True)
    assert web3.eth.get_block(full["hash"])["number"] == full["number"]
    logs = web3.eth.get_logs({"address": Web3.to_checksum_address(probe), "fromBlock": 0})
    transaction = web3.eth.get_transaction(logs[0]["transactionHash"])
    assert transaction["from"] == KEYS[2].address
    assert web3.eth.get_block_receipts(transaction["blockNumber"])[0]["blockHash"] == transaction["blockHash"]
    reason = keccak(b"Error(string)")[:4] + encode(["string"], ["not yours"])
    call = {"to": Web3.to_checksum_address(probe), "data": "0x01" + reason.hex()}
    with pytest.raises(ContractLogicError, match="not yours"):
        web3.eth.call(call)
    history = web3.eth.fee_history(2, "latest", [50.0])
    assert len(history["baseFeePerGas"]) == 3


# Within the process


def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    chain = EmbeddedChain.create_or_open(tmp_path, chain_id=None, balances={}, timestamp=1)
    genesis = chain.head
    header = make_next_header(genesis, 2)
    log = StoredLog(
        block_number=1, position=0, transaction_hash=b"t", transaction_position=0, address=b"a", topics=(), data=b""
    )
    spoilt = make_block(header, [], [log, log], {b"node": b"value"})  # two logs in one place
    with pytest.raises(sqlite3.IntegrityError):
        chain.store.commit(spoilt)
    assert chain.store.get_head() == genesis
    with pytest.raises(KeyError):
        chain.store.get_node(b"node")
    chain.store.commit(make_block(header, [], [log], {b"node": b"value"}))
    head = chain.store.get_head()
    assert head is not None
    assert (head.number, chain.store.get_node(b"node")) == (1, b"value")
    chain.close()


def test_an_answer_is_remembered_only_while_its_state_is_the_head(tmp_path: Path) -> None:
    chain = EmbeddedChain.create_or_open(
        tmp_path, chain_id=None, balances={bytes.fromhex(KEYS[0].address[2:]): ETH}, timestamp=1
    )
    chain.submit(bytes.fromhex(make_transfer(KEYS[0], 0, to="", data=PROBE_INIT, gas=300_000, value_wei=0)[2:]))
    block = asyncio.run(chain.produce(2))
    probe = chain.store.get_transactions(block.number)[0].created
    assert probe is not None
    ask = CallRequest(to=probe, data=b"\2")
    first = chain.call(chain.get_head_view(), ask)
    assert chain.call(chain.get_head_view(), ask) is first, "remembered"
    asyncio.run(chain.produce(3))
    second = chain.call(chain.get_head_view(), ask)
    assert int.from_bytes(second[32:64], "big") == int.from_bytes(first[32:64], "big") + 1
    chain.close()


def test_a_transaction_that_can_no_longer_run_leaves_the_pool(tmp_path: Path) -> None:
    """Affordable when it came, not any more when its turn comes: dropped, and the block goes on."""
    chain = EmbeddedChain.create_or_open(
        tmp_path, chain_id=None, balances={bytes.fromhex(KEYS[0].address[2:]): 10**15}, timestamp=1
    )
    gas_wei = 21_000 * 10**10
    chain.submit(bytes.fromhex(make_transfer(KEYS[0], 0, value_wei=10**15 - 2 * gas_wei)[2:]))
    poor = bytes.fromhex(make_transfer(KEYS[0], 1, value_wei=0)[2:])
    chain.submit(poor)
    # The first one is replaced by one that leaves too little for the second.
    raw = make_transfer(
        KEYS[0], 0, value_wei=10**15 - 2 * 2 * gas_wei // 2, maxFeePerGas=2 * 10**10, maxPriorityFeePerGas=10**10
    )
    chain.submit(bytes.fromhex(raw[2:]))
    block = asyncio.run(chain.produce(2))
    assert len(chain.store.get_transactions(block.number)) == 1
    assert len(chain.pool) == 0
    chain.close()
