"""Transactions that wait for a block.

Each sender's transactions are ordered by nonce; those that follow the account's nonce without a gap are *pending*,
the rest are *queued* until the gap closes. A block takes, again and again, the pending head that pays the highest tip.
Nothing here reads the chain or the clock: the account's nonce and balance and the base fee are arguments.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from eth.abc import SignedTransactionAPI
from eth.constants import SECPK1_N
from eth.vm.forks.cancun.constants import BLOB_TX_TYPE
from eth.vm.forks.prague.constants import STANDARD_TOKEN_COST, TOTAL_COST_FLOOR_PER_TOKEN

POOL_TRANSACTIONS = 8_192
"""Transactions the pool holds in all."""
SENDER_TRANSACTIONS = 512
"""Transactions the pool holds of one sender."""
REPLACEMENT_PERCENT = 10
"""By how much both fees of a replacement must exceed those of the transaction it replaces."""
MAX_TRANSACTION_BYTES = 131_072
MAX_INIT_CODE_BYTES = 49_152
"""EIP-3860."""
_TRANSACTION_GAS = 21_000


class Refused(Exception):
    """A transaction is not accepted; the message begins with the words other clients use for the same reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A transaction in the pool."""

    transaction: SignedTransactionAPI
    hash: bytes
    sender: bytes
    raw: bytes
    sequence: int
    """Order of arrival."""

    @property
    def nonce(self) -> int:
        return self.transaction.nonce

    @property
    def most_wei(self) -> int:
        """What it can cost its sender: value and all its gas at the highest price it allows."""
        return self.transaction.value + self.transaction.gas * self.transaction.max_fee_per_gas

    def compute_tip(self, base_fee_wei: int) -> int:
        """Wei per gas for the block's producer; negative when it cannot pay the base fee."""
        transaction = self.transaction
        return min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - base_fee_wei)


def compute_least_gas(transaction: SignedTransactionAPI) -> int:
    """The gas a transaction needs before it executes anything: intrinsic gas and the calldata floor of EIP-7623."""
    zeros = transaction.data.count(0)
    tokens = zeros + (len(transaction.data) - zeros) * STANDARD_TOKEN_COST
    return max(transaction.intrinsic_gas, _TRANSACTION_GAS + TOTAL_COST_FLOOR_PER_TOKEN * tokens)


def check_transaction(transaction: SignedTransactionAPI, *, size: int, chain_id: int, gas_limit: int) -> None:
    """What can be judged from the transaction alone. Raises Refused."""
    if size > MAX_TRANSACTION_BYTES:
        raise Refused(f"oversized data: transaction is {size} bytes, the limit is {MAX_TRANSACTION_BYTES}")
    if transaction.type_id == BLOB_TX_TYPE:
        raise Refused("transaction type not supported: this chain carries no blobs")
    if transaction.type_id is None and transaction.chain_id is None:
        raise Refused("only replay-protected (EIP-155) transactions allowed over RPC")
    if transaction.chain_id != chain_id:
        raise Refused(f"invalid chain id for signer: have {transaction.chain_id} want {chain_id}")
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        raise Refused(
            "max priority fee per gas higher than max fee per gas: "
            f"{transaction.max_priority_fee_per_gas} > {transaction.max_fee_per_gas}"
        )
    if transaction.gas > gas_limit:
        raise Refused(f"exceeds block gas limit: transaction asks for {transaction.gas}, a block has {gas_limit}")
    if not transaction.to and len(transaction.data) > MAX_INIT_CODE_BYTES:
        raise Refused(f"max initcode size exceeded: code size {len(transaction.data)} limit {MAX_INIT_CODE_BYTES}")
    if not 0 < transaction.s <= SECPK1_N // 2 or transaction.y_parity not in (0, 1):
        raise Refused("invalid transaction v, r, s values")
    least = compute_least_gas(transaction)
    if transaction.gas < least:
        raise Refused(f"intrinsic gas too low: have {transaction.gas}, want {least}")


@dataclass(slots=True)
class _Account:
    by_nonce: dict[int, Waiting] = field(default_factory=dict)

    def get_run(self, nonce: int) -> list[Waiting]:
        """The transactions at nonce, nonce + 1, ... up to the first gap."""
        run = []
        while (waiting := self.by_nonce.get(nonce)) is not None:
            run.append(waiting)
            nonce += 1
        return run


class TransactionPool:
    """Waiting transactions by sender and nonce."""

    def __init__(self) -> None:
        self._accounts: dict[bytes, _Account] = {}
        self._by_hash: dict[bytes, Waiting] = {}
        self._sequence = 0
        self.version = 0
        """Grows with every change, so that what was computed from the pool can be kept until then."""

    def __len__(self) -> int:
        return len(self._by_hash)

    def get(self, transaction_hash: bytes) -> Waiting | None:
        return self._by_hash.get(transaction_hash)

    def add(
        self, transaction: SignedTransactionAPI, raw: bytes, *, account_nonce: int, balance_wei: int
    ) -> tuple[Waiting, Waiting | None]:
        """Admit a checked transaction; the second result is the one it replaces. Raises Refused."""
        sender = transaction.sender
        waiting = Waiting(
            transaction=transaction, hash=transaction.hash, sender=sender, raw=raw, sequence=self._sequence
        )
        if waiting.hash in self._by_hash:
            raise Refused("already known")
        if waiting.nonce < account_nonce:
            raise Refused(f"nonce too low: next nonce {account_nonce}, tx nonce {waiting.nonce}")
        account = self._accounts.get(sender, _Account())
        replaced = account.by_nonce.get(waiting.nonce)
        self._check_room(account, replaced)
        self._check_funds(waiting, account, balance_wei)
        if replaced is not None:
            _check_replacement(waiting, replaced)
            del self._by_hash[replaced.hash]
        account.by_nonce[waiting.nonce] = waiting
        self._accounts[sender] = account
        self._by_hash[waiting.hash] = waiting
        self._sequence += 1
        self.version += 1
        return waiting, replaced

    def _check_room(self, account: _Account, replaced: Waiting | None) -> None:
        if replaced is not None:
            return
        if len(account.by_nonce) >= SENDER_TRANSACTIONS:
            raise Refused(f"account limit exceeded: {SENDER_TRANSACTIONS} transactions of this sender already wait")
        if len(self._by_hash) >= POOL_TRANSACTIONS:
            raise Refused(f"txpool is full: {POOL_TRANSACTIONS} transactions wait")

    @staticmethod
    def _check_funds(waiting: Waiting, account: _Account, balance_wei: int) -> None:
        """The sender can pay this transaction together with everything of lower nonce that waits."""
        earlier = sum(other.most_wei for nonce, other in account.by_nonce.items() if nonce < waiting.nonce)
        if earlier + waiting.most_wei > balance_wei:
            raise Refused(
                "insufficient funds for gas * price + value: "
                f"balance {balance_wei}, tx cost {waiting.most_wei}, queued cost {earlier}"
            )

    def remove(self, transaction_hash: bytes) -> None:
        waiting = self._by_hash.pop(transaction_hash, None)
        if waiting is None:
            return
        account = self._accounts[waiting.sender]
        del account.by_nonce[waiting.nonce]
        if not account.by_nonce:
            del self._accounts[waiting.sender]
        self.version += 1

    def remove_stale(self, senders_nonces: Mapping[bytes, int]) -> list[bytes]:
        """Drop what the accounts' nonces have passed; returns the hashes."""
        stale = [
            waiting.hash
            for sender, nonce in senders_nonces.items()
            if sender in self._accounts
            for waiting in self._accounts[sender].by_nonce.values()
            if waiting.nonce < nonce
        ]
        for transaction_hash in stale:
            self.remove(transaction_hash)
        return stale

    def compute_next_nonce(self, sender: bytes, account_nonce: int) -> int:
        account = self._accounts.get(sender)
        return account_nonce if account is None else account_nonce + len(account.get_run(account_nonce))

    def count(self, nonce_of: Callable[[bytes], int]) -> tuple[int, int]:
        """Pending and queued transactions."""
        pending = sum(len(account.get_run(nonce_of(sender))) for sender, account in self._accounts.items())
        return pending, len(self._by_hash) - pending

    def select(self, base_fee_wei: int, nonce_of: Callable[[bytes], int]) -> Selection:
        return Selection(
            [account.get_run(nonce_of(sender)) for sender, account in self._accounts.items()], base_fee_wei
        )

    def __iter__(self) -> Iterator[Waiting]:
        return iter(sorted(self._by_hash.values(), key=lambda waiting: waiting.sequence))


def _check_replacement(new: Waiting, old: Waiting) -> None:
    for name in ("max_fee_per_gas", "max_priority_fee_per_gas"):
        before, after = getattr(old.transaction, name), getattr(new.transaction, name)
        if after * 100 < before * (100 + REPLACEMENT_PERCENT):
            raise Refused(
                f"replacement transaction underpriced: {name} is {after}, "
                f"needs {REPLACEMENT_PERCENT}% more than {before}"
            )


class Selection:
    """The order in which one block considers the pool: best tip first, each sender by nonce, ties by arrival."""

    def __init__(self, runs: list[list[Waiting]], base_fee_wei: int) -> None:
        self._base_fee_wei = base_fee_wei
        self._heap: list[tuple[int, int, list[Waiting]]] = []
        for run in runs:
            self._push(run[::-1])

    def _push(self, reversed_run: list[Waiting]) -> None:
        if not reversed_run:
            return
        head = reversed_run[-1]
        tip = head.compute_tip(self._base_fee_wei)
        if tip >= 0:
            heapq.heappush(self._heap, (-tip, head.sequence, reversed_run))

    def peek(self) -> Waiting | None:
        return self._heap[0][2][-1] if self._heap else None

    def shift(self) -> None:
        """The head was taken: its sender's next one may follow."""
        _, _, run = heapq.heappop(self._heap)
        run.pop()
        self._push(run)

    def skip_sender(self) -> None:
        """The head cannot be taken, so nothing later of its sender can."""
        heapq.heappop(self._heap)
