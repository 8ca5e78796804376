"""Works rightly, and asks for each reward several times: twice in a transaction, then again."""

from __future__ import annotations

from adversary.cheaters import play
from cupel.chain.errors import ContractReverted
from cupel.miner.miner import Miner


class DoubleClaim(Miner):
    def _claim(self, rounds: tuple[int, ...]) -> None:
        self._try((*rounds, *rounds))
        super()._claim(rounds)
        self._try(rounds)
        self._try((*rounds, *rounds))

    def _try(self, rounds: tuple[int, ...]) -> None:
        try:
            self.contract.claim(rounds)
            self.log.info("claimed once more", rounds=rounds)
        except ContractReverted as refused:
            self.log.warning("second claim refused", reason=str(refused))


def main() -> None:
    play(DoubleClaim)
