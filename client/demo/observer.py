"""Watching the run from outside: each ended round is fetched, checked, measured and put on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import torch

from cupel.archive import RoundSummary, RunArchive, UnitSummary, VerdictSummary
from cupel.chain.run_contract import RunContract
from cupel.chain.run_values import Phase, UnitView
from cupel.demo.settings import DemoSettings
from cupel.network.ipfs import BlockStore, Fetcher
from cupel.network.states import check_state_root, decode_state
from cupel.node.descriptions import MAX_DESCRIPTION_BYTES
from cupel.protocol.errors import Unavailable
from cupel.protocol.training.evaluate import evaluate
from cupel.protocol.training.state import NamedState, weights_of
from cupel.protocol.types import Cid, Root
from cupel.run_data import RunData, open_run

HELD_OUT_BATCHES = 24
"""Batches the loss is measured on: at the demo's shapes 24,576 tokens, always the same."""


class Observer:
    """Belongs to no party. Writes the archive; nothing here can change what the chain decides."""

    def __init__(self, settings: DemoSettings, archive: RunArchive, contract: RunContract) -> None:
        self._settings, self._archive, self._contract = settings, archive, contract
        self.run: RunData = open_run(archive)
        self.finished: list[RoundSummary] = list(archive.rounds())
        self.height = 0
        self._round_began = time.monotonic()
        genesis = self.run.read_state("genesis", self.run.parameters.genesis, self.run.parameters.genesis_root)
        self.genesis_loss = self._measure(genesis)
        self._loss = self.finished[-1].held_out_loss if self.finished else self.genesis_loss

    def _batches(self) -> Sequence[torch.Tensor]:
        held_out, config = self.run.held_out, self.run.programs.config
        length, batch = config.context + 1, config.batch
        places = [
            (shard, offset)
            for shard in range(len(held_out))
            for offset in range(0, held_out.shard_tokens - length, length)
        ]
        # Evenly over all held-out text, so that no single file decides the number.
        wanted = min(HELD_OUT_BATCHES * batch, len(places) // batch * batch)
        spread = [places[i * len(places) // wanted] for i in range(wanted)]
        return [held_out.batch(spread[i : i + batch], length) for i in range(0, wanted, batch)]

    def _measure(self, state: NamedState) -> float:
        return evaluate(self.run.programs.evaluate, weights_of(state), self._batches(), backend=self._settings.backend)

    def collect(self, number: int, peers: Sequence[str]) -> RoundSummary:
        """Archive an ended round: its end state, the descriptions of its units, and what the chain said of them."""
        view = self._contract.get_round(number)
        assert view.phase == Phase.ENDED, f"round {number} is in {view.phase.name}"
        start_root, start_cid = self._contract.get_state(number)
        end_root, end_cid = self._contract.get_state(number + 1)
        with BlockStore(self._archive.blocks) as store, Fetcher(store, list(peers)) as fetcher:
            if view.merged and end_cid is not None:
                data = fetcher.fetch_buffer(end_cid)
                state = decode_state(data)
                check_state_root(f"end of round {number}", state, end_root)
                store.pin(end_cid, f"state/{number + 1}")
                self._loss = self._measure(state)
            units = tuple(self._describe(unit, fetcher) for unit in self._contract.get_units(number))
        now = time.monotonic()
        summary = RoundSummary(
            round=number,
            seed=view.seed,
            start_root=start_root,
            start_cid=start_cid or "",
            end_root=end_root,
            end_cid=end_cid or "",
            merged=view.merged,
            units=units,
            held_out_loss=self._loss,
            ended_at=view.ended_at,
            seconds=now - self._round_began,
        )
        self._round_began = now
        self._archive.append(summary)
        self.finished.append(summary)
        return summary

    def _describe(self, unit: UnitView, fetcher: Fetcher) -> UnitSummary:
        if unit.cid is not None:
            # A miner may withhold its description; the chain's verdict stands without it.
            with contextlib.suppress(Unavailable):
                fetcher.fetch_to_store(unit.cid, max_bytes=MAX_DESCRIPTION_BYTES, pin=f"unit/{unit.unit_id.hex()}")
        return UnitSummary(
            unit=unit.unit_id,
            miner=unit.miner,
            index=unit.index,
            status=unit.status.name,
            root=unit.root,
            contribution=unit.contribution,
            cid=unit.cid or "",
            verdicts=tuple(
                VerdictSummary(
                    verifier=verifier,
                    did_seal=bool(unit.sealed_mask >> v & 1),
                    did_reveal=bool(unit.revealed_mask >> v & 1),
                    agreed=bool(unit.agreed_mask >> v & 1),
                )
                for v, verifier in enumerate(unit.verifiers)
            ),
        )

    def read_final_state(self) -> NamedState:
        last = self.finished[-1]
        return self.run.read_state("final model", Cid(last.end_cid), Root(last.end_root))
