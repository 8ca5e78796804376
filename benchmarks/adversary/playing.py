"""One attack from beginning to end: a run of its own, honest nodes and cheaters as processes, then the books."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from network_world import World, key, open_world
from node_world.chains import FUNDS_WEI

from adversary.attacks import USUAL, Attack
from adversary.money import read_books
from adversary.outcomes import Lie, Outcome, promote_provers
from cupel.node.records import VerdictRecord
from cupel.protocol.types import Address

HERE = Path(__file__).resolve().parent.parent
PATIENCE_S = 240.0
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
        **changes,
    ) as world:
        for name in miners:
            world.add("miner", name)
        for name in verifiers:
            world.add("verifier", name, "--watch", "all")
        for name, module in attack.cheaters.items():
            cheater = world.add(f"adversary.cheaters.{module}", name, *attack.arguments)
            cheater.environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "tests")])
        for node in world.nodes:
            node.start()
        follow(world, attack, chain, frozenset(roles["cheaters"]))
        stop_all(world)
        lies = attack.lies(world, frozenset(roles["cheaters"]), attack.rounds)
        return Outcome(
            attack=attack,
            chain=chain,
            lies=tuple(lies),
            found=tuple(describe_finds(world, lies)),
            books=read_books(world, dict.fromkeys(map(address, names), FUNDS_WEI)),
            roles=promote_provers(roles, ()),
            seconds=time.monotonic() - began,
        )


def follow(world: World, attack: Attack, chain: str, cheaters: frozenset[Address]) -> None:
    """Until the attack is over."""
    if attack.strike is not None:
        attack.strike(world, chain)
    world.wait_for(
        f"end of {attack.rounds} rounds", lambda: world.contract.current().round >= attack.rounds, PATIENCE_S
    )
    if attack.is_over is not None:
        is_over = attack.is_over
        world.wait_for("the rest of it", lambda: is_over(world, cheaters), PATIENCE_S)


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
