"""The client against a real chain in a process of its own: sending, waiting, and what refusals say."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chain_process import KEYS, PROBE_INIT, ChainProcess
from chain_worlds import open_chain

from cupel.chain import reading
from cupel.chain.abi import AbiFunction, Call, ContractAbi, load_abi
from cupel.chain.client import ChainClient, FeePolicy, Outbox
from cupel.chain.errors import (
    ChainUnreachable,
    ContractReverted,
    FeeAboveCap,
    ReceiptTimeout,
    TransactionRejected,
    WrongChain,
)
from cupel.chain.run_contract import TokenContract
from cupel.chain.run_values import ZERO_ADDRESS
from cupel.chain.sending import Sender
from cupel.chain.values import Receipt
from cupel.protocol.errors import MalformedInput, Unavailable, UsageError
from cupel.protocol.hashing import keccak256
from cupel.protocol.types import Address, Height

TOKEN = load_abi("Token")
PROBE = ContractAbi("Probe", (), PROBE_INIT)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainProcess]:
    with ChainProcess(tmp_path_factory.mktemp("chain")) as process:
        yield process


@pytest.fixture
def client(chain: ChainProcess) -> ChainClient:
    return ChainClient(chain.url, KEYS[0], chain_id=31337, poll_seconds=0.02)


@pytest.fixture(scope="module")
def token(chain: ChainProcess) -> TokenContract:
    """A token whose deployer, a plain key, may mint."""
    deployer = ChainClient(chain.url, KEYS[0], poll_seconds=0.02)
    address, receipt = deployer.deploy(TOKEN.bind_deployment("Test", "T"))
    assert deployer.has_code(address)
    assert receipt.cost_wei == receipt.gas_used * receipt.gas_price_wei > 0
    contract = TokenContract(deployer, address)
    contract.mint(KEYS[0].address, 1000)
    return contract


def bind_probe(address: Address, mode: int, data: bytes = b"") -> Call:
    return Call(to=address, data=bytes((mode,)) + data, function=AbiFunction("probe", (), (), "payable"), abi=PROBE)


def test_a_client_reads_and_sends(client: ChainClient, token: TokenContract) -> None:
    assert (token.name(), token.symbol(), token.decimals()) == ("Test", "T", 18)
    assert token.run() == KEYS[0].address
    before = token.balance_of(KEYS[1].address)
    receipt = token.transfer(KEYS[1].address, 10)
    assert isinstance(receipt, Receipt)
    assert receipt.logs[0].topics[0] == TOKEN.events["Transfer"].topic
    assert TOKEN.events["Transfer"].decode(receipt.logs[0]) == (KEYS[0].address, KEYS[1].address, 10)
    assert token.balance_of(KEYS[1].address) == before + 10
    assert token.balance_of(KEYS[1].address, at=Height(receipt.block_number - 1)) == before


def test_a_refusal_is_named_with_its_arguments_and_nothing_is_sent(chain: ChainProcess, token: TokenContract) -> None:
    other = TokenContract(ChainClient(chain.url, KEYS[2], poll_seconds=0.02), token.address)
    nonce = chain.ask("eth_getTransactionCount", KEYS[2].address, "pending")
    with pytest.raises(ContractReverted, match=r"Token\.mint reverted: NotTheRun\(caller=0x.*, run=0x.*\)$") as caught:
        other.mint(KEYS[2].address, 1)
    assert caught.value.error_name == "NotTheRun"
    assert caught.value.arguments == {"caller": KEYS[2].address, "run": KEYS[0].address}
    assert caught.value.transaction_hash is None
    assert chain.ask("eth_getTransactionCount", KEYS[2].address, "pending") == nonce


def test_a_refusal_in_a_block_is_named_too(client: ChainClient, token: TokenContract) -> None:
    call = token.bind("transfer", KEYS[1].address, 10**30)
    with pytest.raises(ContractReverted, match="ERC20InsufficientBalance") as caught:
        client.send(call, gas=100_000)  # a given limit skips the estimate
    assert caught.value.arguments["needed"] == 10**30
    assert caught.value.transaction_hash is not None


def test_running_out_of_gas_in_a_block_is_named(client: ChainClient) -> None:
    address, _ = client.deploy(PROBE.bind_deployment())
    with pytest.raises(ContractReverted) as caught:
        client.send(bind_probe(address, 3), gas=60_000)
    assert (caught.value.error_name, caught.value.arguments) == ("OutOfGas", {"gas": 60_000})


def test_a_views_revert_is_decoded_and_an_unknown_one_kept_as_bytes(client: ChainClient) -> None:
    address, _ = client.deploy(PROBE.bind_deployment())
    reason = bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + (2).to_bytes(32, "big") + b"no".ljust(32, b"\0")
    with pytest.raises(ContractReverted, match=r"Probe\.probe reverted: Error\(reason=no\)"):
        client.call(bind_probe(address, 1, reason))
    with pytest.raises(ContractReverted, match=r"Unknown\(data=0xdeadbeef\)"):
        client.call(bind_probe(address, 1, b"\xde\xad\xbe\xef"))


def test_asking_an_address_without_code_is_malformed(client: ChainClient) -> None:
    with pytest.raises(MalformedInput, match="balanceOf"):
        TokenContract(client, KEYS[3].address).balance_of(KEYS[0].address)


def test_arguments_that_do_not_fit_are_told_before_asking(token: TokenContract) -> None:
    with pytest.raises(ValueError, match=r"transfer\(address,uint256\): arguments do not fit"):
        token.transfer(KEYS[0].address, -1)


def test_pipelined_transactions_keep_their_order_and_fail_alone(client: ChainClient, token: TokenContract) -> None:
    amounts = [1, 2, 10**30, 4]
    outcomes = client.send_many([token.bind("transfer", KEYS[3].address, amount) for amount in amounts])
    receipts = [one for one in outcomes if isinstance(one, Receipt)]
    assert [TOKEN.events["Transfer"].decode(one.logs[0])[2] for one in receipts] == [1, 2, 4]
    refused = outcomes[2]
    assert isinstance(refused, ContractReverted)
    assert refused.error_name == "ERC20InsufficientBalance"
    places = [(one.block_number, one.logs[0].position) for one in receipts]
    assert places == sorted(places)


def test_a_later_pipelined_call_sees_what_earlier_ones_will_do(chain: ChainProcess, token: TokenContract) -> None:
    spender = ChainClient(chain.url, KEYS[0], poll_seconds=0.02)
    calls = [
        token.bind("approve", KEYS[0].address, 3),
        token.bind("transferFrom", KEYS[0].address, KEYS[4].address, 3),  # refused without the approval
    ]
    assert all(isinstance(one, Receipt) for one in spender.send_many(calls))


def test_threads_and_clients_of_one_key_never_share_a_nonce(chain: ChainProcess) -> None:
    clients = [ChainClient(chain.url, KEYS[4], poll_seconds=0.02) for _ in range(3)]
    with ThreadPoolExecutor(6) as threads:
        receipts = list(threads.map(lambda n: clients[n % 3].transfer(KEYS[5].address, n + 1), range(12)))
    assert len({one.transaction_hash for one in receipts}) == 12
    assert int(chain.ask("eth_getTransactionCount", KEYS[4].address, "latest"), 16) == 12


def test_a_foreign_use_of_the_key_costs_a_retry_not_a_failure(
    chain: ChainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, foreign = (ChainClient(chain.url, KEYS[3], poll_seconds=0.02, outbox=Outbox()) for _ in range(2))
    foreign.transfer(KEYS[5].address, 1)
    honest, lagging = Sender.choose_nonce, [0]
    monkeypatch.setattr(Sender, "choose_nonce", lambda sender: lagging.pop() if lagging else honest(sender))
    assert mine.transfer(KEYS[5].address, 2).gas_used == 21_000


def test_funds_that_do_not_suffice_are_told_in_the_nodes_words(chain: ChainProcess) -> None:
    poor = ChainClient(chain.url, KEYS[5])
    with pytest.raises(TransactionRejected, match="insufficient funds"):
        poor.transfer(KEYS[0].address, 10**30)


def test_fees_above_the_cap_are_not_paid(chain: ChainProcess) -> None:
    frugal = ChainClient(chain.url, KEYS[0], fees=FeePolicy(max_fee_wei=1, spike_patience_s=0))
    with pytest.raises(FeeAboveCap, match="your cap is 1"):
        frugal.transfer(KEYS[1].address, 1)


def test_waiting_ends_with_what_is_still_out(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=60) as chain:
        client = ChainClient(chain.url, KEYS[0], poll_seconds=0.02, receipt_timeout_s=0.2)
        with pytest.raises(ReceiptTimeout, match="has no receipt after") as caught:
            client.transfer(KEYS[1].address, 1)
        waiting = chain.ask("eth_getTransactionByHash", "0x" + caught.value.transaction_hash.hex())
        assert waiting["blockNumber"] is None
        with pytest.raises(Unavailable, match="waiting for 5"):
            client.wait_for_block(5, timeout_s=0.1)


def test_a_receipt_counts_only_as_deep_as_asked(chain: ChainProcess) -> None:
    patient = ChainClient(chain.url, KEYS[0], poll_seconds=0.02, receipt_depth=4)
    receipt = patient.transfer(KEYS[1].address, 1)
    assert patient.head().number >= receipt.block_number + 3


def test_blocks_are_waited_for(client: ChainClient) -> None:
    target = client.head().number + 2
    block = client.wait_for_block(target, timeout_s=10)
    assert block.number >= target
    stored = client.get_block(target)
    assert stored is not None
    assert (len(stored.hash), len(stored.beacon), stored.gas_limit) == (32, 32, 30_000_000)
    assert client.get_block(10**8) is None


def test_logs_come_whole_however_small_the_pieces(
    client: ChainClient, token: TokenContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.transfer(KEYS[1].address, 77)
    topics = [[TOKEN.events["Transfer"].topic], None, [bytes(12) + bytes.fromhex(KEYS[1].address[2:])]]
    whole = list(client.get_logs(address=token.address, topics=topics, first_block=0))
    assert whole
    assert TOKEN.events["Transfer"].decode(whole[-1])[2] == 77
    monkeypatch.setattr(reading, "LOG_RANGE_BLOCKS", 3)
    assert list(client.get_logs(address=token.address, topics=topics, first_block=0)) == whole


def test_a_restart_of_the_chain_costs_a_pause(tmp_path: Path) -> None:
    with ChainProcess(tmp_path / "chain", block_time_s=0.3) as chain:
        client = ChainClient(chain.url, KEYS[0], poll_seconds=0.02)
        sent = client.submit(load_abi("Token").bind_deployment("A", "B"))
        chain.kill()
        starting = threading.Thread(target=chain.start)
        starting.start()
        receipt = client.wait(sent)
        starting.join()
        assert receipt.contract is not None
        assert client.has_code(receipt.contract)


def test_a_silent_url_is_named_with_what_to_try() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ChainUnreachable, match=f"no chain answers at {url} .*cupel chain"):
        ChainClient(url, patience_s=0.1)
    for wrong in ("127.0.0.1:8545", "ftp://127.0.0.1", ""):
        with pytest.raises(UsageError, match="is not a JSON-RPC URL"):
            ChainClient(wrong)


def test_something_else_on_the_port_is_not_taken_for_a_chain(tmp_path: Path) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ChainUnreachable, match="no chain answers"):
            ChainClient(f"http://127.0.0.1:{server.server_port}", patience_s=0.1)
        server.shutdown()


def test_another_chain_is_refused(chain: ChainProcess) -> None:
    with pytest.raises(WrongChain, match="has id 31337, not 1: "):
        ChainClient(chain.url, chain_id=1)


def test_a_client_without_a_key_reads_only(chain: ChainProcess) -> None:
    reader = ChainClient(chain.url)
    assert reader.get_balance(KEYS[2].address) > 0
    with pytest.raises(UsageError, match="has no key"):
        reader.transfer(KEYS[0].address, 1)


@pytest.fixture(scope="module")
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainClient]:
    """A client of a second, independent implementation, under the same rules."""
    with open_chain("anvil", tmp_path_factory.mktemp("anvil")) as running:
        yield ChainClient(running.url, KEYS[0], poll_seconds=0.05)


@pytest.mark.node
def test_the_same_client_works_on_anvil(anvil: ChainClient) -> None:
    address, _ = anvil.deploy(TOKEN.bind_deployment("Test", "T"))
    token = TokenContract(anvil, address)
    outcomes = anvil.send_many([token.bind("mint", KEYS[1].address, amount) for amount in (5, 6)])
    assert all(isinstance(one, Receipt) for one in outcomes)
    assert token.balance_of(KEYS[1].address) == 11
    with pytest.raises(ContractReverted) as caught:
        token.transfer(KEYS[1].address, 1)
    assert caught.value.error_name == "ERC20InsufficientBalance"
    with pytest.raises(ContractReverted) as caught:
        anvil.send(token.bind("transfer", KEYS[1].address, 1), gas=100_000)
    assert caught.value.error_name == "ERC20InsufficientBalance"
    assert len(list(anvil.get_logs(address=address, first_block=0))) == 2
    height = anvil.head().number
    block = anvil.get_block(height)
    assert block is not None
    assert keccak256(anvil.get_header(height)) == block.hash


@pytest.mark.node
def test_transactions_cost_the_same_gas_as_on_anvil(anvil: ChainClient, client: ChainClient) -> None:
    assert measure_gas(client) == measure_gas(anvil)


def measure_gas(client: ChainClient) -> list[int]:
    """A deployment, a mint, and storage set and cleared, once with calldata long enough for the floor of EIP-7623."""
    _, deployed = client.deploy(TOKEN.bind_deployment("Test", "T"))
    minted = TokenContract(client, deployed.contract or ZERO_ADDRESS).mint(KEYS[1].address, 5)
    probe, _ = client.deploy(PROBE.bind_deployment())
    one, zero, long = b"\1" * 64, bytes(64), b"\1" * 2000
    stored = [client.send(bind_probe(probe, 0, data)) for data in (one, one, zero, one, zero + long, one + long)]
    return [receipt.gas_used for receipt in (deployed, minted, *stored)]
