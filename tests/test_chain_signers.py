"""A key behind a remote signer does what a local one does, and nothing it returns is taken on trust."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_process import ETH, KEYS, ChainProcess
from coincurve import PublicKey
from eth_account.messages import _hash_eip191_message, encode_typed_data
from signer_process import SignerServer

from cupel.chain.client import ChainClient, Outbox
from cupel.chain.errors import SignerRefused, SignerSilent
from cupel.chain.keys import LocalSigner, Signer
from cupel.chain.signers import _SECRETS, RemoteSigner
from cupel.protocol.errors import UsageError

KEY = KEYS[0]
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1."""
FIELDS: dict[str, Any] = {
    "type": 2, "chainId": 31337, "nonce": 3, "to": KEYS[1].address, "value": 10**19, "gas": 60_000,
    "maxFeePerGas": 2 * 10**18, "maxPriorityFeePerGas": 7, "data": b"\x01\x02\x00",
}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "domain": {"name": "Cupel", "version": "1", "chainId": 31337, "verifyingContract": KEYS[2].address},
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"}, {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"},
        ],
        "Request": [
            {"name": "root", "type": "bytes32"}, {"name": "large", "type": "uint256"},
            {"name": "list", "type": "uint64[]"},
        ],
    },
    "primaryType": "Request",
    "message": {"root": b"\7" * 32, "large": 2**200 + 1, "list": [1, 2**60]},
}  # fmt: skip


@pytest.fixture(params=["eth", "clef"])
def server(request: pytest.FixtureRequest) -> Iterator[SignerServer]:
    with SignerServer(KEY, request.param) as running:
        yield running


def connect(server: SignerServer, **settings: Any) -> RemoteSigner:
    return RemoteSigner(server.url, **({"dialect": server._dialect, "address": KEY.address} | settings))


def test_it_signs_as_the_key_itself_does(server: SignerServer) -> None:
    remote: Signer = connect(server)
    assert remote.address == KEY.address
    assert remote.sign_transaction(FIELDS) == KEY.sign_transaction(FIELDS)
    creation = {name: value for name, value in FIELDS.items() if name != "to"}
    assert remote.sign_transaction(creation) == KEY.sign_transaction(creation)
    assert remote.sign_typed_data(MESSAGE) == KEY.sign_typed_data(MESSAGE)


def test_a_recovery_bit_counted_from_zero_is_understood(server: SignerServer) -> None:
    def from_zero(method: str, result: Any) -> Any:
        return result[:-2] + f"{int(result[-2:], 16) - 27:02x}" if method.endswith("signTypedData") else result

    server.spoil = from_zero
    assert connect(server).sign_typed_data(MESSAGE) == KEY.sign_typed_data(MESSAGE)


@pytest.mark.parametrize(
    "change",
    [{"to": KEYS[3].address}, {"value": 10**19 + 1}, {"nonce": 4}, {"data": b""}, {"maxFeePerGas": 3 * 10**18},
     {"gas": 60_001}, {"chainId": 1}, {"accessList": [{"address": KEYS[1].address, "storageKeys": []}]}],
)  # fmt: skip
def test_another_transaction_than_asked_for_is_not_used(server: SignerServer, change: dict[str, Any]) -> None:
    remote = connect(server)
    server.change_fields = change
    with pytest.raises(SignerRefused, match="returned another transaction than it was asked to sign"):
        remote.sign_transaction(FIELDS)


def test_another_keys_signature_is_not_used(server: SignerServer) -> None:
    remote = connect(server)
    with SignerServer(KEYS[1], server._dialect) as other:
        other.accounts = server.accounts
        asked = {name: hex(value) if isinstance(value, int) else value for name, value in FIELDS.items()}
        params = {"signTransaction": [asked | {"data": "0x010200"}], "signTypedData": [KEY.address, MESSAGE]}
        server.spoil = lambda method, result: other._answer(
            {"method": method, "id": 1, "params": params[method.rpartition("_")[2]]}
        )["result"]
        with pytest.raises(SignerRefused, match="another transaction"):
            remote.sign_transaction(FIELDS)
        with pytest.raises(SignerRefused, match=f"a signature that is not {KEY.address}'s"):
            remote.sign_typed_data(MESSAGE)


@pytest.mark.parametrize("answer", [None, 7, "0x", "zz", "0x" + "11" * 65, "0x" + "ff" * 65, {"raw": None}, []])
def test_what_is_no_signature_is_not_used(server: SignerServer, answer: Any) -> None:
    remote = connect(server)
    server.spoil = lambda method, result: answer
    with pytest.raises((SignerRefused, SignerSilent)):
        remote.sign_transaction(FIELDS)
    with pytest.raises((SignerRefused, SignerSilent)):
        remote.sign_typed_data(MESSAGE)


def test_a_malleated_signature_is_not_used(server: SignerServer) -> None:
    """The same signature with the other s: valid to some, refused on chain."""
    remote = connect(server)

    def malleate(method: str, result: Any) -> Any:
        signature = bytes.fromhex(result[2:])
        other = (ORDER - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
        return f"0x{(signature[:32] + other + bytes((55 - signature[64],))).hex()}"

    server.spoil = malleate
    with pytest.raises(SignerRefused):
        remote.sign_typed_data(MESSAGE)


def test_a_refusal_is_told_in_the_signers_words(server: SignerServer) -> None:
    remote = connect(server)
    server.refusal = "request denied by the user"
    with pytest.raises(SignerRefused, match=rf"{server.url} refuses \w+_signTransaction: 'request denied by the user'"):
        remote.sign_transaction(FIELDS)


def test_a_signer_that_hangs_is_given_up_on(server: SignerServer) -> None:
    remote = connect(server)
    remote._timeout_s, server.delay_s = 0.1, 1.0
    with pytest.raises(SignerSilent, match=r"does not answer \(no answer in .*\): is it running"):
        remote.sign_transaction(FIELDS)


def test_secrets_come_back_after_a_restart_and_differ_by_label_and_key(server: SignerServer) -> None:
    first, again = connect(server), connect(server)
    assert first.derive_secret(b"a") == again.derive_secret(b"a")
    assert first.derive_secret(b"a") != first.derive_secret(b"b")
    assert len(first.derive_secret(b"a")) == 32
    with SignerServer(KEYS[1], server._dialect) as other:
        remote = RemoteSigner(other.url, dialect=server._dialect)  # type: ignore[arg-type]  # a str there
        assert remote.derive_secret(b"a") != first.derive_secret(b"a")


def test_a_signer_whose_signatures_differ_each_time_is_refused(server: SignerServer) -> None:
    digest = int.from_bytes(_hash_eip191_message(encode_typed_data(full_message=dict(_SECRETS))), "big")
    secret, nonces = int.from_bytes(KEY.export_key(), "big"), iter(range(1000, 2000))

    def sign_differently(method: str, result: Any) -> Any:
        """A valid signature, with a nonce of its own."""
        if not method.endswith("signTypedData"):
            return result
        nonce = next(nonces)
        x, y = PublicKey.from_secret(nonce.to_bytes(32, "big")).point()
        s = pow(nonce, -1, ORDER) * (digest + x * secret) % ORDER
        bit = y & 1
        if s > ORDER // 2:
            s, bit = ORDER - s, bit ^ 1
        return f"0x{x:064x}{s:064x}{27 + bit:02x}"

    server.spoil = sign_differently
    with pytest.raises(UsageError, match="signs the same message differently each time"):
        connect(server)


def test_which_keys_there_are_is_told(server: SignerServer) -> None:
    assert RemoteSigner(server.url, dialect=server._dialect).address == KEY.address  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"has {KEY.address}: {KEYS[1].address} is not among them"):
        connect(server, address=KEYS[1].address)
    server.accounts = [KEY.address, KEYS[1].address]
    with pytest.raises(UsageError, match="name one of them with --address"):
        connect(server, address=None)
    server.accounts = []
    with pytest.raises(UsageError, match="has no keys"):
        connect(server)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://192.0.2.1:9000", "use https"),
        ("127.0.0.1:9000", "is not a JSON-RPC URL"),
        ("", "is not a JSON-RPC URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_asking(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RemoteSigner(url, KEY.address)


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(UsageError, match="a signer speaks eth or clef, not 'ssh'"):
        RemoteSigner("http://127.0.0.1:1", dialect="ssh")  # type: ignore[arg-type]


def test_a_signer_in_a_process_of_its_own_sends_transactions(tmp_path: Path) -> None:
    key = LocalSigner(os.urandom(32))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "signer_process.py"), key.export_key().hex()],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        remote = RemoteSigner(process.stdout.readline().strip(), key.address)
        with ChainProcess(tmp_path) as chain:
            ChainClient(chain.url, KEYS[0], poll_seconds=0.02).transfer(key.address, ETH)
            client = ChainClient(chain.url, remote, poll_seconds=0.02, outbox=Outbox())
            receipt = client.transfer(KEYS[1].address, 5)
            found = chain.ask("eth_getTransactionByHash", f"0x{receipt.transaction_hash.hex()}")
            assert found["from"].lower() == key.address.lower()
            process.kill()
            process.wait()
            with pytest.raises(SignerSilent, match="connection refused or lost"):
                client.transfer(KEYS[1].address, 6)
            assert client.list_pending() == () or all(entry.is_signed for entry in client.list_pending())
    finally:
        process.kill()
        process.wait()
