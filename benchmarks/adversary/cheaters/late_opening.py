"""Opens its unit once the time for it is over."""

from __future__ import annotations

from adversary.cheaters import play
from cupel.miner.miner import Miner


class LateOpening(Miner):
    def _open(self, index: int) -> None:
        # A block sent now comes after the one seen: this is the first opening that is too late.
        while self.session.chain.head().number < self.current.until:
            self.session.check_stop()
            self.session.stop.wait(0.02)
        super()._open(index)


def main() -> None:
    play(LateOpening)
