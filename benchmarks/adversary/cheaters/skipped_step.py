"""Trains one step less in every segment: the state is what it was, and only the counter moves."""

from __future__ import annotations

from adversary.cheaters import play
from adversary.cheaters.steps import spoil_last
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Session
from cupel.protocol.training.unit import State, Stepped


def stand_still(before: State, stepped: Stepped) -> Stepped:
    return Stepped({**before, "step": stepped.state["step"]}, stepped.loss, stepped.gradient_norm)


class SkippedStep(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        self.step = spoil_last(self.step, self.parameters.segment_steps, stand_still)


def main() -> None:
    play(SkippedStep)
