"""Running transactions on py-evm under Prague's rules: whole blocks, calls without a signature, gas estimates.

py-evm supplies the virtual machine, the state and the encodings. Its `Chain` is not used: it would keep blocks in its
own layout and commit a block in several writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth.abc import BlockHeaderAPI, ComputationAPI, SignedTransactionAPI, StateAPI
from eth.constants import BLANK_ROOT_HASH, EMPTY_SHA256, POST_MERGE_DIFFICULTY, POST_MERGE_NONCE, ZERO_ADDRESS
from eth.constants import ZERO_HASH32 as ZERO_HASH
from eth.db.account import AccountDB
from eth.db.atomic import AtomicDB
from eth.db.trie import make_trie_root_and_nodes
from eth.exceptions import OutOfGas, Revert, VMError
from eth.vm.chain_context import ChainContext
from eth.vm.forks.london.headers import calculate_expected_base_fee_per_gas
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.blocks import PragueBlockHeader
from eth.vm.forks.prague.state import PragueState
from eth.vm.spoof import SpoofTransaction
from eth_hash.auto import keccak
from eth_typing import Address as CanonicalAddress
from eth_typing import BlockNumber, Hash32
from eth_utils.exceptions import ValidationError

from cupel.chain.node.pool import Waiting, compute_least_gas
from cupel.chain.node.store import NewBlock, Overlay, StoredBlock, StoredLog, StoredTransaction

GAS_LIMIT = 30_000_000
"""Gas of every block, and the most a call without a signature may use."""
INITIAL_BASE_FEE_WEI = 1_000_000_000
_ESTIMATE_TOLERANCE = 0.015
"""A gas estimate may exceed the least sufficient gas by this share (geth's value)."""
_CALL_STIPEND = 2_300
_ANCESTORS = 256


def compute_beacon(parent_mix: bytes, parent_hash: bytes) -> bytes:
    """The value (`prevrandao`, the header's mix hash) of the block after a parent.

    A chain with one producer has no randomness of its own: the producer chooses transactions until it likes the
    result, so against it this value is worth nothing. It only makes contracts that read prevrandao work.
    """
    return keccak(b"cupel beacon" + parent_mix + parent_hash)


def make_fork_header(parent: StoredBlock, timestamp: int, fork: int) -> BlockHeaderAPI:
    """As `make_next_header`, of another branch: other hash, other beacon value. `fork` counts the chain's re-orgs."""
    header = make_next_header(parent, timestamp)
    beacon = keccak(b"cupel fork" + fork.to_bytes(8, "big") + header.mix_hash)
    return header.copy(mix_hash=Hash32(beacon), extra_data=b"cupel fork %d" % fork)


def make_genesis_header(*, chain_id: int, timestamp: int, state_root: bytes) -> PragueBlockHeader:
    return PragueBlockHeader(
        difficulty=POST_MERGE_DIFFICULTY,
        block_number=BlockNumber(0),
        gas_limit=GAS_LIMIT,
        timestamp=timestamp,
        state_root=Hash32(state_root),
        extra_data=b"cupel",
        mix_hash=Hash32(keccak(b"cupel genesis" + chain_id.to_bytes(32, "big") + timestamp.to_bytes(32, "big"))),
        nonce=POST_MERGE_NONCE,
        base_fee_per_gas=INITIAL_BASE_FEE_WEI,
        requests_hash=EMPTY_SHA256,
    )


def make_next_header(parent: StoredBlock, timestamp: int) -> PragueBlockHeader:
    """The header of the block after `parent` before any transaction. Tips go to address zero: nobody."""
    return PragueBlockHeader(
        difficulty=POST_MERGE_DIFFICULTY,
        block_number=BlockNumber(parent.number + 1),
        gas_limit=parent.header.gas_limit,
        timestamp=timestamp,
        coinbase=ZERO_ADDRESS,
        parent_hash=Hash32(parent.hash),
        state_root=parent.header.state_root,
        transaction_root=BLANK_ROOT_HASH,
        receipt_root=BLANK_ROOT_HASH,
        mix_hash=Hash32(compute_beacon(parent.header.mix_hash, parent.hash)),
        nonce=POST_MERGE_NONCE,
        base_fee_per_gas=calculate_expected_base_fee_per_gas(parent.header),
        withdrawals_root=BLANK_ROOT_HASH,
        parent_beacon_block_root=ZERO_HASH,
        requests_hash=EMPTY_SHA256,
    )


def make_accounts(overlay: Overlay, state_root: bytes) -> AccountDB:
    """Accounts and storage as of `state_root`."""
    return AccountDB(AtomicDB(overlay), Hash32(state_root))


def make_state(
    overlay: Overlay, header: BlockHeaderAPI, chain_id: int, ancestors: Callable[[], Sequence[bytes]]
) -> StateAPI:
    """The state before a block, inside that block. `ancestors()` gives earlier hashes, nearest first."""

    def earlier_hashes() -> Iterator[Hash32]:
        # A generator, since BLOCKHASH is rare and reading 256 hashes for every call is not.
        for block_hash in ancestors()[:_ANCESTORS]:
            yield Hash32(block_hash)

    return PragueVM.build_state(AtomicDB(overlay), header, ChainContext(chain_id), earlier_hashes())


def compute_gas_used(transaction: Any, computation: ComputationAPI) -> tuple[int, int]:
    """Gas charged and gas refunded.

    py-evm's own receipt caps the refund by the gas including EIP-7623's floor, its charge by the gas without: they
    differ where a refund is capped and the floor applies. This is the charge.
    """
    spent = transaction.gas - computation.get_gas_remaining()
    refund = PragueState.transaction_executor_class.calculate_gas_refund(computation, spent)  # type: ignore[attr-defined]
    return spent - refund + computation.data_floor_gas, refund


class BlockBuilder:
    """One block in the making; nothing of it is stored until its `NewBlock` is committed."""

    def __init__(
        self,
        parent: StoredBlock,
        *,
        timestamp: int,
        chain_id: int,
        get_node: Callable[[bytes], bytes],
        ancestors: Callable[[], Sequence[bytes]],
    ) -> None:
        self.header = make_next_header(parent, timestamp)
        self._overlay = Overlay(get_node)
        self._chain_id, self._ancestors = chain_id, ancestors
        self._state: StateAPI | None = None
        self._transactions: list[StoredTransaction] = []
        self._decoded: list[SignedTransactionAPI] = []
        self._receipts: list[Any] = []
        self._logs: list[StoredLog] = []
        self._bloom = 0
        self.gas_used = 0

    @property
    def gas_left(self) -> int:
        return self.header.gas_limit - self.gas_used

    def add(self, waiting: Waiting) -> None:
        """Execute a transaction as the block's next. Raises ValidationError, the block unchanged, if it cannot be."""
        if self._state is None:
            self._state = make_state(self._overlay, self.header, self._chain_id, self._ancestors)
        state, transaction = self._state, waiting.transaction
        state.lock_changes()
        snapshot = state.snapshot()
        try:
            computation = state.apply_transaction(transaction)
        except Exception:
            state.revert(snapshot)
            raise
        state.commit(snapshot)
        used, _ = compute_gas_used(transaction, computation)
        self.gas_used += used
        entries = computation.get_log_entries()
        status = b"" if computation.is_error else b"\x01"
        receipt = transaction.make_receipt(status, self.gas_used, entries)
        self._bloom |= receipt.bloom  # both are the 2,048 bits as one integer
        position = len(self._transactions)
        self._transactions.append(
            StoredTransaction(
                hash=waiting.hash,
                block_number=self.header.block_number,
                position=position,
                sender=waiting.sender,
                raw=waiting.raw,
                status=0 if computation.is_error else 1,
                gas_used=used,
                cumulative_gas_used=self.gas_used,
                effective_gas_price=state.get_gas_price(transaction),
                created=computation.msg.storage_address if computation.msg.is_create else None,
                first_log=len(self._logs),
                bloom=receipt.bloom.to_bytes(256, "big"),
            )
        )
        self._decoded.append(transaction)
        self._receipts.append(receipt)
        for address, topics, data in entries:
            self._logs.append(
                StoredLog(
                    block_number=self.header.block_number,
                    position=len(self._logs),
                    transaction_hash=waiting.hash,
                    transaction_position=position,
                    address=address,
                    topics=tuple(topic.to_bytes(32, "big") for topic in topics),
                    data=data,
                )
            )

    def finish(self) -> NewBlock:
        header: BlockHeaderAPI = self.header
        if self._state is not None:
            self._state.persist()
            transaction_root, _ = make_trie_root_and_nodes(tuple(self._decoded))
            receipt_root, _ = make_trie_root_and_nodes(tuple(self._receipts))
            header = header.copy(
                state_root=self._state.state_root,
                transaction_root=transaction_root,
                receipt_root=receipt_root,
                bloom=self._bloom,
                gas_used=self.gas_used,
            )
        return make_block(header, self._transactions, self._logs, self._overlay.written)


def make_block(
    header: BlockHeaderAPI,
    transactions: Sequence[StoredTransaction],
    logs: Sequence[StoredLog],
    nodes: dict[bytes, bytes],
) -> NewBlock:
    bodies = [rlp.decode(entry.raw) if entry.raw[0] >= 0xC0 else entry.raw for entry in transactions]
    size = len(rlp.encode([rlp.decode(rlp.encode(header)), bodies, [], []]))
    block = StoredBlock(number=header.block_number, hash=header.hash, header=header, size=size)
    return NewBlock(block=block, transactions=transactions, logs=logs, nodes=nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """A transaction nobody signed, to be tried."""

    sender: bytes = ZERO_ADDRESS
    to: bytes = b""
    """Empty: create a contract."""
    gas: int | None = None
    max_fee_wei: int | None = None
    """Wei per gas; None: gas is free and the base fee reads as 0, as in other clients."""
    max_priority_fee_wei: int = 0
    value_wei: int = 0
    data: bytes = b""
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...] = field(default=())


class CallFailed(Exception):
    """The EVM stopped with an error."""

    def __init__(self, message: str, output: bytes | None) -> None:
        super().__init__(message)
        self.output = output
        """What a REVERT returned; None for other errors."""


class CannotCall(Exception):
    """The request cannot be executed at all, as with a value its sender does not own."""


class Caller:
    """Tries requests on one state, each from the same beginning."""

    def __init__(
        self,
        *,
        header: BlockHeaderAPI,
        overlay: Overlay,
        chain_id: int,
        ancestors: Callable[[], Sequence[bytes]],
    ) -> None:
        self._header, self._overlay, self._chain_id, self._ancestors = header, overlay, chain_id, ancestors

    def _make_state(self, request: CallRequest) -> StateAPI:
        header = self._header if request.max_fee_wei is not None else self._header.copy(base_fee_per_gas=0)
        return make_state(self._overlay, header, self._chain_id, self._ancestors)

    def _make_transaction(self, request: CallRequest, nonce: int, gas: int) -> Any:
        unsigned = PragueVM.get_transaction_builder().new_unsigned_dynamic_fee_transaction(  # type: ignore[attr-defined]
            chain_id=self._chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=request.max_priority_fee_wei,
            max_fee_per_gas=request.max_fee_wei or 0,
            gas=gas,
            to=CanonicalAddress(request.to),
            value=request.value_wei,
            data=request.data,
            access_list=request.access_list,
        )
        return SpoofTransaction(unsigned, from_=CanonicalAddress(request.sender))

    def _try(self, state: StateAPI, request: CallRequest, gas: int) -> tuple[ComputationAPI, int, int]:
        """The computation, the gas charged and the gas refunded; `state` is as before afterwards."""
        nonce = state.get_nonce(CanonicalAddress(request.sender))
        transaction = self._make_transaction(request, nonce, gas)
        least = compute_least_gas(transaction)
        if gas < least:
            raise CannotCall(f"intrinsic gas too low: have {gas}, want {least}")
        snapshot = state.snapshot()
        try:
            computation = state.apply_transaction(transaction)
            used, refund = compute_gas_used(transaction, computation)
        except ValidationError as error:
            raise CannotCall(_explain_refusal(error, state, request)) from error
        except VMError as error:
            raise CannotCall(str(error)) from error  # refused before it began, as code too long to deploy
        finally:
            state.revert(snapshot)
        return computation, used, refund

    def call(self, request: CallRequest) -> bytes:
        """What the request returns. Raises CallFailed, CannotCall."""
        gas = GAS_LIMIT if request.gas is None else min(request.gas, GAS_LIMIT)
        computation, _, _ = self._try(self._make_state(request), request, gas)
        _raise_if_failed(computation)
        return computation.output

    def estimate(self, request: CallRequest) -> int:
        """Gas that suffices, at most 1.5 % above the least that does. Raises CallFailed, CannotCall."""
        state = self._make_state(request)
        high = self._compute_gas_allowance(state, request)
        if request.to and not request.data and not state.get_code(CanonicalAddress(request.to)):
            high = min(high, compute_least_gas(self._make_transaction(request, 0, high)))  # a plain transfer
        computation, used, refund = self._try(state, request, high)
        if computation.is_error and isinstance(computation.error, OutOfGas):
            raise CannotCall(f"gas required exceeds allowance ({high})")
        _raise_if_failed(computation)
        low = used - 1
        optimistic = (used + refund + _CALL_STIPEND) * 64 // 63  # a callee gets 63/64 of what is left
        middle = optimistic if optimistic < high else (low + high) // 2
        while low + 1 < high and (high - low) / high >= _ESTIMATE_TOLERANCE:
            if self._suffices(state, request, middle):
                high = middle
            else:
                low = middle
            middle = min((low + high) // 2, low * 2)  # the answer is nearer to low: high is the whole block
        return high

    def _suffices(self, state: StateAPI, request: CallRequest, gas: int) -> bool:
        try:
            computation, _, _ = self._try(state, request, gas)
        except CannotCall:
            return False
        return not computation.is_error

    def _compute_gas_allowance(self, state: StateAPI, request: CallRequest) -> int:
        allowance = GAS_LIMIT if request.gas is None else min(request.gas, GAS_LIMIT)
        if not request.max_fee_wei:
            return allowance
        balance = state.get_balance(CanonicalAddress(request.sender))
        if balance < request.value_wei:
            raise CannotCall(f"insufficient funds for transfer: balance {balance}, value {request.value_wei}")
        return min(allowance, (balance - request.value_wei) // request.max_fee_wei)


def _explain_refusal(error: ValidationError, state: StateAPI, request: CallRequest) -> str:
    balance = state.get_balance(CanonicalAddress(request.sender))
    if balance < request.value_wei:
        return (
            "insufficient funds for gas * price + value: "
            f"address 0x{request.sender.hex()} have {balance} want {request.value_wei}"
        )
    return str(error)


_ERROR_SELECTOR = keccak(b"Error(string)")[:4]
_PANIC_SELECTOR = keccak(b"Panic(uint256)")[:4]
_PANICS = {
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum overflow",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "out-of-bounds access of an array or bytesN",
    0x41: "out of memory",
    0x51: "uninitialized function",
}


def describe_revert(output: bytes) -> str:
    """The words other clients use for what a REVERT returned."""
    words = output[4:]
    if output[:4] == _PANIC_SELECTOR and len(words) == 32:
        code = int.from_bytes(words, "big")
        return f"execution reverted: {_PANICS.get(code, f'unknown panic code: {code:#x}')}"
    if output[:4] == _ERROR_SELECTOR and len(words) >= 64:
        length = int.from_bytes(words[32:64], "big")
        return f"execution reverted: {words[64 : 64 + length].decode(errors='replace')}"
    return "execution reverted"


def _raise_if_failed(computation: ComputationAPI) -> None:
    if not computation.is_error:
        return
    error: VMError = computation.error
    if isinstance(error, Revert):
        raise CallFailed(describe_revert(computation.output), computation.output)
    name = type(error).__name__
    plain = {"OutOfGas": "out of gas", "InvalidInstruction": "invalid opcode", "WriteProtection": "write protection"}
    detail = f" ({error})" if str(error) else ""
    raise CallFailed(plain.get(name, name) + detail, None)
