"""People come, work, stay away and go, in any order: after each step the run's books are right.

    brownie test tests/test_stateful.py --network development        in contracts/, as docs/design/contracts.md says

Forge plays the same contracts much longer (tests/Run.t.sol). This machine is the one to change when something is to be
tried by hand, in Python, with Brownie. It is Hypothesis' own: the fixture `state_machine` of Brownie 1.22 refuses every
class, because Brownie is compiled there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from brownie import Run, RunLens, RunRules, ScriptedBeacon, Token, accounts, chain, interface, web3
from brownie.exceptions import VirtualMachineError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from scripts.deploy import as_tuple, parameters_of

ETH = 10**18
REWARD = 1_000 * ETH
PEOPLE = 6
PRICE = 2 * 10**9
BURN_ADDRESS = "0x000000000000000000000000000000000000dEaD"
FIELDS: dict[str, Any] = {
    "programsRoot": web3.keccak(text="programs"),
    "dataRoot": web3.keccak(text="data"),
    "shards": 3,
    "shardTokens": 3000,
    "genesisRoot": web3.keccak(text="genesis"),
    "genesis": {"codec": 0x70, "digest": web3.keccak(text="genesis cid")},
    "manifest": {"codec": 0x55, "digest": web3.keccak(text="manifest cid")},
    "segments": 2,
    "segmentSteps": 10,
    "maxUnitsPerMiner": 2,
    "maxUnits": 4,
    "maxMerge": 4,
    "minMiners": 1,
    "maxMiners": 2,
    "minVerifiers": 1,
    "maxVerifiers": 2,
    "verifiersPerUnit": 1,
    "segmentsPerVerifier": 1,
    "replayBps": 0,
    "quorum": 1,
    "juryTarget": 1,
    "unitBond": ETH,
    "slotStake": 2 * ETH,
    "unavailableFee": ETH // 2,
    "sealFee": ETH // 10,
    "mergeBond": ETH // 4,
    "beaconDelay": 1,
    "trainBlocks": 6,
    "sealBlocks": 6,
    "openBlocks": 6,
    "mergeBlocks": 6,
    "acknowledgeBlocks": 4,
    "maturityBlocks": 8,
    "windowBlocks": 4,
    "exitBlocks": 8,
    "initialReward": REWARD,
    "halvingRounds": 2,
    "workTarget": 2,
    "verifierShareBps": 2000,
    "mergeShareBps": 500,
    "beacon": None,
    "court": "0x" + "00" * 20,
}
NOBODY, MINER, VERIFIER = range(3)
"""Of `IRunTypes.Role`."""


reached: Counter[str] = Counter()
"""What happened in all examples together: a machine in which nothing happens proves nothing."""
who = st.integers(0, PEOPLE - 1)
roots = st.binary(min_size=32, max_size=32)


class Machine(RuleBasedStateMachine):
    """One run, new in each example. What is paid in and out is counted here, beside the run."""

    run: Any
    lens: Any

    def __init__(self) -> None:
        super().__init__()
        chain.revert()
        self.token = Token.at(self.run.token())
        self.paid_in = self.paid_out = 0
        self.burned_before = accounts.at(BURN_ADDRESS, force=True).balance()
        self.round = 0
        self.committed: set[tuple[int, Any, int]] = set()

    @initialize()
    def begin(self) -> None:
        """Two are there from the start, or most examples would wait for somebody to come."""
        self.mine(0, 2, 6 * ETH)
        self.verify(1, 6 * ETH)

    # What people do

    @rule(who=who, units=st.integers(1, 2), value=st.integers(0, 6 * ETH))
    def mine(self, who: int, units: int, value: int) -> None:
        before = self.member(who)
        done = self.pay(who, value, lambda paying: self.run.joinMiner(units, "miner", paying))
        if before["role"] == VERIFIER and not before["leaving"]:
            assert not done, "one account has two roles"
        if done:
            assert self.member(who)["deposit"] >= units * ETH, "a seat without the bonds of its units"

    @rule(who=who, value=st.integers(0, 6 * ETH))
    def verify(self, who: int, value: int) -> None:
        before = self.member(who)
        done = self.pay(who, value, lambda paying: self.run.stake("verifier", paying))
        if before["role"] == MINER and not before["leaving"]:
            assert not done, "one account has two roles"
        if done:
            assert self.member(who)["deposit"] >= 2 * ETH, "a seat without a slot's stake"

    @rule(who=who)
    def retire(self, who: int) -> None:
        seated = self.member(who)["role"] != NOBODY
        done = self.try_(lambda: self.run.retire({"from": accounts[who], "gas_price": PRICE}))
        assert seated or not done, "a seat was given up that nobody had"

    @rule(who=who)
    def withdraw(self, who: int) -> None:
        before, held = self.member(who), self.run.balance()
        if self.try_(lambda: self.run.withdraw({"from": accounts[who], "gas_price": PRICE})):
            paid = held - self.run.balance()
            assert before["role"] == NOBODY or before["leaving"], "stake left while its owner had a seat"
            assert 0 < paid <= before["deposit"], "more was taken out than was put down"
            assert self.member(who)["deposit"] == self.member(who)["locked"]
            self.paid_out += paid
            reached["withdrawn"] += 1

    @rule(who=who, units=st.integers(1, 2), root=roots)
    def commit(self, who: int, units: int, root: bytes) -> None:
        now = self.lens.current(self.run).dict()
        seed = self.lens.getRound(self.run, now["round"]).dict()["seed"]
        index, cid = units - 1, (0x55, root)
        sender = {"from": accounts[who], "gas_price": PRICE}
        done = self.try_(lambda: self.run.commit(seed, index, root, root, cid, sender))
        if done:
            name = (now["round"], accounts[who], index)
            assert name not in self.committed, "one unit was committed twice"
            assert self.member(who)["role"] == MINER
            assert any(root)
            self.committed.add(name)
            reached["committed"] += 1

    @rule(who=who, root=roots)
    def commit_for_another_seed(self, who: int, root: bytes) -> None:
        now = self.lens.current(self.run).dict()
        if root == bytes(self.lens.getRound(self.run, now["round"]).dict()["seed"]):
            return
        sender = {"from": accounts[who], "gas_price": PRICE}
        assert not self.try_(lambda: self.run.commit(root, 0, b"\1" * 32, b"\1" * 32, (0x55, b"\1" * 32), sender))

    @rule(who=who)
    def claim(self, who: int) -> None:
        last = self.run.currentRound()
        owed = self.lens.claimable(self.run, accounts[who], 0, last)
        rounds, before = [one[0] for one in owed], self.token.balanceOf(accounts[who])
        if rounds and self.try_(lambda: self.run.claim(rounds, {"from": accounts[who], "gas_price": PRICE})):
            assert self.token.balanceOf(accounts[who]) - before <= sum(one[1] for one in owed)

    @rule(blocks=st.integers(1, 9))
    def wait(self, blocks: int) -> None:
        chain.mine(blocks)

    @rule(who=who)
    def advance(self, who: int) -> None:
        self.try_(lambda: self.run.advance({"from": accounts[who], "gas_price": PRICE}))

    # What holds after everything

    @invariant()
    def all_that_came_in_is_there_or_went_out_or_was_burned(self) -> None:
        burned = accounts.at(BURN_ADDRESS, force=True).balance() - self.burned_before
        assert self.run.balance() == self.paid_in - self.paid_out - burned
        reached["burned"] += burned > 0

    @invariant()
    def the_balance_covers_what_is_owed(self) -> None:
        members = [self.member(who) for who in range(PEOPLE)]
        assert all(member["locked"] <= member["deposit"] for member in members)
        assert self.run.balance() >= sum(member["deposit"] for member in members) + self.run.burnOwed()

    @invariant()
    def a_round_never_goes_back(self) -> None:
        now = self.run.currentRound()
        assert now >= self.round
        reached["rounds"] += now - self.round
        self.round = now

    @invariant()
    def no_more_is_minted_than_the_schedule_has(self) -> None:
        rounds = self.run.currentRound()
        assert self.token.totalSupply() <= sum(REWARD >> number // 2 for number in range(rounds))

    # Helpers

    def member(self, who: int) -> dict[str, Any]:
        found: dict[str, Any] = self.lens.memberOf(self.run, accounts[who]).dict()
        return found

    def pay(self, who: int, value: int, send: Any) -> bool:
        done = self.try_(lambda: send({"from": accounts[who], "value": value, "gas_price": PRICE}))
        self.paid_in += value if done else 0
        return done

    @staticmethod
    def try_(send: Any) -> bool:
        """Whether it was carried out. Raises what is no refusal of the contract's."""
        try:
            send()
        except VirtualMachineError:
            return False
        return True


def test_the_books_are_right_whatever_people_do() -> None:
    sender = {"from": accounts[PEOPLE], "gas_price": PRICE}
    beacon = ScriptedBeacon.deploy(b"brownie".ljust(32), sender)
    fields = as_tuple(parameters_of("RunRules"), FIELDS | {"beacon": beacon.address}, "parameters")
    rules, Machine.lens = RunRules.deploy(fields, sender), RunLens.deploy(sender)
    # Half of what a run does is written in its rules: only the interface names all of it.
    Machine.run = interface.IRun(Run.deploy(fields, rules, Machine.lens, "Stateful", "STATE", sender).address)
    chain.snapshot()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert min(reached[what] for what in ("committed", "withdrawn", "rounds", "burned")) > 0, reached
