"""Is drawn two units, trains one, and commits to its states twice: work done once, to be paid twice.

A copy of somebody else's unit is the same with less: its states are withheld until the draw, its salts until opened.
"""

from __future__ import annotations

from adversary.cheaters import play
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.miner.work import UnitWork
from cupel.node.disputes.holding import SegmentRun
from cupel.node.session import Session
from cupel.protocol.merkle import unit_id
from cupel.protocol.training.state import NamedState
from cupel.protocol.types import RoundIndex, Seed, UnitId


class CopiedUnit(Miner):
    """In a dispute about the copy it shows what it did: the first unit's steps, on the first unit's data."""

    def __init__(self, session: Session, settings: MinerSettings) -> None:
        super().__init__(session, settings)
        sides = self.disputes.sides
        run_segment = sides.run_segment

        def run_original(unit: UnitId, seed: Seed, state: NamedState, segment: int) -> SegmentRun:
            work = UnitWork.load(self.session.journal, unit)
            shown = unit
            if work is not None and work.index > 0:
                run = self.session.run_file
                shown = unit_id(run.chain_id, run.contract, RoundIndex(work.round), self.session.address, 0)
            return run_segment(shown, seed, state, segment)

        sides.run_segment = run_original

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
