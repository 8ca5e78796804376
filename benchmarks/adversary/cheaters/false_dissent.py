"""Seals that right work is wrong, so that its miner goes without reward: a vote, where none should count."""

from __future__ import annotations

import dataclasses

from adversary.cheaters import play
from cupel.chain.run_values import Answer, UnitView
from cupel.verifier.verifier import Verifier

NO_LOSS = bytes(4)


class FalseDissent(Verifier):
    def _answers(self, unit: UnitView) -> list[Answer]:
        return [dataclasses.replace(answer, loss=NO_LOSS) for answer in super()._answers(unit)]


def main() -> None:
    play(FalseDissent)
