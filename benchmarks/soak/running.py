"""The schedule: what befalls whom and when, drawn from a seed, and what has to be put right afterwards."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from network_world import World

from cupel.chain.client import ChainClient
from cupel.chain.errors import ChainUnreachable
from cupel.chain.run_contract import RunContract
from cupel.chain.run_values import Phase
from cupel.node.points import MINER_POINTS, VERIFIER_POINTS
from cupel.protocol.errors import CupelError
from soak.gauges import Gauges
from soak.ledger import EVERYBODY, Ledger
from soak.losses import find_unclaimed
from soak.observer import Observer, Unanswered
from soak.parties import Health, Party, delete_block, spoil_block
from soak.proxies import PEER_FAULTS, RPC_FAULTS, Armed

WEIGHTS: dict[str, float] = {
    "process killed": 14,
    "process stopped": 3,
    "process paused": 7,
    "network partition": 6,
    "chain killed": 1.5,
    "chain stopped": 0.7,
    "chain re-org": 3,
    "block corrupted": 8,
    "block deleted": 8,
    "disk full": 3,
    **dict.fromkeys(RPC_FAULTS, 4.0),
    **dict.fromkeys(PEER_FAULTS, 6.0),
    # These two cost their victim ten seconds each time.
    "rpc hangs": 2.0,
    "peer silent": 3.0,
}
"""How often each kind is tried, relative to the others. Kills at points come with restarts; joins, leaves and lies with
the rounds."""
MOST_STRUCK = 2
"""Parties that are down, paused, cut off or full at the same time."""
SHARE = 1.05
"""Faults of a round, relative to the average wanted."""
REST_S = 4.0
"""A party that came back is left alone for so long: nobody can do anything who never comes up."""
CALM_S = 600.0
"""How long the calm rounds at the end may take before the network counts as stuck."""
CLAIMS_S = 120.0
"""How long after the last round whatever matured long ago may take to be claimed."""
ARMED_S = 15.0
"""A fault of a proxy that no request meets for so long is not counted."""
FULL_WORDS = ("No space left", "no room left", "disk full", "disk is full", "disk I/O")
"""One of which a node writes that met a full disk."""
SAMPLE_S = 2.0
DEEPEST_REORG = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of it."""

    rounds: int
    """At least so many, with faults."""
    faults: int
    """At least so many."""
    seed: int
    pause_s: float = 0.8
    """Between two faults, on average."""
    calm_rounds: int = 2
    """At the end, without faults, for everybody to recover in."""
    limit_s: float = 3600.0
    """After which no more faults are tried, however many there were."""


class Soak:
    """Plays a plan on a world."""

    def __init__(self, world: World, parties: list[Party], plan: Plan, ledger: Ledger, observer: Observer) -> None:
        self.world, self.parties, self.plan = world, parties, plan
        self.ledger, self.observer, self.gauges = ledger, observer, Gauges()
        self._random = random.Random(plan.seed)
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._chain_up = True
        self._is_over = False
        """Whether there are no more faults to come."""
        self.stuck: str | None = None
        """How the network failed to come to rest."""
        self._round = 0
        self._sampled = self._said = time.monotonic()
        self.tried: dict[str, int] = {}

    # The loop

    def run(self) -> int:
        """Play it to the end; how many rounds have ended then."""
        following = time.monotonic()
        while not self._is_enough() and not self._is_late():
            self._tick()
            if time.monotonic() >= following and not self._is_ahead():
                following = time.monotonic() + self._random.expovariate(1 / self.plan.pause_s)
                self._strike()
        self._is_over = True
        self._settle()
        return self._round

    def _is_ahead(self) -> bool:
        """Whether this round has had its share, so that faults are spread over all rounds."""
        share = (self._round + 1) * self.plan.faults * SHARE / self.plan.rounds
        return self._round < self.plan.rounds and len(self.ledger) >= share

    def _is_late(self) -> bool:
        return time.monotonic() - self.ledger.began_s > self.plan.limit_s

    def _is_enough(self) -> bool:
        return self._round >= self.plan.rounds and len(self.ledger) >= self.plan.faults

    def _settle(self) -> None:
        """No more faults: everybody up again, guests gone, some calm rounds, everything matured and claimed."""
        self.say("no more faults")
        last, patience_s = self._round + self.plan.calm_rounds, time.monotonic() + CALM_S
        while self._round < last or self._later or not all(self._is_at_rest(p) for p in self.parties):
            self._tick()
            if time.monotonic() > patience_s:
                self.stuck = f"round {self._round} {CALM_S:g} s after the last fault, and {last} was awaited"
                return
        patience_s = time.monotonic() + CLAIMS_S
        while self.find_unclaimed() and time.monotonic() < patience_s:
            self._tick()

    @staticmethod
    def _is_at_rest(party: Party) -> bool:
        return party.health in ((Health.ABSENT,) if party.guest else (Health.UP,))

    def find_unclaimed(self) -> list[str]:
        """What honest parties could have claimed long ago."""
        honest = {p.node.signer.address: p.name for p in self.parties if not p.liar}
        try:
            return find_unclaimed(self.world, honest)
        except ChainUnreachable:
            return ["the chain is away"]

    def _tick(self) -> None:
        time.sleep(0.05)
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()
        for party in self.parties:
            was = party.health
            party.look(self.ledger)
            if party.health == Health.DOWN and was != Health.DOWN:
                self._restart_soon(party)
        if now - self._sampled >= SAMPLE_S:
            self._sampled = now
            self._sample()
            self._follow_rounds()

    def _at(self, pause_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + pause_s, next(self._numbers), action))

    def _sample(self) -> None:
        for party in self.parties:
            # What fills a disk on purpose is not the node's.
            if party.health == Health.UP and not party.is_full and party.node.process is not None:
                self.gauges.take(party.name, party.node.process.pid, party.node.data)

    def _follow_rounds(self) -> None:
        if not self._chain_up:
            return
        try:
            self._round = self.world.contract.current().round
        except CupelError:
            return
        for party in self.parties:
            if party.guest:
                self._see_guest(party)
        if time.monotonic() - self._said > 20:
            self._said = time.monotonic()
            self.say("")

    def say(self, what: str) -> None:
        health = " ".join(f"{p.name}:{p.health}" for p in self.parties if p.health != Health.UP)
        elapsed = time.monotonic() - self.ledger.began_s
        print(f"{elapsed:7.0f} s  round {self._round}  faults {len(self.ledger)}  {health}  {what}", file=sys.stderr)

    # Strikes

    def _strike(self) -> None:
        kind = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.tried[kind] = self.tried.get(kind, 0) + 1
        if kind.startswith("chain"):
            self._strike_chain(kind)
        elif kind in RPC_FAULTS or kind in PEER_FAULTS:
            self._arm(kind)
        elif kind.startswith("block"):
            self._strike_block(kind)
        else:
            self._strike_process(kind)

    def _present(self) -> list[Party]:
        return [p for p in self.parties if p.health not in (Health.ABSENT, Health.LEAVING)]

    def _arm(self, kind: str) -> None:
        party = self._random.choice([p for p in self._present() if not p.liar or kind in RPC_FAULTS])
        proxy = party.rpc if kind in RPC_FAULTS else party.blocks

        def on_hit(_: float) -> None:
            self.ledger.hit(kind, party.name)

        proxy.arm(Armed(kind=kind, on_hit=on_hit, until=time.monotonic() + ARMED_S))

    def _strike_block(self, kind: str) -> None:
        party = self._random.choice([p for p in self._present() if not p.liar])
        files = sorted(party.block_files())
        if not files:
            return
        path = self._random.choice(files)
        spoilt = spoil_block(path, self._random) if kind == "block corrupted" else delete_block(path)
        if spoilt:
            self.ledger.hit(kind, party.name, path.name)

    def _strike_process(self, kind: str) -> None:
        struck = sum(1 for p in self._present() if not p.is_settled)
        rested = [
            p for p in self._present() if p.is_settled and time.monotonic() - p.up_since > REST_S and not p.veteran
        ]
        if kind == "process stopped":
            # A guest that is asked to stop leaves; that has its own time.
            rested = [p for p in rested if not p.guest]
        if kind == "disk full":
            rested = [p for p in rested if p.disk is not None]
        if kind == "network partition":
            rested = [p for p in self._present() if p.is_settled and p.cable is not None]
        if not rested or struck >= MOST_STRUCK:
            return
        party = self._random.choice(rested)
        if kind == "process killed":
            if party.kill(self.ledger):
                self._restart_soon(party)
        elif kind == "process stopped":
            party.node.ask_to_end()
            party.health = Health.STOPPING
            # An operator in a hurry asks twice; then the node ends with the step under way.
            process = party.node.process
            assert process is not None
            self._at(self._random.uniform(0.5, 10.0), process.terminate)
        elif kind == "process paused":
            self._pause(party)
        elif kind == "network partition":
            self._cut_off(party)
        elif kind == "disk full":
            self._fill_disk(party)

    def _restart_soon(self, party: Party) -> None:
        def restart() -> None:
            if party.health != Health.DOWN:
                return
            points = MINER_POINTS if party.role == "miner" else VERIFIER_POINTS
            is_last = self._is_over or party.veteran
            kill_at = None if is_last or self._random.random() < 0.2 else self._random.choice(points)
            party.start(kill_at)

        self._at(self._random.uniform(0.1, 3.0), restart)

    def _pause(self, party: Party) -> None:
        assert party.node.process is not None
        process = party.node.process
        process.send_signal(signal.SIGSTOP)
        party.health = Health.PAUSED
        if process.poll() is None:
            self.ledger.hit("process paused", party.name)

        def resume() -> None:
            process.send_signal(signal.SIGCONT)
            if party.health == Health.PAUSED:
                party.health = Health.UP

        self._at(self._random.uniform(0.5, 5.0), resume)

    def _cut_off(self, party: Party) -> None:
        assert party.cable is not None
        party.cable.pull()
        party.is_cut_off = True
        if not party.cable.is_plugged() and party.node.process is not None and party.node.process.poll() is None:
            self.ledger.hit("network partition", party.name)

        def plug() -> None:
            assert party.cable is not None
            party.cable.plug()
            party.is_cut_off = False

        self._at(self._random.uniform(1.0, 6.0), plug)

    def _fill_disk(self, party: Party) -> None:
        assert party.disk is not None
        party.is_full = True
        before = len(party.node.text())
        is_full = party.disk.fill()

        def free() -> None:
            assert party.disk is not None
            party.disk.free()
            party.is_full = False
            # Only what the node met: that nothing could be written, and it wanted to write.
            fresh = party.node.text()[before:]
            if is_full and any(words in fresh for words in FULL_WORDS):
                self.ledger.hit("disk full", party.name)

        self._at(self._random.uniform(3.0, 8.0), free)

    def _strike_chain(self, kind: str) -> None:
        if not self._chain_up:
            return
        if kind == "chain re-org":
            depth = self._random.randint(1, DEEPEST_REORG)
            try:
                self.observer.reorganise(depth, keep_transactions=self._random.random() < 0.7)
            except Unanswered:
                return
            self.ledger.hit(kind, EVERYBODY, str(depth))
            return
        self._chain_up = False
        if kind == "chain killed":
            self.world.chain.kill()
        else:
            self.world.chain.stop()
        self.ledger.hit(kind, EVERYBODY)

        def start() -> None:
            self.world.chain.start(fund=[])
            self._chain_up = True

        self._at(self._random.uniform(0.1, 2.0), start)

    # Guests

    def _see_guest(self, party: Party) -> None:
        """A guest joins for some rounds, then leaves as an operator would: with its deposit."""
        if party.health == Health.ABSENT:
            if self._is_seated(party) or not self._withdraw(party):
                return
            if self._round >= party.free_round and not self._is_over:
                party.start()
                party.joined_round = -1
        elif party.health == Health.UP and self._is_seated(party):
            if party.joined_round < 0:
                party.joined_round = self._round
                self.ledger.hit("member joined", party.name)
            stay = 1 if party.liar else 3
            if self._round > party.joined_round + stay or self._is_over:
                party.node.ask_to_end()
                party.health = Health.LEAVING
                party.free_round = self._round + (10 if party.liar else 4)
                self.ledger.hit("member left", party.name)

    def _is_seated(self, party: Party) -> bool:
        try:
            seated = self.world.contract.participants()
        except CupelError:
            return False
        return any(one.account == party.node.signer.address for one in seated)

    def _withdraw(self, party: Party) -> bool:
        """Take home what a guest left behind; False while something of it is still locked."""
        address = party.node.signer.address
        try:
            member = self.world.contract.member_of(address)
            if member.deposit == 0:
                return True
            now = self.world.contract.current()
            if now.phase == Phase.WAITING or self.world.client.head().number < member.exit_at:
                return False
            with closing(ChainClient(self.world.chain.url, party.node.signer, poll_seconds=0.1)) as client:
                mine = RunContract(client, self.world.contract.address)
                owed = [e.round for e in mine.claimable(address, 0, now.round) if e.claimable_now]
                if owed:
                    mine.claim(owed)
                mine.withdraw()
                return mine.member_of(address).deposit == 0
        except CupelError:
            return False
