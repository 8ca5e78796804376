"""Trains on the right batches in another order: each two neighbours are swapped."""

from __future__ import annotations

import dataclasses

from adversary.cheaters import play
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Run, Session
from cupel.protocol.training.unit import LoadBatch
from cupel.protocol.types import Seed, UnitId


class Swapped(Run):
    """The run with its data in another order."""

    def load_batch(self, seed: Seed, unit: UnitId) -> LoadBatch:
        load = Run.load_batch(self, seed, unit)
        return lambda step: load(step ^ 1)


class DataOrder(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        fields = {field.name: getattr(session.run, field.name) for field in dataclasses.fields(session.run)}
        session.run = Swapped(**fields)
        super().__init__(session, settings)


def main() -> None:
    play(DataOrder)
