"""Whether the code at an address is a shipped contract's, and whether the transaction that put it there did only that.

Immutables are written into the code when it is deployed, so the artifact has zeros in their places. The code says what
a contract can do from now on; what its constructor left in storage only the creating transaction tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import rlp  # type: ignore[import-untyped]  # ships no types
from eth_hash.auto import keccak
from eth_utils.address import to_canonical_address, to_checksum_address

from cupel.chain.abi import Call, ContractAbi, load_abi
from cupel.chain.answers import Transaction, parse_data, parse_transaction
from cupel.chain.client import ChainClient
from cupel.chain.mapping import write_value
from cupel.chain.run_values import Parameters
from cupel.protocol.types import Address, Height

_WORD = 32
PROXY_SLOTS = {
    "implementation": int.from_bytes(keccak(b"eip1967.proxy.implementation"), "big") - 1,
    "admin": int.from_bytes(keccak(b"eip1967.proxy.admin"), "big") - 1,
    "beacon": int.from_bytes(keccak(b"eip1967.proxy.beacon"), "big") - 1,
}
"""Where proxies keep who they obey (EIP-1967)."""


@dataclass(frozen=True, slots=True)
class RuntimeCode:
    """A shipped contract's code as it lies on a chain, zeros in the places of immutables."""

    code: bytes
    immutables: tuple[tuple[int, ...], ...]
    """Of each, the offsets of its words."""

    def read_immutables(self, found: bytes) -> tuple[bytes, ...] | None:
        """The immutables' words of code that is this one's, sorted; None if it is other code."""
        if len(found) != len(self.code):
            return None
        masked = bytearray(found)
        words: list[bytes] = []
        for offsets in self.immutables:
            values = {bytes(found[offset : offset + _WORD]) for offset in offsets}
            if len(values) != 1:
                return None
            words += values
            for offset in offsets:
                masked[offset : offset + _WORD] = bytes(_WORD)
        return tuple(sorted(words)) if masked == self.code else None


@cache
def load_runtime_code(name: str) -> RuntimeCode:
    """Of the shipped artifact `chain/artifacts/{name}.json`."""
    artifact = json.loads(resources.files("cupel.chain.artifacts").joinpath(f"{name}.json").read_text("utf-8"))
    references: Mapping[str, Any] = artifact["immutableReferences"]
    return RuntimeCode(
        code=bytes.fromhex(artifact["deployedBytecode"].removeprefix("0x")),
        immutables=tuple(tuple(place["start"] for place in places) for places in references.values()),
    )


def get_code(client: ChainClient, address: Address) -> bytes:
    """Empty where there is no contract."""
    return parse_data(client.request("eth_getCode", address, "latest"))


def find_difference(found: bytes, name: str, immutables: tuple[bytes, ...] = ()) -> str | None:
    """How code differs from a shipped contract's with these immutables, in words; None if it does not."""
    shipped = load_runtime_code(name)
    if not found:
        return "no contract is there"
    words = shipped.read_immutables(found)
    if words is None:
        return f"its code ({len(found):,} bytes) is not {name}'s of this version ({len(shipped.code):,} bytes)"
    if words != tuple(sorted(immutables)):
        return f"it is {name}, with other constants in its code than it says it has"
    return None


_OF_RUN = (
    "segments", "segments_per_verifier", "replay_bps", "verifiers_per_unit", "unit_bond", "slot_stake",
    "unavailable_fee", "train_blocks", "seal_blocks", "open_blocks", "merge_blocks", "acknowledge_blocks",
    "maturity_blocks", "window_blocks",
    "merge_bond", "max_merge", "programs_root", "data_root", "shards", "shard_tokens", "segment_steps",
    "initial_reward", "halving_rounds", "work_target", "verifier_share_bps",
    "merge_share_bps",
)  # fmt: skip
_OF_RULES = (
    "max_units_per_miner", "max_units", "min_miners", "max_miners", "min_verifiers", "max_verifiers",
    "verifiers_per_unit", "replay_bps", "quorum", "jury_target", "unit_bond", "slot_stake", "unavailable_fee",
    "seal_fee", "merge_bond", "beacon_delay", "train_blocks", "seal_blocks", "open_blocks", "merge_blocks",
    "acknowledge_blocks", "exit_blocks", "max_merge",
)  # fmt: skip
"""Parameters that are words in the code of either half of a run."""


def list_run_immutables(
    parameters: Parameters, *, rules: Address, token: Address, lens: Address, blob: Address
) -> tuple[bytes, ...]:
    """Words of everything a run's code holds of its deployment."""
    return (
        *_words(parameters, _OF_RUN),
        *(address_word(address) for address in (parameters.court, rules, token, lens, blob)),
    )


def list_rules_immutables(parameters: Parameters, *, rules: Address) -> tuple[bytes, ...]:
    """Likewise of the other half, which knows its own address and what parameters it is for."""
    artifact = load_abi("RunRules")
    encoded = bind_rules(parameters).data[len(artifact.bytecode) :]
    return (
        *_words(parameters, _OF_RULES),
        *(address_word(address) for address in (parameters.beacon, parameters.court, rules)),
        keccak(encoded),
    )


def _words(parameters: Parameters, names: Sequence[str]) -> list[bytes]:
    values = [getattr(parameters, name) for name in names]
    return [value if isinstance(value, bytes) else int(value).to_bytes(_WORD, "big") for value in values]


def address_word(address: Address) -> bytes:
    return bytes(12) + to_canonical_address(address)


def compute_created(creator: Address, nonce: int) -> Address:
    """Where a contract created by an account's transaction, or a contract's CREATE, of that nonce is."""
    digest = keccak(rlp.encode([to_canonical_address(creator), nonce]))
    return Address(to_checksum_address(digest[12:]))


TOKEN_NONCE, PARAMETERS_NONCE = 1, 2
"""A run creates its token first, then the account that holds its parameters."""


@dataclass(frozen=True, slots=True)
class Creation:
    """The transaction that created a contract."""

    hash: bytes
    creator: Address
    nonce: int
    input: bytes
    height: Height


def get_creation(client: ChainClient, transaction_hash: str) -> Creation | None:
    """None: the node knows no such transaction in a block, or it creates nothing. Raises MalformedInput."""
    answer = client.request("eth_getTransactionByHash", transaction_hash)
    return None if answer is None else _make_creation(parse_transaction(answer))


def find_creation(client: ChainClient, address: Address, height: Height) -> Creation | None:
    """The transaction of a block that created the contract; None if there is none, as where a contract created it.

    Raises   MalformedInput
    """
    for transaction in client.get_transactions(height):
        creation = _make_creation(transaction)
        if creation is not None and compute_created(creation.creator, creation.nonce) == address:
            return creation
    return None


def _make_creation(transaction: Transaction) -> Creation | None:
    if transaction.to is not None or transaction.block_number is None:
        return None
    return Creation(
        hash=transaction.hash,
        creator=transaction.sender,
        nonce=transaction.nonce,
        input=transaction.data,
        height=transaction.block_number,
    )


def is_creation_of(creation: Creation, abi: ContractAbi, *arguments: Any) -> bool:
    """Whether it ran the shipped constructor with these arguments, and nothing else."""
    return creation.input == abi.bind_deployment(*arguments).data


def bind_rules(parameters: Parameters) -> Call:
    """The call that deploys the half of a run that goes first."""
    return load_abi("RunRules").bind_deployment(write_value(parameters, Parameters))


def bind_run(parameters: Parameters, rules: Address, lens: Address, token_name: str, token_symbol: str) -> Call:
    """The call that deploys a run."""
    return load_abi("Run").bind_deployment(write_value(parameters, Parameters), rules, lens, token_name, token_symbol)


def read_slot(client: ChainClient, address: Address, slot: int) -> int:
    """A storage word. Raises MalformedInput."""
    return int.from_bytes(parse_data(client.request("eth_getStorageAt", address, hex(slot), "latest")), "big")
