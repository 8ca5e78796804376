"""What a round merges is what its judgement attested: a conviction takes nothing out of it, and puts nothing in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chain_process import ETH, KEYS, ChainProcess
from contract_world import Work, spoil
from test_chain_bindings import PARAMETERS

from cupel.chain.client import ChainClient
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks, deploy_court
from cupel.chain.mapping import make_cid, make_reader
from cupel.chain.run_contract import RunContract, compute_seal, deploy_run, deploy_scripted_beacon
from cupel.chain.run_values import Answer, Commitment, MergedUnit, Opened, Phase, Status
from cupel.protocol.types import Root, RoundIndex, Salt, UnitId, Wei

CLOCKS = Clocks(clock_blocks=4, grace_blocks=2, minimum_bond_wei=Wei(ETH // 10), defence_gas=1_000_000)
SEGMENTS, WINDOW = 2, 200
ALONE = {
    "segments": SEGMENTS,
    "segments_per_verifier": SEGMENTS,
    "min_miners": 2,
    "min_verifiers": 1,
    "verifiers_per_unit": 1,
    "quorum": 1,
    "jury_target": 1,
    "max_units_per_miner": 2,
    "max_merge": 8,
    "window_blocks": WINDOW,
}
FOREVER = 2000
"""Blocks of phases that everybody ends."""
SALT = Salt(b"\7" * 32)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A run at its merge: of three units two are attested and one is disputed."""

    run: RunContract
    """As seen by somebody who proves."""
    prover: ChainClient
    court: CourtContract
    works: dict[bytes, tuple[str, int, Work]]
    """By unit id: whose, and which of its units."""
    attested: tuple[UnitId, ...]
    disputed: UnitId

    def commitment(self, unit: bytes) -> Commitment:
        _, _, work = self.works[unit]
        return Commitment(root=Root(work.root), contribution=Root(work.contribution), cid=make_cid(*work.cid))

    def convict(self, unit: UnitId) -> None:
        """By the silence of its miner."""
        miner, index, _ = self.works[unit]
        announced = self.court.compute_announcement(self.run.address, unit, 0, self.prover.address, b"\1" * 32)
        self.court.announce(announced)
        self.run.present_unit(0, miner, index, self.commitment(unit))  # type: ignore[arg-type]
        bond = self.court.bond_for(self.run.address, miner)  # type: ignore[arg-type]
        call = self.court.bind("accuse", self.run.address, unit, 0, b"\1" * 32)
        self.prover.send(call, value_wei=2 * bond)
        [number] = [e.dispute for e in self.court.list_disputes(self.run.address) if e.arguments["subject"] == unit]
        assert number is not None
        self.prover.wait_for_block(self.court.turn_of(number).until + 1, timeout_s=30)
        self.court.timeout(number)
        [state] = self.run.get_unit_states([unit])
        assert state.status == Status.CONVICTED


def pass_to(run: RunContract, client: ChainClient, phase: Phase) -> None:
    """By blocks and `advance` alone: what everybody had to do is done."""
    for _ in range(40):
        if run.current().phase == phase:
            return
        if run.current().due:
            run.advance()
        client.wait_for_block(client.head().number + 1, timeout_s=20)
    raise AssertionError(f"the run is at {run.current()}, not at {phase!r}")


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with ChainProcess(tmp_path / "chain", block_time_s=0.1) as chain, ExitStack() as stack:
        first, second, verifier, prover = (
            stack.enter_context(closing(ChainClient(chain.url, key, poll_seconds=0.03))) for key in KEYS[:4]
        )
        deployed = deploy_court(prover, CLOCKS)
        longest = WINDOW + deployed.longest_dispute
        parameters = replace(
            PARAMETERS,
            beacon=deploy_scripted_beacon(prover, b"\2" * 32),
            court=deployed.court,
            **ALONE,
            **dict.fromkeys(("train_blocks", "seal_blocks", "open_blocks", "merge_blocks"), FOREVER),
            maturity_blocks=longest,
            exit_blocks=longest,
        )
        address = deploy_run(prover, parameters).run
        runs = {one.address: RunContract(one, address) for one in (first, second, verifier, prover)}
        run = runs[prover.address]
        runs[first.address].join_miner(2, "http://127.0.0.1:1", deposit_wei=10 * ETH)
        runs[second.address].join_miner(1, "http://127.0.0.1:2", deposit_wei=10 * ETH)
        runs[verifier.address].stake("http://127.0.0.1:3", deposit_wei=10 * ETH)
        pass_to(run, prover, Phase.TRAIN)
        works: dict[bytes, tuple[str, int, Work]] = {}
        for miner, index in ((first.address, 0), (first.address, 1), (second.address, 0)):
            unit = run.unit_id_of(0, miner, index)
            work = Work.honest(unit, parameters.genesis_root, SEGMENTS)
            works[unit] = miner, index, work
            committed = Root(work.root), Root(work.contribution), make_cid(*work.cid)
            runs[miner].commit(
                run.get_round(0).seed, index, root=committed[0], contribution=committed[1], cid=committed[2]
            )
        disputed = run.unit_id_of(0, first.address, 1)
        pass_to(run, prover, Phase.SEAL)
        read = make_reader(tuple[Answer, ...])
        answers = {
            unit: read((spoil(work, 0) if unit == disputed else work).answers(range(SEGMENTS)))
            for unit, (_, _, work) in works.items()
        }
        ids = [UnitId(unit) for unit in works]
        seals = [compute_seal(unit, verifier.address, answers[unit], SALT) for unit in ids]
        runs[verifier.address].seal(run.get_round(0).draw_seed, ids, seals)
        runs[verifier.address].reveal(0, ids, [answers[unit] for unit in ids], [SALT] * len(ids))
        for _, (miner, index, work) in works.items():
            commitment = Commitment(root=Root(work.root), contribution=Root(work.contribution), cid=make_cid(*work.cid))
            leaves = make_reader(tuple[Opened, ...])(work.opened(range(SEGMENTS)))
            runs[miner].open(0, index, commitment=commitment, leaves=leaves, proof=work.proof(range(SEGMENTS)))
        pass_to(run, prover, Phase.MERGE)
        attested = tuple(sorted(unit for unit in ids if unit != disputed))
        proposed = Root(b"\3" * 32)
        runs[verifier.address].propose_merge(
            run.get_round(0).draw_seed, state_root=proposed, cid=make_cid(0x55, proposed)
        )
        yield Table(
            run=run, prover=prover, court=CourtContract(prover, deployed.court), works=works, attested=attested,
            disputed=disputed,
        )  # fmt: skip


def test_a_conviction_neither_takes_a_unit_out_of_what_is_merged_nor_puts_one_in(table: Table) -> None:
    run = table.run
    assert run.merge_set(0) == table.attested
    table.convict(table.disputed)
    assert run.merge_set(0) == table.attested
    table.convict(table.attested[0])
    assert run.merge_set(0) == table.attested
    # And the run takes that set for the candidate's, so that it can still be accused.
    shown = []
    for unit in run.merge_set(RoundIndex(0)):
        miner, index, _ = table.works[unit]
        shown.append(MergedUnit(miner=miner, index=index, commitment=table.commitment(unit)))  # type: ignore[arg-type]
    run.present_merge(0, 0, shown)
    assert run.claim_of(run.subject_of(0, 0)).contestable
