"""Starts every segment but the first with a mean gradient of its own: one moment of Adam is set to nothing."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner, first_of
from cupel.protocol.training.unit import State, Stepped


class OptimizerState(SpoilingMiner):
    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        name = first_of(stepped.state, "adam_m")
        state = {**stepped.state, name: torch.zeros_like(stepped.state[name])}
        return Stepped(state, stepped.loss, stepped.gradient_norm)


def main() -> None:
    play(OptimizerState)
