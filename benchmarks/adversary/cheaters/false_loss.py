"""Trains rightly and commits to a loss that looks better: the states are right, the evidence is not."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import spoil_last
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped


def flatter(before: State, stepped: Stepped) -> Stepped:
    return Stepped(stepped.state, stepped.loss * torch.tensor(0.5), stepped.gradient_norm)


class FalseLoss(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self.step = spoil_last(self.step, self.parameters.segment_steps, flatter)


def main() -> None:
    play(FalseLoss)
