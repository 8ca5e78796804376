"""One cheat in a dispute: a court and a docket on a chain, each party a process, and the books at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chain_process import ETH, KEYS
from chain_worlds import Chain, open_chain
from court_world import MERGE, SEED, UNIT, docket_abi
from line_server import LineServer
from node_world.reorgs import ask, undo

from adversary.attacks import REORG_DEPTHS
from adversary.money import FIRE, Books, Purse, read_gas
from adversary.outcomes import Conviction, Lie, Outcome, promote_provers, read_convictions
from cupel.chain.client import ChainClient, Outbox
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_deployment import Clocks, deploy_court
from cupel.chain.court_events import DisputeRecord
from cupel.protocol.types import Address, Wei

ROOT = Path(__file__).resolve().parent.parent.parent.parent
ACCUSED, CHALLENGER, DEPLOYER = KEYS[0], KEYS[1], KEYS[4]
FUNDS_WEI, BOND_WEI, WINDOW = 1000 * ETH, 4 * ETH, 4000
PATIENCE_S = 200.0
SETTLING_BLOCKS = 3
MERGE_PART = "FalseMerge"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeAttack:
    """One way to cheat before the court."""

    name: str
    what: str
    accused: str = "Sides"
    """Class in `sides.py` of either party; `Sides` is honest."""
    challenger: str = "Sides"
    segments: Sequence[int] = (0,)
    """Accused ones."""
    clock_blocks: int = 150
    grace_blocks: int = 15
    reorgs: bool = False
    """Whether 1 to 5 blocks are undone after each move."""
    is_spite: bool = False
    pays_tokens: bool = False

    @property
    def subject(self) -> bytes:
        return MERGE if self.accused == MERGE_PART else UNIT


DISPUTE_ATTACKS = (
    DisputeAttack(
        name="wrong trace, both ends match",
        what="the poster of a false weight posts a trace that begins and ends as it says; one operation in it is wrong",
        accused="WrongTrace",
    ),
    DisputeAttack(
        name="false end of a right trace",
        what="the poster of a false weight posts the right trace, which does not end as it says",
        accused="FalseEnd",
    ),
    DisputeAttack(
        name="lying opening in a dispute",
        what="the poster of a wrong trace shows the right bytes where its trace holds others",
        accused="LyingOpening",
        clock_blocks=60,
        grace_blocks=10,
    ),
    DisputeAttack(
        name="late moves in a dispute",
        what="the poster of a wrong trace answers when its time is all but out, each time",
        accused="LateMoves",
        clock_blocks=60,
        grace_blocks=15,
    ),
    DisputeAttack(
        name="wrong merge before the court",
        what="a merge with one bit of one weight another, and a trace that ends so",
        accused=MERGE_PART,
    ),
    DisputeAttack(
        name="griefing challenges",
        what="a challenger accuses both segments of a right unit and goes on to the last move",
        challenger="Griefing",
        segments=(0, 1),
        is_spite=True,
    ),
    DisputeAttack(
        name="re-orgs in a dispute",
        what="a wrong trace, while 1 to 5 blocks are undone after each move, their transactions kept or lost",
        accused="WrongTrace",
        reorgs=True,
    ),
)


def find_dispute_attack(name: str) -> DisputeAttack | None:
    return next((attack for attack in DISPUTE_ATTACKS if attack.name == name), None)


class Parties(LineServer):
    """The server of parties (server.py), entered: computed once, used for every attack."""

    def __init__(self) -> None:
        paths = [str(ROOT / "benchmarks"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        super().__init__([sys.executable, "-m", "adversary.disputes.server"], environment)

    @cached_property
    def offered(self) -> Mapping[str, Any]:
        """What there is to post, once it is computed."""
        offered: Mapping[str, Any] = json.loads(self.read())
        return offered

    def ask(self, **request: Any) -> str:
        assert self.offered  # it says that first
        return super().ask(**request)

    def start(self, **request: Any) -> None:
        """One party, in a process of its own."""
        self.ask(do="start", **request)

    def check(self, folder: Path) -> None:
        """AssertionError with its last words if one ended by itself."""
        for name in json.loads(self.ask(do="look")):
            raise AssertionError(f"{name} ended: {Path(folder, f'{name}.log').read_text()[-2000:]}")

    def stop_all(self) -> None:
        """Kill them; when this returns they are gone."""
        self.ask(do="stop")


@dataclass(frozen=True, kw_only=True)
class Courtroom:
    """A court and a docket on a chain, with the accused's claim posted."""

    chain: Chain
    client: ChainClient
    court: CourtContract
    docket: Address
    block: int
    """Nothing is earlier."""
    attack: DisputeAttack
    parties: Parties
    folder: Path

    @property
    def disputes(self) -> list[DisputeRecord]:
        listed = self.court.list_disputes(self.docket)
        return [self.court.get_dispute(event.dispute) for event in listed if event.dispute is not None]

    def ask_docket(self, function: str, *arguments: Any) -> Any:
        return self.client.call(docket_abi().bind(self.docket, function, *arguments))[0]

    def wait_for(self, what: str, look: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not look():
            self.parties.check(self.folder)
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {PATIENCE_S:g} s: {[d.events[-1] for d in self.disputes]}")
            time.sleep(0.1)


@contextmanager
def open_courtroom(
    attack: DisputeAttack, kind: str, folder: Path, parties: Parties, block_time_s: float
) -> Iterator[Courtroom]:
    offered = parties.offered
    with open_chain(kind, folder, block_time_s=block_time_s) as chain:
        deployer = ChainClient(chain.url, DEPLOYER, poll_seconds=0.02, outbox=Outbox())
        clocks = Clocks(
            clock_blocks=attack.clock_blocks,
            grace_blocks=attack.grace_blocks,
            minimum_bond_wei=Wei(ETH // 10),
            defence_gas=10_000_000,
        )
        deployed = deploy_court(deployer, clocks)
        rules = tuple(bytes.fromhex(one) if isinstance(one, str) else one for one in offered["rules"])
        docket, _ = deployer.deploy(docket_abi().bind_deployment(deployed.court, rules))
        post(attack, chain, docket, offered)
        court = CourtContract(deployer, deployed.court)
        yield Courtroom(
            chain=chain, client=deployer, court=court, docket=docket, block=int(deployed.block), attack=attack,
            parties=parties, folder=folder,
        )  # fmt: skip
        deployer.close()


def post(attack: DisputeAttack, chain: Chain, docket: Address, offered: Mapping[str, Any]) -> None:
    """The claim, by the accused."""
    root = bytes.fromhex(offered["roots"][attack.accused])
    if attack.subject == MERGE:
        inputs = [bytes.fromhex(one) for one in offered["inputs"]]
        call = docket_abi().bind(docket, "postMerge", MERGE, root, inputs, WINDOW)
    else:
        call = docket_abi().bind(docket, "postUnit", UNIT, root, SEED, WINDOW)
    client = ChainClient(chain.url, ACCUSED, poll_seconds=0.02, outbox=Outbox())
    client.send(call, value_wei=BOND_WEI)
    client.wait_for_block(client.head().number + 6)  # what is posted stays, whatever is undone later
    client.close()


def play(attack: DisputeAttack, chain: str, folder: Path, parties: Parties, *, block_time_s: float = 0.1) -> Outcome:
    """Play it on a fresh chain of this kind, `embedded` or `anvil`, in an empty folder. AssertionError if it hangs."""
    began = time.monotonic()
    with open_courtroom(attack, chain, folder, parties, block_time_s) as room:
        where = {
            "folder": str(folder), "url": room.chain.url, "court": room.court.address, "docket": room.docket,
            "block": room.block,
        }  # fmt: skip
        accuses = [[attack.subject.hex(), segment] for segment in attack.segments]
        parties.start(name="accused", part=attack.accused, key=KEYS.index(ACCUSED), accuses=[], **where)
        parties.start(name="challenger", part=attack.challenger, key=KEYS.index(CHALLENGER), accuses=accuses, **where)
        if attack.reorgs:
            undo_moves(room, chain)
        room.wait_for("end of the disputes", lambda: has_ended(room))
        room.wait_for("payment", lambda: not any(room.court.credit(k.address) for k in (ACCUSED, CHALLENGER)))
        parties.stop_all()
        last = room.client.head().number + SETTLING_BLOCKS
        room.wait_for("the last transactions", lambda: room.client.head().number >= last)
        return tell(attack, chain, room, parties.offered["operations"], time.monotonic() - began)


def has_ended(room: Courtroom) -> bool:
    disputes = room.disputes
    return len(disputes) == len(room.attack.segments) and all(one.ending is not None for one in disputes)


def undo_moves(room: Courtroom, chain: str) -> None:
    """After each new move, 1 to 5 blocks deep in turn."""

    def moves() -> int:
        return sum(one.moves for one in room.disputes)

    seen = 0
    for number, depth in enumerate(REORG_DEPTHS):
        room.wait_for("another move", lambda seen=seen: moves() > seen or has_ended(room))
        seen = moves()
        undo(room, chain, depth, keep_transactions=number % 2 == 0)


def tell(
    attack: DisputeAttack, chain: str, room: Courtroom, operations: Mapping[str, Sequence[str]], seconds: float
) -> Outcome:
    disputes = room.disputes
    convictions = read_convictions(disputes, {UNIT: operations["step"], MERGE: operations["merge"]})
    is_challengers = attack.challenger != "Sides"
    roles = {
        "cheaters": ((CHALLENGER if is_challengers else ACCUSED).address,),
        "honest miners": (ACCUSED.address,) if is_challengers else (),
        "honest verifiers": () if is_challengers else (CHALLENGER.address,),
    }
    return Outcome(
        attack=attack,
        chain=chain,
        lies=tuple(find_lies(attack, disputes, convictions)),
        found=tuple(describe_dispute(one) for one in disputes),
        convictions=tuple(convictions),
        books=read_books(room, bool(convictions)),
        roles=promote_provers(roles, convictions),
        seconds=seconds,
    )


def find_lies(
    attack: DisputeAttack, disputes: Sequence[DisputeRecord], convictions: Sequence[Conviction]
) -> Iterator[Lie]:
    """The claim, or each accusation of a right one."""
    if attack.challenger == "Sides":
        what = "merge" if attack.subject == MERGE else "unit"
        fate = "convicted" if convictions else "NOT CONVICTED"
        yield Lie(round=0, what=what, subject=attack.subject, fate=fate, got_through=not convictions)
        return
    for one in disputes:
        assert one.ending is not None
        fate = "CONVICTED" if one.ending.convicted else "dismissed"
        yield Lie(
            round=0, what=f"accusation {one.number}", subject=one.subject, fate=fate, got_through=one.ending.convicted
        )


def describe_dispute(record: DisputeRecord) -> str:
    assert record.ending is not None
    moves = " ".join(event.name for event in record.events if event.name not in ("Turn", "Accused"))
    first, last = record.accusation.block_number, record.ending.block_number
    return f"dispute {record.number}, {last - first} blocks, {record.ending.reason.name.lower()}: {moves}"


def read_books(room: Courtroom, is_convicted: bool) -> Books:
    """Ether on the account, owed by the court, and in the docket; there are no tokens here."""
    gas = read_gas(room)
    purses = {}
    for key in (ACCUSED, CHALLENGER):
        account = key.address
        after = int(ask(room, "eth_getBalance", account, "latest"), 16) + room.court.credit(account)
        if key == ACCUSED and not is_convicted:
            after += room.ask_docket("bondOf", room.attack.subject)
        purses[account] = Purse(before_wei=FUNDS_WEI, after_wei=after, gas_wei=gas.get(account.lower(), 0))
    burned = int(ask(room, "eth_getBalance", FIRE, "latest"), 16)
    burned += room.court.burn_owed() + room.ask_docket("burned")
    return Books(accounts=purses, burned_wei=burned, minted=0)
