"""The table: a line for every attack, and below each one's books, with what it was played on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adversary.outcomes import Outcome

ETHER = TOKEN = 10**18
FINDS_SHOWN = 4
HEAD = (
    f"{'attack':<32}{'chain':<10}{'came of it':<13}{'cheaters, ETH':>14}{'tokens':>9}"
    f"{'miners, ETH':>13}{'tokens':>9}{'verifiers, ETH':>16}{'tokens':>9}{'prover, ETH':>13}{'tokens':>9}"
    f"{'burned, ETH':>13}"
)
_BLOCK = re.compile(r"(.+), (\w+) chain: ")


class Table:
    """What came of attacks, by name and chain: those of earlier runs stay until they are played again."""

    def __init__(self, earlier: str = "") -> None:
        """earlier: text of one."""
        self._rows: dict[tuple[str, str], str] = {}
        self._books: dict[tuple[str, str], str] = {}
        rows, *books = earlier.rstrip("\n").split("\n\n")
        for row in rows.splitlines()[1:]:
            self._rows[row[:32].rstrip(), row[32:42].rstrip()] = row
        for one in books:
            named = _BLOCK.match(one)
            assert named, f"no attack's books begin so: {one[:80]!r}"
            self._books[named[1], named[2]] = one

    def add(self, outcome: Outcome, machine: str) -> None:
        key = outcome.attack.name, outcome.chain
        self._rows[key] = summarise(outcome)
        self._books[key] = f"{describe(outcome)}  {machine}"

    def add_broken(self, name: str, chain: str, why: str, machine: str) -> None:
        """One that did not come to its end."""
        self._rows[name, chain] = f"{name:<32}{chain:<10}DID NOT END"
        self._books[name, chain] = f"{name}, {chain} chain: DID NOT END: {why}\n  {machine}"

    def to_text(self, names: Sequence[str], chains: Sequence[str]) -> str:
        """In this order; without what there is not any more."""
        order = [(name, chain) for chain in chains for name in names if (name, chain) in self._rows]
        rows = "".join(f"{self._rows[key]}\n" for key in order)
        return f"{HEAD}\n{rows}\n" + "\n\n".join(self._books[key] for key in order) + "\n"


def summarise(outcome: Outcome) -> str:
    """A line: what came of it, and who lost how much."""
    cells = f"{outcome.attack.name:<32}{outcome.chain:<10}{outcome.verdict:<13}"
    for role, wide in (("cheaters", 14), ("honest miners", 13), ("honest verifiers", 16), ("prover", 13)):
        purse = outcome.purse(role)
        cells += f"{purse.change_wei / ETHER:>+{wide}.3f}{purse.tokens / TOKEN:>9.2f}"
    return f"{cells}{outcome.books.burned_wei / ETHER:>13.3f}"


def describe(outcome: Outcome) -> str:
    """One attack's books, in wei and in the token's smallest unit."""
    attack = outcome.attack
    lines = [
        f"{attack.name}, {outcome.chain} chain: {outcome.verdict} ({outcome.seconds:.0f} s)",
        f"  {attack.what}",
        *(f"  round {lie.round}: {lie.what} 0x{lie.subject.hex()[:16]}: {lie.fate}" for lie in outcome.lies),
        *(f"  {find}" for find in _shorten(outcome.found)),
        *(
            f"  dispute {one.dispute} convicted {one.accused} by {one.how}; prize {one.prize_wei} wei to {one.prover}"
            for one in outcome.convictions
        ),
        f"  {'role':<18}{'wei before':>26}{'wei after':>26}{'gas':>22}{'change but gas':>24}{'tokens':>24}",
    ]
    for role in outcome.roles:
        purse = outcome.purse(role)
        if not outcome.roles[role]:
            continue
        lines.append(
            f"  {role:<18}{purse.before_wei:>26}{purse.after_wei:>26}{purse.gas_wei:>22}"
            f"{purse.change_wei:>+24}{purse.tokens:>24}"
        )
    lines.append(f"  {'burned':<18}{0:>26}{outcome.books.burned_wei:>26}")
    lines += [f"  FAILED: {failure}" for failure in outcome.failures()]
    return "\n".join(lines) + "\n"


def _shorten(found: Sequence[str]) -> list[str]:
    shown = [find if len(find) <= 160 else f"{find[:157]}..." for find in found[:FINDS_SHOWN]]
    return shown + [f"and {len(found) - FINDS_SHOWN} more"] * (len(found) > FINDS_SHOWN)
