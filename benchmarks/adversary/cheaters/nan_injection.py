"""Puts one NaN into the weights: merged, it would end the model."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner, change_first
from cupel.protocol.training.unit import State, Stepped


class NanInjection(SpoilingMiner):
    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        state = change_first(stepped.state, "weights", lambda weight: torch.full_like(weight, float("nan")))
        return Stepped(state, stepped.loss, stepped.gradient_norm)


def main() -> None:
    play(NanInjection)
