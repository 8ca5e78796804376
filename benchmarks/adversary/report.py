"""The table: a line for every attack, and below each one's books."""

from __future__ import annotations

from collections.abc import Sequence

from adversary.outcomes import Outcome

ETHER = TOKEN = 10**18
FINDS_SHOWN = 4


def summarise(outcomes: Sequence[Outcome]) -> str:
    """A line for every attack: what came of it, and who lost how much."""
    head = (
        f"{'attack':<32}{'chain':<10}{'came of it':<13}{'cheaters, ETH':>14}{'tokens':>9}"
        f"{'miners, ETH':>13}{'tokens':>9}{'verifiers, ETH':>16}{'tokens':>9}{'prover, ETH':>13}{'tokens':>9}"
        f"{'burned, ETH':>13}"
    )
    lines = [head]
    for outcome in outcomes:
        cells = f"{outcome.attack.name:<32}{outcome.chain:<10}{outcome.verdict:<13}"
        for role, wide in (("cheaters", 14), ("honest miners", 13), ("honest verifiers", 16), ("prover", 13)):
            purse = outcome.purse(role)
            cells += f"{purse.change_wei / ETHER:>+{wide}.3f}{purse.tokens / TOKEN:>9.2f}"
        lines.append(f"{cells}{outcome.books.burned_wei / ETHER:>13.3f}")
    return "\n".join(lines) + "\n"


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
