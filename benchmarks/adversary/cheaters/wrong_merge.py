"""Proposes a merge in which one weight is one ulp off, before anybody else does, and acknowledges it as a juror."""

from __future__ import annotations

import dataclasses

import torch

from adversary.cheaters import play
from adversary.cheaters.steps import change_first
from cupel.node.decisions import MergeFacts
from cupel.protocol import merkle
from cupel.verifier.verifier import Verifier


class WrongMerge(Verifier):
    def _gather_merge(self) -> MergeFacts:
        return dataclasses.replace(super()._gather_merge(), order=0)

    def _compute_merge(self) -> None:
        super()._compute_merge()
        merged = self._merged.get(self.current.round)
        if merged is None:
            return

        def up(weight: torch.Tensor) -> torch.Tensor:
            return torch.nextafter(weight, torch.tensor(float("inf")))

        state = dict(change_first(merged.state, "weights", up))
        root = merkle.state_root(state)
        cid = self.session.states.put(state, f"start/{root.hex()}")
        self._merged[self.current.round] = dataclasses.replace(merged, root=root, cid=cid, state=state)


def main() -> None:
    play(WrongMerge)
