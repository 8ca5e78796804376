"""Bends one segment of each unit and gives nobody the states around it but to those drawn for them: who is drawn for
other segments finds nothing, and who looks afterwards gets no state to begin from.
"""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner, change_first
from cupel.miner.settings import MinerSettings
from cupel.network.ipfs.admission import Refusal
from cupel.network.ipfs.cid import ParsedCid
from cupel.node.access import Checkpoint
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped

BENT = 1
"""The segment: neither the first, whose start everybody has, nor the last, whose end everybody needs."""


class UndrawnSegment(SpoilingMiner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        spoiled, right, done = self.step, self._right_step, 0
        steps, segments = self.parameters.segment_steps, self.parameters.segments

        def step(state: State, tokens: torch.Tensor) -> Stepped:
            nonlocal done
            done += 1
            # `spoiled` counts the steps it is asked for: all of them, whatever is taken of what it gives.
            bent = spoiled(state, tokens)
            return bent if (done - 1) // steps % segments == BENT else right(state, tokens)

        self.step = step
        access = session.access
        is_public, refuse = access.is_public, access.refuse

        def is_inner(cid: ParsedCid) -> bool:
            found = [Checkpoint.of_pin(name) for name in access._index.names(cid)]
            return any(one is not None and 0 < one.leaf < segments for one in found)

        def refuse_more(cid: ParsedCid, authorization: str | None) -> Refusal | None:
            # The rule first: it looks where the run stands.
            refused = refuse(cid, authorization)
            return Refusal(404, f"{cid}: not here") if refused is None and is_inner(cid) and is_public(cid) else refused

        access.is_public = lambda cid: not is_inner(cid) and is_public(cid)
        access.refuse = refuse_more

    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        state = change_first(stepped.state, "weights", lambda weight: torch.nextafter(weight, torch.tensor(9.0)))
        return Stepped(state, stepped.loss, stepped.gradient_norm)


def main() -> None:
    play(UndrawnSegment)
