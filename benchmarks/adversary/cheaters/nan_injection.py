"""Puts one NaN into the weights: merged, it would end the model."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import change_first, spoil_last
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped


def poison(before: State, stepped: Stepped) -> Stepped:
    state = change_first(stepped.state, "weights", lambda weight: torch.full_like(weight, float("nan")))
    return Stepped(state, stepped.loss, stepped.gradient_norm)


class NanInjection(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self.step = spoil_last(self.step, self.parameters.segment_steps, poison)


def main() -> None:
    play(NanInjection)
