"""Starts every segment but the first with a mean gradient of its own: one moment of Adam is set to nothing."""

from __future__ import annotations

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import first_of, spoil_last
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped


def forget(before: State, stepped: Stepped) -> Stepped:
    name = first_of(stepped.state, "adam_m")
    state = {**stepped.state, name: torch.zeros_like(stepped.state[name])}
    return Stepped(state, stepped.loss, stepped.gradient_norm)


class OptimizerState(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self.step = spoil_last(self.step, self.parameters.segment_steps, forget)


def main() -> None:
    play(OptimizerState)
