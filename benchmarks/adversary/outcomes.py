"""What came of an attack: who was found, who was convicted by what, and where the rules did not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from adversary.money import Books, Purse, add_up
from cupel.chain.court_events import DisputeRecord, Reason
from cupel.protocol.program import Program
from cupel.protocol.types import Address

HONEST = ("honest miners", "honest verifiers", "prover")


class Verdict(StrEnum):
    """From the worst to the best for who cheats."""

    CONVICTED = "convicted"
    """The chain found a cheater wrong, and slashed it."""
    FINED = "fined"
    """Wei of a cheater's was burned."""
    LEFT_OUT = "left out"
    """Nothing of it counts and nothing is paid for it; no deposit is lost."""
    GOT_THROUGH = "GOT THROUGH"


class Described(Protocol):
    """An attack as an outcome speaks of it."""

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...

    @property
    def is_spite(self) -> bool:
        """Whether all it wants is harm to others."""

    @property
    def pays_tokens(self) -> bool:
        """Whether honest parties are due a reward in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """One thing that was said and is not so."""

    round: int
    what: str
    subject: bytes
    """Unit id, or the root of a proposed merge."""
    fate: str
    """What the contract made of it."""
    got_through: bool
    dispute_subject: bytes | None = None
    """What the court calls it, where that is something else."""

    @property
    def claim(self) -> bytes:
        return self.subject if self.dispute_subject is None else self.dispute_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Conviction:
    """A dispute that the accused lost."""

    dispute: int
    accused: Address
    prover: Address
    """Who was the first to accuse that segment."""
    how: str
    prize_wei: int


def read_convictions(records: Sequence[DisputeRecord], name_value: Mapping[bytes, Sequence[str]]) -> list[Conviction]:
    """Of these disputes, those that convicted; `name_value` has the names of a Program's values by subject."""
    found = []
    for record in records:
        ending = record.ending
        if ending is None or not ending.convicted:
            continue
        how = ending.reason.name.lower()
        if ending.reason == Reason.ELEMENT:
            how = f"element {ending.element} of value {ending.value}, {name_value[record.subject][ending.value]}"
        if record.position.step is not None:
            how += f", in step {record.position.step} of segment {record.segment}"
        found.append(
            Conviction(
                dispute=record.number,
                accused=record.accused,
                prover=ending.finder or record.challenger,
                how=how,
                prize_wei=int(ending.prize_wei),
            )
        )
    return found


def name_values(program: Program) -> list[str]:
    """What each value of a Program's trace is: an input, a constant, or an operation's result."""
    operations = [operation.opcode.name for operation in program.operations]
    inputs = [f"input {name!r}" for name in program.input_names]
    return [*inputs, *["a constant"] * len(program.graph.constants), *operations]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the chain and the nodes say of one attack, once it is over."""

    attack: Described
    chain: str
    lies: tuple[Lie, ...]
    found: tuple[str, ...]
    """By whom, and how."""
    convictions: tuple[Conviction, ...] = ()
    books: Books
    roles: Mapping[str, tuple[Address, ...]]
    """Accounts by role."""
    seconds: float

    def purse(self, role: str) -> Purse:
        return add_up(self.books.accounts[account] for account in self.roles.get(role, ()))

    @property
    def verdict(self) -> Verdict:
        is_fined = self.purse("cheaters").change_wei < 0
        # Who wants to do harm and has nothing from it may be able to, if it costs.
        if any(lie.got_through for lie in self.lies) and not (self.attack.is_spite and is_fined):
            return Verdict.GOT_THROUGH
        if is_fined and any(one.accused in self.roles["cheaters"] for one in self.convictions):
            return Verdict.CONVICTED
        return Verdict.FINED if is_fined else Verdict.LEFT_OUT

    def failures(self) -> list[str]:
        """Where the rules did not hold; empty if they did."""
        found: list[str] = []
        if self.verdict == Verdict.GOT_THROUGH:
            through = [lie for lie in self.lies if lie.got_through]
            found = [f"{lie.what} of round {lie.round} got through: {lie.fate}" for lie in through]
        if not self.lies:
            found.append("nobody cheated")
        if self.books.missing_wei:
            found.append(f"{self.books.missing_wei} wei are nobody's and were not burned")
        if self.purse("cheaters").change_wei > 0:
            found.append(f"the cheaters gained {self.purse('cheaters').change_wei} wei")
        found += [
            f"{role} lost {-self.purse(role).change_wei} wei" for role in HONEST if self.purse(role).change_wei < 0
        ]
        wronged = [one for one in self.convictions if one.accused not in self.roles["cheaters"]]
        found += [f"dispute {one.dispute} convicted an honest party by {one.how}" for one in wronged]
        if self.attack.pays_tokens:
            paid = [role for role in HONEST if self.roles.get(role)]
            found += [f"{role} earned no tokens" for role in paid if not self.purse(role).tokens]
        return found


def promote_provers(
    roles: Mapping[str, tuple[Address, ...]], convictions: Sequence[Conviction]
) -> dict[str, tuple[Address, ...]]:
    """Whoever convicted somebody has a row of its own."""
    provers = {one.prover for one in convictions} - set(roles["cheaters"])
    kept = {role: tuple(a for a in accounts if a not in provers) for role, accounts in roles.items()}
    return {**kept, "prover": tuple(sorted(provers))}
