"""Accuses units of the first round that are right, and goes on to the last move: its own last step ends otherwise."""

from __future__ import annotations

from dataclasses import replace

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import change_first, forge
from cupel.chain.court_events import DisputeRecord
from cupel.chain.run_values import Status, UnitView
from cupel.node.session import Session
from cupel.protocol.disputes.game import Challenge, StepHeld
from cupel.protocol.training.unit import State
from cupel.verifier.settings import VerifierSettings
from cupel.verifier.verifier import Verifier


def bend(_: State, right: State) -> State:
    def up(weight: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(weight, torch.tensor(float("inf")))

    return change_first(right, "weights", up)


class FalseAccusation(Verifier):
    """It seals and reveals the truth, so that there is nothing else to slash it for."""

    def __init__(self, session: Session, settings: VerifierSettings) -> None:
        super().__init__(session, settings)
        sides = self.disputes.sides
        right, last = sides.challenge, self.parameters.segment_steps - 1

        def pester(record: DisputeRecord) -> Challenge:
            challenge = right(record)

            def hold(step: int) -> StepHeld:
                return forge(challenge.hold(step), bend) if step == last else challenge.hold(step)

            end = hold(last).state_tree.root
            return replace(challenge, step_roots=[*challenge.step_roots[:-1], end], hold=hold, evidence=None)

        sides.challenge = pester

    def _accuse_if_wrong(self, unit: UnitView) -> None:
        if unit.round == 0 and unit.status == Status.ATTESTED:
            self.disputes.accuse_unit(unit, [0], "it is right")


def main() -> None:
    play(FalseAccusation)
