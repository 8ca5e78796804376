"""A real `cupel chain` for tests: its own process, a free port, killed however a test likes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from cupel.chain.keys import LocalSigner

KEYS = tuple(LocalSigner(bytes([number]) * 32) for number in range(1, 7))
"""Keys of well-known secrets: they guard nothing. The last one has no funds."""
ETH = 10**18
_RUN = "import sys; sys.argv[0] = 'cupel'; from cupel.cli import main; main()"


class ChainProcess:
    """Runs while it is entered; `kill` and `start` again as often as needed."""

    def __init__(self, directory: Path, *arguments: str, block_time_s: float = 0.1) -> None:
        self._directory = directory
        self._arguments = ["--block-time", str(block_time_s), *arguments]
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self.url = ""
        self._http = httpx.Client(trust_env=False, verify=False, timeout=30)  # loopback only

    def __enter__(self) -> ChainProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        self._http.close()

    def start(self, *, fund: Sequence[LocalSigner] = KEYS[:-1]) -> None:
        """Start, on the same port as before, and wait until the chain answers."""
        command = [sys.executable, "-c", _RUN, "chain", "--data", str(self._directory), "--port", str(self._port)]
        for key in fund:
            command += ["--fund", f"{key.address}=1000"]
        self._process = subprocess.Popen(
            [*command, *self._arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise AssertionError(f"no chain: {self._process.communicate()[1]}")
        self._port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """As `kill -9`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._process = None

    def stop(self) -> int:
        """As `kill`; the exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=20)
        code, self._process = self._process.returncode, None
        return code

    def ask(self, method: str, *params: Any) -> Any:
        """The result of a request; AssertionError if it is an error."""
        answer = self.ask_raw(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    def refuse(self, method: str, *params: Any) -> dict[str, Any]:
        """The error of a request; AssertionError if it is a result."""
        answer = self.ask_raw(method, *params)
        assert "result" not in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def ask_raw(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self._http.post(self.url, json=body).json()

    def post(self, body: bytes, **headers: str) -> httpx.Response:
        return self._http.post(self.url, content=body, headers={"Content-Type": "application/json"} | headers)

    def get_height(self) -> int:
        return int(self.ask("eth_blockNumber"), 16)


def make_transfer(
    signer: LocalSigner, nonce: int, *, to: str = KEYS[1].address, value_wei: int = 1, **changes: Any
) -> str:
    """A signed transfer in hex, with one thing changed if need be."""
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": 31337,
        "nonce": nonce,
        "to": to,
        "value": value_wei,
        "gas": 21_000,
        "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 1,
        "data": b"",
    }
    return "0x" + signer.sign_transaction(fields | changes).hex()


_OPCODES = {
    "STOP": 0x00, "SUB": 0x03, "EQ": 0x14, "SHR": 0x1C, "CALLER": 0x33, "CALLDATALOAD": 0x35, "CALLDATASIZE": 0x36,
    "CALLDATACOPY": 0x37, "CODECOPY": 0x39, "GASPRICE": 0x3A, "BLOCKHASH": 0x40, "NUMBER": 0x43, "PREVRANDAO": 0x44,
    "CHAINID": 0x46, "BASEFEE": 0x48, "MSTORE": 0x52, "SSTORE": 0x55, "JUMP": 0x56, "JUMPI": 0x57, "JUMPDEST": 0x5B,
    "PUSH0": 0x5F, "DUP1": 0x80, "LOG2": 0xA2, "RETURN": 0xF3, "REVERT": 0xFD,
}  # fmt: skip


def assemble(source: str) -> bytes:
    """EVM code: opcodes, numbers (pushed as one byte), `:label` and `@label` (pushed as two)."""
    code, labels, uses = bytearray(), {}, []
    for word in source.split():
        if word.startswith(":"):
            labels[word[1:]] = len(code)
            code.append(_OPCODES["JUMPDEST"])
        elif word.startswith("@"):
            uses.append((len(code) + 1, word[1:]))
            code += b"\x61\0\0"
        elif word.isdigit():
            code += bytes((0x60, int(word)))
        else:
            code.append(_OPCODES[word])
    for position, label in uses:
        code[position : position + 2] = labels[label].to_bytes(2, "big")
    return bytes(code)


_PROBE = assemble(
    """
    PUSH0 CALLDATALOAD 248 SHR
    DUP1 1 EQ @revert JUMPI
    DUP1 2 EQ @block JUMPI
    3 EQ @loop JUMPI
    1 CALLDATALOAD PUSH0 SSTORE
    33 CALLDATALOAD PUSH0 MSTORE
    CALLER 1 CALLDATALOAD 32 PUSH0 LOG2 STOP
    :revert 1 CALLDATASIZE SUB DUP1 1 PUSH0 CALLDATACOPY PUSH0 REVERT
    :block
    PREVRANDAO PUSH0 MSTORE NUMBER 32 MSTORE BASEFEE 64 MSTORE
    1 NUMBER SUB BLOCKHASH 96 MSTORE CHAINID 128 MSTORE GASPRICE 160 MSTORE 192 PUSH0 RETURN
    :loop @loop JUMP
    """
)
PROBE_INIT = assemble(f"{len(_PROBE)} DUP1 9 PUSH0 CODECOPY PUSH0 RETURN") + _PROBE
"""Init code of a contract told what to do by its calldata's first byte: 0 store the next word and log it with the
caller and the word after; 1 revert with the rest; 2 return beacon, height, base fee, parent hash, chain id and gas
price; 3 loop until the gas is gone."""
