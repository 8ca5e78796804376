"""Trains and commits rightly, and gives nobody a state of its unit: who cannot replay it cannot find anything."""

from __future__ import annotations

from adversary.cheaters import play
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.network.ipfs.admission import Refusal
from cupel.network.ipfs.cid import ParsedCid
from cupel.node.access import Checkpoint
from cupel.node.session import Session


class WithheldState(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        access = session.access
        is_public, refuse = access.is_public, access.refuse

        def is_withheld(cid: ParsedCid) -> bool:
            names = access._index.names(cid)
            return any((found := Checkpoint.of_pin(name)) is not None and found.leaf > 0 for name in names)

        def refuse_more(cid: ParsedCid, authorization: str | None) -> Refusal | None:
            return Refusal(404, f"{cid}: not here") if is_withheld(cid) else refuse(cid, authorization)

        # What it gives away is the one thing that nobody else decides.
        access.is_public = lambda cid: not is_withheld(cid) and is_public(cid)
        access.refuse = refuse_more


def main() -> None:
    play(WithheldState)
