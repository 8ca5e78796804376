"""Rounds in which everybody does anything: what must hold whatever they do."""

from __future__ import annotations

import random

import pytest
from contract_world import (
    ATTESTED,
    DRAW,
    ETH,
    MERGE,
    OPEN,
    SEAL,
    SEED,
    TRAIN,
    WAITING,
    Account,
    Refused,
    Work,
    make_world,
    sha,
    spoil,
)

from cupel.protocol.hashing import proof_of_several

INITIAL = 1_000_000 * ETH


class Play:
    """One world and a source of choices; every refusal is allowed, every broken invariant is not."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.world = make_world(
            maturityBlocks=20, windowBlocks=30, exitBlocks=10, minVerifiers=1, minMiners=1, maxUnits=3, replayBps=2000
        )
        self.laziness = self.choose.choice((0.05, 0.15))
        self.works: dict[bytes, Work] = {}
        self.position = (0, 0, 0)

    def attempt(self, account: Account, function: str, *arguments: object, value: int = 0) -> None:
        try:
            self.world.send(account, function, *arguments, value=value)
        except Refused as refused:
            if refused.name in ("Panic", "Unknown", "Failed"):
                raise AssertionError("a bug of ours: an overflow, an index out of range") from refused

    def join(self) -> None:
        account = self.choose.choice(self.world.accounts)
        deposit = self.choose.choice((0, 1, 3, 9)) * ETH
        if self.choose.random() < 0.5:
            self.attempt(account, "joinMiner", self.choose.randint(0, 5), "", value=deposit)
        else:
            self.attempt(account, "stake", "", value=deposit)

    def act(self) -> None:
        """Everybody who might act now does so with some chance, rightly or wrongly."""
        world = self.world
        phase, round_ = world.phase, world.round
        for account in world.accounts:
            if self.choose.random() < self.laziness:
                continue
            if phase == TRAIN:
                for index in range(world.ask("unitsOf", account.address)):
                    self.commit(account, index)
            elif phase == SEAL:
                self.seal_some(account)
                self.meddle(account)
            elif phase == OPEN:
                self.open_and_reveal(account)
                self.meddle(account)
            elif phase == MERGE:
                text = self.choose.choice("aaaab")
                self.attempt(account, "proposeMerge", world.draw_seed, sha(f"{text} {round_}"), (0x55, sha(text)))
                for number, candidate in enumerate(world.ask("candidates", round_)):
                    cid = (candidate["cid"]["codec"], candidate["cid"]["digest"])
                    self.attempt(account, "acknowledge", world.draw_seed, number, candidate["stateRoot"], cid)

    def commit(self, account: Account, index: int) -> None:
        work = self.world.honest_work(account, index)
        if self.choose.random() < 0.1:
            work = spoil(work, self.choose.randrange(5))
        work = self.works.setdefault(work.unit, work)
        self.attempt(account, "commit", self.world.seed, index, *work.commitment)

    def judged(self, unit: bytes, account: Account) -> Work:
        """What an account thinks of a unit: the truth, whatever was committed."""
        found = self.world.ask("getUnit", unit)
        start, _ = self.world.ask("getState", found["round"])
        return Work.honest(unit, start, 5)  # type: ignore[arg-type]

    def seal_some(self, account: Account) -> None:
        units = {one["unitId"] for one in self.world.ask("assignmentsOf", self.world.round, account.address)}
        if units:
            try:
                self.world.seal(account, {unit: self.judged(unit, account) for unit in units})
            except Refused as refused:
                refused.must_be("AlreadySealed", "WrongPhase", "WrongSeed")

    def open_and_reveal(self, account: Account) -> None:
        world = self.world
        for unit in world.ask("getUnits", world.round):
            if unit["miner"] == account.address:
                try:
                    world.open(account, self.works[unit["unitId"]], unit["index"])
                except Refused as refused:
                    refused.must_be("AlreadyOpened", "WrongPhase", "WrongRound")
        units = {one["unitId"] for one in world.ask("assignmentsOf", world.round, account.address)}
        if units:
            try:
                world.reveal(account, {unit: self.judged(unit, account) for unit in units})
            except Refused as refused:
                refused.must_be("AlreadyRevealed", "NotSealed", "WrongPhase", "WrongRound")

    def meddle(self, account: Account) -> None:
        """Now and then somebody reports, discloses or extends what it may or may not."""
        units = self.world.ask("getUnits", self.world.round)
        if not units or self.choose.random() > 0.15:
            return
        unit = self.choose.choice(units)
        work = self.works[unit["unitId"]]
        leaf = work.opened([1])[0], proof_of_several(work.leaves, [2])
        named = self.world.round, unit["miner"], unit["index"], work.commitment
        act = self.choose.choice(("reportUnavailable", "disclose", "extend"))
        arguments = {"reportUnavailable": (self.world.draw_seed, [unit["unitId"]]), "disclose": (*named, *leaf)}
        self.attempt(account, act, *arguments.get(act, ()))

    def move(self) -> None:
        if self.world.phase != WAITING:
            self.world.mine(self.choose.choice((1, 10, 45)))
        self.attempt(self.world.deployer, "advance")

    def settle(self) -> None:
        account = self.choose.choice(self.world.accounts)
        for one in self.world.ask("claimable", account.address, 0, 99):
            self.attempt(account, "claim", [one["round"]])
        self.attempt(account, self.choose.choice(("retire", "withdraw")))

    def check(self) -> None:
        world = self.world
        world.check_solvent()
        round_, _, phase = self.position
        # A missing seal takes a round back to its draw, once.
        attempt = self.position[1] if world.round == round_ else 0
        attempt += (world.round, world.phase) == (round_, DRAW) and phase == SEAL
        assert attempt <= 1
        position = (world.round, attempt, world.phase)
        assert position >= self.position, "a phase went backwards"
        self.position = position
        scheduled = sum(INITIAL >> (round_ // 2) for round_ in range(world.round))
        assert world.ask_token("totalSupply") <= scheduled
        for round_ in range(world.round):
            view = world.ask("getRound", round_)
            attested = sum(unit["status"] == ATTESTED for unit in world.ask("getUnits", round_))
            assert attested == view["attested"] <= view["committed"] <= view["units"] <= 3
            owed = sum(world.ask("rewardOf", round_, account.address) for account in world.accounts)
            assert owed <= INITIAL >> (round_ // 2)
            if view["merged"]:
                assert attested
            else:
                assert world.ask("getState", round_)[0] == world.ask("getState", round_ + 1)[0]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_played_money_adds_up_and_nothing_unearned_is_minted(seed: int) -> None:
    play = Play(seed)
    play.world.seat(play.world.accounts[:2], play.world.accounts[2:6])
    for _ in range(20):
        play.choose.choices((play.join, play.settle, play.act), (1, 1, 8))[0]()
        if play.world.phase in (WAITING, SEED, DRAW) or play.choose.random() < 0.7:
            play.move()
        play.check()
    # In the end everybody who wants to leaves with everything that was not burned.
    for account in play.world.accounts:
        play.attempt(account, "retire")
    for _ in range(8):
        if play.world.phase != WAITING:
            play.world.mine(200)
        play.attempt(play.world.deployer, "advance")
    play.world.mine(60)
    for account in play.world.accounts:
        for one in play.world.ask("claimable", account.address, 0, 99):
            play.world.claim(account, one["round"])
        play.attempt(account, "withdraw")
    play.check()
    assert play.world.balance(play.world.run) == play.world.ask("burnOwed")
