"""One weight is one unit in the last place off, at the end of every segment."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import change_first, spoil_last
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped


def bend(before: State, stepped: Stepped) -> Stepped:
    def up(weight: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(weight, torch.tensor(float("inf")))

    return Stepped(change_first(stepped.state, "weights", up), stepped.loss, stepped.gradient_norm)


class OneUlp(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self.step = spoil_last(self.step, self.parameters.segment_steps, bend)


def main() -> None:
    play(OneUlp)
