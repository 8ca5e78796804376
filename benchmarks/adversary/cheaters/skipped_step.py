"""Trains one step less in every segment: the state is what it was, and only the counter moves."""

from __future__ import annotations

from adversary.cheaters import play
from adversary.cheaters.steps import SpoilingMiner
from cupel.protocol.training.unit import State, Stepped


class SkippedStep(SpoilingMiner):
    @staticmethod
    def spoil(before: State, stepped: Stepped) -> Stepped:
        return Stepped({**before, "step": stepped.state["step"]}, stepped.loss, stepped.gradient_norm)


def main() -> None:
    play(SkippedStep)
