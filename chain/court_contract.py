"""A court as typed methods, and its disputes followed block by block (docs/design/court.md).

Every function of the shipped ABI is here, the moves as `move`, which takes what `protocol/disputes/game.py` computes;
a test compares. What is refused raises `ContractReverted` with the name of the error: the court's, the clerk's or the
evaluator's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

from eth_utils.address import to_canonical_address

from cupel.chain.abi import Call, ContractAbi, load_abi
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import Clocks
from cupel.chain.court_events import ENDINGS, CourtEvent, DisputeRecord, Turn, collect_disputes, read_court_event
from cupel.chain.heads import HeadTracker
from cupel.chain.values import Log, Receipt
from cupel.protocol.errors import Unavailable
from cupel.protocol.proceedings import Move, Stage, announcement
from cupel.protocol.types import Address, Height, Root, Wei

At = Height | int | str
"""A height, or `latest`, `pending`, `finalized`."""
ANNOUNCEMENT_BLOCKS = 256
"""Blocks for which an announcement stands."""
_CONSULTED = ("Clerk", "Evaluator", "FunctionEvaluator", "TermsEvaluator")
_TRIES = 3


@cache
def load_court_abi() -> ContractAbi:
    """The court's, with the errors of those it asks: it passes them on."""
    court = load_abi("Court")
    asked = [entry for name in _CONSULTED for entry in load_abi(name).entries if entry["type"] == "error"]
    return ContractAbi("Court", (*court.entries, *asked), court.bytecode)


def is_move(function: str) -> bool:
    """Whether a function of the court is a move in a dispute, by either side."""
    declared = load_abi("Court").functions.get(function)
    if declared is None or function in ("timeout", "close"):
        return False
    first = declared.inputs[:1]
    return declared.mutability == "nonpayable" and [one["name"] for one in first] == ["dispute"]


class CourtContract:
    """One court at an address. Raises MalformedInput on first use if no court is there."""

    def __init__(self, client: ChainClient, address: Address) -> None:
        self._client, self.address = client, address

    def _ask(self, at: At, function: str, *arguments: Any) -> Any:
        values = self._client.call(self.bind(function, *arguments), block=at)
        return values[0] if len(values) == 1 else values

    def bind(self, function: str, *arguments: Any) -> Call:
        """A call for `ChainClient.submit`; arguments in eth-abi's form."""
        return load_court_abi().bind(self.address, function, *arguments)

    def bind_move(self, dispute: int, move: Move) -> Call:
        """A move of either side. Raises ValueError for what is none."""
        if not is_move(move.function):
            raise ValueError(f"{move.function!r} is no move in a dispute")
        return self.bind(move.function, dispute, *move.arguments)

    def _send(self, function: str, *arguments: Any, value_wei: int = 0, duty: str | None = None) -> Receipt:
        return self._client.send(self.bind(function, *arguments), value_wei=value_wei, duty=duty)

    # Accusing

    def announce(self, announced: Root, *, duty: str | None = None) -> Receipt:
        """Say that an accusation will come, by its hash (`compute_announcement`)."""
        return self._send("announce", announced, duty=duty)

    def compute_announcement(
        self, run: Address, subject: bytes, segment: int, challenger: Address, salt: bytes
    ) -> Root:
        """What `announce` takes for an accusation by `challenger`."""
        court, run_, sender = (to_canonical_address(one) for one in (self.address, run, challenger))
        return announcement(self._client.chain_id, court, run_, subject, segment, sender, salt)

    def accuse(
        self, run: Address, subject: bytes, segment: int, salt: bytes, *, bond_wei: int, duty: str | None = None
    ) -> Receipt:
        """Accuse whoever posted `subject`; announced 1 to 256 blocks before. What is above the bond is credited."""
        return self._send("accuse", run, subject, segment, salt, value_wei=bond_wei, duty=duty)

    # Playing

    def move(self, dispute: int, move: Move, *, duty: str | None = None) -> Receipt:
        """Make a move in a dispute."""
        return self._client.send(self.bind_move(dispute, move), duty=duty)

    def timeout(self, dispute: int, *, duty: str | None = None) -> Receipt:
        """End a dispute whose side to move has no time left."""
        return self._send("timeout", dispute, duty=duty)

    def close(self, dispute: int, *, duty: str | None = None) -> Receipt:
        """End a dispute about what another one convicted; its bond is credited to its challenger."""
        return self._send("close", dispute, duty=duty)

    def collect(self, *, duty: str | None = None) -> Receipt:
        """Take what the caller is credited with."""
        return self._send("collect", duty=duty)

    def burn(self) -> Receipt:
        """Send away what was burned."""
        return self._send("burn")

    # Questions

    def bond_for(self, run: Address, accused: Address, *, at: At = "latest") -> Wei:
        """What accusing somebody takes in the block that is asked about."""
        return Wei(self._ask(at, "bondFor", run, accused))

    def turn_of(self, dispute: int, *, at: At = "latest") -> Turn:
        """Whose turn it is; of a dispute that has ended, nobody's."""
        stage, mover, until = self._ask(at, "turnOf", dispute)
        return Turn(stage=Stage(stage), mover=Address(mover), until=Height(until))

    def is_convicted(self, run: Address, subject: bytes, *, at: At = "latest") -> bool:
        return bool(self._ask(at, "isConvicted", run, subject))

    def credit(self, account: Address, *, at: At = "latest") -> Wei:
        """What an account can collect."""
        return Wei(self._ask(at, "credit", account))

    def burn_owed(self, *, at: At = "latest") -> Wei:
        return Wei(self._ask(at, "burnOwed"))

    def disputes_count(self, *, at: At = "latest") -> int:
        """Disputes so far; numbered from 1."""
        return int(self._ask(at, "disputesCount"))

    def longest_dispute(self, *, at: At = "latest") -> int:
        """Blocks within which every dispute has ended."""
        return int(self._ask(at, "longestDispute"))

    def clocks(self, *, at: At = "latest") -> Clocks:
        names = ("CLOCK_BLOCKS", "GRACE_BLOCKS", "MINIMUM_BOND", "DEFENCE_GAS")
        clock, grace, bond, gas = (int(self._ask(at, name)) for name in names)
        return Clocks(clock_blocks=clock, grace_blocks=grace, minimum_bond_wei=Wei(bond), defence_gas=gas)

    def evaluator(self, *, at: At = "latest") -> Address:
        """The contract that recomputes elements."""
        return Address(self._ask(at, "EVALUATOR"))

    def clerk(self, *, at: At = "latest") -> Address:
        """The contract that reads what is shown."""
        return Address(self._ask(at, "CLERK"))

    # Events

    def read_events(self, logs: Sequence[Log] | Any) -> list[CourtEvent]:
        """The court's own events among these logs, as of a receipt."""
        own = (read_court_event(log) for log in logs if log.address == self.address)
        return [event for event in own if event is not None]

    def get_events(
        self,
        *,
        first_block: Height | int,
        last_block: Height | int | None = None,
        kinds: Collection[str] | None = None,
        about: Collection[bytes] | None = None,
        run: Address | None = None,
    ) -> list[CourtEvent]:
        """Events in order; `last_block` None: up to the head.

        kinds   their names; None: all
        about   first indexed argument, 32 bytes each: a dispute's number, an announcement; None: any
        run     second indexed argument of `Accused` and `Convicted`; None: any
        """
        topics: list[Sequence[bytes] | None] = [None, None, None]
        if kinds is not None:
            topics[0] = [load_abi("Court").events[name].topic for name in sorted(kinds)]
        if about is not None:
            topics[1] = sorted(about)
        if run is not None:
            topics[2] = [to_canonical_address(run).rjust(32, b"\0")]
        while topics and topics[-1] is None:
            topics.pop()
        logs = self._client.get_logs(
            address=self.address, topics=topics, first_block=first_block, last_block=last_block
        )
        return self.read_events(logs)

    def get_dispute(self, dispute: int, *, first_block: Height | int = 0) -> DisputeRecord:
        """One dispute from all its events, none of which is before `first_block`. Raises Unavailable: there is none."""
        events = self.get_events(first_block=first_block, about=[topic_of(dispute)])
        record = collect_disputes(event for event in events if event.dispute == dispute).get(dispute)
        if record is None:
            raise Unavailable(f"the court at {self.address} has no dispute {dispute} from block {first_block} on")
        return record

    def list_disputes(self, run: Address, *, first_block: Height | int = 0) -> list[CourtEvent]:
        """Accusations in a run, oldest first."""
        return self.get_events(first_block=first_block, kinds=["Accused"], run=run)


def topic_of(dispute: int) -> bytes:
    """A dispute's number as events have it."""
    return dispute.to_bytes(32, "big")


class CourtFollower:
    """The disputes of one run that somebody cares about, as of the newest block. Not for several threads.

    Events are read once each. Those of blocks that a re-org took back are forgotten, and what took their place is read:
    `disputes` says at any time what the chain says.
    """

    def __init__(
        self,
        client: ChainClient,
        court: CourtContract,
        run: Address,
        *,
        first_block: Height | int,
        concerns: Callable[[CourtEvent], bool] = lambda accused: True,
    ) -> None:
        """first_block: nothing of interest is earlier. concerns: asked of `Accused`; of other disputes only turns and
        endings are read."""
        self._client, self._court, self._run, self._concerns = client, court, run, concerns
        self._first = int(first_block)
        self._heads = HeadTracker(client)
        self._events: list[CourtEvent] = []
        self._through = self._first - 1
        self.height = Height(0)
        self.reorgs = 0
        """Looks at which blocks were gone."""
        self.disputes: dict[int, DisputeRecord] = {}
        self.others: dict[int, DisputeRecord] = {}
        """Disputes of the run that are not asked for: without the moves, so that their `position` means nothing."""
        self.convicted: dict[bytes, Height] = {}
        """Subjects of the run, whichever dispute brought it, and since when."""
        self.announced: dict[bytes, Height] = {}
        """When each of the announcements asked about was made last."""
        self._hashes: frozenset[bytes] = frozenset()

    def watch_announcements(self, hashes: Collection[bytes]) -> None:
        """From now on look for these, which is to be asked for before they are made, or before the first `look`."""
        self._hashes = frozenset(hashes)

    def look(self) -> bool:
        """Bring everything up to date; whether the chain has changed since. Raises Unavailable, ChainUnreachable."""
        for _ in range(_TRIES):
            look = self._heads.look()
            self.reorgs += look.reorg_depth > 0
            if look.is_deeper:
                self._forget_after(self._first - 1)
            elif look.reorg_depth:
                self._forget_after(self.height - look.reorg_depth)
            is_new = look.reorg_depth > 0 or look.head.number != self.height or self._through < look.head.number
            if not is_new:
                return False
            found = self._read(self._through + 1, look.head.number)
            # The answers may be of other blocks than the one looked at, if it was replaced meanwhile.
            still = self._client.get_block(look.head.number)
            if still is not None and still.hash == look.head.hash:
                self._events = sorted([*self._events, *found], key=lambda one: (one.block_number, one.position))
                self._through, self.height = int(look.head.number), look.head.number
                self._conclude()
                return True
            self.height = look.head.number
        raise Unavailable("the chain's newest blocks keep changing; looking again")

    def _forget_after(self, height: int) -> None:
        self._through = min(self._through, max(height, self._first - 1))
        self._events = [event for event in self._events if event.block_number <= self._through]

    def _read(self, first: int, last: int) -> list[CourtEvent]:
        if first > last:
            return []
        kinds = ("Accused", "Convicted")
        found = self._court.get_events(first_block=first, last_block=last, kinds=kinds, run=self._run)
        ended = {event.dispute for event in self._events if event.name in ENDINGS}
        about, others = set(self._hashes), set[bytes]()
        for event in (*self._events, *found):
            if event.name == "Accused" and event.dispute is not None and event.dispute not in ended:
                (about if self._concerns(event) else others).add(topic_of(event.dispute))
        if about:
            found += self._court.get_events(first_block=first, last_block=last, about=about)
        if others:
            few = ("Turn", *ENDINGS)
            found += self._court.get_events(first_block=first, last_block=last, kinds=few, about=others)
        return list({(event.block_number, event.position): event for event in found}.values())

    def _conclude(self) -> None:
        cared, others = set[int | None](), set[int | None]()
        for event in self._events:
            if event.name == "Accused":
                (cared if self._concerns(event) else others).add(event.dispute)
        self.disputes = collect_disputes(event for event in self._events if event.dispute in cared)
        self.others = collect_disputes(event for event in self._events if event.dispute in others)
        convicted = [event for event in self._events if event.name == "Convicted"]
        self.convicted = {event.arguments["subject"]: event.block_number for event in reversed(convicted)}
        announced = [event for event in self._events if event.name == "Announced"]
        self.announced = {event.arguments["announcement"]: event.block_number for event in announced}
