"""The referee's numeric libraries on py-evm, in this process: contracts/tests/referee/KernelHarness.sol.

The harness is no part of what is deployed, so no artifact of it is shipped: it is compiled here (needs Node.js and
`npm install` in contracts/) and kept in build/ under a hash of its sources and of the compiler's settings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from contract_world import CALL_GAS, World, empty_world
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import decode, encode
from eth_utils import keccak, to_canonical_address
from referee_kernels import Group, Scalars

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NAME = "tests/referee/KernelHarness.sol", "KernelHarness"
FOLDER = ROOT / "build" / "referee"
CASES_A_CALL = 400
SCALARS = ("scalars(uint256,uint256,uint256[])", ("uint256", "uint256", "uint256[]"))
GAS_OF_SCALARS = ("gasOfScalars(uint256,uint256,uint256[])", SCALARS[1])
ROW = ("row(uint256,bytes[],uint256,uint256[])", ("uint256", "bytes[]", "uint256", "uint256[]"))
GAS_OF_ROW = ("gasOfRow(uint256,bytes[],uint256,uint256[])", ROW[1])


class HarnessError(Exception):
    """The harness reverted."""


def load_compiler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_contracts", ROOT / "contracts" / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _creation_code() -> bytes:
    compiler = load_compiler()
    sources = compiler.read_sources((SOURCE,))
    name = hashlib.sha256(json.dumps([sources, compiler.SETTINGS], sort_keys=True).encode()).hexdigest()[:16]
    kept = FOLDER / f"{NAME}-{name}.hex"
    if not kept.is_file():
        answer = compiler.compile_sources(sources, ["evm.bytecode.object"])
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: several workers may come here at once.
        part = kept.with_suffix(f".{id(answer)}")
        part.write_text(answer["contracts"][SOURCE][NAME]["evm"]["bytecode"]["object"])
        part.replace(kept)
    return bytes.fromhex(kept.read_text())


class Harness:
    """The deployed harness."""

    def __init__(self) -> None:
        self._world: World = empty_world(1)
        _, computation = self._world.send_raw(self._world.deployer, "", _creation_code())
        assert not computation.is_error
        self._address = computation.msg.storage_address
        self.deployed_bytes = len(computation.output)

    def call(self, function: tuple[str, Sequence[str]], result: str, *arguments: Any) -> Any:
        """Raises HarnessError"""
        signature, types = function
        vm = self._world.chain.get_vm()
        sender = to_canonical_address(self._world.deployer.address)
        unsigned = vm.create_unsigned_transaction(
            nonce=vm.state.get_nonce(sender),
            gas_price=10**10,
            gas=CALL_GAS,
            to=self._address,
            value=0,
            data=keccak(text=signature)[:4] + encode(types, arguments),
        )
        computation = vm.state.apply_transaction(SpoofTransaction(unsigned, from_=sender))
        if computation.is_error:
            raise HarnessError(f"{computation.error}: 0x{computation.output.hex()}")
        return decode([result], computation.output)[0]

    def answer(self, group: Group) -> list[int]:
        """Results as unsigned words."""
        if isinstance(group, Scalars):
            return [word for part in self._parts(group) for word in self.call(SCALARS, "uint256[]", *part)]
        words = [number % (1 << 256) for number in group.numbers]
        return list(self.call(ROW, "uint256[]", group.code, group.rows, group.count, words))

    def gas_of(self, group: Group) -> list[int]:
        """Gas of each case: a scalar's alone, a row's with the call around it."""
        if isinstance(group, Scalars):
            return [gas for part in self._parts(group) for gas in self.call(GAS_OF_SCALARS, "uint256[]", *part)]
        words = [number % (1 << 256) for number in group.numbers]
        return [int(self.call(GAS_OF_ROW, "uint256", group.code, group.rows, group.count, words))]

    def _parts(self, group: Scalars) -> list[tuple[int, int, list[int]]]:
        arity = len(group.arguments[0])
        words = [number % (1 << 256) for case in group.arguments for number in case]
        size = CASES_A_CALL * arity
        return [(group.code, arity, words[i : i + size]) for i in range(0, len(words), size)]


@cache
def harness() -> Harness:
    """One for all tests of a process: it has no state."""
    return Harness()
