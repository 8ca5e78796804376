"""Contract interfaces: encoding calls, decoding answers, errors and events, by the ABI a compiler wrote.

Values cross as eth-abi has them: int, bool, bytes, str; addresses as checksummed strings; structs as tuples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from cupel.chain.values import Log
from cupel.protocol.errors import MalformedInput
from cupel.protocol.types import Address

Entry = Mapping[str, Any]


def compute_type(parameter: Entry) -> str:
    """The canonical type of a parameter: structs as their members in brackets."""
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(compute_type(member) for member in parameter['components'])}){kind[5:]}"


def _normalise(value: Any, parameter: Entry) -> Any:
    """Addresses checksummed, at any depth."""
    kind: str = parameter["type"]
    if kind.endswith("]"):
        element = {**parameter, "type": kind[: kind.rindex("[")]}
        return tuple(_normalise(item, element) for item in value)
    if kind == "tuple":
        return tuple(_normalise(item, member) for item, member in zip(value, parameter["components"], strict=True))
    return to_checksum_address(value) if kind == "address" else value


def decode_values(parameters: Sequence[Entry], data: bytes, what: str) -> tuple[Any, ...]:
    """Raises MalformedInput."""
    try:
        values = abi_decode([compute_type(parameter) for parameter in parameters], data)
    except (DecodingError, OverflowError, ValueError) as error:
        raise MalformedInput(f"{what}: {len(data)} bytes that do not decode ({error})") from error
    return tuple(_normalise(value, parameter) for value, parameter in zip(values, parameters, strict=True))


@dataclass(frozen=True)
class AbiFunction:
    """A function or view of a contract."""

    name: str
    inputs: tuple[Entry, ...]
    outputs: tuple[Entry, ...]
    mutability: str
    """pure, view, nonpayable or payable."""

    @cached_property
    def signature(self) -> str:
        return f"{self.name}({','.join(compute_type(parameter) for parameter in self.inputs)})"

    @cached_property
    def selector(self) -> bytes:
        return keccak(self.signature.encode())[:4]

    def encode(self, arguments: Sequence[Any]) -> bytes:
        """Calldata. Raises ValueError with the function's signature if the arguments do not fit it."""
        return self.selector + encode_values(self.inputs, arguments, self.signature)

    def decode(self, output: bytes) -> tuple[Any, ...]:
        """Raises MalformedInput: an answer no contract with this interface gives, as from an address without code."""
        return decode_values(self.outputs, output, self.signature)


def encode_values(parameters: Sequence[Entry], arguments: Sequence[Any], what: str) -> bytes:
    try:
        encoded: bytes = abi_encode([compute_type(parameter) for parameter in parameters], list(arguments))
    except (EncodingError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{what}: arguments do not fit: {error}") from error
    return encoded


@dataclass(frozen=True)
class AbiError:
    name: str
    inputs: tuple[Entry, ...]

    @cached_property
    def selector(self) -> bytes:
        return keccak(f"{self.name}({','.join(compute_type(one) for one in self.inputs)})".encode())[:4]


@dataclass(frozen=True)
class AbiEvent:
    name: str
    inputs: tuple[Entry, ...]

    @cached_property
    def topic(self) -> bytes:
        return keccak(f"{self.name}({','.join(compute_type(one) for one in self.inputs)})".encode())

    def decode(self, log: Log) -> tuple[Any, ...]:
        """Arguments in order of declaration. Raises MalformedInput."""
        indexed = [one for one in self.inputs if one["indexed"]]
        plain = [one for one in self.inputs if not one["indexed"]]
        if log.topics[:1] != (self.topic,) or len(log.topics) != 1 + len(indexed):
            raise MalformedInput(f"a log with {len(log.topics)} topics is not {self.name}")
        from_topics = iter(decode_values(indexed, b"".join(log.topics[1:]), self.name))
        from_data = iter(decode_values(plain, log.data, self.name))
        return tuple(next(from_topics) if one["indexed"] else next(from_data) for one in self.inputs)


_BUILT_IN = (
    AbiError("Error", ({"name": "reason", "type": "string"},)),
    AbiError("Panic", ({"name": "code", "type": "uint256"},)),
)


@dataclass(frozen=True)
class ContractAbi:
    """The interface of one contract and, where it can be deployed, its code."""

    name: str
    entries: tuple[Entry, ...]
    bytecode: bytes

    @cached_property
    def functions(self) -> dict[str, AbiFunction]:
        return {
            entry["name"]: AbiFunction(
                entry["name"], tuple(entry["inputs"]), tuple(entry["outputs"]), entry["stateMutability"]
            )
            for entry in self.entries
            if entry["type"] == "function"
        }

    @cached_property
    def constructor(self) -> tuple[Entry, ...]:
        for entry in self.entries:
            if entry["type"] == "constructor":
                return tuple(entry["inputs"])
        return ()

    @cached_property
    def errors(self) -> dict[bytes, AbiError]:
        """By selector."""
        declared = [AbiError(one["name"], tuple(one["inputs"])) for one in self.entries if one["type"] == "error"]
        return {error.selector: error for error in (*_BUILT_IN, *declared)}

    @cached_property
    def events(self) -> dict[str, AbiEvent]:
        return {
            one["name"]: AbiEvent(one["name"], tuple(one["inputs"])) for one in self.entries if one["type"] == "event"
        }

    def decode_error(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """Name and arguments of what a REVERT returned; `Unknown` where it is none of this interface's."""
        error = self.errors.get(data[:4])
        if error is None:
            return "Unknown", {"data": data} if data else {}
        try:
            values = decode_values(error.inputs, data[4:], error.name)
        except MalformedInput:
            return "Unknown", {"data": data}
        return error.name, {
            one["name"] or str(index): value
            for index, (one, value) in enumerate(zip(error.inputs, values, strict=True))
        }

    def bind(self, address: Address, function: str, *arguments: Any) -> Call:
        """A call of `function` at `address`. Raises ValueError if the arguments do not fit."""
        entry = self.functions[function]
        return Call(to=address, data=entry.encode(arguments), function=entry, abi=self)

    def bind_deployment(self, *arguments: Any) -> Call:
        """The transaction that creates this contract."""
        assert self.bytecode, f"{self.name} is an interface: it has no code to deploy"
        constructor = AbiFunction("constructor", self.constructor, (), "nonpayable")
        encoded = encode_values(self.constructor, arguments, f"{self.name}'s constructor")
        return Call(to=None, data=self.bytecode + encoded, function=constructor, abi=self)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function with its arguments, ready to be asked or sent."""

    to: Address | None
    """None creates a contract."""
    data: bytes
    function: AbiFunction
    abi: ContractAbi

    @property
    def what(self) -> str:
        """For messages: Run.commit."""
        return f"{self.abi.name}.{self.function.name}"


_PLAIN = ContractAbi("ETH", (), b"")


def bind_transfer(to: Address) -> Call:
    """A call of nothing: for sending ETH."""
    return Call(to=to, data=b"", function=AbiFunction("transfer", (), (), "payable"), abi=_PLAIN)


@cache
def load_abi(name: str) -> ContractAbi:
    """The shipped artifact of a contract, `chain/artifacts/{name}.json`."""
    artifact = json.loads(resources.files("cupel.chain.artifacts").joinpath(f"{name}.json").read_text("utf-8"))
    bytecode = artifact.get("bytecode", "")
    code = bytecode if isinstance(bytecode, str) else bytecode["object"]
    return ContractAbi(name, tuple(artifact["abi"]), bytes.fromhex(code.removeprefix("0x")))
