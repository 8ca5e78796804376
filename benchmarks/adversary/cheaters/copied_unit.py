"""Is drawn two units, trains one, and commits to its states twice: work done once, to be paid twice.

A copy of somebody else's unit is the same with less: its states are withheld until the draw, its salts until opened.
"""

from __future__ import annotations

from adversary.cheaters import play
from cupel.miner.miner import Miner


class CopiedUnit(Miner):
    def _train(self, index: int) -> None:
        original = self._unit_work(0)
        if index == 0 or original is None or len(original.answers) < self.parameters.segments:
            super()._train(index)
            return
        copy = self._begin(index)
        copy.answers, copy.cids = list(original.answers), list(original.cids)
        copy.save(self.session.journal)
        self._name_again(copy)
        self.log.info("copied", unit=index)


def main() -> None:
    play(CopiedUnit)
