"""Proposes a merge in which one weight is one ulp off, before anybody else does, and acknowledges it as a juror."""

from __future__ import annotations

from dataclasses import replace

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import change_first, forge
from cupel.chain.court_events import DisputeRecord
from cupel.node.decisions import MergeFacts
from cupel.node.session import Session
from cupel.protocol import merkle
from cupel.protocol.disputes.game import Defence
from cupel.protocol.training.unit import State
from cupel.verifier.settings import VerifierSettings
from cupel.verifier.verifier import Verifier


def bend(_: State, merged: State) -> State:
    def up(weight: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(weight, torch.tensor(float("inf")))

    return change_first(merged, "weights", up)


class WrongMerge(Verifier):
    """Defends it with a trace that ends as it says. It accuses nobody: it knows who is right."""

    def __init__(self, session: Session, settings: VerifierSettings) -> None:
        super().__init__(session, settings)
        sides = self.disputes.sides
        defend = sides.defend

        def defend_bent(record: DisputeRecord) -> Defence:
            defence = defend(record)
            return replace(defence, hold=lambda step: forge(defence.hold(step), bend))

        sides.defend = defend_bent

    def _gather_merge(self) -> MergeFacts:
        return replace(super()._gather_merge(), order=0)

    def _compute_merge(self) -> None:
        super()._compute_merge()
        merged = self._merged.get(self.current.round)
        if merged is None:
            return
        state = dict(bend({}, merged.state))
        root = merkle.state_root(state)
        cid = self.session.states.put(state, f"start/{root.hex()}")
        self._merged[self.current.round] = replace(merged, root=root, cid=cid, state=state)


def main() -> None:
    play(WrongMerge)
