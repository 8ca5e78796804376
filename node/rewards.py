"""What a node has earned and put up, by round: read when a round ended, aged by heights in between."""

from __future__ import annotations

from cupel.chain.run_contract import CLAIM_ROUNDS, RunContract
from cupel.chain.run_values import Claimable
from cupel.node.journal import Journal
from cupel.protocol.types import Address, Height

KIND, NAME = "rewards", b"first"
"""The document that says from which round on there may be something."""
REORG_BLOCKS = 256
"""A claim younger than this may be undone: its rounds are still looked at."""


class Rewards:
    """One account's entries in one run."""

    def __init__(self, contract: RunContract, journal: Journal, address: Address) -> None:
        self._contract, self._journal, self._address = contract, journal, address
        self._entries: tuple[Claimable, ...] = ()
        self._claims: list[tuple[Height, int]] = []
        """Height and lowest round of this process's newest claims."""
        known = journal.get(KIND, NAME)
        self._first = 0 if known is None else int(known["round"])
        self._is_fresh = True

    def read(self, current_round: int, height: Height) -> tuple[Claimable, ...]:
        """Ask the chain anew. Raises ProtocolError, ChainUnreachable; the earlier entries then stay."""
        self._entries = self._contract.claimable(self._address, self._first, current_round + 1)
        if self._is_fresh:
            # What an earlier process claimed a moment ago may be undone as well.
            self._claims, self._is_fresh = [(height, self._first)], False
        self._claims = [(at, lowest) for at, lowest in self._claims if at + REORG_BLOCKS > height]
        first = min((entry.round for entry in self._entries), default=current_round)
        first = min([first, *(lowest for _, lowest in self._claims)])
        if first > self._first:
            self._first = first
            self._journal.put(KIND, NAME, 0, {"round": first})
        return self._entries

    def note_claim(self, rounds: tuple[int, ...], height: Height) -> None:
        """These rounds were claimed in a block of that height."""
        self._claims.append((height, min(rounds)))

    def find_ripe(self, height: Height) -> tuple[int, ...]:
        """Rounds to claim in a block after `height`, as many as one transaction takes."""
        ripe = [entry.round for entry in self._entries if self._is_mature(entry, height)]
        if not ripe:
            return ()
        # What is mature is not final while a dispute or an earlier round keeps it.
        settling = self._contract.finality().settling
        return tuple(round_ for round_ in ripe if round_ < settling)[:CLAIM_ROUNDS]

    def list_at_stake(self) -> tuple[Claimable, ...]:
        """Rounds in which a bond or a stake is kept: what was done there can cost it."""
        return tuple(entry for entry in self._entries if entry.bonds > 0 or entry.held > 0)

    def count_tokens(self, rounds: tuple[int, ...]) -> int:
        """What claiming these mints, in the token's smallest unit."""
        return sum(entry.tokens for entry in self._entries if entry.round in rounds)

    def count(self, height: Height) -> tuple[int, int]:
        """Tokens that are pending, and that are mature and not claimed."""
        mature = sum(entry.tokens for entry in self._entries if self._is_mature(entry, height))
        return sum(entry.tokens for entry in self._entries) - mature, mature

    @staticmethod
    def _is_mature(entry: Claimable, height: Height) -> bool:
        # A transaction sent now is in the next block at the earliest.
        return (entry.tokens > 0 or entry.bonds > 0 or entry.held > 0) and 0 < entry.mature_at <= height + 1
