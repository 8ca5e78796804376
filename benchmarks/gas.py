#!/usr/bin/env python3
"""Gas of every operation of a round, whole transactions (base fee and calldata included), on py-evm.

    python benchmarks/gas.py             print the table
    python benchmarks/gas.py --write     and write contracts/gas-snapshot.json

Two rounds of 3 miners with 2 units each and 3 verifiers, of which the second is measured: what a running network pays.
And one round as large as a run can have it, 64 miners, 64 verifiers, 64 units, 8 verifiers a unit: no transaction comes
near the limit of 2^24 gas.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from contract_world import ETH, MERGE, OPEN, SEAL, TRAIN, Account, Work, World, make_world, spoil

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = ROOT / "contracts" / "gas-snapshot.json"
TRANSACTION_LIMIT = 1 << 24
MEASURED = ("Run", "RunLens", "PrevrandaoBeacon", "ScriptedBeacon")


def measure_demo() -> dict[str, int]:
    """Gas by operation in the second round of a small network."""
    world = make_world(minMiners=3, maturityBlocks=1, segments=6, segmentsPerVerifier=2, juryTarget=3)
    miners, verifiers = world.accounts[:3], world.accounts[3:6]
    world.seat(miners, verifiers, units=2)
    result = {
        **{f"deploy {name}": _deploy_gas(name) for name in ("PrevrandaoBeacon", "RunLens")},
        "deploy RunRules": world.gas_of["deploy RunRules"][0],
        "deploy Run": world.gas_of["deploy Run"][0],
        "joinMiner, first time": world.gas_of["joinMiner"][1],
        "stake, first time": world.gas_of["stake"][1],
    }
    _play_openings_first(world, miners, verifiers)
    world.gas_of.clear()

    result["advance: seed"] = _advance_to(world, TRAIN)
    works = world.play_commits(miners)
    commits = world.gas_of["commit"]
    result["commit, a miner's first unit of a round"] = commits[0]
    result["commit, further unit"] = commits[1]
    result["advance: draw of 6 units"] = _advance_to(world, SEAL)
    alone = world.fork()
    alone.seal(verifiers[0], dict(list(works.items())[:1]))
    result["seal, a single unit"] = max(alone.gas_of["seal"])
    for verifier in verifiers:
        world.seal(verifier, works)
    result["seal, 6 units"] = max(world.gas_of["seal"])
    result["advance: end of seal"] = _advance_to(world, OPEN)
    alone = world.fork()
    alone.reveal(verifiers[0], dict(list(works.items())[:1]))
    result["reveal, a single unit of 2 segments, before the opening"] = max(alone.gas_of["reveal"])
    alone.play_opens(miners, works)
    result["open, of 6 segments those drawn by 3 verifiers, before their reveals"] = max(alone.gas_of["open"])
    alone.gas_of.clear()
    alone.reveal(verifiers[1], dict(list(works.items())[:1]))
    result["reveal, a single unit of 2 segments, after the opening"] = max(alone.gas_of["reveal"])
    for verifier in verifiers:
        world.reveal(verifier, works)
    result["reveal, 6 units of 2 segments, before the opening"] = max(world.gas_of["reveal"])
    world.play_opens(miners, works)
    result["open, of 6 segments those drawn by 3 verifiers, after their reveals"] = max(world.gas_of["open"])
    result["advance: judgement of 6 units"] = _advance_to(world, MERGE)
    world.play_merge(miners[0], verifiers)
    result["proposeMerge"] = world.gas_of["proposeMerge"][0]
    result["acknowledge"] = max(world.gas_of["acknowledge"])
    before = world.round
    world.mine_to(world.ask("current")["until"] + 1)
    result["advance: end, next round frozen"] = world.advance().gas
    assert world.round == before + 1
    world.mine(2)
    world.claim(miners[0], 0, 1)
    result["claim, 2 rounds, first tokens"] = world.gas_of["claim"][0]
    world.claim(miners[1], 0)
    world.claim(miners[1], 1)
    result["claim, 1 round"] = world.gas_of["claim"][-1]
    result["retire"] = world.send(miners[2], "retire").gas
    return result


def _play_openings_first(world: World, miners: list[Account], verifiers: list[Account]) -> None:
    """A round that writes every word a later one writes over, those for answers opened before reveals too."""
    world.pass_to(TRAIN)
    works = world.play_commits(miners)
    world.pass_to(SEAL)
    for verifier in verifiers:
        world.seal(verifier, works)
    world.pass_to(OPEN)
    world.play_opens(miners, works)
    for verifier in verifiers:
        world.reveal(verifier, works)
    world.pass_to(MERGE)
    world.play_merge(miners[0], verifiers)
    world.pass_phase()


def measure_limits() -> dict[str, int]:
    """Gas of the heaviest transactions of the largest round a run allows."""
    world = make_world(
        accounts=128,
        maxMiners=64,
        minMiners=64,
        maxVerifiers=64,
        minVerifiers=64,
        maxUnits=64,
        maxUnitsPerMiner=32,
        verifiersPerUnit=8,
        quorum=5,
        juryTarget=64,
        trainBlocks=400,
        sealBlocks=400,
        openBlocks=400,
    )
    miners, verifiers = world.accounts[:64], world.accounts[64:]
    for miner in miners:
        world.send(miner, "joinMiner", 32, "", value=40 * ETH)
    for verifier in verifiers:
        world.send(verifier, "stake", "", value=20 * ETH)
    result = {"freeze of 64 miners and 64 verifiers (the last stake)": world.gas_of["stake"][-1]}
    result["seed: lot of 64 among 2,048 units"] = _advance_to(world, TRAIN)
    works: dict[bytes, Work] = world.play_commits(miners)
    assert len(works) == 64
    result["draw of 64 units x 8 verifiers, jury of 64"] = _advance_to(world, SEAL)
    asleep = world.fork()
    asleep.mine_to(asleep.ask("current")["until"] + 1)
    result["end of seal, 512 missing seals fined"] = asleep.advance().gas
    result["second draw, of 512 verifiers in their place"] = _advance_to(asleep, SEAL)
    drawn = [one for one in verifiers if world.ask("assignmentsOf", world.round, one.address)]
    for verifier in drawn:
        world.seal(verifier, {unit: spoil(work, 0) for unit, work in works.items()})
    world.pass_to(OPEN)

    silent = world.fork()
    silent.mine_to(silent.ask("current")["until"] + 1)
    result["judgement, everybody burned, and the next freeze"] = silent.advance().gas

    for verifier in drawn:
        world.reveal(verifier, {unit: spoil(work, 0) for unit, work in works.items()})
    world.play_opens(miners, works)
    world.mine_to(world.ask("current")["until"] + 1)
    result["judgement, everybody held, and the next freeze"] = world.advance().gas
    return result


def _deploy_gas(name: str) -> int:
    world = make_world()
    world.deploy(name)
    return world.gas_of[f"deploy {name}"][0]


def _advance_to(world: World, phase: int) -> int:
    """Gas of the transaction that enters `phase`."""
    gas = 0
    for _ in range(12):
        if world.phase == phase:
            return gas
        current = world.ask("current")
        if not current["due"]:
            world.mine_to(max(world.height + 1, current["until"] + 1))
        gas = world.advance().gas
    raise AssertionError(f"phase {phase} is not reached: {world.ask('current')}")


def source_hash() -> str:
    """Of the contracts measured: a snapshot of others is stale."""
    artifacts = (json.loads((ROOT / "chain" / "artifacts" / f"{name}.json").read_text()) for name in MEASURED)
    return hashlib.sha256("".join(artifact["sourceHash"] for artifact in artifacts).encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace contracts/gas-snapshot.json")
    write = parser.parse_args().write
    tables = {"demo": measure_demo(), "limits": measure_limits()}
    for title, table in tables.items():
        print(title)
        for operation, gas in table.items():
            print(f"  {operation:70} {gas:12,}")
    if write:
        SNAPSHOT.write_text(json.dumps({"sourceHash": source_hash(), **tables}, indent=1) + "\n")
    heaviest = max(gas for table in tables.values() for gas in table.values())
    print(f"heaviest {heaviest:,} of {TRANSACTION_LIMIT:,}")
    return 0 if heaviest < TRANSACTION_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
