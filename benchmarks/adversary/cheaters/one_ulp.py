"""One weight is one unit in the last place off, at the end of every segment."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner, change_first
from cupel.protocol.training.unit import State, Stepped


class OneUlp(SpoilingMiner):
    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        def up(weight: torch.Tensor) -> torch.Tensor:
            return torch.nextafter(weight, torch.tensor(float("inf")))

        return Stepped(change_first(stepped.state, "weights", up), stepped.loss, stepped.gradient_norm)


def main() -> None:
    play(OneUlp)
