"""One attack from beginning to end: a run of its own, honest nodes and cheaters as processes, then the books."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from network_world import World, key, open_world
from node_world.chains import FUNDS_WEI

from adversary.attacks import USUAL, Attack
from adversary.money import list_disputes, open_court, read_books
from adversary.outcomes import Conviction, Lie, Outcome, name_values, promote_provers, read_convictions
from cupel.node.records import VerdictRecord
from cupel.protocol.types import Address

HERE = Path(__file__).resolve().parent.parent
PATIENCE_BLOCKS = 1200
"""How long a part of an attack may take: on a machine with other work to do, longer blocks give everybody more time."""
DEPOSIT_WEI = 40 * 10**18
"""Of a miner: bonds of some rounds. What does for every round until the first is mature is all that anybody has."""
VERIFIERS = frozenset({"late_reveal", "false_dissent", "wrong_merge"})
"""Cheaters that take a verifier's seat."""
SETTLING_BLOCKS = 3


def play(attack: Attack, chain: str, folder: Path, *, block_time_s: float = 0.2) -> Outcome:
    """Play it on a fresh chain of this kind, `embedded` or `anvil`, in an empty folder. AssertionError if it hangs."""
    began = time.monotonic()
    miners = [f"miner-{number + 1}" for number in range(attack.honest_miners)]
    verifiers = [f"verifier-{number + 1}" for number in range(attack.honest_verifiers)]
    names = [*miners, *verifiers, *attack.cheaters]
    roles = {
        "cheaters": addresses(list(attack.cheaters)),
        "honest miners": addresses(miners),
        "honest verifiers": addresses(verifiers),
    }
    changes = {**USUAL, **attack.changes}
    # A round waits until everybody is there.
    changes["min_miners"] = len(names) - changes["min_verifiers"]
    with open_world(
        folder,
        names,
        block_time_s=block_time_s,
        chain=chain,
        chain_arguments=["--allow-reorg"] if chain == "embedded" else [],
        court=attack.clocks,
        **changes,
    ) as world:
        for name in miners:
            world.add("miner", name, "--deposit", str(DEPOSIT_WEI))
        for name in verifiers:
            world.add("verifier", name, "--watch", "all")
        for name, module in attack.cheaters.items():
            deposit = () if module in VERIFIERS else ("--deposit", str(DEPOSIT_WEI))
            cheater = world.add(f"adversary.cheaters.{module}", name, *deposit, *attack.arguments)
            cheater.environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "tests")])
        for node in world.nodes:
            node.start()
        follow(world, attack, chain, frozenset(roles["cheaters"]), PATIENCE_BLOCKS * block_time_s)
        stop_all(world)
        lies = attack.lies(world, frozenset(roles["cheaters"]), attack.rounds)
        convictions = list_convictions(world)
        return Outcome(
            attack=attack,
            chain=chain,
            lies=tuple(lies),
            found=tuple(describe_finds(world, lies)),
            books=read_books(world, dict.fromkeys(map(address, names), FUNDS_WEI)),
            convictions=tuple(convictions),
            roles=promote_provers(roles, convictions),
            seconds=time.monotonic() - began,
        )


def follow(world: World, attack: Attack, chain: str, cheaters: frozenset[Address], patience_s: float) -> None:
    """Until the attack is over. AssertionError: it does not come to its end."""
    if attack.strike is not None:
        attack.strike(world, chain)
    world.wait_for(
        f"end of {attack.rounds} rounds", lambda: world.contract.current().round >= attack.rounds, patience_s
    )
    if attack.is_convicted:
        world.wait_for("convictions", lambda: are_convicted(world, attack, cheaters), patience_s)
    if attack.is_over is not None:
        is_over = attack.is_over
        world.wait_for("the rest of it", lambda: is_over(world, cheaters), patience_s)


def are_convicted(world: World, attack: Attack, cheaters: frozenset[Address]) -> bool:
    """Whether every lie of the rounds that count is, and who proved it has been paid."""
    court = open_court(world)
    lies = attack.lies(world, cheaters, attack.rounds)
    ended = [record for record in list_disputes(world) if record.ending is not None]
    if any(court.credit(record.challenger) for record in ended):
        return False
    convicted = {record.subject for record in ended if record.ending is not None and record.ending.convicted}
    return bool(lies) and all(lie.claim in convicted for lie in lies)


def list_convictions(world: World) -> list[Conviction]:
    records = list_disputes(world)
    step = name_values(world.programs.step)
    names: dict[bytes, list[str]] = {record.subject: step for record in records}
    current = world.contract.current().round
    for round_ in range(current + 1):
        for number in range(len(world.contract.candidates(round_))):
            merged = len(world.contract.merge_set(round_))
            subject = world.contract.subject_of(round_, number)
            names[subject] = name_values(world.programs.merges[merged - 1])
    return read_convictions(records, names)


def stop_all(world: World) -> None:
    """Nobody acts any more, and what was sent is in a block."""
    for node in world.nodes:
        node.kill()
    last = world.client.head().number + SETTLING_BLOCKS
    world.wait_for("the last transactions", lambda: world.client.head().number >= last)


def describe_finds(world: World, lies: Sequence[Lie]) -> list[str]:
    """Who noticed, in which round, and by what."""
    subjects = {lie.subject for lie in lies}
    found = []
    for node in world.nodes:
        records = [r for r in node.history if isinstance(r, VerdictRecord) and r.unit in subjects]
        for record in records:
            if record.verdict != "attests":
                how = "drawn" if record.drawn else "watching"
                found.append(f"round {record.round}, {node.name} ({how}): {record.verdict}: {record.reason}")
        for refusal in [*node.events("refused"), *node.events("second claim refused")]:
            if node.program.startswith("adversary."):
                found.append(f"the contract refused {node.name}: {refusal['reason']}")
    return list(dict.fromkeys(found))


def address(name: str) -> Address:
    return key(name).address


def addresses(names: Sequence[str]) -> tuple[Address, ...]:
    return tuple(address(name) for name in names)
