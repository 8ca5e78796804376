"""Jurors that acknowledged a merge which was then convicted: each loses a stake, once somebody says so on chain.

Saying it brings nothing but a sound run, and costs some gas. So whoever brought the conviction does it at once, and
everybody else only where that one is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cupel.chain.errors import ContractReverted
from cupel.chain.run_contract import RunContract
from cupel.chain.run_events import Acknowledged
from cupel.node.log import Log
from cupel.protocol.hashing import sha256
from cupel.protocol.types import Address, Height, RoundIndex

TURN_BLOCKS = 3
CROWD = 8
FASTER = frozenset({"NotAcknowledgedBy"})
"""Refusals that only say that somebody else did it meanwhile."""

FindCandidate = Callable[[bytes], tuple[RoundIndex, int | None]]
"""Round and candidate of a subject; no candidate if it is a unit. Raises Unavailable."""


class Acknowledgements:
    """Of one run's convicted candidates, as one node deals with them."""

    def __init__(self, contract: RunContract, me: Address, find: FindCandidate, log: Log) -> None:
        self._contract, self._me, self._find, self._log = contract, me, find, log
        self._since: dict[bytes, Height] = {}
        """Convicted candidates that are not dealt with, and since when this node waits."""
        self._settled: set[bytes] = set()

    def forget(self) -> None:
        """A re-org may have taken back what was done about them."""
        self._settled.clear()
        self._since.clear()

    def slash(self, convicted: Collection[bytes], own: Collection[bytes], height: Height) -> bool:
        """Burn stakes whose turn it is; whether anything was sent. Raises ProtocolError, ChainUnreachable.

        own  subjects that this node itself had convicted
        """
        sent = False
        for subject in sorted(set(convicted) - self._settled):
            since = self._since.setdefault(subject, height)
            if subject not in own and height < since + self._wait_blocks(subject):
                continue
            round_, candidate = self._find(subject)
            for juror in () if candidate is None else self._list_jurors(round_, candidate):
                assert candidate is not None
                try:
                    self._contract.slash_acknowledgement(round_, candidate, juror)
                except ContractReverted as refused:
                    if refused.error_name not in FASTER:
                        raise
                else:
                    self._log.info("false acknowledgement slashed", round=round_, candidate=candidate, juror=juror)
                    sent = True
            self._settled.add(subject)
            self._since.pop(subject)
        return sent

    def _wait_blocks(self, subject: bytes) -> int:
        return TURN_BLOCKS * (1 + sha256(self._me.encode() + subject)[0] % CROWD)

    def _list_jurors(self, round_: RoundIndex, candidate: int) -> list[Address]:
        """Who acknowledged it and has not been slashed for that; not this node, whom others may."""
        judged_at = self._contract.get_round(round_).judged_at
        events = self._contract.get_events(Acknowledged, first_block=judged_at)
        said = {one.juror for one in events if (one.round, one.candidate) == (round_, candidate)} - {self._me}
        return [juror for juror in sorted(said) if self._contract.acknowledged_by(round_, juror) == candidate]
