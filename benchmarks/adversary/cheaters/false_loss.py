"""Trains rightly and commits to a loss that looks better: the states are right, the evidence is not."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner
from cupel.protocol.training.unit import State, Stepped


class FalseLoss(SpoilingMiner):
    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        return Stepped(stepped.state, stepped.loss * torch.tensor(0.5), stepped.gradient_norm)


def main() -> None:
    play(FalseLoss)
