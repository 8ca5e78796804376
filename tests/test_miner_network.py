"""The main job with real processes on a real chain: honest work is merged and paid, a lie is left out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from chain_process import ETH
from network_world import CONFIG, NodeProcess, World, key, open_world

from cupel.chain.run_events import Claimed
from cupel.chain.run_values import RoundView, Status, UnitView
from cupel.miner.faults import check_chain
from cupel.network.states import encode_state
from cupel.node.records import OutcomeRecord, RoundRecord, UnitRecord, VerdictRecord
from cupel.protocol import merkle, sampling
from cupel.protocol.errors import UsageError
from cupel.protocol.training.state import NamedState
from cupel.protocol.training.unit import train_segment
from cupel.protocol.types import Seed

ROUNDS = 2
MINERS, LIAR, VERIFIERS = ("miner-1", "miner-2"), "liar", ("verifier-1", "verifier-2")
WATCHER = VERIFIERS[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two rounds, played to the end and paid; the processes have ended."""
    folder = tmp_path_factory.mktemp("network")
    seats = {"min_miners": 3, "min_verifiers": 2}
    with open_world(folder, [*MINERS, LIAR, *VERIFIERS], **seats) as opened:
        for name in MINERS:
            opened.add("miner", name)
        opened.add("miner", LIAR, "--fault", "perturb")
        for name in VERIFIERS:
            opened.add("verifier", name, *(["--watch", "all"] if name == WATCHER else []))
        for node in opened.nodes:
            node.start()
        opened.wait_for("end of the rounds", lambda: opened.contract.current().round >= ROUNDS, timeout_s=200)
        # Now: nodes keep the states of a few rounds only, and go on.
        for round_ in range(ROUNDS):
            cid = opened.contract.get_state(round_ + 1)[1]
            assert cid is not None
            opened.fetcher.fetch_to_store(cid)
        opened.wait_for("payment", lambda: is_paid(opened), timeout_s=60)
        opened.wait_for("watcher", lambda: len(watched(opened)) == 3 * ROUNDS, timeout_s=60)
        for one in opened.nodes:
            one.ask_to_end()
        for one in opened.nodes:
            assert one.wait() == 0
            assert '"event": "stopped"' in one.text()
        yield opened


def watched(world: World) -> list[VerdictRecord]:
    """What the watcher found beyond what it was asked for."""
    records = [r for r in node(world, WATCHER).history if isinstance(r, VerdictRecord) and not r.drawn]
    return [r for r in records if r.round < ROUNDS]


def is_paid(world: World) -> bool:
    return not any(world.contract.claimable(node.signer.address, 0, ROUNDS) for node in world.nodes)


def node(world: World, name: str) -> NodeProcess:
    return next(n for n in world.nodes if n.name == name)


def units_by_miner(world: World, round_: int) -> dict[str, UnitView]:
    return {unit.miner: unit for unit in world.contract.get_units(round_)}


def retrain(world: World, start: NamedState, unit: UnitView, seed: Seed, backend: str) -> NamedState:
    """The unit's end state, computed here from nothing but chain, programs and data."""
    length, shards = CONFIG.model.context + 1, world.shards

    def load(step: int) -> torch.Tensor:
        positions = sampling.batch_positions(
            seed, unit.unit_id, step, CONFIG.training.batch, len(shards), shards.shard_tokens, length
        )
        return shards.batch(positions, length)

    parameters, state = world.contract.parameters(), start
    for segment in range(parameters.segments):
        step = partial(world.programs.run_step, backend=backend)
        state = dict(train_segment(step, state, load, segment, parameters.segment_steps).state)
    return state


def test_the_merged_state_is_what_anybody_computes_from_chain_and_data(world: World) -> None:
    state = world.genesis
    for round_, backend in enumerate(("torch", "cpu")):  # the nodes choose cpu; plain torch shares nothing with it
        view: RoundView = world.contract.get_round(round_)
        honest = [u for u in world.contract.get_units(round_) if u.miner != key(LIAR).address]
        ends = {u.unit_id: retrain(world, state, u, view.seed, backend) for u in honest}
        assert [merkle.state_root(ends[u.unit_id]) for u in honest] == [u.contribution for u in honest]
        state = world.programs.run_merge([ends[unit_id] for unit_id in sorted(ends)], backend=backend)
        root, cid = world.contract.get_state(round_ + 1)
        assert merkle.state_root(state) == root
        assert cid is not None
        assert world.fetcher.fetch(cid) == encode_state(state)


def test_the_liar_is_left_out_and_the_others_are_merged(world: World) -> None:
    for round_ in range(ROUNDS):
        units = units_by_miner(world, round_)
        assert {units[key(name).address].status for name in MINERS} == {Status.ATTESTED}
        assert units[key(LIAR).address].status == Status.DISPUTED
        merged = world.contract.merge_set(round_)
        assert set(merged) == {units[key(name).address].unit_id for name in MINERS}


def test_who_rejected_the_liar_says_in_which_segment_and_by_which_roots(world: World) -> None:
    for round_ in range(ROUNDS):
        lie = units_by_miner(world, round_)[key(LIAR).address]
        for verifier in lie.verifiers:
            name = next(n for n in VERIFIERS if key(n).address == verifier)
            records = [r for r in node(world, name).history if isinstance(r, VerdictRecord) and r.unit == lie.unit_id]
            drawn = next(r for r in records if r.drawn)
            assert drawn.verdict == "rejects"
            assert len(drawn.segments) == world.contract.parameters().segments_per_verifier
            assert not any(s.agrees for s in drawn.segments)
            assert all(f"got 0x{s.got_root.hex()}" in drawn.reason for s in drawn.segments)


def test_a_watcher_replays_every_segment_of_every_unit_until_one_is_wrong(world: World) -> None:
    segments = tuple(range(world.contract.parameters().segments))
    for round_ in range(ROUNDS):
        found = {r.miner: r for r in watched(world) if r.round == round_}
        assert {miner: r.verdict for miner, r in found.items()} == {
            key(MINERS[0]).address: "attests",
            key(MINERS[1]).address: "attests",
            key(LIAR).address: "rejects",
        }
        lie = found.pop(key(LIAR).address)
        assert all(tuple(s.segment for s in r.segments) == segments for r in found.values())
        assert not any(s.agrees for s in lie.segments)


def test_tokens_are_minted_as_scheduled_and_only_for_what_was_attested(world: World) -> None:
    """60 tokens a round: 25 % for verifiers, 5 % for the merge, the rest for miners; a third of it was a lie."""
    claims = world.contract.get_events(Claimed, first_block=0)
    pool = 60 * ETH
    verifiers, merge = pool * 2500 // 10_000, pool * 500 // 10_000
    per_unit, per_assignment = (pool - verifiers - merge) // 3, verifiers // (3 * 2)
    for round_ in range(ROUNDS):
        paid = {c.account: c.tokens for c in claims if c.round == round_ and c.tokens}
        assert all(paid[key(name).address] == per_unit for name in MINERS)
        assert key(LIAR).address not in paid
        jurors = world.contract.candidates(round_)[world.contract.get_round(round_).accepted].acknowledgements
        merging = merge // 2 + merge // 2 // jurors * jurors
        assert sum(paid[key(name).address] for name in VERIFIERS) == 4 * per_assignment + merging
    assert world.token.total_supply() == sum(c.tokens for c in world.contract.get_events(Claimed, first_block=0))


def test_histories_tell_what_happened(world: World) -> None:
    for name in MINERS:
        records = list(node(world, name).history)
        units = {r.round: r for r in records if isinstance(r, UnitRecord)}
        outcomes = {r.round: r.outcome for r in records if isinstance(r, OutcomeRecord)}
        rounds = {r.round: r for r in records if isinstance(r, RoundRecord)}
        for round_ in range(ROUNDS):
            unit = units_by_miner(world, round_)[key(name).address]
            assert (units[round_].root, units[round_].contribution) == (unit.root, unit.contribution)
            assert outcomes[round_] == "accepted"
            assert rounds[round_].end_root == world.contract.get_state(round_ + 1)[0]
            assert (rounds[round_].units_committed, rounds[round_].units_attested) == (3, 2)
    lies = [r.outcome for r in node(world, LIAR).history if isinstance(r, OutcomeRecord)]
    assert lies[:ROUNDS] == ["disputed"] * ROUNDS


def test_a_fault_is_refused_on_any_other_chain() -> None:
    check_chain("perturb", 31337)
    with pytest.raises(UsageError, match="this is chain 1"):
        check_chain("perturb", 1)
