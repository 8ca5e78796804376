"""Commits to what it trained, and opens something else: another loss than the leaf holds."""

from __future__ import annotations

import dataclasses

from adversary.cheaters import play
from cupel.chain.run_values import Opened
from cupel.miner.miner import Miner
from cupel.protocol.training.unit import Commitment

FALSE_LOSS = bytes(4)


class LyingOpening(Miner):
    @staticmethod
    def _opened(commitment: Commitment, segment: int) -> Opened:
        opened = Miner._opened(commitment, segment)
        return dataclasses.replace(opened, answer=dataclasses.replace(opened.answer, loss=FALSE_LOSS))


def main() -> None:
    play(LyingOpening)
