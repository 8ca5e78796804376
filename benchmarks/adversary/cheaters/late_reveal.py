"""Seals what it found, and reveals it only once the time for it is over: it lets others answer first."""

from __future__ import annotations

from adversary.cheaters import play
from cupel.verifier.verifier import Verifier


class LateReveal(Verifier):
    def _reveal(self, units: tuple[bytes, ...]) -> None:
        while self.session.chain.head().number < self.current.until:
            self.session.check_stop()
            self.session.stop.wait(0.02)
        super()._reveal(units)


def main() -> None:
    play(LateReveal)
