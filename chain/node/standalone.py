"""Contracts executed in this process under Prague's rules: no chain, no file, no network, nothing that lasts."""

from __future__ import annotations

from typing import Any

from eth.abc import ComputationAPI, StateAPI
from eth.constants import BLANK_ROOT_HASH
from eth.exceptions import Revert
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_typing import Address as CanonicalAddress
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.exceptions import ValidationError

from cupel.chain.abi import Call
from cupel.chain.errors import TransactionRejected
from cupel.chain.node.execution import GAS_LIMIT, make_genesis_header, make_state
from cupel.chain.node.store import Overlay
from cupel.chain.reading import make_reverted
from cupel.protocol.types import Address

_CHAIN_ID = 31_337
_SENDER = CanonicalAddress(b"cupel standalone evm")


class StandaloneEvm:
    """A state that holds what was deployed to it. Gas is free, and a call may use a whole block's."""

    def __init__(self) -> None:
        header = make_genesis_header(chain_id=_CHAIN_ID, timestamp=0, state_root=BLANK_ROOT_HASH)
        free = header.copy(base_fee_per_gas=0)
        self._state: StateAPI = make_state(Overlay(_no_node), free, _CHAIN_ID, lambda: ())

    def deploy(self, call: Call) -> Address:
        """Create a contract (`ContractAbi.bind_deployment`). Raises ContractReverted, TransactionRejected."""
        computation = self._apply(call)
        return Address(to_checksum_address(computation.msg.storage_address))

    def ask(self, call: Call) -> tuple[Any, ...]:
        """What a function answers; what it changed is undone. Raises ContractReverted, TransactionRejected."""
        snapshot = self._state.snapshot()
        try:
            return call.function.decode(self._apply(call).output)
        finally:
            self._state.revert(snapshot)

    def _apply(self, call: Call) -> ComputationAPI:
        unsigned = PragueVM.get_transaction_builder().new_unsigned_dynamic_fee_transaction(  # type: ignore[attr-defined]
            chain_id=_CHAIN_ID,
            nonce=self._state.get_nonce(_SENDER),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas=GAS_LIMIT,
            to=CanonicalAddress(b"" if call.to is None else to_canonical_address(call.to)),
            value=0,
            data=call.data,
            access_list=(),
        )
        try:
            transaction: Any = SpoofTransaction(unsigned, from_=_SENDER)
            computation = self._state.apply_transaction(transaction)
        except ValidationError as error:  # as with more calldata than a block's gas pays for
            raise TransactionRejected(call.what, code=0, message=str(error)) from error
        if not computation.is_error:
            return computation
        if isinstance(computation.error, Revert):
            raise make_reverted(call, computation.output, None)
        raise TransactionRejected(call.what, code=0, message=type(computation.error).__name__)


def _no_node(key: bytes) -> bytes:
    """Nothing is stored but what this state wrote itself."""
    raise KeyError(key)
