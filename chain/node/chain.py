"""The embedded chain: what is stored, what waits, and what follows from them.

Everything runs in one thread. Making a block lets other work in between transactions; nothing of a block is visible
until it is committed, and then all of it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eth.abc import BlockHeaderAPI, SignedTransactionAPI
from eth.constants import BLANK_ROOT_HASH
from eth.db.account import AccountDB
from eth.vm.forks.prague import PragueVM
from eth_typing import Address as CanonicalAddress
from eth_utils.address import to_checksum_address
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException  # type: ignore[import-untyped]

from cupel.chain.node.execution import (
    GAS_LIMIT,
    BlockBuilder,
    Caller,
    CallFailed,
    CallRequest,
    make_accounts,
    make_block,
    make_fork_header,
    make_genesis_header,
    make_next_header,
)
from cupel.chain.node.pool import Refused, TransactionPool, Waiting, check_transaction
from cupel.chain.node.store import ChainStore, NewBlock, Overlay, StoredBlock, get_base_fee
from cupel.protocol.errors import UsageError

DEFAULT_CHAIN_ID = 31_337
"""By custom the identifier of chains that run on one machine; no public network uses it."""
SUGGESTED_TIP_WEI = 1_000_000
"""What eth_maxPriorityFeePerGas answers. Any tip enters: blocks are rarely full, and tips go to nobody."""

MAX_REORG_DEPTH = 32
MAX_SKIP = 256
"""Blocks a re-org may undo on a chain that allows them; what is below is `finalized` there."""

MAX_REMEMBERED_ANSWERS = 4_096
"""Answers kept of one state."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """What a new chain begins with; fixed for its lifetime."""

    chain_id: int
    balances: Mapping[bytes, int]
    """Wei by address."""
    timestamp: int
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A block's header and the state after it."""

    header: BlockHeaderAPI
    overlay: Overlay
    accounts: AccountDB
    pending: NewBlock | None = None
    """The block itself where it is not stored yet."""
    answers: dict[CallRequest, bytes | CallFailed] = field(default_factory=dict)
    """What calls on this very state gave: many processes ask the same of every new block."""


class EmbeddedChain:
    """The chain in `directory`. Open with `create_or_open`; close with `close`."""

    def __init__(self, store: ChainStore, chain_id: int) -> None:
        self.store = store
        self.chain_id = chain_id
        head = store.get_head()
        assert head is not None, "a store without genesis"
        self.head: StoredBlock = head
        self.pool = TransactionPool()
        self._head_view = self.make_view(head)
        self._pending: tuple[tuple[bytes, int], View] | None = None
        self._restore_pool()

    @classmethod
    def create_or_open(
        cls, directory: Path, *, chain_id: int | None, balances: Mapping[bytes, int], timestamp: int
    ) -> EmbeddedChain:
        """Open the chain in `directory`, or begin one with this genesis.

        Raises   UsageError: the directory is in use or unreadable, or holds a chain with another genesis
        """
        store = ChainStore(directory)
        try:
            if store.get_head() is None:
                genesis = Genesis(chain_id=chain_id or DEFAULT_CHAIN_ID, balances=balances, timestamp=timestamp)
                _write_genesis(store, genesis)
            _check_genesis(store, directory, chain_id, balances)
            return cls(store, store.get_meta("chain_id"))
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        self.store.close()

    # Transactions

    def submit(self, raw: bytes) -> bytes:
        """Admit a signed transaction to the pool and return its hash; it is on disk when this returns.

        Raises   Refused
        """
        waiting, replaced = self._admit(raw)
        self.store.save_waiting(waiting, replaced)
        return waiting.hash

    def _admit(self, raw: bytes) -> tuple[Waiting, Waiting | None]:
        transaction = decode_transaction(raw)
        check_transaction(transaction, size=len(raw), chain_id=self.chain_id, gas_limit=GAS_LIMIT)
        try:
            sender = CanonicalAddress(transaction.sender)
        except Exception as error:  # eth-keys raises several kinds, ValueError among them
            raise Refused(f"invalid sender: {error}") from error
        return self.pool.add(
            transaction,
            raw,
            account_nonce=self.get_nonce(sender),
            balance_wei=self._head_view.accounts.get_balance(sender),
        )

    def _restore_pool(self) -> None:
        tried = [self._admit_again(raw) for raw in self.store.get_pool()]
        self.store.forget_waiting([lost for lost in tried if lost is not None])

    def get_nonce(self, address: bytes) -> int:
        """The account's nonce after the head."""
        return self._head_view.accounts.get_nonce(CanonicalAddress(address))

    def get_pending_nonce(self, address: bytes) -> int:
        """The nonce the account's next transaction should have, given those that wait."""
        return self.pool.compute_next_nonce(address, self.get_nonce(address))

    # Blocks

    def _make_builder(self, timestamp: int) -> BlockBuilder:
        parent = self.head
        return BlockBuilder(
            parent,
            timestamp=max(timestamp, parent.header.timestamp + 1),
            chain_id=self.chain_id,
            get_node=self.store.get_node,
            ancestors=lambda: self.store.get_recent_hashes(parent.number, 256),
        )

    async def produce(self, timestamp: int, *, may_go_on: Callable[[], bool] = lambda: True) -> StoredBlock:
        """Make, store and return the next block. `may_go_on` false closes it before the next transaction."""
        while True:
            new, dropped = await self._build(timestamp, may_go_on)
            # Requests were answered in between: a re-org may have taken the parent away.
            if new.block.header.parent_hash == self.head.hash:
                break
        self.store.commit(new)
        self._advance(new)
        self._forget(new, dropped)
        return new.block

    async def _build(self, timestamp: int, may_go_on: Callable[[], bool]) -> tuple[NewBlock, list[bytes]]:
        """The next block, and the hashes of what can no longer be executed."""
        builder = self._make_builder(timestamp)
        dropped: list[bytes] = []
        selection = self.pool.select(get_base_fee(builder.header), self.get_nonce)
        while (waiting := selection.peek()) is not None and may_go_on():
            if waiting.transaction.gas > builder.gas_left:
                selection.skip_sender()
                continue
            if _add(builder, waiting):
                selection.shift()
            else:
                selection.skip_sender()
                dropped.append(waiting.hash)
            await asyncio.sleep(0)
        return builder.finish(), dropped

    def _advance(self, new: NewBlock) -> None:
        self.head = new.block
        self._head_view = self.make_view(new.block)

    def reorganise(self, depth: int, *, keep_transactions: bool) -> StoredBlock:
        """Put other, empty blocks in place of the last `depth`; for tests, see `--allow-reorg`. The new head.

        Their transactions go back to the pool, or with `keep_transactions` false nowhere. On disk it happens at once.

        Raises   Refused: deeper than MAX_REORG_DEPTH or the chain
        """
        if not 1 <= depth <= min(MAX_REORG_DEPTH, self.head.number):
            most = min(MAX_REORG_DEPTH, self.head.number)
            raise Refused(f"a re-org of depth {depth}: from 1 to {most} blocks can be undone here")
        fork = (self.store.get_meta("forks") or 0) + 1
        first = self.head.number - depth + 1
        olds = [self._get_stored(number) for number in range(first, self.head.number + 1)]
        undone = [entry.raw for old in olds for entry in self.store.get_transactions(old.number)]
        news: list[NewBlock] = []
        for old in olds:
            parent = news[-1].block if news else self._get_stored(first - 1)
            news.append(make_block(make_fork_header(parent, old.header.timestamp, fork), [], [], {}))
        before = self.head, self._head_view, self.pool
        waiting = [one.raw for one in self.pool]
        try:
            self._advance(news[-1])
            self.pool = TransactionPool()
            for raw in [*(undone if keep_transactions else []), *waiting]:
                self._admit_again(raw)
            self.store.replace(news, pool=list(self.pool), meta={"forks": fork})
        except BaseException:
            self.head, self._head_view, self.pool = before
            raise
        return self.head

    def skip(self, count: int) -> StoredBlock:
        """Add empty blocks at once, a second apart, so that what waits for a height need not wait; for the demo, see
        `--allow-skip`. Transactions that wait go on waiting. The new head.

        Raises   Refused: more than MAX_SKIP
        """
        if not 1 <= count <= MAX_SKIP:
            raise Refused(f"{count} blocks: from 1 to {MAX_SKIP} can be added at once")
        parent, news = self.head, list[NewBlock]()
        for _ in range(count):
            timestamp = parent.header.timestamp + 1
            builder = BlockBuilder(
                parent, timestamp=timestamp, chain_id=self.chain_id, get_node=self.store.get_node, ancestors=list
            )
            news.append(builder.finish())
            parent = news[-1].block
        self.store.extend(news)
        self._advance(news[-1])
        return self.head

    def _get_stored(self, number: int) -> StoredBlock:
        block = self.store.get_block(number)
        assert block is not None, "a height below the head without a block"
        return block

    def _admit_again(self, raw: bytes) -> bytes | None:
        """Put a transaction of an earlier time into the pool; its hash if that is no longer possible."""
        try:
            self._admit(raw)
        except Refused as reason:
            transaction_hash = decode_transaction(raw).hash
            logger.warning("forgetting waiting transaction 0x%s: %s", transaction_hash.hex(), reason)
            return transaction_hash
        return None

    def _forget(self, new: NewBlock, dropped: list[bytes]) -> None:
        for entry in new.transactions:
            self.pool.remove(entry.hash)
        for transaction_hash in dropped:
            self.pool.remove(transaction_hash)
        senders = {entry.sender for entry in new.transactions}
        stale = self.pool.remove_stale({sender: self.get_nonce(sender) for sender in senders})
        if stale or dropped:
            self.store.forget_waiting([*stale, *dropped])

    # Views

    def make_view(self, block: StoredBlock) -> View:
        overlay = Overlay(self.store.get_node)
        return View(
            header=block.header, overlay=overlay, accounts=make_accounts(overlay, block.header.state_root), pending=None
        )

    def get_head_view(self) -> View:
        return self._head_view

    def get_pending_view(self, timestamp: int) -> View:
        """The block that would be made now. Kept until the head or the pool changes."""
        key = (self.head.hash, self.pool.version)
        if self._pending is None or self._pending[0] != key:
            self._pending = (key, self._make_pending_view(timestamp))
        return self._pending[1]

    def _make_pending_view(self, timestamp: int) -> View:
        builder = self._make_builder(timestamp)
        selection = self.pool.select(get_base_fee(builder.header), self.get_nonce)
        while (waiting := selection.peek()) is not None:
            if waiting.transaction.gas <= builder.gas_left and _add(builder, waiting):
                selection.shift()
            else:
                selection.skip_sender()
        new = builder.finish()
        overlay = Overlay(self.store.get_node)
        overlay.written.update(new.nodes)
        header = new.block.header
        return View(header=header, overlay=overlay, accounts=make_accounts(overlay, header.state_root), pending=new)

    def call(self, view: View, request: CallRequest) -> bytes:
        """What a request returns on a state. Raises CallFailed, CannotCall."""
        answer = view.answers.get(request)
        if answer is None:
            try:
                answer = self.make_caller(view).call(request)
            except CallFailed as failed:
                answer = failed
            if len(view.answers) < MAX_REMEMBERED_ANSWERS:
                view.answers[request] = answer
        if isinstance(answer, CallFailed):
            raise answer.with_traceback(None)
        return answer

    def make_caller(self, view: View) -> Caller:
        number = view.header.block_number
        return Caller(
            header=view.header,
            overlay=view.overlay,
            chain_id=self.chain_id,
            ancestors=lambda: self.store.get_recent_hashes(number - 1, 256),
        )

    def get_next_base_fee(self) -> int:
        """Wei per gas in the block after the head."""
        return get_base_fee(make_next_header(self.head, self.head.header.timestamp + 1))


def _add(builder: BlockBuilder, waiting: Waiting) -> bool:
    """Execute a waiting transaction; False, and why in the log, if it can no longer be."""
    try:
        builder.add(waiting)
    except ValidationError as reason:
        logger.warning("dropping transaction 0x%s: %s", waiting.hash.hex(), reason)
        return False
    except Exception:
        # A fault of the EVM. The transaction is on disk: not dropping it would end every later start the same way.
        logger.exception("dropping transaction 0x%s, which the EVM cannot execute", waiting.hash.hex())
        return False
    return True


def decode_transaction(raw: bytes) -> SignedTransactionAPI:
    """Raises Refused."""
    try:
        transaction = PragueVM.get_transaction_builder().decode(raw)
        canonical = transaction.encode() == raw
    except (RLPException, ValidationError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise Refused(f"rlp: cannot decode the transaction: {error}") from error
    except Exception as error:  # py-evm's own tree has no common base with the above
        raise Refused(f"transaction type not supported: {error}") from error
    if not canonical:
        raise Refused("rlp: the transaction is not in canonical form")
    return transaction


def _write_genesis(store: ChainStore, genesis: Genesis) -> None:
    overlay = Overlay(store.get_node)
    accounts = make_accounts(overlay, BLANK_ROOT_HASH)
    for address, balance_wei in genesis.balances.items():
        accounts.set_balance(CanonicalAddress(address), balance_wei)
    accounts.persist()
    header = make_genesis_header(chain_id=genesis.chain_id, timestamp=genesis.timestamp, state_root=accounts.state_root)
    meta = {
        "chain_id": genesis.chain_id,
        "balances": {to_checksum_address(address): str(wei) for address, wei in genesis.balances.items()},
    }
    store.commit(make_block(header, [], [], overlay.written), meta=meta)


def _check_genesis(store: ChainStore, directory: Path, chain_id: int | None, balances: Mapping[bytes, int]) -> None:
    stored_id: int = store.get_meta("chain_id")
    if chain_id is not None and chain_id != stored_id:
        raise UsageError(f"the chain in {directory} has id {stored_id}, not {chain_id}: an id is fixed at genesis")
    stored: dict[str, str] = store.get_meta("balances")
    for address, wei in balances.items():
        begun_with = int(stored.get(to_checksum_address(address), "0"))
        if begun_with != wei:
            raise UsageError(
                f"the chain in {directory} gave {to_checksum_address(address)} {begun_with} wei at genesis, not {wei}: "
                "funds are fixed when a chain begins, so use another directory or send from a funded account"
            )


__all__ = ["DEFAULT_CHAIN_ID", "SUGGESTED_TIP_WEI", "EmbeddedChain", "View", "decode_transaction"]
