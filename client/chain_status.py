"""A run as its chain tells it, all as of one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cupel.chain.client import ChainClient
from cupel.chain.run_contract import RunContract, TokenContract
from cupel.chain.run_file import RunFile
from cupel.protocol.errors import UsageError
from cupel.protocol.types import Address, Height, RoundIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatus:
    """One committed unit."""

    unit: bytes
    miner: str
    index: int
    status: str
    opened: bool
    verifiers: int
    sealed: int
    agreed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStatus:
    """One round, over or under way."""

    round: int
    start_root: bytes
    start_cid: str
    miners: int
    verifiers: int
    units: int
    """That may be committed."""
    committed: int
    attested: int
    merged: bool
    ended_at: int
    """Height; 0 while it is under way."""
    list_of_units: tuple[UnitStatus, ...]
    """Filled where one round was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatStatus:
    """One seat."""

    account: str
    role: str
    leaving: bool
    frozen: int
    """Units drawn for a miner, slots of a verifier, in this round."""
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus:
    """What an account has in the run; wei and token units are text, which no JSON reader rounds."""

    address: str
    role: str
    deposit_wei: str
    locked_wei: str
    balance_wei: str
    tokens: str
    """In the wallet."""
    pending_tokens: str
    claimable_tokens: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """The whole."""

    chain_id: int
    contract: str
    block: int
    round: int
    phase: str
    until: int
    """Last block of the phase, or the height whose beacon value is awaited; 0 while too few members wait."""
    token_supply: str
    seats: tuple[SeatStatus, ...]
    rounds: tuple[RoundStatus, ...]
    """Newest last."""
    accounts: tuple[AccountStatus, ...]


class _Reader:
    def __init__(self, client: ChainClient, run: RunFile) -> None:
        self.client, self.run = client, run
        self.contract, self.token = RunContract(client, run.contract), TokenContract(client, run.token)
        self.at = client.head().number
        """Everything is asked as of this block."""

    def round(self, number: int, *, with_units: bool) -> RoundStatus:
        view = self.contract.get_round(number, at=self.at)
        root, cid = self.contract.get_state(number, at=self.at)
        units = self.contract.get_units(number, at=self.at) if with_units else ()
        return RoundStatus(
            round=number,
            start_root=root,
            start_cid=cid or "",
            miners=view.miners,
            verifiers=view.verifiers,
            units=view.units,
            committed=view.committed,
            attested=view.attested,
            merged=view.merged,
            ended_at=view.ended_at,
            list_of_units=tuple(
                UnitStatus(
                    unit=unit.unit_id,
                    miner=unit.miner,
                    index=unit.index,
                    status=unit.status.name.lower(),
                    opened=unit.opened,
                    verifiers=len(unit.verifiers),
                    sealed=unit.sealed_mask.bit_count(),
                    agreed=unit.agreed_mask.bit_count(),
                )
                for unit in units
            ),
        )

    def account(self, address: Address, current: RoundIndex) -> AccountStatus:
        member = self.contract.member_of(address, at=self.at)
        entries = self.contract.claimable(address, 0, current + 1, at=self.at)
        claimable = sum(e.tokens for e in entries if 0 < e.mature_at <= self.at)
        return AccountStatus(
            address=address,
            role=member.role.name.lower(),
            deposit_wei=str(member.deposit),
            locked_wei=str(member.locked),
            balance_wei=str(self.client.get_balance(address)),
            tokens=str(self.token.balance_of(address, at=self.at)),
            pending_tokens=str(sum(e.tokens for e in entries) - claimable),
            claimable_tokens=str(claimable),
        )


def read_status(
    client: ChainClient, run: RunFile, *, last_rounds: int, number: int | None, addresses: Sequence[Address]
) -> RunStatus:
    """The run now: its newest rounds, or one of them with its units, and these accounts.

    Raises   UsageError: no run is there, or no such round; ChainUnreachable
    """
    if not client.has_code(run.contract):
        raise UsageError(f"no contract is at {run.contract} on chain {client.chain_id}: is this the run's chain?")
    reader = _Reader(client, run)
    current = reader.contract.current(at=reader.at)
    if number is not None and number > current.round:
        raise UsageError(f"no round {number} yet: the run is in round {current.round}")
    wanted = [number] if number is not None else range(max(0, current.round - last_rounds + 1), current.round + 1)
    seated = reader.contract.participants(at=reader.at)
    return RunStatus(
        chain_id=client.chain_id,
        contract=run.contract,
        block=Height(reader.at),
        round=current.round,
        phase=current.phase.name.lower(),
        until=current.until,
        token_supply=str(reader.token.total_supply(at=reader.at)),
        seats=tuple(
            SeatStatus(
                account=one.account,
                role=one.role.name.lower(),
                leaving=one.leaving,
                frozen=one.frozen,
                endpoint=one.endpoint,
            )
            for one in seated
        ),
        rounds=tuple(reader.round(one, with_units=number is not None) for one in wanted),
        accounts=tuple(reader.account(one, current.round) for one in addresses),
    )
