"""Trains on a text of its own: the same token over and over."""

from __future__ import annotations

import dataclasses

import torch

from adversary.cheaters import play
from cupel.miner.miner import Miner
from cupel.miner.settings import MinerSettings
from cupel.node.session import Run, Session
from cupel.protocol.training.unit import LoadBatch
from cupel.protocol.types import Seed, UnitId

FAVOURITE = 7


class Propaganda(Run):
    """The run with other data."""

    def load_batch(self, seed: Seed, unit: UnitId) -> LoadBatch:
        load = Run.load_batch(self, seed, unit)
        return lambda step: torch.full_like(load(step), FAVOURITE)


class WrongData(Miner):
    def __init__(self, session: Session, settings: MinerSettings) -> None:
        fields = {field.name: getattr(session.run, field.name) for field in dataclasses.fields(session.run)}
        session.run = Propaganda(**fields)
        super().__init__(session, settings)


def main() -> None:
    play(WrongData)
