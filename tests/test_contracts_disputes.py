"""A real court judges units and merges of a real run: who lied loses, what rested on it is void, and it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import pytest
from contract_world import (
    ABANDONED,
    ATTESTED,
    CONVICTED,
    ETH,
    MERGE,
    OPEN,
    SEAL,
    TRAIN,
    WAITING,
    Account,
    Refused,
    Work,
    World,
    make_world,
    sha,
)
from court_world import (
    SEGMENTS,
    SHARD_TOKENS,
    SHARDS,
    STEPS,
    CourtWorld,
    Dispute,
    Lie,
    Unit,
    challenge_of,
    deploy_court,
    first_state,
    hold_merge,
    merge_challenge,
    program_roots,
    prover_of_merge,
    prover_of_step,
    shards,
    states,
    step_program,
    values_of,
)

from cupel.protocol import merkle
from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.disputes.game import Defence
from cupel.protocol.hashing import leaf_hash, tree_root
from cupel.protocol.merkle import tensor_root

CLOCK, GRACE, WINDOW = 40, 1, 30
BOND, STAKE, MERGE_BOND = ETH, 2 * ETH, ETH // 4
CID = (0x55, sha("cid of a merge"))


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def lie_in_step() -> Lie:
    """One element of a product is wrong, and the state behind it with it."""
    first = len(step_program().graph.inputs) + len(step_program().graph.constants)
    dot = first + [operation.opcode for operation in step_program().operations].index(Opcode.DOT)
    wrong = flip(values_of(prover_of_step(1))[dot])
    return Lie(step=1, values={dot: wrong}, after=lambda after: {**after, "weights.out": sha("wrong")})


def lie_in_merge() -> Lie:
    program = prover_of_merge().program
    first = len(program.graph.inputs) + len(program.graph.constants)
    wrong = flip(values_of(prover_of_merge())[first + 1])
    return Lie(values={first + 1: wrong}, after=lambda after: {**after, "rate": sha("wrong")})


def work_of(unit_id: bytes, unit: Unit) -> Work:
    metrics = [unit.metrics(segment) for segment in range(SEGMENTS)]
    return Work(
        unit=unit_id,
        start=unit.step_root(0),
        ends=tuple(unit.step_root((segment + 1) * STEPS) for segment in range(SEGMENTS)),
        losses=tuple(loss for loss, _, _ in metrics),
        norms=tuple(norm for _, norm, _ in metrics),
        salts=tuple(salt for _, _, salt in metrics),
        contribution=unit.step_root(SEGMENTS * STEPS),
    )


@dataclasses.dataclass
class Trial:
    """A run before its court: two miners, three verifiers, and somebody who recomputes."""

    court: CourtWorld
    miners: list[Account]
    verifiers: list[Account]
    challenger: Account
    works: dict[bytes, Work]

    @property
    def world(self) -> World:
        return self.court.world

    def fork(self) -> Trial:
        return dataclasses.replace(self, court=self.court.fork(), works=dict(self.works))

    def unit_of(self, miner: Account, round_: int = 0) -> bytes:
        return self.world.unit_id(miner, 0, round_)

    def present_unit(self, miner: Account) -> bytes:
        subject = self.unit_of(miner)
        self.world.send(self.challenger, "presentUnit", 0, miner.address, 0, self.works[subject].commitment)
        return subject

    def merged(self) -> list[tuple[str, int, tuple[object, ...]]]:
        """The merge set as `presentMerge` takes it."""
        by_id = {self.unit_of(miner): miner for miner in self.miners}
        return [(by_id[unit].address, 0, self.works[unit].commitment) for unit in sorted(by_id)]

    def accuse_unit(self, miner: Account, segment: int = 0) -> Dispute:
        subject = self.present_unit(miner)
        return self.court.accuse(self.challenger, miner, subject, segment)

    def accuse_merge(self, proposer: Account) -> Dispute:
        self.world.send(self.challenger, "presentMerge", 0, 0, self.merged())
        return self.court.accuse(self.challenger, proposer, self.world.ask("subjectOf", 0, 0))

    def convict_unit(self, miner: Account) -> Dispute:
        dispute = self.accuse_unit(miner)
        assert dispute.play(Unit(lie_in_step()).defence(0), challenge_of(0)) == "Convicted"
        return dispute

    def status(self, subject: bytes) -> int:
        return int(self.world.call_contract("RunRules", self.world.run, "units", subject)["status"])

    def attestations(self, verifier: Account) -> int:
        """That the first round pays it for."""
        entry = self.world.call_contract("RunRules", self.world.run, "entries", 0, verifier.address)
        return int(entry["attestations"])

    def member(self, account: Account) -> dict[str, int]:
        return self.world.ask("memberOf", account.address)

    def settle(self) -> int:
        """Until everything that has ended is final, as far as it may be."""
        view = self.world.ask("getRound", 0)
        self.world.mine_to(max(self.world.height + 1, view["matureAt"]))
        self.world.send(self.challenger, "settle")
        return int(self.world.ask("finality")[0])


def refused(name: str, act: Callable[[], object]) -> None:
    with pytest.raises(Refused) as caught:
        act()
    caught.value.must_be(name)


def make_trial(miner_units: Callable[[bytes, int], Work]) -> Trial:
    """Up to the merge of round 0, where every verifier attested what the miners said.

    miner_units   the work of the unit that is first, or second, in the order of ids
    """
    base = make_world()
    address = deploy_court(base, CLOCK, GRACE)
    longest = base.call_contract("Court", address, "longestDispute")
    world = make_world(
        base=base,
        court=address,
        programsRoot=tree_root([leaf_hash(root) for root in program_roots()]),
        dataRoot=tree_root([tensor_root(shard) for shard in shards()]),
        shards=SHARDS,
        shardTokens=SHARD_TOKENS,
        genesisRoot=merkle.state_root(first_state()),
        segments=SEGMENTS,
        segmentSteps=STEPS,
        segmentsPerVerifier=1,
        maxMerge=len(program_roots()) - 4,
        mergeBlocks=200,
        windowBlocks=WINDOW,
        maturityBlocks=WINDOW + longest,
        exitBlocks=WINDOW + longest,
    )
    trial = Trial(CourtWorld(world, address, world.run), world.accounts[:2], world.accounts[2:5], world.accounts[6], {})
    world.seat(trial.miners, trial.verifiers)
    world.pass_to(TRAIN)
    for place, unit in enumerate(sorted(trial.unit_of(miner) for miner in trial.miners)):
        trial.works[unit] = miner_units(unit, place)
    for miner in trial.miners:
        world.commit(miner, trial.works[trial.unit_of(miner)])
    world.pass_to(SEAL)
    for verifier in trial.verifiers:
        world.seal(verifier, trial.works)
    world.pass_to(OPEN)
    for verifier in trial.verifiers:
        world.reveal(verifier, trial.works)
    for miner in trial.miners:
        world.open(miner, trial.works[trial.unit_of(miner)])
    world.pass_to(MERGE)
    return trial


@cache
def _with_a_false_unit() -> Trial:
    return make_trial(lambda unit, place: work_of(unit, Unit(lie_in_step() if place == 0 else None)))


@cache
def _with_a_false_merge() -> Trial:
    """The units end in the two states of `prover_of_merge`; what is proposed is not their average."""

    def work(unit: bytes, place: int) -> Work:
        return dataclasses.replace(
            work_of(unit, Unit()),
            ends=(sha("somewhere"), merkle.state_root(states()[2 + 2 * place])),
            contribution=merkle.state_root(states()[2 + 2 * place]),
        )

    trial = make_trial(work)
    root = hold_merge(lie_in_merge()).state_tree.root
    trial.world.send(trial.miners[0], "proposeMerge", trial.world.draw_seed, root, CID)
    return trial


def false_unit() -> tuple[Trial, Account]:
    """The trial, and whose unit is false."""
    trial = _with_a_false_unit().fork()
    liar = min(trial.miners, key=trial.unit_of)
    return trial, liar


def merge(trial: Trial, jurors: int = 3) -> None:
    """Whatever it is, it is accepted: candidate 0, and the next round opens."""
    world = trial.world
    if not world.ask("candidates", 0):
        world.send(trial.miners[0], "proposeMerge", world.draw_seed, sha("merged"), CID)
    root = world.ask("candidates", 0)[0]["stateRoot"]
    jury = world.ask("jury")
    for verifier in [one for one in trial.verifiers if one.address in jury][:jurors]:
        if not world.ask("getRound", 0)["merged"]:
            world.send(verifier, "acknowledge", world.draw_seed, 0, root, CID)


def test_a_false_unit_costs_its_bond_half_of_which_the_court_gets_and_the_rest_nobody() -> None:
    trial, liar = false_unit()
    before, burned = trial.member(liar), trial.world.ask("burnOwed")
    attested = {v.address: trial.attestations(v) for v in trial.verifiers}
    dispute = trial.convict_unit(liar)
    assert dispute.ended is not None
    assert dispute.ended[1]["prize"] == BOND // 2
    after = trial.member(liar)
    assert before["deposit"] - after["deposit"] == before["locked"] - after["locked"] == BOND
    assert trial.status(trial.unit_of(liar)) == CONVICTED
    # Nobody else pays for it: a miner could lose on purpose. The verifiers of the segment are not paid, that is all.
    assert trial.world.ask("burnOwed") - burned == BOND // 2
    assert {trial.member(verifier)["deposit"] for verifier in trial.verifiers} == {20 * ETH}
    drawn = [v for v in trial.verifiers if 0 in trial.world.assigned_segments(trial.unit_of(liar), v.address)]
    assert {v.address: attested[v.address] - trial.attestations(v) for v in drawn} == {v.address: 1 for v in drawn}
    trial.world.check_solvent()


def test_the_current_round_is_given_up_and_the_next_starts_where_it_did() -> None:
    trial, liar = false_unit()
    trial.convict_unit(liar)
    world = trial.world
    assert world.round == 1
    assert world.phase != WAITING
    assert world.ask("getState", 1) == world.ask("getState", 0)
    assert world.ask("finality")[2] == [{"from": 0, "to": 0}]
    assert trial.settle() == 1
    honest = max(trial.miners, key=trial.unit_of)
    claimed = world.claim(honest, 0).named("Claimed")[0]
    assert (claimed["tokens"], claimed["bonds"]) == (0, BOND)
    refused("NothingToClaim", lambda: world.claim(liar, 0))
    world.check_solvent()


def test_later_rounds_are_void_too_and_one_under_way_gives_bonds_back() -> None:
    trial, liar = false_unit()
    world = trial.world
    merge(trial)
    world.pass_to(TRAIN)
    assert world.round == 1
    assert world.ask("getState", 1) != world.ask("getState", 0)
    work = world.honest_work(trial.miners[0])
    world.commit(trial.miners[0], work)
    trial.convict_unit(liar)
    assert (world.round, trial.status(work.unit)) == (2, ABANDONED)
    assert world.ask("getState", 2) == world.ask("getState", 0)
    assert world.ask("finality")[2] == [{"from": 0, "to": 1}]
    assert trial.settle() >= 1
    assert world.ask("rewardOf", 0, trial.miners[0].address) == 0
    world.mine_to(world.ask("getRound", 1)["matureAt"])
    claimed = world.claim(trial.miners[0], 1).named("Claimed")[0]
    assert (claimed["tokens"], claimed["bonds"]) == (0, BOND)
    world.check_solvent()


def test_a_false_merge_costs_its_bond_and_those_who_acknowledged_it_no_stake() -> None:
    trial = _with_a_false_merge().fork()
    world, proposer = trial.world, trial.miners[0]
    merge(trial)
    before = trial.member(proposer)["deposit"]
    dispute = trial.accuse_merge(proposer)
    defence = Defence(segment=None, hold=lambda _: hold_merge(lie_in_merge()))
    assert dispute.play(defence, merge_challenge()) == "Convicted"
    assert dispute.ended is not None
    assert dispute.ended[1]["prize"] == MERGE_BOND // 2
    assert before - trial.member(proposer)["deposit"] == MERGE_BOND
    assert world.ask("getState", world.round) == world.ask("getState", 0)
    [juror, *_] = [one for one in trial.verifiers if world.ask("acknowledgedBy", 0, one.address)]
    # Its proposer may have lost on purpose. The round is void, so the merge earns nobody anything.
    assert trial.member(juror)["deposit"] == 20 * ETH
    assert world.ask("rewardOf", 0, proposer.address) == 0
    world.check_solvent()


def test_a_convicted_candidate_is_not_acknowledged_any_more_and_the_round_goes_on() -> None:
    trial = _with_a_false_merge().fork()
    dispute = trial.accuse_merge(trial.miners[0])
    dispute.time_out()
    assert dispute.ended is not None
    assert dispute.ended[0] == "Convicted"
    assert trial.world.round == 0
    refused("CandidateConvicted", lambda: merge(trial, jurors=1))


def test_a_merge_is_measured_by_the_whole_merge_set_and_nothing_else() -> None:
    trial = _with_a_false_merge().fork()
    units = trial.merged()
    for wrong in (units[:1], units[::-1], [units[0], units[0]]):
        refused("NotTheMergeSet", lambda wrong=wrong: trial.world.send(trial.challenger, "presentMerge", 0, 0, wrong))
    other = (units[0][0], 0, units[1][2])
    refused("CommitmentMismatch", lambda: trial.world.send(trial.challenger, "presentMerge", 0, 0, [other, units[1]]))


def test_nothing_is_final_inside_an_open_dispute_and_an_unfounded_one_changes_nothing() -> None:
    trial, liar = false_unit()
    honest = max(trial.miners, key=trial.unit_of)
    merge(trial)
    trial.world.pass_phase()
    dispute = trial.accuse_unit(honest)
    assert trial.world.ask("getRound", 0)["disputes"] == 1
    assert trial.settle() == 0
    refused("NotSettled", lambda: trial.world.claim(honest, 0))
    assert not trial.world.ask("claimable", honest.address, 0, 1)[0]["claimableNow"]
    # Nobody plays: the accused's time runs out first, so this dispute is lost by silence; another round stays as it is.
    dispute.time_out()
    assert trial.status(trial.unit_of(honest)) == CONVICTED
    assert trial.status(trial.unit_of(liar)) == ATTESTED


def test_an_accusation_comes_within_the_window_and_from_nobody_but_the_court() -> None:
    trial, liar = false_unit()
    subject = trial.present_unit(liar)
    refused("NotTheCourt", lambda: trial.world.send(trial.challenger, "disputeOpened", subject))
    refused("NotTheCourt", lambda: trial.world.send(trial.challenger, "convict", subject, 0))
    refused("NotTheCourt", lambda: trial.world.send(trial.challenger, "abandon", 0))
    merge(trial)
    trial.world.pass_phase()
    trial.world.mine_to(trial.world.ask("getRound", 0)["endedAt"] + WINDOW + 2)
    refused("NotContestable", lambda: trial.court.accuse(trial.challenger, liar, subject))


def test_convicting_oneself_costs_more_than_it_brings() -> None:
    trial, liar = false_unit()
    trial.challenger = liar
    before = trial.world.balance(liar.address) + trial.member(liar)["deposit"]
    subject = trial.present_unit(liar)
    dispute = trial.court.accuse(liar, liar, subject)
    dispute.time_out()
    trial.court.send(liar, "collect")
    after = trial.world.balance(liar.address) + trial.member(liar)["deposit"]
    assert before - after >= BOND // 2
